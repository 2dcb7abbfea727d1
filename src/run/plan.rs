//! `plan`: what would be done, and nothing of it.

use super::{Environment, apply};
use crate::backend::nftables::{self, Options, script::script};
use crate::backend::plan::{self, Switch};
use crate::error::Result;
use crate::host::{self, namespace};
use crate::policy::settings::Variant;
use crate::policy::validate::Request;
use crate::policy::{Families, Family, Ipv6, Mode};
use crate::report::{Planned, Transaction};
use crate::rules::compile::{compile_for, native};

/// From the flags alone: needs no privileges, no programs and no machine.
pub(super) fn pure(request: &Request) -> Planned {
    let families = match request.policy.ipv6 {
        Ipv6::Off => Families::V4,
        Ipv6::On | Ipv6::Auto => Families::Both,
    };
    let native = request.settings.variant == Some(Variant::Native);
    let variant = if native { Variant::Native } else { Variant::Nft };
    let wanted = compile_for(&request.policy, request.layout, families, variant);
    let transactions = match native {
        true => script(&wanted, Options::default()).into_iter(),
        false => plan::from_nothing(&wanted).into_iter(),
    };
    let what = |family| {
        if native {
            "nft -f"
        } else if family == crate::policy::Family::V6 {
            "ip6tables-restore --noflush"
        } else {
            "iptables-restore --noflush"
        }
    };
    Planned {
        policy: request.policy.clone(),
        layout: request.layout,
        transactions: transactions
            .map(|(family, text)| (Some(family), what(family).to_owned(), text))
            .collect(),
        routing: wanted.routing.iter().map(|what| format!("add {what}")).collect(),
        live: false,
    }
}

/// Our tables of nftables as they are to be; nothing is left of those that are not wanted.
fn switched(switch: &Switch, options: Options) -> Vec<Transaction> {
    let what = format!("table {} of {}", native::TABLE, Variant::Native);
    let wanted = script(&switch.to, options);
    let mut tables = Vec::new();
    for family in Family::both() {
        let of = nftables::word(family);
        // nft adds to a table that is there.
        let there = !switch.from.tables(family).is_empty();
        let table = native::TABLE;
        let gone = match there {
            // The first line is for one that has gone by then.
            true => format!("table {of} {table}\ndelete table {of} {table}\n"),
            false => String::new(),
        };
        let text: String =
            wanted.iter().filter(|(of, _)| *of == family).map(|(_, text)| text.as_str()).collect();
        let text = gone + &text;
        if !text.is_empty() {
            tables.push((Some(family), what.clone(), text));
        }
    }
    tables
}

/// The very transactions that `apply` would send now.
pub(super) fn live(request: &Request, environment: &Environment) -> Result<Planned> {
    namespace::enter(&request.settings, request.policy.mode != Mode::None)?;
    let ready = apply::prepare(request, super::machine(&request.settings, environment))?;
    let options = host::native::options()?;
    let mut steps = Vec::new();
    for stage in &ready.plan.stages {
        steps.extend(stage.native.iter().flat_map(|switch| switched(switch, options)));
        steps.extend(stage.steps.iter().map(|step| {
            (Some(step.family), format!("table {} of {}", step.table, step.variant), step.text.clone())
        }));
    }
    let routes = ready.plan.routes.iter().map(|present| format!("add {}", present.what));
    let unroutes = ready.plan.unroutes.iter().map(|present| format!("remove {}", present.what));
    Ok(Planned {
        policy: request.policy.clone(),
        layout: request.layout,
        transactions: steps,
        routing: routes.chain(unroutes).collect(),
        live: true,
    })
}
