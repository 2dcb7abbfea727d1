//! The same of capture at the sockets: what becomes of a connection is what the rules of the policy would make of it,
//! but for what a [`Difference`] says.
//!
//! A difference that is said is looked for: where there is one, what rules do must not be what is seen. Which clause
//! decided is counted by the programs, and the counters must be what was evaluated.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use mesh_init::backend::ebpf::lower::{Place, lower};
use mesh_init::backend::ebpf::{rule_id, text, trie};
use mesh_init::eval::{Conn, Outcome, evaluate};
use mesh_init::host::ebpf::{Found, Node};
use mesh_init::policy::validate::Request;
use mesh_init::policy::{Dns, Families, Ipv6, RuleId};
use mesh_init::rules::RuleSet;
use mesh_init::sys::netns;
use mesh_init_abi::Namespace;
use serde_json::{Value, json};

use super::attempt::{Attempt, Manner, Origin, Sends};
use super::compare::{Answer, At, Expected, OF_A_KIND, PATIENCE, attempts, expect, kind, word};
use super::drawn::Dice;
use super::policies::Policy;
use super::world::{World, conn, redirected_to, server};
use crate::support::command::mesh_init;
use crate::support::pins as bpf;
use crate::support::rules::{Family, Variant, assert_same, dump};
use crate::support::wire::{HERE, HERE_FAR, HERE_INNER, LOOPBACK};

/// What capture at the sockets does otherwise than rules do. Each has a line of its own in `docs/ebpf.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Difference {
    /// What arrives is given to the proxy as it is: the proxy's socket has the address and the port that the client
    /// called.
    TrueAddress,
    /// What passes through this host has no socket here, and is not captured.
    PassesThrough,
    /// A host with several addresses is seen by one of them, for nobody asks which way the connection would have gone.
    OneAddress,
    /// TCP connections of IPv6 come from `::1`: from another address the kernel sends no resets to it.
    Loopback,
    /// A socket that is bound to a port, and to no address, cannot be given one: it is seen as the loopback one.
    BoundToPort,
}

impl Difference {
    pub(super) const ALL: [Self; 5] =
        [Self::TrueAddress, Self::PassesThrough, Self::OneAddress, Self::Loopback, Self::BoundToPort];
}

/// What became of the connections of a policy, or of several.
#[derive(Default)]
pub(super) struct Tally {
    made: usize,
    evaluated: usize,
    refused: usize,
    outcomes: BTreeMap<&'static str, usize>,
    pub(super) differences: BTreeMap<Difference, usize>,
    clauses: BTreeSet<RuleId>,
    pub(super) wrong: Vec<String>,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { made, evaluated, refused, outcomes, differences, clauses, .. } = self;
        let outcomes: Vec<_> =
            outcomes.iter().map(|(outcome, number)| format!("{number} {outcome}")).collect();
        write!(f, "{refused} refused as they are, {made} connections made ({})", outcomes.join(", "))?;
        write!(f, " of {evaluated} evaluated, decided by {} clauses, {differences:?}", clauses.len())
    }
}

/// Tries every policy, whatever becomes of those before it.
pub(super) fn of(policies: Vec<Policy>, differences: &[Difference]) -> String {
    bpf::mount_own();
    let mut world = World::at_sockets();
    let before = dump(&world.here);
    let mut tally = Tally::default();
    let number = policies.len();
    for policy in policies.iter().map(Policy::at_sockets) {
        let able = policy.able();
        if able.to_string() != policy.to_string() {
            refused(&world, &policy);
            tally.refused += 1;
        }
        able.run_at_sockets(&world).code(0);
        judge(&mut world, &able, PATIENCE, &mut tally);
        world.clean();
        assert!(bpf::kept().is_empty(), "{able}: {:?} is kept after clean", bpf::kept());
    }
    assert_same("after clean", &before, &dump(&world.here));
    let wrong = &tally.wrong;
    assert!(wrong.is_empty(), "{} things are wrong:\n\n{}", wrong.len(), wrong.join("\n\n"));
    let seen: Vec<_> = tally.differences.keys().copied().collect();
    assert_eq!(seen, differences, "the differences that came up");
    format!("{number} policies, {tally}")
}

/// What no hook of a socket can do is refused by its name, and nothing is done.
fn refused(world: &World, policy: &Policy) {
    let request = policy.request().unwrap_or_else(|faults| panic!("{policy}: {faults}"));
    let place = Place { netns: 0, generation: 0 };
    let unable =
        lower(&request.policy, request.layout, families(&request), place).expect_err("it is refused");
    let mut run = policy.run_at_sockets(world).code(64);
    for what in unable {
        run = run.says(what.problem());
    }
    assert!(bpf::kept().is_empty(), "{policy}: {:?} is kept", bpf::kept());
}

fn families(request: &Request) -> Families {
    if request.policy.ipv6 == Ipv6::Off { Families::V4 } else { Families::Both }
}

