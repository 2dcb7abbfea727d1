//! One istio policy in the place of another while clients connect and ask: REDIRECT and TPROXY in turn, DNS
//! capture coming and going. No connection goes past the proxy, and no query that both policies capture past the
//! agent.

use std::net::SocketAddr;
use std::time::Duration;

use crate::harness::{Case, Check};
use crate::istio::{APP, POD, Reading, serve};
use crate::istio_dns::serve_dns;
use crate::istio_tproxy::TPROXY;
use crate::replace::{self, State};
use crate::support::clients::{Clients, Route};
use crate::support::netns::Netns;
use crate::support::queries::Queries;
use crate::support::resolv::resolvers;
use crate::support::rules::{Family, Variant, assert_same, dump, restore};
use crate::support::wire::{HERE, THERE, two_hosts};
use crate::telling::{self, Telling, Whole};

/// All replacements of a run; the shares below add up to it.
const REPLACEMENTS: Whole = Whole { number: 500, variable: "MESH_INIT_TEST_ISTIO_REPLACEMENTS" };

pub(crate) const DNS: &str = "-p 15001 -z 15006 -u 1337 -b * -i * --redirect-dns";
pub(crate) const ALL_DNS: &str = "-p 15001 -z 15006 -u 1337 -b * -i * --redirect-dns --capture-all-dns";
pub(crate) const TPROXY_DNS: &str =
    "-p 15001 -z 15006 -u 1337 -g 1337 -b * -i * -m TPROXY --redirect-dns --drop-invalid";
pub(crate) const LISTS: &str =
    "-p 15001 -z 15006 -u 1337,1338 -b 8001-8064 -i 10.0.0.0/24,fd00::/64 -o 9999 -c eth7";

const LIST: [Telling; 11] = [
    telling("istio::replace::modes::legacy", || within(Variant::Legacy, 60, &[POD, TPROXY])),
    telling("istio::replace::modes::nft", || within(Variant::Nft, 60, &[POD, TPROXY])),
    telling("istio::replace::policies::legacy", || within(Variant::Legacy, 40, &[LISTS, TPROXY, POD])),
    telling("istio::replace::policies::nft", || within(Variant::Nft, 40, &[LISTS, TPROXY, POD])),
    telling("istio::replace::dns::legacy", || within(Variant::Legacy, 40, &[POD, DNS])),
    telling("istio::replace::dns::nft", || within(Variant::Nft, 40, &[POD, DNS])),
    telling("istio::replace::dns_of_all::legacy", || {
        within(Variant::Legacy, 40, &[DNS, ALL_DNS, TPROXY_DNS])
    }),
    telling("istio::replace::dns_of_all::nft", || within(Variant::Nft, 40, &[DNS, ALL_DNS, TPROXY_DNS])),
    telling("istio::replace::layouts::legacy", || layouts(Variant::Legacy, REPLACEMENTS.part(40))),
    telling("istio::replace::layouts::nft", || layouts(Variant::Nft, REPLACEMENTS.part(40))),
    telling("istio::replace::variants", || variants(60)),
];

const fn telling(name: &'static str, body: fn() -> String) -> Telling {
    Telling { name, body, within: Duration::from_secs(150) }
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = telling::cases(&LIST);
    cases.extend(Case::all_for_each_variant(&[
        ("istio::replace::a_gap_is_seen", a_gap_is_seen),
        ("istio::replace::a_gap_of_dns_is_seen", a_gap_of_dns_is_seen),
        ("istio::replace::dns_of_a_busy_port", dns_of_a_busy_port),
    ]));
    cases
}

pub(crate) fn checks() -> Vec<Check> {
    telling::checks(&LIST)
}

fn hosts() -> (Netns, Netns) {
    resolvers(&Family::BOTH.map(|family| THERE.ip(family)));
    let (here, there) = two_hosts();
    serve(&here, &there);
    serve_dns(&here, &there);
    (here, there)
}

/// A user's connections out, to the proxy's one port; connections in, to its other one.
fn clients(here: &Netns, there: &Netns) -> [Clients; 2] {
    let route = |from: &Netns, to: Vec<SocketAddr>| vec![Route { from: from.clone(), who: APP, to }];
    let out = Family::BOTH.map(|family| THERE.port(family, 80)).into();
    // Many ports, so that no client meets what conntrack remembers of an earlier one with its addresses and ports.
    let into = (8001..=8064).flat_map(|port| Family::BOTH.map(|family| HERE.port(family, port))).collect();
    [Clients::start(route(here, out), "outbound"), Clients::start(route(there, into), "inbound")]
}

fn resolver() -> Vec<SocketAddr> {
    Family::BOTH.map(|family| THERE.port(family, 53)).into()
}

