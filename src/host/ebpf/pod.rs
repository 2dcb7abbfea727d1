//! What one network namespace has: its policy, its own program, and the control group of its processes.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mesh_init_abi::{Address, AddressKey, Clause, CounterKey, Namespace, Surprise, SurpriseKey};

use super::adopt;
use super::node::{Node, PROGRAMS, arrives, cgroup_of, id};
use crate::backend::ebpf::lower::Lowered;
use crate::error::{Error, Result};
use crate::sys::bpf::cgroup::Cgroup;
use crate::sys::bpf::object::Attach;
use crate::sys::bpf::{link, pins};
use crate::sys::{clock, netns};

/// How long connections that are on their way to the proxy are waited for.
const HANDSHAKES: Duration = Duration::from_secs(1);

/// The link of a namespace's own program, of whichever build.
fn arrival_link(folder: &Path) -> Result<Option<PathBuf>> {
    let is_it = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("arrives"))
    };
    Ok(pins::list(folder)?.into_iter().find(is_it))
}

/// What is to hold in a namespace.
#[derive(Debug)]
pub struct Capture<'a> {
    /// What the maps are to say.
    pub lowered: &'a Lowered,
    /// The addresses of the host's own, but for the loopback ones.
    pub addresses: &'a [Address],
    /// What captured connections of IPv4 are sent from, and of IPv6; none for the loopback address.
    pub sources: (Address, Address),
    /// Where its processes are.
    pub cgroup: &'a Cgroup,
}

/// What is found in a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What holds of it as a whole.
    pub namespace: Namespace,
    /// What the maps say.
    pub lowered: Lowered,
    /// The addresses of the host's own, in no order.
    pub addresses: Vec<Address>,
    /// How often each clause decided, both families together.
    pub counters: Vec<(Clause, u64)>,
    /// How many listeners of the proxy's get what arrives.
    pub listeners: usize,
    /// What is not attached that should be, by name.
    pub detached: Vec<&'static str>,
    /// The number of the control group that the programs are attached to.
    pub cgroup: Option<String>,
    /// What the policy did not foresee, the latest first, and how long ago each was.
    pub surprises: Vec<(SurpriseKey, Surprise, Duration)>,
}

impl Capture<'_> {
    /// What holds of the namespace as a whole.
    fn namespace(&self) -> Namespace {
        Namespace { policy: self.lowered.policy, source_v4: self.sources.0, source_v6: self.sources.1 }
    }
}

impl Found {
    /// Whether `capture` holds, whatever its generation.
    #[must_use]
    pub fn holds(&self, capture: &Capture<'_>) -> bool {
        self.differences(capture).is_empty()
    }

    /// What does not hold of `capture`, as phrases.
    #[must_use]
    pub fn differences(&self, capture: &Capture<'_>) -> Vec<String> {
        let same_generation = capture.lowered.at(self.lowered.policy.generation);
        let (have, want) = (&self.lowered, &same_generation);
        let sources = (self.namespace.source_v4, self.namespace.source_v6);
        let mut differences = Vec::new();
        let mut differs = |what: &str, same: bool| {
            if !same {
                differences.push(what.to_owned());
            }
        };
        differs("the policy", have.policy == want.policy);
        differs("the networks", same(&have.networks, &want.networks));
        differs("the ports", same(&have.ports, &want.ports));
        differs("the users and groups", same(&have.owners, &want.owners));
        differs(
            "the host's addresses",
            same(&self.addresses, capture.addresses) && sources == capture.sources,
        );
        differs("the control group", self.cgroup.as_deref() == Some(&id(capture.cgroup.id)));
        differences.extend(self.detached.iter().map(|name| format!("the program {name}")));
        differences
    }
}

/// Whether both hold the same, in whatever order.
fn same<T: Copy + Ord>(one: &[T], other: &[T]) -> bool {
    let sorted = |of: &[T]| {
        let mut of = of.to_vec();
        of.sort_unstable();
        of
    };
    sorted(one) == sorted(other)
}

impl Node {
    fn pod(&self, netns: u64) -> PathBuf {
        self.root.join("netns").join(id(netns))
    }

    /// Whether anything is kept of the namespace of the cookie.
    pub(super) fn is_there(&self, netns: u64) -> bool {
        pins::is_there(&self.pod(netns))
    }