/// Makes some connections of each kind, and waits that long for anything.
pub(super) fn judge(world: &mut World, policy: &Policy, patience: Duration, tally: &mut Tally) {
    let request = policy.request().unwrap_or_else(|faults| panic!("{policy}: {faults}"));
    let rules = policy.compiled(Variant::Legacy);
    let mut wrong = differs_from_status(world, &request);
    let mut kinds: BTreeMap<String, Vec<Attempt>> = BTreeMap::new();
    for attempt in attempts(&rules) {
        let decision = evaluate(&[&rules], &conn(&attempt, 1));
        tally.evaluated += 1;
        kinds.entry(kind(&attempt, &decision)).or_default().push(attempt);
    }
    let mut dice = Dice::new(super::SEED);
    let chosen = kinds.into_values().flat_map(|mut attempts| {
        dice.shuffle(&mut attempts);
        attempts.truncate(OF_A_KIND);
        attempts
    });
    let (udp, tcp): (Vec<_>, Vec<_>) = chosen.partition(|attempt| attempt.udp);
    let before = counters(world);
    let sources = Family::BOTH.map(|family| (family, source(world, family)));
    let scene = Scene { rules: &rules, sources, patience };
    let expected = make_all(world, &scene, &tcp, tally, &mut wrong);
    let after_tcp = counters(world);
    let seen = added(&before, &after_tcp);
    if seen != expected {
        wrong.push(format!("TCP was decided by {expected:?}, and counted as {seen:?}"));
    }
    let expected = make_all(world, &scene, &udp, tally, &mut wrong);
    // Answers of servers count as well.
    let seen = added(&after_tcp, &counters(world));
    let looked_at = request.policy.dns != Dns::Off;
    let missing = expected.iter().find(|(id, count)| seen.get(id).is_none_or(|seen| seen < count));
    if let (Some(missing), true) = (missing, looked_at) {
        wrong.push(format!("UDP was decided by {missing:?}, and counted as {seen:?}"));
    }
    tally.wrong.extend(wrong.into_iter().map(|what| format!("{policy}\n  {what}")));
}

/// How often each clause decided; `None` is none.
type Counters = BTreeMap<Option<RuleId>, u64>;

fn found(world: &World) -> Found {
    let found = world
        .here
        .run(|| Node::find(Duration::from_secs(10))?.map(|node| node.read(netns::cookie()?)).transpose());
    found.expect("what is kept can be read").flatten().expect("there is a policy")
}

fn counters(world: &World) -> Counters {
    found(world).counters.into_iter().map(|(clause, count)| (rule_id(clause), count)).collect()
}

fn added(before: &Counters, after: &Counters) -> Counters {
    let added = after.iter().map(|(id, count)| (*id, count - before.get(id).copied().unwrap_or_default()));
    added.filter(|(_, count)| *count > 0).collect()
}

/// What a policy is judged by.
struct Scene<'a> {
    rules: &'a RuleSet,
    sources: [(Family, IpAddr); 2],
    patience: Duration,
}

/// Makes each in every manner; how often each clause is to decide.
fn make_all(
    world: &mut World,
    scene: &Scene<'_>,
    attempts: &[Attempt],
    tally: &mut Tally,
    wrong: &mut Vec<String>,
) -> Counters {
    let mut expected = Counters::new();
    for attempt in attempts {
        for manner in manners(attempt) {
            // Nobody tells an unconnected socket that there is nobody.
            if server(attempt.to, attempt.udp).is_none() && !manner.is_connected() {
                continue;
            }
            let conn = conn(attempt, world.port());
            let decision = evaluate(&[scene.rules], &conn);
            // What passes through is asked about by nobody, and neither is UDP that arrives.
            if attempt.from == Origin::Here || conn.local && !attempt.udp {
                *expected.entry(decision.clause()).or_default() += 1;
            }
            make(world, scene, (attempt, *manner), &conn, &decision.outcome, tally, wrong);
            tally.clauses.extend(decision.clause());
        }
    }
    expected
}

/// In which manners a connection is made.
fn manners(attempt: &Attempt) -> &'static [Manner] {
    use Manner::{Bound, Free, Mapped, MappedUnconnected, Unconnected};
    match (attempt.sends, attempt.udp, attempt.family()) {
        (Sends::Passthrough | Sends::AsTheClient(_), ..) => &[Bound],
        (Sends::Plainly, false, Family::V4) => &[Free, Bound, Mapped],
        (Sends::Plainly, false, Family::V6) => &[Free, Bound],
        (Sends::Plainly, true, Family::V4) => &[Free, Bound, Mapped, Unconnected, MappedUnconnected],
        (Sends::Plainly, true, Family::V6) => &[Free, Bound, Unconnected],
    }
}

fn make(
    world: &World,
    scene: &Scene<'_>,
    (attempt, manner): (&Attempt, Manner),
    conn: &Conn,
    outcome: &Outcome,
    tally: &mut Tally,
    wrong: &mut Vec<String>,
) {
    let by_rules = as_rules(attempt, manner, conn, outcome);
    let (expected, differences) = at_sockets(scene, (attempt, manner), conn, outcome, by_rules.clone());
    let seen = attempt.make(world.netns(attempt.from), manner, conn.source, scene.patience);
    tally.made += 1;
    *tally.outcomes.entry(word(outcome)).or_default() += 1;
    let what = || format!("{conn} ({manner:?}): {outcome:?}, {differences:?}");
    if let Some(why) = expected.disagreement(&seen) {
        wrong.push(format!("{}: {why}; seen {seen}", what()));
    } else if by_rules.disagreement(&seen).is_none() && !differences.is_empty() {
        wrong.push(format!("{}: rules do no other; seen {seen}", what()));
    }
    for difference in differences {
        *tally.differences.entry(difference).or_default() += 1;
    }
}

