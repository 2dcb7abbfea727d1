//! What `evaluate` says, beside what became of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use mesh_init::backend::iptables::parse::parse;
use mesh_init::backend::nftables;
use mesh_init::eval::{Capture, Conn, Decision, Outcome, evaluate};
use mesh_init::policy::validate::Request;
use mesh_init::policy::{self, IfName, Inbound, Layout, Mode, RuleId};
use mesh_init::rules::{Routing, RuleSet};
use mesh_init::sys::nftables::Nftables;

use super::attempt::{Attempt, Ends, Manner, Origin, Seen, Sends, all};
use super::drawn::Dice;
use super::policies::Policy;
use super::world::{self, World, conn, listener, redirected_to, server};
use crate::support::rules::{Family, Variant, save};
use crate::support::serve::Greeting;

/// How long a client waits for anything, and for what is not to come.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);
pub(super) const SHORT: Duration = Duration::from_millis(250);
/// How many connections of each kind of answer are made.
pub(super) const OF_A_KIND: usize = 2;

/// What became of the connections of a policy, or of several.
#[derive(Default)]
pub(super) struct Judged {
    made: usize,
    evaluated: usize,
    outcomes: BTreeMap<&'static str, usize>,
    clauses: BTreeSet<RuleId>,
    /// Where the compiled rules say something else than the kernel did.
    pub(super) compiled: Vec<String>,
    /// The same of the rules that the kernel shows.
    pub(super) read: Vec<String>,
    /// Where the two say different things.
    between: Vec<String>,
}

impl Judged {
    pub(super) fn complaints(&self) -> impl Iterator<Item = &String> {
        self.compiled.iter().chain(&self.read).chain(&self.between)
    }

    pub(super) fn forget_complaints(&mut self) {
        [&mut self.compiled, &mut self.read, &mut self.between].into_iter().for_each(Vec::clear);
    }

    pub(super) fn add(&mut self, other: Self) {
        self.made += other.made;
        self.evaluated += other.evaluated;
        self.clauses.extend(other.clauses);
        for (outcome, number) in other.outcomes {
            *self.outcomes.entry(outcome).or_default() += number;
        }
    }
}

impl fmt::Display for Judged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { made, evaluated, outcomes, clauses, .. } = self;
        let outcomes: Vec<_> =
            outcomes.iter().map(|(outcome, number)| format!("{number} {outcome}")).collect();
        write!(f, "{made} connections made ({}) of {evaluated} evaluated, ", outcomes.join(", "))?;
        write!(f, "decided by {} clauses", clauses.len())
    }
}

/// The rules of `variant` that the kernel shows, and the routing.
pub(super) fn read_back(world: &World, variant: Variant) -> RuleSet {
    let mut rules = RuleSet::default();
    match variant {
        Variant::Legacy | Variant::Nft => {
            for (family, of) in [(Family::V4, policy::Family::V4), (Family::V6, policy::Family::V6)] {
                let text = save(&world.here, variant, family, &[]);
                let read = parse(of, &text).unwrap_or_else(|why| panic!("{why:?} in {text}"));
                rules.chains.extend(read.chains);
            }
        }
        Variant::Native => {
            let everything = || Nftables::open().and_then(|nftables| nftables.everything());
            let snapshot = world.here.run(everything).expect("the tables can be read");
            rules.chains = nftables::decode(&snapshot.messages).rules.chains;
        }
    }
    let present = world.here.run(mesh_init::host::routing::read).expect("the routing can be read");
    rules.routing = present.into_iter().map(|present| present.what).collect();
    rules
}

/// Every connection that the rules leave possible.
pub(super) fn attempts(rules: &RuleSet) -> Vec<Attempt> {
    // Without the routing of TPROXY the answers to what is sent as the client go to the client.
    let mark = rules.routing.iter().find_map(|piece| match piece {
        Routing::Rule { mark, .. } => Some(mark.0),
        Routing::Route { .. } | Routing::PassthroughAddress => None,
    });
    all(mark, rules.routing.contains(&Routing::PassthroughAddress))
}

