//! A packet's way through the hooks.
//!
//! Documentation/networking/netfilter and nf_tables: the base chains of a hook are called in order of their
//! priority; an accepting verdict ends its base chain only. nat chains are called for a connection's first packet,
//! and only until one of them translates it (net/netfilter/nf_nat_core.c, `nf_nat_inet_fn`); a connection that
//! begins here has its destination decided on the way out, also if it comes back over lo. Every chain of a hook sees
//! the interfaces with which the hook began, whatever the chains before it did to the packet's routing
//! (net/netfilter/core.c, `nf_hook_slow` hands on one `nf_hook_state`; measured).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::conn::Conn;
use super::decision::{Capture, Decision, Outcome, Place, Reason, Step, Tried, Way};
use super::opaque::{self, Known};
use super::probing::Direction;
use crate::policy::{Family, IfName, Mark, Port};
use crate::rules::{
    Base, Chain, ConnState, Hook, Kind, Match, Protocol, Routing, RuleSet, Table, Test, Verdict,
};

/// nf_tables refuses more (`NFT_JUMP_STACK_SIZE`); iptables bounds it by the number of chains.
const DEEPEST: usize = 16;
/// So many steps are followed: chains that each call the next one twice double them with every chain.
const LONGEST: usize = 1_000_000;
/// How many rules that are not understood are tried both ways.
const FORKS: usize = 6;
/// Where the kernel calls all nat chains of a hook, whatever their own priorities, which order them among each other
/// alone (linux/netfilter_ipv4.h, `NF_IP_PRI_NAT_DST`; net/netfilter/nf_nat_core.c, `nf_nat_register_fn`).
const NAT: i32 = -100;

/// What becomes of `conn` under `sets`: of one table and chain each name stands for one thing in each of them.
/// Of base chains of equal priority the last made is called first (net/netfilter/core.c, `nf_hook_entries_grow`),
/// which rules do not show: where the order of the sets makes a difference, it cannot be told.
#[must_use]
pub fn evaluate<'a>(sets: &[&'a RuleSet], conn: &Conn) -> Decision<'a> {
    let decision = decide(sets, conn, &[]);
    if sets.iter().filter(|set| !set.chains.is_empty()).count() < 2 {
        return decision;
    }
    let other = decide(&sets.iter().rev().copied().collect::<Vec<_>>(), conn, &[]);
    match other.outcome == decision.outcome {
        true => decision,
        false => Decision { outcome: Outcome::CannotTell, by: decision.by.or(other.by), ..decision },
    }
}

/// Tries a rule that is not understood both ways.
fn decide<'a>(sets: &[&'a RuleSet], conn: &Conn, assumed: &[(Place<'a>, bool)]) -> Decision<'a> {
    let mut walk = Walk::new(sets, conn, assumed);
    let unsure = match walk.run() {
        Ok(()) => return walk.decision(),
        Err(unsure) => unsure,
    };
    if assumed.len() < FORKS && !unsure.is_verdict {
        let with = |hit| {
            let assumed = [assumed, &[(unsure.place, hit)]].concat();
            decide(sets, conn, &assumed)
        };
        let (hit, miss) = (with(true), with(false));
        if hit.outcome == miss.outcome {
            return miss;
        }
    }
    Decision { outcome: Outcome::CannotTell, by: Some(unsure.place), trail: walk.trail }
}

/// A rule that is not understood.
struct Unsure<'a> {
    place: Place<'a>,
    is_verdict: bool,
}

/// How a chain ends.
enum End {
    /// The calling chain goes on.
    Back,
    /// Its base chain is done.
    Accepted,
    /// The packet is gone.
    Dropped,
}

struct Walk<'a, 'c> {
    sets: &'c [&'a RuleSet],
    conn: &'c Conn,
    assumed: &'c [(Place<'a>, bool)],
    trail: Vec<Step<'a>>,
    /// The destination; its address is not known once an interface's own was chosen.
    address: Option<IpAddr>,
    port: u16,
    arriving: Option<IfName>,
    /// `None` if it is not known: it passes through, or was sent another way.
    leaving: Option<IfName>,
    /// A socket is known.
    sends: bool,
    /// The destination is an address of this host.
    own: bool,
    /// It is delivered here, which routing by mark does with any destination.
    here: bool,
    mark: u32,
    connmark: u32,
    /// The socket that TPROXY gives it to.
    given: Option<Port>,
    /// The port that REDIRECT sends it to.
    redirected: Option<Port>,
    /// DNAT sends it elsewhere.
    translated: bool,
    /// By which interface DNAT sends it away is not known.
    strayed: bool,
    dropped: bool,
    by: Option<Place<'a>>,
    /// What let it pass last; the last clause if one did.
    passed: Option<Place<'a>>,
}

