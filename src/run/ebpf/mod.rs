//! Capture at the sockets: `apply`, `status`, `verify` and `clean` where there are no rules.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mesh_init_abi::{Address, OwnerKey, OwnerKind, Surprise, SurpriseKey};

use super::{Environment, clean};
use crate::backend::choose;
use crate::backend::ebpf::lower::{Lowered, Place, lower};
use crate::backend::ebpf::text::text;
use crate::backend::ebpf::trie;
use crate::backend::plan::Purpose;
use crate::backend::{Observed, ownership, plan};
use crate::error::{Class, Error, Result};
use crate::eval::sockets;
use crate::host::ebpf::{self, Capture, Found, Node};
use crate::host::{Machine, namespace, observe, preflight, routing};
use crate::policy::settings::{Ebpf, Variant};
use crate::policy::validate::Request;
use crate::policy::{CapturePolicy, Families, Ipv6, Layout, Mode, Unable};
use crate::report::{Applied, AtSockets, By, Planned, Told};
use crate::rules::compile::compile;
use crate::rules::{Routing, RuleSet};
use crate::sys::bpf::cgroup::{self, Cgroup};
use crate::sys::lock::Lock;
use crate::sys::netns;
use crate::sys::userns::{self, Ids};

mod recover;
mod verify;

pub(super) use verify::run as verify;

/// What is changed, in a phrase.
const WHAT: &str = "BPF programs and maps";

/// Everything that is known before the first change.
struct Ready {
    netns: u64,
    lowered: Lowered,
    addresses: Vec<Address>,
    sources: (Address, Address),
    cgroup: Cgroup,
    proxy_group: u64,
}

impl Ready {
    fn capture(&self) -> Capture<'_> {
        Capture {
            lowered: &self.lowered,
            addresses: &self.addresses,
            sources: self.sources,
            cgroup: &self.cgroup,
            proxy_group: self.proxy_group,
        }
    }
}

pub(super) fn apply(request: &Request, how: &Ebpf, environment: &Environment) -> Result<Applied> {
    let settings = &request.settings;
    namespace::enter(settings, request.policy.mode != Mode::None)?;
    let lock = namespace::lock_for(settings)?;
    if request.policy.mode != Mode::None {
        preflight::not_the_host(request.layout, settings, namespace::is_hosts_own())?;
    }
    let cgroup = cgroup_of(how)?;
    in_place(request, cgroup, super::machine(settings, environment), &lock)
}

/// The control group that is asked for.
fn cgroup_of(how: &Ebpf) -> Result<Cgroup> {
    match &how.cgroup {
        Some(path) => cgroup::open(path),
        None => cgroup::root(),
    }
}

/// The same in the namespace where this thread is already, under the lock that was taken there, for the processes of
/// `cgroup`.
pub(super) fn in_place(request: &Request, cgroup: Cgroup, machine: Machine, lock: &Lock) -> Result<Applied> {
    let wait = machine.left(request.settings.wait);
    let look = observe::look(&machine)?;
    preflight::no_ambient(&look.observed)?;
    preflight::no_other_mesh(&look.observed)?;
    if request.layout == Layout::Scoped {
        preflight::proxy_is_no_owner(&request.policy, &observe::sockets()?)?;
    }
    let families = choose::families(request.policy.ipv6, &look.observed, Variant::Native, &machine.tools)?;
    let stays = routing_of(request, families);
    let plan = plan::plan(&stays, Variant::Native, &look.observed);
    let mut changed = match request.policy.mode {
        Mode::None => away(wait)?,
        Mode::Redirect | Mode::Tproxy => {
            preflight::no_sandbox()?;
            let ready = prepare(request, cgroup, families)?;
            routing::make(&plan.routes)?;
            let made = make(ready, wait).inspect_err(|_| {
                // What the error says is the cause.
                routing::remove(&plan.routes).ok();
            });
            let mut changed = made?;
            changed.extend(plan.routes.iter().map(|present| present.what.to_string()));
            changed
        }
    };
    let open = match changed.is_empty() {
        true => 0,
        false => sockets::older(&observe::sockets()?, &request.policy).total(),
    };
    // The new one holds; what rules of ours would capture again goes, and the routing that only they needed.
    let rules = Variant::ALL.into_iter().any(|variant| ownership::holds_ours(&look.observed.of(variant)));
    if rules || !plan.unroutes.is_empty() {
        changed.extend(rules_away(request, &stays, machine, lock)?);
    }
    Ok(Applied {
        policy: request.policy.clone(),
        layout: request.layout,
        by: By::Ebpf,
        families,
        changed,
        open,
        confirm_within: None,
        notes: Vec::new(),
    })
}