    /// What holds in the namespace of the cookie; nothing if no policy does.
    ///
    /// # Errors
    /// What is kept cannot be read.
    pub fn read(&self, netns: u64) -> Result<Option<Found>> {
        let maps = &self.maps;
        let Some(namespace) = maps.namespaces.get(&netns)? else { return Ok(None) };
        let generation = namespace.policy.generation;
        let mut lowered =
            Lowered { policy: namespace.policy, networks: Vec::new(), ports: Vec::new(), owners: Vec::new() };
        for key in
            maps.networks.keys()?.into_iter().filter(|key| key.netns == netns && key.generation == generation)
        {
            lowered.networks.extend(maps.networks.get(&key)?.map(|flags| (key, flags)));
        }
        for key in
            maps.ports.keys()?.into_iter().filter(|key| key.netns == netns && key.generation == generation)
        {
            lowered.ports.extend(maps.ports.get(&key)?.map(|flags| (key, flags)));
        }
        for key in
            maps.owners.keys()?.into_iter().filter(|key| key.netns == netns && key.generation == generation)
        {
            lowered.owners.extend(maps.owners.get(&key)?.map(|flags| (key, flags)));
        }
        lowered.sort();
        let addresses = maps.addresses.keys()?.into_iter().filter(|key| key.netns == netns);
        let mut counters = Vec::new();
        for clause in Clause::ALL {
            let key = CounterKey { netns, clause: *clause as u32, reserved: 0 };
            counters.extend(maps.counters.get(&key)?.map(|count| (*clause, count)));
        }
        let listeners = maps.listeners.keys()?.into_iter().filter(|key| key.netns == netns).count();
        let folder = self.pod(netns);
        let cgroup = cgroup_of(&folder);
        let mut detached = match &cgroup {
            Some(cgroup) => self.detached(cgroup)?,
            None => PROGRAMS.map(|(name, _)| name).to_vec(),
        };
        if link::severed(&folder.join(arrives()))? {
            detached.push("mesh_arrives");
        }
        let addresses = addresses.map(|key| key.address).collect();
        let surprises = self.surprises(netns)?;
        Ok(Some(Found { namespace, lowered, addresses, counters, listeners, detached, cgroup, surprises }))
    }

    fn surprises(&self, netns: u64) -> Result<Vec<(SurpriseKey, Surprise, Duration)>> {
        let now = clock::monotonic();
        let mut surprises = Vec::new();
        for key in self.maps.surprises.keys()?.into_iter().filter(|key| key.netns == netns) {
            let Some(surprise) = self.maps.surprises.get(&key)? else { continue };
            surprises.push((key, surprise, now.saturating_sub(Duration::from_nanos(surprise.last))));
        }
        surprises.sort_unstable_by_key(|(key, _, age)| (*age, *key));
        Ok(surprises)
    }

    /// Makes `capture` hold in the calling thread's namespace, whose cookie is `netns`. What was there decides until all
    /// of it is there, and then nothing of it does any more.
    ///
    /// # Errors
    /// The kernel refuses; then what was there still decides.
    pub fn apply(&self, netns: u64, capture: &Capture<'_>) -> Result<()> {
        let before = self.maps.namespaces.get(&netns)?;
        // A run that was killed may have written some of another policy, by the number that this one has.
        self.forget(netns, before.map(|before| before.policy.generation))?;
        let outcome = self.prepare(netns, capture);
        let outcome = outcome.and_then(|()| self.maps.namespaces.put(&netns, &capture.namespace()));
        match (outcome, before) {
            (Ok(()), _) => {
                self.forget_all_but(netns, Some(capture))?;
                // Its processes were in another control group before, which nobody may be in now.
                self.tidy()
            }
            (Err(error), Some(before)) => {
                self.forget(netns, Some(before.policy.generation)).ok();
                Err(error)
            }
            (Err(error), None) => {
                self.remove(netns).ok();
                Err(error)
            }
        }
    }

    /// All that decides nothing before the namespace has the policy.
    fn prepare(&self, netns: u64, capture: &Capture<'_>) -> Result<()> {
        let maps = &self.maps;
        let lowered = capture.lowered;
        for (key, flags) in &lowered.networks {
            maps.networks.put(key, flags)?;
        }
        for (key, flags) in &lowered.ports {
            maps.ports.put(key, flags)?;
        }
        for (key, flags) in &lowered.owners {
            maps.owners.put(key, flags)?;
        }
        for address in capture.addresses {
            maps.addresses.put(&AddressKey { netns, address: *address }, &1)?;
        }
        for clause in Clause::ALL {
            let key = CounterKey { netns, clause: *clause as u32, reserved: 0 };
            if maps.counters.get(&key)?.is_none() {
                maps.counters.put(&key, &0)?;
            }
        }
        let folder = self.pod(netns);
        pins::make_folder(&folder)?;
        let arrives = folder.join(arrives());
        if link::severed(&arrives)? {
            let program = self.arrival(netns)?;
            if let Some(other) = arrival_link(&folder)?.filter(|other| *other != arrives) {
                // Of another build: its program gives way at once, and the link goes on under the name of this one.
                link::renew(&other, &program)?;
                link::rename(&other, &arrives)?;
            }
            let own = netns::open(Path::new(netns::OWN))?;
            link::make(&arrives, &program, &own, Attach::BPF_SK_LOOKUP)?;
        }
        self.attach(capture.cgroup)?;
        // The links of the group before are kept until the policy holds in this one.
        pins::point(&folder.join("cgroup"), &Path::new("../../cgroups").join(id(capture.cgroup.id)))?;
        adopt::listeners(self, netns, capture.lowered)
    }

