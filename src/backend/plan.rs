//! Steps in order, each with its undo.
//!
//! One step is one transaction: one table of one family (text for several tables is not atomic, not even in
//! one file). Stages are ordered make before break: what gains capture is committed before what loses it.

use std::collections::BTreeSet;
use std::fmt;

use super::Observed;
use super::iptables::diff::{self, Ours};
use super::observed::Present;
use super::{nftables, ownership};
use crate::policy::Family;
use crate::policy::settings::Variant;
use crate::rules::compile::native;
use crate::rules::{Chain, Routing, RuleSet, Table, Verdict};

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
    /// Its transactions of the two iptables.
    pub steps: Vec<Restore>,
    /// Its change of our tables of nftables.
    pub native: Option<Switch>,
}

/// A change of our tables of nftables, in as many batches as it takes to do it without a gap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Switch {
    /// What is there.
    pub from: RuleSet,
    /// What is to be there.
    pub to: RuleSet,
}

impl fmt::Display for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |family| [&self.from, &self.to].iter().any(|rules| !rules.tables(family).is_empty());
        let families = Family::both().filter(|family| of(*family));
        write!(f, "{}: table {} of {}", crate::policy::list(families), native::TABLE, Variant::Native)
    }
}

/// What a stage is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Rules are made that hold beside those to be removed; not yet all that are wanted.
    Prepare,
    /// The wanted rules are made, or replace others in the same table.
    Make,
    /// Rules that are not wanted any more are removed; the wanted ones hold by then.
    Remove,
}

/// What has to be done; nothing if there are no stages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Routing that the rules need, made before them.
    pub routes: Vec<Present>,
    /// In order.
    pub stages: Vec<Stage>,
    /// Routing that nothing needs any more, removed in the end.
    pub unroutes: Vec<Present>,
}

impl Plan {
    /// Whether nothing has to be done.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.stages.is_empty() && self.routes.is_empty() && self.unroutes.is_empty()
    }

    /// What is changed, in order, as phrases.
    #[must_use]
    pub fn changes(&self) -> Vec<String> {
        let routes = self.routes.iter().chain(&self.unroutes);
        let mut changes = Vec::new();
        for stage in &self.stages {
            changes.extend(stage.steps.iter().map(ToString::to_string));
            changes.extend(stage.native.iter().map(ToString::to_string));
        }
        changes.extend(routes.map(|present| present.what.to_string()));
        changes
    }

    /// All transactions of the two iptables, in order.
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
    for variant in Variant::IPTABLES {
        let have = observed.of(variant);
        let nothing = RuleSet::default();
        let want = if variant == target { wanted } else { &nothing };
        each_table(want, &have, |family, table, want, have| {
            let Some(text) = diff::transaction(family, table, &have, want) else { return };
            let undo = diff::transaction(family, table, want, &have).unwrap_or_default();
            let stage = if want.is_empty() { &mut remove } else { &mut make };
            stage.push(Restore { variant, family, table: table.clone(), text, undo });
        });
    }
    let before = match moves_tproxy(wanted, target, observed) {
        true => without_saving(&mut make, wanted, target, observed),
        false => Vec::new(),
    };
    let want = if target == Variant::Native { ownership::native_part(wanted) } else { RuleSet::default() };
    let have = ownership::native_part(&observed.of(Variant::Native));
    // What a killed run has left is taken away, too.
    let native = match observed.unused_sets && !want.chains.is_empty() {
        true => Some(Switch { from: have, to: want }),
        false => switch(have, want),
    };
    Plan {
        routes: missing(wanted, observed).collect(),
        stages: stages(before, make, remove, native),
        unroutes: surplus(wanted, observed).collect(),
    }
}

