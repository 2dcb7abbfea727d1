//! Random connections that a policy has something to say about: its own values and their neighbours.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use mesh_init::eval::Conn;
use mesh_init::eval::conn::Sender;
use mesh_init::eval::probing::Direction;
use mesh_init::policy::{Cidr, Destinations, Dns, Groups, IfName, Inbound, Mode, Owners, PortSet};
use mesh_init::rules::{ConnState, Protocol};
use proptest::prelude::*;
use proptest::sample::{self, Index};

use super::policies::Subject;

/// Where in the pools a connection's values stand. It knows no policy, so both can be made smaller alone.
#[derive(Clone)]
pub(super) struct Pick {
    outbound: bool,
    protocol: Index,
    destination: Index,
    port: Index,
    source: Index,
    source_port: Index,
    uid: Index,
    gid: Index,
    interface: Index,
    own: bool,
    mark: Index,
    connmark: Index,
    later: bool,
    state: ConnState,
    random: (u32, u128, u16),
}

impl fmt::Debug for Pick {
    /// Nothing: what fails is told as a connection's text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("..")
    }
}

pub(super) fn pick() -> impl Strategy<Value = Pick> {
    let index = any::<Index>;
    let state = prop_oneof![
        12 => Just(ConnState::New),
        3 => Just(ConnState::Established),
        1 => Just(ConnState::Related),
        2 => Just(ConnState::Invalid),
    ];
    let to = (index(), index(), index(), index(), index());
    let who = (index(), index(), index(), any::<bool>());
    let packet = (index(), index(), prop::bool::weighted(0.2), state);
    (any::<bool>(), to, who, packet, any::<(u32, u128, u16)>()).prop_map(
        |(inbound, to, who, (mark, connmark, later, state), random)| Pick {
            outbound: !inbound,
            protocol: to.0,
            destination: to.1,
            port: to.2,
            source: to.3,
            source_port: to.4,
            uid: who.0,
            gid: who.1,
            interface: who.2,
            own: who.3,
            mark,
            connmark,
            later,
            state,
            random,
        },
    )
}

/// Values to choose from, the plainest first.
pub(super) struct Pool {
    addresses: Vec<IpAddr>,
    ports: Vec<u16>,
    source_ports: Vec<u16>,
    uids: Vec<u32>,
    gids: Vec<u32>,
    interfaces: Vec<IfName>,
    marks: Vec<u32>,
    /// Packets with this mark are routed to this host.
    routed: Option<u32>,
}

