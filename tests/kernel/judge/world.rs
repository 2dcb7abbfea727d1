//! The hosts of the test, and what a connection between them is to the evaluator: written here once.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use mesh_init::eval::Conn;
use mesh_init::eval::conn::Sender;
use mesh_init::eval::probing::Direction;
use mesh_init::policy::IfName;
use mesh_init::rules::{ConnState, Protocol};

use super::attempt::{Attempt, Origin, Sends};
use crate::istio::{PROXY, ROOT_PROXY, neighbour};
use crate::support::command::mesh_init;
use crate::support::creds::Who;
use crate::support::netns::Netns;
use crate::support::resolv::resolvers;
use crate::support::rules::Family;
use crate::support::serve::Service;
use crate::support::wire::{
    Addresses, BEHIND, HERE, HERE_FAR, HERE_INNER, LOOPBACK, THERE, THERE_FAR, three_hosts,
};

/// What the machine's resolv.conf names.
pub(super) const RESOLVER: Addresses = THERE;
/// Where capture sends what it takes.
const CAPTURE: [u16; 4] = [15001, 15006, 16001, 16006];
/// Where the agent answers queries.
const AGENT: [u16; 2] = [15053, 1053];
/// Where applications listen, on each host.
const TCP: [u16; 9] = [22, 53, 80, 443, 8001, 8080, 9090, 15008, 15021];
const UDP: [u16; 2] = [53, 80];
/// What is never used twice: conntrack remembers.
const FIRST_PORT: u16 = 20_000;

/// `behind` reaches `there` through `here`, whose traffic is captured.
pub(super) struct World {
    pub(super) here: Netns,
    there: Netns,
    behind: Netns,
    next_port: u16,
}

impl World {
    /// Its proxy takes connections to addresses of other hosts as well, for TPROXY.
    pub(super) fn new() -> Self {
        Self::with(|here, name, port| drop(Service::transparent(here, ROOT_PROXY, name, &[port])))
    }

    /// Its proxy is the one that every policy names: at the sockets nobody else's gets what arrives.
    pub(super) fn at_sockets() -> Self {
        Self::with(|here, name, port| drop(Service::tcp(here, PROXY, name, &[port])))
    }

    fn with(proxy: fn(&Netns, &str, u16)) -> Self {
        resolvers(&Family::BOTH.map(|family| RESOLVER.ip(family)));
        let (here, there, behind) = three_hosts();
        for family in Family::BOTH {
            let (inner, gateway) = (HERE_INNER.ip(family), HERE.ip(family));
            there.ip(&format!("route add {inner} via {gateway}"));
        }
        // That nobody listens is told each time, not some times in a second (ip-sysctl.rst).
        for netns in [&here, &there, &behind] {
            for key in ["ipv4/icmp_ratelimit", "ipv6/icmp/ratelimit"] {
                netns.sysctl(&format!("net/{key}"), "0");
            }
            for key in ["icmp_msgs_per_sec", "icmp_msgs_burst"] {
                netns.sysctl(&format!("net/ipv4/{key}"), "1000000");
            }
        }
        for port in CAPTURE {
            // Transparent ones take what REDIRECT sends as well.
            proxy(&here, &listener(port).expect("somebody listens"), port);
        }
        for port in AGENT {
            let name = listener(port).expect("somebody listens");
            Service::tcp(&here, PROXY, &name, &[port]);
            let agent = Family::BOTH.map(|family| LOOPBACK.port(family, port));
            // The zone of its answers is known by their user.
            Service::udp_at(&here, PROXY, &name, &agent);
        }
        for (name, netns, addresses) in [
            ("here", &here, vec![LOOPBACK, HERE, HERE_FAR, HERE_INNER]),
            ("there", &there, vec![THERE, THERE_FAR]),
            ("behind", &behind, vec![BEHIND]),
        ] {
            Service::tcp(netns, Who::ROOT, name, &TCP);
            for port in UDP {
                let of = |address: &Addresses| Family::BOTH.map(|family| address.port(family, port));
                let mut all: Vec<_> = addresses.iter().flat_map(of).collect();
                all.extend((name == "here").then(|| neighbour(port)));
                // A socket for each address, which answers from the very same.
                Service::udp_at(netns, Who::ROOT, name, &all);
            }
        }
        Self { here, there, behind, next_port: FIRST_PORT }
    }

    pub(super) fn clean(&self) {
        mesh_init(&self.here, &["clean", "--all"]).code(0);
    }

    pub(super) fn netns(&self, origin: Origin) -> &Netns {
        match origin {
            Origin::Here => &self.here,
            Origin::There => &self.there,
            Origin::Behind => &self.behind,
        }
    }