/// Whether the client hears of it when its first packet arrives. The evaluator tells that packet's way; two ways have
/// none back.
fn is_answered(policy: &Request, attempt: &Attempt, outcome: &Outcome) -> bool {
    match outcome {
        // Redirected to 127.0.0.1, and sent from another host's address: net/ipv4/route.c, `__mkroute_output`, has no
        // route from a loopback address to elsewhere.
        Outcome::Captured { by: Capture::Redirect, .. } => {
            !(attempt.to.is_ipv4() && matches!(attempt.sends, Sends::AsTheClient(_)))
        }
        // istio-iptables' own TPROXY diverts whatever answers a connection through this host.
        Outcome::Passed => {
            let Request { policy, layout, .. } = policy;
            let diverts = *layout == Layout::IstioIptables
                && policy.mode == Mode::Tproxy
                && matches!(policy.inbound, Inbound::AllExcept(_));
            let back = world::interface(attempt.to.ip());
            let excluded = policy.interfaces.exclude.iter().any(|name| name.covers(&back));
            let through = attempt.from != Origin::Here && back != IfName::lo();
            attempt.udp || !diverts || excluded || !through
        }
        Outcome::Captured { .. } | Outcome::Translated(_) | Outcome::Dropped | Outcome::CannotTell => true,
    }
}

/// The clauses that decide any connection.
pub(super) fn deciding(policy: &Policy) -> BTreeSet<RuleId> {
    let rules = policy.compiled(Variant::Legacy);
    let conns = attempts(&rules).into_iter().map(|attempt| conn(&attempt, 1));
    conns.filter_map(|conn| evaluate(&[&rules], &conn).clause()).collect()
}

/// Compares what is said of all connections, and makes some of each kind.
pub(super) fn judge(world: &mut World, variant: Variant, policy: &Policy) -> Judged {
    let (compiled, read) = (policy.compiled(variant), read_back(world, variant));
    let mut judged = Judged::default();
    let mut kinds: BTreeMap<String, Vec<Attempt>> = BTreeMap::new();
    let request = policy.request().unwrap_or_else(|faults| panic!("{policy}: {faults}"));
    for attempt in attempts(&compiled) {
        let conn = conn(&attempt, 1);
        let [by_policy, by_kernel] = [&compiled, &read].map(|rules| evaluate(&[rules], &conn));
        judged.evaluated += 1;
        if by_policy.outcome != by_kernel.outcome {
            judged.between.push(format!(
                "{conn}: {:?} by the compiled rules, {:?} by those read",
                by_policy.outcome, by_kernel.outcome
            ));
        }
        kinds.entry(kind(&attempt, &by_policy)).or_default().push(attempt);
    }
    let mut dice = Dice::new(super::SEED);
    for attempts in kinds.values_mut() {
        dice.shuffle(attempts);
        for attempt in attempts.iter().take(OF_A_KIND) {
            make(world, &request, attempt, [&compiled, &read], &mut judged);
        }
    }
    judged
}

/// What is decided the same way for the same reason.
pub(super) fn kind(attempt: &Attempt, decision: &Decision<'_>) -> String {
    let rule = decision.by.map(|place| (place.chain.table.to_string(), &place.chain.name, place.index));
    let Attempt { from, udp, sends, .. } = attempt;
    let passes = matches!(decision.outcome, Outcome::Passed) && server(attempt.to, *udp).is_none();
    let over_lo = conn(attempt, 1).local;
    format!(
        "{from:?} {sends:?} {udp} {over_lo} {passes} {:?} {:?} {rule:?}",
        attempt.family(),
        decision.outcome
    )
}

fn make(world: &mut World, policy: &Request, attempt: &Attempt, rules: [&RuleSet; 2], judged: &mut Judged) {
    let conn = conn(attempt, world.port());
    let decisions = rules.map(|rules| evaluate(&[rules], &conn));
    let expected = decisions.each_ref().map(|decision| {
        let answered = is_answered(policy, attempt, &decision.outcome);
        if answered { decision.outcome.clone() } else { Outcome::Dropped }
    });
    let lost = expected.iter().all(|outcome| *outcome == Outcome::Dropped);
    let patience = if lost { SHORT } else { PATIENCE };
    let seen = attempt.make(world.netns(attempt.from), Manner::Bound, conn.source, patience);
    judged.made += 1;
    judged.clauses.extend(decisions[0].clause());
    *judged.outcomes.entry(word(&expected[0])).or_default() += 1;
    for (complaints, whose, decision, expected) in [
        (&mut judged.compiled, "compiled rules", &decisions[0], &expected[0]),
        (&mut judged.read, "rules read", &decisions[1], &expected[1]),
    ] {
        let Some(why) = expect(attempt, &conn, expected).disagreement(&seen) else { continue };
        let outcome = &decision.outcome;
        complaints.push(format!("by the {whose}: {conn}: expected {outcome:?}, but {why}; seen {seen}"));
    }
}

pub(super) fn word(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Captured { by: Capture::Redirect, .. } => "by REDIRECT",
        Outcome::Captured { by: Capture::Tproxy, .. } => "by TPROXY",
        Outcome::Passed => "passed",
        Outcome::Translated(_) => "translated",
        Outcome::Dropped => "without an answer",
        Outcome::CannotTell => "unclear",
    }
}

