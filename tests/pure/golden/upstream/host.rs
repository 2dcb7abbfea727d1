//! What a case's machine answers: its addresses, its resolvers, its users and groups.

use std::collections::HashMap;
use std::net::IpAddr;

#[derive(Default)]
pub(super) struct Host {
    addresses: Vec<IpAddr>,
    pub(super) nameservers: Vec<IpAddr>,
    pub(super) users: HashMap<String, u32>,
    pub(super) groups: HashMap<String, u32>,
}

impl Host {
    pub(super) fn read(text: &str) -> Self {
        let mut host = Self::default();
        for line in text.lines() {
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["address", address] => {
                    host.addresses.push(address.parse::<IpAddr>().unwrap().to_canonical())
                }
                // A resolver that is no address is dropped.
                ["nameserver", server] => host.nameservers.extend(server.parse::<IpAddr>()),
                ["user", name, id] => _ = host.users.insert(name.to_owned(), id.parse().unwrap()),
                ["group", name, id] => _ = host.groups.insert(name.to_owned(), id.parse().unwrap()),
                _ => panic!("{line:?} is nothing a machine answers"),
            }
        }
        host
    }

    /// Whether rules are made for IPv6. The kernel lists IPv4 first, and only dual-stack looks past the
    /// first.
    pub(super) fn ipv6(&self, dual_stack: bool) -> bool {
        let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) =
            self.addresses.iter().filter(|address| usable(address)).partition(|address| address.is_ipv4());
        assert!(!(v4.is_empty() && v6.is_empty()), "upstream fails without an address");
        !v6.is_empty() && (dual_stack || v4.is_empty())
    }
}

/// Neither loopback nor link-local.
fn usable(address: &IpAddr) -> bool {
    !address.is_loopback()
        && match address {
            IpAddr::V4(address) => !address.is_link_local(),
            IpAddr::V6(address) => !address.is_unicast_link_local(),
        }
}
