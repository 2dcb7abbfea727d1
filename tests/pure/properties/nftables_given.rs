//! Random rules that nf_tables can say: the kernel's suite commits them as well.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use mesh_init::backend::nftables::{normal, table};
use mesh_init::policy::{Cidr, Family, Gid, IfName, Mark, Port, PortRange, RuleId, Uid};
use mesh_init::rules::{
    Base, Chain, ConnState, Hook, Kind, Match, Place, Protocol, Rule, RuleSet, Test, Verdict,
};
use proptest::prelude::*;
use proptest::{collection, option, sample};

/// A place where the kernel calls rules, and which verdicts it takes there beside the plain ones.
#[derive(Debug, Clone, Copy)]
struct Site {
    name: &'static str,
    base: Base,
    special: fn(Family) -> BoxedStrategy<Verdict>,
}

const fn base(hook: Hook, kind: Kind, priority: i32) -> Base {
    Base { hook, kind, priority, accepts: true }
}

const SITES: [Site; 6] = [
    Site { name: "nat_output", base: base(Hook::Output, Kind::Nat, -99), special: nat },
    Site { name: "nat_prerouting", base: base(Hook::Prerouting, Kind::Nat, -101), special: nat },
    Site { name: "mangle_prerouting", base: base(Hook::Prerouting, Kind::Filter, -150), special: tproxy },
    Site { name: "mangle_output", base: base(Hook::Output, Kind::Route, -150), special: marks },
    Site { name: "raw_output", base: base(Hook::Output, Kind::Filter, -300), special: zones },
    Site { name: "filter_input", base: base(Hook::Input, Kind::Filter, i32::MAX), special: marks },
];

fn nat(family: Family) -> BoxedStrategy<Verdict> {
    let address = match family {
        Family::V4 => any::<u32>().prop_map(|bits| Ipv4Addr::from(bits).into()).boxed(),
        Family::V6 => any::<u128>().prop_map(|bits| Ipv6Addr::from(bits).into()).boxed(),
    };
    let dnat = (address, port()).prop_map(|(ip, port)| Verdict::Dnat(SocketAddr::new(ip, port.number())));
    prop_oneof![port().prop_map(Verdict::Redirect), dnat].boxed()
}

fn tproxy(family: Family) -> BoxedStrategy<Verdict> {
    let tproxy = (port(), mark()).prop_map(|(port, mark)| Verdict::Tproxy { port, mark });
    prop_oneof![tproxy, marks(family)].boxed()
}

fn marks(_: Family) -> BoxedStrategy<Verdict> {
    prop_oneof![mark().prop_map(Verdict::SetMark), Just(Verdict::SaveMark), Just(Verdict::RestoreMark)]
        .boxed()
}

fn zones(_: Family) -> BoxedStrategy<Verdict> {
    any::<u16>().prop_map(Verdict::Zone).boxed()
}

fn port() -> impl Strategy<Value = Port> {
    prop_oneof![Just(1), Just(u16::MAX), 1..=u16::MAX].prop_map(|number| Port::of(number).expect("not 0"))
}

fn ports() -> impl Strategy<Value = Vec<PortRange>> {
    let range = prop_oneof![
        port().prop_map(PortRange::from),
        (port(), port()).prop_map(|(one, other)| PortRange { first: one.min(other), last: one.max(other) }),
        (80_u16..90).prop_map(|number| PortRange::from(Port::of(number).expect("not 0"))),
    ];
    collection::vec(range, 1..5)
}

fn mark() -> impl Strategy<Value = Mark> {
    any::<u32>().prop_map(Mark)
}

fn net(family: Family) -> BoxedStrategy<Cidr> {
    let bits = prop_oneof![any::<u128>(), Just(0), Just(u128::MAX), (0_u128..16)];
    let text = (bits, 0_u8..=128).prop_map(move |(bits, prefix)| match family {
        Family::V4 => {
            let bytes = bits.to_le_bytes();
            format!("{}/{}", Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]), prefix % 33)
        }
        Family::V6 => format!("{}/{prefix}", Ipv6Addr::from(bits)),
    });
    text.prop_map(|text| text.parse().expect("a network")).boxed()
}

fn nets(family: Family) -> impl Strategy<Value = Vec<Cidr>> {
    collection::vec(net(family), 1..6)
}

fn names() -> impl Strategy<Value = Vec<IfName>> {
    let name = prop_oneof![
        "[a-z]{1,3}[0-9]{0,2}[+]?",
        "[a-z_][a-z0-9_.@-]{0,14}",
        "[a-z]{14}[+]",
        Just("eth+".to_owned())
    ];
    collection::vec(name.prop_map(|name| name.parse().expect("a name")), 1..5)
}

fn ids() -> impl Strategy<Value = Vec<u32>> {
    collection::vec(prop_oneof![0_u32..5, 0..u32::MAX], 1..5)
}

fn states() -> impl Strategy<Value = Vec<ConnState>> {
    sample::subsequence(ConnState::ALL.to_vec(), 1..=4)
}

/// A condition on any packet.
fn test(family: Family) -> impl Strategy<Value = Test> {
    prop_oneof![
        3 => nets(family).prop_map(Test::Destination),
        1 => nets(family).prop_map(Test::Source),
        1 => names().prop_map(Test::InInterface),
        2 => names().prop_map(Test::OutInterface),
        2 => ids().prop_map(|ids| Test::OwnerUid(ids.into_iter().filter_map(Uid::of).collect())),
        1 => ids().prop_map(|ids| Test::OwnerGid(ids.into_iter().filter_map(Gid::of).collect())),
        1 => Just(Test::DestinationIsLocal),
        1 => states().prop_map(Test::ConnState),
        1 => Just(Test::Answer),
        1 => mark().prop_map(Test::Mark),
        1 => mark().prop_map(Test::Connmark),
    ]
}

