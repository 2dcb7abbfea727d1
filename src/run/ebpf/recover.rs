//! From what the maps of the BPF programs hold back to the policy: the input that would make it, validated like any other.

use mesh_init_abi::{Meaning, NetFlags, NetKey, OwnerFlags, OwnerKind, PolicyFlags, PortFlags};

use crate::backend::ebpf::lower::Lowered;
use crate::backend::ebpf::prefix::Prefix;
use crate::backend::ebpf::text::{network, ports};
use crate::input::{Faults, Key, Origin, Raw};
use crate::policy::validate::{self, Request};
use crate::policy::{Facts, Layout};

/// The request that the maps say; `None` if they are of a version that this one does not know.
pub(super) fn request(lowered: &Lowered) -> Option<Request> {
    let policy = &lowered.policy;
    let layout = match policy.meaning {
        Meaning::CLASSIC => Layout::Classic,
        Meaning::SCOPED => Layout::Scoped,
        Meaning::ISTIO => Layout::Istio,
        Meaning::ISTIO_IPTABLES => Layout::IstioIptables,
        _ => return None,
    };
    let has = |flag| policy.flags.has(flag);
    let mut found = Found::default();
    if !has(PolicyFlags::IPV6) {
        found.set(Key::Ipv6, "off".into());
    }
    found.set(Key::ProxyPort, policy.outbound_port.to_string());
    found.all(Key::ProxyUid, &ids(lowered, OwnerKind::USER, OwnerFlags::PROXY));
    found.all(Key::ProxyGid, &ids(lowered, OwnerKind::GROUP, OwnerFlags::PROXY));
    if has(PolicyFlags::TO_ALL) {
        found.set(Key::OutboundCidr, "*".into());
    }
    found.all(Key::OutboundCidr, &networks(lowered, NetFlags::INCLUDED));
    if layout == Layout::Classic {
        return found.validated(layout);
    }
    found.set(Key::InboundCapturePort, policy.inbound_port.to_string());
    found.all(Key::ExcludeOutboundCidr, &networks(lowered, NetFlags::EXCLUDED));
    found.all(Key::OutboundPort, &named(lowered, PortFlags::OUT_INCLUDED));
    found.all(Key::ExcludeOutboundPort, &named(lowered, PortFlags::OUT_EXCLUDED));
    found.all(Key::UidOwner, &ids(lowered, OwnerKind::USER, OwnerFlags::OWNER));
    found.all(Key::GidOwner, &ids(lowered, OwnerKind::GROUP, OwnerFlags::OWNER));
    let inbound = named(lowered, PortFlags::IN_NAMED);
    match (has(PolicyFlags::INBOUND), has(PolicyFlags::INBOUND_ALL)) {
        (false, _) => found.set(Key::Inbound, String::new()),
        (true, false) => found.all(Key::Inbound, &inbound),
        (true, true) => {
            found.set(Key::Inbound, "*".into());
            found.all(Key::ExcludeInbound, &inbound);
        }
    }
    if layout == Layout::Scoped {
        return found.validated(layout);
    }
    found.set(Key::InboundTunnelPort, policy.tunnel_port.to_string());
    let groups = ids(lowered, OwnerKind::GROUP, OwnerFlags::GROUP);
    let key = if has(PolicyFlags::GROUPS_ONLY) { Key::OwnerGroup } else { Key::ExcludeOwnerGroup };
    found.all(key, &groups);
    if has(PolicyFlags::GROUPS_ONLY) && groups.is_empty() {
        found.set(key, String::new());
    }
    let loopback = networks(lowered, NetFlags::LOOPBACK).into_iter().find(|network| !network.contains(':'));
    loopback.into_iter().for_each(|network| found.set(Key::LoopbackCidr, network));
    if has(PolicyFlags::DNS) {
        found.set(Key::DnsPort, policy.dns_port.to_string());
        let servers = networks(lowered, NetFlags::DNS_SERVER);
        found.set(Key::RedirectDns, "true".into());
        if has(PolicyFlags::DNS_ALL) {
            found.set(Key::CaptureAllDns, "true".into());
        }
        let address = |network: &String| network.split('/').next().unwrap_or_default().to_owned();
        found.all(Key::DnsServer, &servers.iter().map(address).collect::<Vec<_>>());
    }
    found.validated(layout)
}

/// The texts of options, as a flag would give them.
#[derive(Default)]
struct Found {
    raw: Raw,
}

impl Found {
    fn set(&mut self, key: Key, text: String) {
        self.raw.push(key, text, Origin::Default);
    }

    fn all<T: ToString>(&mut self, key: Key, items: &[T]) {
        items.iter().for_each(|item| self.set(key, item.to_string()));
    }

