//! A policy and its JSON, rules and their lines: each is the other.

use mesh_init::backend::iptables::render;
use mesh_init::backend::iptables::transcript::transcript;
use mesh_init::backend::plan;
use mesh_init::input::{Faults, config};
use mesh_init::policy::validate::{self, Request};
use mesh_init::policy::{Facts, Families, Family, Mode, json};
use mesh_init::rules::compile::compile;
use mesh_init::rules::{Rule, RuleSet};
use proptest::prelude::*;

use super::machine::{Content, Machine};
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
    fn a_policy_reads_back_as_itself_and_chooses_the_same_layout((layout, args) in given::every()) {
        let request = given::request(&args);
        prop_assert_eq!(request.layout, layout);
        // A layout that was named is no part of the policy.
        let named = args.iter().any(|word| word == "--layout");
        let again = if named { fuzz::through_json(&request) } else { by_json(&request) };
        let again = again.as_ref().map(|again| (again.layout, &again.policy));
        prop_assert_eq!(again, Ok((layout, &request.policy)));
    }

    #[test]
    fn a_rule_that_was_rendered_is_read_as_the_same_rule((_, args) in given::every()) {
        let request = given::request(&args);
        let wanted = compile(&request.policy, request.layout, Families::Both);
        let mut machine = Machine::default();
        for (family, text) in plan::from_nothing(&wanted) {
            machine.restore(family, &text).map_err(TestCaseError::fail)?;
        }
        let read = machine.rules();
        for chain in &wanted.chains {
            let expected: Vec<Rule> = chain.rules.iter().flat_map(render::spread).collect();
            let seen = read.chain(chain.family, &chain.table, &chain.name);
            let seen = seen.map_or(&[][..], |chain| &chain.rules);
            let same = expected.len() == seen.len() && expected.iter().zip(seen).all(|(a, b)| a.same(b));
            let (family, table, name) = (chain.family, &chain.table, &chain.name);
            prop_assert!(same, "{family} {table} {name}\nwanted {expected:#?}\nread {seen:#?}");
        }
        let filled = |rules: &RuleSet| rules.chains.iter().filter(|chain| !chain.rules.is_empty()).count();
        prop_assert_eq!(filled(&read), filled(&wanted));
    }

    #[test]
    fn every_line_is_of_our_grammar((_, args) in given::every()) {
        let request = given::request(&args);
        for (family, text) in plan::from_nothing(&compile(&request.policy, request.layout, Families::Both)) {
            fuzz::grammar::check(family, &text).map_err(TestCaseError::fail)?;
        }
    }

    #[test]
    fn every_transcript_is_of_upstreams_grammar(args in given::letter()) {
        let request = given::request(&args);
        for (families, v6) in [(Families::V4, false), (Families::Both, true)] {
            let text = transcript(&request.policy, request.layout, families);
            fuzz::grammar::check_transcript(v6, &text).map_err(TestCaseError::fail)?;
        }
    }

    /// What a dry run of istio-iptables prints makes on an empty machine exactly the rules that are applied.
    #[test]
    fn a_transcript_makes_the_rules_that_are_applied(args in given::letter()) {
        let request = given::request(&args);
        let wanted = compile(&request.policy, request.layout, Families::Both);
        let mut applied = Machine::default();
        for (family, text) in plan::from_nothing(&wanted) {
            applied.restore(family, &text).map_err(TestCaseError::fail)?;
        }
        let text = transcript(&request.policy, request.layout, Families::Both);
        let mut printed = Machine::default();
        let mut family = Family::V4;
        let mut last = "";
        for block in text.split_inclusive("COMMIT\n").filter_map(|block| block.find("* ").map(|at| &block[at..])) {
            let table = block.lines().next().unwrap_or_default();
            if table <= last {
                family = Family::V6;
            }
            last = table;
            printed.restore(family, block).map_err(TestCaseError::fail)?;
        }
        prop_assert_eq!(printed.tables.keys().collect::<Vec<_>>(), applied.tables.keys().collect::<Vec<_>>());
        for (key, content) in &printed.tables {
            let options = |content: &Content| -> Vec<(String, Vec<Vec<String>>)> {
                let chain = |(name, rules): (&String, &Vec<String>)| {
                    (name.clone(), rules.iter().map(|rule| options_of(rule)).collect())
                };
                content.chains.iter().map(chain).collect()
            };
            prop_assert_eq!(options(content), options(&applied.tables[key]), "{:?}", key);
        }
    }

    /// Mode NONE makes no rules, so everything else may be given with it.
    #[test]
    fn a_policy_that_captures_nothing_reads_back_too((_, args) in given::every(), mark in 1u32.., table in 1u32..99) {
        let more = ["-m", "none", "-t", &mark.to_string(), "-r", &table.to_string(), "-k", "tap0"].map(str::to_owned);
        let request = given::request(&[without(args, &["-m", "-t", "-r"]), more.to_vec()].concat());
        let again = fuzz::through_json(&request);
        prop_assert_eq!(again.as_ref().map(|again| &again.policy), Ok(&request.policy));
        let again = by_json(&request);
        prop_assert_eq!(again.as_ref().map(|again| again.policy.mode), Ok(Mode::None));
    }
}

