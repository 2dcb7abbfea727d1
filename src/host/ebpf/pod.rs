//! What one network namespace has: its policy, its own program, and the control group of its processes.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mesh_init_abi::{Address, AddressKey, Clause, CounterKey, ListenerKey, Namespace, Surprise, SurpriseKey};

use super::adopt;
use super::node::{ARRIVES, Node, PROGRAMS, arrives, cgroup_of, id, number};
use crate::backend::ebpf::lower::Lowered;
use crate::error::{Error, Result};
use crate::sys::bpf::cgroup::Cgroup;
use crate::sys::bpf::link::State;
use crate::sys::bpf::object::Attach;
use crate::sys::bpf::{link, pins};
use crate::sys::{clock, netns};

/// How long connections that are on their way to the proxy are waited for.
const HANDSHAKES: Duration = Duration::from_secs(1);

/// Of how many namespaces a run looks whether they are gone.
const LOOKED_AT: usize = 16;

/// The name of the link of a namespace's own program.
const LINK: &str = "arrives";

/// A namespace's own programs: of a run that was killed there may be two.
fn own_programs(folder: &Path) -> Result<Vec<PathBuf>> {
    let is_one = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(ARRIVES))
    };
    Ok(pins::list(folder)?.into_iter().filter(is_one).collect())
}

/// What is to hold in a namespace.
#[derive(Debug)]
pub struct Capture<'a> {
    /// What the maps are to say.
    pub lowered: &'a Lowered,
    /// The addresses of the host's own, but for the loopback ones.
    pub addresses: &'a [Address],
    /// What is captured is sent from this in IPv4, and in IPv6; none for the loopback address.
    pub sources: (Address, Address),
    /// Where its processes are.
    pub cgroup: &'a Cgroup,
    /// The number of the control group in which only the proxy runs; 0 if there is none.
    pub proxy_group: u64,
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
    /// A program of another build is kept here.
    pub older: bool,
    /// The number of the control group that the programs are attached to.
    pub cgroup: Option<u64>,
    /// What the policy did not foresee, the latest first, and how long ago each was.
    pub surprises: Vec<(SurpriseKey, Surprise, Duration)>,
}

impl Capture<'_> {
    /// What holds of the namespace as a whole.
    fn namespace(&self) -> Namespace {
        #[expect(clippy::cast_possible_truncation, reason = "each half by itself")]
        let (low, high) = (self.proxy_group as u32, (self.proxy_group >> 32) as u32);
        Namespace {
            policy: self.lowered.policy,
            source_v4: self.sources.0,
            source_v6: self.sources.1,
            proxy_group: low,
            proxy_group_end: high,
        }
    }
}

impl Found {
    /// Whether `capture` holds, whatever its generation, by programs of this build.
    #[must_use]
    pub fn holds(&self, capture: &Capture<'_>) -> bool {
        !self.older && self.differences(capture).is_empty()
    }

    /// The number of the control group in which only the proxy runs; 0 if there is none.
    #[must_use]
    pub fn proxy_group(&self) -> u64 {
        let Namespace { proxy_group, proxy_group_end, .. } = self.namespace;
        u64::from(proxy_group_end) << 32 | u64::from(proxy_group)
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
        differs("the control group", self.cgroup == Some(capture.cgroup.id));
        differs("the proxy's control group", self.proxy_group() == capture.proxy_group);
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
        let here = |of: u64, written: u32| of == netns && written == generation;
        let (mut networks, mut ports, mut owners) =
            (maps.networks.entries()?, maps.ports.entries()?, maps.owners.entries()?);
        networks.retain(|(key, _)| here(key.netns, key.generation));
        ports.retain(|(key, _)| here(key.netns, key.generation));
        owners.retain(|(key, _)| here(key.netns, key.generation));
        let addresses = maps.addresses.entries()?.into_iter().map(|(key, _)| key);
        let addresses = addresses.filter(|key| key.netns == netns).map(|key| key.address).collect();
        self.found(netns, namespace, Lowered { policy: namespace.policy, networks, ports, owners }, addresses)
            .map(Some)
    }

