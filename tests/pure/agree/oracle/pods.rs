//! A pod of today's Istio, read as it is meant or to upstream's letter.

use mesh_init::eval::probing::Direction;
use mesh_init::eval::{Capture, Outcome};
use mesh_init::policy::{Destinations, Dns, Groups, IfName, Inbound, Mode, Port};
use mesh_init::rules::ConnState;

use super::{Question, by_redirect};

/// A pod, and a connection of it.
#[derive(Clone, Copy)]
pub(super) struct Pod<'a> {
    pub(super) question: Question<'a>,
    /// To upstream's letter.
    pub(super) letter: bool,
}

/// One of the identities that the proxy is known by.
#[derive(Clone, Copy)]
enum Identity {
    User(u32),
    Group(u32),
}

impl Pod<'_> {
    pub(super) fn outcome(self) -> Outcome {
        if self.is_dropped() {
            return Outcome::Dropped;
        }
        let redirected = self.question.begins().then(|| match self.question.conn.direction {
            Direction::Outbound => self.redirected_outbound(),
            Direction::Inbound => self.redirected_inbound(),
        });
        let redirected = redirected.flatten();
        let port = self.question.policy.proxy.inbound_port;
        match (self.is_given_by_tproxy(redirected), redirected) {
            (false, redirected) => by_redirect(redirected),
            (true, None) => Outcome::Captured { port, by: Capture::Tproxy },
            // Peculiar: TPROXY decides which socket gets it, and REDIRECT what the socket takes for its address.
            (true, Some(_)) => Outcome::Captured { port, by: Capture::Redirect },
        }
    }

    /// What fits no connection is dropped where it arrives, from this host itself too.
    fn is_dropped(self) -> bool {
        let Question { policy, conn } = self.question;
        let arrives = conn.direction == Direction::Inbound || self.comes_back();
        policy.drop_invalid && conn.state == ConnState::Invalid && arrives && !self.is_let_in_though_invalid()
    }

    /// Peculiar: TPROXY leaves an excluded interface alone before it drops anything; REDIRECT drops there too.
    fn is_let_in_though_invalid(self) -> bool {
        self.is_tproxy() && self.arrives_by_an_excluded_interface()
    }

    /// The excluded interfaces may cover lo, over which what stays here arrives.
    pub(super) fn arrives_by_an_excluded_interface(self) -> bool {
        let Question { policy, conn } = self.question;
        let lo = IfName::lo();
        let arriving = if conn.direction == Direction::Inbound { &conn.interface } else { &lo };
        policy.interfaces.exclude.iter().any(|of| of.covers(arriving))
    }

    pub(super) fn is_tproxy(self) -> bool {
        self.question.policy.mode == Mode::Tproxy
    }

    /// Anything inbound is to be captured.
    pub(super) fn wants_inbound(self) -> bool {
        !matches!(&self.question.policy.inbound, Inbound::Only(ports) if ports.is_empty())
    }

    // --- inbound ---

    /// Where REDIRECT sends what arrives.
    fn redirected_inbound(self) -> Option<Port> {
        let Question { policy, .. } = self.question;
        if !self.question.is_tcp() {
            return None;
        }
        if self.is_rerouted() {
            return self.is_taken_from_a_virtual_machine().then_some(policy.proxy.port);
        }
        let left_alone = self.arrives_by_an_excluded_interface() || self.is_through_the_tunnel();
        let captured = !self.is_tproxy() && !left_alone && self.is_inbound_port_wanted(self.question);
        captured.then_some(policy.proxy.inbound_port)
    }

    /// It comes from a virtual machine in the pod: outbound traffic, although it arrives.
    pub(super) fn is_rerouted(self) -> bool {
        self.question.uses_one_of(&self.question.policy.interfaces.reroute)
    }

    /// Peculiar: of what is captured outbound only the networks count for a virtual machine: no port that is named
    /// or excluded, no excluded network, and not that its interface is excluded, too.
    fn is_taken_from_a_virtual_machine(self) -> bool {
        match &self.question.policy.outbound.destinations {
            Destinations::All { .. } => true,
            Destinations::Some { cidrs, .. } => self.question.to_one_of(cidrs),
        }
    }

    /// HBONE ends in the proxy by itself.
    pub(super) fn is_through_the_tunnel(self) -> bool {
        self.question.is_to_port(self.question.policy.proxy.tunnel_port.number())
    }

    pub(super) fn is_inbound_port_wanted(self, question: Question<'_>) -> bool {
        match &question.policy.inbound {
            Inbound::AllExcept(ports) => !question.is_to_one_of(ports),
            Inbound::Only(ports) => question.is_to_one_of(ports),
        }
    }

    // --- outbound ---

    /// Where REDIRECT sends what a process of the pod begins.
    fn redirected_outbound(self) -> Option<Port> {
        let Question { policy, .. } = self.question;
        let outbound = &policy.outbound;
        if self.question.uses_one_of(&policy.interfaces.exclude)
            || self.question.is_to_one_of(&outbound.exclude_ports)
            || self.is_handed_on_to_the_application()
        {
            return None;
        }
        match self.own() {
            Own::CallToItself => return Some(policy.proxy.inbound_port),
            Own::Other => return None,
            Own::Not => {}
        }
        if self.is_of_a_group_left_alone() {
            return None;
        }
        if let Some(port) = self.captured_dns() {
            return Some(port);
        }
        let excluded = self.question.is_to_loopback() || self.question.to_one_of(&outbound.exclude_cidrs);
        let captured = self.question.is_tcp() && !excluded && self.question.is_destination_included();
        captured.then_some(policy.proxy.port)
    }

    /// The proxy gives the application what arrived for it: from its passthrough address, or with TPROXY from the
    /// client's own, which the mark tells, the packet's or its connection's.
    fn is_handed_on_to_the_application(self) -> bool {
        let Question { policy, conn } = self.question;
        let passthrough = if conn.family() == mesh_init::policy::Family::V4 { "127.0.0.6" } else { "::6" };
        let from_passthrough = conn.source.ip().to_string() == passthrough;
        let marked = [conn.mark, conn.connmark].contains(&policy.tproxy_mark.0);
        let by_mark = self.is_tproxy() && !self.letter && self.question.is_tcp() && marked;
        self.question.stays_here() && (from_passthrough || by_mark)
    }

    fn identities(self) -> Vec<Identity> {
        let proxy = &self.question.policy.proxy;
        let users = proxy.uids.iter().map(|uid| Identity::User(uid.number()));
        users.chain(proxy.gids.iter().map(|gid| Identity::Group(gid.number()))).collect()
    }

    fn is_of(self, identity: Identity) -> bool {
        match identity {
            Identity::User(uid) => self.question.is_of_user(uid),
            Identity::Group(gid) => self.question.is_of_group(gid),
        }
    }

    /// Whether the proxy sends it, or it is a call of the application to its own pod, which is not the mesh's.
    fn own(self) -> Own {
        let identities = self.identities();
        let Some(position) = identities.iter().position(|identity| self.is_of(*identity)) else {
            return if self.is_call_to_itself() { Own::Other } else { Own::Not };
        };
        let identity = identities[position];
        if self.is_shadowed(position) || !self.reaches_the_inbound_side(identity) {
            return Own::Other;
        }
        Own::CallToItself
    }

    /// Peculiar, upstream: the first identity's exception for the application's calls over lo also lets the calls of
    /// every later identity past the inbound side.
    fn is_shadowed(self, position: usize) -> bool {
        self.letter && position > 0 && self.is_call_to_itself()
    }

    /// The proxy's call to a service of its own pod passes the inbound side like anybody's, but not by HBONE, and
    /// not the agent's queries to a resolver on this host, which would come back.
    fn reaches_the_inbound_side(self, identity: Identity) -> bool {
        let resolver = self.captures_dns() && self.question.is_to_port(53) && !self.forgets_queries(identity);
        self.question.stays_here()
            && self.question.is_tcp()
            && !self.question.is_to_loopback()
            && !self.is_through_the_tunnel()
            && !resolver
    }

    /// Peculiar, upstream: of an agent that is known by its group the queries are not let past.
    fn forgets_queries(self, identity: Identity) -> bool {
        self.letter && matches!(identity, Identity::Group(_))
    }

    /// The application calls its own pod, and no loopback network is to be captured.
    fn is_call_to_itself(self) -> bool {
        self.question.stays_here() && !self.includes_loopback() && !self.may_be_a_query()
    }

    /// Peculiar: a network that begins at a loopback address, of either family, captures calls over lo to every
    /// address of the pod, in both families.
    fn includes_loopback(self) -> bool {
        match &self.question.policy.outbound.destinations {
            Destinations::All { .. } => false,
            Destinations::Some { cidrs, .. } => cidrs.iter().any(|cidr| {
                cidr.to_string()
                    .split('/')
                    .next()
                    .is_some_and(|first| first.parse::<std::net::IpAddr>().expect("an address").is_loopback())
            }),
        }
    }

    fn captures_dns(self) -> bool {
        self.question.policy.dns != Dns::Off
    }

    /// Where DNS is captured, a query to a resolver on this host is. Peculiar: what is sent by TCP to port 53 of this
    /// host and to no captured server is then captured as if it left the pod.
    fn may_be_a_query(self) -> bool {
        self.captures_dns() && (!self.question.is_tcp() || self.question.is_to_port(53))
    }

    /// Processes whose traffic is left alone, their DNS too.
    fn is_of_a_group_left_alone(self) -> bool {
        let one_of = |groups: &[mesh_init::policy::Gid]| {
            groups.iter().any(|group| self.question.is_of_group(group.number()))
        };
        match &self.question.policy.outbound.groups {
            Groups::AllExcept(groups) => one_of(groups),
            Groups::Only(groups) => !one_of(groups),
        }
    }

    /// Queries to the servers go to the agent, wherever the servers are.
    fn captured_dns(self) -> Option<Port> {
        let (port, captured) = match &self.question.policy.dns {
            Dns::Off => return None,
            Dns::All { port } => (port, true),
            Dns::Servers { port, servers } => (port, servers.contains(&self.question.conn.destination.ip())),
        };
        (captured && self.question.is_to_port(53)).then_some(*port)
    }
}

/// What a connection is to the pod itself.
enum Own {
    /// The proxy's, to a service of its own pod.
    CallToItself,
    /// Anything else of the proxy's, or the application's call to its own pod.
    Other,
    /// Neither.
    Not,
}
