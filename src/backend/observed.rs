//! What is on the machine now, as values.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::policy::Family;
use crate::policy::settings::Variant;
use crate::rules::{RuleSet, Table};

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
    /// Whether the namespace has an IPv6 stack.
    pub ipv6: bool,
}

impl Observed {
    /// The rules of `variant`; empty if it has none.
    #[must_use]
    pub fn of(&self, variant: Variant) -> RuleSet {
        self.rules.get(&variant).cloned().unwrap_or_default()
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
