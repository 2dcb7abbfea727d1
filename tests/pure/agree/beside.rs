//! What a policy needs and no outcome of a connection shows: it is looked for in the rules themselves.

use mesh_init::policy::{Families, Family, Mark};
use mesh_init::rules::compile::compile;
use mesh_init::rules::{Match, Routing, Rule, Table, Test, Verdict};

use super::policies::Subject;

const OURS: &[&str] = &["--layout", "istio", "-z", "15006", "-m", "TPROXY"];
const UPSTREAMS: &[&str] = &["--layout", "istio-iptables", "-z", "15006", "-m", "TPROXY"];

/// What TPROXY's later packets need shows in no outcome either: a connection that is diverted carries the mark, which
/// routing needs, and what came over lo with the mark gives it to its connection, for the answers.
#[test]
fn marks_are_set_and_kept_for_later_packets() {
    for args in [OURS, UPSTREAMS] {
        let Subject { policy, layout, families, .. } = Subject::new(args, Families::Both);
        let rules = compile(&policy, layout, families);
        for family in families.list() {
            let verdicts = |chain| -> Vec<&Verdict> {
                let chain = rules.chain(*family, &Table::Mangle, chain).expect("the chain");
                chain.rules.iter().map(|rule| &rule.verdict).collect()
            };
            assert_eq!(verdicts("ISTIO_DIVERT"), [&Verdict::SetMark(Mark(1337)), &Verdict::Accept]);
            let jump = Verdict::Jump("ISTIO_INBOUND".to_owned());
            assert_eq!(verdicts("PREROUTING"), [&jump, &Verdict::SaveMark], "{layout} {family}");
            assert_eq!(verdicts("OUTPUT").last(), Some(&&Verdict::RestoreMark));
        }
    }
}

/// A connection is told in the direction in which it was opened, so what is done with its answers shows in the rules
/// alone: without the exception an answer to what passes through this host would be taken for the proxy's.
#[test]
fn ours_lets_answers_past_tproxy() {
    for (args, lets) in [(OURS, true), (UPSTREAMS, false)] {
        let Subject { policy, layout, families, .. } = Subject::new(args, Families::Both);
        let rules = compile(&policy, layout, families);
        for family in families.list() {
            let inbound = rules.chain(*family, &Table::Mangle, "ISTIO_INBOUND").expect("the chain");
            let answers = |rule: &Rule| rule.matches.contains(&Match::is(Test::Answer));
            let first = inbound.rules.iter().position(answers);
            let diverts = |rule: &Rule| rule.target() == Some("ISTIO_DIVERT");
            let before = inbound.rules.iter().position(diverts).is_some_and(|divert| first < Some(divert));
            let returns = first.map(|first| &inbound.rules[first].verdict) == Some(&Verdict::Return);
            assert_eq!(first.is_some() && before && returns, lets, "{layout} {family}");
        }
    }
}

/// IPv6 needs the passthrough address (IPv4 has all of 127.0.0.0/8), TPROXY its rules and routes.
#[test]
fn routing_is_asked_for_where_it_is_needed() {
    let routing = |args: &[&str], families| {
        let Subject { policy, layout, .. } = Subject::new(args, families);
        compile(&policy, layout, families).routing
    };
    let (mark, table) = (Mark(1337), 133);
    let rule = |family| Routing::Rule { family, mark, table };
    let route = |family| Routing::Route { family, table };
    for args in [OURS, UPSTREAMS] {
        assert_eq!(routing(args, Families::V4), [rule(Family::V4), route(Family::V4)]);
        let both = [rule(Family::V4), rule(Family::V6), route(Family::V4), route(Family::V6)];
        assert_eq!(routing(args, Families::Both), [&[Routing::PassthroughAddress][..], &both].concat());
        let nothing = [args, &["-b", ""]].concat();
        assert_eq!(routing(&nothing, Families::Both), [Routing::PassthroughAddress]);
        assert_eq!(routing(&args[..4], Families::Both), [Routing::PassthroughAddress]);
        assert_eq!(routing(&args[..4], Families::V4), []);
    }
    assert_eq!(routing(&["-u", "1337"], Families::Both), []);
    assert_eq!(routing(&["--uid-owner", "1000"], Families::Both), []);
}
