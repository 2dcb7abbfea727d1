//! DNS capture with real queries: the application's go to the agent, the agent's own to the resolver, and
//! conntrack's zones keep the two apart.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::harness::Case;
use crate::istio::{APP, POD, PROXY, Reading, captured};
use crate::support::command::Run;
use crate::support::creds::Who;
use crate::support::dial::{Dialled, dial, dial_udp, dial_udp_from};
use crate::support::netns::Netns;
use crate::support::resolv::resolvers;
use crate::support::rules::{Family, Variant, native_packets, packets, restore};
use crate::support::serve::Service;
use crate::support::wire::{Addresses, HERE, LOOPBACK, THERE, THERE_FAR};

/// Where the agent answers.
const AGENT: u16 = 15053;
const DNS: u16 = 53;
/// A resolver on the host itself, as systemd's.
const STUB: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53));

pub(crate) fn cases() -> Vec<Case> {
    Case::all_for_each_carrier(&[
        ("istio::dns::listed", listed),
        ("istio::dns::all", all),
        ("istio::dns::of_one_family", of_one_family),
        ("istio::dns::resolver_here", resolver_here),
        ("istio::dns::excluded_groups", excluded_groups),
        ("istio::dns::other_port", other_port),
        ("istio::dns::same_source_port", same_source_port),
        ("istio::dns::without_zones", without_zones),
        ("istio::dns::zones", zones),
    ])
}

/// Two hosts captured with `flags`, DNS servers on both, and the agent. The machine's resolvers are `servers`.
pub(crate) fn captured_with_dns(
    reading: Reading,
    variant: Variant,
    servers: &[IpAddr],
    flags: &str,
) -> (Netns, Netns) {
    resolvers(servers);
    let (here, there) = captured(reading, variant, &format!("{POD} {flags}"));
    serve_dns(&here, &there);
    (here, there)
}

pub(crate) fn serve_dns(here: &Netns, there: &Netns) {
    Service::tcp(here, PROXY, "agent", &[AGENT]);
    Service::udp_at(here, PROXY, "agent", &LOOPBACKS.map(|family| LOOPBACK.port(family, AGENT)));
    Service::tcp(here, Who::ROOT, "stub", &[DNS]);
    let of_lo = [SocketAddr::new(STUB, DNS), LOOPBACK.port(Family::V6, DNS)];
    Service::udp_at(here, Who::ROOT, "stub", &of_lo);
    Service::udp_at(here, Who::ROOT, "stub", &LOOPBACKS.map(|family| HERE.port(family, DNS)));
    Service::tcp(there, Who::ROOT, "resolver", &[DNS]);
    let of_there = [THERE, THERE_FAR].map(|address| LOOPBACKS.map(|family| address.port(family, DNS)));
    Service::udp_at(there, Who::ROOT, "resolver", of_there.as_flattened());
}

const LOOPBACKS: [Family; 2] = Family::BOTH;

fn both(address: Addresses) -> [IpAddr; 2] {
    Family::BOTH.map(|family| address.ip(family))
}

/// A datagram's answerer; that its answer came from where the query went is the client's socket's business.
#[track_caller]
fn answered_by(dialled: &Dialled, name: &str) {
    let seen = dialled.answer.as_ref().map(|greeting| greeting.name.as_str());
    assert_eq!(seen, Ok(name), "expected the answer of `{name}`, seen {dialled}");
}

/// Both protocols of DNS: captured from the application, untouched from the proxy.
#[track_caller]
fn is_captured(here: &Netns, to: SocketAddr, resolver: &str) {
    for who in [APP, Who::ROOT] {
        dial(here, who, to).captured_by("agent");
        answered_by(&dial_udp(here, who, to), "agent");
    }
    dial(here, PROXY, to).untouched_to(resolver);
    dial_udp(here, PROXY, to).untouched_to(resolver);
}

