//! Looking creates nothing: no table comes into being for a question.

use crate::again::CLASSIC;
use crate::harness::Case;
use crate::support::command::{Run, mesh_init};
use crate::support::netns::Netns;
use crate::support::rules::{Family, Variant, legacy_tables};

pub(crate) fn cases() -> Vec<Case> {
    let questions: [(&'static str, &'static [&'static str]); 7] = [
        ("observe::status", &["status"]),
        ("observe::status_json", &["status", "--output", "json"]),
        ("observe::plan", &["plan", "-p", "15001", "-u", "1337"]),
        ("observe::plan_live", &["plan", "--live", "-p", "15001", "-u", "1337"]),
        ("observe::plan_live_scoped", &["plan", "--live", "--uid-owner", "1338", "--inbound", "8001"]),
        ("observe::clean", &["clean"]),
        ("observe::help", &["--help"]),
    ];
    let mut cases: Vec<_> =
        questions.into_iter().map(|(name, words)| Case::new(name, || leaves_no_table(words))).collect();
    cases.push(Case::new("observe::apply_is_seen", apply_is_seen));
    cases
}

fn tables(netns: &Netns) -> String {
    let native = Run::new(netns, "nft", &["list", "tables"]).ok();
    let legacy = Family::BOTH.map(|family| legacy_tables(netns, family));
    let [v4, v6] = legacy;
    format!("ip_tables_names: {v4}\nip6_tables_names: {v6}\nnft list tables: {native}")
}

fn leaves_no_table(words: &[&str]) {
    let netns = Netns::new("here");
    let before = tables(&netns);
    let run = mesh_init(&netns, words).code(0);
    assert!(!run.stdout.trim().is_empty(), "expected an answer on stdout, seen {run}");
    assert_eq!(tables(&netns), before, "expected no table after {run}");
}

/// Tables that do come into being are seen by the way the others are judged.
fn apply_is_seen() {
    for variant in Variant::BOTH {
        let netns = Netns::new("here");
        let before = tables(&netns);
        mesh_init(&netns, &CLASSIC.into_iter().chain(variant.flags()).collect::<Vec<_>>()).ok();
        let after = tables(&netns);
        assert_ne!(after, before, "expected the tables of {}", variant.name());
    }
}
