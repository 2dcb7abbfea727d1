//! What is not understood: told where it would decide, and only there.

use mesh_init::eval::decision::{Step, Tried};
use mesh_init::eval::{Outcome, evaluate};

use super::{conn, outcome, redirected, v4};

const OUT: &str = "out tcp 10.1.2.3:80";
const REDIRECT: &str = "-A OUTPUT -p tcp -j REDIRECT --to-ports 1";

#[track_caller]
fn by(lines: &[&str]) -> (Outcome, Option<usize>) {
    let set = v4(&[("nat", lines)]);
    let decision = evaluate(&[&set], &conn(OUT));
    (decision.outcome, decision.by.map(|place| place.index))
}

#[test]
fn a_condition_that_decides_cannot_be_told() {
    let rule = "-A OUTPUT -m statistic --mode random --probability 0.5 -j RETURN";
    assert_eq!(by(&[rule, REDIRECT]), (Outcome::CannotTell, Some(0)));
    assert_eq!(by(&["-A OUTPUT -p udp -j RETURN", rule, REDIRECT]), (Outcome::CannotTell, Some(1)));
    assert_eq!(by(&[REDIRECT, rule]), (redirected(1), Some(0)), "it was not reached");
    // A rule that is missed for another reason is missed.
    assert_eq!(by(&["-A OUTPUT -p udp -m statistic --mode random -j RETURN", REDIRECT]).0, redirected(1));
}

#[test]
fn a_condition_that_makes_no_difference_does_not_matter() {
    let rule = "-A OUTPUT -m statistic --mode random --probability 0.5";
    for same in ["-p tcp -j REDIRECT --to-ports 1", "-j LOG", "-j A", ""] {
        let same = format!("{rule} {same}");
        let lines = [same.trim(), REDIRECT, "-A A -m set --match-set b dst -p tcp -j REDIRECT --to-ports 1"];
        assert_eq!(by(&lines).0, redirected(1), "{same}");
    }
    let set = v4(&[("nat", &[&format!("{rule} -j LOG"), REDIRECT])]);
    let decision = evaluate(&[&set], &conn(OUT));
    let either = |step: &Step<'_>| matches!(step, Step::Try { result: Tried::Either(_), .. });
    assert_eq!(decision.trail.iter().filter(|step| either(step)).count(), 1, "the trail says so");
    // However many there are of those that do nothing either way.
    for nothing in [format!("{rule} -j LOG"), rule.to_owned()] {
        assert_eq!(by(&[&[nothing.as_str(); 20][..], &[REDIRECT]].concat()).0, redirected(1), "{nothing}");
    }
    // Another port is another outcome.
    let other = format!("{rule} -p tcp -j REDIRECT --to-ports 2");
    assert_eq!(by(&[&other, REDIRECT]), (Outcome::CannotTell, Some(0)));
}

/// Each of several is tried both ways; of two of which only the second decides the second is named.
#[test]
fn several_conditions_that_are_not_understood() {
    let same = "-A OUTPUT -m set --match-set a dst -p tcp -j REDIRECT --to-ports 1";
    let other = "-A OUTPUT -m set --match-set b dst -j RETURN";
    assert_eq!(by(&[&[same; 6][..], &[REDIRECT]].concat()).0, redirected(1));
    assert_eq!(by(&[&[same; 7][..], &[REDIRECT]].concat()).0, Outcome::CannotTell, "that is too many");
    assert_eq!(by(&[other, same, REDIRECT]).0, Outcome::CannotTell);
    // The same rule is met on two ways and is one question.
    let lines = [
        "-A OUTPUT -j A",
        "-A OUTPUT -j A",
        "-A OUTPUT -p tcp -j REDIRECT --to-ports 1",
        "-A A -m set --match-set b dst -j RETURN",
    ];
    assert_eq!(by(&lines).0, redirected(1));
}

#[test]
fn a_verdict_that_is_not_understood_cannot_be_told() {
    for verdict in [
        "-j NFQUEUE --queue-num 1",
        "-j HMARK --hmark-tuple src",
        "-j SET --map-set a src --map-mark",
        "-j NOTRACK",
    ] {
        let rule = format!("-A OUTPUT -p tcp {verdict}");
        assert_eq!(by(&[&rule, REDIRECT]), (Outcome::CannotTell, Some(0)), "{verdict}");
        let rule = format!("-A OUTPUT -p udp {verdict}");
        assert_eq!(by(&[&rule, REDIRECT]).0, redirected(1), "{verdict}: not met");
    }
    let set = v4(&[("nat", &["-A OUTPUT -j NFQUEUE"])]);
    let decision = evaluate(&[&set], &conn(OUT));
    let Some(Step::Try { result, .. }) = decision.trail.last() else { panic!("{:?}", decision.trail) };
    assert!(matches!(result, Tried::Unknown(_)), "{result:?}");
    assert_eq!(decision.trail.len(), 2, "entered, and not understood");
    // It is not even met for sure.
    assert_eq!(by(&["-A OUTPUT -m set --match-set a dst -j NFQUEUE", REDIRECT]).0, Outcome::CannotTell);
}

#[test]
fn rejecting_drops_and_logging_does_nothing() {
    for (rule, expected) in [
        ("-A OUTPUT -j REJECT --reject-with icmp-port-unreachable", Outcome::Dropped),
        ("-A OUTPUT -p tcp -j REJECT --reject-with tcp-reset", Outcome::Dropped),
        ("-A OUTPUT -j LOG --log-prefix x", redirected(1)),
        ("-A OUTPUT -j NFLOG", redirected(1)),
        ("-A OUTPUT -j SET --add-set a src", redirected(1)),
        ("-A OUTPUT -j TCPMSS --clamp-mss-to-pmtu", redirected(1)),
        ("-A OUTPUT -j CT --zone 1", redirected(1)),
        ("-A OUTPUT -p udp -j REJECT", redirected(1)),
    ] {
        let set = v4(&[("raw", &[rule]), ("nat", &[REDIRECT])]);
        assert_eq!(outcome(&[&set], OUT), expected, "{rule}");
    }
    let set = v4(&[("filter", &["-A OUTPUT -j REJECT --reject-with tcp-reset"]), ("nat", &[REDIRECT])]);
    let decision = evaluate(&[&set], &conn(OUT));
    assert_eq!(decision.by.map(|place| place.chain.table.to_string()), Some("filter".to_owned()));
}
