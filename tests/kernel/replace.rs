//! Other policies, layouts, families and variants in turn while clients connect: none of their connections,
//! which every one of the policies captures, goes past the proxy.

use std::time::Duration;

use crate::harness::{Case, Check};
use crate::scoped::{APP, PROXY};
use crate::support::clients::{Clients, Route};
use crate::support::command::mesh_init;
use crate::support::creds::Who;
use crate::support::netns::Netns;
use crate::support::rules::{Family, Variant, assert_same, dump, restore};
use crate::support::serve::Service;
use crate::support::wire::{HERE, THERE, two_hosts};
use crate::telling::{self, Telling, Whole};

/// All replacements of a run; the shares below add up to it.
const REPLACEMENTS: Whole = Whole { number: 2000, variable: "MESH_INIT_TEST_REPLACEMENTS" };

/// Policies that all capture what `routes` dials: uid 1000 to port 80 of `there`, and port 8001 from there.
pub(crate) const CLASSIC: &str = "-p 15001 -u 1337";
pub(crate) const OTHER_CLASSIC: &str = "-p 15002 -u 1338,1339 -g 1340 -i 10.0.0.0/24,fd00::/64";
pub(crate) const SCOPED: &str = "--uid-owner 1000 --inbound 8001";
pub(crate) const OTHER_SCOPED: &str = "--uid-owner 1000,2000 --gid-owner 3000 -p 15002 -u 1338 -z 15006 \
    -b 22,8000-8010 -q 80,443 -x 10.7.0.0/16,fd00:7::/32 -o 9443";
pub(crate) const V4_ONLY: &str = "-p 15001 -u 1337 --ipv6 off";
pub(crate) const DUAL: &str = "-p 15001 -u 1337 --ipv6 on";
pub(crate) const SCOPED_V4_ONLY: &str = "--uid-owner 1000 --inbound 8001 --ipv6 off";

const LIST: [Telling; 9] = [
    telling("replace::policies::legacy", || within(Variant::Legacy, 400, &[CLASSIC, OTHER_CLASSIC])),
    telling("replace::policies::nft", || within(Variant::Nft, 250, &[CLASSIC, OTHER_CLASSIC])),
    telling("replace::layouts::legacy", || within(Variant::Legacy, 300, &[CLASSIC, SCOPED])),
    telling("replace::layouts::nft", || within(Variant::Nft, 200, &[CLASSIC, SCOPED])),
    telling("replace::scoped::legacy", || within(Variant::Legacy, 150, &[SCOPED, OTHER_SCOPED])),
    telling("replace::scoped::nft", || within(Variant::Nft, 100, &[SCOPED, OTHER_SCOPED])),
    telling("replace::families::legacy", || families(Variant::Legacy, 200)),
    telling("replace::families::nft", || families(Variant::Nft, 100)),
    telling("replace::variants", || variants(300)),
];

const fn telling(name: &'static str, body: fn() -> String) -> Telling {
    Telling { name, body, within: Duration::from_secs(150) }
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = telling::cases(&LIST);
    cases.extend(Case::each_variant("replace::a_gap_is_seen", a_gap_is_seen));
    cases
}

pub(crate) fn checks() -> Vec<Check> {
    telling::checks(&LIST)
}

