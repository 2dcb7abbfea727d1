//! `apply`: make the rules hold.

use super::{Environment, confirm, ebpf};
use crate::backend::choose::{self, Choice};
use crate::backend::claim::Claim;
use crate::backend::plan::{self, Plan, Purpose};
use crate::backend::{Observed, ownership};
use crate::error::{Error, Result};
use crate::eval::sockets;
use crate::host::{self, Machine, namespace, observe, preflight};
use crate::policy::validate::Request;
use crate::policy::{Families, Layout, Mode};
use crate::report::{Applied, By};
use crate::rules::RuleSet;
use crate::rules::compile::compile_for;
use crate::sys::lock::Lock;

/// Everything that is known before the first change.
pub(super) struct Ready {
    pub(super) machine: Machine,
    pub(super) observed: Observed,
    pub(super) choice: Choice,
    pub(super) families: Families,
    pub(super) wanted: RuleSet,
    pub(super) plan: Plan,
}

pub(super) fn run(request: &Request, environment: &Environment) -> Result<Applied> {
    let settings = &request.settings;
    if settings.confirm_within.is_some() {
        confirm::possible(environment)?;
    }
    namespace::enter(settings, request.policy.mode != Mode::None)?;
    in_place(request, super::machine(settings, environment))
}

/// Applies `request` again, in the namespace where this process is already; what was changed.
pub(super) fn again(request: &Request, environment: &Environment) -> Result<Vec<String>> {
    in_place(request, super::machine(&request.settings, environment)).map(|applied| applied.changed)
}

fn in_place(request: &Request, machine: Machine) -> Result<Applied> {
    let lock = namespace::lock_for(&request.settings)?;
    commit(request, prepare(request, machine)?, lock)
}

/// Does what was planned, under the lock that was taken before it was.
pub(super) fn commit(request: &Request, ready: Ready, lock: Lock) -> Result<Applied> {
    let settings = &request.settings;
    let mut lock = Some(lock);
    let Ready { machine, mut observed, choice, families, wanted, plan } = ready;
    let open = match plan.is_empty() {
        true => 0,
        false => sockets::older(&observe::sockets()?, &request.policy).total(),
    };
    let holder = match settings.confirm_within {
        Some(within) => Some(confirm::hold(within, settings, &observed, &machine, &mut lock)?),
        None => None,
    };
    let applied = host::apply::apply(&plan, &machine, &mut observed, |observed, purpose| {
        holds(&wanted, &choice, observed, purpose)
    });
    match (applied, holder) {
        (Ok(()), Some(holder)) => holder.done(),
        (Ok(()), None) => confirm::overtake(),
        (Err(error), holder) => {
            if let Some(holder) = holder {
                holder.cancel();
            }
            return Err(error);
        }
    }
    let mut changed = plan.changes();
    // The rules hold; what captures the same at the sockets goes.
    changed.extend(ebpf::away(machine.left(settings.wait))?);
    Ok(Applied {
        policy: request.policy.clone(),
        layout: request.layout,
        families,
        changed,
        open,
        confirm_within: settings.confirm_within.map(|within| within.as_secs()),
        notes: ownership::ahead(&observed.of(choice.variant)).into_iter().map(|ahead| ahead.text).collect(),
        by: By::Rules(choice),
    })
}

/// Looks, checks and plans. Changes nothing.
pub(super) fn prepare(request: &Request, machine: Machine) -> Result<Ready> {
    let Request { policy, layout, settings, .. } = request;
    if policy.mode != Mode::None {
        preflight::not_the_host(*layout, settings, namespace::is_hosts_own())?;
    }
    let look = observe::look(&machine)?;
    preflight::readable(&look, settings.variant)?;
    let mut observed = look.observed;
    preflight::no_ambient(&observed)?;
    preflight::no_other_mesh(&observed)?;
    if *layout == Layout::Scoped {
        preflight::proxy_is_no_owner(policy, &observe::sockets()?)?;
    }
    let choice = choose::variant(settings, &observed, &machine.tools)?;
    let families = choose::families(policy.ipv6, &observed, choice.variant, &machine.tools)?;
    let mut wanted = compile_for(policy, *layout, families, choice.variant);
    if settings.confirm_within.is_some() {
        confirm::mark(&mut wanted, choice.variant);
    }
    observed.claim = Claim { named: wanted.clone(), all: settings.all };
    let plan = plan::plan(&wanted, choice.variant, &observed);
    preflight::iptables(&plan)?;
    Ok(Ready { machine, observed, choice, families, wanted, plan })
}

/// Judges what was read back. Rules that are still to be removed do not count before they are.
pub(super) fn holds(wanted: &RuleSet, choice: &Choice, observed: &Observed, purpose: Purpose) -> Result<()> {
    let wrong = plan::differences(wanted, choice.variant, observed).into_iter();
    let wrong = wrong.filter(|(of, _)| *of == Purpose::Make || purpose == Purpose::Remove);
    let wrong: Vec<String> = wrong.map(|(_, what)| what).collect();
    if wrong.is_empty() {
        return Ok(());
    }
    Err(Error::refused(format!("{} reads back differently from what was written", wrong.join(" and ")))
        .remedy("another program may be changing the same rules; see mesh-init plan --live"))
}