impl Pool {
    pub(super) fn of(subject: &Subject) -> Pool {
        let policy = &subject.policy;
        let outbound = &policy.outbound;
        let mut networks = [outbound.exclude_cidrs.as_slice(), &[policy.loopback]].concat();
        let mut ports = vec![80, 53, 22, 15000, 15020, 15021, 15090];
        let proxy = &policy.proxy;
        ports.extend([proxy.port, proxy.inbound_port, proxy.tunnel_port].map(|port| port.number()));
        beside(&mut ports, &outbound.exclude_ports);
        match &outbound.destinations {
            Destinations::All { ports: named } => beside(&mut ports, named),
            Destinations::Some { cidrs, ports: named } => {
                beside(&mut ports, named);
                networks.extend(cidrs);
            }
        }
        match &policy.inbound {
            Inbound::AllExcept(named) | Inbound::Only(named) => beside(&mut ports, named),
        }
        let plain = ["10.0.0.5", "fd00::5", "127.0.0.1", "::1", "127.0.0.6", "::6", "192.0.2.1"];
        let mut addresses: Vec<IpAddr> = plain.map(|text| text.parse().expect("an address")).to_vec();
        addresses.extend(networks.iter().flat_map(edges));
        let mut source_ports = vec![40_000, 53];
        if let Dns::All { port } | Dns::Servers { port, .. } = &policy.dns {
            source_ports.push(port.number());
            ports.push(port.number());
            ports.extend([53; 20]);
        }
        if let Dns::Servers { servers, .. } = &policy.dns {
            for _ in 0..4 {
                addresses.extend(servers);
            }
        }
        let mut uids = vec![1000, 0, 1337];
        let mut gids = vec![1000, 0, 1337];
        uids.extend(proxy.uids.iter().flat_map(|uid| [uid.number(), uid.number().saturating_sub(1)]));
        gids.extend(proxy.gids.iter().flat_map(|gid| [gid.number(), gid.number() + 1]));
        if let Owners::Only { uids: users, gids: groups } = &outbound.owners {
            for _ in 0..4 {
                uids.extend(users.iter().map(|uid| uid.number()));
                gids.extend(groups.iter().map(|gid| gid.number()));
            }
        }
        match &outbound.groups {
            Groups::AllExcept(groups) => gids.extend(groups.iter().map(|gid| gid.number())),
            Groups::Only(groups) => {
                for _ in 0..10 {
                    gids.extend(groups.iter().map(|gid| gid.number()));
                }
            }
        }
        let mut interfaces: Vec<IfName> = ["eth0", "eth1"].map(|name| name.parse().expect("a name")).to_vec();
        for name in policy.interfaces.exclude.iter().chain(&policy.interfaces.reroute) {
            let stem = name.as_str().trim_end_matches('+');
            let names = [stem.to_owned(), format!("{stem}0"), stem[..stem.len() - 1].to_owned()];
            interfaces.extend(names.iter().filter_map(|name| name.parse().ok()));
        }
        interfaces.retain(|name| *name != IfName::lo());
        let inbound = !matches!(&policy.inbound, Inbound::Only(ports) if ports.is_empty());
        let mark = policy.tproxy_mark.0;
        Pool {
            addresses,
            ports,
            source_ports,
            uids,
            gids,
            interfaces,
            marks: [&[0; 12][..], &[mark, mark, mark + 1, 1338, 1338]].concat(),
            routed: (policy.mode == Mode::Tproxy && inbound).then_some(mark),
        }
    }

    /// A connection that could be: what goes to this host itself leaves over lo.
    pub(super) fn conn(&self, pick: &Pick) -> Conn {
        let (v4, v6, port) = pick.random;
        let tcp = [Protocol::Tcp, Protocol::Tcp, Protocol::Tcp, Protocol::Tcp];
        let others = [Protocol::Udp, Protocol::Udp, Protocol::Other("icmp".to_owned())];
        let protocol = pick.protocol.get(&[tcp.as_slice(), &others].concat()).clone();
        let random = [IpAddr::V4(v4.into()), IpAddr::V6(v6.into())];
        let address = choose(pick.destination, &self.addresses, random[usize::from(port) % 2]);
        let has_ports = matches!(protocol, Protocol::Tcp | Protocol::Udp);
        let port = if has_ports { choose(pick.port, &self.ports, port) } else { 0 };
        let mark = *pick.mark.get(&self.marks);
        let local = if pick.outbound {
            pick.own || address.is_loopback() || Some(mark) == self.routed
        } else {
            // To this host more often than through it.
            pick.own || v4 % 4 != 0
        };
        let interface =
            if pick.outbound && local { IfName::lo() } else { pick.interface.get(&self.interfaces).clone() };
        let sources = match (address, pick.outbound && local) {
            (IpAddr::V4(_), true) => [address, [127, 0, 0, 6].into(), address],
            (IpAddr::V6(_), true) => [address, [0, 0, 0, 0, 0, 0, 0, 6].into(), address],
            (IpAddr::V4(_), false) => [[192, 0, 2, 7].into(), [10, 0, 0, 53].into(), [127, 0, 0, 6].into()],
            (IpAddr::V6(_), false) => {
                [[0xfd00, 0, 0, 0, 0, 0, 0, 7].into(), [0; 8].into(), [0, 0, 0, 0, 0, 0, 0, 6].into()]
            }
        };
        let source_port = if has_ports { *pick.source_port.get(&self.source_ports) } else { 0 };
        Conn {
            direction: if pick.outbound { Direction::Outbound } else { Direction::Inbound },
            protocol,
            source: SocketAddr::new(*pick.source.get(&sources), source_port),
            destination: SocketAddr::new(address, port),
            sender: pick.outbound.then(|| Sender {
                uid: *pick.uid.get(&self.uids),
                gid: *pick.gid.get(&self.gids),
                groups: Vec::new(),
            }),
            interface,
            local,
            mark,
            connmark: *pick.connmark.get(&self.marks),
            first: !pick.later,
            state: pick.state,
        }
    }
}

