//! What `watch` shows.

use std::time::Duration;

use serde_json::{Value, json};

use super::{AtSockets, Counter, Report, Status, Told, lines};
use crate::backend::ebpf::rule_id;
use crate::policy::{Family, RuleId};

/// How often each clause has decided, and how often since the look before.
#[derive(Debug, Clone, PartialEq)]
pub struct Watched {
    /// What is captured, in words; `None` if nothing is.
    pub policy: Option<String>,
    /// What was counted.
    pub rows: Rows,
}

/// What is counted, each with how many a second since the look before.
#[derive(Debug, Clone, PartialEq)]
pub enum Rows {
    /// Packets, by rules.
    Packets(Vec<(Counter, Option<f64>)>),
    /// Connections, at the sockets; and what the policy did not foresee since the look before.
    Connections(Vec<(RuleId, u64, Option<f64>)>, Vec<Told>),
}

/// How many more than before in a second; nothing if there are fewer, as what is made anew counts from nothing.
fn rate(now: u64, before: u64, time: Duration) -> Option<f64> {
    #[expect(clippy::cast_precision_loss, reason = "a rate is shown with one digit")]
    now.checked_sub(before).map(|more| more as f64 / time.as_secs_f64())
}

impl Watched {
    /// From two looks and the time between them.
    #[must_use]
    pub fn between(before: Option<(Duration, &Status)>, now: &Status) -> Watched {
        match now {
            Status::Captured { policy, counters, .. } => {
                let before = before.and_then(|(time, status)| match status {
                    Status::Captured { counters, .. } => Some((time, counters)),
                    Status::AtSockets { .. } | Status::Unknown { .. } | Status::Nothing { .. } => None,
                });
                let rate = |counter: &Counter| {
                    let (time, counters) = before?;
                    let same = |of: &&Counter| of.id == counter.id && of.family == counter.family;
                    rate(counter.packets, counters.iter().find(same)?.packets, time)
                };
                let rows = counters.iter().map(|counter| (counter.clone(), rate(counter))).collect();
                Watched { policy: Some(policy.to_string()), rows: Rows::Packets(rows) }
            }
            Status::AtSockets { found, .. } => {
                let before = before.and_then(|(time, status)| match status {
                    Status::AtSockets { found, .. } => Some((time, found.as_ref())),
                    Status::Captured { .. } | Status::Unknown { .. } | Status::Nothing { .. } => None,
                });
                at_sockets(found, before)
            }
            Status::Unknown { .. } | Status::Nothing { .. } => {
                Watched { policy: None, rows: Rows::Packets(Vec::new()) }
            }
        }
    }
}

fn at_sockets(found: &AtSockets, before: Option<(Duration, &AtSockets)>) -> Watched {
    let row = |(clause, count): &(_, u64)| {
        let rate = before.and_then(|(time, before)| {
            let (_, earlier) = before.counters.iter().find(|(of, _)| of == clause)?;
            rate(*count, *earlier, time)
        });
        Some((rule_id(*clause)?, *count, rate))
    };
    let new = |told: &&Told| {
        before.is_none_or(|(_, before)| {
            let same = |of: &&Told| (of.kind, of.address, of.port) == (told.kind, told.address, told.port);
            before.surprises.iter().find(same).is_none_or(|of| of.count != told.count)
        })
    };
    let rows = found.counters.iter().filter(|(_, count)| *count > 0).filter_map(row).collect();
    let surprises = found.surprises.iter().filter(new).cloned().collect();
    let policy = match &found.policy {
        Some(policy) => policy.to_string(),
        None => "captured by programs of another version".to_owned(),
    };
    Watched { policy: Some(policy), rows: Rows::Connections(rows, surprises) }
}

/// A line that wraps would not be written over.
const WIDTH: usize = 79;

fn cut(text: &str) -> String {
    match text.chars().count() > WIDTH {
        true => text.chars().take(WIDTH - 1).chain(['…']).collect(),
        false => text.to_owned(),
    }
}

impl Report for Watched {
    fn text(&self) -> String {
        let Some(policy) = &self.policy else {
            return "not captured: nothing of ours is here\n".to_owned();
        };
        let shown = |rate: &Option<f64>| rate.map(|rate| format!("{rate:.1}")).unwrap_or_default();
        let mut all = vec![cut(policy)];
        match &self.rows {
            Rows::Packets(rows) => {
                let row = |id: &str, family: &str, packets: &str, bytes: &str, rate: &str| {
                    let line = format!("{id:<28} {family:<6} {packets:>12} {bytes:>14} {rate:>10}");
                    line.trim_end().to_owned()
                };
                all.push(row("rule", "family", "packets", "bytes", "packets/s"));
                all.extend(rows.iter().map(|(counter, rate)| {
                    let Counter { id, family, packets, bytes } = counter;
                    let (packets, bytes) = (packets.to_string(), bytes.to_string());
                    row(id.as_str(), &Family::to_string(family), &packets, &bytes, &shown(rate))
                }));
            }
            Rows::Connections(rows, surprises) => {
                let row = |id: &str, count: &str, rate: &str| {
                    format!("{id:<28} {count:>12} {rate:>14}").trim_end().to_owned()
                };
                all.push(row("rule", "connections", "connections/s"));
                let line =
                    |(id, count, rate): &(RuleId, u64, _)| row(id.as_str(), &count.to_string(), &shown(rate));
                all.extend(rows.iter().map(line));
                all.extend(surprises.iter().map(|told| cut(&format!("surprise: {told}"))));
            }
        }
        lines(all)
    }

    fn json(&self) -> Value {
        let packets = |(counter, rate): &(Counter, Option<f64>)| {
            json!({
                "rule": RuleId::as_str(counter.id),
                "family": counter.family.to_string(),
                "packets": counter.packets,
                "bytes": counter.bytes,
                "packetsPerSecond": rate,
            })
        };
        let connections = |(id, count, rate): &(RuleId, u64, Option<f64>)| json!({ "rule": RuleId::as_str(*id), "connections": count, "connectionsPerSecond": rate });
        let captured = self.policy.is_some();
        match &self.rows {
            Rows::Packets(rows) => json!({
                "schema": "mesh-init/watch/v1",
                "captured": captured,
                "counters": rows.iter().map(packets).collect::<Vec<_>>(),
            }),
            Rows::Connections(rows, surprises) => json!({
                "schema": "mesh-init/watch/v1",
                "captured": captured,
                "counters": rows.iter().map(connections).collect::<Vec<_>>(),
                "surprises": surprises.iter().map(Told::json).collect::<Vec<_>>(),
            }),
        }
    }
}
