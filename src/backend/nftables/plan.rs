//! What has to be committed, in which order, so that at every instant the old rules hold or the new.
//!
//! A batch that brings a new set and rules that look into it is not seen at once by packets on their way: they find
//! the set empty. Batches of plain rules are. So sets come first, under names that no rule uses yet, then the rules
//! are switched, and then the old sets go.

use std::collections::BTreeSet;

use super::abi::{
    NFT_MSG_DELCHAIN, NFT_MSG_DELRULE, NFT_MSG_DELSET, NFT_MSG_DELSETELEM, NFT_MSG_DELTABLE,
    NFT_SET_ANONYMOUS, NFTA_CHAIN_NAME, NFTA_CHAIN_TABLE, NFTA_RULE_CHAIN, NFTA_RULE_TABLE,
    NFTA_SET_ELEM_LIST_SET, NFTA_SET_ELEM_LIST_TABLE, NFTA_SET_NAME, NFTA_SET_TABLE, NFTA_TABLE_NAME,
    NLM_F_CREATE,
};
use super::encode::{
    LoweredChain, Options, Tables, create, lower, new_chain, new_elements, new_rules, new_set, new_table,
};
use super::set::Set;
use super::{Batch, Decoded, TABLE, nfproto, normal, table, vmap, word};
use crate::error::{Error, Result};
use crate::policy::Family;
use crate::rules::{Base, Chain, Rule, RuleSet};

/// The batches that turn what is there into what is wanted, in order; none if it is that already.
///
/// The first is made for the generation that `there` was read at; each of the following for the one after it
/// ([`super::batch::next_generation`]). If a commit fails, look again and plan again.
///
/// # Errors
/// A rule cannot be said in nf_tables, or somebody has put another set in the place of ours.
pub fn plan(wanted: &RuleSet, there: &Decoded, options: Options) -> Result<Vec<Batch>> {
    if wanted.chains.is_empty() {
        return Ok(removal(there).into_iter().collect());
    }
    if there.ours.tables.is_empty() {
        return Ok(vec![create(wanted, options)?]);
    }
    let there = There::of(there);
    let equal = there.equals(wanted);
    let mut batches = Vec::new();
    if equal && there.sets.is_empty() {
        return Ok(batches);
    }
    let tables = lower(wanted, options)?;
    // What is equal may be spelled in another way, and looks into other sets than we would make.
    let used =
        if equal { there.decoded.ours.looked_into.clone() } else { tables.sets.iter().map(key).collect() };
    // Sets without a name of their own go with their rules.
    let unused = |set: &&Set| set.flags & NFT_SET_ANONYMOUS == 0 && !used.contains(&key(set));
    let unused: Vec<&Set> = there.sets.iter().filter(unused).collect();
    let mut late = Vec::new();
    if !equal {
        batches.push(bring(&tables, &there)?);
        let held: BTreeSet<(Family, &str)> =
            unused.iter().flat_map(|set| set.targets().map(|chain| (set.family, chain))).collect();
        let (switch, rest) = switch(&tables, &there, &held);
        batches.push(switch);
        late = rest;
    }
    batches.push(clear(&tables, &unused, &late));
    batches.retain(|batch| !batch.is_empty());
    Ok(batches)
}

/// One batch that takes all of ours away; `None` if there is nothing of ours.
#[must_use]
pub fn removal(there: &Decoded) -> Option<Batch> {
    let mut batch = Batch::new();
    there.ours.tables.iter().for_each(|family| delete_table(&mut batch, *family));
    (!batch.is_empty()).then_some(batch)
}

/// A set's place.
fn key(set: &Set) -> (Family, String) {
    (set.family, set.name.clone())
}

/// What is there of ours.
struct There<'a> {
    decoded: &'a Decoded,
    /// Each with how it was declared.
    chains: Vec<(&'a Chain, Option<Base>)>,
    sets: &'a [Set],
}

impl<'a> There<'a> {
    fn of(decoded: &'a Decoded) -> There<'a> {
        let declared = decoded.declared.iter().copied();
        let chains = decoded.rules.chains.iter().zip(declared).filter(|(chain, _)| chain.table == table());
        There { decoded, chains: chains.collect(), sets: &decoded.ours.sets }
    }

    fn chain(&self, family: Family, name: &str) -> Option<(&'a Chain, Option<Base>)> {
        self.chains.iter().copied().find(|(chain, _)| chain.family == family && chain.name == name)
    }

    fn set(&self, family: Family, name: &str) -> Option<&'a Set> {
        self.sets.iter().find(|set| set.family == family && set.name == name)
    }

    /// Whether the same rules stand in the same chains, called at the same places.
    fn equals(&self, wanted: &RuleSet) -> bool {
        let wanted = normal(wanted);
        let families: BTreeSet<Family> = wanted.chains.iter().map(|chain| chain.family).collect();
        families == self.decoded.ours.tables
            && self.decoded.ours.asleep.is_empty()
            && wanted.chains.len() == self.chains.len()
            && wanted.chains.iter().all(|chain| {
                self.chain(chain.family, &chain.name).is_some_and(|(there, base)| {
                    let rules = vmap::ordered(chain.family, there.rules.clone());
                    base == chain.base
                        && rules.len() == chain.rules.len()
                        && rules.iter().zip(&chain.rules).all(|(there, wanted)| same(there, wanted))
                })
            })
    }
}

/// Rules are equal whoever read or compiled them.
fn same(one: &Rule, other: &Rule) -> bool {
    one.id == other.id
        && one.matches == other.matches
        && one.verdict == other.verdict
        && one.comment == other.comment
}

