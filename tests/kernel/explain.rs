//! `explain --live`: what it says of the rules that the kernel holds, whoever made them.
//!
//! That the verdicts are the kernel's own is for `judge` to show; here it is the whole program that is asked, with
//! rules of others beside ours.

mod beside;
mod dialled;
mod machine;
mod ours;
mod unclear;
mod upstreams;

use serde_json::Value;

use crate::harness::Case;
use crate::support::command::{Run, mesh_init};
use crate::support::netns::Netns;
use crate::support::rules::{assert_same, dump};

pub(crate) fn cases() -> Vec<Case> {
    [ours::cases(), beside::cases(), unclear::cases(), upstreams::cases(), machine::cases(), dialled::cases()]
        .into_iter()
        .flatten()
        .collect()
}

/// A connection, the verdict on it, and the clause or the rule that decides.
type Row = (&'static str, &'static str, &'static str);

fn explain(netns: &Netns, connection: &str, more: &[&str]) -> Run {
    mesh_init(netns, &[&["explain", "--live", connection], more].concat())
}

/// Asks about each, as text and as JSON, and looks that nothing was changed by it.
#[track_caller]
fn says(netns: &Netns, rows: &[Row]) {
    let before = dump(netns);
    for (connection, verdict, by) in rows {
        let text = explain(netns, connection, &[]).ok();
        let lines: Vec<_> = text.lines().collect();
        let begins = lines[0].split(": ").next();
        assert_eq!(begins, Some(*verdict), "{connection}: expected {verdict}, seen {text}");
        assert!(lines[1].contains(by), "{connection}: expected {by}, seen {text}");
        let json = json(&explain(netns, connection, &["--output", "json"]).ok());
        let answer = &json["answers"][0];
        assert_eq!(words(&answer["outcome"]), *verdict, "{connection}: {json:#}");
        let decides = &answer["by"];
        let word = |key: &str| decides[key].as_str().unwrap_or_default();
        let rule = match decides.is_null() {
            true => "no rule".to_owned(),
            false => {
                let number = &decides["number"];
                format!("{} rule {number}: {} ({})", word("chain"), word("rule"), word("clause"))
            }
        };
        assert!(rule.contains(by), "{connection}: expected {by}, seen {json:#}");
    }
    assert_same("after `explain`", &before, &dump(netns));
}

#[track_caller]
fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text}"))
}

/// An outcome of the JSON form in the words of the text form.
fn words(outcome: &Value) -> String {
    let text = |key: &str| outcome[key].as_str().unwrap_or_default().to_owned();
    match outcome["verdict"].as_str() {
        Some("captured") if outcome["by"] == "TPROXY" => {
            format!("captured -> {} (TPROXY)", outcome["port"])
        }
        Some("captured") => format!("captured -> {}", outcome["port"]),
        Some("translated") => format!("not captured, sent to {} instead", text("to")),
        verdict => verdict.unwrap_or_default().to_owned(),
    }
}

/// The notes below the answer.
fn notes(run: Run) -> Vec<String> {
    let text = run.ok();
    text.lines().filter_map(|line| line.strip_prefix("note: ")).map(str::to_owned).collect()
}
