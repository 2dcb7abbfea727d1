//! What `status` says of capture at the sockets.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use mesh_init_abi::{Clause, PolicyFlags, SurpriseKind};
use serde_json::{Value, json};

use super::plural;
use crate::backend::ebpf::lower::Lowered;
use crate::backend::ebpf::rule_id;
use crate::backend::ebpf::text::layout;
use crate::policy::{CapturePolicy, json::to_json};

/// The number of a control group, as the BPF file system has it.
fn numbered(group: u64) -> String {
    format!("{group:016x}")
}

/// How many surprises are shown to people.
const SHOWN: usize = 8;

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
    pub cgroup: Option<u64>,
    /// The number of the control group in which only the proxy runs, if it is known by one.
    pub proxy_cgroup: Option<u64>,
    /// A program is that of another build.
    pub older: bool,
    /// What the policy did not foresee, the latest first.
    pub surprises: Vec<Told>,
}

/// Something that the policy did not foresee.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// What.
    pub kind: SurpriseKind,
    /// Of which address; [`SurpriseKind`] says whose.
    pub address: IpAddr,
    /// And which port.
    pub port: u32,
    /// How often.
    pub count: u64,
    /// How long the last time is ago.
    pub ago: Duration,
}

impl Told {
    fn word(&self) -> &'static str {
        match self.kind {
            SurpriseKind::NO_LISTENER => "noListener",
            SurpriseKind::NOT_CAPTURED => "notCaptured",
            SurpriseKind::NO_SOURCE => "noSource",
            SurpriseKind::NO_MEMORY => "noMemory",
            _ => "unknown",
        }
    }

    /// For programs.
    #[must_use]
    pub fn json(&self) -> Value {
        json!({
            "kind": self.word(),
            "address": self.address.to_string(),
            "port": self.port,
            "count": self.count,
            "secondsAgo": self.ago.as_secs(),
        })
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Told { kind, address, port, count, ago } = self;
        match *kind {
            SurpriseKind::NO_LISTENER => write!(
                f,
                "{address} was refused at port {port}: no listener of the proxy's is known where it should go"
            )?,
            SurpriseKind::NOT_CAPTURED => write!(
                f,
                "{address} reached the proxy's port {port} by itself, or so late that nobody knew whom it had called"
            )?,
            SurpriseKind::NO_SOURCE => write!(
                f,
                "a call to port {port} could not have {address} as its source, and the proxy saw a loopback address: if the host does not have it any more, apply again"
            )?,
            SurpriseKind::NO_MEMORY => {
                write!(f, "a call to {address} port {port} was refused: the kernel has no memory for it")?;
            }
            _ => write!(f, "{address} port {port}: something that another version knows")?,
        }
        write!(f, " ({count} times, the last {} s ago)", ago.as_secs())
    }
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
        if self.older {
            lines.push("by programs of another build: apply again puts this one's in their place".to_owned());
        }
        lines.extend(self.detached.iter().map(|name| format!("not attached: {name}")));
        lines.extend(
            self.proxy_cgroup.map(|group| format!("the proxy is control group {}, too", numbered(group))),
        );
        lines.push(format!("{} of the proxy's known", plural(self.listeners, "inbound listener")));
        lines.push(String::new());
        lines.push(format!("{:<28} {:>12}", "rule", "connections"));
        let counted = self.counters.iter().filter_map(|(clause, count)| Some((rule_id(*clause)?, count)));
        lines.extend(
            counted
                .filter(|(_, count)| **count > 0)
                .map(|(id, count)| format!("{:<28} {count:>12}", id.as_str())),
        );
        lines.extend(self.surprises.iter().take(SHOWN).map(|told| format!("surprise: {told}")));
        let more = self.surprises.len().saturating_sub(SHOWN);
        if more > 0 {
            lines.push(format!("and {}, which --output json has", plural(more, "earlier surprise")));
        }
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
            "cgroup": self.cgroup.map(numbered),
            "proxyCgroup": self.proxy_cgroup.map(numbered),
            "otherBuild": self.older,
            "rules": self.counters.iter().filter_map(counter).collect::<Vec<_>>(),
            "surprises": self.surprises.iter().map(Told::json).collect::<Vec<_>>(),
            "policy": self.policy.as_ref().map(to_json),
            "notes": notes,
        })
    }
}
