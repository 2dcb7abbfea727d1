//! What `watch` shows.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Counter, Report, Status, lines};
use crate::policy::RuleId;

/// How often each clause has decided, and how often since the look before.
#[derive(Debug, Clone, PartialEq)]
pub struct Watched {
    /// What is captured, in words; `None` if nothing is.
    pub policy: Option<String>,
    /// Counters, and how many packets a second since the look before.
    pub rows: Vec<(Counter, Option<f64>)>,
}

impl Watched {
    /// From two looks and the time between them.
    #[must_use]
    pub fn between(before: Option<(Duration, &Status)>, now: &Status) -> Watched {
        let Status::Captured { policy, counters, .. } = now else {
            return Watched { policy: None, rows: Vec::new() };
        };
        let rate = |counter: &Counter| {
            let (time, Status::Captured { counters, .. }) = before? else { return None };
            let same = |of: &&Counter| of.id == counter.id && of.family == counter.family;
            // Rules that were made anew count from nothing.
            let more = counter.packets.checked_sub(counters.iter().find(same)?.packets)?;
            #[expect(clippy::cast_precision_loss, reason = "a rate is shown with one digit")]
            let rate = more as f64 / time.as_secs_f64();
            Some(rate)
        };
        let rows = counters.iter().map(|counter| (counter.clone(), rate(counter))).collect();
        Watched { policy: Some(policy.to_string()), rows }
    }
}

impl Report for Watched {
    fn text(&self) -> String {
        let Some(policy) = &self.policy else {
            return "not captured: nothing of ours is here\n".to_owned();
        };
        let row = |id: &str, family: &str, packets: &str, bytes: &str, rate: &str| {
            format!("{id:<28} {family:<6} {packets:>12} {bytes:>14} {rate:>10}").trim_end().to_owned()
        };
        // A line that wraps would not be written over.
        const WIDTH: usize = 79;
        let policy = match policy.chars().count() > WIDTH {
            true => policy.chars().take(WIDTH - 1).chain(['…']).collect(),
            false => policy.clone(),
        };
        let mut all = vec![policy, row("rule", "family", "packets", "bytes", "packets/s")];
        all.extend(self.rows.iter().map(|(counter, rate)| {
            let Counter { id, family, packets, bytes } = counter;
            let rate = rate.map(|rate| format!("{rate:.1}")).unwrap_or_default();
            row(id.as_str(), &family.to_string(), &packets.to_string(), &bytes.to_string(), &rate)
        }));
        lines(all)
    }

    fn json(&self) -> Value {
        let row = |(counter, rate): &(Counter, Option<f64>)| {
            json!({
                "rule": RuleId::as_str(counter.id),
                "family": counter.family.to_string(),
                "packets": counter.packets,
                "bytes": counter.bytes,
                "packetsPerSecond": rate,
            })
        };
        json!({
            "schema": "mesh-init/watch/v1",
            "captured": self.policy.is_some(),
            "counters": self.rows.iter().map(row).collect::<Vec<_>>(),
        })
    }
}
