//! The istio layout: the chains of today's istio-iptables, REDIRECT and TPROXY.
//!
//! It comes in two readings. Ours ([`Layout::Istio`]) lets several proxy users and groups reach themselves, exempts
//! the tunnel port in TPROXY mode too, and marks the rules that stand among other people's with our comment.
//! istio-iptables' own ([`Layout::IstioIptables`]) is upstream's to the letter, peculiarities included.
//!
//! Rules are recorded one by one, as upstream records them, because some are inserted and the order of recording
//! is the order of istio-iptables' own restore text.

mod dns;
mod identity;
mod inbound;

use super::{IN_REDIRECT, OUTPUT, REDIRECT, jump, tcp};
use crate::policy::{
    CapturePolicy, Cidr, Destinations, Dns, Families, Family, Groups, IfName, Inbound, Layout, Mode, Port,
    PortRange, RuleId,
};
use crate::rules::{
    Base, Chain, ConnState, Hook, Match, Place, Protocol, Routing, Rule, Table, Test, Verdict,
};

/// Divides DNS traffic into zones and redirects it.
pub const OUTPUT_DNS: &str = "ISTIO_OUTPUT_DNS";
/// Hands inbound packets to the proxy's transparent socket.
pub const TPROXY: &str = "ISTIO_TPROXY";
/// Marks packets of connections that the proxy has.
pub const DIVERT: &str = "ISTIO_DIVERT";
/// Drops what fits no connection.
pub const DROP: &str = "ISTIO_DROP";
pub use crate::policy::validate::TPROXY_SELF_MARK as SELF_MARK;

/// One recorded rule of one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// Its table.
    pub table: Table,
    /// Its chain.
    pub chain: String,
    /// Its number in the chain at the time of recording, counted from 1; `None` is at the end.
    pub insert: Option<usize>,
    /// The rule.
    pub rule: Rule,
}

/// Records the rules of `policy` for `family`, in upstream's order.
#[must_use]
pub fn record(policy: &CapturePolicy, layout: Layout, family: Family) -> Vec<Recorded> {
    let letter = layout == Layout::IstioIptables;
    let loopback = if family == Family::V4 { policy.loopback } else { family.loopback() };
    let mut recorder = Recorder { policy, letter, family, loopback, recorded: Vec::new() };
    recorder.all();
    recorder.recorded
}

pub(super) fn compile(policy: &CapturePolicy, layout: Layout, family: Family) -> Vec<Chain> {
    assemble(family, record(policy, layout, family))
}

/// What the rules need of routing.
pub(super) fn routing(policy: &CapturePolicy, families: Families) -> Vec<Routing> {
    let mut routing = Vec::new();
    if families == Families::Both {
        routing.push(Routing::PassthroughAddress);
    }
    let inbound = !matches!(&policy.inbound, Inbound::Only(ports) if ports.is_empty());
    if policy.mode == Mode::Tproxy && inbound {
        let (mark, table) = (policy.tproxy_mark, policy.tproxy_table);
        // The rule first: a route is only found, after a run that was killed, through the rule that names its table.
        routing.extend(families.list().iter().map(|family| Routing::Rule { family: *family, mark, table }));
        routing.extend(families.list().iter().map(|family| Routing::Route { family: *family, table }));
    }
    routing
}

/// Puts recorded rules where they stand in the end. Chains that are only jumped to are there too.
fn assemble(family: Family, recorded: Vec<Recorded>) -> Vec<Chain> {
    let mut chains: Vec<Chain> = Vec::new();
    let mut place =
        |table: &Table, name: &str| match chains.iter().position(|c| c.table == *table && c.name == name) {
            Some(index) => index,
            None => {
                let base = Hook::of_builtin(name).map(|hook| Base::builtin(table, hook));
                chains.push(Chain {
                    family,
                    table: table.clone(),
                    name: name.to_owned(),
                    base,
                    rules: Vec::new(),
                });
                chains.len() - 1
            }
        };
    let placed: Vec<(usize, Recorded)> =
        recorded.into_iter().map(|recorded| (place(&recorded.table, &recorded.chain), recorded)).collect();
    for (_, recorded) in &placed {
        if let Some(target) = recorded.rule.target() {
            place(&recorded.table, target);
        }
    }
    for (index, Recorded { insert, mut rule, .. }) in placed {
        let Some(chain) = chains.get_mut(index) else { continue };
        match insert {
            Some(number) => {
                rule.place = Place::First;
                chain.rules.insert((number - 1).min(chain.rules.len()), rule);
            }
            None => chain.rules.push(rule),
        }
    }
    chains
}

