//! Our tables as a script that `nft -f` takes: what `plan` shows.
//!
//! Sets stand where they are looked into, without the names that they get in the kernel.

use super::{TABLE, normal, text, word};
use crate::policy::Family;
use crate::rules::{Base, Chain, Hook, Kind, Rule, RuleSet, Verdict};

/// The table of each family that has one.
#[must_use]
pub fn script(rules: &RuleSet) -> Vec<(Family, String)> {
    let rules = normal(rules);
    let families = Family::both().filter(|family| !rules.tables(*family).is_empty());
    families.map(|family| (family, table(&rules, family))).collect()
}

fn table(rules: &RuleSet, family: Family) -> String {
    let mut text = format!("table {} {TABLE} {{\n", word(family));
    let chains: Vec<&Chain> = rules.chains.iter().filter(|chain| chain.family == family).collect();
    // A chain must be there before a rule leads to it.
    for chain in &chains {
        text += &format!("\tchain {} {{\n", chain.name);
        text += &chain.base.map(head).unwrap_or_default();
        text += "\t}\n";
    }
    for chain in chains.iter().filter(|chain| !chain.rules.is_empty()) {
        text += &format!("\tchain {} {{\n", chain.name);
        for rule in &chain.rules {
            text += &format!("\t\t{}\n", line(family, rule, &rule.verdict));
            // As in the kernel: what TPROXY leaves is dropped.
            if let Verdict::Tproxy { .. } = rule.verdict {
                text += &format!("\t\t{}\n", line(family, rule, &Verdict::Drop));
            }
        }
        text += "\t}\n";
    }
    text + "}\n"
}

fn head(base: Base) -> String {
    let kind = match base.kind {
        Kind::Filter => "filter",
        Kind::Nat => "nat",
        Kind::Route => "route",
    };
    let hook = match base.hook {
        Hook::Prerouting => "prerouting",
        Hook::Input => "input",
        Hook::Forward => "forward",
        Hook::Output => "output",
        Hook::Postrouting => "postrouting",
    };
    let policy = if base.accepts { "accept" } else { "drop" };
    format!("\t\ttype {kind} hook {hook} priority {}; policy {policy};\n", base.priority)
}

fn line(family: Family, rule: &Rule, verdict: &Verdict) -> String {
    let mut words = text::conditions(family, rule, usize::MAX);
    words.push("counter".to_owned());
    words.push(text::verdict(verdict));
    words.extend(rule.comment.as_ref().map(|comment| format!("comment \"{comment}\"")));
    words.retain(|word| !word.is_empty());
    words.join(" ")
}
