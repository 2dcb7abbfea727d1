//! Our tables as a script that `nft -f` takes: what `plan` shows.
//!
//! Sets stand where they are looked into, without the names that they get in the kernel; maps have theirs, because nft
//! lets only the elements of a named map count.

use std::collections::BTreeMap;

use super::abi::NFT_SET_INTERVAL;
use super::encode::Options;
use super::set::Set;
use super::vmap::{self, Part};
use super::{TABLE, normal, text, word};
use crate::policy::Family;
use crate::rules::{Base, Chain, Hook, Kind, Rule, RuleSet, Verdict};

/// The table of each family that has one.
#[must_use]
pub fn script(rules: &RuleSet, options: Options) -> Vec<(Family, String)> {
    let rules = normal(rules);
    let families = Family::both().filter(|family| !rules.tables(*family).is_empty());
    families.map(|family| (family, table(&rules, family, options))).collect()
}

fn table(rules: &RuleSet, family: Family, options: Options) -> String {
    let mut text = format!("table {} {TABLE} {{\n", word(family));
    let chains: Vec<&Chain> = rules.chains.iter().filter(|chain| chain.family == family).collect();
    // A chain must be there before a rule leads to it.
    for chain in &chains {
        text += &format!("\tchain {} {{\n", chain.name);
        text += &chain.base.map(head).unwrap_or_default();
        text += "\t}\n";
    }
    let bodies: Vec<(&str, Vec<Part<'_>>)> = chains
        .iter()
        .map(|chain| (chain.name.as_str(), vmap::parts(family, &chain.rules, options.maps)))
        .collect();
    let mut maps = BTreeMap::new();
    for part in bodies.iter().flat_map(|(_, parts)| parts) {
        if let Part::Map(run, map) = part {
            maps.insert(map.name.as_str(), (*run, map));
        }
    }
    for (run, set) in maps.values() {
        text += &map(family, run, set);
    }
    for (name, parts) in bodies.iter().filter(|(_, parts)| !parts.is_empty()) {
        text += &format!("\tchain {name} {{\n");
        for part in parts {
            match part {
                Part::Rule(rule) => {
                    text += &format!("\t\t{}\n", line(family, rule, &rule.verdict));
                    // As in the kernel: what TPROXY leaves is dropped.
                    if let Verdict::Tproxy { .. } = rule.verdict {
                        text += &format!("\t\t{}\n", line(family, rule, &Verdict::Drop));
                    }
                }
                Part::Map(_, map) => {
                    text += &format!("\t\t{} vmap @{}\n", vmap::asked(family, map), map.name);
                }
            }
        }
        text += "\t}\n";
    }
    text + "}\n"
}

/// A map of a run of rules, each member of their sets an element.
fn map(family: Family, run: &[Rule], map: &Set) -> String {
    let of = if map.is_of_ports() {
        "inet_service"
    } else {
        match family {
            Family::V4 => "ipv4_addr",
            Family::V6 => "ipv6_addr",
        }
    };
    let mut text = format!("\tmap {} {{\n\t\ttype {of} : verdict\n", map.name);
    if map.flags & NFT_SET_INTERVAL != 0 {
        text += "\t\tflags interval\n";
    }
    text += "\t\tcounter\n\t\telements = {\n";
    for rule in run {
        let comment = rule.comment.as_ref().map(|comment| format!(" comment \"{comment}\""));
        let (comment, verdict) = (comment.unwrap_or_default(), text::verdict(&rule.verdict));
        for member in vmap::members(rule) {
            text += &format!("\t\t\t{member}{comment} : {verdict},\n");
        }
    }
    text + "\t\t}\n\t}\n"
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