fn rules_away(request: &Request, stays: &RuleSet, machine: Machine, lock: &Lock) -> Result<Vec<String>> {
    let settings = crate::policy::Settings { ebpf: None, variant: None, ..request.settings.clone() };
    clean::rules(&settings, RuleSet::default(), stays, machine, lock).map(|cleaned| cleaned.changed)
}

/// What is needed beside the programs: the same routing as beside rules, which there are none of.
fn routing_of(request: &Request, families: Families) -> RuleSet {
    let RuleSet { routing, .. } = compile(&request.policy, request.layout, families);
    RuleSet { chains: Vec::new(), routing }
}

/// Makes it hold at the sockets of this namespace; what was changed.
fn make(mut ready: Ready, wait: Duration) -> Result<Vec<String>> {
    let node = Node::make(wait)?;
    node.collect(ready.netns)?;
    let before = node.read(ready.netns)?;
    if before.as_ref().is_some_and(|before| before.holds(&ready.capture())) {
        return Ok(Vec::new());
    }
    let generation = before.map_or(0, |before| before.namespace.policy.generation);
    ready.lowered = ready.lowered.at(generation.wrapping_add(1));
    let wrong = match node.apply(ready.netns, &ready.capture())? {
        Some(now) => now.differences(&ready.capture()),
        None => vec!["the policy".to_owned()],
    };
    match wrong.as_slice() {
        [] => Ok(vec![WHAT.to_owned()]),
        wrong => {
            let wrong = wrong.join(" and ");
            Err(Error::refused(format!("{wrong} reads back differently from what was written"))
                .remedy("another program may be changing the same; run mesh-init verify"))
        }
    }
}

fn prepare(request: &Request, cgroup: Cgroup, families: Families) -> Result<Ready> {
    let netns = netns::cookie()?;
    let place = Place { netns, generation: 0 };
    let mut lowered = lower(&request.policy, request.layout, families, place).map_err(unable)?;
    let own = netns::open(Path::new(netns::OWN))?;
    if own.is_of_other_users() {
        translate(&mut lowered, &userns::ids(&own.owner()?)?);
    }
    let passes = routing_of(request, families).routing.contains(&Routing::PassthroughAddress);
    let (addresses, sources) = addresses(None, passes)?;
    let proxys = request.settings.ebpf.as_ref().and_then(|how| how.proxy_cgroup.as_ref());
    let proxy_group = proxys.map(|path| cgroup::open(path)).transpose()?.map_or(0, |group| group.id);
    Ok(Ready { netns, lowered, sources, addresses, cgroup, proxy_group })
}

/// The host's addresses but those of the interface `but`, and which of them captured connections are sent from in each family.
fn addresses(but: Option<&str>, passes: bool) -> Result<(Vec<Address>, (Address, Address))> {
    // The passthrough address is there by the time that programs ask, but it may not be yet, and nothing is sent from it
    // unasked.
    let passthrough = IpAddr::V6(crate::sys::routing::ADDRESS);
    let mut own = netns::own_addresses(but)?;
    own.retain(|address| *address != passthrough);
    let source = |v4: bool| {
        let mut of = own.iter().filter(|address| address.is_ipv4() == v4 && !netns::is_link_local(address));
        let source = netns::default_source(v4).filter(|source| own.contains(source));
        source.or_else(|| of.next().copied()).map_or(Address::NONE, trie::address)
    };
    let sources = (source(true), source(false));
    if passes {
        own.push(passthrough);
    }
    Ok((own.iter().map(|address| trie::address(*address)).collect(), sources))
}

