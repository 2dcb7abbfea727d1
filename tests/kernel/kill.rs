//! Killed at any instant: every table is old or new, nothing that both policies capture gets through, and the
//! next run completes the change.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use crate::harness::{Case, Check};
use crate::replace::{CLASSIC, OTHER_CLASSIC, SCOPED, State, apply, hosts, routes, words};
use crate::support::clients::Clients;
use crate::support::command::{MESH_INIT, mesh_init};
use crate::support::netns::Netns;
use crate::support::rules::{Family, Variant, difference, native_in_order, save};
use crate::support::victim::{Death, Victim};
use crate::telling::{self, Telling, Whole};

/// All kills of a run; the shares below add up to it.
const KILLS: Whole = Whole { number: 200, variable: "MESH_INIT_TEST_KILLS" };

const LIST: [Telling; 5] = [
    telling("kill::policies::legacy", || {
        between(40, [(Variant::Legacy, CLASSIC), (Variant::Legacy, OTHER_CLASSIC)])
    }),
    telling("kill::policies::nft", || between(40, [(Variant::Nft, CLASSIC), (Variant::Nft, OTHER_CLASSIC)])),
    telling("kill::layouts::legacy", || {
        between(40, [(Variant::Legacy, OTHER_CLASSIC), (Variant::Legacy, SCOPED)])
    }),
    telling("kill::layouts::nft", || between(40, [(Variant::Nft, OTHER_CLASSIC), (Variant::Nft, SCOPED)])),
    telling("kill::variants", || between(40, [(Variant::Legacy, CLASSIC), (Variant::Nft, OTHER_CLASSIC)])),
];

const fn telling(name: &'static str, body: fn() -> String) -> Telling {
    Telling { name, body, within: Duration::from_secs(120) }
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = telling::cases(&LIST);
    let gap = Case::each_variant("kill::a_gap_is_seen", a_gap_is_seen);
    cases.extend(gap.map(|case| case.within(Duration::from_secs(100))));
    cases
}

pub(crate) fn checks() -> Vec<Check> {
    telling::checks(&LIST)
}

/// Kills replacements of one state by the other, to and fro: `share` of all.
fn between(share: usize, states: [State; 2]) -> String {
    kills(KILLS.part(share), states)
}

/// As many kills as `number` says.
pub(crate) fn kills(number: usize, states: [State; 2]) -> String {
    let spree = spree(MESH_INIT, number, states);
    let faults = &spree.faults;
    let first = faults.iter().take(3).cloned().collect::<Vec<_>>().join("\n");
    assert!(faults.is_empty(), "{} faults after {}\n{first}", faults.len(), spree.report());
    let in_time = number - spree.too_late;
    assert!(in_time * 3 >= number, "expected a third of the kills in time, seen {}", spree.report());
    spree.report()
}

/// The rules of one variant and family before and after a replacement.
struct Part {
    variant: Variant,
    family: Family,
    states: [String; 2],
}

/// What came of many kills.
#[derive(Default)]
struct Spree {
    medians: Vec<Duration>,
    before_first: usize,
    between: usize,
    after_last: usize,
    too_late: usize,
    /// Kills that also hit a running child.
    children: usize,
    /// Kills that left sets that no rule looks into.
    unused: usize,
    connections: usize,
    faults: Vec<String>,
}

impl Spree {
    fn report(&self) -> String {
        let Self { before_first, between, after_last, too_late, children, unused, connections, .. } = self;
        let killed = before_first + between + after_last + too_late;
        let medians: Vec<_> =
            self.medians.iter().map(|median| format!("{} ms", median.as_millis())).collect();
        format!(
            "{killed} kills over {}: {before_first} before the first commit, {between} between commits, \
             {after_last} after the last, {too_late} after the end; {children} with a running child, \
             {unused} left sets of no use; \
             {connections} connections meanwhile",
            medians.join(" and ")
        )
    }
}