impl<'a, 'c> Walk<'a, 'c> {
    fn new(sets: &'c [&'a RuleSet], conn: &'c Conn, assumed: &'c [(Place<'a>, bool)]) -> Self {
        let outbound = conn.direction == Direction::Outbound;
        Walk {
            sets,
            conn,
            assumed,
            trail: Vec::new(),
            address: Some(conn.destination.ip()),
            port: conn.destination.port(),
            arriving: (!outbound).then(|| conn.interface.clone()),
            leaving: outbound.then(|| conn.interface.clone()),
            sends: outbound,
            own: conn.local,
            here: conn.local,
            mark: conn.mark,
            connmark: conn.connmark,
            given: None,
            redirected: None,
            translated: false,
            strayed: false,
            dropped: false,
            by: None,
            passed: None,
        }
    }

    fn run(&mut self) -> Result<(), Unsure<'a>> {
        if self.conn.direction == Direction::Outbound {
            self.hook(Hook::Output)?;
            if self.dropped {
                return Ok(());
            }
            if self.here {
                self.leaving = Some(IfName::lo());
                self.trail.push(Step::Way(Way::Back));
            } else {
                self.leaving = self.leaving.take().filter(|_| !self.strayed);
                self.trail.push(Step::Way(self.leaving.clone().map_or(Way::Forward, Way::Away)));
            }
            self.hook(Hook::Postrouting)?;
            if !self.here || self.dropped {
                return Ok(());
            }
            self.arriving = self.leaving.take();
            self.sends = false;
        }
        self.hook(Hook::Prerouting)?;
        if self.dropped {
            return Ok(());
        }
        self.here = self.here || self.routed_here();
        if !self.here {
            // Without its routing rule the packet is not delivered: it goes on to where it was meant to go.
            self.given = None;
        }
        if self.here {
            let arriving = self.arriving.clone().unwrap_or_else(IfName::lo);
            self.trail.push(Step::Way(Way::Here(arriving)));
            return self.hook(Hook::Input);
        }
        self.trail.push(Step::Way(Way::Forward));
        self.hook(Hook::Forward)?;
        self.hook(Hook::Postrouting)
    }