/// Takes the addresses of an interface that is about to go out of what is known as this host's own.
///
/// # Errors
/// It cannot be written.
pub(super) fn without(interface: &str, wait: Duration) -> Result<()> {
    if !ebpf::may_be_here() {
        return Ok(());
    }
    let Some(node) = Node::find(wait)? else { return Ok(()) };
    let netns = netns::cookie()?;
    let Some(found) = node.read(netns)? else { return Ok(()) };
    let passthrough = trie::address(IpAddr::V6(crate::sys::routing::ADDRESS));
    let (addresses, sources) = addresses(Some(interface), found.addresses.contains(&passthrough))?;
    node.readdress(netns, &addresses, sources)
}

/// Ids as programs see them, who know those of the initial user namespace alone. Whom nobody there can be is left out.
fn translate(lowered: &mut Lowered, ids: &Ids) {
    let owners = lowered.owners.iter().filter_map(|(key, flags)| {
        let ranges = if key.kind == OwnerKind::USER { &ids.users } else { &ids.groups };
        Some((OwnerKey { id: userns::outside(ranges, key.id)?, ..*key }, *flags))
    });
    lowered.owners = owners.collect();
}

fn unable(what: Vec<Unable>) -> Error {
    let what: Vec<String> = what.iter().map(ToString::to_string).collect();
    Error::new(Class::Usage, what.join("; "))
}

/// What the maps would hold, from the flags alone.
pub(super) fn plan(request: &Request) -> Result<Planned> {
    let families = match request.policy.ipv6 {
        Ipv6::Off => Families::V4,
        Ipv6::On | Ipv6::Auto => Families::Both,
    };
    let place = Place { netns: 0, generation: 0 };
    let lowered = lower(&request.policy, request.layout, families, place).map_err(unable)?;
    let mut planned = planned(request, Some(&lowered), false);
    let routing = routing_of(request, families).routing;
    planned.routing = routing.iter().map(|what| format!("add {what}")).collect();
    Ok(planned)
}

/// The same in this namespace; nothing if it holds already.
pub(super) fn plan_live(request: &Request, how: &Ebpf, environment: &Environment) -> Result<Planned> {
    namespace::enter(&request.settings, request.policy.mode != Mode::None)?;
    let machine = super::machine(&request.settings, environment);
    let look = observe::look(&machine)?;
    let families = choose::families(request.policy.ipv6, &look.observed, Variant::Native, &machine.tools)?;
    let ready = prepare(request, cgroup_of(how)?, families)?;
    let found = match Node::find(request.settings.wait)? {
        Some(node) => node.read(ready.netns)?,
        None => None,
    };
    let holds = match (found, request.policy.mode) {
        (found, Mode::None) => found.is_none(),
        (found, _) => found.is_some_and(|found| found.holds(&ready.capture())),
    };
    let mut planned = planned(request, (!holds).then_some(&ready.lowered), true);
    let plan = plan::plan(&routing_of(request, families), Variant::Native, &look.observed);
    let routes = plan.routes.iter().map(|present| format!("add {}", present.what));
    let unroutes = plan.unroutes.iter().map(|present| format!("remove {}", present.what));
    planned.routing = routes.chain(unroutes).collect();
    Ok(planned)
}

fn planned(request: &Request, lowered: Option<&Lowered>, live: bool) -> Planned {
    let groups = request.settings.ebpf.iter().flat_map(|how| {
        let line = |what: &str, path: &PathBuf| format!("{what} {}\n", path.display());
        let of_all = how.cgroup.as_ref().map(|path| line("control group", path));
        of_all.into_iter().chain(how.proxy_cgroup.as_ref().map(|path| line("proxy's control group", path)))
    });
    let groups: String = groups.collect();
    let transaction = |lowered| (None, "BPF maps".to_owned(), text(lowered) + &groups);
    Planned {
        policy: request.policy.clone(),
        layout: request.layout,
        transactions: lowered.map(transaction).into_iter().collect(),
        routing: Vec::new(),
        live,
    }
}

/// Takes away what holds at the sockets of this namespace; what was changed.
///
/// # Errors
/// It cannot be removed.
pub(super) fn away(wait: Duration) -> Result<Vec<String>> {
    if !ebpf::may_be_here() {
        return Ok(Vec::new());
    }
    let netns = netns::cookie()?;
    let removed = match Node::find(wait)? {
        Some(node) if node.has(netns)? => node.remove(netns).map(|()| true),
        Some(_) | None => Ok(false),
    };
    let changed = removed? || ebpf::sweep(wait)?;
    Ok(changed.then(|| WHAT.to_owned()).into_iter().collect())
}

