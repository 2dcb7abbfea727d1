//! What `explain` says.

use std::fmt;

use serde_json::{Map, Value, json};

use super::{Report, lines};
use crate::backend::ebpf::ask::Answer as Asked;
use crate::backend::iptables::render;
use crate::backend::nftables::encode::rule::protocol_of;
use crate::backend::nftables::text;
use crate::eval::Conn;
use crate::eval::decision::{Capture, Decision, Outcome, Place, Reason, Step, Tried, Way};
use crate::eval::probing::Direction;
use crate::policy::{Family, RuleId};
use crate::rules::{Chain, Match, Rule, Table};

/// Answers to questions about connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explained {
    /// The answers, in the order of the questions.
    pub answers: Vec<Explanation>,
    /// What is worth saying of where the rules come from.
    pub notes: Vec<String>,
}

/// What becomes of one connection, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The connection, as it can be typed.
    pub conn: String,
    /// What becomes of it.
    pub outcome: Outcome,
    /// The rule that says so.
    pub by: Option<Deciding>,
    /// The way there.
    pub trail: Vec<Line>,
}

/// What decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deciding {
    /// Where it stands.
    pub place: By,
    /// The policy clause that it stands for.
    pub clause: Option<RuleId>,
    /// What brought the clause about: a flag, a variable, a key.
    pub cause: Option<String>,
}

/// A rule, or a BPF program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum By {
    /// A rule.
    Rule {
        /// Its table and chain.
        chain: String,
        /// Its number in the chain, counted from 1.
        number: usize,
        /// The rule.
        rule: String,
    },
    /// The program at a hook.
    Hook(&'static str),
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            By::Rule { chain, number, rule } => write!(f, "{chain} rule {number}: {rule}"),
            By::Hook(hook) => write!(f, "the BPF program at {hook}"),
        }
    }
}

/// A step of the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// A BPF program is asked.
    Hook {
        /// Where it is attached.
        hook: &'static str,
        /// What its maps hold of the connection, a text an entry.
        found: Vec<String>,
        /// The clause that decides, if one does.
        clause: Option<RuleId>,
    },
    /// No BPF program is asked.
    NoHook(&'static str),
    /// A base chain is called.
    Enter {
        /// Its table and name.
        chain: String,
        /// Its priority.
        priority: i32,
    },
    /// A base chain of the nat table is not called.
    NotCalled {
        /// Its table and name.
        chain: String,
        /// Why.
        why: &'static str,
    },
    /// A rule is tried.
    Rule {
        /// Its table and chain.
        chain: String,
        /// Its number in the chain, counted from 1.
        number: usize,
        /// How deep in jumps it stands.
        depth: usize,
        /// The rule.
        rule: String,
        /// The clause that it stands for.
        clause: Option<RuleId>,
        /// Whether it is hit; `None` if that cannot be told.
        hit: Option<bool>,
        /// The condition that does not hold, or is not understood.
        on: Option<String>,
    },
    /// A base chain ends with its policy.
    Policy {
        /// Its table and name.
        chain: String,
        /// Whether it accepts.
        accepts: bool,
    },
    /// The packet goes on.
    Way(String),
}

fn named(chain: &Chain) -> String {
    format!("{} {}", chain.table, chain.name)
}

/// Whether rules of `table` are told in nft's words: only these tables do both iptables have.
fn is_nfts(table: &Table) -> bool {
    matches!(table, Table::Other(name) if name != "security")
}

fn rule_text(place: &Place<'_>, family: Family) -> String {
    if place.rule.seen.is_some() || !is_nfts(&place.chain.table) {
        return render::text(place.rule, family);
    }
    // What our own comment says is told with the clause.
    let comment = place.rule.comment.clone().filter(|_| place.rule.id.is_none());
    text::rule(family, &Rule { comment, ..place.rule.clone() })
}

fn condition_text(place: &Place<'_>, condition: &Match, family: Family) -> String {
    match is_nfts(&place.chain.table) {
        true => text::test(family, protocol_of(place.rule), condition),
        false => render::condition_text(condition),
    }
}

fn why(reason: Reason) -> &'static str {
    match reason {
        Reason::NotFirst => "the connection's first packet has decided",
        Reason::Translated => "the connection is translated already",
        Reason::BeganHere => "the connection began here, and its destination was decided when it set out",
        Reason::Invalid => "conntrack does not know the connection",
    }
}

fn way(way: &Way) -> String {
    match way {
        Way::Back => "out over lo, and back in".to_owned(),
        Way::Here(interface) => format!("to a socket of this host, from {interface}"),
        Way::Forward => "forwarded to another host".to_owned(),
        Way::Away(interface) => format!("to another host, by {interface}"),
    }
}