    fn decision(self) -> Decision<'a> {
        let outcome = match (self.dropped, self.given, self.redirected, self.address) {
            (true, ..) => Outcome::Dropped,
            // The socket is TPROXY's even if NAT has changed the address before or changes it after (measured;
            // net/ipv4/netfilter/nf_tproxy_ipv4.c and net/netfilter/nf_nat_proto.c, which keeps it on arrival).
            (_, Some(port), None, _) if !self.translated => Outcome::Captured { port, by: Capture::Tproxy },
            (_, Some(port), ..) | (_, None, Some(port), _) => {
                Outcome::Captured { port, by: Capture::Redirect }
            }
            (.., Some(address)) if self.translated => {
                Outcome::Translated(SocketAddr::new(address, self.port))
            }
            (..) => Outcome::Passed,
        };
        let by = if outcome == Outcome::Passed { self.passed } else { self.by };
        Decision { outcome, by, trail: self.trail }
    }

    /// Whether routing brings a packet with the mark here (ip-rule(8), `fwmark`).
    fn routed_here(&self) -> bool {
        let family = self.conn.family();
        let pieces = || self.sets.iter().flat_map(|set| &set.routing);
        pieces().any(|piece| match *piece {
            Routing::Rule { family: of, mark, table } if of == family && mark == Mark(self.mark) => {
                pieces().any(|piece| *piece == Routing::Route { family, table })
            }
            Routing::Rule { .. } | Routing::Route { .. } | Routing::PassthroughAddress => false,
        })
    }

    /// Calls the base chains of `hook`.
    fn hook(&mut self, hook: Hook) -> Result<(), Unsure<'a>> {
        let family = self.conn.family();
        let of_hook =
            |chain: &&Chain| chain.family == family && chain.base.is_some_and(|base| base.hook == hook);
        let chains = self
            .sets
            .iter()
            .enumerate()
            .flat_map(|(set, rules)| rules.chains.iter().filter(of_hook).map(move |chain| (set, chain)));
        let mut chains: Vec<(usize, &'a Chain)> = chains.collect();
        let position = |base: Base| (if base.kind == Kind::Nat { NAT } else { base.priority }, base.priority);
        chains.sort_by_key(|(_, chain)| chain.base.map(position));
        for (set, chain) in chains {
            let Some(base) = chain.base else { continue };
            // A chain that holds nothing and lets everything through is as good as none.
            if self.dropped || (chain.rules.is_empty() && base.accepts) {
                continue;
            }
            if base.kind == Kind::Nat {
                if matches!(hook, Hook::Postrouting | Hook::Input) {
                    // Those change the source, which decides nothing here.
                    continue;
                }
                if let Some(reason) = self.uncalled(hook) {
                    self.trail.push(Step::NotCalled(chain, reason));
                    continue;
                }
            }
            self.base(set, chain, base)?;
        }
        Ok(())
    }

    /// Why the nat chains of `hook` are not called, if they are not.
    fn uncalled(&self, hook: Hook) -> Option<Reason> {
        match self.conn.state {
            ConnState::Established => Some(Reason::NotFirst),
            ConnState::Invalid => Some(Reason::Invalid),
            ConnState::New | ConnState::Related => {
                let began_here = hook == Hook::Prerouting && self.conn.direction == Direction::Outbound;
                let done = self.translated || self.redirected.is_some();
                (began_here.then_some(Reason::BeganHere)).or(done.then_some(Reason::Translated))
            }
        }
    }

    fn base(&mut self, set: usize, chain: &'a Chain, base: Base) -> Result<(), Unsure<'a>> {
        self.trail.push(Step::Enter(chain));
        let mark = self.mark;
        match self.chain(set, chain, base, &mut Vec::new())? {
            End::Dropped => self.dropped = true,
            End::Accepted => {}
            End::Back => {
                self.trail.push(Step::Policy(chain));
                if !base.accepts {
                    self.dropped = true;
                    self.by = None;
                }
            }
        }
        // net/ipv4/netfilter/iptable_mangle.c, `ipt_mangle_out`: only a mark that changed routes again.
        if base.kind == Kind::Route && self.mark != mark && self.routed_here() {
            self.here = true;
        }
        Ok(())
    }

    fn chain(
        &mut self,
        set: usize,
        chain: &'a Chain,
        base: Base,
        jumps: &mut Vec<Place<'a>>,
    ) -> Result<End, Unsure<'a>> {
        for (index, rule) in chain.rules.iter().enumerate() {
            let place = Place { chain, index, rule };
            if !self.hits(place, jumps.len())? {
                continue;
            }
            let target = match &rule.verdict {
                Verdict::Continue | Verdict::Zone(_) => continue,
                Verdict::SetMark(mark) => {
                    self.mark = mark.0;
                    continue;
                }
                Verdict::SaveMark => {
                    self.connmark = self.mark;
                    continue;
                }
                Verdict::RestoreMark => {
                    self.mark = self.connmark;
                    continue;
                }
                Verdict::Return => {
                    self.lets_pass(place);
                    return Ok(End::Back);
                }
                Verdict::Accept => {
                    self.lets_pass(place);
                    return Ok(End::Accepted);
                }
                Verdict::Drop => {
                    self.by = Some(place);
                    return Ok(End::Dropped);
                }
                Verdict::Redirect(port) => {
                    self.redirect(*port, base.hook);
                    if self.given.is_none() {
                        self.by = Some(telling(place, jumps));
                    }
                    return Ok(End::Accepted);
                }
                Verdict::Dnat(to) => {
                    self.dnat(*to);
                    self.by = Some(place);
                    return Ok(End::Accepted);
                }
                Verdict::Tproxy { port, mark } => {
                    self.mark = mark.0;
                    self.given = Some(*port);
                    self.by = Some(telling(place, jumps));
                    return Ok(End::Accepted);
                }
                Verdict::Opaque(text) => match opaque::target(text) {
                    Known::Nothing => continue,
                    Known::Mark { keep, flip } => {
                        self.mark = (self.mark & keep) ^ flip;
                        continue;
                    }
                    Known::Dropped => {
                        self.by = Some(place);
                        return Ok(End::Dropped);
                    }
                    Known::No => return Err(self.unknown(place, jumps.len())),
                },
                Verdict::Jump(target) | Verdict::Goto(target) => target,
            };
            let family = chain.family;
            let called = self.sets.get(set).and_then(|rules| rules.chain(family, &chain.table, target));
            let Some(called) = called.filter(|_| jumps.len() < DEEPEST && self.trail.len() < LONGEST) else {
                return Err(self.unknown(place, jumps.len()));
            };
            jumps.push(place);
            let end = self.chain(set, called, base, jumps)?;
            jumps.pop();
            match (end, &rule.verdict) {
                (End::Back, Verdict::Goto(_)) => return Ok(End::Back),
                (End::Back, _) => {}
                (end, _) => return Ok(end),
            }
        }
        Ok(End::Back)
    }

    /// A clause says more than a firewall's rule that lets through, later, what is not captured by then.
    fn lets_pass(&mut self, place: Place<'a>) {
        let clause = |place: Place<'a>| place.rule.id.is_some();
        if clause(place) || !self.passed.is_some_and(clause) {
            self.passed = Some(place);
        }
    }

    fn unknown(&mut self, place: Place<'a>, depth: usize) -> Unsure<'a> {
        // What was taken for a hit is not understood after all.
        self.trail.pop();
        let result = Tried::Unknown(&place.rule.verdict);
        self.trail.push(Step::Try { place, depth, result });
        Unsure { place, is_verdict: true }
    }

    fn redirect(&mut self, port: Port, hook: Hook) {
        self.redirected = Some(port);
        self.port = port.number();
        // net/netfilter/nf_nat_redirect.c: what sets out goes to the loopback address, what arrives to the address
        // of the interface.
        self.address = match (hook, self.conn.family()) {
            (Hook::Output, Family::V4) => Some(Ipv4Addr::LOCALHOST.into()),
            (Hook::Output, Family::V6) => Some(Ipv6Addr::LOCALHOST.into()),
            (_, _) => None,
        };
        self.own = true;
        self.here = true;
    }

    fn dnat(&mut self, to: SocketAddr) {
        self.port = to.port();
        self.translated = true;
        if self.address == Some(to.ip()) {
            return;
        }
        self.address = Some(to.ip());
        // Which other addresses this host has is not known here.
        self.own = to.ip().is_loopback();
        self.here = self.own;
        self.strayed = !self.own;
    }

    /// Tries a rule's conditions, and tells the trail.
    fn hits(&mut self, place: Place<'a>, depth: usize) -> Result<bool, Unsure<'a>> {
        let mut unclear: Option<&'a Match> = None;
        let mut missed: Option<&'a Match> = None;
        for condition in &place.rule.matches {
            match self.holds(condition, &place.chain.table) {
                Some(true) => {}
                Some(false) => {
                    missed = Some(condition);
                    break;
                }
                None => unclear = unclear.or(Some(condition)),
            }
        }
        let (hit, result) = match (missed, unclear) {
            (Some(condition), _) => (false, Tried::Miss(condition)),
            (None, None) => (true, Tried::Hit),
            (None, Some(condition)) => {
                // Whether a rule that only counts or logs is hit makes no difference.
                let verdict = &place.rule.verdict;
                let nothing = matches!(verdict, Verdict::Continue | Verdict::Zone(_))
                    || matches!(verdict, Verdict::Opaque(text) if matches!(opaque::target(text), Known::Nothing));
                let assumed = self.assumed.iter().find(|(of, _)| *of == place).map(|(_, hit)| *hit);
                let Some(hit) = assumed.or(nothing.then_some(false)) else {
                    self.trail.push(Step::Try { place, depth, result: Tried::Either(condition) });
                    return Err(Unsure { place, is_verdict: false });
                };
                (hit, Tried::Either(condition))
            }
        };
        self.trail.push(Step::Try { place, depth, result });
        Ok(hit)
    }

    /// Whether a condition holds; `None` if that cannot be told.
    fn holds(&self, condition: &Match, table: &Table) -> Option<bool> {
        let conn = self.conn;
        let port = |ranges: &[crate::policy::PortRange], port: u16| {
            Port::of(port).is_some_and(|port| ranges.iter().any(|range| range.contains(port)))
        };
        let holds = match &condition.test {
            Test::Source(nets) => nets.iter().any(|net| net.contains(conn.source.ip())),
            Test::Destination(nets) => {
                let address = self.address?;
                nets.iter().any(|net| net.contains(address))
            }
            Test::InInterface(names) => {
                self.arriving.as_ref().is_some_and(|name| names.iter().any(|of| of.covers(name)))
            }
            Test::OutInterface(names) => {
                let leaving = self.leaving.as_ref()?;
                names.iter().any(|of| of.covers(leaving))
            }
            Test::Protocol(protocol) => *protocol == conn.protocol,
            Test::SourcePort(ranges) => port(ranges, conn.source.port()),
            Test::DestinationPort(ranges) => port(ranges, self.port),
            Test::FirstPacket => conn.protocol == Protocol::Tcp && conn.first,
            Test::OwnerUid(_) | Test::OwnerGid(_) if !self.sends => {
                // net/netfilter/xt_owner.c: without a socket the opposite holds; nft_meta.c: nothing does.
                return Some(condition.negated && !matches!(table, Table::Other(_)));
            }
            Test::OwnerUid(uids) => {
                let uid = conn.sender.as_ref().map(|sender| sender.uid);
                uids.iter().any(|of| Some(of.number()) == uid)
            }
            Test::OwnerGid(gids) => {
                let gid = conn.sender.as_ref().map(|sender| sender.gid);
                gids.iter().any(|of| Some(of.number()) == gid)
            }
            // net/netfilter/xt_addrtype.c asks for the address's own type, whatever a mark does to the routing.
            Test::DestinationIsLocal => self.own,
            Test::ConnState(states) => states.contains(&conn.state),
            // A connection is told in the direction in which it was opened.
            Test::Answer => false,
            Test::Mark(mark) => mark.0 == self.mark,
            Test::Connmark(mark) => mark.0 == self.connmark,
            Test::Opaque(text) => {
                opaque::condition(text, conn.state, self.translated || self.redirected.is_some())?
            }
        };
        Some(holds != condition.negated)
    }
}

/// The rule that says why a packet is captured: the jump, if its chain does nothing but capture.
fn telling<'a>(place: Place<'a>, jumps: &[Place<'a>]) -> Place<'a> {
    match jumps.last() {
        Some(jump) if place.chain.rules.len() == 1 => *jump,
        Some(_) | None => place,
    }
}
