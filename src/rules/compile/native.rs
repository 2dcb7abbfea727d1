//! The rules as nftables has them: tables of our own, `ip mesh_init` and `ip6 mesh_init`, shared with nobody.
//!
//! They mean what the rules of the layout mean, since they are made from them: the same order, the same verdicts. What
//! differs is what nftables allows: base chains of our own, sets instead of a rule for each port or network, and a
//! redirect that asks for a connection's first packet, so that connections which were open before go on.

use std::collections::BTreeSet;

use super::{IN_REDIRECT, INBOUND, OUTPUT, REDIRECT, compile};
use crate::policy::{CapturePolicy, Families, IfName, Layout};
use crate::rules::compile::istio::{DIVERT, DROP, OUTPUT_DNS, TPROXY};
use crate::rules::{Base, Chain, Kind, Match, Protocol, Rule, RuleSet, Table, Test, Verdict};

/// The name of our tables.
pub const TABLE: &str = "mesh_init";
/// Behind everybody's changes of the destination, as an appended rule of iptables is. At -100 itself the order would be
/// that of registration.
const BEHIND: i32 = -99;
/// Before everybody's, as an inserted rule of iptables is.
pub const BEFORE: i32 = -101;

/// The rules of `policy` for nftables, with the meaning that they have in `layout`.
#[must_use]
pub fn native(policy: &CapturePolicy, layout: Layout, families: Families) -> RuleSet {
    let RuleSet { chains, routing } = compile(policy, layout, families);
    let nat = if layout == Layout::Scoped { BEFORE } else { BEHIND };
    let chains = chains.into_iter().map(|chain| one(chain, nat)).collect();
    RuleSet { chains, routing }
}

fn one(chain: Chain, nat: i32) -> Chain {
    let Chain { family, table, name, base, rules } = chain;
    let own = |target: &str| own_name(&table, target);
    let rules = rules.into_iter().map(|rule| {
        let Rule { id, matches, verdict, .. } = rule;
        let mut verdict = verdict;
        if let Verdict::Jump(target) | Verdict::Goto(target) = &mut verdict {
            *target = own(target);
        }
        let matches = over_lo(first_packets(matches, &verdict), &verdict);
        let comment = id.map(|id| id.meaning().to_owned());
        Rule { id, matches, verdict, comment, place: crate::rules::Place::Last, seen: None }
    });
    let base =
        base.map(|base| Base { priority: if base.kind == Kind::Nat { nat } else { base.priority }, ..base });
    Chain {
        family,
        name: own(&name),
        table: Table::Other(TABLE.to_owned()),
        base,
        rules: merged(rules.collect()),
    }
}

/// Names of chains, here and in the layouts.
const NAMES: [(&str, &str); 13] = [
    ("outbound", OUTPUT),
    ("inbound", INBOUND),
    ("redirect", REDIRECT),
    ("redirect_inbound", IN_REDIRECT),
    ("dns", OUTPUT_DNS),
    ("divert", DIVERT),
    ("tproxy", TPROXY),
    ("drop_invalid", DROP),
    ("prerouting", "PREROUTING"),
    ("input", "INPUT"),
    ("forward", "FORWARD"),
    ("output", "OUTPUT"),
    ("postrouting", "POSTROUTING"),
];

/// Every table's chains have names of their own here, where all stand in one.
fn own_name(table: &Table, name: &str) -> String {
    let plain = NAMES.iter().find(|(_, of)| *of == name).map_or(name, |(plain, _)| plain);
    format!("{table}_{plain}")
}

/// The table and chain of the layouts that a chain of ours stands for.
#[must_use]
pub fn layouts_name(name: &str) -> Option<(Table, &'static str)> {
    let (table, plain) = name.split_once('_')?;
    let (_, name) = NAMES.iter().find(|(of, _)| *of == plain)?;
    let table = Table::from(table);
    (!matches!(table, Table::Other(_))).then_some((table, name))
}

/// conntrack takes up connections that were open before there were any rules, as if they were new: a redirect would
/// break them.
fn first_packets(mut matches: Vec<Match>, verdict: &Verdict) -> Vec<Match> {
    let tcp = matches.contains(&Match::is(Test::Protocol(Protocol::Tcp)));
    let first = Match::is(Test::FirstPacket);
    if tcp && matches!(verdict, Verdict::Redirect(_) | Verdict::Tproxy { .. }) && !matches.contains(&first) {
        matches.push(first);
    }
    matches
}

/// Packets that bring a mark to be saved come over lo, from the proxy. Where an iptables has TPROXY too, as during a move,
/// others come with the mark that it gave them.
fn over_lo(mut matches: Vec<Match>, verdict: &Verdict) -> Vec<Match> {
    let from_lo = Match::is(Test::InInterface(vec![IfName::lo()]));
    if *verdict == Verdict::SaveMark && !matches.contains(&from_lo) {
        matches.push(from_lo);
    }
    matches
}

