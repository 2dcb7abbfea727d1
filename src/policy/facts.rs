//! What the machine answers to questions that the input raises, as plain values.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::input::istio::{Given, Means};
use crate::input::{Key, Raw};

/// Answers from files of the machine. Nothing else is ever looked up: no NSS, no DNS, no netlink.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// `/etc/passwd`: name to user id.
    pub users: BTreeMap<String, u32>,
    /// `/etc/group`: name to group id.
    pub groups: BTreeMap<String, u32>,
    /// `/etc/resolv.conf`: the name servers.
    pub resolvers: Vec<IpAddr>,
    /// The addresses of the namespace's interfaces, in the kernel's order, without loopback and link-local ones.
    pub addresses: Vec<IpAddr>,
}

/// Which answers `raw` needs, so that `plan` reads no file for numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Questions {
    /// A user is given by name.
    pub users: bool,
    /// A group is given by name.
    pub groups: bool,
    /// DNS servers are wanted but not named.
    pub resolvers: bool,
    /// The addresses of the interfaces.
    pub addresses: bool,
}

impl Questions {
    /// What `raw` asks.
    #[must_use]
    pub fn of(raw: &Raw) -> Questions {
        let named = |keys: &[Key]| {
            keys.iter().filter_map(|key| raw.get(*key)).flatten().any(|given| is_name(&given.text))
        };
        Questions {
            users: named(&[Key::ProxyUid, Key::UidOwner]),
            groups: named(&[Key::ProxyGid, Key::GidOwner, Key::OwnerGroup, Key::ExcludeOwnerGroup]),
            resolvers: raw.has(Key::RedirectDns) && !raw.has(Key::DnsServer),
            addresses: false,
        }
    }
}

impl Questions {
    /// What a call of `istio-iptables` asks.
    #[must_use]
    pub fn of_istio(given: &Given) -> Questions {
        let text = |key| given.text(Means::Capture(key));
        let uid = text(Key::ProxyUid);
        let groups = [Key::ProxyGid, Key::OwnerGroup, Key::ExcludeOwnerGroup, Key::ProxyUid];
        Questions {
            users: uid.is_empty() || is_name(uid),
            groups: groups.iter().any(|key| is_name(text(*key))),
            resolvers: given.on(Means::Capture(Key::RedirectDns)),
            addresses: true,
        }
    }
}

fn is_name(text: &str) -> bool {
    text.contains(|c: char| c.is_ascii_alphabetic())
}

/// Reads the name and id columns of passwd(5) or group(5); lines that have none are skipped, as `getpwent`
/// skips them. The first entry of a name wins.
#[must_use]
pub fn parse_ids(text: &str) -> BTreeMap<String, u32> {
    let mut ids = BTreeMap::new();
    for line in text.lines() {
        let mut columns = line.split(':');
        let name = columns.next().filter(|name| !name.is_empty() && !name.starts_with(['#', '+', '-']));
        let id = columns.nth(1).and_then(|id| id.parse().ok());
        if let (Some(name), Some(id)) = (name, id) {
            ids.entry(name.to_owned()).or_insert(id);
        }
    }
    ids
}

/// Reads the `nameserver` lines of resolv.conf(5).
#[must_use]
pub fn parse_resolvers(text: &str) -> Vec<IpAddr> {
    text.lines()
        .filter_map(|line| line.strip_prefix("nameserver"))
        .filter_map(|rest| rest.split_whitespace().next())
        .filter_map(|address| address.split('%').next()?.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwd_and_resolv_conf() {
        let ids = parse_ids(
            "root:x:0:0:root:/root:/bin/sh\n# no\n+nis\nbad\nenvoy:x:1337:1337::/:\nenvoy:x:1:1::/:\n",
        );
        assert_eq!(ids.into_iter().collect::<Vec<_>>(), [("envoy".to_owned(), 1337), ("root".to_owned(), 0)]);
        let servers = parse_resolvers(
            "# x\nnameserver 127.0.0.11\nsearch a b\nnameserver fe80::1%eth0\nnameserver x\n",
        );
        assert_eq!(servers, ["127.0.0.11".parse::<IpAddr>().unwrap(), "fe80::1".parse().unwrap()]);
    }
}
