//! What Istio's own init container would install: `tests/golden/istio`, a folder for each call.
//!
//! A case holds `args` (the words after `istio-iptables`, one a line, an empty line being an empty argument),
//! `env` (NAME=value), `host` (what the machine answers) and `expected.txt`: the transcript of a dry run. The
//! generator below knows nothing of the program; it writes `expected.txt` when `MESH_INIT_WRITE_GOLDEN` is
//! set, except where a file `by-hand` says that a person wrote it, which is what holds the generator itself
//! to account.
//!
//! Four things are written as the program normalises them, not as upstream leaves them: items of a list
//! without the blanks around them, users and groups as their numbers, networks in canonical text, and
//! networks without their host bits. None of them changes what the kernel holds.

mod flags;
mod host;
mod settings;
mod steps;

use std::fs;

use super::{differences, folder, read};
use settings::{Family, Settings};
use steps::{Row, STEPS, Step};

/// A call, what surrounds it, and what it is to do.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) host: String,
    pub(crate) expected: String,
    by_hand: bool,
}

/// Every case, by name.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = fs::read_dir(folder("istio"))
        .expect("the golden files are there")
        .map(|entry| entry.unwrap().path())
        .map(|path| Case {
            name: path.file_name().unwrap().to_string_lossy().into_owned(),
            args: read(&path.join("args")).lines().map(str::to_owned).collect(),
            env: read(&path.join("env"))
                .lines()
                .map(|line| line.split_once('=').unwrap_or_else(|| panic!("{line:?} has no =")))
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            host: read(&path.join("host")),
            // A case that is being written has none yet, and then differs.
            expected: fs::read_to_string(path.join("expected.txt")).unwrap_or_default(),
            by_hand: path.join("by-hand").exists(),
        })
        .collect();
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    cases
}

/// What a dry run records: both families read, the restores, and the families in use read again.
pub(crate) fn transcript(args: &[String], env: &[(String, String)], host: &str) -> String {
    let settings = Settings::of(args, env, host);
    let mut text = String::from("iptables-save\nip6tables-save\n");
    text.push_str(&restore(&settings, Family::V4));
    if settings.ipv6 {
        text.push_str(&restore(&settings, Family::V6));
    }
    text.push_str("iptables-save\n");
    if settings.ipv6 {
        text.push_str("ip6tables-save\n");
    }
    text
}

/// A family's input of the restore tool: its tables by name, each with its chains first.
fn restore(settings: &Settings, family: Family) -> String {
    let recorded: Vec<(&str, String)> =
        STEPS.iter().flat_map(|step| record(settings, family, step)).collect();
    let mut text = String::new();
    for table in ["filter", "mangle", "nat", "raw"] {
        let rules: Vec<&str> =
            recorded.iter().filter(|(of, _)| *of == table).map(|(_, rule)| rule.as_str()).collect();
        if rules.is_empty() {
            continue;
        }
        let created = chains(&rules).into_iter().map(|chain| format!("-N {chain}"));
        let lines: Vec<String> = created.chain(rules.iter().map(|rule| (*rule).to_owned())).collect();
        text.push_str(&format!("* {table}\n{}\nCOMMIT\n", lines.join("\n")));
    }
    text
}

/// What needs no `-N`: the kernel's chains and verdicts.
const BUILT_IN: [&str; 8] =
    ["INPUT", "OUTPUT", "FORWARD", "PREROUTING", "POSTROUTING", "ACCEPT", "RETURN", "DROP"];

/// The chains to create: those with rules as they appear, then those that are only jumped to.
fn chains<'a>(rules: &[&'a str]) -> Vec<&'a str> {
    let with_rules = rules.iter().map(|rule| rule.split(' ').nth(1).unwrap());
    // `-j REDIRECT --to-ports 15001` does not end in `-j CHAIN`, so no target counts as a chain.
    let jumped_to = rules.iter().filter_map(|rule| match rule.rsplit(' ').collect::<Vec<_>>()[..] {
        [chain, "-j", ..] => Some(chain),
        _ => None,
    });
    let mut chains = Vec::new();
    for chain in with_rules.chain(jumped_to) {
        if !BUILT_IN.contains(&chain) && !chains.contains(&chain) {
            chains.push(chain);
        }
    }
    chains
}

/// A step's rules and the table of each: for every item all of its rows, not for every row all of the items.
fn record(settings: &Settings, family: Family, step: &Step) -> Vec<(&'static str, String)> {
    let mut rules = Vec::new();
    for item in settings.items(step.each, family) {
        for Row { table, rule, also, when } in step.rows {
            if !step.when.iter().chain(*when).all(|when| settings.holds(*when, family)) {
                continue;
            }
            for inner in settings.items(*also, family) {
                let rule = rule.replace("{item}", &item).replace("{inner}", &inner);
                rules.push((*table, settings.filled(&rule, family)));
            }
        }
    }
    rules
}

#[test]
fn the_generator_and_the_files_agree() {
    let write = std::env::var_os("MESH_INIT_WRITE_GOLDEN").is_some();
    let cases = cases();
    assert!(cases.len() >= 60, "only {} cases are left", cases.len());
    let by_hand = cases.iter().filter(|case| case.by_hand).count();
    assert!(by_hand >= 6, "only {by_hand} cases were written by hand");
    let mut wrong = String::new();
    for case in cases {
        let generated = transcript(&case.args, &case.env, &case.host);
        if write && !case.by_hand {
            fs::write(folder("istio").join(&case.name).join("expected.txt"), &generated).unwrap();
        } else if generated != case.expected {
            wrong.push_str(&format!("{}:\n{}", case.name, differences(&case.expected, &generated)));
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

/// A chain that is only jumped to is created after those with rules; no case has one, as no proxy lacks an
/// identity.
#[test]
fn a_chain_without_rules_is_created_last() {
    let rules =
        ["-A OUTPUT -j ISTIO_OUTPUT_DNS", "-I ISTIO_INBOUND 1 -j CT --zone 1", "-A ISTIO_INBOUND -j RETURN"];
    assert_eq!(chains(&rules), ["ISTIO_INBOUND", "ISTIO_OUTPUT_DNS"]);
}