/// `args` without some flags and their values.
fn without(args: Vec<String>, flags: &[&str]) -> Vec<String> {
    let mut left = Vec::new();
    let mut words = args.into_iter();
    while let Some(word) = words.next() {
        if flags.contains(&word.as_str()) {
            words.next();
        } else {
            left.push(word);
        }
    }
    left
}

/// A rule's options with their values, sorted: without what only one of upstream and `iptables-save` says, numbers
/// in decimal.
fn options_of(rule: &str) -> Vec<String> {
    let rule = rule
        .replace("-m tcp ", "")
        .replace("-m udp ", "")
        .replace(" --on-ip 0.0.0.0", "")
        .replace(" --on-ip ::", "")
        .replace(" --nfmask 0xffffffff --ctmask 0xffffffff", "")
        .replace("/0xffffffff", "")
        // A whole family is no condition.
        .replace("-d 0.0.0.0/0 ", "")
        .replace("-d ::/0 ", "")
        .replace("--set-xmark", "--set-mark")
        .replace("--to-port ", "--to-ports ");
    let mut options: Vec<String> = Vec::new();
    for word in rule.split(' ') {
        let number = word.strip_prefix("0x").and_then(|digits| u32::from_str_radix(digits, 16).ok());
        let word = number.map_or(word.to_owned(), |number| number.to_string());
        match options.last_mut() {
            Some(option) if option == "!" || !(word == "!" || word.starts_with('-')) => {
                option.push_str(&format!(" {word}"));
            }
            Some(_) | None => options.push(word),
        }
    }
    options.sort();
    options
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
        &["--layout", "istio"],
        &["--layout", "istio", "-i", "", "-b", ""],
        &["-b", "*"],
        &["-m", "REDIRECT", "-e", "15008"],
        &["-z", "15001"],
        &["--layout", "istio-iptables", "-u", "7,7", "-q", "80,80", "-i", "*"],
        &["--layout", "istio-iptables", "-i", "0.0.0.0/0,::/0", "-b", "80,80"],
    ] {
        let args: Vec<String> = args.iter().map(|word| (*word).to_owned()).collect();
        let request = given::request(&args);
        let again = fuzz::through_json(&request);
        assert_eq!(again.as_ref().map(|again| &again.policy), Ok(&request.policy), "{args:?}");
    }
}

/// The same for a pod.
#[test]
fn the_line_for_people_tells_every_option_of_a_pod() {
    let pod = ["--layout", "istio"];
    for option in [
        &["-p", "15011"][..],
        &["-z", "15006"],
        &["-u", "7"],
        &["-g", "7"],
        &["-m", "TPROXY"],
        &["-b", "80"],
        &["-b", ""],
        &["-d", "9000"],
        &["-i", "10.0.0.0/8"],
        &["-x", "10.0.0.0/8"],
        &["-q", "80"],
        &["-o", "80"],
        &["-c", "eth0"],
        &["--owner-group", "7"],
        &["--exclude-owner-group", "7"],
        &["--redirect-dns", "--capture-all-dns"],
        &["--redirect-dns", "--dns-server", "10.0.0.53"],
    ] {
        let line = |args: &[&str]| {
            let args: Vec<String> = args.iter().map(|word| (*word).to_owned()).collect();
            given::request(&args).policy.to_string()
        };
        assert_ne!(line(&[pod.as_slice(), option].concat()), line(&pod), "{option:?}");
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
