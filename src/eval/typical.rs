//! Connections that show what a policy does: one of each kind that it says anything about.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Conn;
use super::conn::Sender;
use crate::policy::{
    CapturePolicy, Cidr, Destinations, Dns, Families, Family, Groups, IfName, Inbound, Owners, Port, PortSet,
};
use crate::rules::Protocol;

/// A kind of connection, and one of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Typical {
    /// The kind, in words.
    pub kind: String,
    /// One of it.
    pub conn: Conn,
}

/// A port of no service in particular, and an ordinary one.
const NOBODYS: u16 = 48_291;
const WEB: u16 = 80;
const DNS: u16 = 53;
/// Where other hosts are: RFC 5737 section 4, RFC 3849.
const THERE_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const THERE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
/// This host's own address.
const HERE_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
const HERE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9);

/// The kinds that `policy` says anything about, and those that every policy does.
#[must_use]
pub fn typical(policy: &CapturePolicy, families: Families) -> Vec<Typical> {
    families
        .list()
        .iter()
        .flat_map(|family| Kinds { policy, family: *family, kinds: Vec::new() }.all())
        .collect()
}

struct Kinds<'a> {
    policy: &'a CapturePolicy,
    family: Family,
    kinds: Vec<Typical>,
}

impl Kinds<'_> {
    fn all(mut self) -> Vec<Typical> {
        self.outbound();
        self.proxy();
        self.dns();
        self.inbound();
        self.kinds
    }

    fn add(&mut self, kind: impl Into<String>, conn: Conn) {
        self.kinds.push(Typical { kind: kind.into(), conn });
    }

    fn there(&self, port: u16) -> SocketAddr {
        let address: IpAddr = if self.family == Family::V4 { THERE_V4.into() } else { THERE_V6.into() };
        SocketAddr::new(address, port)
    }

    fn here(&self, port: u16) -> SocketAddr {
        let address: IpAddr = if self.family == Family::V4 { HERE_V4.into() } else { HERE_V6.into() };
        SocketAddr::new(address, port)
    }

    fn loopback(&self, port: u16) -> SocketAddr {
        let address: IpAddr =
            if self.family == Family::V4 { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
        SocketAddr::new(address, port)
    }

    /// From the user whose traffic is captured.
    fn out(&self, to: SocketAddr) -> Conn {
        let mut conn = Conn::out(Protocol::Tcp, to);
        if let (Owners::Only { uids, gids }, Some(sender)) = (&self.policy.outbound.owners, &mut conn.sender)
        {
            match (uids.first(), gids.first()) {
                (Some(uid), _) => (sender.uid, sender.gid) = (uid.number(), uid.number()),
                (None, Some(gid)) => sender.gid = gid.number(),
                (None, None) => {}
            }
        }
        if let (Groups::Only(gids), Some(sender)) = (&self.policy.outbound.groups, &mut conn.sender)
            && let Some(gid) = gids.first()
        {
            sender.gid = gid.number();
        }
        conn
    }

    fn over_lo(mut conn: Conn) -> Conn {
        (conn.local, conn.interface) = (true, IfName::lo());
        conn.source = SocketAddr::new(conn.destination.ip(), conn.source.port());
        conn
    }

    fn outbound(&mut self) {
        let outbound = &self.policy.outbound;
        let web = self.out(self.there(WEB));
        self.add("application to another host", web.clone());
        match &outbound.destinations {
            Destinations::All { .. } => {}
            Destinations::Some { cidrs, ports } => {
                if let Some(address) = self.first_of(cidrs) {
                    self.add(
                        "application to an included network",
                        self.out(SocketAddr::new(address, NOBODYS)),
                    );
                }
                if let Some(port) = first(ports) {
                    self.add("application to an included port", self.out(self.there(port)));
                }
            }
        }
        if let Some(address) = self.first_of(&outbound.exclude_cidrs) {
            self.add("application to an excluded network", self.out(SocketAddr::new(address, WEB)));
        }
        if let Some(port) = first(&outbound.exclude_ports) {
            self.add("application to an excluded port", self.out(self.there(port)));
        }
        if let Some(name) = self.policy.interfaces.exclude.first() {
            let conn = Conn { interface: real(name), ..web.clone() };
            self.add("application by an excluded interface", conn);
        }
        if let Groups::AllExcept(gids) = &outbound.groups
            && let Some(gid) = gids.first()
        {
            let sender = web.sender.clone().map(|sender| Sender { gid: gid.number(), ..sender });
            self.add("application of an excluded group", Conn { sender, ..web.clone() });
        }
        if outbound.owners != Owners::Everyone || matches!(outbound.groups, Groups::Only(_)) {
            self.add("somebody else to another host", Conn::out(Protocol::Tcp, self.there(WEB)));
        }
        self.add("application to loopback", self.out(self.loopback(NOBODYS)));
        self.add("application to an address of this host", Self::over_lo(self.out(self.here(NOBODYS))));
        let udp = Conn { protocol: Protocol::Udp, ..self.out(self.there(NOBODYS)) };
        self.add("application to another host, UDP", udp);
        self.add("a later packet of an old connection", later(web));
    }

    fn proxy(&mut self) {
        let proxy = &self.policy.proxy;
        let uids = proxy.uids.iter().map(|uid| (format!("proxy, uid {uid}"), Some(uid.number()), None));
        let gids = proxy.gids.iter().map(|gid| (format!("proxy, gid {gid}"), None, Some(gid.number())));
        let owners: Vec<_> = uids.chain(gids).collect();
        for (who, uid, gid) in owners {
            let of = |mut conn: Conn| {
                if let Some(sender) = &mut conn.sender {
                    sender.uid = uid.unwrap_or(sender.uid);
                    sender.gid = gid.or(uid).unwrap_or(sender.gid);
                }
                conn
            };
            self.add(format!("{who}, to another host"), of(Conn::out(Protocol::Tcp, self.there(WEB))));
            let own = Self::over_lo(Conn::out(Protocol::Tcp, self.here(NOBODYS)));
            self.add(format!("{who}, to an address of this host"), of(own));
        }
        let passthrough = self.family.passthrough().first_address();
        let mut through = Self::over_lo(Conn::out(Protocol::Tcp, self.here(NOBODYS)));
        through.source = SocketAddr::new(passthrough, through.source.port());
        if let Some(sender) = &mut through.sender {
            let uid = proxy.uids.first().map_or(sender.uid, |uid| uid.number());
            (sender.uid, sender.gid) = (uid, proxy.gids.first().map_or(uid, |gid| gid.number()));
        }
        self.add("what the proxy passes through to the application", through);
    }

    fn dns(&mut self) {
        let listed = match &self.policy.dns {
            Dns::Servers { servers, .. } => {
                servers.iter().copied().find(|server| server.is_ipv4() == (self.family == Family::V4))
            }
            Dns::Off | Dns::All { .. } => None,
        };
        let of = |protocol: Protocol, address: IpAddr| Conn {
            protocol,
            ..self.out(SocketAddr::new(address, DNS))
        };
        let there = self.there(DNS).ip();
        let mut kinds = Vec::new();
        for (protocol, name) in [(Protocol::Udp, "UDP"), (Protocol::Tcp, "TCP")] {
            if let Some(server) = listed {
                kinds.push((format!("DNS over {name} to a listed server"), of(protocol.clone(), server)));
            }
            kinds.push((format!("DNS over {name}"), of(protocol, there)));
        }
        for (kind, conn) in kinds {
            self.add(kind, conn);
        }
    }

    fn inbound(&mut self) {
        let into = |port: u16| Conn::into(Protocol::Tcp, self.here(port));
        let mut kinds = vec![("a port of the application".to_owned(), into(NOBODYS))];
        match &self.policy.inbound {
            Inbound::AllExcept(excluded) => {
                kinds.extend(first(excluded).map(|port| (format!("excluded port {port}"), into(port))));
            }
            Inbound::Only(ports) => {
                kinds.extend(first(ports).map(|port| (format!("included port {port}"), into(port))));
            }
        }
        let tunnel = self.policy.proxy.tunnel_port.number();
        kinds.push((format!("the tunnel port {tunnel}"), into(tunnel)));
        kinds.push(("SSH".to_owned(), into(22)));
        let interfaces = &self.policy.interfaces;
        if let Some(name) = interfaces.exclude.first() {
            kinds.push((
                "by an excluded interface".to_owned(),
                Conn { interface: real(name), ..into(NOBODYS) },
            ));
        }
        if let Some(name) = interfaces.reroute.first() {
            let through = Conn::into(Protocol::Tcp, self.there(WEB));
            let through = Conn { interface: real(name), local: false, ..through };
            kinds.push(("from a rerouted interface, to another host".to_owned(), through));
        }
        let through = Conn { local: false, ..Conn::into(Protocol::Tcp, self.there(WEB)) };
        kinds.push(("passing through this host".to_owned(), through));
        for (kind, conn) in kinds {
            self.add(format!("inbound: {kind}"), conn);
        }
    }

    fn first_of(&self, cidrs: &[Cidr]) -> Option<IpAddr> {
        cidrs.iter().find(|cidr| cidr.family() == self.family).map(Cidr::first_address)
    }
}

/// An interface that a name with a trailing `+` means.
fn real(name: &IfName) -> IfName {
    name.as_str()
        .strip_suffix('+')
        .and_then(|name| format!("{name}0").parse().ok())
        .unwrap_or_else(|| name.clone())
}

fn first(ports: &PortSet) -> Option<u16> {
    ports.ranges().first().map(|range| Port::number(range.first))
}

fn later(conn: Conn) -> Conn {
    Conn { first: false, state: crate::rules::ConnState::Established, ..conn }
}
