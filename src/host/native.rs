//! Our tables of nftables: read and changed by netlink, without a program.

use std::time::{Duration, Instant};

use super::Machine;
use crate::backend::Observed;
use crate::backend::nftables::{self, Options, batch::next_generation, decode, plan};
use crate::error::{Class, Result};
use crate::policy::settings::Variant;
use crate::rules::{RuleSet, Table};
use crate::sys::fs;
use crate::sys::nftables::Nftables;

/// How long a change is tried again while others change rules of nf_tables.
const DEADLINE: Duration = Duration::from_secs(5);

/// What is in our tables, and whether they have sets that no rule looks into.
///
/// # Errors
/// The kernel refuses to tell.
fn read() -> Result<(RuleSet, bool)> {
    let decoded = decode(&Nftables::open()?.tables(nftables::TABLE)?.messages);
    Ok((decoded.rules, decoded.ours.has_unused_sets()))
}

/// Whether there are rules of ours.
///
/// # Errors
/// The kernel refuses to tell.
pub fn are_there() -> Result<bool> {
    read().map(|(rules, _)| !rules.chains.is_empty())
}

/// Reads our tables into `observed`, in the place of what was known of them.
///
/// # Errors
/// The kernel refuses to tell.
pub fn read_into(observed: &mut Observed) -> Result<()> {
    let (rules, unused) = read()?;
    observed.rules.insert(Variant::Native, rules);
    observed.unused_sets = unused;
    Ok(())
}

/// What is in all tables of the families ip, ip6 and inet, and which chains the kernel calls where the model has no hook.
///
/// # Errors
/// The kernel refuses to tell.
pub fn everything() -> Result<(RuleSet, Vec<String>)> {
    let mut decoded = decode(&Nftables::open()?.everything()?.messages);
    // What `watch --trace` marks packets by decides nothing.
    let marks = |table: &Table| matches!(table, Table::Other(name) if name == nftables::trace::TABLE);
    decoded.rules.chains.retain(|chain| !marks(&chain.table));
    Ok((decoded.rules, decoded.beyond))
}

/// How the kernel that runs wants rules spelled.
///
/// # Errors
/// Its release cannot be read.
pub fn options() -> Result<Options> {
    Ok(Options::of_release(&fs::read_system("/proc/sys/kernel/osrelease")?.unwrap_or_default()))
}

/// Whether a table of `family` is one that iptables shows.
#[must_use]
pub fn is_of_iptables(table: &Table) -> bool {
    match table {
        Table::Raw | Table::Mangle | Table::Nat | Table::Filter => true,
        Table::Other(name) => name == "security",
    }
}

/// Makes our tables hold `wanted`, without a gap. Others may commit meanwhile: then it is looked at again, as long as
/// the machine's time is not up.
///
/// # Errors
/// The kernel refuses, or others change rules all the time.
pub fn change(wanted: &RuleSet, machine: &Machine) -> Result<()> {
    let end = Instant::now() + machine.left(DEADLINE);
    loop {
        match once(wanted) {
            Err(error) if error.class == Class::TryAgain && Instant::now() < end => {}
            outcome => return outcome,
        }
    }
}

fn once(wanted: &RuleSet) -> Result<()> {
    let nftables = Nftables::open()?;
    let snapshot = nftables.tables(nftables::TABLE)?;
    let mut generation = snapshot.generation;
    for batch in plan::plan(wanted, &decode(&snapshot.messages), options()?)? {
        nftables.commit(&batch.bytes(Some(generation))?, batch.objects())?;
        generation = next_generation(generation);
    }
    Ok(())
}
