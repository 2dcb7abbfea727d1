//! One policy in the place of another under nftables, and moves between nftables and both iptables, while clients
//! connect: none of their connections, which every one of the policies captures, goes past the proxy.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::harness::{Case, Check};
use crate::istio::POD;
use crate::istio_replace::{self, ALL_DNS, DNS, LISTS, TPROXY_DNS, dns_of_a_busy_port};
use crate::istio_tproxy::TPROXY;
use crate::replace::{
    self, CLASSIC, DUAL, OTHER_CLASSIC, OTHER_SCOPED, SCOPED, SCOPED_V4_ONLY, State, V4_ONLY, hosts, routes,
};
use crate::support::clients::Clients;
use crate::support::command::Run;
use crate::support::rules::{Family, Variant, native};
use crate::telling::{self, Telling, Whole};

/// All replacements of a run; the shares below add up to it.
const REPLACEMENTS: Whole = Whole { number: 500, variable: "MESH_INIT_TEST_NATIVE_REPLACEMENTS" };

/// Sets of networks, ports and users on both sides, none of them in both policies.
const SETS: &str = "-p 15001 -z 15006 -u 1337,1338 -g 1337 -b 7999,8001-8040,8041-8090,9001 \
    -i 10.0.0.0/24,10.7.0.0/16,10.9.0.0/24,fd00::/64,fd00:7::/32 -o 443,9443 -q 80,8443 \
    -x 10.77.0.0/16,10.79.0.0/16,fd77::/32,fd79::/32 -c eth7,eth8";
const OTHER_SETS: &str = "-p 15001 -z 15006 -u 1337,1339 -g 1337 -b 8000-8070,9002,9004,9006 \
    -i 10.0.0.0/25,10.8.0.0/16,10.10.0.0/24,fd00::/65,fd00:8::/32 -o 444,9444 -q 79,80 \
    -x 10.78.0.0/16,10.80.0.0/16,fd78::/32,fd7a::/32 -c eth5,eth6";
const TPROXY_SETS: &str = "-p 15001 -z 15006 -u 1337 -g 1337 -b 8001-8010,8011-8020,8021-8030,8031-8040,8041-8050,\
    8051-8060,8061-8064,9003,9005,9007 -i * -m TPROXY -o 9443,9445 -x 10.77.0.0/16,fd77::/32";

/// Interval sets and verdict maps of ports and of networks on both sides, none of them in both policies.
const MAPS: &str = "-p 15001 -z 15006 -u 1337 -g 1337 -b 8001-8040,8041-8070,9001 -i 10.0.0.0/24,10.7.0.0/16,fd00::/64,\
    fd00:7::/32 -x 10.77.0.0/16,10.79.0.0/16,fd77::/32,fd79::/32 -o 443,9443";
const OTHER_MAPS: &str = "-p 15001 -z 15006 -u 1337 -g 1337 -b * -d 22,7000-7010,15021 -i 10.0.0.0/25,10.8.0.0/16,\
    fd00::/65,fd00:8::/32 -x 10.78.0.0/16,10.80.0.0/16,fd78::/32,fd7a::/32 -o 444,9444";
const SCOPED_MAPS: &str = "--uid-owner 1000 -p 15001 -u 1338 -z 15006 -b * -d 23,7900-7999 -o 22,9443 \
    -x 10.7.0.0/16,10.9.0.0/16,fd00:7::/32";

const LIST: [Telling; 10] = [
    telling("native::replace::policies", || within(50, &[CLASSIC, OTHER_CLASSIC])),
    telling("native::replace::scoped", || within(50, &[SCOPED, OTHER_SCOPED, CLASSIC])),
    telling("native::replace::families", || {
        let states = states(&[V4_ONLY, DUAL, SCOPED_V4_ONLY, SCOPED]);
        replace::replace(REPLACEMENTS.part(40), &states, &[Family::V4])
    }),
    telling("native::replace::sets", || istio(90, &[SETS, OTHER_SETS, LISTS, TPROXY_SETS])),
    telling("native::replace::maps", || {
        each_has_its_own(&[MAPS, OTHER_MAPS], &["set ports_", "map map_"]);
        istio(80, &[MAPS, OTHER_MAPS])
    }),
    telling("native::replace::maps_of_layouts", || {
        each_has_its_own(&[SCOPED_MAPS, MAPS], &["set ports_", "map map_"]);
        within(20, &[SCOPED_MAPS, MAPS, OTHER_MAPS, OTHER_SCOPED])
    }),
    telling("native::replace::modes", || istio(40, &[POD, TPROXY])),
    telling("native::replace::dns", || istio(40, &[DNS, ALL_DNS, TPROXY_DNS])),
    telling("native::replace::layouts", || istio_replace::layouts(Variant::Native, REPLACEMENTS.part(30))),
    telling("native::replace::moves", || moves(60)),
];