impl Explanation {
    /// From a decision about `conn`; `cause` tells what brought a clause about.
    #[must_use]
    pub fn of(conn: &Conn, decision: &Decision<'_>, cause: impl Fn(RuleId) -> Option<String>) -> Explanation {
        let family = conn.family();
        let deciding = |place: &Place<'_>| Deciding {
            place: By::Rule {
                chain: named(place.chain),
                number: place.index + 1,
                rule: rule_text(place, family),
            },
            clause: place.rule.id,
            cause: place.rule.id.and_then(&cause),
        };
        let line = |step: &Step<'_>| match step {
            Step::Enter(chain) => Line::Enter {
                chain: named(chain),
                priority: chain.base.map(|base| base.priority).unwrap_or_default(),
            },
            Step::NotCalled(chain, reason) => Line::NotCalled { chain: named(chain), why: why(*reason) },
            Step::Policy(chain) => {
                Line::Policy { chain: named(chain), accepts: chain.base.is_none_or(|base| base.accepts) }
            }
            Step::Way(of) => Line::Way(way(of)),
            Step::Try { place, depth, result } => {
                let (hit, on) = match result {
                    Tried::Hit => (Some(true), None),
                    Tried::Miss(condition) => (Some(false), Some(condition_text(place, condition, family))),
                    Tried::Either(condition) => (None, Some(condition_text(place, condition, family))),
                    Tried::Unknown(_) => (None, None),
                };
                Line::Rule {
                    chain: named(place.chain),
                    number: place.index + 1,
                    depth: *depth,
                    rule: rule_text(place, family),
                    clause: place.rule.id,
                    hit,
                    on,
                }
            }
        };
        Explanation {
            conn: conn.to_string(),
            outcome: decision.outcome.clone(),
            by: decision.by.as_ref().map(deciding),
            trail: decision.trail.iter().map(line).collect(),
        }
    }

    /// The same where BPF programs are asked, too: of what begins here before the rules, of what arrives after them.
    #[must_use]
    pub fn at_sockets(
        self,
        direction: Direction,
        asked: &Result<Asked, &'static str>,
        cause: impl Fn(RuleId) -> Option<String>,
    ) -> Explanation {
        let Explanation { conn, outcome, by, mut trail } = self;
        let outbound = direction == Direction::Outbound;
        let passes = outcome == Outcome::Passed;
        let line = match asked {
            Ok(Asked { hook, found, clause, .. }) => {
                Line::Hook { hook, found: found.clone(), clause: *clause }
            }
            Err(why) => Line::NoHook(why),
        };
        let captures = asked.as_ref().is_ok_and(|asked| asked.outcome != Outcome::Passed);
        if outbound && captures {
            // It goes to the proxy, and the rules never see where it was meant to go.
            trail = vec![line];
        } else if outbound {
            trail.insert(0, line);
        } else if passes {
            trail.push(line);
        }
        // What rules discard or send elsewhere stays so, whoever lets it pass.
        match asked {
            Ok(asked) if passes || (outbound && captures) => {
                let clause = asked.clause;
                let deciding =
                    clause.map(|id| Deciding { place: By::Hook(asked.hook), clause, cause: cause(id) });
                Explanation { conn, outcome: asked.outcome.clone(), by: deciding.or(by), trail }
            }
            Ok(_) | Err(_) => Explanation { conn, outcome, by, trail },
        }
    }

    /// What becomes of it, in a few words.
    #[must_use]
    pub fn verdict(&self) -> String {
        match &self.outcome {
            Outcome::Captured { port, by: Capture::Redirect } => format!("captured -> {port}"),
            Outcome::Captured { port, by: Capture::Tproxy } => format!("captured -> {port} (TPROXY)"),
            Outcome::Passed => "not captured".to_owned(),
            Outcome::Translated(to) => format!("not captured, sent to {to} instead"),
            Outcome::Dropped => "dropped".to_owned(),
            Outcome::CannotTell => "cannot tell".to_owned(),
        }
    }

    /// The reason, in a few words.
    #[must_use]
    pub fn reason(&self) -> String {
        match (&self.by, &self.outcome) {
            (Some(by), Outcome::CannotTell) => format!("because of {}", by.place),
            (Some(Deciding { clause: Some(clause), .. }), _) => format!("{}: {}", clause, clause.meaning()),
            (Some(by), _) => format!("by {}", by.place),
            (None, Outcome::Dropped) => "by the policy of a chain".to_owned(),
            (None, _) => {
                let not_called = |line: &Line| match line {
                    Line::NotCalled { why, .. } => Some(*why),
                    Line::NoHook(why) => Some(*why),
                    Line::Hook { .. }
                    | Line::Enter { .. }
                    | Line::Rule { .. }
                    | Line::Policy { .. }
                    | Line::Way(_) => None,
                };
                match self.trail.iter().find_map(not_called) {
                    Some(why) => why.to_owned(),
                    None => "no rule says anything of it".to_owned(),
                }
            }
        }
    }
}