fn listed(variant: Variant) {
    for reading in Reading::BOTH {
        let (here, there) = captured_with_dns(reading, variant, &both(THERE), "--redirect-dns");
        for family in Family::BOTH {
            is_captured(&here, THERE.port(family, DNS), "resolver");
            // Others are traffic like any other.
            dial(&here, APP, THERE_FAR.port(family, DNS)).captured_by("outbound");
            dial_udp(&here, APP, THERE_FAR.port(family, DNS)).untouched_to("resolver");
            dial(&here, APP, THERE.port(family, 80)).captured_by("outbound");
            // Queries from outside are inbound traffic: TCP is captured, UDP is not.
            dial_udp(&there, APP, HERE.port(family, DNS)).untouched_to("stub");
            dial(&there, APP, HERE.port(family, DNS)).captured_by("inbound");
            dial(&here, PROXY, HERE.port(family, 80)).captured_by("inbound");
            dial(&here, APP, HERE.port(family, 80)).untouched_to("here");
        }
    }
}

fn all(variant: Variant) {
    for reading in Reading::BOTH {
        let flags = "--redirect-dns --capture-all-dns";
        let (here, _there) = captured_with_dns(reading, variant, &both(THERE), flags);
        for family in Family::BOTH {
            for address in [THERE, THERE_FAR] {
                is_captured(&here, address.port(family, DNS), "resolver");
            }
            is_captured(&here, HERE.port(family, DNS), "stub");
            dial(&here, APP, THERE.port(family, 80)).captured_by("outbound");
        }
    }
}

/// Servers of one family: the other one's are left alone.
fn of_one_family(variant: Variant) {
    for reading in Reading::BOTH {
        let servers = [THERE.ip(Family::V4)];
        let (here, _there) = captured_with_dns(reading, variant, &servers, "--redirect-dns");
        is_captured(&here, THERE.port(Family::V4, DNS), "resolver");
        dial(&here, APP, THERE.port(Family::V6, DNS)).captured_by("outbound");
        dial(&here, PROXY, THERE.port(Family::V6, DNS)).untouched_to("resolver");
        for who in [APP, PROXY] {
            dial_udp(&here, who, THERE.port(Family::V6, DNS)).untouched_to("resolver");
        }
    }
}

/// A resolver on an address of this host, which other traffic over lo is left alone to.
fn resolver_here(variant: Variant) {
    for reading in Reading::BOTH {
        let [v4, v6] = both(HERE);
        let servers = [STUB, LOOPBACK.ip(Family::V6), v4, v6];
        let (here, _there) = captured_with_dns(reading, variant, &servers, "--redirect-dns");
        for server in servers {
            is_captured(&here, SocketAddr::new(server, DNS), "stub");
        }
        dial_udp(&here, APP, THERE.port(Family::V4, DNS)).untouched_to("resolver");
    }
}

fn excluded_groups(variant: Variant) {
    for reading in Reading::BOTH {
        resolvers(&both(THERE));
        let (here, there) = crate::support::wire::two_hosts();
        crate::istio::serve(&here, &there);
        serve_dns(&here, &there);
        let call = match reading {
            Reading::Own => {
                let flags = format!("{POD} --redirect-dns --exclude-owner-group 2000");
                reading.call(&here, variant, &flags)
            }
            Reading::Letter => {
                let call = reading.call(&here, variant, &format!("{POD} --redirect-dns"));
                call.env("ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE", "2000")
            }
        };
        call.run().code(0);
        for family in Family::BOTH {
            let to = THERE.port(family, DNS);
            is_captured(&here, to, "resolver");
            dial(&here, APP.group(2000), to).untouched_to("resolver");
            dial_udp(&here, APP.group(2000), to).untouched_to("resolver");
        }
    }
}

fn other_port(variant: Variant) {
    let flags = "--redirect-dns --dns-port 1053 --dns-server 10.9.0.2,fd00:9::2";
    let (here, _there) = captured_with_dns(Reading::Own, variant, &both(THERE), flags);
    Service::tcp(&here, PROXY, "other", &[1053]);
    Service::udp_at(&here, PROXY, "other", &Family::BOTH.map(|family| LOOPBACK.port(family, 1053)));
    for family in Family::BOTH {
        answered_by(&dial_udp(&here, APP, THERE_FAR.port(family, DNS)), "other");
        dial_udp(&here, APP, THERE.port(family, DNS)).untouched_to("resolver");
        dial(&here, APP, THERE.port(family, DNS)).captured_by("outbound");
    }
}

