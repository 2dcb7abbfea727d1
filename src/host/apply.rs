//! Running a plan: each stage whole or not at all, read back, undone on failure.

use std::collections::BTreeMap;

use super::machine::{self, Machine};
use super::{native, observe, preflight, routing};
use crate::backend::observed::Present;
use crate::backend::plan::{self, Purpose, Restore, Switch};
use crate::backend::{Observed, Plan, Stage};
use crate::error::{Class, Error, Result};
use crate::policy::Family;
use crate::policy::settings::Variant;
use crate::sys::exec::{Ending, Outcome, Program};

/// A step that was committed, or may have been.
struct Done<'a> {
    step: Step<'a>,
    purpose: Purpose,
    /// Its program said so; else it was killed at an unknown point.
    sure: bool,
}

/// A step, of whichever kind.
enum Step<'a> {
    Restore(&'a Restore),
    Native(&'a Switch),
}

/// Runs `plan`. Each family of each variant that a stage touches is read back right after its last transaction,
/// into `observed`, and `holds` judges the stage; only then does the next one begin.
///
/// # Errors
/// A step is refused or what is read back does not hold. What was done is undone by then; if that fails too,
/// the error says so.
pub fn apply(
    plan: &Plan,
    machine: &Machine,
    observed: &mut Observed,
    holds: impl Fn(&Observed, Purpose) -> Result<()>,
) -> Result<()> {
    preflight::iptables(plan)?;
    let before = observed.clone();
    let mut done = Vec::new();
    let outcome = run(plan, machine, observed, &mut done, holds);
    outcome.map_err(|error| undo(plan, &done, machine, &before, error))
}

fn run<'a>(
    plan: &'a Plan,
    machine: &Machine,
    observed: &mut Observed,
    done: &mut Vec<Done<'a>>,
    holds: impl Fn(&Observed, Purpose) -> Result<()>,
) -> Result<()> {
    if !plan.routes.is_empty() {
        routing::make(&plan.routes)?;
        observed.routing = routing::read()?;
    }
    let mut stages = plan.stages.iter().peekable();
    while let Some(stage) = stages.next() {
        run_stage(stage, machine, observed, done)?;
        // After the last one the judgement below asks for this and more.
        let goes_on = stages.peek().is_some() || !plan.unroutes.is_empty();
        if stage.purpose == Purpose::Make && goes_on {
            holds(observed, Purpose::Make)?;
        }
    }
    if !plan.unroutes.is_empty() {
        routing::remove(&plan.unroutes)?;
        observed.routing = routing::read()?;
    }
    holds(observed, Purpose::Remove)
}

/// Runs a stage: what it touches is changed and read at the same time for each variant and family. Steps that
/// may have been committed are added to `done`.
fn run_stage<'a>(
    stage: &'a Stage,
    machine: &Machine,
    observed: &mut Observed,
    done: &mut Vec<Done<'a>>,
) -> Result<()> {
    if let Some(switch) = &stage.native {
        // It takes itself back whole or in part by what it finds, so it is no matter how far it came.
        done.push(Done { step: Step::Native(switch), purpose: stage.purpose, sure: true });
        native::change(&switch.to, machine)?;
        native::read_into(observed)?;
    }
    let mut steps_of: BTreeMap<(Variant, Family), Vec<&Restore>> = BTreeMap::new();
    for step in &stage.steps {
        steps_of.entry((step.variant, step.family)).or_default().push(step);
    }
    let mut chains = Vec::new();
    for (source, steps) in &steps_of {
        let mut chain = Vec::new();
        for step in steps {
            chain.push(writer(machine, step, &step.text)?);
        }
        chain.push(observe::reader(machine, *source)?);
        chains.push(chain);
    }
    let outcomes = machine.run(&chains);
    let mut failure = Ok(());
    for ((source, steps), outcomes) in steps_of.iter().zip(&outcomes) {
        for (step, outcome) in steps.iter().zip(outcomes) {
            match outcome.ending {
                Ending::Exited(0) => {
                    done.push(Done { step: Step::Restore(step), purpose: stage.purpose, sure: true });
                }
                Ending::Exited(_) | Ending::NotStarted => {}
                Ending::Killed(_) | Ending::TimedOut(_) | Ending::TooMuch | Ending::Lost => {
                    done.push(Done { step: Step::Restore(step), purpose: stage.purpose, sure: false });
                }
            }
            if !outcome.succeeded() {
                failure = failure.and(Err(refusal(step, outcome, machine)));
            }
        }
        if let Some(read) = outcomes.get(steps.len()) {
            failure = failure.and(observe::absorb(*source, read, observed));
        }
    }
    failure
}