impl Line {
    fn text(&self) -> Vec<String> {
        vec![match self {
            Line::Enter { chain, priority } => format!("  {chain} (priority {priority})"),
            Line::NotCalled { chain, why } => format!("  {chain}: not asked, {why}"),
            Line::NoHook(why) => format!("  no BPF program: {why}"),
            Line::Hook { hook, found, clause } => {
                let said = match clause {
                    Some(clause) => format!("    HIT {clause}"),
                    None => "    nothing said of it: passed on".to_owned(),
                };
                let found = found.iter().map(|entry| format!("    {entry}"));
                return [format!("  {hook}")].into_iter().chain(found).chain([said]).collect();
            }
            Line::Rule { chain, number, depth, rule, hit, on, clause } => {
                let indent = "  ".repeat(depth + 2);
                let chain = chain.split(' ').nth(1).unwrap_or_default();
                let said = match (hit, on) {
                    (Some(true), _) => match clause {
                        Some(clause) => format!("HIT {clause}"),
                        None => "HIT".to_owned(),
                    },
                    (Some(false), Some(on)) => format!("no: {on}"),
                    (None, Some(on)) => format!("cannot tell: {on}"),
                    (_, None) => "cannot tell: the target".to_owned(),
                };
                let at = if *depth == 0 { number.to_string() } else { format!("{chain} {number}") };
                let first = format!("{indent}{at} {rule}");
                // Both in a line of a terminal, else one below the other.
                const WIDTH: usize = 80;
                match first.chars().count() + said.chars().count() + 2 <= WIDTH {
                    true => format!("{first}  {said}"),
                    false => return vec![first, format!("{indent}  {said}")],
                }
            }
            Line::Policy { chain, accepts } => {
                let does = if *accepts { "lets it through" } else { "drops it" };
                format!("    end of {chain}: {does}")
            }
            Line::Way(way) => format!("  -> {way}"),
        }]
    }

    fn json(&self) -> Value {
        match self {
            Line::Enter { chain, priority } => {
                json!({ "step": "chain", "chain": chain, "priority": priority })
            }
            Line::NotCalled { chain, why } => json!({ "step": "notCalled", "chain": chain, "why": why }),
            Line::Rule { chain, number, depth, rule, clause, hit, on } => {
                let mut value = Map::new();
                value.insert("step".into(), "rule".into());
                value.insert("chain".into(), chain.as_str().into());
                value.insert("number".into(), (*number).into());
                value.insert("depth".into(), (*depth).into());
                value.insert("rule".into(), rule.as_str().into());
                if let Some(clause) = clause {
                    value.insert("clause".into(), clause.as_str().into());
                }
                value.insert("hit".into(), hit.map_or(Value::Null, Value::from));
                if let Some(on) = on {
                    value.insert("on".into(), on.as_str().into());
                }
                Value::Object(value)
            }
            Line::Policy { chain, accepts } => {
                json!({ "step": "policy", "chain": chain, "accepts": accepts })
            }
            Line::NoHook(why) => json!({ "step": "noHook", "why": why }),
            Line::Hook { hook, found, clause } => {
                let clause = clause.map(RuleId::as_str);
                json!({ "step": "hook", "hook": hook, "found": found, "clause": clause })
            }
            Line::Way(way) => json!({ "step": "way", "to": way }),
        }
    }
}

/// The outcome's words for programs.
#[must_use]
pub(super) fn outcome(outcome: &Outcome) -> Value {
    match outcome {
        Outcome::Captured { port, by } => {
            let by = if *by == Capture::Redirect { "REDIRECT" } else { "TPROXY" };
            json!({ "verdict": "captured", "port": port.number(), "by": by })
        }
        Outcome::Passed => json!({ "verdict": "not captured" }),
        Outcome::Translated(to) => json!({ "verdict": "translated", "to": to.to_string() }),
        Outcome::Dropped => json!({ "verdict": "dropped" }),
        Outcome::CannotTell => json!({ "verdict": "cannot tell" }),
    }
}

impl Report for Explained {
    fn text(&self) -> String {
        let mut all = Vec::new();
        for (index, answer) in self.answers.iter().enumerate() {
            if index > 0 {
                all.push(String::new());
            }
            all.push(format!("{}: {}", answer.verdict(), answer.conn));
            all.push(format!("  {}", answer.reason()));
            if let Some(by) = &answer.by {
                all.extend(by.cause.as_ref().map(|cause| format!("  because of {cause}")));
                if by.clause.is_some() {
                    all.push(format!("  {}", by.place));
                }
            }
            all.push(String::new());
            all.extend(answer.trail.iter().flat_map(Line::text));
        }
        all.extend(self.notes.iter().map(|note| format!("note: {note}")));
        lines(all)
    }

    fn json(&self) -> Value {
        let answer = |answer: &Explanation| {
            let by = answer.by.as_ref().map(|by| {
                let clause = by.clause.map(RuleId::as_str);
                let meaning = by.clause.map(RuleId::meaning);
                match &by.place {
                    By::Rule { chain, number, rule } => json!({
                        "clause": clause, "meaning": meaning, "cause": by.cause,
                        "chain": chain, "number": number, "rule": rule,
                    }),
                    By::Hook(hook) => {
                        json!({ "clause": clause, "meaning": meaning, "cause": by.cause, "hook": hook })
                    }
                }
            });
            json!({
                "connection": answer.conn,
                "outcome": outcome(&answer.outcome),
                "by": by,
                "trail": answer.trail.iter().map(Line::json).collect::<Vec<_>>(),
            })
        };
        json!({
            "schema": "mesh-init/decision/v1",
            "answers": self.answers.iter().map(answer).collect::<Vec<_>>(),
            "notes": self.notes,
        })
    }
}
