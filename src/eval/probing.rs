//! Which connections would tell whether a policy holds: one for each direction and family, or why none can.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::sockets::Socket;
use crate::policy::validate::reserved_inbound;
use crate::policy::{
    CapturePolicy, Destinations, Family, Gid, Groups, IfName, Inbound, Mode, Owners, Port, Uid,
};

/// The way a connection goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// Begun here.
    Outbound,
    /// Begun elsewhere.
    Inbound,
}

impl Direction {
    /// Its word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Direction::Outbound => "outbound",
            Direction::Inbound => "inbound",
        }
    }
}

/// A connection to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// From here.
    Outbound {
        /// An address that is nobody's (RFC 5737, RFC 3849).
        destination: SocketAddr,
        /// As which user, if not our own.
        uid: Option<Uid>,
        /// As which group, if not our own.
        gid: Option<Gid>,
    },
    /// From outside.
    Inbound {
        /// To which port.
        port: Port,
    },
}

/// Ports to try where the policy names none: of no service in particular.
const PORTS: [u16; 4] = [48_291, 41_873, 36_517, 29_153];
/// An identity that is hardly anybody's: `nobody` (passwd(5) of Debian).
const NOBODY: u32 = 65_534;
/// Addresses that are nobody's: RFC 5737 sections 3 and 4, RFC 3849.
const V4: [[u8; 4]; 3] = [[192, 0, 2, 1], [198, 51, 100, 1], [203, 0, 113, 1]];
const V6: [u16; 8] = [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1];

/// What would tell whether outbound connections of `family` are captured; `Ok(None)` if none is to be. `own` is our
/// own user and group.
///
/// # Errors
/// Why nothing would tell.
pub fn outbound(policy: &CapturePolicy, family: Family, own: (u32, u32)) -> Result<Option<Probe>, String> {
    let out = &policy.outbound;
    if policy.mode == Mode::None {
        return Ok(None);
    }
    let addresses: Vec<IpAddr> = match family {
        Family::V4 => V4.into_iter().map(IpAddr::from).collect(),
        Family::V6 => vec![IpAddr::from(V6)],
    };
    let free = |port: &Port| {
        let dns = port.number() == 53;
        !out.exclude_ports.contains(*port)
            && !dns
            && *port != policy.proxy.port
            && *port != policy.proxy.inbound_port
    };
    let allowed = |address: &IpAddr| !out.exclude_cidrs.iter().any(|cidr| cidr.contains(*address));
    let any_port = || PORTS.into_iter().filter_map(Port::of).find(|port| free(port));
    let (address, port) = match &out.destinations {
        Destinations::All { .. } => (addresses.into_iter().find(allowed), any_port()),
        Destinations::Some { cidrs, ports } => {
            let of_family = cidrs.iter().any(|cidr| cidr.family() == family);
            if !of_family && ports.is_empty() {
                return Ok(None);
            }
            let named = ports.ranges().iter().map(|range| range.first).find(|port| free(port));
            let inside = addresses
                .iter()
                .copied()
                .find(|at| allowed(at) && cidrs.iter().any(|cidr| cidr.contains(*at)));
            match (inside, named) {
                (Some(address), _) => (Some(address), any_port()),
                (None, port) => (addresses.into_iter().find(allowed), port),
            }
        }
    };
    if !policy.interfaces.exclude.is_empty() {
        return Err("an interface is excluded, and which one a probe would take is not known".to_owned());
    }
    let (Some(address), Some(port)) = (address, port) else {
        return Err("no address that is nobody's (TEST-NET) is among those to capture".to_owned());
    };
    let Some((uid, gid)) = sender(policy, own) else { return Ok(None) };
    Ok(Some(Probe::Outbound { destination: SocketAddr::new(address, port.number()), uid, gid }))
}

