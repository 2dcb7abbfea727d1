//! Rules of others beside ours: Docker's resolver, kube-proxy, firewalld.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::{Row, says};
use crate::docker_dns::RULES;
use crate::foreign::{self, FIREWALLD, KUBE_PROXY, load};
use crate::harness::Case;
use crate::istio::{APP, PROXY};
use crate::support::command::mesh_init;
use crate::support::creds::Who;
use crate::support::dial::{Dialled, dial, dial_udp};
use crate::support::netns::Netns;
use crate::support::rules::{Family, Variant, restore};
use crate::support::serve::Service;
use crate::support::wire::two_hosts;

pub(super) fn cases() -> Vec<Case> {
    Case::all_for_each_variant(&[
        ("explain::docker_first", docker_first),
        ("explain::docker_last", docker_last),
        ("explain::docker_and_dns_capture", docker_and_dns_capture),
        ("explain::kube_proxy", kube_proxy),
        ("explain::firewalld", firewalld),
    ])
}

const TCP: &str = "-d 127.0.0.11/32 -p tcp -m tcp --dport 53 -j DNAT --to-destination 127.0.0.11:38786";
const UDP: &str = "-d 127.0.0.11/32 -p udp -m udp --dport 53 -j DNAT --to-destination 127.0.0.11:35949";
const TO_TCP: &str = "not captured, sent to 127.0.0.11:38786 instead";
const TO_UDP: &str = "not captured, sent to 127.0.0.11:35949 instead";

fn apply(netns: &Netns, variant: Variant, flags: &str) {
    let words: Vec<_> = flags.split(' ').chain(["--iptables-variant", variant.name()]).collect();
    mesh_init(netns, &words).ok();
}

/// A pod of compose, with everybody who could answer.
fn pod() -> Netns {
    let (here, _there) = two_hosts();
    Service::tcp(&here, PROXY, "15001", &[15001]);
    Service::tcp(&here, PROXY, "15053", &[15053]);
    Service::tcp(&here, Who::ROOT, "38786", &[38786]);
    for (who, port) in [(Who::ROOT, 35949), (PROXY, 15053)] {
        let at = [[127, 0, 0, 11], [127, 0, 0, 1]].map(|ip| SocketAddr::from((ip, port)));
        Service::udp_at(&here, who, &port.to_string(), &at);
    }
    here
}

/// Who answers a query to Docker's resolver.
#[track_caller]
fn resolver_is(dialled: &Dialled, name: &str) {
    let seen = dialled.answer.as_ref().map(|greeting| greeting.name.as_str());
    assert_eq!(seen, Ok(name), "seen {dialled}");
}

const RESOLVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11)), 53);

fn docker_first(variant: Variant) {
    const ROWS: &[Row] =
        &[("out tcp 127.0.0.11:53", TO_TCP, TCP), ("out udp uid=1337 127.0.0.11:53", TO_UDP, UDP)];
    for flags in ["-p 15001 -u 1337", "-p 15001 -u 1337 --layout istio"] {
        let here = pod();
        restore(&here, variant, Family::V4, RULES);
        apply(&here, variant, flags);
        says(&here, ROWS);
        says(&here, &[("out tcp 127.0.0.11:80", own_address(flags).0, own_address(flags).1)]);
        says(&here, &[("out tcp 10.1.2.3:53", "captured -> 15001", "outbound.all")]);
        resolver_is(&dial(&here, APP, RESOLVER), "38786");
        resolver_is(&dial_udp(&here, APP, RESOLVER), "35949");
    }
}

/// What becomes of an application's call over lo.
fn own_address(flags: &str) -> (&'static str, &'static str) {
    match flags.contains("istio") {
        true => ("not captured", "outbound.self"),
        false => ("captured -> 15001", "outbound.own-address"),
    }
}

fn docker_last(variant: Variant) {
    let here = pod();
    apply(&here, variant, "-p 15001 -u 1337");
    restore(&here, variant, Family::V4, RULES);
    says(
        &here,
        &[
            ("out tcp 127.0.0.11:53", "captured -> 15001", "outbound.own-address"),
            ("out udp 127.0.0.11:53", TO_UDP, UDP),
        ],
    );
    resolver_is(&dial(&here, APP, RESOLVER), "15001");
    resolver_is(&dial_udp(&here, APP, RESOLVER), "35949");
    // The rules of a VM always come first, and let DNS through to those of others.
    let here = pod();
    restore(&here, variant, Family::V4, RULES);
    apply(&here, variant, "--uid-owner 1000");
    says(&here, &[("out tcp 127.0.0.11:53", TO_TCP, TCP), ("out udp 127.0.0.11:53", TO_UDP, UDP)]);
    says(&here, &[("out tcp 127.0.0.11:80", "captured -> 15001", "outbound.all")]);
    resolver_is(&dial(&here, APP, RESOLVER), "38786");
    resolver_is(&dial_udp(&here, APP, RESOLVER), "35949");
}