/// One source port, used by the application and the agent in turn: the resolver sees the same addresses.
fn alternately(here: &Netns, to: SocketAddr) -> Vec<Dialled> {
    const PORT: u16 = 40_053;
    [APP, PROXY, APP, PROXY].map(|who| dial_udp_from(here, who, PORT, to)).into()
}

fn same_source_port(variant: Variant) {
    for reading in Reading::BOTH {
        for flags in ["--redirect-dns", "--redirect-dns --capture-all-dns"] {
            let (here, _there) = captured_with_dns(reading, variant, &both(THERE), flags);
            for family in Family::BOTH {
                let queries = alternately(&here, THERE.port(family, DNS));
                for (number, query) in queries.iter().enumerate() {
                    answered_by(query, if number % 2 == 0 { "agent" } else { "resolver" });
                }
            }
        }
    }
}

/// What the zones are for: without them the agent's query from a port that the application used comes back.
fn without_zones(variant: Variant) {
    let (here, _there) = captured_with_dns(Reading::Own, variant, &both(THERE), "--redirect-dns");
    for family in Family::BOTH {
        match variant {
            Variant::Legacy | Variant::Nft => {
                restore(&here, variant, family, "*raw\n-F ISTIO_OUTPUT_DNS\n-F ISTIO_INBOUND\nCOMMIT\n");
            }
            Variant::Native => {
                for chain in ["raw_dns", "raw_inbound"] {
                    Run::new(&here, "nft", &["flush", "chain", family.of_nft(), "mesh_init", chain]).ok();
                }
            }
        }
        let to = THERE.port(family, DNS);
        answered_by(&dial_udp_from(&here, APP, 40_053, to), "agent");
        let own = dial_udp_from(&here, PROXY, 40_053, to);
        let seen = own.answer.as_ref().map(|greeting| greeting.name.as_str());
        assert_ne!(seen, Ok("resolver"), "expected the agent's query to go astray, seen {own}");
    }
}

/// Each packet of both exchanges is put into its zone.
fn zones(variant: Variant) {
    for reading in Reading::BOTH {
        let (here, _there) = captured_with_dns(reading, variant, &both(THERE), "--redirect-dns");
        for family in Family::BOTH {
            let counts = || zones_given(&here, variant, family);
            assert_eq!(counts(), [Some(0); 4], "{reading:?} {family:?}");
            // The agent's answer has the resolver's address by the time it arrives; the zone that it has stays.
            answered_by(&dial_udp(&here, APP, THERE.port(family, DNS)), "agent");
            assert_eq!(counts(), [1, 1, 0, 1].map(Some), "{reading:?} {family:?}, the application's query");
            // The agent's query meets the servers' rule too; the zone that it has stays.
            answered_by(&dial_udp(&here, PROXY, THERE.port(family, DNS)), "resolver");
            assert_eq!(counts(), [2, 1, 1, 2].map(Some), "{reading:?} {family:?}, the agent's query");
        }
    }
}

/// How many packets were put into a zone: the application's queries, the agent's answers, the agent's queries and the
/// resolver's answers.
fn zones_given(here: &Netns, variant: Variant, family: Family) -> [Option<u64>; 4] {
    let resolver = THERE.ip(family);
    match variant {
        Variant::Legacy | Variant::Nft => [
            &format!("-A ISTIO_OUTPUT_DNS -d {resolver}/"),
            "--sport 15053 -m owner --uid-owner 1337",
            "--dport 53 -m owner --uid-owner 1337",
            &format!("-A ISTIO_INBOUND -s {resolver}/"),
        ]
        .map(|part| packets(here, variant, family, "raw", part)),
        Variant::Native => {
            let name = family.of_nft();
            [
                ("raw_dns", format!("udp dport 53 {name} daddr {resolver} ")),
                ("raw_dns", "udp sport 15053 meta skuid 1337 ".to_owned()),
                ("raw_dns", "udp dport 53 meta skuid 1337 ".to_owned()),
                ("raw_inbound", format!("udp sport 53 {name} saddr {resolver} ")),
            ]
            .map(|(chain, part)| native_packets(here, family, chain, &part))
        }
    }
}
