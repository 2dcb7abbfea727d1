//! What is on the machine now, as values.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::error::Error;
use crate::policy::Family;
use crate::policy::settings::Variant;
use crate::rules::{Routing, RuleSet, Table};

use super::claim::{self, Claim};

/// The programs that write and read one variant's rules of one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tool {
    /// `iptables-restore`, as an absolute path.
    pub restore: PathBuf,
    /// `iptables-save`, as an absolute path.
    pub save: PathBuf,
}

/// The programs that were found.
pub type Tools = BTreeMap<(Variant, Family), Tool>;

/// The rules that were found, foreign ones included. A variant without an entry has no tables at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// Per variant, both families.
    pub rules: BTreeMap<Variant, RuleSet>,
    /// Whether our tables of nftables have sets that no rule looks into: a run that was killed left them.
    pub unused_sets: bool,
    /// Whether the namespace has an IPv6 stack.
    pub ipv6: bool,
    /// Whether IPv6 is switched off on `lo` (ip-sysctl.rst, `disable_ipv6`): then it takes no address and no route.
    pub lo_without_ipv6: bool,
    /// Routing of the kind that TPROXY needs, whoever made it.
    pub routing: Vec<Present>,
    /// Why it cannot be told whether iptables-legacy has tables here; then no iptables is used.
    pub unlisted: Option<Error>,
    /// What counts as ours beside what is known to be.
    pub claim: Claim,
}

/// A piece of routing that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Present {
    /// What it is.
    pub what: Routing,
    /// It carries our protocol number.
    pub ours: bool,
    /// Its priority, for a rule.
    pub priority: Option<u32>,
}

impl Observed {
    /// The rules of `variant`, with a clause for each bare one that is ours; empty if it has none.
    #[must_use]
    pub fn of(&self, variant: Variant) -> RuleSet {
        let mut rules = self.rules.get(&variant).cloned().unwrap_or_default();
        claim::claim(&mut rules, &self.claim);
        rules
    }

    /// The routing that is ours, also by what `wanted` will imply once it is there.
    #[must_use]
    pub fn our_routing(&self, wanted: &RuleSet) -> Vec<Present> {
        let chains = self.rules.values().flat_map(|rules| rules.chains.clone()).collect();
        claim::routing(&self.routing, &RuleSet { chains, routing: Vec::new() }, wanted)
    }

    /// Whether `variant` has any rule in a nat table.
    #[must_use]
    pub fn has_nat_rules(&self, variant: Variant) -> bool {
        let rules = self.rules.get(&variant);
        rules.is_some_and(|rules| {
            rules.chains.iter().any(|chain| chain.table == Table::Nat && !chain.rules.is_empty())
        })
    }
}
