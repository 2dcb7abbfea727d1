//! What others have in a namespace: rules as their programs write them, policy routing, addresses.

use crate::support::command::Run;
use crate::support::netns::Netns;
use crate::support::rules::{Family, Variant, restore};
use crate::support::wire::{Addresses, settle};

pub(crate) const DOCKER: &str = include_str!("foreign/docker.rules");
pub(crate) const FIREWALLD: &str = include_str!("foreign/firewalld.rules");
pub(crate) const KUBE_PROXY: &str = include_str!("foreign/kube.rules");
pub(crate) const LINKERD: &str = include_str!("foreign/linkerd.rules");
/// Names, comments, marks and ports that resemble ours; all of it belongs to somebody else.
pub(crate) const LOOKALIKE: &str = include_str!("foreign/lookalike.rules");

/// As firewalld's own back end makes them with one open port and one that is forwarded.
pub(crate) const FIREWALLD_NFT: &str = include_str!("foreign/firewalld.nft");
/// As kube-proxy makes them with `--proxy-mode nftables`: a service with two back ends, one with one, and its node port.
const KUBE_PROXY_NFT: &str = include_str!("foreign/kube.nft");

/// A table of nftables, as firewalld makes one today.
const NATIVE: &str = r#"
table inet firewalld {
    chain nat_PREROUTING {
        type nat hook prerouting priority -90; policy accept;
        jump nat_PREROUTING_ZONES
    }
    chain nat_PREROUTING_ZONES {
        tcp dport 8080 redirect to :80
    }
    chain filter_INPUT {
        type filter hook input priority 10; policy accept;
        ct state { established, related } accept
        iifname "lo" accept
    }
}
"#;

/// The routing of a transparent proxy that is not ours, with upstream's very numbers, and some more.
const ROUTING: &str = "\
rule add fwmark 1337 lookup 133
rule add fwmark 0x99 lookup 99 priority 99
route add local 0.0.0.0/0 dev lo table 133
route add local ::/0 dev lo table 133
route add 10.77.0.0/16 via 10.1.0.9 dev eth0
route add blackhole 10.78.0.0/16 table 99 proto 99
route add unreachable fd78::/32 table 99 proto 99
addr add 127.0.0.6/32 dev lo
addr add ::6/128 dev lo
addr add 10.1.0.77/32 dev eth0
";

/// A namespace like any other, with interfaces that look the same every time.
pub(crate) fn namespace() -> Netns {
    const ETH0: &str = "\
        link add eth0 address 02:00:00:00:00:01 type veth peer name eth1 address 02:00:00:00:00:02\n\
        addr add 10.1.0.1/24 dev eth0\naddr add fd00:1::1/64 dev eth0 nodad\n\
        link set eth0 up\nlink set eth1 up";
    let netns = Netns::new("here");
    netns.sysctl("net/ipv6/conf/default/accept_dad", "0");
    netns.ip(ETH0);
    settle(&[&netns]);
    netns
}

/// Loads `rules` into both families of `variant`; beside our tables of nftables, of iptables-nft.
pub(crate) fn load(netns: &Netns, variant: Variant, rules: &str) {
    for family in Family::BOTH {
        restore(netns, variant.iptables(), family, &addressed(family, rules));
    }
}

pub(crate) fn load_native(netns: &Netns) {
    Run::with_input(netns, "nft", &["-f", "-"], NATIVE).ok();
}

/// kube-proxy's tables for a cluster whose back ends are on the host at `ends`, with `node` as its own address.
pub(crate) fn load_kube_proxy(netns: &Netns, node: Addresses, ends: Addresses) {
    for family in Family::BOTH {
        let (addr, service, end) = match family {
            Family::V4 => ("ipv4_addr", "10.0.9.9", format!("{}:", ends.ip(family))),
            Family::V6 => ("ipv6_addr", "fd00::99", format!("[{}]:", ends.ip(family))),
        };
        let text = KUBE_PROXY_NFT.replace("@FAMILY@", family.of_nft()).replace("@ADDR@", addr);
        let text = text.replace("@SERVICE@", service).replace("@NODE@", &node.ip(family).to_string());
        Run::with_input(netns, "nft", &["-f", "-"], &text.replace("@END:@", &end)).ok();
    }
}

pub(crate) fn load_routing(netns: &Netns) {
    netns.ip(ROUTING);
    settle(&[netns]);
}

fn addressed(family: Family, rules: &str) -> String {
    let addresses = match family {
        Family::V4 => [
            ("@LOOPBACK@", "127.0.0.0/8"),
            ("@NET@", "10.1.0.0/24"),
            ("@HOST@", "10.1.0.10/32"),
            ("@HOST:@", "10.1.0.10:"),
            ("@DNS@", "127.0.0.11/32"),
            ("@DNS:@", "127.0.0.11:"),
        ],
        Family::V6 => [
            ("@LOOPBACK@", "::1/128"),
            ("@NET@", "fd00:1::/64"),
            ("@HOST@", "fd00:1::10/128"),
            ("@HOST:@", "[fd00:1::10]:"),
            ("@DNS@", "fd00:11::11/128"),
            ("@DNS:@", "[fd00:11::11]:"),
        ],
    };
    addresses.into_iter().fold(rules.to_owned(), |text, (token, address)| text.replace(token, address))
}
