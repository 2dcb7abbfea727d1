//! Chains, jumps and the ends of chains; which rule a decision names.

use mesh_init::eval::{Outcome, evaluate};
use mesh_init::policy::Family;
use mesh_init::rules::Verdict;

use super::{called, conn, of, outcome, redirected, v4};

const OUT: &str = "out tcp 10.1.2.3:80";

#[test]
fn a_chain_that_ends_or_returns_goes_back_to_its_caller() {
    for back in ["-A A -j RETURN", "-A A -p udp -j ACCEPT"] {
        let set = v4(&[("nat", &["-A OUTPUT -j A", "-A OUTPUT -p tcp -j REDIRECT --to-ports 2", back])]);
        assert_eq!(outcome(&[&set], OUT), redirected(2), "{back}");
    }
    // RETURN in a built-in chain is its policy.
    let set = v4(&[("filter", &[":OUTPUT DROP [0:0]", "-A OUTPUT -j RETURN", "-A OUTPUT -j ACCEPT"])]);
    assert_eq!(outcome(&[&set], OUT), Outcome::Dropped);
    let set = v4(&[("filter", &[":OUTPUT ACCEPT [0:0]", "-A OUTPUT -j RETURN", "-A OUTPUT -j DROP"])]);
    assert_eq!(outcome(&[&set], OUT), Outcome::Passed);
}

#[test]
fn goto_comes_back_to_the_callers_caller() {
    let text = [
        "-A OUTPUT -j A",
        "-A OUTPUT -p tcp -j REDIRECT --to-ports 1",
        "-A A -g B",
        "-A A -p tcp -j REDIRECT --to-ports 2",
        "-A B -j RETURN",
    ];
    assert_eq!(outcome(&[&v4(&[("nat", &text)])], OUT), redirected(1));
    // From a built-in chain there is no caller: its policy decides.
    let text = [":OUTPUT DROP [0:0]", "-A OUTPUT -g A", "-A OUTPUT -j ACCEPT", "-A A -p udp -j ACCEPT"];
    assert_eq!(outcome(&[&v4(&[("filter", &text)])], OUT), Outcome::Dropped);
    let text = [":OUTPUT DROP [0:0]", "-A OUTPUT -g A", "-A A -p tcp -j ACCEPT"];
    assert_eq!(outcome(&[&v4(&[("filter", &text)])], OUT), Outcome::Passed);
    // And after a jump and a goto that decide nothing the next chain of the hook is called.
    let nat = ["-A OUTPUT -j A", "-A A -g B", "-A B -p udp -j REDIRECT --to-ports 3"];
    let set = v4(&[("nat", &nat), ("filter", &["-A OUTPUT -j DROP"])]);
    assert_eq!(outcome(&[&set], OUT), Outcome::Dropped);
}

#[test]
fn accepting_ends_one_base_chain_only() {
    let set = v4(&[
        ("mangle", &["-A OUTPUT -j ACCEPT", "-A OUTPUT -j DROP"]),
        ("nat", &["-A OUTPUT -j A", "-A OUTPUT -p tcp -j REDIRECT --to-ports 1", "-A A -j ACCEPT"]),
        ("filter", &["-A OUTPUT -p tcp -m tcp --dport 81 -j DROP"]),
    ]);
    assert_eq!(outcome(&[&set], OUT), Outcome::Passed);
    assert_eq!(outcome(&[&set], "out tcp 10.1.2.3:81"), Outcome::Dropped);
}

#[test]
fn a_jump_to_no_chain_and_a_loop_cannot_be_told() {
    let mut set = v4(&[("nat", &["-A OUTPUT -p tcp -j A", "-A A -j RETURN"])]);
    set.chains.retain(|chain| chain.name != "A");
    let decision = evaluate(&[&set], &conn(OUT));
    assert_eq!(decision.outcome, Outcome::CannotTell);
    assert_eq!(decision.by.map(|place| place.rule.verdict.clone()), Some(Verdict::Jump("A".into())));
    assert_eq!(outcome(&[&set], "out udp 10.1.2.3:80"), Outcome::Passed, "the rule is not met");
    for (jump, back) in [("-j", "-j"), ("-g", "-j"), ("-g", "-g")] {
        let text = [format!("-A OUTPUT {jump} A"), format!("-A A {jump} B"), format!("-A B {back} A")];
        let text: Vec<&str> = text.iter().map(String::as_str).collect();
        assert_eq!(outcome(&[&v4(&[("nat", &text)])], OUT), Outcome::CannotTell, "{jump} {back}");
    }
}

