//! What `status` says.

use serde_json::{Value, json};

use super::{AtSockets, Report, families, plural};
use crate::eval::sockets::Open;
use crate::policy::settings::Variant;
use crate::policy::{CapturePolicy, Families, Family, Layout, RuleId, json::to_json};

/// How often a clause decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counter {
    /// The clause.
    pub id: RuleId,
    /// The family.
    pub family: Family,
    /// First packets of connections: the nat table sees no others.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What is captured here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// Nothing of ours is here.
    Nothing {
        /// What else is worth saying.
        notes: Vec<String>,
    },
    /// Rules of ours are here that no policy of this version makes.
    Unknown {
        /// Where.
        variants: Vec<Variant>,
        /// What else is worth saying.
        notes: Vec<String>,
    },
    /// A policy holds at the sockets.
    AtSockets {
        /// What is there.
        found: Box<AtSockets>,
        /// What else is worth saying.
        notes: Vec<String>,
    },
    /// A policy holds.
    Captured {
        /// The policy that the rules say.
        policy: Box<CapturePolicy>,
        /// In which layout.
        layout: Layout,
        /// By which iptables.
        variant: Variant,
        /// The families.
        families: Families,
        /// Whether the rules are exactly those of the policy.
        whole: bool,
        /// In the order of the rules.
        counters: Vec<Counter>,
        /// Connections older than the capture.
        older: Open,
        /// What else is worth saying.
        notes: Vec<String>,
    },
}

impl Report for Status {
    fn text(&self) -> String {
        let mut lines = match self {
            Status::Nothing { .. } => vec!["not captured: nothing of ours is here".to_owned()],
            Status::Unknown { variants, .. } => vec![format!(
                "cannot tell: {} holds chains of Istio that no policy of this version makes",
                crate::policy::list(variants)
            )],
            Status::AtSockets { found, .. } => found.lines(),
            Status::Captured { policy, layout, variant, families: of, whole, counters, older, .. } => {
                let state = if *whole { "" } else { "; NOT WHOLE: apply again" };
                let open = plural(older.total(), "connection");
                let mut lines = vec![
                    format!("captured: {policy}"),
                    format!("layout {layout} on {variant}, {}{state}", families(*of)),
                    String::new(),
                    row("rule", "family", "packets", "bytes"),
                ];
                lines.extend(counters.iter().map(|counter| {
                    let Counter { id, family, packets, bytes } = counter;
                    row(id.as_str(), &family.to_string(), &packets.to_string(), &bytes.to_string())
                }));
                lines.push(String::new());
                let Open { outbound, inbound } = older;
                lines.push(format!("{open} older than the capture ({outbound} outbound, {inbound} inbound)"));
                lines
            }
        };
        lines.extend(self.notes().iter().map(|note| format!("note: {note}")));
        super::lines(lines)
    }

    fn json(&self) -> Value {
        const SCHEMA: &str = "mesh-init/status/v1";
        let notes = self.notes();
        match self {
            Status::Nothing { .. } => json!({ "schema": SCHEMA, "captured": false, "notes": notes }),
            Status::Unknown { variants, .. } => {
                let variants: Vec<String> = variants.iter().map(ToString::to_string).collect();
                json!({ "schema": SCHEMA, "captured": null, "variants": variants, "notes": notes })
            }
            Status::AtSockets { found, .. } => found.json(SCHEMA, notes),
            Status::Captured { policy, layout, variant, families, whole, counters, older, .. } => {
                let counter = |counter: &Counter| {
                    let Counter { id, family, packets, bytes } = counter;
                    json!({ "id": id.as_str(), "family": family.to_string(), "packets": packets, "bytes": bytes })
                };
                json!({
                    "schema": SCHEMA,
                    "captured": true,
                    "whole": whole,
                    "layout": layout.to_string(),
                    "variant": variant.to_string(),
                    "families": families.list().iter().map(ToString::to_string).collect::<Vec<_>>(),
                    "rules": counters.iter().map(counter).collect::<Vec<_>>(),
                    "olderConnections": { "outbound": older.outbound, "inbound": older.inbound },
                    "policy": to_json(policy),
                    "notes": notes,
                })
            }
        }
    }
}

fn row(rule: &str, family: &str, packets: &str, bytes: &str) -> String {
    format!("{rule:<28} {family:<6} {packets:>10} {bytes:>12}")
}

impl Status {
    /// Adds a note.
    pub fn note(&mut self, note: String) {
        match self {
            Status::Nothing { notes }
            | Status::Unknown { notes, .. }
            | Status::AtSockets { notes, .. }
            | Status::Captured { notes, .. } => notes.push(note),
        }
    }

    fn notes(&self) -> &[String] {
        match self {
            Status::Nothing { notes }
            | Status::Unknown { notes, .. }
            | Status::AtSockets { notes, .. }
            | Status::Captured { notes, .. } => notes,
        }
    }
}