/// What turns `now` back into `before`, as far as it is ours: what comes back first, then what goes.
#[must_use]
pub fn back(before: &Observed, now: &Observed) -> Plan {
    let (mut make, mut remove) = (Vec::new(), Vec::new());
    for variant in Variant::IPTABLES {
        let (had, have) = (before.of(variant), now.of(variant));
        for family in Family::both() {
            let mut tables = had.tables(family);
            tables.extend(have.tables(family));
            for table in in_order(&had, tables) {
                let others = |name: &str| {
                    let chain = have.chain(family, table, name);
                    chain.map_or(0, |chain| {
                        chain.rules.iter().filter(|rule| !ownership::is_our_rule(rule)).count()
                    })
                };
                let want = Ours::observed(&had, family, table).within(others);
                let have = Ours::observed(&have, family, table);
                let Some(text) = diff::transaction(family, table, &have, &want) else { continue };
                let undo = diff::transaction(family, table, &want, &have).unwrap_or_default();
                let stage = if want.is_empty() { &mut remove } else { &mut make };
                stage.push(Restore { variant, family, table: table.clone(), text, undo });
            }
        }
    }
    let nothing = RuleSet::default();
    let lacks = |of: &Observed, what: Routing| !of.routing.iter().any(|present| present.what == what);
    let routes =
        before.our_routing(&nothing).into_iter().filter(|present| lacks(now, present.what)).collect();
    // What carries no number of ours was there all along, unseen while no rule named its table.
    let made = |present: &Present| present.ours || present.what == Routing::PassthroughAddress;
    let unroutes = now.our_routing(&nothing).into_iter();
    let unroutes = unroutes.filter(|present| made(present) && lacks(before, present.what)).collect();
    let of = |observed: &Observed| ownership::native_part(&observed.of(Variant::Native));
    let native = switch(of(now), of(before));
    Plan { routes, stages: stages(Vec::new(), make, remove, native), unroutes }
}

/// The change of our tables of nftables, if there is any.
fn switch(from: RuleSet, to: RuleSet) -> Option<Switch> {
    (!same_native(&from, &to)).then_some(Switch { from, to })
}

/// Whether our tables of nftables hold the same.
#[must_use]
pub fn same_native(one: &RuleSet, other: &RuleSet) -> bool {
    let (one, other) = (nftables::normal(one), nftables::normal(other));
    one.chains.len() == other.chains.len()
        && one.chains.iter().all(|chain| {
            let same_rules = |of: &Chain| {
                of.rules.len() == chain.rules.len()
                    && of.rules.iter().zip(&chain.rules).all(|(one, other)| one.same(other))
            };
            let there = other.chain(chain.family, &chain.table, &chain.name);
            there.is_some_and(|there| there.base == chain.base && same_rules(there))
        })
}

/// `before` is empty, or all of the making that comes before the removal; `make` then is what comes after it.
fn stages(
    before: Vec<Restore>,
    make: Vec<Restore>,
    remove: Vec<Restore>,
    native: Option<Switch>,
) -> Vec<Stage> {
    let (removed, made) = native.into_iter().partition::<Vec<_>, _>(|switch| switch.to.chains.is_empty());
    let (mut removed, mut made) = (removed.into_iter(), made.into_iter());
    let mut stage = |purpose, steps| {
        let native = if purpose == Purpose::Remove { removed.next() } else { made.next() };
        Stage { purpose, steps, native }
    };
    let stages = match before.is_empty() {
        true => vec![stage(Purpose::Make, make), stage(Purpose::Remove, remove)],
        false => {
            let prepared = Stage { purpose: Purpose::Prepare, steps: before, native: None };
            vec![prepared, stage(Purpose::Remove, remove), stage(Purpose::Make, make)]
        }
    };
    stages.into_iter().filter(|stage| !stage.steps.is_empty() || stage.native.is_some()).collect()
}

