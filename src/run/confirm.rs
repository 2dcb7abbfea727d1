//! `--confirm-within` and `confirm`: a change that takes itself back unless somebody says that it is good.
//!
//! That a change waits is written in the kernel beside it, as a chain without rules, so that `status` can tell it
//! even if the process that would take it back is gone.

use std::time::Duration;

use super::{Environment, variable};
use crate::backend::plan::{self, Purpose, Switch};
use crate::backend::{Observed, Restore, Stage, ownership};
use crate::error::{Class, Error, Result};
use crate::host::{self, Machine, namespace, observe, preflight};
use crate::policy::Family;
use crate::policy::settings::{Settings, Variant};
use crate::report::Confirmed;
use crate::rules::compile::{native, own};
use crate::rules::{RuleSet, Table};
use crate::sys::holder::{self, Holder};
use crate::sys::lock::Lock;

/// How often, and after which pause, what was there before is tried to be brought back.
const TRIES: u32 = 1800;
const PAUSE: Duration = Duration::from_secs(2);

/// Adds the mark of a change that waits.
pub(super) fn mark(wanted: &mut RuleSet, variant: Variant) {
    let mut mark = own(Family::V4, ownership::UNCONFIRMED, Vec::new());
    if variant == Variant::Native {
        mark.table = Table::Other(native::TABLE.to_owned());
    }
    wanted.chains.push(mark);
}

/// Whether the mark stands in `rules`.
pub(super) fn is_marked(rules: &RuleSet) -> bool {
    rules.chains.iter().any(|chain| chain.name == ownership::UNCONFIRMED)
}

/// Refuses where nobody could confirm, or where the holder would not live.
pub(super) fn possible(environment: &Environment) -> Result<()> {
    let in_pod = variable(environment, "KUBERNETES_SERVICE_HOST").is_some();
    let in_cni = variable(environment, "CNI_COMMAND").is_some();
    let why = match (host::is_first_process(), in_pod, in_cni) {
        (true, ..) => "this is the first process of its container, and what holds the undo would end with it",
        (_, true, _) => "this is a pod, where nobody is there to confirm",
        (_, _, true) => "a container runtime calls, which does not confirm",
        (false, false, false) => return Ok(()),
    };
    let error = Error::new(Class::Usage, format!("--confirm-within cannot be had here: {why}"));
    Err(error.remedy("leave it out"))
}

/// Starts the process that brings `before` back unless it is confirmed.
pub(super) fn hold(
    within: Duration,
    settings: &Settings,
    before: &Observed,
    machine: &Machine,
    lock: &mut Option<Lock>,
) -> Result<Holder> {
    holder::start(within, |done| {
        // The caller's lock came along with the fork; its copy is closed there, and this only forgets it.
        if let Some(lock) = lock.take() {
            lock.forget();
        }
        // Somebody may hold a lock or change the same rules just now: until it is done, or an hour has passed.
        for _ in 0..TRIES {
            if restore(settings, before, machine, done).is_ok() {
                break;
            }
            std::thread::sleep(PAUSE);
        }
    })
}

/// Brings back what was there. If the change was `whole` and its mark is gone, a later command has replaced it.
fn restore(settings: &Settings, before: &Observed, machine: &Machine, whole: bool) -> Result<()> {
    let _lock = namespace::lock_for(settings)?;
    let mut now = observe::look(machine)?.observed;
    now.claim = before.claim.clone();
    if whole && !Variant::ALL.into_iter().any(|variant| is_marked(&now.of(variant))) {
        return Ok(());
    }
    let plan = plan::back(before, &now);
    host::apply::apply(&plan, machine, &mut now, |now, purpose| {
        match purpose == Purpose::Make || plan::same_ours(before, now) {
            true => Ok(()),
            false => Err(Error::refused("the rules read back differently from those that were there")),
        }
    })
}

/// What `status` says of a change that waits.
pub(super) fn waiting() -> String {
    match holder::find() {
        Some(found) => format!(
            "unconfirmed: process {} brings back what was there before in {} s unless mesh-init confirm is run",
            found.pid,
            found.left.as_secs()
        ),
        None => "unconfirmed, and the process that would bring back what was there before is gone: mesh-init confirm keeps these rules, clean or another apply replaces them".to_owned(),
    }
}

/// A newer command was given: what waits is overtaken.
pub(super) fn overtake() {
    if let Some(found) = holder::keep() {
        tracing::warn!("a change that process {} was to take back is replaced by this one", found.pid);
    }
}

/// `confirm`: the change that waits is good.
pub(super) fn run(settings: &Settings, environment: &Environment) -> Result<Confirmed> {
    namespace::enter(settings, false)?;
    let _lock = namespace::lock_for(settings)?;
    let held = holder::keep().is_some();
    let machine = super::machine(settings, environment);
    let look = observe::look(&machine)?;
    preflight::readable(&look, settings.variant)?;
    let mut observed = look.observed;
    let marked: Vec<Variant> =
        Variant::ALL.into_iter().filter(|variant| is_marked(&observed.of(*variant))).collect();
    if marked.is_empty() && !held {
        let problem =
            "nothing waits to be confirmed: its time was over, or nothing was applied with --confirm-within";
        return Err(Error::refused(problem).remedy("see mesh-init status"));
    }
    let unmark = |variant: &Variant| Restore {
        variant: *variant,
        family: Family::V4,
        table: Table::Nat,
        text: format!("* nat\n-X {}\nCOMMIT\n", ownership::UNCONFIRMED),
        undo: format!("* nat\n-N {}\nCOMMIT\n", ownership::UNCONFIRMED),
    };
    let (native, iptables): (Vec<_>, Vec<_>) =
        marked.into_iter().partition(|variant| *variant == Variant::Native);
    let native = native.first().map(|variant| {
        let from = ownership::native_part(&observed.of(*variant));
        let mut to = from.clone();
        to.chains.retain(|chain| chain.name != ownership::UNCONFIRMED);
        Switch { from, to }
    });
    let steps: Vec<Restore> = iptables.iter().map(unmark).collect();
    let stages = match steps.is_empty() && native.is_none() {
        true => Vec::new(),
        false => vec![Stage { purpose: Purpose::Remove, steps, native }],
    };
    let plan = plan::Plan { stages, ..plan::Plan::default() };
    host::apply::apply(&plan, &machine, &mut observed, |now, _| {
        match Variant::ALL.into_iter().any(|variant| is_marked(&now.of(variant))) {
            true => Err(Error::refused("the mark of the change that waits is still there")),
            false => Ok(()),
        }
    })?;
    Ok(Confirmed { held })
}