    /// A source port that no connection had before.
    pub(super) fn port(&mut self) -> u16 {
        self.next_port += 1;
        self.next_port
    }
}

/// Whether an address is one of `here`.
fn is_own(ip: IpAddr) -> bool {
    let own = [HERE, HERE_FAR, HERE_INNER];
    ip.is_loopback() || Family::BOTH.iter().any(|family| own.iter().any(|of| of.ip(*family) == ip))
}

fn is(ip: IpAddr, one_of: &[Addresses]) -> bool {
    Family::BOTH.iter().any(|family| one_of.iter().any(|of| of.ip(*family) == ip))
}

/// The interface of `here` by which `ip` is reached.
pub(super) fn interface(ip: IpAddr) -> IfName {
    let name = match is(ip, &[BEHIND]) {
        _ if is_own(ip) => "lo",
        true => "eth1",
        false => "eth0",
    };
    name.parse().expect("an interface's name")
}

/// Where the kernel sends from, unless the client says so itself.
fn source(attempt: &Attempt) -> IpAddr {
    let (family, to) = (attempt.family(), attempt.to.ip());
    match (attempt.sends, attempt.from) {
        (Sends::Passthrough, _) => match family {
            Family::V4 => Ipv4Addr::new(127, 0, 0, 6).into(),
            Family::V6 => Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6).into(),
        },
        (Sends::AsTheClient(_), _) => THERE.ip(family),
        (Sends::Plainly, Origin::Here) => match () {
            // ip-route(8): the local table has one route for all of 127.0.0.0/8, with that source.
            () if to.is_loopback() => LOOPBACK.ip(family),
            () if is_own(to) => to,
            () if is(to, &[BEHIND]) => HERE_INNER.ip(family),
            () if is(to, &[THERE_FAR]) => HERE_FAR.ip(family),
            () => HERE.ip(family),
        },
        (Sends::Plainly, Origin::There) if is(to, &[HERE_FAR]) => THERE_FAR.ip(family),
        (Sends::Plainly, Origin::There) => THERE.ip(family),
        (Sends::Plainly, Origin::Behind) => BEHIND.ip(family),
    }
}

/// What the attempt is to the evaluator.
pub(super) fn conn(attempt: &Attempt, port: u16) -> Conn {
    let local = is_own(attempt.to.ip());
    let Who { uid, gid } = attempt.who;
    let outbound = attempt.from == Origin::Here;
    Conn {
        direction: if outbound { Direction::Outbound } else { Direction::Inbound },
        protocol: if attempt.udp { Protocol::Udp } else { Protocol::Tcp },
        source: SocketAddr::new(source(attempt), port),
        destination: attempt.to,
        sender: outbound.then(|| Sender { uid, gid, groups: Vec::new() }),
        interface: match attempt.from {
            Origin::Here => interface(attempt.to.ip()),
            Origin::There => interface(THERE.ip(attempt.family())),
            Origin::Behind => interface(BEHIND.ip(attempt.family())),
        },
        local,
        mark: if let Sends::AsTheClient(mark) = attempt.sends { mark } else { 0 },
        connmark: 0,
        first: true,
        state: ConnState::New,
    }
}

/// Who listens at a port of `here` that capture sends to. TPROXY leaves addresses alone, so the name has to tell.
pub(super) fn listener(port: u16) -> Option<String> {
    (CAPTURE.contains(&port) || AGENT.contains(&port)).then(|| format!("here@{port}"))
}

/// Who listens at an address when nothing is captured.
pub(super) fn server(to: SocketAddr, udp: bool) -> Option<String> {
    let (ip, port) = (to.ip(), to.port());
    let name = match is(ip, &[THERE, THERE_FAR]) {
        _ if is_own(ip) => "here",
        true => "there",
        false => "behind",
    };
    let ports: &[u16] = if udp { &UDP } else { &TCP };
    match listener(port).filter(|_| name == "here") {
        Some(agent) if AGENT.contains(&port) => (!udp || is(ip, &[LOOPBACK])).then_some(agent),
        Some(proxy) => (!udp).then_some(proxy),
        None => ports.contains(&port).then(|| name.to_owned()),
    }
}

/// Where a redirected connection arrives: net/netfilter/nf_nat_redirect.c.
pub(super) fn redirected_to(attempt: &Attempt, ip: IpAddr) -> bool {
    match attempt.from {
        Origin::Here => is(ip, &[LOOPBACK]),
        // IPv6 has no order among an interface's addresses that is worth relying on.
        Origin::There if attempt.to.is_ipv6() => is(ip, &[HERE, HERE_FAR]),
        Origin::There => is(ip, &[HERE]),
        Origin::Behind => is(ip, &[HERE_INNER]),
    }
}
