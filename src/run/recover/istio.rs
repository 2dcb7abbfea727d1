//! The istio layout read back: its chains carry no comments, so each rule is known by its place and its conditions.
//!
//! Nothing here needs to be sure: what comes out is compiled again and compared with what was read.

use crate::backend::observed::Present;
use crate::backend::ownership;
use crate::input::{Faults, Key, Origin, Raw};
use crate::policy::validate::{self, Request};
use crate::policy::{Cidr, Facts, Family, Gid, IfName, Layout, PortRange, RuleId, Uid};
use crate::rules::compile::istio::{DROP, OUTPUT_DNS, TPROXY};
use crate::rules::compile::{IN_REDIRECT, INBOUND, OUTPUT, REDIRECT};
use crate::rules::{Chain, Hook, Protocol, Routing, Rule, RuleSet, Table, Test, Verdict};

/// The request whose rules are in `rules`; `None` if the chains that every one has are not there.
pub(super) fn request(rules: &RuleSet, routing: &[Present]) -> Option<Request> {
    let families: Vec<Family> =
        Family::both().filter(|family| rules.chain(*family, &Table::Nat, OUTPUT).is_some()).collect();
    let first = *families.first()?;
    let mut found = Found { raw: Raw::default() };
    let shared = rules.chains.iter().filter(|chain| chain.base.is_some());
    let commented = |rule: &Rule| rule.comment.as_deref().and_then(RuleId::of_comment).is_some();
    let ours = shared.flat_map(|chain| &chain.rules).any(commented);
    let layout = if ours { Layout::Istio } else { Layout::IstioIptables };
    let (on, off) = if ours { ("auto", "off") } else { ("on", "off") };
    found.set(Key::Layout, layout);
    found.set(Key::Ipv6, if families.contains(&Family::V6) { on } else { off });
    let nat = |name: &str| rules.chain(first, &Table::Nat, name);
    for (key, name) in [(Key::ProxyPort, REDIRECT), (Key::InboundCapturePort, IN_REDIRECT)] {
        if let Some(Rule { verdict: Verdict::Redirect(port), .. }) = nat(name)?.rules.first() {
            found.set(key, port);
        }
    }
    let inbound = nat(INBOUND)?.rules.iter();
    if let Some(tunnel) = inbound.clone().find_map(port_of) {
        found.set(Key::InboundTunnelPort, tunnel);
    }
    outbound(&mut found, rules, &families, !ours);
    self::inbound(&mut found, rules, first, layout, routing);
    interfaces(&mut found, rules, &families);
    dns(&mut found, rules, &families);
    if rules.chain(first, &Table::Mangle, DROP).is_some() {
        found.set(Key::DropInvalid, true);
    }
    validate::request(&found.raw, &Facts::default(), Faults::default()).ok()
}

/// The texts of options, as a flag would give them.
struct Found {
    raw: Raw,
}

impl Found {
    fn set(&mut self, key: Key, text: impl ToString) {
        self.raw.set(key, text.to_string(), Origin::Default);
    }

    /// A list; none of it is given empty.
    fn list<T: ToString>(&mut self, key: Key, items: &[T]) {
        if items.is_empty() {
            self.raw.set(key, "", Origin::Default);
        }
        for item in items {
            self.raw.push(key, item.to_string(), Origin::Default);
        }
    }

    fn some<T: ToString>(&mut self, key: Key, items: &[T]) {
        if !items.is_empty() {
            self.list(key, items);
        }
    }
}

/// A rule's conditions, apart.
#[derive(Default)]
struct Conditions<'a> {
    count: usize,
    tcp: bool,
    port: Option<PortRange>,
    destination: Option<Cidr>,
    over_lo: bool,
    uid: Option<Uid>,
    gid: Option<Gid>,
    not_gids: Vec<Gid>,
    arriving: Option<&'a IfName>,
}

