//! The rules: a model of netfilter, not of anybody's text.
//!
//! A match holds a whole set (ports, networks, users); the iptables renderer spreads a set over lines, nftables
//! keeps it one set. What we compile and what we read from a kernel are the same type; what the reader does not
//! model is [`Test::Opaque`] or [`Verdict::Opaque`], never a guess.

pub mod compile;

use std::collections::BTreeSet;
use std::fmt;

use crate::policy::{Cidr, Family, Gid, IfName, Mark, Port, PortRange, RuleId, Uid};

/// A table of iptables, or of nftables under its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Before connection tracking.
    Raw,
    /// Packet changes and routing marks.
    Mangle,
    /// Address translation; consulted for a connection's first packet only.
    Nat,
    /// Filtering.
    Filter,
    /// Any other.
    Other(String),
}

impl Table {
    /// The table's name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Table::Raw => "raw",
            Table::Mangle => "mangle",
            Table::Nat => "nat",
            Table::Filter => "filter",
            Table::Other(name) => name,
        }
    }
}

impl From<&str> for Table {
    fn from(name: &str) -> Self {
        match name {
            "raw" => Table::Raw,
            "mangle" => Table::Mangle,
            "nat" => Table::Nat,
            "filter" => Table::Filter,
            other => Table::Other(other.to_owned()),
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where in a packet's way a base chain is called (linux/netfilter.h, `nf_inet_hooks`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    /// Every packet that arrives.
    Prerouting,
    /// Packets for this host.
    Input,
    /// Packets passing through.
    Forward,
    /// Packets of local processes.
    Output,
    /// Every packet that leaves.
    Postrouting,
}

impl Hook {
    /// The name of iptables' built-in chain on this hook.
    #[must_use]
    pub fn builtin(self) -> &'static str {
        match self {
            Hook::Prerouting => "PREROUTING",
            Hook::Input => "INPUT",
            Hook::Forward => "FORWARD",
            Hook::Output => "OUTPUT",
            Hook::Postrouting => "POSTROUTING",
        }
    }

    /// The hook whose built-in chain is called `name`.
    #[must_use]
    pub fn of_builtin(name: &str) -> Option<Hook> {
        let hooks = [Hook::Prerouting, Hook::Input, Hook::Forward, Hook::Output, Hook::Postrouting];
        hooks.into_iter().find(|hook| hook.builtin() == name)
    }
}

/// What a base chain's verdicts mean (linux/netfilter/nf_tables.h, `nft_chain_types`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Every packet is decided.
    Filter,
    /// A connection's first packet decides for all of it.
    Nat,
    /// As [`Kind::Filter`]; a packet whose mark has changed is routed again.
    Route,
}

/// A chain called by the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Base {
    /// Where.
    pub hook: Hook,
    /// What its verdicts mean.
    pub kind: Kind,
    /// Lower is earlier (linux/netfilter_ipv4.h, `nf_ip_hook_priorities`).
    pub priority: i32,
    /// Whether a packet that no rule decides is accepted (else dropped).
    pub accepts: bool,
}

impl Base {
    /// iptables' built-in chain on `hook` of `table`, with the policy ACCEPT.
    #[must_use]
    pub fn builtin(table: &Table, hook: Hook) -> Base {
        // linux/netfilter_ipv4.h, `nf_ip_hook_priorities`.
        let (kind, priority) = match (table, hook) {
            (Table::Raw, _) => (Kind::Filter, -300),
            // net/ipv4/netfilter/iptable_mangle.c, `ipt_mangle_out`.
            (Table::Mangle, Hook::Output) => (Kind::Route, -150),
            (Table::Mangle, _) => (Kind::Filter, -150),
            (Table::Nat, Hook::Input | Hook::Postrouting) => (Kind::Nat, 100),
            (Table::Nat, Hook::Prerouting | Hook::Output | Hook::Forward) => (Kind::Nat, -100),
            (Table::Filter, _) => (Kind::Filter, 0),
            (Table::Other(_), _) => (Kind::Filter, 50),
        };
        Base { hook, kind, priority, accepts: true }
    }
}

/// A chain of one table and family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// The family of the packets that it sees.
    pub family: Family,
    /// Its table.
    pub table: Table,
    /// Its name.
    pub name: String,
    /// `None` for a chain that only rules call.
    pub base: Option<Base>,
    /// Its rules, in order.
    pub rules: Vec<Rule>,
}

impl Chain {
    /// Whether it is as a table of iptables has it from the beginning: called by the kernel, without a rule, accepting.
    #[must_use]
    pub fn is_untouched(&self) -> bool {
        self.rules.is_empty() && self.base.is_some_and(|base| base.accepts)
    }
}

/// Where a rule of ours stands in a built-in chain that we share with others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Place {
    /// After everybody's rules.
    #[default]
    Last,
    /// Before everybody's rules.
    First,
}

