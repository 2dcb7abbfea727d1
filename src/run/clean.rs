//! `clean`: take everything of ours away, without knowing the flags that made it.

use super::{Environment, apply, confirm, ebpf};
use crate::backend::choose::Choice;
use crate::backend::claim::Claim;
use crate::backend::ownership::{self, Ahead};
use crate::backend::plan;
use crate::error::Result;
use crate::host::trace::Left;
use crate::host::{self, Machine, namespace, observe, preflight};
use crate::policy::settings::{Settings, Variant};
use crate::report::Cleaned;
use crate::rules::RuleSet;
use crate::sys::lock::Lock;

pub(super) fn run(settings: &Settings, named: RuleSet, environment: &Environment) -> Result<Cleaned> {
    namespace::enter(settings, false)?;
    let lock = namespace::lock_for(settings)?;
    in_place(settings, named, super::machine(settings, environment), lock)
}

/// The same in the namespace where this thread is already, under the lock that was taken there.
pub(super) fn in_place(settings: &Settings, named: RuleSet, machine: Machine, lock: Lock) -> Result<Cleaned> {
    let wait = machine.left(settings.wait);
    let mut cleaned = rules(settings, named, &RuleSet::default(), machine, &lock)?;
    // Which of the two iptables is meant says that nothing else is.
    if settings.variant.is_none() {
        cleaned.changed.extend(ebpf::away(wait)?);
    }
    Ok(cleaned)
}

/// Only the rules, and the routing that `stays` does not need: it has no rules.
pub(super) fn rules(
    settings: &Settings,
    named: RuleSet,
    stays: &RuleSet,
    machine: Machine,
    _lock: &Lock,
) -> Result<Cleaned> {
    let look = observe::look(&machine)?;
    preflight::readable(&look, settings.variant)?;
    let mut observed = look.observed;
    preflight::no_ambient(&observed)?;
    if let Some(only) = settings.variant {
        observed.rules.retain(|variant, _| *variant == only);
    }
    observed.claim = Claim { named, all: settings.all };
    let ahead = |variant| ownership::ahead(&observed.of(variant));
    let told = |ahead: Ahead| match ahead.left && !settings.all {
        true => format!(
            "{} (left: whose it is cannot be told; clean --all in its place would have taken it)",
            ahead.text
        ),
        false => format!("{} (left: it is not ours)", ahead.text),
    };
    let mut notes: Vec<String> = Variant::ALL.into_iter().flat_map(ahead).map(told).collect();
    let choice = Choice { variant: Variant::Nft, reason: "" };
    let plan = plan::plan(stays, choice.variant, &observed);
    host::apply::apply(&plan, &machine, &mut observed, |observed, purpose| {
        apply::holds(stays, &choice, observed, purpose)
    })?;
    confirm::overtake();
    let mut changed = plan.changes();
    let left = host::trace::clean()?;
    changed.extend(left.removed());
    if let Left::Running(port) = left {
        notes.push(format!("a trace goes on (netlink port {port}): what marks packets for it goes with it"));
    }
    Ok(Cleaned { changed, notes })
}
