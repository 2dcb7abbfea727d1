//! What `status` says of capture at the sockets.

use mesh_init_abi::{Clause, PolicyFlags};
use serde_json::{Value, json};

use super::plural;
use crate::backend::ebpf::lower::Lowered;
use crate::backend::ebpf::rule_id;
use crate::backend::ebpf::text::layout;
use crate::policy::{CapturePolicy, json::to_json};

/// What is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AtSockets {
    /// What the maps say.
    pub lowered: Lowered,
    /// The policy that this is.
    pub policy: Option<CapturePolicy>,
    /// How often each clause decided.
    pub counters: Vec<(Clause, u64)>,
    /// How many listeners of the proxy's get what arrives.
    pub listeners: usize,
    /// What is not attached that should be.
    pub detached: Vec<String>,
    /// The number of the control group that the programs are attached to.
    pub cgroup: Option<String>,
}

impl AtSockets {
    /// For people.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let policy = &self.lowered.policy;
        let has = |flag| policy.flags.has(flag);
        let families = if has(PolicyFlags::IPV6) { "IPv4 and IPv6" } else { "IPv4" };
        let state = if self.detached.is_empty() { "" } else { "; NOT WHOLE: apply again" };
        let what = match &self.policy {
            Some(policy) => format!("captured: {policy}"),
            None => "captured by programs of another version".to_owned(),
        };
        let mut lines = vec![what, format!("layout {} on ebpf, {families}{state}", layout(policy))];
        lines.extend(self.detached.iter().map(|name| format!("not attached: {name}")));
        lines.push(format!("{} of the proxy's known", plural(self.listeners, "inbound listener")));
        lines.push(String::new());
        lines.push(format!("{:<28} {:>12}", "rule", "connections"));
        let counted = self.counters.iter().filter_map(|(clause, count)| Some((rule_id(*clause)?, count)));
        lines.extend(
            counted
                .filter(|(_, count)| **count > 0)
                .map(|(id, count)| format!("{:<28} {count:>12}", id.as_str())),
        );
        lines
    }

    /// For programs.
    #[must_use]
    pub fn json(&self, schema: &str, notes: &[String]) -> Value {
        let policy = &self.lowered.policy;
        let counter = |(clause, count): &(Clause, u64)| {
            Some(json!({ "id": rule_id(*clause)?.as_str(), "connections": count }))
        };
        json!({
            "schema": schema,
            "captured": true,
            "whole": self.detached.is_empty(),
            "layout": layout(policy),
            "variant": "ebpf",
            "families": if policy.flags.has(PolicyFlags::IPV6) { vec!["IPv4", "IPv6"] } else { vec!["IPv4"] },
            "listeners": self.listeners,
            "detached": self.detached,
            "cgroup": self.cgroup,
            "rules": self.counters.iter().filter_map(counter).collect::<Vec<_>>(),
            "policy": self.policy.as_ref().map(to_json),
            "notes": notes,
        })
    }
}