    /// The same of a namespace of which nothing was known before `capture` was written: only that can be there.
    fn read_back(&self, netns: u64, capture: &Capture<'_>) -> Result<Option<Found>> {
        let maps = &self.maps;
        let Some(namespace) = maps.namespaces.get(&netns)? else { return Ok(None) };
        let Lowered { networks, ports, owners, .. } = capture.lowered;
        let lowered = Lowered {
            policy: namespace.policy,
            networks: maps.networks.those_of(networks)?,
            ports: maps.ports.those_of(ports)?,
            owners: maps.owners.those_of(owners)?,
        };
        let mut addresses = Vec::new();
        for address in capture.addresses {
            let there = maps.addresses.get(&AddressKey { netns, address: *address })?;
            addresses.extend(there.map(|_| *address));
        }
        self.found(netns, namespace, lowered, addresses).map(Some)
    }

    /// The rest of what is found.
    fn found(
        &self,
        netns: u64,
        namespace: Namespace,
        mut lowered: Lowered,
        addresses: Vec<Address>,
    ) -> Result<Found> {
        let maps = &self.maps;
        lowered.sort();
        let mut counters = Vec::new();
        for clause in Clause::ALL {
            let key = CounterKey { netns, clause: *clause as u32, reserved: 0 };
            counters.extend(maps.counters.get(&key)?.map(|count| (*clause, count)));
        }
        let port = u32::from(namespace.policy.inbound_port);
        let mut listeners = 0;
        for place in 0..ListenerKey::PLACES {
            listeners += usize::from(maps.listeners.get(&ListenerKey { netns, place, port })?.is_some());
        }
        let folder = self.pod(netns);
        let cgroup = cgroup_of(&folder);
        let (mut detached, of_another) = match cgroup {
            Some(cgroup) => self.detached(cgroup)?,
            None => (PROGRAMS.map(|(name, _)| name).to_vec(), false),
        };
        if !self.is_attached(&folder)? {
            detached.push("mesh_arrives");
        }
        let older = of_another || own_programs(&folder)?.iter().any(|own| *own != folder.join(arrives()));
        let surprises = self.surprises(netns)?;
        Ok(Found { namespace, lowered, addresses, counters, listeners, detached, older, cgroup, surprises })
    }

