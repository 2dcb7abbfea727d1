//! Steps in order, each with its undo.
//!
//! One step is one transaction: one table of one family (text for several tables is not atomic, not even in
//! one file). Stages are ordered make before break: what gains capture is committed before what loses it.

use std::fmt;

use super::Observed;
use super::iptables::diff::{self, Ours};
use crate::policy::Family;
use crate::policy::settings::Variant;
use crate::rules::{RuleSet, Table};

/// One transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restore {
    /// The iptables that takes it.
    pub variant: Variant,
    /// The family.
    pub family: Family,
    /// The table.
    pub table: Table,
    /// What `iptables-restore --noflush` reads.
    pub text: String,
    /// The transaction that takes it back.
    pub undo: String,
}

impl fmt::Display for Restore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: table {} of {}", self.family, self.table, self.variant)
    }
}

/// Transactions without an order among themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// What the stage is for.
    pub purpose: Purpose,
    /// Its transactions.
    pub steps: Vec<Restore>,
}

/// What a stage is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The wanted rules are made, or replace others in the same table.
    Make,
    /// Rules that are not wanted any more are removed; the wanted ones hold by then.
    Remove,
}

/// What has to be done; nothing if there are no stages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// In order.
    pub stages: Vec<Stage>,
}

impl Plan {
    /// Whether nothing has to be done.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.stages.is_empty()
    }

    /// All transactions, in order.
    pub fn steps(&self) -> impl Iterator<Item = &Restore> {
        self.stages.iter().flat_map(|stage| &stage.steps)
    }
}

/// What turns `observed` into `wanted` under `target`, and leaves nothing of ours under the other variant.
/// With no rules wanted, everything of ours is removed.
#[must_use]
pub fn plan(wanted: &RuleSet, target: Variant, observed: &Observed) -> Plan {
    let mut make = Vec::new();
    let mut remove = Vec::new();
    for variant in Variant::ALL {
        let have = observed.of(variant);
        let nothing = RuleSet::default();
        let want = if variant == target { wanted } else { &nothing };
        for family in Family::both() {
            let mut tables: Vec<Table> = want.tables(family).into_iter().cloned().collect();
            for table in have.tables(family) {
                if !tables.contains(table) {
                    tables.push(table.clone());
                }
            }
            for table in tables {
                let (have, want) =
                    (Ours::observed(&have, family, &table), Ours::wanted(want, family, &table));
                let Some(text) = diff::transaction(&table, &have, &want) else { continue };
                let undo = diff::transaction(&table, &want, &have).unwrap_or_default();
                let stage = if want.is_empty() { &mut remove } else { &mut make };
                stage.push(Restore { variant, family, table, text, undo });
            }
        }
    }
    let stages = [(Purpose::Make, make), (Purpose::Remove, remove)];
    let stages = stages.into_iter().filter(|(_, steps)| !steps.is_empty());
    Plan { stages: stages.map(|(purpose, steps)| Stage { purpose, steps }).collect() }
}

/// The transactions that make `wanted` where nothing is yet: what `plan` shows without looking at a machine.
#[must_use]
pub fn from_nothing(wanted: &RuleSet) -> Vec<(Family, String)> {
    let mut texts = Vec::new();
    for family in Family::both() {
        for table in wanted.tables(family) {
            let want = Ours::wanted(wanted, family, table);
            texts.extend(diff::transaction(table, &Ours::default(), &want).map(|text| (family, text)));
        }
    }
    texts
}