fn within(variant: Variant, share: usize, policies: &[&'static str]) -> String {
    let states: Vec<State> = policies.iter().map(|flags| (variant, *flags)).collect();
    replace(REPLACEMENTS.part(share), &states)
}

/// From one iptables to the other, with the same policy and with another.
fn variants(share: usize) -> String {
    let (legacy, nft) = (Variant::Legacy, Variant::Nft);
    let states = [
        (legacy, DNS),
        (nft, DNS),
        (nft, TPROXY_DNS),
        (legacy, ALL_DNS),
        (nft, ALL_DNS),
        (legacy, DNS),
        (legacy, TPROXY_DNS),
    ];
    replace(REPLACEMENTS.part(share), &states)
}

/// From layout to layout; there all capture ports are one proxy's.
pub(crate) fn layouts(variant: Variant, wanted: usize) -> String {
    let (here, there) = replace::hosts();
    let states = [POD, replace::CLASSIC, LISTS, replace::SCOPED];
    replace::apply(&here, (variant, states[0]));
    let mut clients = Clients::start(replace::routes(&here, &there, &Family::BOTH), "proxy");
    for state in states.into_iter().cycle().skip(1).take(wanted) {
        replace::apply(&here, (variant, state));
    }
    clients.stop();
    clients.assert_all_captured(&format!("{wanted} replacements"));
    format!("{wanted} replacements, {} connections", clients.captured())
}

/// Goes through `states` in turn, `wanted` replacements in all.
pub(crate) fn replace(wanted: usize, states: &[State]) -> String {
    let (here, there) = hosts();
    let mut first: Vec<String> = Vec::new();
    let apply = |(variant, flags): State| drop(Reading::Own.apply(&here, variant, flags).says("\nchanged "));
    apply(states[0]);
    first.push(dump(&here));
    let mut clients = clients(&here, &there);
    let always = states.iter().all(|(_, flags)| flags.contains("dns"));
    let asks = states.iter().any(|(_, flags)| flags.contains("dns"));
    let queries = asks.then(|| Queries::start(&here, APP, resolver()));
    let count = |clients: &[Clients; 2]| clients.iter().map(Clients::captured).sum::<usize>();
    let mut beside = 0;
    for (number, state) in states.iter().enumerate().cycle().skip(1).take(wanted) {
        let before = count(&clients);
        apply(*state);
        beside += count(&clients) - before;
        if first.len() == number {
            first.push(dump(&here));
        }
    }
    let mut told = format!("{wanted} replacements, {beside} connections meanwhile");
    for clients in &mut clients {
        clients.stop();
        clients.assert_all_captured(&format!("{wanted} replacements"));
    }
    assert!(beside >= wanted, "expected a connection for each of {wanted} replacements, seen {beside}");
    if let Some(queries) = queries {
        let answers = queries.stop();
        told = format!("{told}; queries answered: {answers}");
        assert!(answers.of("agent") > 0, "expected answers of the agent, seen {answers}");
        if always {
            assert_eq!(answers.of("resolver"), 0, "expected every query at the agent, seen {answers}");
        }
    }
    let last = wanted % states.len();
    assert_same(&format!("{:?} once more", states[last]), &first[last], &dump(&here));
    told
}

/// Rules that are flushed and refilled by two commands leave a gap, in each chain that captures.
fn a_gap_is_seen(variant: Variant) {
    const TAKES: &str = "-p tcp -j TPROXY --on-port 15006 --tproxy-mark 1337";
    let gaps = [
        (POD, "nat", "ISTIO_OUTPUT", "-j ISTIO_REDIRECT", 0),
        (POD, "nat", "ISTIO_INBOUND", "-p tcp -j ISTIO_IN_REDIRECT", 1),
        (TPROXY, "mangle", "ISTIO_TPROXY", TAKES, 1),
    ];
    for family in Family::BOTH {
        for (flags, table, chain, rule, side) in gaps {
            let (here, there) = hosts();
            Reading::Own.apply(&here, variant, flags);
            let mut clients = clients(&here, &there);
            restore(&here, variant, family, &format!("*{table}\n-F {chain}\nCOMMIT\n"));
            std::thread::sleep(Duration::from_millis(20));
            restore(&here, variant, family, &format!("*{table}\n-A {chain} {rule}\nCOMMIT\n"));
            clients.iter_mut().for_each(Clients::stop);
            let [seen, not] = [side, 1 - side].map(|side| clients[side].astray());
            let report = clients.each_ref().map(Clients::report).concat();
            assert!(seen > 0 && not == 0, "{chain} was empty for 20 ms: expected a gap there, seen {report}");
        }
    }
}

fn a_gap_of_dns_is_seen(variant: Variant) {
    for family in Family::BOTH {
        let (here, _there) = hosts();
        Reading::Own.apply(&here, variant, DNS);
        let queries = Queries::start(&here, APP, resolver());
        restore(&here, variant, family, "*nat\n-F ISTIO_OUTPUT_DNS\nCOMMIT\n");
        std::thread::sleep(Duration::from_millis(20));
        let rule = "-A ISTIO_OUTPUT_DNS -p udp --dport 53 -j REDIRECT --to-ports 15053";
        restore(&here, variant, family, &format!("*nat\n{rule}\nCOMMIT\n"));
        let answers = queries.stop();
        assert!(answers.of("resolver") > 0, "expected answers of the resolver, seen {answers}");
    }
}

/// A client that keeps asking from one port, which conntrack knows: its next query goes to the agent.
pub(crate) fn dns_of_a_busy_port(variant: Variant) {
    let (here, _there) = hosts();
    Reading::Own.apply(&here, variant, DNS);
    let busy = [41_000, 41_010].map(|port| Queries::from_port(&here, APP, port, resolver()));
    for flags in [ALL_DNS, TPROXY_DNS, DNS] {
        Reading::Own.apply(&here, variant, flags).says("\nchanged ");
        busy.iter().for_each(Queries::forget);
        // Until each has had an answer: one that was lost is asked again only after a while.
        for _ in 0..100 {
            std::thread::sleep(Duration::from_millis(50));
            if busy.iter().all(|queries| queries.seen().of("agent") > 0) {
                break;
            }
        }
        for answers in busy.each_ref().map(Queries::seen) {
            let (agent, resolver) = (answers.of("agent"), answers.of("resolver"));
            assert!(agent > 0 && resolver == 0, "{flags}: expected the agent's answers, seen {answers}");
        }
    }
}