fn writer(machine: &Machine, step: &Restore, text: &str) -> Result<Program> {
    let tool = machine.tools.get(&(step.variant, step.family)).ok_or_else(|| {
        Error::host(format!("{step} cannot be changed: its iptables-restore is not installed"))
            .remedy("install the iptables package that has it")
    })?;
    Ok(machine.writer(&tool.restore, step.variant, text))
}

/// Takes back what was done, last first, and looks whether it is gone.
///
/// If a removal cannot be taken back, what was made before it stays: it may be all that captures now. A step whose
/// program was killed is undone on suspicion, and an undo of what was not done is refused whole; for what was made,
/// only the look then tells.
fn undo(plan: &Plan, done: &[Done<'_>], machine: &Machine, before: &Observed, error: Error) -> Error {
    let machine = &machine.to_undo();
    let mut now = before.clone();
    // Rules that come back need their routing; what cannot be made again is seen in the look below.
    routing::make(&plan.unroutes).ok();
    let mut sources = Vec::new();
    for Done { step, purpose, sure } in done.iter().rev() {
        let undone = match step {
            Step::Restore(step) if step.undo.is_empty() => continue,
            Step::Restore(step) => {
                let outcomes = writer(machine, step, &step.undo).map(|program| machine.run(&[vec![program]]));
                let undone = outcomes.is_ok_and(|outcomes| outcomes.iter().flatten().all(Outcome::succeeded));
                tracing::debug!(%step, undone, "undo");
                sources.push((step.variant, step.family));
                undone
            }
            Step::Native(switch) => {
                let outcome = native::change(&switch.from, machine);
                tracing::debug!(%switch, undone = outcome.is_ok(), "undo");
                outcome.is_ok()
            }
        };
        if !undone && (*sure || *purpose == Purpose::Remove) {
            break;
        }
    }
    let made = |present: &Present| {
        let had = before.routing.iter().any(|had| had.what == present.what);
        present.ours && !had && plan.routes.iter().any(|made| made.what == present.what)
    };
    // The last one made is the first to go.
    let mut surplus: Vec<Present> = routing::read().unwrap_or_default().into_iter().filter(made).collect();
    surplus.reverse();
    routing::remove(&surplus).ok();
    let read = observe::read(machine, &sources, &mut now).and_then(|()| {
        now.routing = routing::read()?;
        if plan.stages.iter().any(|stage| stage.native.is_some()) {
            native::read_into(&mut now)?;
        }
        Ok(())
    });
    let left = match read {
        Ok(()) if plan::same_ours(before, &now) => return error,
        Ok(()) => "and what had been changed could not be taken back whole".to_owned(),
        Err(unread) => format!(
            "and whether what had been changed was taken back could not be checked: {}",
            unread.problem
        ),
    };
    let problem = format!("{}; {left}", error.problem);
    Error { problem, ..error }.remedy("see mesh-init status, and run the command again or mesh-init clean")
}

/// What a tool's refusal means. The words are those of iptables 1.6 to 1.8, both variants.
fn refusal(step: &Restore, outcome: &Outcome, machine: &Machine) -> Error {
    let said = &outcome.stderr;
    let problem = format!("{step} was not changed: {}", machine::ending(outcome));
    let says = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if says(&["xtables lock", "Another app is currently holding"]) {
        let error = Error::new(Class::TryAgain, problem);
        return error.remedy(format!(
            "another program held the lock of iptables for {} s; try again{}",
            machine.wait_seconds(),
            if machine.is_limited() { "" } else { " or wait longer with --wait" }
        ));
    }
    if says(&["you must be root", "Permission denied"]) {
        return Error::new(Class::Privilege, problem).remedy("run as root with NET_ADMIN and NET_RAW");
    }
    if says(&["Table does not exist", "can't initialize", "table does not exist", "insmod"]) {
        let module = match (step.variant, step.family) {
            (Variant::Legacy, Family::V4) => format!("iptable_{}", step.table),
            (Variant::Legacy, Family::V6) => format!("ip6table_{}", step.table),
            (Variant::Nft | Variant::Native, _) => "nf_tables and nft_chain_nat".to_owned(),
        };
        let off =
            if step.family == Family::V6 { ", or give --ipv6 off to leave IPv6 uncaptured" } else { "" };
        return Error::host(problem)
            .remedy(format!("the kernel has no such table: load {module} on the host{off}"));
    }
    if says(&[
        "missing kernel module",
        "No chain/target/match by that name",
        "Couldn't load match",
        "Couldn't load target",
    ]) {
        return Error::host(problem).remedy(
            "the kernel lacks a match or target: load xt_owner, xt_REDIRECT, xt_comment, xt_addrtype and xt_tcpudp on the host",
        );
    }
    if says(&["is incompatible, use 'nft' tool", "use 'nft' tool"]) {
        return Error::host(problem).remedy("nft made that table in a form that iptables cannot write: choose the other one with --iptables-variant legacy");
    }
    Error::refused(problem)
}