/// A rule: all matches must hold for the verdict to be given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The policy clause it stands for; `None` for a rule that is not known to be ours.
    pub id: Option<RuleId>,
    /// The conditions.
    pub matches: Vec<Match>,
    /// What happens then.
    pub verdict: Verdict,
    /// The comment that it carries in the kernel.
    pub comment: Option<String>,
    /// Where it stands in a shared chain.
    pub place: Place,
    /// What the kernel's tool printed, for a rule that was read.
    pub seen: Option<Seen>,
}

/// A rule as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The specification as printed, without `-A CHAIN`: what deletes exactly this rule.
    pub spec: String,
    /// Packets counted, if counters were read.
    pub packets: u64,
    /// Bytes counted.
    pub bytes: u64,
}

/// A condition, or its opposite.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Match {
    /// The condition must not hold.
    pub negated: bool,
    /// The condition.
    pub test: Test,
}

/// A protocol above IP.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// Any other, by the name or number that was read.
    Other(String),
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Other(name) => name,
        })
    }
}

/// What conntrack knows of a packet's connection (iptables-extensions(8), conntrack).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConnState {
    /// It fits no connection and begins none.
    Invalid,
    /// It begins one.
    New,
    /// It begins one that belongs to another.
    Related,
    /// Packets were seen both ways.
    Established,
}

impl ConnState {
    /// Every state, as iptables-save orders them.
    pub const ALL: [ConnState; 4] =
        [ConnState::Invalid, ConnState::New, ConnState::Related, ConnState::Established];

    /// iptables' word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            ConnState::Invalid => "INVALID",
            ConnState::New => "NEW",
            ConnState::Related => "RELATED",
            ConnState::Established => "ESTABLISHED",
        }
    }
}

/// What TPROXY needs of routing, beside rules: packets with the mark are delivered here whatever their destination
/// (Documentation/networking/tproxy.rst), and IPv6 needs the address that the proxy passes traffic through from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Routing {
    /// `ip address add ::6/128 dev lo`; IPv4's 127.0.0.6 is local without it.
    PassthroughAddress,
    /// `ip route add local default dev lo table TABLE`.
    Route {
        /// Of which family.
        family: Family,
        /// The table's number.
        table: u32,
    },
    /// `ip rule add fwmark MARK lookup TABLE`.
    Rule {
        /// Of which family.
        family: Family,
        /// The mark, all of it.
        mark: Mark,
        /// The table's number.
        table: u32,
    },
}

impl fmt::Display for Routing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Routing::PassthroughAddress => f.write_str("IPv6: address ::6/128 on lo"),
            Routing::Route { family, table } => write!(f, "{family}: local default route in table {table}"),
            Routing::Rule { family, mark, table } => {
                write!(f, "{family}: routing rule fwmark {mark} lookup {table}")
            }
        }
    }
}

/// A condition on a packet. Sets mean "one of them".
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Test {
    /// Source network.
    Source(Vec<Cidr>),
    /// Destination network.
    Destination(Vec<Cidr>),
    /// Interface of arrival.
    InInterface(Vec<IfName>),
    /// Interface of departure.
    OutInterface(Vec<IfName>),
    /// Protocol.
    Protocol(Protocol),
    /// Source port of the rule's protocol.
    SourcePort(Vec<PortRange>),
    /// Destination port of the rule's protocol.
    DestinationPort(Vec<PortRange>),
    /// A TCP connection's first packet: SYN set; ACK, RST and FIN clear (iptables-extensions(8), `--syn`).
    FirstPacket,
    /// The sending socket's user.
    OwnerUid(Vec<Uid>),
    /// The sending socket's group.
    OwnerGid(Vec<Gid>),
    /// The destination is one of this host's addresses.
    DestinationIsLocal,
    /// What conntrack knows of the connection.
    ConnState(Vec<ConnState>),
    /// The packet answers: it goes against the direction in which the connection was opened.
    Answer,
    /// The packet's mark, all of it.
    Mark(Mark),
    /// The connection's mark, all of it.
    Connmark(Mark),
    /// Anything we do not model, as printed.
    Opaque(String),
}

/// What a rule does with a packet for which all its matches hold.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// No verdict: the rule only counts.
    Continue,
    /// The table is done with the packet.
    Accept,
    /// The packet is discarded.
    Drop,
    /// Back to the calling chain; in a base chain, its policy.
    Return,
    /// On to another chain, and back if that does not decide.
    Jump(String),
    /// On to another chain, and back to the caller of this one.
    Goto(String),
    /// NAT to a port of this host (iptables-extensions(8), REDIRECT).
    Redirect(Port),
    /// NAT to another address and port (iptables-extensions(8), DNAT).
    Dnat(std::net::SocketAddr),
    /// Hands the packet to a local socket, addresses unchanged, and marks it (iptables-extensions(8), TPROXY).
    Tproxy {
        /// The socket's port.
        port: Port,
        /// The mark.
        mark: Mark,
    },
    /// Sets the packet's mark; the next rule follows.
    SetMark(Mark),
    /// Copies the packet's mark to its connection; the next rule follows.
    SaveMark,
    /// Copies the connection's mark to the packet; the next rule follows.
    RestoreMark,
    /// Puts the packet's connection into a conntrack zone (iptables-extensions(8), CT).
    Zone(u16),
    /// Anything we do not model, as printed.
    Opaque(String),
}

