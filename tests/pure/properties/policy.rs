//! A policy and its JSON, rules and their lines: each is the other.

use mesh_init::backend::iptables::render;
use mesh_init::backend::plan;
use mesh_init::input::{Faults, config};
use mesh_init::policy::validate::{self, Request};
use mesh_init::policy::{Facts, Families, Family, json};
use mesh_init::rules::compile::compile;
use mesh_init::rules::{Rule, Table};
use proptest::prelude::*;

use super::machine::Machine;
use super::{cases, fuzz, given};

/// What `--config` makes of the JSON of a policy.
fn by_json(request: &Request) -> Result<Request, Faults> {
    let text = json::to_json(&request.policy).to_string();
    let mut faults = Faults::default();
    let raw = config::parse("policy.json", &text, &mut faults);
    validate::request(&raw, &Facts::default(), faults)
}

proptest! {
    #![proptest_config(cases(512))]

    #[test]
    fn a_policy_reads_back_as_itself_and_chooses_the_same_layout((layout, args) in given::either()) {
        let request = given::request(&args);
        prop_assert_eq!(request.layout, layout);
        let again = by_json(&request);
        let again = again.as_ref().map(|again| (again.layout, &again.policy));
        prop_assert_eq!(again, Ok((layout, &request.policy)));
    }

    #[test]
    fn a_rule_that_was_rendered_is_read_as_the_same_rule((_, args) in given::either()) {
        let request = given::request(&args);
        let wanted = compile(&request.policy, request.layout, Families::Both);
        let mut machine = Machine::default();
        for (family, text) in plan::from_nothing(&wanted) {
            machine.nat(family).restore(&text).map_err(TestCaseError::fail)?;
        }
        for family in Family::both() {
            let read = machine.nat(family).rules(family);
            for chain in wanted.chains.iter().filter(|chain| chain.family == family) {
                let expected: Vec<Rule> = chain.rules.iter().flat_map(render::spread).collect();
                let seen = read.chain(family, &Table::Nat, &chain.name);
                let seen = seen.map_or(&[][..], |chain| &chain.rules);
                let same = expected.len() == seen.len() && expected.iter().zip(seen).all(|(a, b)| a.same(b));
                prop_assert!(same, "{} {}\nwanted {expected:#?}\nread {seen:#?}", family, chain.name);
            }
            let read = read.chains.iter().filter(|chain| !chain.rules.is_empty()).count();
            prop_assert_eq!(read, wanted.chains.iter().filter(|chain| chain.family == family).count());
        }
    }

    #[test]
    fn every_line_is_of_our_grammar((_, args) in given::either()) {
        let request = given::request(&args);
        for (family, text) in plan::from_nothing(&compile(&request.policy, request.layout, Families::Both)) {
            fuzz::grammar::check(family, &text).map_err(TestCaseError::fail)?;
        }
    }

    /// Mode NONE makes no rules, so everything else may be given with it.
    #[test]
    fn a_policy_that_captures_nothing_reads_back_too((_, args) in given::either(), mark in 1u32.., table in 1u32..99) {
        let more = ["-m", "none", "-t", &mark.to_string(), "-r", &table.to_string(), "-k", "tap0"].map(str::to_owned);
        let request = given::request(&[args, more.to_vec()].concat());
        let again = by_json(&request);
        prop_assert_eq!(again.as_ref().map(|again| &again.policy), Ok(&request.policy));
    }
}

/// Inbound alone, which only `--layout scoped` can say: a policy as any other.
#[test]
fn a_policy_of_a_forced_layout_reads_back_in_that_layout() {
    for args in [
        &["--layout", "scoped", "-i", "", "-b", "8001"][..],
        &["--layout", "scoped", "-i", "", "-b", "*", "-d", "9000"],
        &["--layout", "scoped", "-i", "", "-b", "*"],
        &["--layout", "scoped", "-i", "", "-b", ""],
        &["--layout", "scoped", "-i", ""],
        &["--layout", "classic", "-m", "redirect"],
    ] {
        let args: Vec<String> = args.iter().map(|word| (*word).to_owned()).collect();
        let request = given::request(&args);
        let again = fuzz::through_json(&request);
        assert_eq!(again.as_ref().map(|again| &again.policy), Ok(&request.policy), "{args:?}");
    }
}

/// The one line that a person reads leaves nothing out that decides what is captured.
#[test]
fn the_line_for_people_tells_every_option() {
    let vm = ["--uid-owner", "1338", "-b", "*"];
    for option in [
        ["-p", "15011"],
        ["-z", "15006"],
        ["-u", "7"],
        ["-g", "7"],
        ["-d", "9000"],
        ["-i", "10.0.0.0/8"],
        ["-x", "10.0.0.0/8"],
        ["-q", "80"],
        ["-o", "80"],
        ["-c", "eth0"],
        ["--gid-owner", "7"],
    ] {
        let line = |args: &[&str]| {
            let args: Vec<String> = args.iter().map(|word| (*word).to_owned()).collect();
            given::request(&args).policy.to_string()
        };
        assert_ne!(line(&[vm.as_slice(), option.as_slice()].concat()), line(&vm), "{option:?}");
    }
}