/// Remembers that this namespace is that of an attachment.
///
/// # Errors
/// It cannot be written.
pub(super) fn name(container: &str, interface: &str, wait: Duration) -> Result<()> {
    match Node::find(wait)? {
        Some(node) => node.name(netns::cookie()?, container, interface),
        None => Ok(()),
    }
}

/// What does not hold of `request` at the sockets of this namespace, as phrases.
///
/// # Errors
/// It cannot be read.
pub(super) fn wrong(request: &Request, cgroup: Cgroup, machine: &Machine) -> Result<Vec<String>> {
    let look = observe::look(machine)?;
    let families = choose::families(request.policy.ipv6, &look.observed, Variant::Native, &machine.tools)?;
    let ready = prepare(request, cgroup, families)?;
    let found = match Node::find(machine.left(request.settings.wait))? {
        Some(node) => node.read(ready.netns)?,
        None => None,
    };
    let mut wrong = match found {
        Some(found) => found.differences(&ready.capture()),
        None => vec!["nothing is captured at the sockets".to_owned()],
    };
    wrong.extend(differences_beside(&routing_of(request, families), &look.observed));
    Ok(wrong)
}

/// What is missing of what is needed beside the programs, and what rules of ours would capture again, as phrases.
fn differences_beside(wanted: &RuleSet, observed: &Observed) -> Vec<String> {
    let differences = plan::differences(wanted, Variant::Native, observed).into_iter();
    let said = |(purpose, what)| match purpose {
        Purpose::Remove => format!("{what}, which captures a second time,"),
        Purpose::Prepare | Purpose::Make => what,
    };
    let mut differences: Vec<String> = differences.map(said).collect();
    differences.dedup();
    differences
}

/// What holds at the sockets of this namespace, if anything does, and the namespace's cookie.
///
/// # Errors
/// It cannot be read.
pub(super) fn here(wait: Duration) -> Result<Option<(Found, u64)>> {
    if !ebpf::may_be_here() {
        return Ok(None);
    }
    let Some(node) = Node::find(wait)? else { return Ok(None) };
    let netns = netns::cookie()?;
    Ok(node.read(netns)?.map(|found| (found, netns)))
}

/// What is not told by a policy: of whose sockets it is, and whose it never is.
pub(super) fn limits(cgroup: Option<String>, proxy: Option<String>) -> impl Iterator<Item = String> {
    let cgroup = cgroup.map(|group| format!("outbound, only sockets of control group {group} are captured"));
    let proxy =
        proxy.map(|group| format!("sockets of control group {group} are the proxy's, whoever made them"));
    cgroup.into_iter().chain(proxy)
}

/// The same of what is found.
pub(super) fn limits_of(found: &Found) -> impl Iterator<Item = String> {
    let number = |group: u64| format!("{group:016x}");
    let everybody = cgroup::root().ok().map(|root| root.id);
    let proxy = Some(found.proxy_group()).filter(|group| *group != 0);
    limits(found.cgroup.filter(|group| Some(*group) != everybody).map(number), proxy.map(number))
}

/// The policy that maps say, if they are of this version.
pub(super) fn policy_of(lowered: &Lowered) -> Option<CapturePolicy> {
    recover::request(lowered).map(|request| request.policy)
}

/// What holds at the sockets of this namespace, for people to see.
///
/// # Errors
/// It cannot be read.
pub(super) fn status(wait: Duration) -> Result<Option<AtSockets>> {
    Ok(here(wait)?.map(|(found, _)| AtSockets {
        proxy_cgroup: Some(found.proxy_group()).filter(|group| *group != 0),
        older: found.older,
        policy: policy_of(&found.lowered),
        lowered: found.lowered,
        counters: found.counters,
        listeners: found.listeners,
        detached: found.detached.into_iter().map(str::to_owned).collect(),
        surprises: told(&found.surprises),
        cgroup: found.cgroup,
    }))
}

fn told(surprises: &[(SurpriseKey, Surprise, Duration)]) -> Vec<Told> {
    let told = |(key, surprise, ago): &(SurpriseKey, Surprise, Duration)| Told {
        kind: key.kind,
        address: trie::ip(key.address),
        port: key.port,
        count: surprise.count,
        ago: *ago,
    };
    surprises.iter().map(told).collect()
}
