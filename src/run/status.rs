//! `status`: what is captured here, read from the kernel and from nothing else.

use std::collections::BTreeMap;

use super::{Environment, confirm, ebpf, recover};
use crate::backend::claim::Claim;
use crate::backend::{Observed, ownership, plan};
use crate::error::Result;
use crate::eval::sockets;
use crate::host::{Machine, namespace, observe, preflight};
use crate::policy::settings::{Settings, Variant};
use crate::policy::validate::Request;
use crate::policy::{Families, Family, RuleId};
use crate::report::{Counter, Status};
use crate::rules::compile::compile_for;
use crate::rules::{Chain, Match, Rule, RuleSet, Table, Verdict};

pub(super) fn run(settings: &Settings, environment: &Environment) -> Result<Status> {
    namespace::enter(settings, false)?;
    here(settings, &super::machine(settings, environment))
}

/// In the namespace where this thread is.
pub(super) fn here(settings: &Settings, machine: &Machine) -> Result<Status> {
    let look = observe::look(machine)?;
    preflight::readable(&look, settings.variant)?;
    let sockets = observe::sockets()?;
    let mut status = judge(&look.observed, settings.variant, &sockets);
    if let (None, Some(found)) = (settings.variant, ebpf::status(settings.wait)?) {
        let notes = match &status {
            Status::Captured { variant, .. } => {
                vec![format!("{variant} holds rules of ours, too: a move was interrupted, apply again")]
            }
            Status::Nothing { .. } | Status::Unknown { .. } | Status::AtSockets { .. } => Vec::new(),
        };
        status = Status::AtSockets { found: Box::new(found), notes };
    }
    if Variant::ALL.into_iter().any(|variant| confirm::is_marked(&look.observed.of(variant))) {
        status.note(confirm::waiting());
    }
    Ok(status)
}

fn judge(observed: &Observed, only: Option<Variant>, sockets: &[sockets::Socket]) -> Status {
    let mut notes = Vec::new();
    for rules in observed.rules.values() {
        if let Some(chain) = ownership::ambient(rules) {
            notes.push(format!("chain {chain} belongs to Istio's ambient agent"));
        }
        if let Some((chain, mesh)) = ownership::other_mesh(rules) {
            notes.push(format!("chain {chain} belongs to {mesh}, which captures this namespace"));
        }
    }
    let holding: Vec<Variant> =
        Variant::ALL.into_iter().filter(|variant| ownership::holds_ours(&observed.of(*variant))).collect();
    let (variants, others): (Vec<_>, Vec<_>) =
        holding.into_iter().partition(|variant| only.is_none_or(|only| only == *variant));
    notes.extend(others.iter().map(|other| format!("{other}, which was not asked for, holds rules of ours")));
    if variants.len() > 1 {
        let who = match variants == Variant::IPTABLES {
            true => "both iptables".to_owned(),
            false => variants.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and "),
        };
        notes.push(format!("{who} hold rules of ours: a move was interrupted, apply again"));
    }
    // The last one, nft, is where an interrupted move goes to unless told otherwise.
    let Some(variant) = variants.last().copied() else { return Status::Nothing { notes } };
    let rules = observed.of(variant);
    notes.extend(ownership::ahead(&rules).into_iter().map(|ahead| ahead.text));
    let families = if has_ours(&rules, Family::V6) { Families::Both } else { Families::V4 };
    if families == Families::V4 && observed.ipv6 {
        notes.push("IPv6 is not captured, although the namespace has an IPv6 stack".to_owned());
    }
    let Some((request, whole)) = policy_of(&rules, variant, families, observed) else {
        return Status::Unknown { variants, notes };
    };
    Status::Captured {
        whole,
        counters: counters(&rules, &compile_for(&request.policy, request.layout, families, variant)),
        older: sockets::older(sockets, &request.policy),
        layout: request.layout,
        policy: Box::new(request.policy),
        variant,
        families,
        notes,
    }
}