/// Whether TPROXY moves from one iptables to the other.
fn moves_tproxy(wanted: &RuleSet, target: Variant, observed: &Observed) -> bool {
    let captures = |rules: &RuleSet| {
        let rules = rules.chains.iter().flat_map(|chain| &chain.rules);
        rules.into_iter().any(|rule| matches!(rule.verdict, Verdict::Tproxy { .. }))
    };
    // Where nftables has it, only what comes over lo is saved.
    let others = Variant::ALL.into_iter().filter(|variant| *variant != target);
    target != Variant::Native
        && captures(wanted)
        && others.into_iter().any(|other| captures(&observed.of(other)))
}

/// While both iptables have TPROXY, the second sees packets that the first has marked, and would give their
/// connections the mark for good: their answers would be routed to this host. So the new mangle table first has no
/// rule that saves marks; `make` is left with what adds it once the old table is gone.
fn without_saving(
    make: &mut Vec<Restore>,
    wanted: &RuleSet,
    target: Variant,
    observed: &Observed,
) -> Vec<Restore> {
    let mut lean = wanted.clone();
    for chain in lean.chains.iter_mut().filter(|chain| chain.table == Table::Mangle) {
        chain.rules.retain(|rule| rule.verdict != Verdict::SaveMark);
    }
    let have = observed.of(target);
    let mut before = Vec::new();
    let mut after = Vec::new();
    for step in make.drain(..) {
        if step.table != Table::Mangle {
            before.push(step);
            continue;
        }
        let (family, table) = (step.family, step.table.clone());
        let there = Ours::observed(&have, family, &table);
        let (first, whole) = (Ours::wanted(&lean, family, &table), Ours::wanted(wanted, family, &table));
        let add = |to: &mut Vec<Restore>, from: &Ours, into: &Ours| {
            let Some(text) = diff::transaction(family, &table, from, into) else { return };
            let undo = diff::transaction(family, &table, into, from).unwrap_or_default();
            to.push(Restore { variant: step.variant, family, table: table.clone(), text, undo });
        };
        add(&mut before, &there, &first);
        add(&mut after, &first, &whole);
    }
    *make = after;
    before
}

/// Wanted routing that nobody has made yet.
fn missing<'a>(wanted: &'a RuleSet, observed: &'a Observed) -> impl Iterator<Item = Present> + 'a {
    let possible = |what: &Routing| {
        let of_v6 = match what {
            Routing::PassthroughAddress => true,
            Routing::Route { family, .. } | Routing::Rule { family, .. } => *family == Family::V6,
        };
        !(of_v6 && observed.lo_without_ipv6)
    };
    let there = |what: &Routing| observed.routing.iter().any(|present| present.what == *what);
    let wanted = wanted.routing.iter().filter(move |what| possible(what) && !there(what));
    wanted.map(|what| Present { what: *what, ours: true, priority: None })
}

/// Routing of ours that is not wanted.
fn surplus<'a>(wanted: &'a RuleSet, observed: &Observed) -> impl Iterator<Item = Present> + 'a {
    let ours = observed.our_routing(wanted).into_iter();
    // Rules last: a route is only found, after a run that was killed, through the rule that names its table.
    let (rules, others): (Vec<_>, Vec<_>) =
        ours.partition(|present| matches!(present.what, Routing::Rule { .. }));
    others.into_iter().chain(rules).filter(|present| !wanted.routing.contains(&present.what))
}