/// All chains of a set of rules.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RuleSet {
    /// In order of family, then as compiled or as read.
    pub chains: Vec<Chain>,
    /// What the rules need of routing, in the order in which it is made.
    pub routing: Vec<Routing>,
}

impl RuleSet {
    /// The chain of that family, table and name.
    #[must_use]
    pub fn chain(&self, family: Family, table: &Table, name: &str) -> Option<&Chain> {
        self.chains.iter().find(|chain| chain.family == family && chain.table == *table && chain.name == name)
    }

    /// The tables that chains of `family` stand in.
    #[must_use]
    pub fn tables(&self, family: Family) -> BTreeSet<&Table> {
        self.chains.iter().filter(|chain| chain.family == family).map(|chain| &chain.table).collect()
    }
}

impl Rule {
    /// A rule of ours.
    #[must_use]
    pub fn new(id: RuleId, matches: Vec<Match>, verdict: Verdict) -> Rule {
        Rule { id: Some(id), matches, verdict, comment: None, place: Place::Last, seen: None }
    }

    /// Sets the comment.
    #[must_use]
    pub fn comment(mut self, comment: impl Into<String>) -> Rule {
        self.comment = Some(comment.into());
        self
    }

    /// Puts the rule before everybody else's.
    #[must_use]
    pub fn first(mut self) -> Rule {
        self.place = Place::First;
        self
    }

    /// The chain that the rule sends packets to.
    #[must_use]
    pub fn target(&self) -> Option<&str> {
        match &self.verdict {
            Verdict::Jump(chain) | Verdict::Goto(chain) => Some(chain),
            Verdict::Continue
            | Verdict::Accept
            | Verdict::Drop
            | Verdict::Return
            | Verdict::Redirect(_)
            | Verdict::Dnat(_)
            | Verdict::Tproxy { .. }
            | Verdict::SetMark(_)
            | Verdict::SaveMark
            | Verdict::RestoreMark
            | Verdict::Zone(_)
            | Verdict::Opaque(_) => None,
        }
    }

    /// Whether two rules do the same and say the same, wherever they were made or read.
    #[must_use]
    pub fn same(&self, other: &Rule) -> bool {
        let sorted = |rule: &Rule| {
            let mut matches = rule.matches.clone();
            matches.sort();
            matches
        };
        self.verdict == other.verdict && self.comment == other.comment && sorted(self) == sorted(other)
    }
}

impl Match {
    /// The condition holds.
    #[must_use]
    pub fn is(test: Test) -> Match {
        Match { negated: false, test }
    }

    /// The condition does not hold.
    #[must_use]
    pub fn not(test: Test) -> Match {
        Match { negated: true, test }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_rule_is_the_same_wherever_it_stands() {
        let [tcp, first] = [Test::Protocol(Protocol::Tcp), Test::FirstPacket].map(Match::is);
        let rule =
            Rule::new(RuleId::OutboundAll, vec![tcp.clone(), first.clone()], Verdict::Accept).comment("x");
        let seen = Some(Seen { spec: String::new(), packets: 1, bytes: 2 });
        let other =
            Rule { id: None, matches: vec![first, tcp.clone()], place: Place::First, seen, ..rule.clone() };
        assert!(rule.same(&other) && other.same(&rule));
        for differing in [
            Rule { verdict: Verdict::Drop, ..rule.clone() },
            Rule { comment: None, ..rule.clone() },
            Rule { matches: vec![tcp], ..rule.clone() },
        ] {
            assert!(!rule.same(&differing) && !differing.same(&rule), "{differing:?}");
        }
    }

    #[test]
    fn tables_are_those_of_the_family() {
        let chain = |family, table: &str| Chain {
            family,
            table: Table::from(table),
            name: "A".to_owned(),
            base: None,
            rules: Vec::new(),
        };
        let chains = vec![chain(Family::V4, "nat"), chain(Family::V6, "mine"), chain(Family::V4, "raw")];
        let set = RuleSet { chains, routing: Vec::new() };
        let names = |family| set.tables(family).into_iter().map(Table::as_str).collect::<Vec<_>>();
        assert_eq!(names(Family::V4), ["raw", "nat"]);
        assert_eq!(names(Family::V6), ["mine"]);
    }

    #[test]
    fn routing_reads_as_a_person_would_ask_for_it() {
        let (family, mark, table) = (Family::V4, Mark(1337), 133);
        for (piece, text) in [
            (Routing::PassthroughAddress, "IPv6: address ::6/128 on lo"),
            (Routing::Route { family, table }, "IPv4: local default route in table 133"),
            (Routing::Rule { family, mark, table }, "IPv4: routing rule fwmark 1337 lookup 133"),
        ] {
            assert_eq!(piece.to_string(), text);
        }
    }
}
