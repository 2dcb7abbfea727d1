//! What becomes of a connection.
//!
//! The order is that of the policy's clauses: the first that holds decides. A socket hook sees what begins, and only
//! that: there is no state, no mark and no packet here, and what passes through the host is never asked about.

use crate::{Meaning, NetFlags, OwnerFlags, Policy, PolicyFlags, PortFlags};

/// DNS.
const DNS: u16 = 53;

/// Where a connection begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Here: `connect` or `sendmsg` asks.
    Outbound,
    /// Elsewhere: `sk_lookup` asks.
    Inbound,
}

/// A connection, and what the maps hold of it.
#[derive(Debug, Clone, Copy)]
pub struct Flow {
    /// Where it begins.
    pub way: Way,
    /// TCP; else it is UDP.
    pub tcp: bool,
    /// Its destination is an IPv6 address, and not an IPv4 one in IPv6's form.
    pub ipv6: bool,
    /// Outbound: the destination is an address of this host (a loopback one is, [`crate::Address::is_loopback`]).
    /// Inbound: it came over `lo`.
    pub stays: bool,
    /// Outbound: the socket sends from [`crate::Address::is_passthrough`].
    pub from_passthrough: bool,
    /// The destination port, in host byte order.
    pub port: u16,
    /// What the policy says of [`crate::Address::destination`].
    pub networks: NetFlags,
    /// What it says of the destination port.
    pub ports: PortFlags,
    /// What it says of the user who connects; nothing of what arrives.
    pub user: OwnerFlags,
    /// What it says of the group, likewise.
    pub group: OwnerFlags,
}

/// A socket of the proxy's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Socket {
    /// It listens at [`Policy::outbound_port`].
    Outbound,
    /// It listens at [`Policy::inbound_port`].
    Inbound,
    /// It listens at [`Policy::dns_port`].
    Dns,
}

/// What becomes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It goes where it was meant to go.
    Pass,
    /// This socket gets it.
    Capture(Socket),
}

impl Policy {
    /// Where a socket of the proxy's listens.
    #[inline(always)]
    #[must_use]
    pub const fn port(&self, socket: Socket) -> u16 {
        match socket {
            Socket::Outbound => self.outbound_port,
            Socket::Inbound => self.inbound_port,
            Socket::Dns => self.dns_port,
        }
    }
}

