//! Capture at the sockets: `apply`, `status`, `verify` and `clean` where there are no rules.

use mesh_init_abi::Address;

use super::{Environment, clean};
use crate::backend::choose;
use crate::backend::ebpf::lower::{Lowered, Place, Unable, lower};
use crate::backend::ebpf::text::text;
use crate::backend::ebpf::trie;
use crate::backend::ownership;
use crate::error::{Class, Error, Result};
use crate::eval::sockets;
use crate::host::ebpf::{self, Capture, Node};
use crate::host::{Machine, namespace, observe, preflight};
use crate::policy::settings::{Ebpf, Variant};
use crate::policy::validate::Request;
use crate::policy::{Families, Ipv6, Layout, Mode};
use crate::report::{Applied, AtSockets, By, Planned};
use crate::rules::RuleSet;
use crate::sys::bpf::cgroup::{self, Cgroup};
use crate::sys::lock::Lock;
use crate::sys::netns;

/// Everything that is known before the first change.
struct Ready {
    netns: u64,
    lowered: Lowered,
    addresses: Vec<Address>,
    sources: (Address, Address),
    cgroup: Cgroup,
}

impl Ready {
    fn capture(&self) -> Capture<'_> {
        Capture {
            lowered: &self.lowered,
            addresses: &self.addresses,
            sources: self.sources,
            cgroup: &self.cgroup,
        }
    }
}

pub(super) fn apply(request: &Request, how: &Ebpf, environment: &Environment) -> Result<Applied> {
    let settings = &request.settings;
    namespace::enter(settings, request.policy.mode != Mode::None)?;
    let lock = namespace::lock_for(settings)?;
    let machine = super::machine(settings, environment);
    let look = observe::look(&machine)?;
    preflight::no_ambient(&look.observed)?;
    preflight::no_other_mesh(&look.observed)?;
    if request.layout == Layout::Scoped {
        preflight::proxy_is_no_owner(&request.policy, &observe::sockets()?)?;
    }
    let families = choose::families(request.policy.ipv6, &look.observed, Variant::Native, &machine.tools)?;
    let mut changed = at_sockets(request, how, families)?;
    let open = match changed.is_empty() {
        true => 0,
        false => sockets::older(&observe::sockets()?, &request.policy).total(),
    };
    // The new one holds; what rules of ours would capture again goes.
    if Variant::ALL.into_iter().any(|variant| ownership::holds_ours(&look.observed.of(variant))) {
        changed.extend(rules_away(request, machine, &lock)?);
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

fn rules_away(request: &Request, machine: Machine, lock: &Lock) -> Result<Vec<String>> {
    let settings = crate::policy::Settings { ebpf: None, variant: None, ..request.settings.clone() };
    clean::rules(&settings, RuleSet::default(), machine, lock).map(|cleaned| cleaned.changed)
}

/// Makes the policy hold at the sockets of this namespace; what was changed.
fn at_sockets(request: &Request, how: &Ebpf, families: Families) -> Result<Vec<String>> {
    if request.policy.mode == Mode::None {
        return away();
    }
    preflight::not_the_host(request.layout, &request.settings, namespace::is_hosts_own())?;
    let mut ready = prepare(request, how, families)?;
    let node = Node::make()?;
    node.collect()?;
    let before = node.read(ready.netns)?;
    if before.as_ref().is_some_and(|before| before.holds(&ready.capture())) {
        return Ok(Vec::new());
    }
    let generation = before.map_or(0, |before| before.namespace.policy.generation);
    ready.lowered = ready.lowered.at(generation.wrapping_add(1));
    node.apply(ready.netns, &ready.capture())?;
    let wrong = match node.read(ready.netns)? {
        Some(now) => now.differences(&ready.capture()),
        None => vec!["the policy".to_owned()],
    };
    match wrong.as_slice() {
        [] => Ok(vec!["BPF programs and maps".to_owned()]),
        wrong => Err(Error::refused(format!(
            "{} reads back differently from what was written",
            wrong.join(" and ")
        ))
        .remedy("another program may be changing the same; run mesh-init verify")),
    }
}

fn prepare(request: &Request, how: &Ebpf, families: Families) -> Result<Ready> {
    let netns = netns::cookie()?;
    let place = Place { netns, generation: 0 };
    let lowered = lower(&request.policy, request.layout, families, place).map_err(unable)?;
    let own = netns::own_addresses()?;
    let source = |v4: bool| {
        let mut of = own.iter().filter(|address| address.is_ipv4() == v4 && !netns::is_link_local(address));
        of.next().map_or(Address::NONE, |address| trie::address(*address))
    };
    let cgroup = match &how.cgroup {
        Some(path) => cgroup::open(path)?,
        None => cgroup::root()?,
    };
    Ok(Ready {
        netns,
        lowered,
        sources: (source(true), source(false)),
        addresses: own.iter().map(|address| trie::address(*address)).collect(),
        cgroup,
    })
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
    Ok(planned(request, Some(&lowered), false))
}

/// The same in this namespace; nothing if it holds already.
pub(super) fn plan_live(request: &Request, how: &Ebpf, environment: &Environment) -> Result<Planned> {
    namespace::enter(&request.settings, request.policy.mode != Mode::None)?;
    let machine = super::machine(&request.settings, environment);
    let look = observe::look(&machine)?;
    let families = choose::families(request.policy.ipv6, &look.observed, Variant::Native, &machine.tools)?;
    let ready = prepare(request, how, families)?;
    let found = match Node::find()? {
        Some(node) => node.read(ready.netns)?,
        None => None,
    };
    let holds = match (found, request.policy.mode) {
        (found, Mode::None) => found.is_none(),
        (found, _) => found.is_some_and(|found| found.holds(&ready.capture())),
    };
    Ok(planned(request, (!holds).then_some(&ready.lowered), true))
}

fn planned(request: &Request, lowered: Option<&Lowered>, live: bool) -> Planned {
    let transaction = |lowered| (None, "BPF maps".to_owned(), text(lowered));
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
pub(super) fn away() -> Result<Vec<String>> {
    if !ebpf::may_be_here() {
        return Ok(Vec::new());
    }
    let Some(node) = Node::find()? else { return Ok(Vec::new()) };
    let netns = netns::cookie()?;
    if node.read(netns)?.is_none() {
        return Ok(Vec::new());
    }
    node.remove(netns)?;
    Ok(vec!["BPF programs and maps".to_owned()])
}

/// What holds at the sockets of this namespace, if anything does.
///
/// # Errors
/// It cannot be read.
pub(super) fn status() -> Result<Option<AtSockets>> {
    if !ebpf::may_be_here() {
        return Ok(None);
    }
    let Some(node) = Node::find()? else { return Ok(None) };
    let Some(found) = node.read(netns::cookie()?)? else { return Ok(None) };
    Ok(Some(AtSockets {
        lowered: found.lowered,
        counters: found.counters,
        listeners: found.listeners,
        detached: found.detached.into_iter().map(str::to_owned).collect(),
        cgroup: found.cgroup,
    }))
}
