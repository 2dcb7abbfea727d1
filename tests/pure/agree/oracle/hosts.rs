//! A pod under the rules of `proxy_init` 0.7.1, and a host that is not all ours.

use mesh_init::eval::probing::Direction;
use mesh_init::policy::{Destinations, Inbound, Owners, Port};

use super::Question;

/// What a scoped `*` never captures, beside the capture ports: SSH and the proxy's own services.
const RESERVED: [u16; 5] = [22, 15000, 15020, 15021, 15090];

impl Question<'_> {
    /// The layout of 0.7.1: all TCP in both directions.
    pub(super) fn in_a_pod_of_old(self) -> Option<Port> {
        let captured = self.begins()
            && self.is_tcp()
            && match self.conn.direction {
                Direction::Inbound => true,
                Direction::Outbound => self.looks_outbound() && self.leaves_a_pod_of_old(),
            };
        captured.then_some(self.policy.proxy.port)
    }

    fn leaves_a_pod_of_old(self) -> bool {
        self.is_to_own_address_over_lo()
            || !self.is_the_proxys() && !self.is_to_loopback() && self.is_destination_included()
    }

    /// With nothing to capture outbound nothing outbound is looked at.
    fn looks_outbound(self) -> bool {
        match &self.policy.outbound.destinations {
            Destinations::All { .. } => true,
            Destinations::Some { cidrs, ports } => !cidrs.is_empty() || !ports.is_empty(),
        }
    }

    /// Peculiar: over lo anything but the one loopback address is captured, whoever sends it and whatever networks
    /// are named. A proxy must dial 127.0.0.1 for what arrives.
    fn is_to_own_address_over_lo(self) -> bool {
        self.stays_here() && !self.is_to_loopback()
    }

    /// The scoped layout.
    pub(super) fn on_a_host(self) -> Option<Port> {
        let proxy = &self.policy.proxy;
        if !self.begins() || !self.asks() || self.uses_one_of(&self.policy.interfaces.exclude) {
            return None;
        }
        match self.conn.direction {
            Direction::Outbound => self.leaves_an_owner().then_some(proxy.port),
            Direction::Inbound => self.is_for_a_named_port().then_some(proxy.inbound_port),
        }
    }

    fn leaves_an_owner(self) -> bool {
        let outbound = &self.policy.outbound;
        let excluded = self.is_to_one_of(&outbound.exclude_ports) || self.to_one_of(&outbound.exclude_cidrs);
        let needed = self.is_to_the_proxy_here() || self.is_dns_over_tcp();
        self.is_an_owners() && self.is_destination_included() && !excluded && !needed && !self.is_the_proxys()
    }

    fn is_an_owners(self) -> bool {
        match &self.policy.outbound.owners {
            Owners::Everyone => false,
            Owners::Only { uids, gids } => {
                uids.iter().any(|uid| self.is_of_user(uid.number()))
                    || gids.iter().any(|gid| self.is_of_group(gid.number()))
            }
        }
    }

    /// Who dials the proxy itself is not sent there another time.
    fn is_to_the_proxy_here(self) -> bool {
        let proxy = &self.policy.proxy;
        self.conn.local
            && (self.is_to_port(proxy.port.number()) || self.is_to_port(proxy.inbound_port.number()))
    }

    /// Resolvers answer DNS, the mesh does not.
    fn is_dns_over_tcp(self) -> bool {
        self.is_to_port(53)
    }

    /// What passes through the host is never ours.
    fn is_for_a_named_port(self) -> bool {
        let proxy = &self.policy.proxy;
        let reserved = RESERVED.into_iter().chain([proxy.port.number(), proxy.inbound_port.number()]);
        self.conn.local
            && match &self.policy.inbound {
                Inbound::Only(ports) => self.is_to_one_of(ports),
                Inbound::AllExcept(ports) => {
                    !self.is_to_one_of(ports) && !reserved.into_iter().any(|port| self.is_to_port(port))
                }
            }
    }
}
