//! TPROXY and DNS where several things meet: conntrack remembers, packets pass through, somebody else has the mark.

use crate::harness::Case;
use crate::istio::{APP, POD, Reading, captured, serve};
use crate::istio_dns::serve_dns;
use crate::istio_tproxy::TPROXY;
use crate::support::command::{Run, mesh_init};
use crate::support::creds::Who;
use crate::support::dial::{Source, dial, dial_from};
use crate::support::netns::Netns;
use crate::support::queries::Queries;
use crate::support::resolv::resolvers;
use crate::support::rules::{Family, Variant, assert_same, dump, restore, save};
use crate::support::serve::Service;
use crate::support::wire::{HERE, THERE, THERE_FAR, three_hosts, two_hosts};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Case::all_for_each_carrier(&[
        ("istio::meet::busy_port", busy_port),
        ("istio::meet::same_mark_of_others", same_mark_of_others),
        ("istio::meet::rerouted", rerouted),
        ("istio::meet::agents_query_over_lo", agents_query_over_lo),
        ("istio::meet::own_address_listed", own_address_listed),
        ("istio::meet::routed_through", routed_through),
        ("istio::meet::ports_used_again", ports_used_again),
    ]);
    let two = Case::each_variant("istio::meet::two_variants_of_tproxy", two_variants_of_tproxy);
    cases.extend(two);
    cases
}

/// A client that keeps asking from one port while DNS capture goes on and off: no entry without NAT is made in the
/// zone of what is captured.
fn busy_port(variant: Variant) {
    const DNS: &str = "-p 15001 -z 15006 -u 1337 -b * -i * --redirect-dns";
    resolvers(&Family::BOTH.map(|family| THERE.ip(family)));
    let (here, there) = two_hosts();
    serve(&here, &there);
    serve_dns(&here, &there);
    let to: Vec<_> = Family::BOTH.map(|family| THERE.port(family, 53)).into();
    let busy = [41_000, 41_010].map(|port| Queries::from_port(&here, APP, port, to.clone()));
    for round in 0..4 {
        Reading::Own.apply(&here, variant, POD);
        busy.iter().for_each(Queries::forget);
        std::thread::sleep(std::time::Duration::from_millis(50));
        for answers in busy.each_ref().map(Queries::seen) {
            assert_eq!(answers.of("agent"), 0, "round {round}, DNS off: seen {answers}");
        }
        Reading::Own.apply(&here, variant, DNS);
        busy.iter().for_each(Queries::forget);
        std::thread::sleep(std::time::Duration::from_millis(50));
        for answers in busy.each_ref().map(Queries::seen) {
            assert_eq!(answers.of("resolver"), 0, "round {round}, DNS on: seen {answers}");
        }
    }
}

/// While both variants hold TPROXY (a change of variant), the second one's `CONNMARK --save-mark` must not take the
/// mark that the first one's TPROXY has set: the proxy's SYN-ACK would be routed to lo, and the client time out.
fn two_variants_of_tproxy(variant: Variant) {
    let (here, there) = captured(Reading::Own, variant, TPROXY);
    for family in Family::BOTH {
        let text = save(&here, variant, family, &["-t", "mangle"]);
        let is_ours = |line: &&str| !line.starts_with('#') && !line.contains(" ACCEPT [");
        let ours: String = text.lines().filter(is_ours).map(|line| format!("{line}\n")).collect();
        restore(&here, variant.other(), family, &ours);
        dial(&there, APP, HERE.port(family, 80)).captured_by("inbound");
    }
}

/// Somebody's rule for the same mark and another table with a local route stays theirs while our chains are there.
fn same_mark_of_others(variant: Variant) {
    let (here, _there) = two_hosts();
    here.ip("rule add fwmark 1337 lookup 77 priority 77\nroute add local default dev lo table 77\n");
    let before = dump(&here);
    Reading::Own.apply(&here, variant, TPROXY);
    mesh_init(&here, &["clean"]).code(0);
    assert_same("after clean", &before, &dump(&here));
}

fn router(reading: Reading, variant: Variant, flags: &str) -> (Netns, Netns, Netns) {
    let (here, there, behind) = three_hosts();
    serve(&here, &there);
    Service::tcp(&behind, Who::ROOT, "behind", &[80]);
    reading.apply(&here, variant, flags);
    (here, there, behind)
}

/// What comes from a rerouted interface counts as outbound, so TPROXY must not take it before nat sees it.
fn rerouted(variant: Variant) {
    let (_here, _there, behind) = router(Reading::Own, variant, &format!("{TPROXY} -k eth1"));
    for family in Family::BOTH {
        dial(&behind, APP, THERE.port(family, 80)).captured_by("outbound");
    }
}

/// Answers to what is forwarded uncaptured (from an excluded interface, or not in the list of a rerouted one) belong to
/// connections that conntrack knows; they are forwarded all the same.
fn routed_through(variant: Variant) {
    let lists = "-p 15001 -z 15006 -u 1337 -g 1337 -b * -i 10.9.0.0/24,fd00:9::/64 -m TPROXY -k eth1";
    let excluded = format!("{TPROXY} -c eth1");
    for flags in [&excluded, lists] {
        let (_here, _there, behind) = router(Reading::Own, variant, flags);
        for family in Family::BOTH {
            let to = if flags == lists { THERE } else { THERE_FAR };
            dial(&behind, APP, to.port(family, 80)).untouched_to("there");
        }
    }
}

/// TPROXY with DNS capture and a resolver on an address of this host: the agent's own query over TCP gets there.
fn agents_query_over_lo(variant: Variant) {
    resolvers(&Family::BOTH.map(|family| HERE.ip(family)));
    let (here, there) = captured(Reading::Own, variant, &format!("{TPROXY} --redirect-dns"));
    serve_dns(&here, &there);
    for family in Family::BOTH {
        dial(&here, APP, HERE.port(family, 53)).captured_by("agent");
        dial(&here, Who::user(1337), HERE.port(family, 53)).untouched_to("stub");
    }
}

/// The proxy's call to an own address on a port that is not in the list of inbound ports (or with none) goes to its
/// inbound side in both modes.
fn own_address_listed(variant: Variant) {
    for mode in ["REDIRECT", "TPROXY"] {
        for ports in ["@", "9090"] {
            let flags = format!("-p 15001 -z 15006 -u 1337 -g 1337 -b {ports} -i * -m {mode}");
            for reading in Reading::BOTH {
                let (here, _there) = captured(reading, variant, &flags);
                for family in Family::BOTH {
                    dial(&here, Who::user(1337), HERE.port(family, 80)).captured_by("inbound");
                }
            }
        }
    }
}

/// conntrack may still know an earlier connection with the addresses and ports of a new one.
fn ports_used_again(variant: Variant) {
    let (here, there) = captured(Reading::Own, variant, TPROXY);
    for family in Family::BOTH {
        let (from, to) = (THERE.port(family, 41_000), HERE.port(family, 80));
        let (source, destination) = (from.ip().to_string(), to.ip().to_string());
        let earlier =
            ["-I", "-p", "tcp", "-s", &source, "-d", &destination, "--sport", "41000", "--dport", "80"];
        let state = ["--state", "ESTABLISHED", "--timeout", "60", "--status", "SEEN_REPLY,ASSURED"];
        Run::new(&here, "conntrack", &[&earlier[..], &state].concat()).ok();
        dial_from(&there, APP, Source { address: from, mark: None }, to).captured_by("inbound");
    }
}