/// A protocol, and conditions on what it has.
fn transport() -> impl Strategy<Value = Vec<Match>> {
    let other = |name: &'static str| Protocol::Other(name.to_owned());
    let protocols = vec![
        Protocol::Tcp,
        Protocol::Tcp,
        Protocol::Udp,
        other("sctp"),
        other("icmp"),
        other("6"),
        other("253"),
    ];
    let extra = (option::of(ports()), option::of(ports()), any::<[bool; 4]>());
    (sample::select(protocols), extra).prop_map(
        |(protocol, (source, destination, [first, one, two, three]))| {
            let tcp = protocol.to_string() == "tcp";
            let has_ports = tcp || matches!(protocol.to_string().as_str(), "udp" | "sctp");
            let mut matches = vec![Match { negated: !has_ports && one, test: Test::Protocol(protocol) }];
            if let Some(ports) = source.filter(|_| has_ports && three) {
                matches.push(Match { negated: one, test: Test::SourcePort(ports) });
            }
            if let Some(ports) = destination.filter(|_| has_ports) {
                matches.push(Match { negated: two && three, test: Test::DestinationPort(ports) });
            }
            if tcp && first {
                matches.push(Match { negated: two, test: Test::FirstPacket });
            }
            matches
        },
    )
}

fn rule(family: Family, site: Site, targets: Vec<String>) -> impl Strategy<Value = Rule> {
    let condition = (any::<bool>(), test(family)).prop_map(|(negated, test)| Match { negated, test });
    let matches = (option::of(transport()), collection::vec(condition, 0..3), any::<bool>()).prop_map(
        |(transport, mut others, before)| {
            let transport = transport.unwrap_or_default();
            let at = if before { 0 } else { others.len() };
            others.splice(at..at, transport);
            others
        },
    );
    let plain = prop_oneof![
        Just(Verdict::Accept),
        Just(Verdict::Return),
        Just(Verdict::Drop),
        Just(Verdict::Continue)
    ];
    let verdict = if targets.is_empty() {
        prop_oneof![plain, (site.special)(family)].boxed()
    } else {
        let target = sample::select(targets);
        let onward = (target, any::<bool>())
            .prop_map(|(chain, back)| if back { Verdict::Jump(chain) } else { Verdict::Goto(chain) });
        prop_oneof![plain, (site.special)(family), onward].boxed()
    };
    let comment =
        option::of(prop_oneof!["[ -~]{0,140}", "[a-zäé]{0,90}", Just("mesh-init:proxy.uid: so".to_owned())]);
    let id = option::of(sample::select(RuleId::ALL.to_vec()));
    (matches, verdict, comment, id).prop_map(|(matches, verdict, comment, id)| {
        // A comment that begins like one of another clause is not taken for a reason of this one.
        Rule { id, matches, verdict, comment, place: Place::Last, seen: None }
    })
}

/// Rules that could be one verdict map, or nearly.
fn run(targets: Vec<String>) -> impl Strategy<Value = Vec<Rule>> {
    let verdicts: Vec<Verdict> =
        targets.into_iter().map(Verdict::Jump).chain([Verdict::Return, Verdict::Accept]).collect();
    let rule = (1_u16..200, 0_u16..3, sample::select(verdicts), sample::select(RuleId::ALL.to_vec()));
    let rule = rule.prop_map(|(first, more, verdict, id)| {
        let port = |number| Port::of(number).expect("not 0");
        let ports = vec![PortRange { first: port(first), last: port(first + more) }];
        let matches = vec![Match::is(Test::Protocol(Protocol::Tcp)), Match::is(Test::DestinationPort(ports))];
        Rule::new(id, matches, verdict)
    });
    collection::vec(rule, 0..12)
}

fn site(family: Family, site: Site) -> impl Strategy<Value = Vec<Chain>> {
    let chain = move |name: String, base, targets: Vec<String>| {
        let rules = (collection::vec(rule(family, site, targets.clone()), 0..4), run(targets));
        rules.prop_map(move |(mut rules, run)| {
            rules.extend(run);
            Chain { family, table: table(), name: name.clone(), base, rules }
        })
    };
    let inner = format!("{}_inner", site.name);
    (
        chain(inner.clone(), None, Vec::new()),
        chain(site.name.to_owned(), Some(site.base), vec![inner]),
        any::<bool>(),
    )
        .prop_map(|(inner, mut outer, accepts)| {
            // Nothing may be refused by default where answers pass.
            outer.base = outer.base.map(|base| Base { accepts: accepts || base.kind == Kind::Nat, ..base });
            vec![inner, outer]
        })
}

/// Chains of one or both families in our tables, as somebody may compile them.
pub(crate) fn rules() -> impl Strategy<Value = RuleSet> {
    let of = |family| {
        sample::subsequence(SITES.to_vec(), 1..=3)
            .prop_flat_map(move |sites| sites.into_iter().map(|one| site(family, one)).collect::<Vec<_>>())
            .prop_map(|chains| chains.concat())
    };
    let families = prop_oneof![
        of(Family::V4),
        of(Family::V6),
        (of(Family::V4), of(Family::V6)).prop_map(|(v4, v6)| [v4, v6].concat()),
    ];
    families.prop_map(|chains| RuleSet { chains, routing: Vec::new() })
}

/// Rules without what only a reader knows.
pub(crate) fn unseen(rules: &RuleSet) -> RuleSet {
    let mut rules = normal(rules);
    for rule in rules.chains.iter_mut().flat_map(|chain| &mut chain.rules) {
        rule.seen = None;
    }
    rules
}