/// A policy under a variant.
pub(crate) type State = (Variant, &'static str);

fn within(variant: Variant, share: usize, policies: &[&'static str]) -> String {
    let states: Vec<State> = policies.iter().map(|flags| (variant, *flags)).collect();
    replace(REPLACEMENTS.part(share), &states, &Family::BOTH)
}

/// IPv6 comes and goes, so that only IPv4 is captured by both.
fn families(variant: Variant, share: usize) -> String {
    let policies = [V4_ONLY, DUAL, SCOPED_V4_ONLY, SCOPED];
    replace(REPLACEMENTS.part(share), &policies.map(|flags| (variant, flags)), &[Family::V4])
}

/// From one iptables to the other, with the same policy and with another.
fn variants(share: usize) -> String {
    let (legacy, nft) = (Variant::Legacy, Variant::Nft);
    let states = [
        (legacy, CLASSIC),
        (nft, CLASSIC),
        (legacy, OTHER_CLASSIC),
        (nft, SCOPED),
        (legacy, SCOPED),
        (nft, OTHER_CLASSIC),
    ];
    replace(REPLACEMENTS.part(share), &states, &Family::BOTH)
}

/// Goes through `states` in turn, `wanted` replacements in all.
pub(crate) fn replace(wanted: usize, states: &[State], families: &[Family]) -> String {
    let (here, there) = hosts();
    let mut first: Vec<String> = Vec::new();
    apply(&here, states[0]);
    first.push(dump(&here));
    let mut clients = Clients::start(routes(&here, &there, families), "proxy");
    let mut beside = 0;
    for (number, state) in states.iter().enumerate().cycle().skip(1).take(wanted) {
        let before = clients.captured();
        apply(&here, *state);
        beside += clients.captured() - before;
        if first.len() == number {
            first.push(dump(&here));
        }
    }
    clients.stop();
    let report = clients.report();
    clients.assert_all_captured(&format!("{wanted} replacements"));
    assert!(
        beside >= wanted,
        "expected a connection for each of {wanted} replacements, seen {beside}: {report}"
    );
    let last = wanted % states.len();
    assert_same(&format!("{:?} once more", states[last]), &first[last], &dump(&here));
    format!("{wanted} replacements, {beside} connections meanwhile, {} of all uncaptured", clients.astray())
}

/// The captured host with every proxy that a policy names, and the other host.
pub(crate) fn hosts() -> (Netns, Netns) {
    let (here, there) = two_hosts();
    Service::tcp(&here, PROXY, "proxy", &[15001, 15002, 15006]);
    Service::tcp(&here, Who::ROOT, "here", &[8001]);
    Service::tcp(&there, Who::ROOT, "there", &[80]);
    (here, there)
}

/// A user's connections out, and connections in.
pub(crate) fn routes(here: &Netns, there: &Netns, families: &[Family]) -> Vec<Route> {
    let out = families.iter().map(|family| THERE.port(*family, 80)).collect();
    let into = families.iter().map(|family| HERE.port(*family, 8001)).collect();
    vec![Route { from: here.clone(), who: APP, to: out }, Route { from: there.clone(), who: APP, to: into }]
}

/// Puts `state` in the place of another.
#[track_caller]
pub(crate) fn apply(netns: &Netns, state: State) {
    let run = mesh_init(netns, &words(state)).code(0);
    assert!(run.stdout.contains("\nchanged "), "expected a change, seen {run}");
}

pub(crate) fn words((variant, flags): State) -> Vec<&'static str> {
    flags.split_whitespace().chain(variant.flags()).collect()
}

/// Rules that are flushed and refilled by two commands leave a gap. The clients see it in every chain and
/// family, so they would see ours.
fn a_gap_is_seen(variant: Variant) {
    for family in Family::BOTH {
        for (chain, answers) in [("ISTIO_OUTPUT", "there "), ("PREROUTING", "here ")] {
            let (here, there) = hosts();
            apply(&here, (variant, CLASSIC));
            let mut clients = Clients::start(routes(&here, &there, &Family::BOTH), "proxy");
            restore(&here, variant, family, &format!("*nat\n-F {chain}\nCOMMIT\n"));
            std::thread::sleep(Duration::from_millis(20));
            restore(&here, variant, family, &format!("*nat\n-A {chain} -j ISTIO_REDIRECT\nCOMMIT\n"));
            clients.stop();
            let report = clients.report();
            assert!(
                clients.astray() > 0,
                "{chain} was empty for 20 ms: expected uncaptured connections, seen {report}"
            );
            assert!(report.contains(answers), "expected answers of {answers}, seen {report}");
        }
    }
}