fn docker_and_dns_capture(variant: Variant) {
    const FLAGS: &str = "-p 15001 -z 15006 -u 1337 --redirect-dns --dns-server 127.0.0.11";
    let here = pod();
    apply(&here, variant, FLAGS);
    restore(&here, variant, Family::V4, RULES);
    says(
        &here,
        &[
            ("out tcp 127.0.0.11:53", "captured -> 15053", "dns.capture"),
            ("out udp 127.0.0.11:53", "captured -> 15053", "dns.capture"),
            ("out tcp uid=1337 127.0.0.11:53", TO_TCP, TCP),
            ("out udp uid=1337 127.0.0.11:53", TO_UDP, UDP),
        ],
    );
    resolver_is(&dial(&here, APP, RESOLVER), "15053");
    resolver_is(&dial_udp(&here, APP, RESOLVER), "15053");
    resolver_is(&dial(&here, PROXY, RESOLVER), "38786");
    let here = pod();
    restore(&here, variant, Family::V4, RULES);
    apply(&here, variant, FLAGS);
    says(&here, &[("out tcp 127.0.0.11:53", TO_TCP, TCP), ("out udp 127.0.0.11:53", TO_UDP, UDP)]);
    // Over UDP the queries that go to Docker's resolver get there too, here and above. Their answers are lost: they
    // come from its own port, which no rule puts into the zone of the query.
    resolver_is(&dial(&here, APP, RESOLVER), "38786");
}

/// A cluster's address has two back ends, chosen by chance; everything else can be told.
fn kube_proxy(variant: Variant) {
    const CHANCE: &str = "nat KUBE-SVC-G2PAJ5MVZBTOMH3K rule 2: -m comment --comment \
        \"istio-system/istio-ingressgateway:http2\" -m statistic --mode random --probability 0.50000000000 \
        -j KUBE-SEP-3NKFXQ2XL7VZQOOA";
    const COMMON: &[Row] = &[
        ("out tcp uid=1000 10.1.2.3:80", "captured -> 15001", "outbound.all"),
        ("out tcp uid=1000 [fd00::9]:80", "captured -> 15001", "outbound.all"),
        ("out tcp uid=1337 10.1.2.3:80", "not captured", "proxy.uid"),
        ("in tcp 10.1.0.1:31380", "cannot tell", CHANCE),
    ];
    for flags in ["-p 15001 -u 1337", "-p 15001 -u 1337 --layout istio"] {
        let netns = foreign::namespace();
        load(&netns, variant, KUBE_PROXY);
        apply(&netns, variant, flags);
        says(&netns, COMMON);
        says(
            &netns,
            &[
                ("in tcp 10.1.0.1:80", "captured -> 15001", "inbound.all"),
                ("out tcp 10.1.0.10:80", "cannot tell", CHANCE),
                ("out tcp uid=1337 src=[fd00:1::1]:9 [fd00:1::10]:80", "cannot tell", CHANCE),
                ("out tcp 10.1.0.10:81", "captured -> 15001", "outbound.all"),
            ],
        );
    }
    // Ours first: the cluster's address is captured.
    let netns = foreign::namespace();
    load(&netns, variant, KUBE_PROXY);
    apply(&netns, variant, "--uid-owner 1000 -b 31380");
    says(&netns, &COMMON[..2]);
    says(
        &netns,
        &[
            ("out tcp 10.1.0.10:80", "captured -> 15001", "outbound.all"),
            ("out tcp uid=1001 10.1.0.10:80", "cannot tell", CHANCE),
            ("in tcp 10.1.0.1:31380", "captured -> 15001", "inbound.port"),
            ("in tcp 10.1.0.1:80", "not captured", "no rule"),
        ],
    );
}

/// Its filter refuses what it did not open, the capture port too.
fn firewalld(variant: Variant) {
    const REFUSED: &str = "filter INPUT rule 6: -j REJECT";
    let netns = foreign::namespace();
    load(&netns, variant, FIREWALLD);
    apply(&netns, variant, "-p 15001 -u 1337");
    says(
        &netns,
        &[
            ("out tcp 10.1.2.3:80", "captured -> 15001", "outbound.all"),
            ("out tcp [fd00::9]:80", "captured -> 15001", "outbound.all"),
            ("out tcp [::1]:80", "not captured", "outbound.loopback"),
            ("in tcp 10.1.0.1:80", "dropped", REFUSED),
            ("in tcp [fd00:1::1]:8080", "dropped", REFUSED),
            ("in tcp route=forward 10.7.0.1:22", "dropped", REFUSED),
        ],
    );
    let netns = foreign::namespace();
    load(&netns, variant, FIREWALLD);
    apply(&netns, variant, "--uid-owner 1000 -b 8001");
    says(
        &netns,
        &[
            ("out tcp 10.1.2.3:80", "captured -> 15001", "outbound.all"),
            ("in tcp 10.1.0.1:8001", "dropped", REFUSED),
            ("in tcp 10.1.0.1:22", "not captured", "filter INP_public_allow rule 1"),
            ("in tcp 10.1.0.1:8080", "dropped", REFUSED),
        ],
    );
}