    /// What is not there is meant to be empty: its absence would mean the default.
    fn validated(mut self, layout: Layout) -> Option<Request> {
        if !self.raw.has(Key::OutboundCidr) && !self.raw.has(Key::OutboundPort) {
            self.set(Key::OutboundCidr, String::new());
        }
        if !self.raw.has(Key::ProxyUid) {
            self.set(Key::ProxyUid, String::new());
            if !self.raw.has(Key::ProxyGid) {
                // It is known by its control group alone, which the policy does not name.
                self.set(Key::Backend, "ebpf".into());
                self.set(Key::ProxyCgroup, "/".into());
            }
        }
        let owners = self.raw.has(Key::UidOwner) || self.raw.has(Key::GidOwner);
        if layout == Layout::Scoped && !owners {
            self.set(Key::UidOwner, String::new());
        }
        self.set(Key::Layout, layout.to_string());
        validate::request(&self.raw, &Facts::default(), Faults::default()).ok()
    }
}

/// The first is one that upstream treats apart.
fn ids(lowered: &Lowered, kind: OwnerKind, flag: OwnerFlags) -> Vec<u32> {
    let of = lowered.owners.iter().filter(|(key, flags)| key.kind == kind && flags.has(flag));
    let mut ids: Vec<(bool, u32)> = of.map(|(key, flags)| (!flags.has(OwnerFlags::FIRST), key.id)).collect();
    ids.sort_unstable();
    ids.into_iter().map(|(_, id)| id).collect()
}

/// The networks of which it is said, without those that lie in another of them: what is said of a network is said of all in
/// it.
fn networks(lowered: &Lowered, flag: NetFlags) -> Vec<String> {
    let of = || lowered.networks.iter().filter(|(_, flags)| flags.has(flag)).map(|(key, _)| key);
    let inner = |key: &NetKey| of().any(|outer| outer != key && outer.covers(key));
    of().filter(|key| !inner(key)).map(network).collect()
}

fn named(lowered: &Lowered, flag: PortFlags) -> Vec<String> {
    lowered.ports.iter().filter(|(_, flags)| flags.has(flag)).map(|(key, _)| ports(key)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;

    use crate::backend::ebpf::lower::{Place, lower};
    use crate::cli::{self, Parsed};
    use crate::input::Faults;
    use crate::policy::{Facts, Families, Ipv6, validate};

    fn given(line: &str) -> Request {
        let words = std::iter::once("mesh-init").chain(line.split_whitespace());
        let words: Vec<OsString> = words.map(|word| word.trim_matches('\'').into()).collect();
        let Parsed::Call { flags, .. } = cli::parse(words) else { panic!("{line}") };
        validate::request(&flags, &Facts::default(), Faults::default())
            .unwrap_or_else(|faults| panic!("{line}: {faults}"))
    }

    /// What is recovered says the same to the maps, and to a reader.
    #[test]
    fn what_is_lowered_is_recovered() {
        for line in [
            "-p 15001 -u 1337",
            "-p 15001 -u 1337,77 -g 5 -i 10.0.0.0/8,fd00::/8",
            "-i ''",
            "--layout istio -p 15001 -z 15006 -u 1337 -g 1337 -x 10.0.0.0/8,10.1.0.0/16,fd00::/7 -o 22,8000-8100 -d 15020,15021",
            "--layout istio -i 10.0.0.0/8,10.2.0.0/16,127.0.0.0/8 -q 443,8443 -b 80,9000-9005 -x 10.2.3.0/24 --ipv6 off",
            "--layout istio -b '' --redirect-dns --dns-server 10.0.0.53,fd00::53 --dns-port 5353",
            "--layout istio --redirect-dns --capture-all-dns --exclude-owner-group 5,6 -e 16008",
            "--layout istio --owner-group= -q 80 -i ''",
            "--layout istio --owner-group 7 --loopback-cidr 127.0.0.0/8 -x 127.1.0.0/16",
            "--layout istio-iptables -u 1337,1338 -g 1337,1339",
            "--layout istio --backend ebpf --proxy-uid= --proxy-cgroup /sys/fs/cgroup/mesh.slice",
            "--uid-owner 1338 --inbound 8001",
            "--uid-owner 1338,1340 --gid-owner 9 --inbound * -d 9000 -i 10.0.0.0/8 -q 80 -x 10.9.0.0/16 -o 25 -z 15006",
        ] {
            let request = given(line);
            let families = if request.policy.ipv6 == Ipv6::Off { Families::V4 } else { Families::Both };
            let place = Place { netns: 7, generation: 3 };
            let lowered =
                lower(&request.policy, request.layout, families, place).expect("what sockets can do");
            let again = super::request(&lowered).unwrap_or_else(|| panic!("{line}"));
            assert_eq!(again.layout, request.layout, "{line}");
            let second = lower(&again.policy, again.layout, families, place).expect("what sockets can do");
            assert_eq!(second, lowered, "{line}");
        }
    }
}
