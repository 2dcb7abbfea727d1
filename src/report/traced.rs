//! What `watch --trace` says of a packet.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Map, Value, json};

use super::{Report, lines};
use crate::backend::nftables::abi::{NF_ACCEPT, NF_DROP, NFT_CONTINUE, NFT_GOTO, NFT_JUMP, NFT_RETURN};
use crate::backend::nftables::decode::INET;
use crate::backend::nftables::set::Code;
use crate::backend::nftables::trace::event::{Deed, Event, Header};
use crate::backend::nftables::trace::listing::Listing;
use crate::backend::nftables::trace::packet::{End, Packet, Step};
use crate::policy::{Family, RuleId};
use crate::rules::Hook;

/// A packet's way through the rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traced {
    /// `out` or `in`.
    pub direction: &'static str,
    /// Its protocol: a name, or a number.
    pub protocol: String,
    /// From where to where, as it set out or arrived.
    pub ends: Ends,
    /// The packet's mark as it set out or arrived.
    pub mark: u32,
    /// The way.
    pub trail: Vec<TraceStep>,
    /// Where it ended.
    pub end: Ended,
    /// The kernel had no room for all that it had to say meanwhile: parts of the way may be missing.
    pub incomplete: bool,
}

/// From where to where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ends {
    /// The source; with its port, if the protocol has ports.
    pub source: String,
    /// The destination; with its port, if the protocol has ports.
    pub destination: String,
    /// By which interface it came or is to leave.
    pub interface: Option<String>,
}

/// A step of the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TraceStep {
    /// A base chain is called.
    Enter {
        /// Its table and name.
        chain: String,
        /// Its priority, if it is known.
        priority: Option<i32>,
    },
    /// All conditions of a rule held.
    Rule(Hit),
    /// A base chain ends with its policy.
    Policy {
        /// Its table and name.
        chain: String,
        /// Whether it accepts.
        accepts: bool,
    },
    /// The packet goes on.
    Way(&'static str),
}

/// A rule whose conditions held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    /// Its table and chain.
    pub chain: String,
    /// Its number in the chain, counted from 1; `None` if the rule is gone.
    pub number: Option<usize>,
    /// The kernel's number of it.
    pub handle: u64,
    /// How deep in jumps it stands.
    pub depth: usize,
    /// The rule.
    pub rule: Option<String>,
    /// The clause that it stands for.
    pub clause: Option<RuleId>,
    /// Its comment.
    pub comment: Option<String>,
    /// What it said.
    pub verdict: String,
    /// The packet's mark, if it was changed by then.
    pub mark: Option<u32>,
}

/// Where a packet's way ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// To a socket of this host.
    Delivered(Ends, u32),
    /// To another host.
    Sent(Ends, u32),
    /// A rule or a policy dropped it.
    Dropped,
    /// No chain has seen it again.
    Unknown,
}

impl Traced {
    /// From a packet; `listing` tells the rules, `name` an interface's name by its index.
    #[must_use]
    pub fn of(packet: &Packet, listing: &Listing, name: impl Fn(u32) -> Option<String>) -> Traced {
        let ends = |header: &Header| {
            let end = |address: IpAddr, port: Option<u16>| match port {
                Some(port) => SocketAddr::new(address, port).to_string(),
                None => address.to_string(),
            };
            let index = header.leaves.or(header.arrived);
            Ends {
                source: end(header.source, header.ports.map(|ports| ports.0)),
                destination: end(header.destination, header.ports.map(|ports| ports.1)),
                interface: index.map(|index| name(index).unwrap_or_else(|| format!("interface {index}"))),
            }
        };
        Traced {
            direction: if packet.begun == Hook::Output { "out" } else { "in" },
            protocol: protocol(packet.header.protocol),
            ends: ends(&packet.header),
            mark: packet.mark,
            trail: trail(packet, listing),
            end: match &packet.end {
                End::Delivered(header, mark) => Ended::Delivered(ends(header), *mark),
                End::Sent(header, mark) => Ended::Sent(ends(header), *mark),
                End::Dropped => Ended::Dropped,
                End::Unknown => Ended::Unknown,
            },
            incomplete: packet.incomplete,
        }
    }

    /// Whether a rule on the way is not known: the rules have changed since they were read.
    #[must_use]
    pub fn is_outdated(&self) -> bool {
        self.trail.iter().any(|line| matches!(line, TraceStep::Rule(Hit { number: None, .. })))
    }
}