/// Starts `program`, kills it, looks, and lets mesh-init complete: `number` times, with moments spread evenly over the
/// time that the same replacement takes if nobody kills it.
fn spree(program: &str, number: usize, states: [State; 2]) -> Spree {
    let (here, there) = hosts();
    Victim::adopt_orphans();
    apply(&here, states[0]);
    let first = look(&here);
    apply(&here, states[1]);
    let second = look(&here);
    apply(&here, states[0]);
    let parts: Vec<_> = first
        .into_iter()
        .zip(second)
        .map(|((variant, family, first), (_, _, second))| Part { variant, family, states: [first, second] })
        .collect();
    let mut clients = Clients::start(routes(&here, &there, &Family::BOTH), "proxy");
    let mut spree = Spree { medians: medians(&here, program, states), ..Spree::default() };
    let (before, mut astray) = (clients.captured(), 0);
    for kill in 0..number {
        // To and fro; the child too in every other pair.
        let (to, with_children) = ((kill + 1) % 2, kill / 2 % 2 == 0);
        let at = spree.medians[to].mul_f64((kill as f64 + 0.5) / number as f64);
        let death = Victim::start(&here, program, &words(states[to])).kill(at, with_children);
        spree.children += usize::from(with_children && !death.children.is_empty());
        spree.unused += usize::from(has_unused_sets(&here));
        let mut faults = spree.count(&parts, to, &death, &look(&here));
        if clients.astray() > astray {
            astray = clients.astray();
            faults.push(format!("let through: {}", clients.report()));
        }
        faults.extend(completed(&here, &parts, to, states[to]).err());
        if !faults.is_empty() {
            let what =
                format!("killed {at:?} after the start of {} ({death:?})", words(states[to]).join(" "));
            spree.faults.push(format!("{what}: {}", faults.join("; ")));
        }
    }
    clients.stop();
    spree.connections = clients.captured() - before;
    if clients.astray() > astray {
        spree.faults.push(format!("in the end: {}", clients.report()));
    }
    spree
}

/// The median time of a replacement to each state.
fn medians(here: &Netns, program: &str, states: [State; 2]) -> Vec<Duration> {
    let mut times = [Vec::new(), Vec::new()];
    for run in 0..14 {
        let to = (run + 1) % 2;
        times[to].push(Victim::start(here, program, &words(states[to])).succeed());
    }
    let median = |mut times: Vec<Duration>| {
        times.sort_unstable();
        times[times.len() / 2]
    };
    times.map(median).into()
}

impl Spree {
    /// Counts a kill by what was committed; returns what should not be.
    fn count(
        &mut self,
        parts: &[Part],
        to: usize,
        death: &Death,
        seen: &[(Variant, Family, String)],
    ) -> Vec<String> {
        let mut faults = Vec::new();
        let (mut commits, mut committed) = (0, 0);
        for (part, (_, _, seen)) in parts.iter().zip(seen) {
            let (old, new) = (&part.states[1 - to], &part.states[to]);
            commits += usize::from(old != new);
            committed += usize::from(old != new && seen == new);
            if seen != old && seen != new {
                let (against_old, against_new) = (difference(old, seen), difference(new, seen));
                faults.push(format!(
                    "{} is neither old nor new; against old:\n{against_old}\nagainst new:\n{against_new}",
                    rules_of(part.variant, part.family)
                ));
            }
        }
        for family in Family::BOTH {
            if !seen.iter().any(|(_, of, rules)| *of == family && !rules.is_empty()) {
                faults.push(format!("no rules at all for {family:?}"));
            }
        }
        let ended = death.status.code().is_some();
        match (ended, committed) {
            (true, _) => self.too_late += 1,
            (false, 0) => self.before_first += 1,
            (false, all) if all == commits => self.after_last += 1,
            (false, _) => self.between += 1,
        }
        faults
    }
}