/// What of `wanted` under `target` does not hold in `observed`, and what of ours is there besides; by stage, each as
/// a phrase. Unlike [`plan`] it does not mind where in a shared chain our rules stand: another program may have put
/// a rule before them in the meantime.
#[must_use]
pub fn differences(wanted: &RuleSet, target: Variant, observed: &Observed) -> Vec<(Purpose, String)> {
    let mut differences = Vec::new();
    for variant in Variant::IPTABLES {
        let nothing = RuleSet::default();
        let want = if variant == target { wanted } else { &nothing };
        each_table(want, &observed.of(variant), |family, table, want, have| {
            if diff::transaction(family, table, &have.anywhere(), want).is_some() {
                let purpose = if want.is_empty() { Purpose::Remove } else { Purpose::Make };
                differences.push((purpose, format!("{family}: table {table} of {variant}")));
            }
        });
    }
    let have = ownership::native_part(&observed.of(Variant::Native));
    let want = if target == Variant::Native { ownership::native_part(wanted) } else { RuleSet::default() };
    for family in Family::both() {
        let of = |rules: &RuleSet| RuleSet {
            chains: rules.chains.iter().filter(|chain| chain.family == family).cloned().collect(),
            routing: Vec::new(),
        };
        let (have, want) = (of(&have), of(&want));
        if !same_native(&have, &want) {
            let purpose = if want.chains.is_empty() { Purpose::Remove } else { Purpose::Make };
            let what = format!("{family}: table {} of {}", native::TABLE, Variant::Native);
            differences.push((purpose, what));
        }
    }
    differences.extend(missing(wanted, observed).map(|present| (Purpose::Make, present.what.to_string())));
    differences.extend(surplus(wanted, observed).map(|present| (Purpose::Remove, present.what.to_string())));
    differences
}

/// Whether two observations hold the same rules of ours, wherever those stand among other people's.
#[must_use]
pub fn same_ours(one: &Observed, other: &Observed) -> bool {
    let nothing = RuleSet::default();
    let routing = |observed: &Observed| {
        let mut routing: Vec<Routing> =
            observed.our_routing(&nothing).into_iter().map(|present| present.what).collect();
        routing.sort();
        routing
    };
    let of = |observed: &Observed| ownership::native_part(&observed.of(Variant::Native));
    let mut same = routing(one) == routing(other) && same_native(&of(one), &of(other));
    for variant in Variant::IPTABLES {
        let (one, other) = (one.of(variant), other.of(variant));
        for family in Family::both() {
            let tables = one.tables(family).into_iter().chain(other.tables(family));
            for table in tables {
                let ours = |rules: &RuleSet| Ours::observed(rules, family, table).anywhere();
                same &= diff::transaction(family, table, &ours(&one), &ours(&other)).is_none();
            }
        }
    }
    same
}

/// Calls `see` for every table of every family that either side has, with our part of it.
fn each_table(want: &RuleSet, have: &RuleSet, mut see: impl FnMut(Family, &Table, &Ours, Ours)) {
    for family in Family::both() {
        let mut tables = want.tables(family);
        tables.extend(have.tables(family));
        for table in in_order(want, tables) {
            see(family, table, &Ours::wanted(want, family, table), Ours::observed(have, family, table));
        }
    }
}

/// What gains capture comes before what loses it: the mangle table does with TPROXY, else the nat table. And queries
/// get a zone of their own only once they are captured: an entry without NAT in that zone would outlive the change.
fn in_order<'a>(want: &RuleSet, tables: BTreeSet<&'a Table>) -> Vec<&'a Table> {
    let wants = |gains: fn(&Verdict) -> bool| {
        want.chains.iter().flat_map(|chain| &chain.rules).any(|rule| gains(&rule.verdict))
    };
    let tproxy = wants(|verdict| matches!(verdict, Verdict::Tproxy { .. }));
    let zones = wants(|verdict| matches!(verdict, Verdict::Zone(_)));
    let mut tables: Vec<&Table> = tables.into_iter().collect();
    tables.sort_by_key(|table| match table {
        Table::Raw if zones => 3,
        Table::Raw => 0,
        Table::Mangle if !tproxy => 2,
        Table::Mangle | Table::Nat | Table::Filter | Table::Other(_) => 1,
    });
    tables
}

/// The transactions that make `wanted` where nothing is yet: what `plan` shows without looking at a machine.
#[must_use]
pub fn from_nothing(wanted: &RuleSet) -> Vec<(Family, String)> {
    let mut texts = Vec::new();
    for family in Family::both() {
        for table in wanted.tables(family) {
            let want = Ours::wanted(wanted, family, table);
            texts
                .extend(diff::transaction(family, table, &Ours::default(), &want).map(|text| (family, text)));
        }
    }
    texts
}