    /// Removes what is of no use to `capture`.
    fn forget_all_but(&self, netns: u64, capture: Option<&Capture<'_>>) -> Result<()> {
        self.forget(netns, capture.map(|capture| capture.lowered.policy.generation))?;
        for key in self.maps.addresses.keys()? {
            let needed = capture.is_some_and(|capture| capture.addresses.contains(&key.address));
            if key.netns == netns && !needed {
                self.maps.addresses.remove(&key)?;
            }
        }
        Ok(())
    }

    /// Removes every generation but one.
    fn forget(&self, netns: u64, but: Option<u32>) -> Result<()> {
        let maps = &self.maps;
        let old = |of: u64, generation: u32| of == netns && Some(generation) != but;
        for key in maps.networks.keys()?.iter().filter(|key| old(key.netns, key.generation)) {
            maps.networks.remove(key)?;
        }
        for key in maps.ports.keys()?.iter().filter(|key| old(key.netns, key.generation)) {
            maps.ports.remove(key)?;
        }
        for key in maps.owners.keys()?.iter().filter(|key| old(key.netns, key.generation)) {
            maps.owners.remove(key)?;
        }
        Ok(())
    }

    /// Whether a namespace has anything: a policy, or what a run that was killed has left of one.
    ///
    /// # Errors
    /// What is kept cannot be read.
    pub fn has(&self, netns: u64) -> Result<bool> {
        Ok(self.maps.namespaces.get(&netns)?.is_some() || self.is_there(netns))
    }

    /// Takes away what a namespace has, and with the last one all there is. Nothing is captured from the first step on.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn remove(&self, netns: u64) -> Result<()> {
        let maps = &self.maps;
        maps.namespaces.remove(&netns)?;
        // Who is on the way to the proxy arrives there as who was captured.
        let end = Instant::now() + HANDSHAKES;
        while maps.pairs.keys()?.iter().any(|key| key.netns == netns) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.discard(netns)?;
        self.tidy()?;
        match pins::list(&self.root.join("netns"))?.is_empty() {
            true => super::node::remove_all(&self.root),
            false => Ok(()),
        }
    }

    /// Removes all that a namespace has.
    fn discard(&self, netns: u64) -> Result<()> {
        let maps = &self.maps;
        maps.namespaces.remove(&netns)?;
        self.forget_all_but(netns, None)?;
        for clause in Clause::ALL {
            maps.counters.remove(&CounterKey { netns, clause: *clause as u32, reserved: 0 })?;
        }
        for key in maps.listeners.keys()?.iter().filter(|key| key.netns == netns) {
            maps.listeners.remove(key)?;
        }
        for key in maps.pairs.keys()?.iter().filter(|key| key.netns == netns) {
            maps.pairs.remove(key)?;
        }
        for key in maps.surprises.keys()?.iter().filter(|key| key.netns == netns) {
            maps.surprises.remove(key)?;
        }
        pins::remove(&self.pod(netns))
    }

    /// Takes away what namespaces had that are gone; how many those were.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn collect(&self) -> Result<usize> {
        let mut gone = 0;
        for pod in pins::list(&self.root.join("netns"))? {
            let cookie = pod.file_name().and_then(|name| name.to_str());
            let cookie = cookie.and_then(|name| u64::from_str_radix(name, 16).ok());
            let cookie = cookie.ok_or_else(|| Error::refused(format!("{} is not ours", pod.display())))?;
            let gone_with = match arrival_link(&pod)? {
                Some(link) => link::severed(&link)?,
                None => true,
            };
            if gone_with {
                self.discard(cookie)?;
                gone += 1;
            }
        }
        if gone > 0 {
            self.tidy()?;
        }
        Ok(gone)
    }
}