/// What is to be seen with rules, of a connection made in that manner.
fn as_rules(attempt: &Attempt, manner: Manner, conn: &Conn, outcome: &Outcome) -> Expected {
    let mut expected = expect(attempt, conn, outcome);
    if let Expected::Answer(Answer { at, from, .. }) = &mut expected {
        if let (At::Redirected(port, _), Outcome::Captured { port: to, .. }) = (at, outcome) {
            *port = Some(to.number());
        }
        if manner != Manner::Bound {
            from.set_port(0);
        }
    }
    expected
}

/// What is to be seen at the sockets, and what of it is otherwise than with rules.
fn at_sockets(
    scene: &Scene<'_>,
    (attempt, manner): (&Attempt, Manner),
    conn: &Conn,
    outcome: &Outcome,
    by_rules: Expected,
) -> (Expected, BTreeSet<Difference>) {
    let mut differences = BTreeSet::new();
    let Outcome::Captured { port, .. } = outcome else { return (by_rules, differences) };
    if attempt.from != Origin::Here && !conn.local {
        differences.insert(Difference::PassesThrough);
        return (as_rules(attempt, manner, conn, &Outcome::Passed), differences);
    }
    let Expected::Answer(mut answer) = by_rules else { return (by_rules, differences) };
    if attempt.from != Origin::Here {
        if attempt.to.port() != port.number() || !redirected_to(attempt, attempt.to.ip()) {
            differences.insert(Difference::TrueAddress);
        }
        answer.at = At::Exactly(attempt.to);
    } else if attempt.sends == Sends::Plainly {
        let (source, difference) = match manner {
            Manner::Bound => (LOOPBACK.ip(attempt.family()), Difference::BoundToPort),
            Manner::Free | Manner::Mapped | Manner::Unconnected | Manner::MappedUnconnected => {
                match (attempt.family(), conn.local) {
                    (Family::V6, _) if !attempt.udp => (LOOPBACK.ip(Family::V6), Difference::Loopback),
                    (_, true) => (conn.source.ip(), Difference::OneAddress),
                    (family, false) => (scene.source(family), Difference::OneAddress),
                }
            }
        };
        if source != conn.source.ip() {
            differences.insert(difference);
        }
        answer.from.set_ip(source);
    }
    (Expected::Answer(answer), differences)
}

impl Scene<'_> {
    fn source(&self, family: Family) -> IpAddr {
        let of = self.sources.iter().find(|(of, _)| *of == family);
        of.map(|(_, source)| *source).expect("both families")
    }
}

/// The address by which captured connections are seen: one that the host has.
fn source(world: &World, family: Family) -> IpAddr {
    let Namespace { source_v4, source_v6, .. } = found(world).namespace;
    let source = if family == Family::V4 { source_v4 } else { source_v6 };
    let mut own = [HERE, HERE_FAR, HERE_INNER].map(|own| own.ip(family)).into_iter();
    own.find(|ip| trie::address(*ip) == source).unwrap_or_else(|| panic!("{source:?} is none of the host's"))
}

/// What `status` says otherwise than the policy.
fn differs_from_status(world: &World, request: &Request) -> Vec<String> {
    let status = mesh_init(&world.here, &["status", "--output", "json"]).ok();
    let status: Value = serde_json::from_str(&status).expect("JSON");
    let Request { policy, layout, .. } = request;
    let families = families(request);
    let place = Place { netns: 0, generation: 0 };
    let lowered = lower(policy, *layout, families, place).expect("nothing is refused");
    let both = families == Families::Both;
    let expected = json!({
        "captured": true,
        "whole": true,
        "layout": layout.to_string(),
        "variant": "ebpf",
        "families": if both { vec!["IPv4", "IPv6"] } else { vec!["IPv4"] },
        // One of each family.
        "listeners": 2,
        "detached": [],
    });
    let mut wrong = Vec::new();
    for (key, expected) in expected.as_object().expect("an object") {
        if status[key] != *expected {
            wrong.push(format!("status: {key} is {}, expected {expected}", status[key]));
        }
    }
    // The policy that is shown says the same to the maps.
    let file = tempfile::Builder::new().suffix(".json").tempfile().expect("a file");
    std::fs::write(file.path(), status["policy"].to_string()).expect("a file");
    let path = file.path().to_str().expect("UTF-8");
    let again = ["plan", "--backend", "ebpf", "--layout", &layout.to_string(), "--config", path];
    let again = mesh_init(&world.here, &again).ok();
    // What follows is routing.
    if !again.starts_with(&format!("# BPF maps\n{}", text::text(&lowered))) {
        wrong.push(format!("status: the policy is {}, which means {again}", status["policy"]));
    }
    wrong
}