const fn telling(name: &'static str, body: fn() -> String) -> Telling {
    Telling { name, body, within: Duration::from_secs(150) }
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = telling::cases(&LIST);
    cases.push(Case::new("native::replace::a_gap_is_seen", a_gap_is_seen));
    cases.push(Case::new("native::replace::dns_of_a_busy_port", || dns_of_a_busy_port(Variant::Native)));
    cases
}

pub(crate) fn checks() -> Vec<Check> {
    telling::checks(&LIST)
}

/// Sees that both families have `words` under each of two policies, and never the same ones.
fn each_has_its_own(policies: &[&'static str; 2], words: &[&str]) {
    let (here, _there) = hosts();
    let held = policies.map(|flags| {
        replace::apply(&here, (Variant::Native, flags));
        Family::BOTH.map(|family| native(&here, family, &["-s"]))
    });
    for (word, (one, other)) in
        words.iter().flat_map(|word| held[0].iter().zip(&held[1]).map(move |of| (word, of)))
    {
        let names = |listed: &str| -> BTreeSet<String> {
            listed.lines().filter(|line| line.trim_start().starts_with(word)).map(str::to_owned).collect()
        };
        let (one_has, other_has) = (names(one), names(other));
        assert!(!one_has.is_empty() && !other_has.is_empty(), "expected some `{word}`, seen\n{one}{other}");
        assert!(one_has.is_disjoint(&other_has), "expected other ones of `{word}`, seen\n{one}{other}");
    }
}

fn states(policies: &[&'static str]) -> Vec<State> {
    policies.iter().map(|flags| (Variant::Native, *flags)).collect()
}

fn within(share: usize, policies: &[&'static str]) -> String {
    replace::replace(REPLACEMENTS.part(share), &states(policies), &Family::BOTH)
}

fn istio(share: usize, policies: &[&'static str]) -> String {
    istio_replace::replace(REPLACEMENTS.part(share), &states(policies))
}

/// From and to each iptables, with the same policy and with another.
fn moves(share: usize) -> String {
    let (legacy, nft, native) = (Variant::Legacy, Variant::Nft, Variant::Native);
    let plain = [
        (legacy, CLASSIC),
        (native, CLASSIC),
        (nft, OTHER_CLASSIC),
        (native, SCOPED),
        (legacy, SCOPED),
        (nft, CLASSIC),
        (native, OTHER_CLASSIC),
    ];
    let istio = [
        (legacy, DNS),
        (native, DNS),
        (nft, DNS),
        (native, TPROXY_DNS),
        (legacy, TPROXY_DNS),
        (native, ALL_DNS),
        (nft, TPROXY_DNS),
        (native, TPROXY_DNS),
    ];
    let half = REPLACEMENTS.part(share) / 2;
    let plain = replace::replace(half, &plain, &Family::BOTH);
    format!("{plain}; istio's: {}", istio_replace::replace(half, &istio))
}

/// The clients see a gap in every chain and family, so they would see ours.
fn a_gap_is_seen() {
    for family in Family::BOTH {
        for (chain, answers) in [("nat_output", "there "), ("nat_prerouting", "here "), ("nat_redirect", " ")]
        {
            let (here, there) = hosts();
            replace::apply(&here, (Variant::Native, CLASSIC));
            let mut clients = Clients::start(routes(&here, &there, &Family::BOTH), "proxy");
            let chain = ["chain", family.of_nft(), "mesh_init", chain];
            Run::new(&here, "nft", &[&["flush"], &chain[..]].concat()).ok();
            std::thread::sleep(Duration::from_millis(20));
            replace::apply(&here, (Variant::Native, CLASSIC));
            clients.stop();
            let report = clients.report();
            assert!(
                clients.astray() > 0,
                "{chain:?} was empty for 20 ms: expected uncaptured connections, seen {report}"
            );
            assert!(report.contains(answers), "expected answers of {answers}, seen {report}");
        }
    }
}