/// Adds what rules will need: tables, sets, and the chains that maps lead to. No packet comes by here yet.
fn bring(tables: &Tables, there: &There<'_>) -> Result<Batch> {
    let mut batch = Batch::new();
    let mut changed = Vec::new();
    for set in &tables.sets {
        match there.set(set.family, &set.name) {
            Some(present) if present.same(set) => {}
            Some(present) if present.same_shape(set) => changed.push((set, true)),
            Some(_) => {
                let error = Error::refused(format!(
                    "set {} of table {} {TABLE} is another one",
                    set.name,
                    word(set.family)
                ));
                return Err(error.remedy("take the table away and apply again"));
            }
            None => changed.push((set, false)),
        }
    }
    let missing = |family: &&Family| !there.decoded.ours.tables.contains(*family);
    let families: BTreeSet<Family> = changed.iter().map(|(set, _)| set.family).collect();
    families.iter().filter(missing).for_each(|family| new_table(&mut batch, *family, NLM_F_CREATE));
    let targets: BTreeSet<(Family, &str)> =
        changed.iter().flat_map(|(set, _)| set.targets().map(|chain| (set.family, chain))).collect();
    for chain in &tables.chains {
        let leads = targets.contains(&(chain.family, chain.name.as_str()));
        if leads && chain.base.is_none() && there.chain(chain.family, &chain.name).is_none() {
            new_chain(&mut batch, chain);
        }
    }
    for ((set, is_there), id) in changed.into_iter().zip(1..) {
        if is_there {
            // Somebody has changed it under its name: refilled in place, it is never seen empty.
            flush_set(&mut batch, set);
        } else {
            new_set(&mut batch, set, id);
        }
        new_elements(&mut batch, set);
    }
    Ok(batch)
}

/// Puts the new rules in the place of the old; plain rules only, so it is one step for every packet. Chains that
/// maps of `held` still lead to are left over.
fn switch<'a>(
    tables: &Tables,
    there: &There<'a>,
    held: &BTreeSet<(Family, &str)>,
) -> (Batch, Vec<&'a Chain>) {
    let mut batch = Batch::new();
    let mut late = Vec::new();
    let families = tables.families();
    let missing = |family: &Family| {
        !there.decoded.ours.tables.contains(family) || there.decoded.ours.asleep.contains(family)
    };
    families.iter().copied().filter(missing).for_each(|family| new_table(&mut batch, family, NLM_F_CREATE));
    let old: Vec<_> = there.chains.iter().filter(|(chain, _)| families.contains(&chain.family)).collect();
    old.iter().for_each(|(chain, _)| flush_chain(&mut batch, chain));
    for (chain, base) in old {
        let wanted = tables.of(chain.family).find(|wanted| wanted.name == chain.name);
        // A chain that stays cannot change where and how it is called (nf_tables_updchain()).
        let stays = wanted.is_some_and(|wanted| place(wanted.base) == place(*base));
        if wanted.is_none() && base.is_none() && held.contains(&(chain.family, chain.name.as_str())) {
            late.push(*chain);
        } else if !stays {
            delete_chain(&mut batch, chain);
        }
    }
    for chain in &tables.chains {
        let present = there.chain(chain.family, &chain.name).map(|(_, base)| base);
        if present != Some(chain.base) {
            new_chain(&mut batch, chain);
        }
    }
    tables.chains.iter().for_each(|chain: &LoweredChain| new_rules(&mut batch, chain));
    for family in there.decoded.ours.tables.difference(&families) {
        delete_table(&mut batch, *family);
    }
    (batch, late)
}

/// Where a chain is called, without what may change in place.
fn place(base: Option<Base>) -> Option<Base> {
    base.map(|base| Base { accepts: true, ..base })
}

/// Takes away what no rule uses any more.
fn clear(tables: &Tables, unused: &[&Set], chains: &[&Chain]) -> Batch {
    let mut batch = Batch::new();
    let families = tables.families();
    for set in unused.iter().filter(|set| families.contains(&set.family)) {
        let object = format!("set {} of table {} {TABLE}", set.name, word(set.family));
        batch.push((NFT_MSG_DELSET, 0, nfproto(set.family)), object, "", |body| {
            body.text(NFTA_SET_TABLE, TABLE);
            body.text(NFTA_SET_NAME, &set.name);
        });
    }
    chains.iter().for_each(|chain| delete_chain(&mut batch, chain));
    batch
}

fn delete_table(batch: &mut Batch, family: Family) {
    let object = format!("table {} {TABLE}", word(family));
    batch.push((NFT_MSG_DELTABLE, 0, nfproto(family)), object, "", |body| body.text(NFTA_TABLE_NAME, TABLE));
}

fn flush_chain(batch: &mut Batch, chain: &Chain) {
    let object = format!("rules of chain {} of table {} {TABLE}", chain.name, word(chain.family));
    batch.push((NFT_MSG_DELRULE, 0, nfproto(chain.family)), object, "", |body| {
        body.text(NFTA_RULE_TABLE, TABLE);
        body.text(NFTA_RULE_CHAIN, &chain.name);
    });
}

fn delete_chain(batch: &mut Batch, chain: &Chain) {
    let object = format!("chain {} of table {} {TABLE}", chain.name, word(chain.family));
    batch.push((NFT_MSG_DELCHAIN, 0, nfproto(chain.family)), object, "", |body| {
        body.text(NFTA_CHAIN_TABLE, TABLE);
        body.text(NFTA_CHAIN_NAME, &chain.name);
    });
}

fn flush_set(batch: &mut Batch, set: &Set) {
    let object = format!("elements of set {} of table {} {TABLE}", set.name, word(set.family));
    batch.push((NFT_MSG_DELSETELEM, 0, nfproto(set.family)), object, "", |body| {
        body.text(NFTA_SET_ELEM_LIST_TABLE, TABLE);
        body.text(NFTA_SET_ELEM_LIST_SET, &set.name);
    });
}
