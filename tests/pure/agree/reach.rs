//! The random pairs are not idle: every clause is met and missed by them, and every outcome comes up.

use std::collections::{BTreeMap, BTreeSet};

use mesh_init::eval::decision::{Step, Tried};
use mesh_init::eval::{Capture, Outcome, evaluate};
use mesh_init::policy::{Dns, Layout, RuleId};
use mesh_init::rules::compile::compile;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

use super::connections::{self, Pool};
use super::policies::{self, Subject};

/// What came up in how many pairs.
#[derive(Default)]
struct Seen {
    made: BTreeSet<RuleId>,
    hit: BTreeMap<RuleId, u32>,
    missed: BTreeMap<RuleId, u32>,
    outcomes: BTreeMap<&'static str, u32>,
}

fn seen(subjects: BoxedStrategy<Subject>) -> Seen {
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(crate::properties::cases(1), rng);
    let mut seen = Seen::default();
    for _ in 0..400 {
        let pairs = (subjects.clone(), vec(connections::pick(), 20)).new_tree(&mut runner);
        let (subject, picks) = pairs.expect("a pair").current();
        let rules = compile(&subject.policy, subject.layout, subject.families);
        seen.made.extend(rules.chains.iter().flat_map(|chain| &chain.rules).filter_map(|rule| rule.id));
        let pool = Pool::of(&subject);
        for pick in &picks {
            let decision = evaluate(&[&rules], &pool.conn(pick));
            for step in &decision.trail {
                let Step::Try { place, result, .. } = step else { continue };
                let counts = if *result == Tried::Hit { &mut seen.hit } else { &mut seen.missed };
                *counts.entry(place.rule.id.expect("a rule of ours")).or_default() += 1;
            }
            *seen.outcomes.entry(name(&subject, &decision.outcome)).or_default() += 1;
        }
    }
    seen
}

fn name(subject: &Subject, outcome: &Outcome) -> &'static str {
    let proxy = &subject.policy.proxy;
    let dns = match &subject.policy.dns {
        Dns::Off => None,
        Dns::All { port } | Dns::Servers { port, .. } => Some(*port),
    };
    match outcome {
        Outcome::Captured { port, .. } if Some(*port) == dns => "dns",
        Outcome::Captured { by: Capture::Tproxy, .. } => "tproxy",
        Outcome::Captured { port, .. } if *port == proxy.port => "proxy port",
        Outcome::Captured { .. } => "inbound port",
        Outcome::Passed => "passed",
        Outcome::Dropped => "dropped",
        Outcome::Translated(_) | Outcome::CannotTell => "never",
    }
}

#[track_caller]
fn all_are_reached(layout: Layout, subjects: BoxedStrategy<Subject>, outcomes: &[&str]) {
    let Seen { made, hit, missed, outcomes: came_up } = seen(subjects);
    let few = |counts: &BTreeMap<RuleId, u32>, never: &[RuleId]| -> Vec<RuleId> {
        let enough = |id: &&RuleId| counts.get(id).is_some_and(|count| *count >= 5) || never.contains(id);
        made.iter().filter(|id| !enough(id)).copied().collect()
    };
    // A connection is told in the direction in which it was opened.
    assert_eq!(few(&hit, &[RuleId::InboundAnswer]), [], "{layout}: hardly ever met");
    // What has no conditions, or none but TCP after a jump for TCP.
    let unconditional = [
        RuleId::OutboundHook,
        RuleId::DnsHook,
        RuleId::RedirectOutbound,
        RuleId::RedirectInbound,
        RuleId::OutboundAll,
        RuleId::OutboundRest,
        RuleId::TproxyMark,
        RuleId::InboundAll,
    ];
    assert_eq!(few(&missed, &unconditional), [], "{layout}: hardly ever missed");
    assert_eq!(came_up.keys().copied().collect::<Vec<_>>(), outcomes, "{layout}");
    assert!(came_up.values().all(|count| *count >= 20), "{layout}: {came_up:?}");
}

#[test]
fn every_clause_and_outcome_comes_up() {
    all_are_reached(Layout::Classic, policies::classic(), &["passed", "proxy port"]);
    all_are_reached(Layout::Scoped, policies::scoped(), &["inbound port", "passed", "proxy port"]);
    let pod = ["dns", "dropped", "inbound port", "passed", "proxy port", "tproxy"];
    all_are_reached(Layout::Istio, policies::istio(), &pod);
    all_are_reached(Layout::IstioIptables, policies::letter(), &pod);
}
