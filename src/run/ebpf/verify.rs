//! `verify`: does capture at the sockets hold, and how is that known?

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use super::{Ready, cgroup_of, differences_beside, here, in_place, prepare, recover, routing_of, told};
use crate::backend::{Observed, choose};
use crate::error::Result;
use crate::eval::probing::{self, Direction, Probe};
use crate::eval::sockets::Socket;
use crate::host::ebpf::{Found, Node};
use crate::host::probe::{self, Shown};
use crate::host::{self, Machine, observe, preflight};
use crate::policy::settings::{Ebpf, Settings, Variant};
use crate::policy::validate::Request;
use crate::policy::{CapturePolicy, Families, Family, Ipv6};
use crate::report::{Checked, How, Verified};
use crate::rules::RuleSet;
use crate::run::verify::Asked;
use crate::sys::bpf::cgroup;
use crate::sys::lock::Lock;
use crate::sys::{netns, sandbox, sockets};

/// How many surprises are worth a note; `status` tells all.
const SURPRISES: usize = 4;

/// What is to be true.
struct Expected {
    policy: CapturePolicy,
    families: Families,
    /// What is needed beside the programs; rules of ours would capture twice.
    beside: RuleSet,
    /// What the maps are to say, if that was asked for and is not what they say themselves.
    ready: Option<Ready>,
}

/// `asked_for` is what was asked for; without it, the policy is the one that the maps say. `None` if they say none.
pub(in crate::run) fn run(
    asked: Asked,
    asked_for: Option<(&Request, &Ebpf)>,
    settings: &Settings,
    machine: &Machine,
    lock: &Lock,
) -> Result<Option<Verified>> {
    let observed = observe::look(machine)?.observed;
    let found = read(settings.wait)?;
    let expected = match (asked_for, &found) {
        (Some((request, how)), _) => {
            let families = choose::families(request.policy.ipv6, &observed, Variant::Native, &machine.tools)?;
            let ready = prepare(request, cgroup_of(how)?, families)?;
            let beside = routing_of(request, families);
            Expected { policy: request.policy.clone(), families, beside, ready: Some(ready) }
        }
        (None, Some(found)) => match recover::request(&found.lowered) {
            Some(request) => {
                let both = observed.ipv6 && request.policy.ipv6 != Ipv6::Off;
                let families = if both { Families::Both } else { Families::V4 };
                let beside = routing_of(&request, families);
                Expected { policy: request.policy, families, beside, ready: None }
            }
            None => return Ok(None),
        },
        (None, None) => return Ok(None),
    };
    let mut verified = judge(asked, &expected, found.as_ref(), &observed, settings.wait)?;
    verified.notes.extend(preflight::no_ambient(&observed).err().map(|error| error.problem));
    verified.notes.extend(preflight::no_other_mesh(&observed).err().map(|error| error.problem));
    if let (true, false, Some((request, how))) = (asked.repair, verified.wrong.is_empty(), asked_for) {
        let changed = in_place(request, cgroup_of(how)?, machine.clone(), lock)?.changed;
        let notes = std::mem::take(&mut verified.notes);
        let observed = observe::look(machine)?.observed;
        verified = judge(asked, &expected, read(settings.wait)?.as_ref(), &observed, settings.wait)?;
        verified = Verified { repaired: changed, notes, ..verified };
    }
    Ok(Some(verified))
}

fn read(wait: Duration) -> Result<Option<Found>> {
    Ok(here(wait)?.map(|(found, _)| found))
}

fn judge(
    asked: Asked,
    expected: &Expected,
    found: Option<&Found>,
    observed: &Observed,
    wait: Duration,
) -> Result<Verified> {
    let sockets = observe::sockets()?;
    let mut wrong = match (found, &expected.ready) {
        (None, _) => vec!["nothing is captured at the sockets: that is".to_owned()],
        (Some(found), Some(ready)) => found.differences(&ready.capture()),
        (Some(found), None) => found.detached.iter().map(|name| format!("the program {name}")).collect(),
    };
    wrong.extend(differences_beside(&expected.beside, observed));
    if let Some(found) = found {
        let beyond = beyond_the_maps(found, wait)?;
        wrong.extend(beyond.into_iter().filter(|what| !wrong.contains(what)).collect::<Vec<_>>());
    }
    let mut checked = Vec::new();
    for family in expected.families.list() {
        for direction in [Direction::Outbound, Direction::Inbound] {
            let (how, detail) = match wrong.first() {
                Some(first) => (How::NotCaptured, format!("{first} not as it should be")),
                None => tried(asked, &expected.policy, direction, *family, &sockets, wait)?,
            };
            checked.push(Checked { direction, family: *family, how, detail });
        }
    }
    let mut notes = Vec::new();
    let inbound = probing::inbound(&expected.policy, &BTreeSet::new(), probe::NEIGHBOUR);
    if found.is_some_and(|found| found.listeners == 0) && !matches!(inbound, Ok(None)) {
        notes.push(format!(
            "no listener of the proxy's is known at port {}: what arrives is refused",
            expected.policy.proxy.inbound_port
        ));
    }
    if found.is_some_and(|found| found.older) {
        notes.push("BPF programs of another build of mesh-init capture here: apply again puts this one's in their place".to_owned());
    }
    // Nothing of ours tries an inbound connection: these were others.
    let surprises = found.map(|found| told(&found.surprises)).unwrap_or_default();
    notes.extend(surprises.iter().take(SURPRISES).map(ToString::to_string));
    // Who is the proxy by its control group is nobody's user.
    let by_group = found.is_some_and(|found| found.proxy_group() != 0);
    let strangers = if by_group { Vec::new() } else { probing::strangers(&expected.policy, &sockets) };
    for (port, uid) in strangers {
        notes.push(format!(
            "port {port} is held by uid {uid}, which the policy does not exempt: as a proxy it would get its own connections back, and it is given nothing that arrives"
        ));
    }
    let policy = Some(expected.policy.clone());
    Ok(Verified { policy, checked, wrong, strict: asked.strict, repaired: Vec::new(), notes })
}

