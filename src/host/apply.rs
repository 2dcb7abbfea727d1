//! Running a plan: each stage whole or not at all, read back, undone on failure.

use super::machine::{self, Machine};
use crate::backend::plan::{Purpose, Restore};
use crate::backend::{Observed, Plan, Stage};
use crate::error::{Class, Error, Result};
use crate::policy::Family;
use crate::policy::settings::Variant;
use crate::sys::exec::{Ending, Outcome};

/// Runs `plan`. After the stage that makes rules and at the end, what was touched is read into `observed`,
/// and `holds` judges it; only then is anything removed.
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
    let mut done: Vec<&Restore> = Vec::new();
    for stage in &plan.stages {
        let outcome = run_stage(stage, machine, &mut done).and_then(|()| {
            super::observe::again(machine, &touched(stage), observed)?;
            holds(observed, stage.purpose)
        });
        if let Err(error) = outcome {
            return Err(undo(&done, machine, error));
        }
    }
    Ok(())
}

fn touched(stage: &Stage) -> Vec<(Variant, Family)> {
    let mut sources: Vec<(Variant, Family)> =
        stage.steps.iter().map(|step| (step.variant, step.family)).collect();
    sources.sort_unstable();
    sources.dedup();
    sources
}

/// Runs the steps of a stage at the same time; those that may have been committed are added to `done`.
fn run_stage<'a>(stage: &'a Stage, machine: &Machine, done: &mut Vec<&'a Restore>) -> Result<()> {
    let outcomes = restore(machine, stage.steps.iter().map(|step| (step, &step.text)))?;
    let mut failure = Ok(());
    for (step, outcome) in stage.steps.iter().zip(outcomes) {
        match outcome.ending {
            Ending::Exited(0) => done.push(step),
            Ending::Exited(_) => failure = failure.and(Err(refusal(step, &outcome, machine))),
            // It may have been killed right after its commit; undoing what was not done fails whole.
            Ending::Killed(_) | Ending::TimedOut(_) | Ending::TooMuch => {
                done.push(step);
                failure = failure.and(Err(refusal(step, &outcome, machine)));
            }
        }
    }
    failure
}

fn restore<'a>(
    machine: &Machine,
    texts: impl Iterator<Item = (&'a Restore, &'a String)>,
) -> Result<Vec<Outcome>> {
    let wait = machine.wait_seconds();
    let mut programs = Vec::new();
    for (step, text) in texts {
        let Some(tool) = machine.tools.get(&(step.variant, step.family)) else {
            return Err(Error::host(format!(
                "{step} cannot be changed: its iptables-restore is not installed"
            ))
            .remedy("install the iptables package that has it"));
        };
        programs.push(machine.program(&tool.restore, &["--noflush", "--wait", &wait], text.clone()));
    }
    machine.run(programs)
}

fn undo(done: &[&Restore], machine: &Machine, error: Error) -> Error {
    let mut left = Vec::new();
    for step in done.iter().rev().filter(|step| !step.undo.is_empty()) {
        match restore(machine, std::iter::once((*step, &step.undo))) {
            Ok(outcomes) if outcomes.iter().all(Outcome::succeeded) => {}
            Ok(_) | Err(_) => left.push(step.to_string()),
        }
    }
    if left.is_empty() {
        return error;
    }
    // A step whose program was killed is undone on suspicion; look before claiming that something is left.
    let remedy = "run the command again, or mesh-init clean";
    Error { problem: format!("{}; taking back {} was refused", error.problem, left.join(" and ")), ..error }
        .remedy(remedy)
}

/// What a tool's refusal means. The words are those of iptables 1.6 to 1.8, both variants.
fn refusal(step: &Restore, outcome: &Outcome, machine: &Machine) -> Error {
    let said = &outcome.stderr;
    let problem = format!("{step} was not changed: {}", machine::ending(outcome));
    let says = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if says(&["xtables lock", "Another app is currently holding"]) {
        let error = Error::new(Class::TryAgain, problem);
        return error.remedy(format!(
            "another program held the lock of iptables for {} s; try again or wait longer with --wait",
            machine.wait_seconds()
        ));
    }
    if says(&["you must be root", "Permission denied"]) {
        return Error::new(Class::Privilege, problem).remedy("run as root with NET_ADMIN and NET_RAW");
    }
    if says(&["Table does not exist", "can't initialize", "table does not exist", "insmod"]) {
        let module = match (step.variant, step.family) {
            (Variant::Legacy, Family::V4) => format!("iptable_{}", step.table),
            (Variant::Legacy, Family::V6) => format!("ip6table_{}", step.table),
            (Variant::Nft, _) => "nf_tables and nft_chain_nat".to_owned(),
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