impl<'a> Conditions<'a> {
    fn of(rule: &'a Rule) -> Conditions<'a> {
        let mut of = Conditions { count: rule.matches.len(), ..Conditions::default() };
        for condition in &rule.matches {
            match (condition.negated, &condition.test) {
                (false, Test::Protocol(protocol)) => of.tcp = *protocol == Protocol::Tcp,
                (false, Test::DestinationPort(ports)) => of.port = ports.first().copied(),
                (false, Test::Destination(nets)) => of.destination = nets.first().copied(),
                (false, Test::OutInterface(names)) => of.over_lo = *names == [IfName::lo()],
                (false, Test::InInterface(names)) => of.arriving = names.first(),
                (false, Test::OwnerUid(uids)) => of.uid = uids.first().copied(),
                (false, Test::OwnerGid(gids)) => of.gid = gids.first().copied(),
                (true, Test::OwnerGid(gids)) => of.not_gids.extend(gids),
                (_, _) => {}
            }
        }
        of
    }
}

fn port_of(rule: &Rule) -> Option<PortRange> {
    (rule.verdict == Verdict::Return).then(|| Conditions::of(rule).port).flatten()
}

fn outbound(found: &mut Found, rules: &RuleSet, families: &[Family], letter: bool) {
    let mut out = Outbound::default();
    for (index, family) in families.iter().enumerate() {
        let chain = rules.chain(*family, &Table::Nat, OUTPUT);
        out.past_loopback = false;
        for rule in chain.into_iter().flat_map(|chain| &chain.rules) {
            out.rule(rule, *family, index == 0);
        }
    }
    let Outbound { uids, gids, exclude_groups, only_groups, exclude_ports, ports, .. } = &out;
    found.list(Key::ProxyUid, uids);
    found.list(Key::ProxyGid, gids);
    found.some(Key::ExcludeOwnerGroup, exclude_groups);
    if let Some(only) = only_groups {
        found.list(Key::OwnerGroup, only);
    }
    found.some(Key::ExcludeOutboundPort, exclude_ports);
    found.some(Key::OutboundPort, ports);
    found.some(Key::ExcludeOutboundCidr, &out.exclude_cidrs);
    if let Some(loopback) = out.loopback {
        found.set(Key::LoopbackCidr, loopback);
    }
    // A rule without a condition is one for a whole family: each of them is everything, unless more is named, which
    // our own reading makes no rules for beside everything.
    let everything = out.all == families && out.cidrs.len() == out.all.len();
    if everything && (letter || ports.is_empty()) {
        found.set(Key::OutboundCidr, "*");
    } else {
        found.list(Key::OutboundCidr, &out.cidrs);
    }
}

#[derive(Default)]
struct Outbound {
    self_gids: Vec<Gid>,
    uids: Vec<Uid>,
    gids: Vec<Gid>,
    exclude_groups: Vec<Gid>,
    only_groups: Option<Vec<Gid>>,
    exclude_ports: Vec<PortRange>,
    ports: Vec<PortRange>,
    exclude_cidrs: Vec<Cidr>,
    cidrs: Vec<Cidr>,
    all: Vec<Family>,
    loopback: Option<Cidr>,
    past_loopback: bool,
}

impl Outbound {
    /// `first` is whether the family is the first one: what both families say is taken from it.
    fn rule(&mut self, rule: &Rule, family: Family, first: bool) {
        let of = Conditions::of(rule);
        match (&rule.verdict, rule.target()) {
            (Verdict::Return, _) if of.over_lo => {}
            (Verdict::Return, _) if of.destination.is_some() && !self.past_loopback => {
                self.past_loopback = true;
                if family == Family::V4 {
                    self.loopback = of.destination;
                }
            }
            (Verdict::Return, _) if self.past_loopback => {
                self.exclude_cidrs.push(of.destination.unwrap_or(family.everything()));
            }
            (_, Some(REDIRECT)) => match (of.port, of.destination) {
                (Some(port), _) if first => self.ports.push(port),
                (Some(_), _) => {}
                (None, Some(cidr)) => self.cidrs.push(cidr),
                (None, None) => {
                    self.all.push(family);
                    self.cidrs.push(family.everything());
                }
            },
            (_, _) if !first => {}
            (_, Some(IN_REDIRECT)) => self.self_gids.extend(of.gid),
            (Verdict::Return, _) => match of {
                Conditions { port: Some(port), tcp, .. } => self.exclude_ports.extend(tcp.then_some(port)),
                Conditions { uid: Some(uid), .. } => self.uids.push(uid),
                Conditions { gid: Some(gid), .. } if self.self_gids.contains(&gid) => self.gids.push(gid),
                Conditions { gid: Some(gid), .. } => self.exclude_groups.push(gid),
                Conditions { not_gids, count, .. } if not_gids.len() == count => {
                    self.only_groups = Some(not_gids);
                }
                Conditions { .. } => {}
            },
            (_, _) => {}
        }
    }
}

fn inbound(found: &mut Found, rules: &RuleSet, family: Family, layout: Layout, routing: &[Present]) {
    let mangle = |name: &str| rules.chain(family, &Table::Mangle, name);
    let restored = |chain: &Chain| {
        let ours = chain.rules.iter().filter(|rule| ownership::is_our_rule(rule));
        ours.flat_map(|rule| &rule.matches).find_map(|of| match (of.negated, &of.test) {
            (false, Test::Connmark(mark)) => Some(*mark),
            (_, _) => None,
        })
    };
    let mark = mangle(Hook::Output.builtin()).and_then(restored);
    let table = if mark.is_some() { Table::Mangle } else { Table::Nat };
    if let Some(mark) = mark {
        found.set(Key::Mode, "TPROXY");
        found.set(Key::TproxyMark, mark);
        let of_mark = routing.iter().find_map(|present| match present.what {
            Routing::Rule { mark: of, table, .. } if of == mark => Some(table),
            Routing::Rule { .. } | Routing::Route { .. } | Routing::PassthroughAddress => None,
        });
        if let Some(table) = of_mark {
            found.set(Key::TproxyTable, table);
        }
        if let Some(Rule { verdict: Verdict::Tproxy { port, .. }, .. }) =
            mangle(TPROXY).and_then(|chain| chain.rules.first())
        {
            found.set(Key::InboundCapturePort, port);
        }
    }
    let mut captured: Vec<String> = Vec::new();
    let mut excluded: Vec<PortRange> = Vec::new();
    let chain = rules.chain(family, &table, INBOUND);
    for rule in chain.into_iter().flat_map(|chain| &chain.rules) {
        let port = Conditions::of(rule).port;
        match (&rule.verdict, rule.target()) {
            (Verdict::Return, _) => excluded.extend(port),
            (_, Some(IN_REDIRECT | TPROXY)) => {
                captured.push(port.map_or_else(|| "*".to_owned(), |port| port.to_string()));
            }
            (_, _) => {}
        }
    }
    // The first one is the tunnel port; upstream has none in the mangle table.
    if !excluded.is_empty() && (table == Table::Nat || layout == Layout::Istio) {
        excluded.remove(0);
    }
    found.list(Key::Inbound, &captured);
    if captured == ["*"] {
        found.some(Key::ExcludeInbound, &excluded);
    }
}

fn interfaces(found: &mut Found, rules: &RuleSet, families: &[Family]) {
    let shared = |family: &Family| rules.chain(*family, &Table::Nat, Hook::Prerouting.builtin());
    // Both families name the same interfaces, but jumps by network stand in one of them only.
    let ours = |chain: &&Chain| chain.rules.iter().filter(|rule| ownership::is_our_rule(rule)).count();
    let shared = families.iter().filter_map(shared).max_by_key(ours);
    let (mut excluded, mut rerouted): (Vec<&IfName>, Vec<&IfName>) = (Vec::new(), Vec::new());
    for rule in shared.into_iter().flat_map(|chain| &chain.rules).filter(|rule| ownership::is_our_rule(rule))
    {
        let Some(name) = Conditions::of(rule).arriving else { continue };
        let clause = super::clause(rule).or(rule.id);
        if clause == Some(RuleId::InboundExcludeInterface) {
            excluded.push(name);
        } else {
            rerouted.push(name);
        }
    }
    // Each was inserted before the others.
    rerouted.reverse();
    let mut once: Vec<&IfName> = Vec::new();
    for name in rerouted {
        if !once.contains(&name) {
            once.push(name);
        }
    }
    found.some(Key::ExcludeInterface, &excluded);
    found.some(Key::RerouteInterface, &once);
}

fn dns(found: &mut Found, rules: &RuleSet, families: &[Family]) {
    let mut servers: Vec<String> = Vec::new();
    for family in families {
        let chain = rules.chain(*family, &Table::Nat, OUTPUT_DNS);
        for rule in chain.into_iter().flat_map(|chain| &chain.rules) {
            let (Verdict::Redirect(port), of) = (&rule.verdict, Conditions::of(rule)) else { continue };
            found.set(Key::RedirectDns, true);
            found.set(Key::DnsPort, port);
            match of.destination {
                Some(server) if of.tcp => {
                    let text = server.to_string();
                    servers.push(text.split('/').next().unwrap_or_default().to_owned());
                }
                Some(_) => {}
                None => found.set(Key::CaptureAllDns, true),
            }
        }
    }
    found.some(Key::DnsServer, &servers);
}