/// Rules that follow one another with one clause and one verdict need no order among themselves, for whichever is met,
/// the same is done: those that differ in the members of one condition become one, with a set.
fn merged(rules: Vec<Rule>) -> Vec<Rule> {
    let mut merged: Vec<Rule> = Vec::new();
    let mut run = 0;
    for mut rule in rules {
        rule.matches = excluded_together(rule.matches);
        let same_run = |of: &Rule| of.id == rule.id && of.verdict == rule.verdict;
        if !merged.last().is_some_and(same_run) {
            run = merged.len();
        }
        let joined = merged.iter_mut().skip(run).any(|earlier| join(earlier, &rule));
        if !joined {
            merged.push(rule);
        }
    }
    for condition in merged.iter_mut().flat_map(|rule| &mut rule.matches) {
        once(&mut condition.test);
    }
    merged
}

/// Leaves each member once.
fn once(set: &mut Test) {
    fn each<T: Ord + Clone>(set: &mut Vec<T>) {
        let mut seen = BTreeSet::new();
        set.retain(|member| seen.insert(member.clone()));
    }
    match set {
        Test::Source(set) | Test::Destination(set) => each(set),
        Test::InInterface(set) | Test::OutInterface(set) => each(set),
        Test::SourcePort(set) | Test::DestinationPort(set) => each(set),
        Test::OwnerUid(set) => each(set),
        Test::OwnerGid(set) => each(set),
        Test::Protocol(_)
        | Test::FirstPacket
        | Test::DestinationIsLocal
        | Test::ConnState(_)
        | Test::Answer
        | Test::Mark(_)
        | Test::Connmark(_)
        | Test::Opaque(_) => {}
    }
}

/// Takes `rule` into `earlier`, if they differ in one set only.
fn join(earlier: &mut Rule, rule: &Rule) -> bool {
    if earlier.matches.len() != rule.matches.len() {
        return false;
    }
    let mut differing = None;
    for (index, (one, other)) in earlier.matches.iter().zip(&rule.matches).enumerate() {
        if one == other {
            continue;
        }
        if differing.is_some() || one.negated || other.negated {
            return false;
        }
        differing = Some((index, other.test.clone()));
    }
    match differing {
        // The same rule twice.
        None => true,
        Some((index, test)) => {
            earlier.matches.get_mut(index).is_some_and(|condition| extend(&mut condition.test, test))
        }
    }
}

/// "Not this one" and "not that one" are "none of these".
fn excluded_together(matches: Vec<Match>) -> Vec<Match> {
    let mut together: Vec<Match> = Vec::new();
    for condition in matches {
        let of_owner = matches!(condition.test, Test::OwnerUid(_) | Test::OwnerGid(_));
        let joined = condition.negated
            && of_owner
            && together
                .iter_mut()
                .any(|earlier| earlier.negated && extend(&mut earlier.test, condition.test.clone()));
        if !joined {
            together.push(condition);
        }
    }
    together
}

/// Adds the members of `more`, if both are sets of one kind.
fn extend(set: &mut Test, more: Test) -> bool {
    fn add<T>(set: &mut Vec<T>, more: Vec<T>) -> bool {
        set.extend(more);
        true
    }
    match (set, more) {
        (Test::Source(set), Test::Source(more)) | (Test::Destination(set), Test::Destination(more)) => {
            add(set, more)
        }
        (Test::InInterface(set), Test::InInterface(more))
        | (Test::OutInterface(set), Test::OutInterface(more)) => add(set, more),
        (Test::SourcePort(set), Test::SourcePort(more))
        | (Test::DestinationPort(set), Test::DestinationPort(more)) => add(set, more),
        (Test::OwnerUid(set), Test::OwnerUid(more)) => add(set, more),
        (Test::OwnerGid(set), Test::OwnerGid(more)) => add(set, more),
        (_, _) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Port, RuleId};

    #[test]
    fn only_sets_of_the_same_sense_are_joined() {
        let ports =
            |number: u16| Test::DestinationPort(Port::of(number).map(Into::into).into_iter().collect());
        let rule = |condition: Match| {
            let tcp = Match::is(Test::Protocol(Protocol::Tcp));
            Rule::new(RuleId::OutboundPort, vec![tcp, condition], Verdict::Return)
        };
        let joined = |one: Match, other: Match| {
            let mut earlier = rule(one);
            join(&mut earlier, &rule(other)).then(|| earlier.matches.remove(1))
        };
        let (one, other) = (|| Match::is(ports(1)), || Match::is(ports(2)));
        let both = [1, 2].into_iter().filter_map(Port::of).map(Into::into).collect();
        assert_eq!(joined(one(), other()), Some(Match::is(Test::DestinationPort(both))));
        assert_eq!(joined(one(), one()), Some(one()));
        for (one, other) in [
            (one(), Match::not(ports(2))),
            (Match::not(ports(1)), other()),
            (Match::not(ports(1)), Match::not(ports(2))),
            (one(), Match::is(Test::FirstPacket)),
        ] {
            assert_eq!(joined(one.clone(), other.clone()), None, "{one:?} {other:?}");
        }
    }
}