    /// Whether an own program of the namespace of the folder is attached to it: that of this build, or of another.
    fn is_attached(&self, folder: &Path) -> Result<bool> {
        for path in own_programs(folder)? {
            let program = pins::open(&path)?;
            if let Some(program) = program
                && link::state(&folder.join(LINK), &program)? == State::Attached
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn surprises(&self, netns: u64) -> Result<Vec<(SurpriseKey, Surprise, Duration)>> {
        let now = clock::monotonic();
        let mut surprises = Vec::new();
        for (key, surprise) in
            self.maps.surprises.entries()?.into_iter().filter(|(key, _)| key.netns == netns)
        {
            surprises.push((key, surprise, now.saturating_sub(Duration::from_nanos(surprise.last))));
        }
        surprises.sort_unstable_by_key(|(key, _, age)| (*age, *key));
        Ok(surprises)
    }

    /// Makes `capture` hold in the calling thread's namespace, whose cookie is `netns`. What was there decides until all
    /// of it is there, and then nothing of it does any more. What is there then, read back.
    ///
    /// # Errors
    /// The kernel refuses; then what was there still decides.
    pub fn apply(&self, netns: u64, capture: &Capture<'_>) -> Result<Option<Found>> {
        let before = self.maps.namespaces.get(&netns)?;
        // The folder is made first: without it nobody has written anything of this namespace. A run that was killed may
        // have written some of another policy, by the number that this one has.
        let new = before.is_none() && !self.is_there(netns);
        if !new {
            self.forget(netns, before.map(|before| before.policy.generation))?;
        }
        let group = cgroup_of(&self.pod(netns));
        let outcome = self.prepare(netns, capture);
        let outcome = outcome.and_then(|()| self.maps.namespaces.put(&netns, &capture.namespace()));
        match (outcome, before) {
            (Ok(()), _) if new => self.read_back(netns, capture),
            (Ok(()), _) => {
                self.forget_all_but(netns, Some(capture))?;
                // Its processes were in another control group before, which nobody may be in now.
                if group != Some(capture.cgroup.id) {
                    self.tidy()?;
                }
                self.read(netns)
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
        let folder = self.pod(netns);
        pins::make_folder(&folder)?;
        maps.networks.put_all(&lowered.networks)?;
        maps.ports.put_all(&lowered.ports)?;
        maps.owners.put_all(&lowered.owners)?;
        let addresses = capture.addresses.iter().map(|address| (AddressKey { netns, address: *address }, 1));
        maps.addresses.put_all(&addresses.collect::<Vec<_>>())?;
        for clause in Clause::ALL {
            let key = CounterKey { netns, clause: *clause as u32, reserved: 0 };
            if maps.counters.get(&key)?.is_none() {
                maps.counters.put(&key, &0)?;
            }
        }
        let program = match pins::open(&folder.join(arrives()))? {
            Some(program) => program,
            None => {
                let program = self.arrival(netns)?;
                pins::keep(&program, &folder.join(arrives()))?;
                program
            }
        };
        let own = netns::open(Path::new(netns::OWN))?;
        link::make(&folder.join(LINK), &program, &own, Attach::BPF_SK_LOOKUP)?;
        for other in own_programs(&folder)? {
            if other != folder.join(arrives()) {
                pins::remove(&other)?;
            }
        }
        self.attach(capture.cgroup)?;
        // The links of the group before are kept until the policy holds in this one.
        pins::point(&folder.join("cgroup"), &Path::new("../../cgroups").join(id(capture.cgroup.id)))?;
        adopt::listeners(self, netns, capture)
    }

    /// Puts `addresses` in the place of those that are known as the namespace's own, and `sources` in that of those that
    /// captured connections are sent from.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn readdress(&self, netns: u64, addresses: &[Address], sources: (Address, Address)) -> Result<()> {
        let Some(namespace) = self.maps.namespaces.get(&netns)? else { return Ok(()) };
        let all: Vec<_> =
            addresses.iter().map(|address| (AddressKey { netns, address: *address }, 1)).collect();
        self.maps.addresses.put_all(&all)?;
        let (source_v4, source_v6) = sources;
        self.maps.namespaces.put(&netns, &Namespace { source_v4, source_v6, ..namespace })?;
        self.maps.addresses.remove_where(|key| key.netns == netns && !addresses.contains(&key.address))
    }

    /// Removes what is of no use to `capture`.
    fn forget_all_but(&self, netns: u64, capture: Option<&Capture<'_>>) -> Result<()> {
        self.forget(netns, capture.map(|capture| capture.lowered.policy.generation))?;
        let needed = |address: &Address| capture.is_some_and(|capture| capture.addresses.contains(address));
        self.maps.addresses.remove_where(|key| key.netns == netns && !needed(&key.address))
    }

    /// Removes every generation but one.
    fn forget(&self, netns: u64, but: Option<u32>) -> Result<()> {
        let maps = &self.maps;
        let old = |of: u64, generation: u32| of == netns && Some(generation) != but;
        maps.networks.remove_where(|key| old(key.netns, key.generation))?;
        maps.ports.remove_where(|key| old(key.netns, key.generation))?;
        maps.owners.remove_where(|key| old(key.netns, key.generation))
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
        while maps.pairs.entries()?.iter().any(|(key, _)| key.netns == netns) && Instant::now() < end {
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
        maps.pairs.remove_where(|key| key.netns == netns)?;
        maps.surprises.remove_where(|key| key.netns == netns)?;
        pins::remove(&self.pod(netns))
    }

    /// Takes away what namespaces had that are gone; how many those were. So many are looked at in a run that a node with many
    /// takes no longer: of two runs each looks at others.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn collect(&self, netns: u64) -> Result<usize> {
        let mut pods = pins::list(&self.root.join("netns"))?;
        let first = usize::try_from(netns).unwrap_or_default().wrapping_mul(LOOKED_AT);
        let first = first.checked_rem(pods.len()).unwrap_or_default();
        pods.rotate_left(first);
        let mut gone = 0;
        for pod in pods.iter().take(LOOKED_AT) {
            let cookie =
                number(pod).ok_or_else(|| Error::refused(format!("{} is not ours", pod.display())))?;
            if link::severed(&pod.join(LINK))? {
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