/// 16 jumps are followed (`NFT_JUMP_STACK_SIZE`), so one chain more than that can be reached.
#[test]
fn jumps_are_followed_as_deep_as_the_kernel_follows_them() {
    let chain = |depth: usize| {
        let mut lines = vec!["-A OUTPUT -j C1".to_owned()];
        lines.extend((1..depth).map(|at| format!("-A C{at} -j C{}", at + 1)));
        lines.push(format!("-A C{depth} -p tcp -j REDIRECT --to-ports 1"));
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        v4(&[("nat", &lines)])
    };
    assert_eq!(outcome(&[&chain(16)], OUT), redirected(1));
    assert_eq!(outcome(&[&chain(17)], OUT), Outcome::CannotTell);
}

/// The same name in another table, family or variant is another chain.
#[test]
fn a_jump_stays_in_its_table_its_family_and_its_set() {
    let first = v4(&[
        ("mangle", &["-A OUTPUT -j A", "-A A -p udp -j DROP"]),
        ("nat", &["-A OUTPUT -j A", "-A A -p tcp -j REDIRECT --to-ports 1"]),
    ]);
    let second = v4(&[("nat", &["-A OUTPUT -j A", "-A A -p udp -j REDIRECT --to-ports 2"])]);
    let mut v6 = of(Family::V6, &[("nat", &["-A OUTPUT -j A", "-A A -p tcp -j REDIRECT --to-ports 6"])]);
    v6.chains.extend(first.chains.clone());
    assert_eq!(outcome(&[&v6], OUT), redirected(1));
    assert_eq!(outcome(&[&v6], "out tcp [fd00::9]:80"), redirected(6));
    assert_eq!(outcome(&[&second, &first], OUT), redirected(1));
    assert_eq!(outcome(&[&first, &second], OUT), redirected(1));
    assert_eq!(outcome(&[&second], "out udp 10.1.2.3:80"), redirected(2));
    assert_eq!(outcome(&[&v6], "out udp 10.1.2.3:80"), Outcome::Dropped);
}

#[test]
fn the_rule_that_decides_is_named() {
    let by = |text: &[&str], said: &str| {
        let set = v4(&[("nat", text)]);
        let decision = evaluate(&[&set], &conn(said));
        decision.by.map(|place| (place.chain.name.clone(), place.index))
    };
    let at = |chain: &str, index: usize| Some((chain.to_owned(), index));
    let text = [
        "-A OUTPUT -p udp -j R",
        "-A OUTPUT -j A",
        "-A A -p tcp -j R",
        "-A R -p tcp -j REDIRECT --to-ports 1",
    ];
    assert_eq!(by(&text, OUT), at("A", 0), "a chain that only captures is called for a reason");
    let text =
        ["-A OUTPUT -j D", "-A D -p udp -j REDIRECT --to-ports 1", "-A D -p tcp -j REDIRECT --to-ports 2"];
    assert_eq!(by(&text, OUT), at("D", 1), "a chain with several rules tells which");
    assert_eq!(by(&["-A OUTPUT -p tcp -j REDIRECT --to-ports 1"], OUT), at("OUTPUT", 0));
    let text = ["-A OUTPUT -p udp -j ACCEPT", "-A OUTPUT -j A", "-A A -p tcp -j RETURN"];
    assert_eq!(by(&text, OUT), at("A", 0), "what lets it pass");
    assert_eq!(by(&text, "out icmp 10.1.2.3"), None, "nothing says anything");
    assert_eq!(by(&[":OUTPUT DROP [0:0]", "-A OUTPUT -p udp -j ACCEPT"], OUT), None, "the policy is no rule");
    // Nor is the rule that had captured what a policy drops.
    let text = [":OUTPUT DROP [0:0]", "-A OUTPUT -p udp -j ACCEPT"];
    let set = v4(&[("nat", &["-A OUTPUT -p tcp -j REDIRECT --to-ports 1"]), ("filter", &text)]);
    let decision = evaluate(&[&set], &conn(OUT));
    assert_eq!((decision.outcome, decision.by), (Outcome::Dropped, None));
}

#[test]
fn a_way_without_end_is_not_followed() {
    // Ten jumps in each of fifteen chains: 10^15 steps, which neither kernel nor we would ever end.
    let mut text = vec!["-A OUTPUT -j C0".to_owned()];
    text.extend((0..14).flat_map(|n| vec![format!("-A C{n} -j C{}", n + 1); 10]));
    text.push("-A C14 -p udp -j DROP".to_owned());
    let text: Vec<&str> = text.iter().map(String::as_str).collect();
    assert_eq!(outcome(&[&v4(&[("filter", &text)])], OUT), Outcome::CannotTell);
    assert_eq!(outcome(&[&v4(&[("filter", &text)])], "out udp 10.1.2.3:80"), Outcome::Dropped);
}

#[test]
fn an_empty_chain_with_its_default_policy_is_not_there() {
    let set = v4(&[("nat", &[":OUTPUT ACCEPT [0:0]"]), ("filter", &[":OUTPUT DROP [0:0]"])]);
    let decision = evaluate(&[&set], &conn(OUT));
    assert_eq!(called(&decision), ["filter OUTPUT"]);
    assert_eq!(decision.outcome, Outcome::Dropped);
}