/// IANA's protocol numbers, as the rules name them.
fn protocol(number: u8) -> String {
    match number {
        1 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        58 => "ipv6-icmp".to_owned(),
        132 => "sctp".to_owned(),
        number => number.to_string(),
    }
}

fn verdict(code: &Code) -> String {
    match (code.code, &code.chain) {
        (NF_ACCEPT, _) => "accept".to_owned(),
        (NF_DROP, _) => "drop".to_owned(),
        (NFT_CONTINUE, _) => "continue".to_owned(),
        (NFT_RETURN, _) => "return".to_owned(),
        (NFT_JUMP, Some(chain)) => format!("jump {chain}"),
        (NFT_GOTO, Some(chain)) => format!("goto {chain}"),
        // linux/netfilter.h, NF_STOLEN and NF_QUEUE with its number in the upper half.
        (2, _) => "stolen".to_owned(),
        (code, _) if code & 0xff == 3 => format!("queue {}", code >> 16),
        (code, _) => format!("verdict {code}"),
    }
}

/// Table and chain in the words of `explain`.
fn named(event: &Event) -> String {
    let inet = if event.of == INET { "inet " } else { "" };
    format!("{inet}{} {}", event.table, event.chain)
}

fn trail(packet: &Packet, listing: &Listing) -> Vec<TraceStep> {
    let mut trail = Vec::new();
    let mut header = packet.header;
    let mut mark = packet.mark;
    // For each call whether it comes back to the rule behind it (jump) or not (goto).
    let mut calls: Vec<bool> = Vec::new();
    for step in &packet.steps {
        let event = match step {
            Step::Event(event) => event,
            Step::Back => {
                trail.push(TraceStep::Way("out over lo, and back in"));
                continue;
            }
        };
        let family = if header.source.is_ipv4() { Family::V4 } else { Family::V6 };
        if let Some(seen) = event.header {
            (header, calls) = (seen, Vec::new());
            let base = listing.base(event.of, family, &event.table, &event.chain);
            trail.push(TraceStep::Enter { chain: named(event), priority: base.map(|base| base.priority) });
        }
        let changed = (event.mark != mark).then_some(event.mark);
        match &event.deed {
            Deed::Rule { handle, verdict: code } => {
                let place = (event.table.as_str(), event.chain.as_str());
                let found = listing.rule((event.of, family), place, *handle, &header);
                let rule = found.map(|found| found.rule);
                let text = |rule: &crate::rules::Rule| rule.seen.as_ref().map(|seen| seen.spec.clone());
                trail.push(TraceStep::Rule(Hit {
                    chain: named(event),
                    number: found.map(|found| found.number),
                    handle: *handle,
                    depth: calls.len(),
                    rule: rule.and_then(text),
                    clause: rule.and_then(|rule| rule.id),
                    comment: rule.and_then(|rule| rule.comment.clone()),
                    verdict: verdict(code),
                    mark: changed,
                }));
                // A packet that was stolen or dropped has no mark.
                if !matches!(code.code, NF_DROP | 2) {
                    mark = event.mark;
                }
                match code.code {
                    NFT_JUMP => calls.push(true),
                    NFT_GOTO => calls.push(false),
                    NFT_RETURN => back(&mut calls),
                    _ => {}
                }
            }
            Deed::End => back(&mut calls),
            Deed::Policy(accepts) => {
                trail.push(TraceStep::Policy { chain: named(event), accepts: *accepts });
            }
        }
    }
    trail
}

/// Back to behind the last jump.
fn back(calls: &mut Vec<bool>) {
    while calls.pop() == Some(false) {}
}

fn hex(mark: u32) -> String {
    format!("{mark:#x}")
}

impl Ends {
    fn text(&self, by: &str) -> String {
        let interface = self.interface.as_ref().map(|name| format!(" {by} {name}")).unwrap_or_default();
        format!("{}{interface}", self.destination)
    }

    fn json(&self) -> Map<String, Value> {
        let mut value = Map::new();
        value.insert("source".into(), self.source.as_str().into());
        value.insert("destination".into(), self.destination.as_str().into());
        value.insert("interface".into(), self.interface.clone().map_or(Value::Null, Value::from));
        value
    }
}