/// What is to be seen of a connection.
#[derive(Clone, Debug)]
pub(super) enum Expected {
    /// The evaluator does not know.
    Unclear,
    Lost,
    /// Nobody listens there.
    Refused,
    Answer(Answer),
}

/// What an answer is to say.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    /// Who answers; nobody can where nobody listens.
    pub(super) name: Option<String>,
    pub(super) at: At,
    pub(super) original: Original,
    /// Where the client sends from: with that port, unless it is 0.
    pub(super) from: SocketAddr,
    /// Whom the client called, and speaks with.
    pub(super) to: SocketAddr,
}

/// Where a connection arrives.
#[derive(Clone, Debug)]
pub(super) enum At {
    Exactly(SocketAddr),
    /// Where REDIRECT sends it, at that port. TPROXY's have another in their address.
    Redirected(Option<u16>, Attempt),
}

/// `SO_ORIGINAL_DST`, which UDP has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Original {
    Told(SocketAddr),
    /// Without NAT conntrack need not know the connection.
    IfAny(SocketAddr),
    NotTold,
}

/// What `outcome` means by rules.
pub(super) fn expect(attempt: &Attempt, conn: &Conn, outcome: &Outcome) -> Expected {
    let Attempt { to, udp, .. } = *attempt;
    let told = if udp { Original::NotTold } else { Original::Told(to) };
    let (name, at, original) = match outcome {
        Outcome::CannotTell => return Expected::Unclear,
        Outcome::Dropped => return Expected::Lost,
        Outcome::Passed if server(to, udp).is_none() => return Expected::Refused,
        Outcome::Passed => (server(to, udp), At::Exactly(to), Original::IfAny(to)),
        Outcome::Captured { port, by: Capture::Redirect } => {
            (listener(port.number()), At::Redirected(None, *attempt), told)
        }
        Outcome::Captured { port, by: Capture::Tproxy } => {
            (listener(port.number()), At::Exactly(to), Original::IfAny(to))
        }
        Outcome::Translated(other) => (server(*other, udp), At::Exactly(*other), told),
    };
    Expected::Answer(Answer { name, at, original, from: conn.source, to })
}

impl Expected {
    /// What was seen that is not it.
    pub(super) fn disagreement(&self, seen: &Seen) -> Option<&'static str> {
        match (self, seen) {
            (Expected::Unclear, _) => Some("every rule here can be understood"),
            (Expected::Lost, Seen::Lost(_)) | (Expected::Refused, Seen::Refused) => None,
            (Expected::Lost, _) => Some("it is not lost"),
            (_, Seen::Refused | Seen::Lost(_)) => Some("nobody answers"),
            (Expected::Refused, Seen::Answered { .. }) => Some("somebody else answers"),
            (Expected::Answer(answer), Seen::Answered { by, ends }) => answer.disagreement(by, ends),
        }
    }
}

impl Answer {
    fn disagreement(&self, by: &Greeting, ends: &Ends) -> Option<&'static str> {
        let Ends { from, peer } = *ends;
        let at = match &self.at {
            At::Exactly(at) => same(by.local, *at),
            At::Redirected(port, attempt) => {
                redirected_to(attempt, by.local.ip()) && port.is_none_or(|port| port == by.local.port())
            }
        };
        let original = match (self.original, by.original) {
            (Original::NotTold | Original::IfAny(_), None) => true,
            (Original::NotTold, Some(_)) | (Original::Told(_), None) => false,
            (Original::Told(to) | Original::IfAny(to), Some(original)) => same(original, to),
        };
        // An unconnected socket has no address.
        let both = from.ip().is_unspecified() && by.peer.port() == from.port() || same(by.peer, from);
        let port = self.from.port();
        match () {
            () if self.name.as_ref() != Some(&by.name) => Some("somebody else answers"),
            () if !at => Some("it arrives at another address"),
            () if !original => Some("the original destination is another one"),
            () if !both => Some("the two ends do not agree on the client's address"),
            () if by.peer.ip() != self.from.ip() => Some("the client has another address"),
            () if port != 0 && by.peer.port() != port => Some("the client has another port"),
            () if !same(peer, self.to) => Some("the client speaks with somebody whom it did not call"),
            () => None,
        }
    }
}

/// The number of an interface beside an address means something on one host only.
fn same(one: SocketAddr, other: SocketAddr) -> bool {
    (one.ip(), one.port()) == (other.ip(), other.port())
}