/// A user and a group whose connections are captured, if there are any.
fn sender(policy: &CapturePolicy, (own_uid, own_gid): (u32, u32)) -> Option<(Option<Uid>, Option<Gid>)> {
    let proxy = &policy.proxy;
    if let Owners::Only { uids, gids } = &policy.outbound.owners {
        if uids.is_empty() && gids.is_empty() {
            return None;
        }
        let by_user = uids.first().copied();
        let gid = if by_user.is_some() { None } else { gids.first().copied() };
        let gid = gid.or_else(|| other_than(own_gid, &proxy.gids, Gid::of));
        return Some((by_user.or_else(|| other_than(own_uid, &proxy.uids, Uid::of)), gid));
    }
    let uid = other_than(own_uid, &proxy.uids, Uid::of);
    let gid = match &policy.outbound.groups {
        Groups::Only(gids) => match gids.iter().find(|gid| !proxy.gids.contains(gid)) {
            Some(gid) => Some(*gid),
            None => return None,
        },
        Groups::AllExcept(except) => {
            let taken: Vec<Gid> = proxy.gids.iter().chain(except).copied().collect();
            other_than(own_gid, &taken, Gid::of)
        }
    };
    Some((uid, gid))
}

/// Nothing if `own` is not among `taken`, else an id that is not.
fn other_than<T: PartialEq + Copy>(own: u32, taken: &[T], of: impl Fn(u32) -> Option<T>) -> Option<T> {
    let free = |id: &u32| of(*id).is_some_and(|id| !taken.contains(&id));
    if free(&own) {
        return None;
    }
    (1..=NOBODY).rev().find(free).and_then(of)
}

/// What would tell whether inbound connections are captured; `Ok(None)` if none is to be. `wire` is how the name of
/// the interface begins by which they come.
///
/// # Errors
/// Why nothing would tell.
pub fn inbound(
    policy: &CapturePolicy,
    listening: &BTreeSet<u16>,
    wire: &str,
) -> Result<Option<Probe>, String> {
    let proxy = &policy.proxy;
    let capture = [proxy.port, proxy.inbound_port, proxy.tunnel_port];
    let port = match &policy.inbound {
        Inbound::Only(ports) if ports.is_empty() => return Ok(None),
        Inbound::Only(ports) => {
            ports.ranges().iter().map(|range| range.first).find(|port| !capture.contains(port))
        }
        Inbound::AllExcept(excluded) => {
            let reserved = reserved_inbound(proxy);
            let free = |port: &Port| {
                let taken = excluded.contains(*port) || reserved.contains(*port) || capture.contains(port);
                !taken && !listening.contains(&port.number())
            };
            PORTS.into_iter().filter_map(Port::of).find(free)
        }
    };
    let mut special = policy.interfaces.exclude.iter().chain(&policy.interfaces.reroute);
    if let Some(name) = special.find(|name| may_cover(name, wire)) {
        return Err(format!("the policy's interface {name} would be the probe's own, {wire}"));
    }
    match port {
        Some(port) => Ok(Some(Probe::Inbound { port })),
        None => Err("no port is left to try".to_owned()),
    }
}

/// Whether an interface whose name begins with `wire` may be meant.
fn may_cover(name: &IfName, wire: &str) -> bool {
    let beginning = name.as_str().strip_suffix('+');
    name.as_str().starts_with(wire) || beginning.is_some_and(|beginning| wire.starts_with(beginning))
}

/// Users other than the proxy's that hold a capture port: what they send would come back to them.
#[must_use]
pub fn strangers(policy: &CapturePolicy, sockets: &[Socket]) -> Vec<(u16, u32)> {
    // A group, which /proc does not tell, may be what the proxy is known by.
    if !policy.proxy.gids.is_empty() || policy.mode == Mode::None {
        return Vec::new();
    }
    let ports = [policy.proxy.port.number(), policy.proxy.inbound_port.number()];
    let proxy = |uid: u32| match &policy.outbound.owners {
        Owners::Everyone => policy.proxy.uids.iter().any(|of| of.number() == uid),
        Owners::Only { uids, .. } => !uids.iter().any(|of| of.number() == uid),
    };
    let mut strangers: Vec<(u16, u32)> = sockets
        .iter()
        .filter(|socket| socket.is_listening() && ports.contains(&socket.local.port()) && !proxy(socket.uid))
        .map(|socket| (socket.local.port(), socket.uid))
        .collect();
    strangers.sort_unstable();
    strangers.dedup();
    strangers
}