/// Tries a connection, where one would tell.
fn tried(
    asked: Asked,
    policy: &CapturePolicy,
    direction: Direction,
    family: Family,
    sockets: &[Socket],
    wait: Duration,
) -> Result<(How, String)> {
    let listening: BTreeSet<u16> =
        sockets.iter().filter(|socket| socket.is_listening()).map(|socket| socket.local.port()).collect();
    let probe = match direction {
        Direction::Outbound => probing::outbound(policy, family, host::own_ids()),
        Direction::Inbound => probing::inbound(policy, &listening, probe::NEIGHBOUR),
    };
    let by_maps = |why: &str| Ok((How::Rules, why.to_owned()));
    match probe {
        Ok(None) => Ok((How::NotWanted, String::new())),
        Err(why) => by_maps(&why),
        Ok(Some(_)) if asked.quick => by_maps("read back"),
        // What listens for a probe is not the proxy, and gets nothing.
        Ok(Some(Probe::Inbound { .. })) => {
            by_maps("not tried: only the proxy's own listener is given what arrives")
        }
        Ok(Some(probe @ Probe::Outbound { destination, .. })) => outbound(
            &probe,
            destination,
            policy,
            family,
            listening.contains(&policy.proxy.port.number()),
            wait,
        ),
    }
}

/// Where the proxy's port is free a listener of our own gets a token; else the programs count the connection, whoever gets it.
fn outbound(
    probe: &Probe,
    destination: SocketAddr,
    policy: &CapturePolicy,
    family: Family,
    held: bool,
    wait: Duration,
) -> Result<(How, String)> {
    let what = format!("tried {destination}");
    if !held && probe::run(probe, policy, family, false) == Shown::Token {
        return Ok((How::Probe, what));
    }
    let before = captured(wait)?;
    let begun = probe::begin(probe);
    Ok(match (begun, captured(wait)?.wrapping_sub(before)) {
        (_, 1..) => (How::Probe, format!("{what}: the programs sent it to the proxy")),
        (Err(why), 0) => (How::Rules, format!("not tried: {why}")),
        (Ok(()), 0) => (How::NotCaptured, format!("{what}: no program has sent it to the proxy")),
    })
}

/// A pod whose sockets are not this kernel's, programs that are others' than they are called, a control group of the proxy's that
/// nobody can be in, and listeners of the proxy's that the programs do not see.
fn beyond_the_maps(found: &Found, wait: Duration) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    // It came after the policy: the programs are in place, and nothing comes by.
    wrong.extend(sandbox::find().map(|sandbox| format!("the pod, which is {sandbox},")));
    if let Some(node) = Node::find(wait)? {
        wrong.extend(node.altered(netns::cookie()?)?.iter().map(|name| format!("the program {name}")));
    }
    if found.proxy_group() != 0 && !cgroup::is_there(found.proxy_group()) {
        wrong.push("the proxy's control group, which is gone,".to_owned());
    }
    let policy = &found.lowered.policy;
    for port in BTreeSet::from([policy.outbound_port, policy.inbound_port]) {
        // What cannot be told is taken for well.
        let is_inside = |of: Option<u64>| cgroup::is_inside(of?, found.cgroup?);
        let listeners = sockets::listeners(port)?;
        let mut of_proxy = listeners.iter().filter(|listener| found.lowered.has_proxy(listener.uid));
        if of_proxy.any(|listener| is_inside(listener.cgroup) == Some(false)) {
            wrong
                .push(format!("the proxy's listener at port {port}, which is outside of the control group,"));
        }
    }
    Ok(wrong)
}

/// How many connections were sent to the proxy's outbound port.
fn captured(wait: Duration) -> Result<u64> {
    use mesh_init_abi::Clause;
    let clauses = [Clause::OutboundAll, Clause::OutboundCidr, Clause::OutboundPort];
    let found = read(wait)?;
    let counters = found.map(|found| found.counters).unwrap_or_default();
    Ok(counters.iter().filter(|(clause, _)| clauses.contains(clause)).map(|(_, count)| count).sum())
}