/// One of `items`, or now and then the random one.
fn choose<T: Copy>(index: Index, items: &[T], random: T) -> T {
    items.get(index.index(items.len() + 1)).copied().unwrap_or(random)
}

/// The ends of every range, and what lies just outside.
fn beside(ports: &mut Vec<u16>, set: &PortSet) {
    for range in set.ranges() {
        let (first, last) = (range.first.number(), range.last.number());
        ports.extend([first, last, first.saturating_sub(1), last.saturating_add(1)]);
    }
}

/// The first and last address of a network, and what lies just outside.
fn edges(network: &Cidr) -> Vec<IpAddr> {
    let net: IpNet = network.to_string().parse().expect("a network");
    let moved = |address: IpAddr, by: i8| -> IpAddr {
        match address {
            IpAddr::V4(address) => IpAddr::V4(u32::from(address).wrapping_add_signed(by.into()).into()),
            IpAddr::V6(address) => IpAddr::V6(u128::from(address).wrapping_add_signed(by.into()).into()),
        }
    };
    let (first, last) = (net.network(), net.broadcast());
    vec![first, last, moved(first, -1), moved(last, 1)]
}

/// Any connection that the text can say, whether or not it could be.
pub(super) fn any_conn() -> impl Strategy<Value = Conn> {
    let protocol = prop_oneof![
        3 => Just(Protocol::Tcp),
        1 => Just(Protocol::Udp),
        1 => sample::select(vec!["icmp", "ipv6-icmp", "sctp"]).prop_map(|name| Protocol::Other(name.to_owned())),
    ];
    let ends = prop_oneof![
        any::<([u8; 4], [u8; 4])>().prop_map(|(a, b)| (IpAddr::from(a), IpAddr::from(b))),
        any::<([u16; 8], [u16; 8])>().prop_map(|(a, b)| (IpAddr::from(a), IpAddr::from(b))),
        Just(([127, 0, 0, 1].into(), [127, 0, 0, 1].into())),
        Just(([192, 0, 2, 5].into(), [10, 0, 0, 1].into())),
    ];
    let port = || prop_oneof![1 => Just(40_000), 2 => any::<u16>()];
    let id = || prop_oneof![Just(1000), any::<u32>()];
    let who = (id(), id(), proptest::collection::vec(any::<u32>(), 0..3));
    let name = prop_oneof![Just("lo".to_owned()), Just("eth0".to_owned()), "[a-z0-9_][a-z0-9_.@-]{0,13}"];
    let mark = || prop_oneof![Just(0), any::<u32>()];
    let packet = (any::<bool>(), sample::select(ConnState::ALL.to_vec()));
    (any::<bool>(), protocol, (ends, port(), port()), who, name, (any::<bool>(), mark(), mark()), packet)
        .prop_map(
            |(outbound, protocol, (ends, from, to), who, name, (local, mark, connmark), (first, state))| {
                let has_ports = matches!(protocol, Protocol::Tcp | Protocol::Udp);
                let end = |address, port| SocketAddr::new(address, if has_ports { port } else { 0 });
                Conn {
                    direction: if outbound { Direction::Outbound } else { Direction::Inbound },
                    protocol,
                    source: end(ends.0, from),
                    destination: end(ends.1, to),
                    sender: outbound.then_some(Sender { uid: who.0, gid: who.1, groups: who.2 }),
                    interface: name.parse().expect("a name"),
                    local,
                    mark,
                    connmark,
                    first,
                    state,
                }
            },
        )
}
