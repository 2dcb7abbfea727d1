//! `plan`: what would be done, and nothing of it.

use super::{Environment, apply};
use crate::backend::plan;
use crate::error::Result;
use crate::host::namespace;
use crate::policy::validate::Request;
use crate::policy::{Families, Ipv6, Mode};
use crate::report::Planned;
use crate::rules::compile::compile;

/// From the flags alone: needs no privileges, no programs and no machine.
pub(super) fn pure(request: &Request) -> Planned {
    let families = match request.policy.ipv6 {
        Ipv6::Off => Families::V4,
        Ipv6::On | Ipv6::Auto => Families::Both,
    };
    let wanted = compile(&request.policy, request.layout, families);
    let transactions = plan::from_nothing(&wanted).into_iter();
    let what = |family| {
        if family == crate::policy::Family::V6 {
            "ip6tables-restore --noflush"
        } else {
            "iptables-restore --noflush"
        }
    };
    Planned {
        policy: request.policy.clone(),
        layout: request.layout,
        transactions: transactions.map(|(family, text)| (family, what(family).to_owned(), text)).collect(),
        routing: wanted.routing.iter().map(|what| format!("add {what}")).collect(),
        live: false,
    }
}

/// The very transactions that `apply` would send now.
pub(super) fn live(request: &Request, environment: &Environment) -> Result<Planned> {
    namespace::enter(&request.settings, request.policy.mode != Mode::None)?;
    let ready = apply::prepare(request, environment)?;
    let steps = ready.plan.steps();
    let steps = steps
        .map(|step| (step.family, format!("table {} of {}", step.table, step.variant), step.text.clone()));
    let routes = ready.plan.routes.iter().map(|present| format!("add {}", present.what));
    let unroutes = ready.plan.unroutes.iter().map(|present| format!("remove {}", present.what));
    Ok(Planned {
        policy: request.policy.clone(),
        layout: request.layout,
        transactions: steps.collect(),
        routing: routes.chain(unroutes).collect(),
        live: true,
    })
}
