//! The difference between what is there and what is wanted, as one transaction of one table of one family.
//!
//! Rules are compared by what they do and say, not by spelling. What is equal stays, counters included; what
//! differs is refilled inside the same commit, so no packet sees a half.

use std::collections::BTreeMap;

use super::render;
use crate::backend::ownership;
use crate::policy::Family;
use crate::rules::{Place, Rule, RuleSet, Table};

/// Our part of one table of one family.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ours {
    /// Chains that are wholly ours, by name; alphabetical, which is also how both variants print them.
    chains: BTreeMap<String, Vec<Rule>>,
    /// Our rules in chains that are not ours, by chain.
    hooks: BTreeMap<String, Vec<Hooked>>,
}

/// A rule of ours in a shared chain.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hooked {
    rule: Rule,
    /// Its number in the chain, counted from 1, if it was read.
    number: Option<usize>,
}

impl Ours {
    /// What of ours is in rules that were read.
    #[must_use]
    pub fn observed(rules: &RuleSet, family: Family, table: &Table) -> Ours {
        Ours::select(rules, family, table, ownership::is_our_rule)
    }

    /// What is wanted: compiled rules, one line each.
    #[must_use]
    pub fn wanted(rules: &RuleSet, family: Family, table: &Table) -> Ours {
        Ours::select(rules, family, table, |_| true)
    }

    fn select(rules: &RuleSet, family: Family, table: &Table, ours: impl Fn(&Rule) -> bool) -> Ours {
        let mut found = Ours::default();
        for chain in rules.chains.iter().filter(|chain| chain.family == family && chain.table == *table) {
            if ownership::is_our_chain(&chain.name) {
                found
                    .chains
                    .insert(chain.name.clone(), chain.rules.iter().flat_map(render::spread).collect());
                continue;
            }
            let hooked = chain.rules.iter().enumerate().filter(|(_, rule)| ours(rule));
            let hooked = hooked.flat_map(|(index, rule)| {
                let number = rule.seen.as_ref().map(|_| index + 1);
                render::spread(rule).into_iter().map(move |rule| Hooked { rule, number })
            });
            let hooked: Vec<Hooked> = hooked.collect();
            if !hooked.is_empty() {
                found.hooks.insert(chain.name.clone(), hooked);
            }
        }
        found
    }

    /// The same without places: rules of ours in shared chains count wherever they stand.
    #[must_use]
    pub fn anywhere(mut self) -> Ours {
        for hooked in self.hooks.values_mut().flatten() {
            hooked.number = None;
        }
        self
    }

    /// The same with numbers that a chain with only so many rules of others has: others may have gone meanwhile.
    #[must_use]
    pub fn within(mut self, others: impl Fn(&str) -> usize) -> Ours {
        for (chain, hooked) in &mut self.hooks {
            let most = others(chain);
            for (index, hooked) in hooked.iter_mut().enumerate() {
                hooked.number = hooked.number.map(|number| number.min(most + index + 1));
            }
        }
        self
    }

    /// Whether there is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.chains.is_empty() && self.hooks.is_empty()
    }
}

/// The transaction that turns `have` into `want`; `None` if they are the same.
#[must_use]
pub fn transaction(family: Family, table: &Table, have: &Ours, want: &Ours) -> Option<String> {
    let spec = |rule: &Rule| spec(rule, family);
    let mut create = Vec::new();
    let mut unhook = Vec::new();
    let mut flush = Vec::new();
    let mut fill = Vec::new();
    let mut hook = Vec::new();
    let mut delete = Vec::new();

    for (name, rules) in &want.chains {
        match have.chains.get(name) {
            Some(present) if same_rules(present, rules) => continue,
            Some(_) => flush.push(format!("-F {name}")),
            None => create.push(format!("-N {name}")),
        }
        fill.extend(rules.iter().map(|rule| format!("-A {name} {}", spec(rule))));
    }
    for name in have.chains.keys().filter(|name| !want.chains.contains_key(*name)) {
        flush.push(format!("-F {name}"));
        delete.push(format!("-X {name}"));
    }

    let none = Vec::new();
    for (chain, hooks) in &want.hooks {
        let present = have.hooks.get(chain).unwrap_or(&none);
        if same_hooks(present, hooks) {
            continue;
        }
        unhook.extend(present.iter().map(|hooked| format!("-D {chain} {}", spec(&hooked.rule))));
        hook.extend(insertions(chain, hooks, spec));
    }
    for (chain, present) in have.hooks.iter().filter(|(chain, _)| !want.hooks.contains_key(*chain)) {
        unhook.extend(present.iter().map(|hooked| format!("-D {chain} {}", spec(&hooked.rule))));
    }

    let lines = [create, unhook, flush, fill, hook, delete].concat();
    (!lines.is_empty()).then(|| render::transaction(table.as_str(), &lines))
}

/// The line of a rule with single-member sets: as read, if it was read, so that `-D` names exactly that rule.
fn spec(rule: &Rule, family: Family) -> String {
    match &rule.seen {
        Some(seen) => seen.spec.clone(),
        None => render::specs(rule, family).join(" "),
    }
}

fn same_rules(have: &[Rule], want: &[Rule]) -> bool {
    have.len() == want.len() && have.iter().zip(want).all(|(have, want)| have.same(want))
}

/// The hooks are the same rules in the same order, and those that must stand at a place do.
fn same_hooks(have: &[Hooked], want: &[Hooked]) -> bool {
    have.len() == want.len()
        && have.iter().zip(want).enumerate().all(|(index, (have, want))| {
            let placed = match (want.number, want.rule.place) {
                // An undo wants the very place.
                (Some(number), _) => have.number == Some(number),
                (None, Place::First) => have.number.is_none_or(|number| number == index + 1),
                (None, Place::Last) => true,
            };
            placed && have.rule.same(&want.rule)
        })
}

fn insertions(chain: &str, hooks: &[Hooked], spec: impl Fn(&Rule) -> String) -> Vec<String> {
    let mut lines = Vec::new();
    let mut first = 0;
    for hooked in hooks {
        // A rule that was read goes back to the number it had: that is what an undo wants.
        let number = match (hooked.number, hooked.rule.place) {
            (Some(number), _) => Some(number),
            (None, Place::First) => {
                first += 1;
                Some(first)
            }
            (None, Place::Last) => None,
        };
        lines.push(match number {
            Some(number) => format!("-I {chain} {number} {}", spec(&hooked.rule)),
            None => format!("-A {chain} {}", spec(&hooked.rule)),
        });
    }
    lines
}
