//! What the programs say of a connection, from what the maps hold.

use std::net::IpAddr;

use mesh_init_abi::{Flow, NetFlags, NetKey, OwnerFlags, OwnerKey, OwnerKind, PortKey, Verdict, Way, decide};

use super::lower::Lowered;
use super::prefix::longest;
use super::{rule_id, text, trie};
use crate::eval::probing::Direction;
use crate::eval::{Capture, Conn, Outcome};
use crate::policy::{Port, RuleId};
use crate::rules::Protocol;

/// A program's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The hook that asked it, as its section is named (Documentation/bpf/libbpf/program_types.rst).
    pub hook: &'static str,
    /// What becomes of the connection: it is captured or passed.
    pub outcome: Outcome,
    /// The clause that says so, if one does.
    pub clause: Option<RuleId>,
    /// What the maps hold of it, a line an entry.
    pub found: Vec<String>,
}

/// What the programs say of `conn`, in the namespace with the cookie `netns`, of which the maps hold `lowered`.
///
/// # Errors
/// Why none of them is asked.
pub fn ask(lowered: &Lowered, netns: u64, conn: &Conn) -> Result<Answer, &'static str> {
    let outbound = conn.direction == Direction::Outbound;
    let tcp = conn.protocol == Protocol::Tcp;
    if tcp && !conn.first {
        return Err("the connection was open before");
    }
    if !outbound && !conn.local {
        return Err("it passes through, and has no socket here");
    }
    if !tcp && (!outbound || conn.protocol != Protocol::Udp) {
        return Err("none is asked about such");
    }
    let hook = match (outbound, tcp, conn.destination.ip()) {
        (true, true, IpAddr::V4(_)) => "cgroup/connect4",
        (true, true, IpAddr::V6(_)) => "cgroup/connect6",
        (true, false, IpAddr::V4(_)) => "cgroup/sendmsg4",
        (true, false, IpAddr::V6(_)) => "cgroup/sendmsg6",
        (false, ..) => "sk_lookup",
    };
    let policy = &lowered.policy;
    let destination = trie::address(conn.destination.ip());
    let destination = destination.destination(!destination.is_v4());
    let port = conn.destination.port();
    let network = longest(&lowered.networks, &NetKey::look_up(netns, policy.generation, destination));
    let ports = longest(&lowered.ports, &PortKey::look_up(netns, policy.generation, port));
    let owner = |kind, id: u32| {
        let key = OwnerKey::of(netns, policy.generation, kind, id);
        lowered.owners.iter().find(|(of, _)| *of == key)
    };
    let sender = conn.sender.as_ref().filter(|_| outbound);
    let user = sender.and_then(|sender| owner(OwnerKind::USER, sender.uid));
    let group = sender.and_then(|sender| owner(OwnerKind::GROUP, sender.gid));
    let flags = |of: Option<&(OwnerKey, OwnerFlags)>| of.map_or(OwnerFlags::NONE, |(_, flags)| *flags);
    let decision = decide(
        policy,
        &Flow {
            way: if outbound { Way::Outbound } else { Way::Inbound },
            tcp,
            ipv6: !destination.is_v4(),
            stays: outbound && (conn.local || destination.is_loopback()),
            from_passthrough: outbound && trie::address(conn.source.ip()).is_passthrough(),
            port,
            networks: network.map(|(_, flags)| *flags).unwrap_or_default(),
            ports: ports.map(|(_, flags)| *flags).unwrap_or_default(),
            user: flags(user),
            group: flags(group),
        },
    );
    let outcome = match decision.verdict {
        Verdict::Pass => Outcome::Passed,
        Verdict::Capture(socket) => match Port::of(policy.port(socket)) {
            Some(port) => Outcome::Captured { port, by: Capture::Redirect },
            None => Outcome::CannotTell,
        },
    };
    let says_something = |(_, flags): &&(NetKey, NetFlags)| outbound && *flags != NetFlags::NONE;
    let found = [
        network.filter(says_something).map(text::network_said),
        ports.map(text::ports_said),
        user.map(text::owner_said),
        group.map(text::owner_said),
    ];
    let found = found.into_iter().flatten().collect();
    Ok(Answer { hook, outcome, clause: rule_id(decision.clause), found })
}