/// Another run succeeds, its rules are exactly the new ones, and there is nothing left to do.
fn completed(here: &Netns, parts: &[Part], to: usize, state: State) -> Result<(), String> {
    let run = mesh_init(here, &words(state));
    if run.code != Some(0) {
        return Err(format!("the next run: {run}"));
    }
    for (part, (variant, family, seen)) in parts.iter().zip(look(here)) {
        if seen != part.states[to] {
            let difference = difference(&part.states[to], &seen);
            return Err(format!("{} after the next run:\n{difference}", rules_of(variant, family)));
        }
    }
    if has_unused_sets(here) {
        return Err("sets of no use are left after the next run".to_owned());
    }
    let plan: Vec<_> = ["plan", "--live"].into_iter().chain(words(state)).collect();
    let plan = mesh_init(here, &plan);
    let is_done = plan.code == Some(0) && plan.stdout.trim() == "# nothing to do";
    if is_done { Ok(()) } else { Err(format!("expected nothing to do after the next run, seen {plan}")) }
}

fn rules_of(variant: Variant, family: Family) -> String {
    format!("{family:?} of {}", variant.full_name())
}

/// The tables of all carriers and families that hold something, without counters.
fn look(netns: &Netns) -> Vec<(Variant, Family, String)> {
    let all = Variant::ALL.into_iter().flat_map(|variant| Family::BOTH.map(|family| (variant, family)));
    let rules = |variant: Variant, family: Family| match variant {
        Variant::Legacy | Variant::Nft => plain(&save(netns, variant, family, &[])),
        Variant::Native => without_unused_sets(&native_in_order(netns, family)),
    };
    all.map(|(variant, family)| (variant, family, rules(variant, family))).collect()
}

/// Sets come before the rules that look into them, and go after them: a run that is killed may leave some of no use.
fn without_unused_sets(listed: &str) -> String {
    if listed.is_empty() {
        return String::new();
    }
    let used = |block: &&str| {
        let name = block.trim_start().strip_prefix("set ").or(block.trim_start().strip_prefix("map "));
        let name = name.and_then(|rest| rest.split(' ').next());
        name.is_none_or(|name| listed.contains(&format!("@{name}")))
    };
    listed.split("\n\n").filter(used).map(|block| format!("{block}\n\n")).collect()
}

fn has_unused_sets(netns: &Netns) -> bool {
    let listed = Family::BOTH.map(|family| native_in_order(netns, family));
    listed.iter().any(|listed| without_unused_sets(listed).trim_end() != listed.trim_end())
}

fn plain(saved: &str) -> String {
    let is_held = |table: &&str| table.lines().any(|line| line.starts_with("-A ") || line.contains(" - ["));
    let lines = saved.split_inclusive("COMMIT\n").filter(is_held).flat_map(str::lines);
    let lines = lines.filter(|line| !line.starts_with('#'));
    lines.map(|line| format!("{}\n", line.split(" [").next().unwrap_or_default())).collect()
}

/// A program that flushes before it starts mesh-init is found out.
fn a_gap_is_seen(variant: Variant) {
    const PROGRAM: &str = "/run/flush-first";
    let flush = |family| {
        let restore = variant.program(family, "restore");
        format!("{restore} --noflush <<end\n*nat\n-F ISTIO_OUTPUT\nCOMMIT\nend\n")
    };
    let script = format!("#!/bin/sh\n{}exec {MESH_INIT} \"$@\"\n", Family::BOTH.map(flush).concat());
    fs::write(PROGRAM, script).expect("a script");
    fs::set_permissions(PROGRAM, fs::Permissions::from_mode(0o755)).expect("a script");
    let faults = spree(PROGRAM, 40, [(variant, CLASSIC), (variant, OTHER_CLASSIC)]).faults.join("\n");
    for words in ["neither old nor new", "let through", "10.0.0.2:80: there "] {
        assert!(faults.contains(words), "expected `{words}`, seen {faults}");
    }
}
