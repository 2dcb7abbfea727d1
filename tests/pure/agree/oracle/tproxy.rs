//! What TPROXY gives to the proxy's transparent socket, of what arrives and of what comes back over lo.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use mesh_init::eval::Conn;
use mesh_init::eval::probing::Direction;
use mesh_init::policy::Port;
use mesh_init::rules::ConnState;

use super::Question;
use super::pods::Pod;

/// By which upstream knows the proxy's calls to its own pod.
const SELF: u32 = 1338;

impl Pod<'_> {
    /// Whether TPROXY gives it to the proxy; `redirected` is where REDIRECT sends it.
    pub(super) fn is_given_by_tproxy(self, redirected: Option<Port>) -> bool {
        if !self.is_tproxy() || !self.wants_inbound() || !self.question.is_tcp() {
            return false;
        }
        match self.question.conn.direction {
            Direction::Inbound => self.is_given_on_arrival(),
            Direction::Outbound => self.letter && self.is_given_over_lo(redirected),
        }
    }

    fn is_given_on_arrival(self) -> bool {
        !self.arrives_by_an_excluded_interface()
            && !self.is_left_to_nat()
            && !self.is_marked_as_sent()
            && !self.belongs_to_a_known_connection()
            && !self.question.is_to_loopback()
            && self.is_inbound_port_wanted(self.question)
    }

    /// What REDIRECT leaves alone or takes. Peculiar, upstream: TPROXY knows neither the tunnel nor the interfaces of
    /// virtual machines.
    fn is_left_to_nat(self) -> bool {
        !self.letter && (self.is_rerouted() || self.is_through_the_tunnel())
    }

    /// Peculiar, upstream: what arrives with the proxy's mark counts as sent by the proxy.
    fn is_marked_as_sent(self) -> bool {
        self.letter && self.question.conn.mark == self.question.policy.tproxy_mark.0
    }

    /// A later packet goes to the socket that has the connection. Peculiar, upstream: a first packet too, if conntrack
    /// remembers an earlier connection from the same port.
    fn belongs_to_a_known_connection(self) -> bool {
        let known = matches!(self.question.conn.state, ConnState::Related | ConnState::Established);
        known && (self.letter || !self.question.asks())
    }

    // --- over lo ---

    /// A packet of this host's arrives at this host.
    pub(super) fn comes_back(self) -> bool {
        self.question.stays_here() || self.answers_what_the_proxy_sent()
    }

    /// Marked in conntrack: it answers what the proxy sent with a client's address, and comes back to the proxy.
    fn answers_what_the_proxy_sent(self) -> bool {
        let Question { policy, conn } = self.question;
        let left_alone = self.question.uses_one_of(&policy.interfaces.exclude);
        let mark = policy.tproxy_mark.0;
        let tproxy = self.is_tproxy() && self.wants_inbound() && self.question.is_tcp();
        tproxy && !left_alone && conn.connmark == mark && conn.mark != mark
    }

    /// Peculiar, upstream: what comes back over lo with the mark of the proxy's calls to itself is given to the proxy:
    /// every call that REDIRECT has not taken yet, so those of a shadowed identity, by HBONE and to excluded
    /// outbound ports, too; and a redirected one, if the loopback network is a chosen one without 127.0.0.1.
    fn is_given_over_lo(self, redirected: Option<Port>) -> bool {
        let Question { policy, conn } = self.question;
        let from = conn.source.ip();
        let passed_through =
            from == IpAddr::from([127, 0, 0, 6]) || from == IpAddr::from([0, 0, 0, 0, 0, 0, 0, 6]);
        let arriving = Conn {
            destination: match redirected {
                None => conn.destination,
                Some(port) if conn.destination.is_ipv4() => {
                    SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port.number())
                }
                Some(port) => SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port.number()),
            },
            ..conn.clone()
        };
        let arriving = Question { policy, conn: &arriving };
        (self.comes_back() || redirected.is_some())
            && !self.arrives_by_an_excluded_interface()
            && self.carries_the_self_mark()
            && !passed_through
            && !self.belongs_to_a_known_connection()
            && !arriving.is_to_loopback()
            && self.is_inbound_port_wanted(arriving)
    }

    /// The proxy's calls to its own addresses are marked, unless the proxy sends with a client's address; an
    /// application may mark, too.
    fn carries_the_self_mark(self) -> bool {
        let Question { policy, conn } = self.question;
        let mark = policy.tproxy_mark.0;
        let left_alone = self.question.uses_one_of(&policy.interfaces.exclude);
        let of_a_client = !left_alone && conn.connmark == mark;
        let call =
            self.question.stays_here() && self.question.is_the_proxys() && !self.question.is_to_loopback();
        let marked = conn.mark == SELF || (call && !left_alone);
        marked && conn.mark != mark && !of_a_client
    }
}
