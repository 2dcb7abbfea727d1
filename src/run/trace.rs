//! `watch --trace`: the way of packets, as the kernel tells it.

use std::time::{Duration, Instant};

use super::{Environment, explain, input};
use crate::backend::nftables::trace::event::events;
use crate::backend::nftables::trace::listing::Listing;
use crate::backend::nftables::trace::packet::{Assembler, Packet};
use crate::error::{Error, Result};
use crate::eval::Filter;
use crate::host::trace::Trace;
use crate::host::{Machine, namespace, observe, preflight};
use crate::input::fault::quote;
use crate::policy::settings::{Output, Settings, Variant};
use crate::report::{Answer, Failure, Report, Traced};
use crate::sys::nftrace::{Heard, interface_name};
use crate::sys::terminal;

/// How long nothing may come before it is looked whether a packet's way has ended.
const PATIENCE: Duration = Duration::from_millis(100);

pub(super) fn main(
    words: &str,
    count: Option<u32>,
    mut given: input::Given,
    environment: &Environment,
) -> Answer {
    let output = given.output();
    let filter = words.parse::<Filter>();
    if let Err(why) = &filter {
        given.faults.whole(format!("--trace {}: {why}", quote(words)), "see docs/explain.md");
    }
    let run = || -> std::result::Result<(), Failure> {
        let settings = given.settings()?;
        // What is wrong with it is among the faults.
        let Ok(filter) = &filter else { return Ok(()) };
        Ok(run(&settings, filter, count, environment)?)
    };
    match run() {
        Ok(()) => Answer::default(),
        Err(failure) => failure.answer(output),
    }
}

fn run(settings: &Settings, filter: &Filter, count: Option<u32>, environment: &Environment) -> Result<()> {
    namespace::enter(settings, false)?;
    let machine = super::machine(settings, environment);
    not_by_legacy(&observe::look(&machine)?, settings.variant)?;
    let mut trace = Trace::begin(filter)?;
    let followed = follow(&mut trace, settings, &machine, count);
    // Whatever happened, the marks go; what happened first is what to tell.
    let ended = trace.end();
    followed.and(ended)
}

/// iptables-legacy has tables of its own, of which nf_tables knows nothing.
fn not_by_legacy(look: &observe::Look, asked: Option<Variant>) -> Result<()> {
    let refused = |what: String| {
        Err(Error::host(format!("{what}, and the kernel tells of packets in nf_tables alone")).remedy(
            "ask mesh-init explain --live, or move the rules with --backend nftables or --iptables-variant nft",
        ))
    };
    if asked == Some(Variant::Legacy) {
        return refused(format!("{} is asked for", Variant::Legacy));
    }
    preflight::readable(look, Some(Variant::Nft))?;
    if let Some((_, family, why)) = look.unreadable.iter().find(|(variant, ..)| *variant == Variant::Legacy) {
        return refused(format!("there are {family} tables of {} ({why})", Variant::Legacy));
    }
    let rules = look.observed.of(Variant::Legacy);
    let says_something = rules
        .chains
        .iter()
        .find(|chain| !chain.rules.is_empty() || chain.base.is_some_and(|base| !base.accepts));
    match says_something {
        Some(chain) => {
            let (family, table, name) = (chain.family, &chain.table, &chain.name);
            refused(format!("{} has rules here ({family}: table {table}, chain {name})", Variant::Legacy))
        }
        None => Ok(()),
    }
}

/// The rules, and the generation that they were read at.
struct Rules {
    generation: u32,
    listing: Listing,
}

impl Rules {
    fn read(trace: &Trace, machine: &Machine) -> Result<Rules> {
        let look = observe::look(machine)?;
        let (iptables, _) = explain::annotated(&look.observed, Variant::Nft);
        let (generation, listing) = trace.listing(&iptables)?;
        Ok(Rules { generation, listing })
    }
}

/// Shows packets until there were `count`, somebody asks to end, or nobody reads any more.
fn follow(trace: &mut Trace, settings: &Settings, machine: &Machine, count: Option<u32>) -> Result<()> {
    let mut rules = Rules::read(trace, machine)?;
    let mut assembler = Assembler::default();
    let mut shown = 0_u32;
    loop {
        let mut ended = Vec::new();
        let mut asked = false;
        match trace.listener.hear(PATIENCE)? {
            Heard::Messages(datagram) => {
                let now = Instant::now();
                events(datagram).for_each(|event| ended.extend(assembler.take(event, now)));
            }
            Heard::Lost => assembler.lost(),
            Heard::Nothing => {}
            Heard::Asked => asked = true,
        }
        ended.extend(assembler.quiet((!asked).then(Instant::now)));
        for packet in &ended {
            let traced = tell(packet, trace, machine, &mut rules)?;
            let text = match settings.output {
                Output::Text => traced.text(),
                Output::Json => format!("{}\n", traced.json()),
            };
            shown = shown.saturating_add(1);
            if !terminal::show(&text, 0)? || count.is_some_and(|count| shown >= count) {
                return Ok(());
            }
        }
        if asked {
            return Ok(());
        }
    }
}

/// What to say of a packet; the rules are read again if they have changed since.
fn tell(packet: &Packet, trace: &Trace, machine: &Machine, rules: &mut Rules) -> Result<Traced> {
    let traced = Traced::of(packet, &rules.listing, interface_name);
    if !traced.is_outdated() || trace.generation()? == rules.generation {
        return Ok(traced);
    }
    *rules = Rules::read(trace, machine)?;
    Ok(Traced::of(packet, &rules.listing, interface_name))
}