macro_rules! clauses {
    ($($(#[$about:meta])* $name:ident = $number:literal,)*) => {
        /// The clause of a policy that decides, by the names that clauses have in `mesh-init`. Its number is the index of
        /// its counter: numbers are never given again.
        #[repr(u32)]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Clause {
            $($(#[$about])* $name = $number,)*
        }

        impl Clause {
            /// Every one, in the order of their numbers.
            pub const ALL: &[Clause] = &[$(Clause::$name),*];
        }
    };
}

clauses! {
    /// No clause says anything.
    Silent = 0,
    /// To an excluded port.
    OutboundExcludePort = 1,
    /// To the loopback address.
    OutboundLoopback = 2,
    /// To an excluded network.
    OutboundExcludeCidr = 3,
    /// To an address of this host other than the loopback one.
    OutboundOwnAddress = 4,
    /// The proxy's own, by its user.
    ProxyUid = 5,
    /// The proxy's own, by its group.
    ProxyGid = 6,
    /// To the proxy's own ports on this host.
    OutboundCapturePort = 7,
    /// DNS over TCP, which is left alone.
    OutboundDns = 8,
    /// To an included port.
    OutboundPort = 9,
    /// To an included network.
    OutboundCidr = 10,
    /// Everything else.
    OutboundAll = 11,
    /// Nothing else.
    OutboundRest = 12,
    /// From the proxy's passthrough address.
    OutboundPassthrough = 13,
    /// The proxy's call to this host.
    ProxySelf = 14,
    /// An application's call to this host.
    OutboundSelf = 15,
    /// Of a group that is not one of the captured.
    OutboundGroup = 16,
    /// Of an excluded group.
    OutboundExcludeGroup = 17,
    /// A DNS query.
    DnsCapture = 18,
    /// To the tunnel port.
    InboundTunnel = 19,
    /// To a port that is never captured by a scoped `*`.
    InboundReserved = 20,
    /// To an excluded port.
    InboundExcludePort = 21,
    /// To a named port.
    InboundPort = 22,
    /// Everything that arrives.
    InboundAll = 23,
}

/// What becomes of a connection, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// What becomes of it.
    pub verdict: Verdict,
    /// Why.
    pub clause: Clause,
}

const fn pass(clause: Clause) -> Decision {
    Decision { verdict: Verdict::Pass, clause }
}

const fn capture(socket: Socket, clause: Clause) -> Decision {
    Decision { verdict: Verdict::Capture(socket), clause }
}

const SILENT: Decision = pass(Clause::Silent);

/// Says what becomes of a connection in a namespace that has `policy`.
#[inline(always)]
#[must_use]
pub fn decide(policy: &Policy, flow: &Flow) -> Decision {
    if flow.ipv6 && !policy.flags.has(PolicyFlags::IPV6) {
        return SILENT;
    }
    match (policy.meaning, flow.way) {
        (Meaning::CLASSIC, Way::Outbound) => classic(policy, flow),
        (Meaning::SCOPED, Way::Outbound) => scoped(policy, flow),
        (Meaning::ISTIO, Way::Outbound) => istio(policy, flow, false),
        (Meaning::ISTIO_IPTABLES, Way::Outbound) => istio(policy, flow, true),
        (Meaning::CLASSIC | Meaning::SCOPED | Meaning::ISTIO | Meaning::ISTIO_IPTABLES, Way::Inbound) => {
            inbound(policy, flow)
        }
        // Captures nothing. Another number is not written: the loader and the programs are of one version.
        (_, Way::Outbound | Way::Inbound) => SILENT,
    }
}

/// Whether anything outbound of the family is looked at.
#[inline(always)]
const fn looks_outbound(policy: &Policy, flow: &Flow) -> bool {
    let family = if flow.ipv6 { PolicyFlags::OUTBOUND_V6 } else { PolicyFlags::OUTBOUND_V4 };
    policy.flags.has(family)
}

/// The proxy's user or group, as the clause that says so.
#[inline(always)]
const fn of_proxy(flow: &Flow) -> Option<Clause> {
    if flow.user.has(OwnerFlags::PROXY) {
        Some(Clause::ProxyUid)
    } else if flow.group.has(OwnerFlags::PROXY) {
        Some(Clause::ProxyGid)
    } else {
        None
    }
}

#[inline(always)]
fn classic(policy: &Policy, flow: &Flow) -> Decision {
    if !flow.tcp || !looks_outbound(policy, flow) {
        return SILENT;
    }
    let loopback = flow.networks.has(NetFlags::LOOPBACK);
    if flow.stays && !loopback {
        return capture(Socket::Outbound, Clause::OutboundOwnAddress);
    }
    if let Some(clause) = of_proxy(flow) {
        return pass(clause);
    }
    if loopback {
        return pass(Clause::OutboundLoopback);
    }
    if policy.flags.has(PolicyFlags::TO_ALL) {
        return capture(Socket::Outbound, Clause::OutboundAll);
    }
    if flow.networks.has(NetFlags::INCLUDED) {
        return capture(Socket::Outbound, Clause::OutboundCidr);
    }
    pass(Clause::OutboundRest)
}

#[inline(always)]
fn scoped(policy: &Policy, flow: &Flow) -> Decision {
    if !flow.tcp || !looks_outbound(policy, flow) {
        return SILENT;
    }
    if flow.ports.has(PortFlags::OUT_EXCLUDED) {
        return pass(Clause::OutboundExcludePort);
    }
    if flow.networks.has(NetFlags::EXCLUDED) {
        return pass(Clause::OutboundExcludeCidr);
    }
    if let Some(clause) = of_proxy(flow) {
        return pass(clause);
    }
    if flow.stays && (flow.port == policy.outbound_port || flow.port == policy.inbound_port) {
        return pass(Clause::OutboundCapturePort);
    }
    if flow.port == DNS {
        return pass(Clause::OutboundDns);
    }
    if !flow.user.and(flow.group).has(OwnerFlags::OWNER) {
        return SILENT;
    }
    included(policy, flow)
}

/// An included port, an included network, or everything.
#[inline(always)]
fn included(policy: &Policy, flow: &Flow) -> Decision {
    if flow.ports.has(PortFlags::OUT_INCLUDED) {
        return capture(Socket::Outbound, Clause::OutboundPort);
    }
    if policy.flags.has(PolicyFlags::TO_ALL) {
        return capture(Socket::Outbound, Clause::OutboundAll);
    }
    if flow.networks.has(NetFlags::INCLUDED) {
        return capture(Socket::Outbound, Clause::OutboundCidr);
    }
    SILENT
}

#[inline(always)]
fn istio(policy: &Policy, flow: &Flow, letter: bool) -> Decision {
    if flow.ports.has(PortFlags::OUT_EXCLUDED) {
        return pass(Clause::OutboundExcludePort);
    }
    if flow.stays && flow.from_passthrough {
        return pass(Clause::OutboundPassthrough);
    }
    if let Some(decision) = identity(policy, flow, letter) {
        return decision;
    }
    let named = flow.group.has(OwnerFlags::GROUP);
    match policy.flags.has(PolicyFlags::GROUPS_ONLY) {
        true if !named => return pass(Clause::OutboundGroup),
        false if named => return pass(Clause::OutboundExcludeGroup),
        true | false => {}
    }
    let asked = policy.flags.has(PolicyFlags::DNS_ALL) || flow.networks.has(NetFlags::DNS_SERVER);
    if flow.port == DNS && policy.flags.has(PolicyFlags::DNS) && asked {
        return capture(Socket::Dns, Clause::DnsCapture);
    }
    if flow.networks.has(NetFlags::LOOPBACK) {
        return pass(Clause::OutboundLoopback);
    }
    if flow.networks.has(NetFlags::EXCLUDED) {
        return pass(Clause::OutboundExcludeCidr);
    }
    if !flow.tcp {
        return SILENT;
    }
    included(policy, flow)
}

/// The proxy's identity, and calls from this host to itself; `None` for anybody else's outbound traffic.
#[inline(always)]
fn identity(policy: &Policy, flow: &Flow, letter: bool) -> Option<Decision> {
    let dns = policy.flags.has(PolicyFlags::DNS);
    // Leaves queries to a resolver on this host to be captured.
    let query = dns && (!flow.tcp || flow.port == DNS);
    let calls_itself = flow.stays && !policy.flags.has(PolicyFlags::TO_LOOPBACK) && !query;
    // Upstream's exception for applications names one identity of the proxy at a time, so the first one's lets the
    // calls of every later one past the inbound side, too.
    if letter && calls_itself && !flow.user.and(flow.group).has(OwnerFlags::FIRST) {
        return Some(pass(Clause::OutboundSelf));
    }
    if let Some(clause) = of_proxy(flow) {
        // The agent's own queries to a resolver on this host must not come back. Upstream forgets them where the agent
        // is known by its group.
        let forgotten = letter && !matches!(clause, Clause::ProxyUid);
        let resolver = dns && flow.port == DNS && !forgotten;
        let passes = flow.networks.has(NetFlags::LOOPBACK) || flow.port == policy.tunnel_port || resolver;
        if flow.stays && flow.tcp && !passes {
            return Some(capture(Socket::Inbound, Clause::ProxySelf));
        }
        return Some(pass(clause));
    }
    if calls_itself {
        return Some(pass(Clause::OutboundSelf));
    }
    None
}

#[inline(always)]
fn inbound(policy: &Policy, flow: &Flow) -> Decision {
    // What came over lo began here, and was decided when it set out.
    if !flow.tcp || flow.stays || !policy.flags.has(PolicyFlags::INBOUND) {
        return SILENT;
    }
    let todays = matches!(policy.meaning, Meaning::ISTIO | Meaning::ISTIO_IPTABLES);
    if todays && flow.port == policy.tunnel_port {
        return pass(Clause::InboundTunnel);
    }
    let named = flow.ports.has(PortFlags::IN_NAMED);
    if !policy.flags.has(PolicyFlags::INBOUND_ALL) {
        return match named {
            true => capture(Socket::Inbound, Clause::InboundPort),
            false => SILENT,
        };
    }
    if flow.ports.has(PortFlags::IN_RESERVED) {
        return pass(Clause::InboundReserved);
    }
    match named {
        true => pass(Clause::InboundExcludePort),
        false => capture(Socket::Inbound, Clause::InboundAll),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy = Policy {
        generation: 7,
        meaning: Meaning::ISTIO,
        flags: PolicyFlags(
            PolicyFlags::OUTBOUND_V4.0
                | PolicyFlags::TO_ALL.0
                | PolicyFlags::INBOUND.0
                | PolicyFlags::INBOUND_ALL.0,
        ),
        outbound_port: 15001,
        inbound_port: 15006,
        tunnel_port: 15008,
        dns_port: 15053,
    };

    fn flow(way: Way, port: u16) -> Flow {
        Flow {
            way,
            tcp: true,
            ipv6: false,
            stays: false,
            from_passthrough: false,
            port,
            networks: NetFlags::NONE,
            ports: PortFlags::NONE,
            user: OwnerFlags::NONE,
            group: OwnerFlags::NONE,
        }
    }

    /// What a connection over lo began as is decided where it begins: the proxy's own way to the application must not
    /// come back to the proxy.
    #[test]
    fn what_arrives_over_lo_is_let_in() {
        let arrives = flow(Way::Inbound, 80);
        assert_eq!(decide(&POLICY, &arrives), capture(Socket::Inbound, Clause::InboundAll));
        assert_eq!(decide(&POLICY, &Flow { stays: true, ..arrives }), SILENT);
        assert_eq!(decide(&POLICY, &Flow { tcp: false, ..arrives }), SILENT);
    }

    /// A family that is not captured is not, in either direction, and an unknown reading captures nothing.
    #[test]
    fn nothing_is_captured_that_is_not_asked_for() {
        for way in [Way::Outbound, Way::Inbound] {
            let plain = flow(way, 80);
            assert!(matches!(decide(&POLICY, &plain).verdict, Verdict::Capture(_)), "{way:?}");
            assert_eq!(decide(&POLICY, &Flow { ipv6: true, ..plain }), SILENT);
            for meaning in [Meaning::NOTHING, Meaning(5), Meaning(u32::MAX)] {
                assert_eq!(decide(&Policy { meaning, ..POLICY }, &plain), SILENT, "{meaning:?}");
            }
        }
    }

    #[test]
    fn each_socket_has_its_port() {
        let ports = [Socket::Outbound, Socket::Inbound, Socket::Dns].map(|socket| POLICY.port(socket));
        assert_eq!(ports, [15001, 15006, 15053]);
    }

    /// Counters are an array.
    #[test]
    fn clauses_are_numbered_from_nothing_without_a_gap() {
        for (number, clause) in (0..).zip(Clause::ALL) {
            assert_eq!(*clause as u32, number);
        }
    }
}
