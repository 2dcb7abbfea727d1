//! What `explain --all` and `explain --diff` say: tables of typical connections.

use serde_json::{Value, json};

use super::explained::{Explanation, outcome};
use super::{Report, lines};
use crate::eval::Outcome;

/// A policy in one page: what becomes of one connection of each kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matrix {
    /// The policy in words; `None` if the rules say none that is known.
    pub policy: Option<String>,
    /// The kinds of connections, and what becomes of one of each.
    pub rows: Vec<(String, Explanation)>,
    /// What is worth saying of where the rules come from.
    pub notes: Vec<String>,
}

/// What two policies decide differently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Differences {
    /// The two policies in words.
    pub policies: [String; 2],
    /// How many connections were compared.
    pub compared: usize,
    /// The kinds that differ, and what becomes of one of each under either.
    pub rows: Vec<(String, [Explanation; 2])>,
}

fn short(explanation: &Explanation) -> String {
    let clause = explanation.by.as_ref().and_then(|by| by.clause);
    match (clause, &explanation.outcome) {
        (Some(clause), _) => clause.to_string(),
        (None, Outcome::CannotTell) => explanation.reason(),
        (None, _) => "no rule".to_owned(),
    }
}

fn row(kind: &str, explanation: &Explanation) -> [String; 2] {
    let verdict = explanation.verdict();
    [format!("{kind:<52}  {verdict}"), format!("    {:<48}  {}", explanation.conn, short(explanation))]
}

impl Report for Matrix {
    fn text(&self) -> String {
        let mut all: Vec<String> = self.policy.iter().cloned().collect();
        for (kind, explanation) in &self.rows {
            all.extend(row(kind, explanation));
        }
        all.extend(self.notes.iter().map(|note| format!("note: {note}")));
        lines(all)
    }

    fn json(&self) -> Value {
        let row = |(kind, explanation): &(String, Explanation)| {
            json!({
                "kind": kind,
                "connection": explanation.conn,
                "outcome": outcome(&explanation.outcome),
                "clause": explanation.by.as_ref().and_then(|by| by.clause).map(|clause| clause.as_str()),
            })
        };
        json!({
            "schema": "mesh-init/matrix/v1",
            "policy": self.policy,
            "rows": self.rows.iter().map(row).collect::<Vec<_>>(),
            "notes": self.notes,
        })
    }
}

impl Report for Differences {
    fn text(&self) -> String {
        let [one, other] = &self.policies;
        let mut all = vec![
            match self.rows.len() {
                0 => format!("no difference in {} connections of all kinds", self.compared),
                count => format!("{count} of {} connections of all kinds differ", self.compared),
            },
            format!("A: {one}"),
            format!("B: {other}"),
        ];
        for (kind, [one, other]) in &self.rows {
            all.extend([String::new(), kind.clone(), format!("  {}", one.conn)]);
            all.extend([("A", one), ("B", other)].map(|(name, explanation)| {
                format!("  {name}: {}, {}", explanation.verdict(), explanation.reason())
            }));
        }
        lines(all)
    }

    fn json(&self) -> Value {
        let row = |(kind, both): &(String, [Explanation; 2])| {
            let [one, other] = both.each_ref().map(|of| {
                let clause = of.by.as_ref().and_then(|by| by.clause).map(|clause| clause.as_str());
                json!({ "outcome": outcome(&of.outcome), "clause": clause })
            });
            json!({ "kind": kind, "connection": both[0].conn, "a": one, "b": other })
        };
        json!({
            "schema": "mesh-init/difference/v1",
            "a": self.policies[0], "b": self.policies[1],
            "compared": self.compared,
            "rows": self.rows.iter().map(row).collect::<Vec<_>>(),
        })
    }
}
