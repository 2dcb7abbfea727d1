//! What a policy means for a connection. Nothing here knows chains, tables or the order of rules: every function is
//! a question about the connection and the policy. What a layout does otherwise than the plain meaning is a function
//! of its own whose comment begins with "Peculiar", and has a test in `peculiar`.

mod hosts;
mod pods;
mod tproxy;

use std::net::IpAddr;

use mesh_init::eval::{Capture, Conn, Outcome};
use mesh_init::policy::{CapturePolicy, Cidr, Destinations, Families, IfName, Layout, Mode, Port, PortSet};
use mesh_init::rules::{ConnState, Protocol};

/// What is to become of `conn`.
pub(super) fn outcome(policy: &CapturePolicy, layout: Layout, families: Families, conn: &Conn) -> Outcome {
    if policy.mode == Mode::None || !families.list().contains(&conn.family()) {
        return Outcome::Passed;
    }
    let question = Question { policy, conn };
    match layout {
        Layout::Classic => by_redirect(question.in_a_pod_of_old()),
        Layout::Scoped => by_redirect(question.on_a_host()),
        Layout::Istio => pods::Pod { question, letter: false }.outcome(),
        Layout::IstioIptables => pods::Pod { question, letter: true }.outcome(),
    }
}

fn by_redirect(port: Option<Port>) -> Outcome {
    port.map_or(Outcome::Passed, |port| Outcome::Captured { port, by: Capture::Redirect })
}

/// A connection, and the policy that is asked.
#[derive(Clone, Copy)]
struct Question<'a> {
    policy: &'a CapturePolicy,
    conn: &'a Conn,
}

impl Question<'_> {
    fn is_tcp(&self) -> bool {
        self.conn.protocol == Protocol::Tcp
    }

    fn is_tcp_or_udp(&self) -> bool {
        matches!(self.conn.protocol, Protocol::Tcp | Protocol::Udp)
    }

    /// Whether the packet decides by REDIRECT: NAT decides what begins a connection, for all of it.
    fn begins(&self) -> bool {
        matches!(self.conn.state, ConnState::New | ConnState::Related)
    }

    /// Whether the packet asks for a connection (a TCP SYN): NAT also decides the next packet of a connection that
    /// is older than the rules.
    fn asks(&self) -> bool {
        self.is_tcp() && self.conn.first
    }

    fn to(self, network: Cidr) -> bool {
        network.contains(self.conn.destination.ip())
    }

    fn to_one_of(self, networks: &[Cidr]) -> bool {
        networks.iter().any(|network| self.to(*network))
    }

    fn is_to_port(&self, number: u16) -> bool {
        self.is_tcp_or_udp() && self.conn.destination.port() == number
    }

    fn is_to_one_of(&self, ports: &PortSet) -> bool {
        let port = Port::of(self.conn.destination.port());
        self.is_tcp_or_udp() && port.is_some_and(|port| ports.contains(port))
    }

    /// It goes to this host itself.
    fn stays_here(&self) -> bool {
        self.conn.interface == IfName::lo()
    }

    fn uses_one_of(&self, interfaces: &[IfName]) -> bool {
        interfaces.iter().any(|of| of.covers(&self.conn.interface))
    }

    fn is_of_group(&self, number: u32) -> bool {
        self.conn.sender.as_ref().is_some_and(|sender| sender.gid == number)
    }

    fn is_of_user(&self, number: u32) -> bool {
        self.conn.sender.as_ref().is_some_and(|sender| sender.uid == number)
    }

    /// It is the proxy's own.
    fn is_the_proxys(&self) -> bool {
        let proxy = &self.policy.proxy;
        proxy.uids.iter().any(|uid| self.is_of_user(uid.number()))
            || proxy.gids.iter().any(|gid| self.is_of_group(gid.number()))
    }

    /// To the address by which a program means its own host.
    fn is_to_loopback(&self) -> bool {
        self.to(loopback(self.policy, self.conn.destination.ip()))
    }

    /// The policy captures connections to there, but for what it excludes.
    fn is_destination_included(&self) -> bool {
        match &self.policy.outbound.destinations {
            Destinations::All { .. } => true,
            Destinations::Some { cidrs, ports } => self.to_one_of(cidrs) || self.is_to_one_of(ports),
        }
    }
}

/// What counts as the loopback destination: only IPv4's can be chosen.
fn loopback(policy: &CapturePolicy, address: IpAddr) -> Cidr {
    if address.is_ipv4() { policy.loopback } else { "::1".parse().expect("an address") }
}
