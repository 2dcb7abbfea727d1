//! Netfilter's own rules of the way, one by one, on tables as `iptables-save` prints them.

mod address;
mod chains;
mod hooks;
mod unknown;

use mesh_init::backend::iptables::parse::parse;
use mesh_init::eval::decision::{Reason, Step, Way};
use mesh_init::eval::{Capture, Conn, Decision, Outcome, evaluate};
use mesh_init::policy::{Family, Mark, Port};
use mesh_init::rules::{Hook, Routing, RuleSet};

/// The tables of one family as `iptables-save` prints them; chains that are not declared are.
#[track_caller]
fn of(family: Family, tables: &[(&str, &[&str])]) -> RuleSet {
    let mut set = RuleSet::default();
    for (table, lines) in tables {
        let mut text = format!("*{table}\n");
        let declared: Vec<&str> =
            lines.iter().filter_map(|line| line.strip_prefix(':')?.split(' ').next()).collect();
        let mut chains: Vec<&str> =
            lines.iter().filter_map(|line| line.strip_prefix("-A ")?.split(' ').next()).collect();
        chains.sort_unstable();
        chains.dedup();
        for chain in chains.iter().filter(|chain| !declared.contains(chain)) {
            let policy = if Hook::of_builtin(chain).is_some() { "ACCEPT" } else { "-" };
            text.push_str(&format!(":{chain} {policy} [0:0]\n"));
        }
        lines.iter().for_each(|line| text.push_str(&format!("{line}\n")));
        set.chains.extend(parse(family, &(text + "COMMIT\n")).expect("a table").chains);
    }
    set
}

#[track_caller]
fn v4(tables: &[(&str, &[&str])]) -> RuleSet {
    of(Family::V4, tables)
}

/// With what TPROXY needs of routing.
fn routed(set: RuleSet) -> RuleSet {
    let family = Family::V4;
    let routing =
        vec![Routing::Rule { family, mark: Mark(1337), table: 133 }, Routing::Route { family, table: 133 }];
    RuleSet { routing, ..set }
}

#[track_caller]
fn conn(text: &str) -> Conn {
    text.parse().unwrap_or_else(|why| panic!("{text}: {why}"))
}

#[track_caller]
fn outcome(sets: &[&RuleSet], text: &str) -> Outcome {
    evaluate(sets, &conn(text)).outcome
}

fn captured(port: u16, by: Capture) -> Outcome {
    Outcome::Captured { port: Port::of(port).expect("a port"), by }
}

fn redirected(port: u16) -> Outcome {
    captured(port, Capture::Redirect)
}

fn tproxied(port: u16) -> Outcome {
    captured(port, Capture::Tproxy)
}

fn sent_to(address: &str) -> Outcome {
    Outcome::Translated(address.parse().expect("an address"))
}

/// Which base chains were not called, and why.
fn not_called(decision: &Decision<'_>) -> Vec<(String, Reason)> {
    let step = |step: &Step<'_>| match step {
        Step::NotCalled(chain, reason) => Some((chain.name.clone(), *reason)),
        Step::Enter(_) | Step::Try { .. } | Step::Policy(_) | Step::Way(_) => None,
    };
    decision.trail.iter().filter_map(step).collect()
}

fn ways(decision: &Decision<'_>) -> Vec<Way> {
    let step = |step: &Step<'_>| match step {
        Step::Way(way) => Some(way.clone()),
        Step::Enter(_) | Step::NotCalled(..) | Step::Try { .. } | Step::Policy(_) => None,
    };
    decision.trail.iter().filter_map(step).collect()
}

/// The base chains that were called, in order, with their tables.
fn called(decision: &Decision<'_>) -> Vec<String> {
    let step = |step: &Step<'_>| match step {
        Step::Enter(chain) => Some(format!("{} {}", chain.table, chain.name)),
        Step::NotCalled(..) | Step::Try { .. } | Step::Policy(_) | Step::Way(_) => None,
    };
    decision.trail.iter().filter_map(step).collect()
}