/// The policy that the rules say, and whether they are exactly its rules. Where the families say different ones
/// (an interrupted run), it is that of the first family that says one.
pub(super) fn policy_of(
    rules: &RuleSet,
    variant: Variant,
    families: Families,
    observed: &Observed,
) -> Option<(Request, bool)> {
    let routing = &observed.routing;
    let both = recover::request(rules, routing);
    let whole = both.as_ref().is_some_and(|request| {
        let mut wanted = compile_for(&request.policy, request.layout, families, variant);
        if confirm::is_marked(rules) {
            confirm::mark(&mut wanted, variant);
        }
        let claim = Claim { named: wanted.clone(), all: false };
        plan::plan(&wanted, variant, &Observed { claim, ..observed.clone() }).is_empty()
    });
    if whole {
        return both.map(|request| (request, true));
    }
    let alone = Family::both().find_map(|family| recover::request(&of_family(rules, family), routing));
    alone.or(both).map(|request| (request, false))
}

fn of_family(rules: &RuleSet, family: Family) -> RuleSet {
    let chains = rules.chains.iter().filter(|chain| chain.family == family).cloned().collect();
    RuleSet { chains, routing: rules.routing.clone() }
}

fn has_ours(rules: &RuleSet, family: Family) -> bool {
    ownership::holds_ours(&of_family(rules, family))
}

/// The clauses of wanted rules, by what they do and say.
type Clauses<'a> = BTreeMap<(Family, &'a Table, &'a str, Vec<Match>, &'a Verdict), RuleId>;

fn clauses(wanted: &RuleSet) -> Clauses<'_> {
    let mut clauses = Clauses::new();
    for chain in &wanted.chains {
        for rule in chain.rules.iter().flat_map(|rule| rule.id.map(|id| (rule, id))) {
            let (rule, id) = rule;
            let key = (chain.family, &chain.table, chain.name.as_str(), sorted(rule), &rule.verdict);
            clauses.entry(key).or_insert(id);
        }
    }
    clauses
}

fn sorted(rule: &Rule) -> Vec<Match> {
    let mut matches = rule.matches.clone();
    matches.sort();
    matches
}

/// The clause that a rule stands for: it says so, or the policy's own rule that is the same does.
fn clause(chain: &Chain, rule: &Rule, clauses: &Clauses<'_>) -> Option<RuleId> {
    let same = || {
        let key = (chain.family, &chain.table, chain.name.as_str(), sorted(rule), &rule.verdict);
        clauses.get(&key).copied()
    };
    recover::clause(rule).or(rule.id).or_else(same)
}

/// Gives each rule of ours the clause that it stands for.
pub(super) fn annotate(rules: &mut RuleSet, wanted: &RuleSet) {
    let clauses = clauses(wanted);
    for chain in &mut rules.chains {
        let found: Vec<Option<RuleId>> =
            chain.rules.iter().map(|rule| clause(chain, rule, &clauses)).collect();
        for (rule, id) in chain.rules.iter_mut().zip(found) {
            rule.id = id;
        }
    }
}

/// Counters of our rules, summed per clause and family, in the order of the rules.
fn counters(rules: &RuleSet, wanted: &RuleSet) -> Vec<Counter> {
    let clauses = clauses(wanted);
    let mut counters: Vec<Counter> = Vec::new();
    for chain in &rules.chains {
        for rule in &chain.rules {
            let (Some(id), Some(seen)) = (clause(chain, rule, &clauses), &rule.seen) else { continue };
            match counters.iter_mut().find(|counter| counter.id == id && counter.family == chain.family) {
                Some(counter) => {
                    counter.packets += seen.packets;
                    counter.bytes += seen.bytes;
                }
                None => {
                    counters.push(Counter {
                        id,
                        family: chain.family,
                        packets: seen.packets,
                        bytes: seen.bytes,
                    });
                }
            }
        }
    }
    counters
}