struct Recorder<'a> {
    policy: &'a CapturePolicy,
    letter: bool,
    family: Family,
    loopback: Cidr,
    recorded: Vec<Recorded>,
}

impl Recorder<'_> {
    fn all(&mut self) {
        let policy = self.policy;
        self.interfaces();
        self.drop_invalid();
        let tunnel = vec![tcp(), dport(policy.proxy.tunnel_port)];
        self.nat(super::INBOUND, RuleId::InboundTunnel, tunnel, Verdict::Return);
        self.nat(REDIRECT, RuleId::RedirectOutbound, vec![tcp()], Verdict::Redirect(policy.proxy.port));
        let inbound = Verdict::Redirect(policy.proxy.inbound_port);
        self.nat(IN_REDIRECT, RuleId::RedirectInbound, vec![tcp()], inbound);
        self.inbound();
        self.nat(Hook::Output.builtin(), RuleId::OutboundHook, vec![], jump(OUTPUT));
        for range in policy.outbound.exclude_ports.ranges() {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let matches = vec![Match::is(Test::Protocol(protocol)), dports(*range)];
                self.nat(OUTPUT, RuleId::OutboundExcludePort, matches, Verdict::Return);
            }
        }
        let passthrough = vec![over_lo(), source(self.family.passthrough())];
        self.nat(OUTPUT, RuleId::OutboundPassthrough, passthrough, Verdict::Return);
        self.identities();
        self.groups();
        self.dns();
        self.nat(OUTPUT, RuleId::OutboundLoopback, vec![self.to_loopback()], Verdict::Return);
        for cidr in of_family(&policy.outbound.exclude_cidrs, self.family) {
            self.nat(OUTPUT, RuleId::OutboundExcludeCidr, vec![destination(cidr)], Verdict::Return);
        }
        self.includes();
        if policy.mode == Mode::Tproxy {
            self.tproxy_extras();
        }
    }

    fn interfaces(&mut self) {
        let policy = self.policy;
        let tables: &[Table] = match policy.mode {
            Mode::Tproxy => &[Table::Nat, Table::Mangle],
            Mode::Redirect | Mode::None => &[Table::Nat],
        };
        for table in tables {
            for name in &policy.interfaces.exclude {
                let arriving = vec![Match::is(Test::InInterface(vec![name.clone()]))];
                let leaving = vec![Match::is(Test::OutInterface(vec![name.clone()]))];
                let (prerouting, output) = (Hook::Prerouting.builtin(), Hook::Output.builtin());
                let id = RuleId::InboundExcludeInterface;
                self.append(table.clone(), prerouting, id, arriving, Verdict::Return);
                self.append(
                    table.clone(),
                    output,
                    RuleId::OutboundExcludeInterface,
                    leaving,
                    Verdict::Return,
                );
            }
        }
        for name in &policy.interfaces.reroute {
            self.insert_prerouting(vec![Match::is(Test::InInterface(vec![name.clone()]))], Verdict::Return);
        }
    }

    fn drop_invalid(&mut self) {
        if !self.policy.drop_invalid {
            return;
        }
        let invalid = vec![Match::is(Test::ConnState(vec![ConnState::Invalid]))];
        self.mangle(Hook::Prerouting.builtin(), RuleId::DropInvalid, invalid, jump(DROP));
        self.mangle(DROP, RuleId::DropInvalid, vec![], Verdict::Drop);
    }

    fn groups(&mut self) {
        let policy = self.policy;
        match &policy.outbound.groups {
            Groups::AllExcept(gids) => {
                for gid in gids {
                    let matches = vec![Match::is(Test::OwnerGid(vec![*gid]))];
                    self.nat(OUTPUT, RuleId::OutboundExcludeGroup, matches, Verdict::Return);
                }
            }
            Groups::Only(gids) => {
                let none_of = |gid| Match::not(Test::OwnerGid(vec![gid]));
                let matches = gids.iter().copied().map(none_of).collect();
                self.nat(OUTPUT, RuleId::OutboundGroup, matches, Verdict::Return);
            }
        }
    }

    fn includes(&mut self) {
        let policy = self.policy;
        let ports = match &policy.outbound.destinations {
            Destinations::All { ports } | Destinations::Some { ports, .. } => ports,
        };
        for range in ports.ranges() {
            self.nat(OUTPUT, RuleId::OutboundPort, vec![tcp(), dports(*range)], jump(REDIRECT));
        }
        let rerouted = |name: &IfName| Match::is(Test::InInterface(vec![name.clone()]));
        match &policy.outbound.destinations {
            Destinations::All { .. } => {
                self.nat(OUTPUT, RuleId::OutboundAll, vec![], jump(REDIRECT));
                for name in &policy.interfaces.reroute {
                    self.insert_prerouting(vec![rerouted(name)], jump(REDIRECT));
                }
            }
            Destinations::Some { cidrs, .. } => {
                for cidr in of_family(cidrs, self.family) {
                    for name in &policy.interfaces.reroute {
                        self.insert_prerouting(vec![rerouted(name), destination(cidr)], jump(REDIRECT));
                    }
                    self.nat(OUTPUT, RuleId::OutboundCidr, vec![destination(cidr)], jump(REDIRECT));
                }
            }
        }
    }

    /// Whether a loopback network is to be captured: then an application's calls over lo are too.
    fn includes_loopback(&self) -> bool {
        matches!(&self.policy.outbound.destinations,
            Destinations::Some { cidrs, .. } if cidrs.iter().any(Cidr::begins_at_loopback))
    }

    /// Whether DNS is captured at all, in either family.
    fn captures_dns(&self) -> bool {
        self.policy.dns != Dns::Off
    }

    fn to_loopback(&self) -> Match {
        destination(self.loopback)
    }

    fn not_to_loopback(&self) -> Match {
        Match::not(Test::Destination(vec![self.loopback]))
    }

    fn nat(&mut self, chain: &str, id: RuleId, matches: Vec<Match>, verdict: Verdict) {
        self.append(Table::Nat, chain, id, matches, verdict);
    }

    fn mangle(&mut self, chain: &str, id: RuleId, matches: Vec<Match>, verdict: Verdict) {
        self.append(Table::Mangle, chain, id, matches, verdict);
    }

    fn raw(&mut self, chain: &str, id: RuleId, matches: Vec<Match>, verdict: Verdict) {
        self.append(Table::Raw, chain, id, matches, verdict);
    }

    fn append(&mut self, table: Table, chain: &str, id: RuleId, matches: Vec<Match>, verdict: Verdict) {
        self.put(table, chain, None, id, matches, verdict);
    }

    fn insert_prerouting(&mut self, matches: Vec<Match>, verdict: Verdict) {
        let prerouting = Hook::Prerouting.builtin();
        self.put(Table::Nat, prerouting, Some(1), RuleId::InterfaceReroute, matches, verdict);
    }

    fn put(
        &mut self,
        table: Table,
        chain: &str,
        insert: Option<usize>,
        id: RuleId,
        matches: Vec<Match>,
        verdict: Verdict,
    ) {
        let rule = Rule::new(id, matches, verdict);
        let shared = Hook::of_builtin(chain).is_some();
        let rule = if shared && !self.letter { rule.comment(id.comment()) } else { rule };
        self.recorded.push(Recorded { table, chain: chain.to_owned(), insert, rule });
    }
}

fn of_family(cidrs: &[Cidr], family: Family) -> impl Iterator<Item = Cidr> {
    cidrs.iter().copied().filter(move |cidr| cidr.family() == family)
}

fn over_lo() -> Match {
    Match::is(Test::OutInterface(vec![IfName::lo()]))
}

fn from_lo() -> Match {
    Match::is(Test::InInterface(vec![IfName::lo()]))
}

fn source(cidr: Cidr) -> Match {
    Match::is(Test::Source(vec![cidr]))
}

fn destination(cidr: Cidr) -> Match {
    Match::is(Test::Destination(vec![cidr]))
}

fn dports(range: PortRange) -> Match {
    Match::is(Test::DestinationPort(vec![range]))
}

fn dport(port: Port) -> Match {
    dports(port.into())
}
