//! Upstream's own rules, loaded by hand: what the kernel shows of them means what the policy that they stand for
//! means.

use std::ffi::OsString;
use std::time::Duration;

use mesh_init::eval::{Capture, Conn, Outcome, evaluate};
use mesh_init::host::facts;

use super::ours::explain_all;
use super::{Row, json, says, words};
use crate::foreign;
use crate::harness::Case;
use crate::judge::policies::{compiled, request};
use crate::support::command::Run;
use crate::support::rules::{Variant, assert_same, dump};
use crate::upstream::calls::{Golden, names};

/// Every so many of upstream's calls is one.
const EVERY: usize = 5;

pub(super) fn cases() -> Vec<Case> {
    let mut cases: Vec<_> =
        Case::each_variant("explain::upstreams", all).map(|case| case.within(Duration::from_secs(60))).into();
    cases.extend(Case::each_variant("explain::injectors_call", injectors_call));
    cases
}

fn injectors_call(variant: Variant) {
    const ROWS: &[Row] = &[
        ("out tcp 10.1.2.3:80", "captured -> 15001", "outbound.all"),
        ("out tcp [fd00::9]:80", "not captured", "no rule"),
        ("out tcp uid=1337 10.1.2.3:80", "not captured", "proxy.uid"),
        ("out tcp uid=1337 dev=lo 10.1.0.1:80", "captured -> 15006", "proxy.self"),
        ("in tcp 10.1.0.1:80", "captured -> 15006", "inbound.all"),
        ("in tcp 10.1.0.1:15021", "not captured", "inbound.exclude-port"),
        ("in tcp 10.1.0.1:15008", "not captured", "inbound.tunnel"),
    ];
    let netns = foreign::namespace();
    Golden::read("injector-call").load(&netns, variant);
    says(&netns, ROWS);
}

fn all(variant: Variant) {
    let mut wrong = Vec::new();
    for name in names().iter().step_by(EVERY) {
        let golden = Golden::read(name);
        golden.answer_files();
        let netns = golden.namespace();
        golden.load(&netns, variant);
        // Upstream makes the routing of TPROXY beside the rules.
        for (family, mark) in ["-4", "-6"].iter().filter_map(|family| Some((*family, golden.mark()?))) {
            let ip = |words: &str| Run::new(&netns, "ip", &words.split(' ').collect::<Vec<_>>()).ok();
            ip(&format!("{family} rule add fwmark {mark} lookup 133"));
            ip(&format!("{family} route add local default dev lo table 133"));
        }
        let before = dump(&netns);
        let matrix = json(&explain_all(&netns, &["--output", "json"]));
        assert_same(name, &before, &dump(&netns));
        let (args, env) = golden.words();
        let args = std::iter::once("istio-iptables").chain(args.iter().map(String::as_str));
        let env: Vec<_> =
            env.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))).collect();
        let wanted = request(args, &env, |questions| netns.run(move || facts::answer(questions)));
        let wanted = compiled(&wanted.unwrap_or_else(|faults| panic!("{name}: {faults}")));
        let rows = matrix["rows"].as_array().expect("a list");
        assert!(rows.len() > 20, "{name}: {matrix:#}");
        for row in rows {
            let conn: Conn = row["connection"].as_str().expect("a connection").parse().expect("one to ask");
            let expected = short(&evaluate(&[&wanted], &conn).outcome);
            let seen = words(&row["outcome"]);
            if expected != seen {
                wrong.push(format!("{name}: {conn}: expected {expected}, seen {seen}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} things are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

fn short(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Captured { port, by: Capture::Redirect } => format!("captured -> {port}"),
        Outcome::Captured { port, by: Capture::Tproxy } => format!("captured -> {port} (TPROXY)"),
        Outcome::Passed => "not captured".to_owned(),
        other @ (Outcome::Translated(_) | Outcome::Dropped | Outcome::CannotTell) => format!("{other:?}"),
    }
}