impl TraceStep {
    fn lines(&self) -> Vec<String> {
        match self {
            TraceStep::Enter { chain, priority: Some(priority) } => {
                vec![format!("  {chain} (priority {priority})")]
            }
            TraceStep::Enter { chain, priority: None } => vec![format!("  {chain}")],
            TraceStep::Rule(hit) => {
                let indent = "  ".repeat(hit.depth + 2);
                let number = hit.number.map_or_else(|| "?".to_owned(), |number| number.to_string());
                let name = hit.chain.rsplit(' ').next().unwrap_or_default();
                let at = if hit.depth == 0 { number } else { format!("{name} {number}") };
                let gone = || format!("(handle {}: it is gone)", hit.handle);
                let rule = hit.rule.clone().unwrap_or_else(gone);
                let clause = hit.clause.map(|clause| format!("{clause}: ")).unwrap_or_default();
                let mark = hit.mark.map(|mark| format!(", mark {}", hex(mark))).unwrap_or_default();
                vec![format!("{indent}{at} {rule}"), format!("{indent}  {clause}{}{mark}", hit.verdict)]
            }
            TraceStep::Policy { chain, accepts } => {
                let does = if *accepts { "lets it through" } else { "drops it" };
                vec![format!("    end of {chain}: {does}")]
            }
            TraceStep::Way(way) => vec![format!("  -> {way}")],
        }
    }

    fn json(&self) -> Value {
        match self {
            TraceStep::Enter { chain, priority } => {
                json!({ "step": "chain", "chain": chain, "priority": priority })
            }
            TraceStep::Rule(hit) => {
                let mut value = Map::new();
                value.insert("step".into(), "rule".into());
                value.insert("chain".into(), hit.chain.as_str().into());
                value.insert("number".into(), hit.number.map_or(Value::Null, Value::from));
                value.insert("depth".into(), hit.depth.into());
                value.insert("handle".into(), hit.handle.into());
                value.insert("rule".into(), hit.rule.clone().map_or(Value::Null, Value::from));
                if let Some(clause) = hit.clause {
                    value.insert("clause".into(), clause.as_str().into());
                    value.insert("meaning".into(), clause.meaning().into());
                }
                if let Some(comment) = &hit.comment {
                    value.insert("comment".into(), comment.as_str().into());
                }
                value.insert("verdict".into(), hit.verdict.as_str().into());
                if let Some(mark) = hit.mark {
                    value.insert("mark".into(), mark.into());
                }
                Value::Object(value)
            }
            TraceStep::Policy { chain, accepts } => {
                json!({ "step": "policy", "chain": chain, "accepts": accepts })
            }
            TraceStep::Way(way) => json!({ "step": "way", "to": way }),
        }
    }
}

impl Report for Traced {
    fn text(&self) -> String {
        let Traced { direction, protocol, ends, mark, .. } = self;
        let by = if *direction == "out" { "by" } else { "from" };
        let said = if *mark == 0 { String::new() } else { format!(", mark {}", hex(*mark)) };
        let mut all = vec![format!("{direction} {protocol} {} -> {}{said}", ends.source, ends.text(by))];
        all.extend(self.trail.iter().flat_map(TraceStep::lines));
        all.push(match &self.end {
            Ended::Delivered(ends, _) => format!("  -> to a socket of this host: {}", ends.text("from")),
            Ended::Sent(ends, _) => format!("  -> to another host: {}", ends.text("by")),
            Ended::Dropped => "  -> dropped".to_owned(),
            Ended::Unknown => {
                "  -> not seen again: dropped by something else than a rule, or kept".to_owned()
            }
        });
        if self.incomplete {
            all.push(
                "  note: the kernel had more to say than could be read; parts may be missing".to_owned(),
            );
        }
        all.push(String::new());
        lines(all)
    }

    fn json(&self) -> Value {
        let mut packet = Map::new();
        packet.insert("direction".into(), self.direction.into());
        packet.insert("protocol".into(), self.protocol.as_str().into());
        packet.extend(self.ends.json());
        packet.insert("mark".into(), self.mark.into());
        let ended = |word: &str, ends: &Ends, mark: u32| {
            let mut end = Map::new();
            end.insert("verdict".into(), word.into());
            end.extend(ends.json());
            end.insert("mark".into(), mark.into());
            Value::Object(end)
        };
        let end = match &self.end {
            Ended::Delivered(ends, mark) => ended("delivered", ends, *mark),
            Ended::Sent(ends, mark) => ended("sent", ends, *mark),
            Ended::Dropped => json!({ "verdict": "dropped" }),
            Ended::Unknown => json!({ "verdict": "unknown" }),
        };
        json!({
            "schema": "mesh-init/trace/v1",
            "packet": packet,
            "trail": self.trail.iter().map(TraceStep::json).collect::<Vec<_>>(),
            "end": end,
            "incomplete": self.incomplete,
        })
    }
}
