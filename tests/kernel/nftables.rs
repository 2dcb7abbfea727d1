//! Rules committed to nf_tables without a program, read back by ourselves and by `nft`.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{Ipv6Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use mesh_init::backend::nftables::batch::next_generation;
use mesh_init::backend::nftables::{
    Batch, Decoded, Options, TABLE, create, decode, normal, plan, removal, table,
};
use mesh_init::error::{Class, Error};
use mesh_init::policy::{Cidr, Family, Mark, Port, PortRange, RuleId};
use mesh_init::rules::{Base, Chain, Hook, Kind, Match, Protocol, Rule, RuleSet, Test, Verdict};
use mesh_init::sys::nftables::Nftables;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::harness::Case;
use crate::support::command::Run;
use crate::support::creds::Who;
use crate::support::netns::Netns;

#[path = "../pure/properties/nftables_given.rs"]
mod given;

pub(crate) fn cases() -> Vec<Case> {
    let list: [(&str, fn()); 13] = [
        ("every_word", every_word),
        ("as_nft_writes_it", as_nft_writes_it),
        ("foreign", foreign),
        ("large_sets", large_sets),
        ("shared_set", shared_set),
        ("staged", staged),
        ("maps_count", maps_count),
        ("tampered_maps", tampered_maps),
        ("moved_chain", moved_chain),
        ("tampered", tampered),
        ("clash", clash),
        ("refusals", refusals),
        ("cost", cost),
    ];
    let mut cases: Vec<Case> = list.map(|(name, body)| Case::new(&format!("nftables::{name}"), body)).into();
    cases.push(Case::new("nftables::random", random).within(Duration::from_secs(120)));
    cases
}

#[track_caller]
fn look(netns: &Netns) -> (u32, Decoded) {
    let snapshot = netns.run(|| Nftables::open().and_then(|nft| nft.tables(TABLE)).expect("a snapshot"));
    (snapshot.generation, decode(&snapshot.messages))
}

#[track_caller]
fn commit_all(netns: &Netns, mut generation: u32, batches: &[Batch]) -> Result<(), Error> {
    netns.run(|| {
        let nft = Nftables::open()?;
        for batch in batches {
            nft.commit(&batch.bytes(Some(generation))?, batch.objects())?;
            generation = next_generation(generation);
        }
        Ok(())
    })
}

/// Makes it so, sees that it is, and that there is nothing left to do. How many batches it took.
#[track_caller]
fn apply(netns: &Netns, rules: &RuleSet, options: Options) -> usize {
    let (generation, there) = look(netns);
    let batches = plan(rules, &there, options).expect("a plan");
    let listing = || Run::new(netns, "nft", &["-a", "list", "ruleset"]).ok();
    if let Err(error) = commit_all(netns, generation, &batches) {
        panic!("{error}\n{:#?}\n{}", batches.iter().map(Batch::objects).collect::<Vec<_>>(), listing());
    }
    let (_, there) = look(netns);
    assert_eq!(by_name(&given::unseen(&there.rules)), by_name(&normal(rules)), "{}", listing());
    assert_eq!(plan(rules, &there, options), Ok(vec![]), "{}", listing());
    batches.len()
}

/// A chain that was added later stands later; that is no difference.
fn by_name(rules: &RuleSet) -> Vec<Chain> {
    let mut chains = rules.chains.clone();
    chains.sort_by(|one, other| (one.family, &one.name).cmp(&(other.family, &other.name)));
    chains
}

fn nat_output() -> Base {
    Base { hook: Hook::Output, kind: Kind::Nat, priority: -99, accepts: true }
}

fn chain(family: Family, name: &str, base: Option<Base>, rules: Vec<Rule>) -> Chain {
    Chain { family, table: table(), name: name.into(), base, rules }
}

fn set(chains: Vec<Chain>) -> RuleSet {
    RuleSet { chains, routing: Vec::new() }
}

fn port(number: u16) -> Port {
    Port::of(number).expect("not 0")
}

fn tcp() -> Match {
    Match::is(Test::Protocol(Protocol::Tcp))
}

fn ports(list: &[u16]) -> Test {
    Test::DestinationPort(list.iter().map(|number| PortRange::from(port(*number))).collect())
}

fn nets(texts: &[&str]) -> Vec<Cidr> {
    texts.iter().map(|text| text.parse().expect("a network")).collect()
}

/// Every test and verdict of the model, with what `nft list` says of it.
fn every_word() {
    let netns = Netns::new("here");
    let of =
        |matches: Vec<Match>, verdict| Rule::new(RuleId::OutboundAll, matches, verdict).comment("a reason");
    let is = |test| vec![Match::is(test)];
    let not = |test| vec![Match::not(test)];
    let on = |test| vec![tcp(), Match::is(test)];
    let range = Test::DestinationPort(vec!["8000-8080".parse().expect("a range")]);
    let accept = || Verdict::Accept;
    use mesh_init::rules::ConnState::{Established, Invalid, New};
    let links = |list: &[&str]| list.iter().map(|name| name.parse().expect("a name")).collect::<Vec<_>>();
    let uids =
        |list: &[u32]| list.iter().filter_map(|id| mesh_init::policy::Uid::of(*id)).collect::<Vec<_>>();
    let gids =
        |list: &[u32]| list.iter().filter_map(|id| mesh_init::policy::Gid::of(*id)).collect::<Vec<_>>();
    let filter = vec![
        (
            of(is(Test::Destination(nets(&["10.0.0.0/9"]))), accept()),
            "ip daddr 10.0.0.0/9 counter packets 0 bytes 0 accept comment \"mesh-init:outbound.all: a reason\"",
        ),
        (of(not(Test::Source(nets(&["10.0.0.1"]))), accept()), "ip saddr != 10.0.0.1 counter"),
        (of(is(Test::Destination(nets(&["0.0.0.0/0"]))), accept()), "ip daddr"),
        (
            of(not(Test::Destination(nets(&["10.0.0.0/8", "255.255.255.0/24"]))), accept()),
            "ip daddr != @nets_",
        ),
        (of(is(Test::OutInterface(links(&["eth0"]))), accept()), "oifname \"eth0\" counter"),
        (of(not(Test::OutInterface(links(&["eth+"]))), accept()), "oifname != \"eth*\" counter"),
        (of(is(Test::InInterface(links(&["eth0", "lo"]))), accept()), "iifname @links_"),
        (of(is(Test::OutInterface(links(&["eth+", "lo"]))), accept()), "oifname @links_"),
        (of(vec![tcp()], accept()), "meta l4proto tcp counter"),
        (of(not(Test::Protocol(Protocol::Other("sctp".into()))), accept()), "meta l4proto != sctp counter"),
        (of(on(ports(&[80])), accept()), "tcp dport 80 counter"),
        (of(vec![tcp(), Match::not(range.clone())], accept()), "tcp dport != 8000-8080 counter"),
        (of(on(ports(&[80, 443, 65535])), accept()), "tcp dport @ports_"),
        (of(on(Test::SourcePort(vec![port(53).into()])), accept()), "tcp sport 53 counter"),
        (of(on(range), accept()), "tcp dport 8000-8080 counter"),
        (of(on(Test::FirstPacket), accept()), "tcp flags syn / fin,syn,rst,ack counter"),
        (of(vec![tcp(), Match::not(Test::FirstPacket)], accept()), "tcp flags != syn / fin,syn,rst,ack"),
        (
            of(is(Test::OwnerUid(uids(&[1337]))), Verdict::Return),
            "meta skuid 1337 counter packets 0 bytes 0 return",
        ),
        (of(not(Test::OwnerGid(gids(&[1337, 0]))), accept()), "meta skgid != @gids_"),
        (of(is(Test::OwnerUid(uids(&[1, 2]))), accept()), "meta skuid @uids_"),
        (of(not(Test::DestinationIsLocal), accept()), "fib daddr type != local counter"),
        (of(is(Test::ConnState(vec![New, Established])), accept()), "ct state established,new counter"),
        (of(not(Test::ConnState(vec![Invalid])), accept()), "ct state ! invalid counter"),
        (of(is(Test::Answer), accept()), "ct direction reply counter"),
        (of(is(Test::Mark(Mark(0x539))), accept()), "meta mark 0x00000539 counter"),
        (of(not(Test::Connmark(Mark(0x539))), accept()), "ct mark != 0x00000539 counter"),
        (of(vec![], Verdict::Continue), "counter packets 0 bytes 0 comment"),
        (of(vec![], Verdict::Jump("inner".into())), "jump inner"),
        (of(vec![], Verdict::Goto("inner".into())), "goto inner"),
        (of(vec![], Verdict::SetMark(Mark(5))), "meta mark set 0x00000005"),
        (of(vec![], Verdict::SaveMark), "ct mark set meta mark"),
        (of(vec![], Verdict::RestoreMark), "meta mark set ct mark"),
        (of(vec![], Verdict::Zone(2)), "ct zone set 2"),
        (of(vec![], Verdict::Drop), "drop"),
    ];
    let nat = vec![
        (of(vec![tcp()], Verdict::Redirect(port(15001))), "redirect to :15001"),
        (of(vec![tcp()], Verdict::Dnat("10.1.2.3:53".parse().expect("an address"))), "dnat to 10.1.2.3:53"),
    ];
    let tproxy = vec![(
        of(vec![tcp()], Verdict::Tproxy { port: port(15006), mark: Mark(1337) }),
        "tproxy to :15006 meta mark set 0x00000539 accept",
    )];
    let base = |hook, kind, priority| Some(Base { hook, kind, priority, accepts: true });
    let rules = |list: &[(Rule, &str)]| list.iter().map(|(rule, _)| rule.clone()).collect::<Vec<_>>();
    let given = set(vec![
        chain(Family::V4, "inner", None, vec![]),
        chain(Family::V4, "out", base(Hook::Output, Kind::Route, -150), rules(&filter)),
        chain(Family::V4, "nat", base(Hook::Output, Kind::Nat, -99), rules(&nat)),
        chain(Family::V4, "pre", base(Hook::Prerouting, Kind::Filter, -150), rules(&tproxy)),
    ]);
    assert_eq!(apply(&netns, &given, Options::default()), 1);
    let listed = Run::new(&netns, "nft", &["-a", "list", "ruleset"]).ok();
    let mut lines = listed.lines().skip_while(|line| !line.contains("chain out"));
    for (_, word) in filter.iter().chain(&nat).chain(&tproxy) {
        assert!(lines.any(|line| line.contains(word)), "no `{word}`, in order, in\n{listed}");
    }
    for word in [
        "255.255.255.0/24 }",
        "\"eth0\" }",
        "\"eth*\"",
        "{ 80, 443, 65535 }",
        "elements = { 1, 2 }",
        "type uid",
        "type gid",
        "type ifname",
        "type inet_service",
        "type nat hook output priority -99; policy accept;",
        "type route hook output priority mangle; policy accept;",
    ] {
        assert!(listed.contains(word), "no `{word}` in\n{listed}");
    }
    let (_, there) = look(&netns);
    assert!(there.handles.iter().flatten().all(|handle| *handle > 0));
}

fn random() {
    let mut runner =
        TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]));
    let netns = Netns::new("here");
    let mut spelling = [false, true].into_iter().cycle();
    let (mut fresh, mut replaced) = (0, 0);
    for round in 0..60 {
        let rules = given::rules().new_tree(&mut runner).expect("rules").current();
        let options = Options { maps: spelling.next().expect("a cycle") };
        if round % 3 == 0 {
            let (generation, there) = look(&netns);
            let batch: Vec<Batch> = removal(&there).into_iter().collect();
            commit_all(&netns, generation, &batch).expect("a removal");
            assert_eq!(Run::new(&netns, "nft", &["list", "ruleset"]).ok(), "");
            assert_eq!(apply(&netns, &rules, options), 1);
            fresh += 1;
        } else {
            assert!(apply(&netns, &rules, options) <= 3);
            replaced += 1;
        }
    }
    eprintln!("{fresh} created, {replaced} replaced");
}

/// The same conditions, loaded by `nft`.
fn as_nft_writes_it() {
    let netns = Netns::new("here");
    let text = "table ip mesh_init {
        set some { type ipv4_addr; flags interval; elements = { 10.0.0.0/8, 10.128.0.0/9, 255.255.255.0/24 }; auto-merge; }
        chain to { }
        chain out { type nat hook output priority -99; policy accept;
            ip daddr @some tcp dport { 80, 443, 8000-8080 } counter redirect to :15001
            ip daddr 10.0.0.0/8 return comment \"mesh-init:outbound.exclude-cidr: so\"
            ip saddr 10.1.0.0/17 ip daddr 10.2.3.4 return
            ip protocol tcp tcp sport 1 tcp dport 2 return
            ip daddr 10.0.0.1-10.0.0.2 return
            ip daddr != { 10.0.0.0/8, 12.0.0.0/8 } return
            tcp flags & (fin|syn|rst|ack) == syn return
            oifname { \"eth0\", \"lo\" } return
            oifname \"eth*\" return
            meta skuid { 1, 2 } return
            meta skuid != 1337 return
            fib daddr type local return
            ct state new,established return
            ct state { new, established } return
            ct state invalid drop
            ct direction original return
            tcp dport vmap { 80: jump to, 81-90: return }
            tcp dport 53 dnat to 10.0.0.1:53
        }
        chain pre { type filter hook prerouting priority -150; policy accept;
            meta mark 0x539 ct mark set meta mark
            meta mark set ct mark
            tcp dport 80 tproxy to :15006 meta mark set 0x539 accept
            tcp dport 80 drop
            ct zone set 1
        }
    }";
    Run::with_input(&netns, "nft", &["-f", "-"], text).ok();
    let (_, there) = look(&netns);
    let said: Vec<(String, String)> = there
        .rules
        .chains
        .iter()
        .flat_map(|chain| {
            chain.rules.iter().map(|rule| (chain.name.clone(), rule.seen.clone().expect("seen").spec))
        })
        .collect();
    let lines: Vec<&str> = said.iter().map(|(_, spec)| spec.as_str()).collect();
    assert_eq!(
        lines,
        [
            "ip daddr { 10.0.0.0/8, 255.255.255.0/24 } tcp dport { 80, 443, 8000-8080 } redirect to :15001",
            "ip daddr 10.0.0.0/8 return comment \"mesh-init:outbound.exclude-cidr: so\"",
            "ip saddr 10.1.0.0/17 ip daddr 10.2.3.4/32 return",
            "tcp sport 1 tcp dport 2 return",
            "ip daddr { 10.0.0.1/32, 10.0.0.2/32 } return",
            "ip daddr != { 10.0.0.0/8, 12.0.0.0/8 } return",
            "tcp flags & (fin | syn | rst | ack) == syn return",
            "oifname { \"eth0\", \"lo\" } return",
            "oifname \"eth*\" return",
            "meta skuid { 1, 2 } return",
            "meta skuid != 1337 return",
            "fib daddr type local return",
            "ct state new,established return",
            "ct state new,established return",
            "ct state invalid drop",
            "ct direction != reply return",
            "tcp dport 80 jump to",
            "tcp dport 81-90 return",
            "tcp dport 53 dnat to 10.0.0.1:53",
            "meta mark 0x539 ct mark set meta mark",
            "meta mark set ct mark",
            "tcp dport 80 tproxy to :15006 meta mark set 0x539 accept",
            "ct zone set 1",
        ]
    );
    for rule in there.rules.chains.iter().flat_map(|chain| &chain.rules) {
        let opaque = rule.matches.iter().any(|condition| matches!(condition.test, Test::Opaque(_)));
        assert!(!opaque && !matches!(rule.verdict, Verdict::Opaque(_)), "{rule:?}");
    }
    assert_eq!(there.rules.chains[1].rules[1].id, Some(RuleId::OutboundExcludeCidr));
    // Equal rules are equal, whoever wrote them: here only the set's name tells.
    let wanted = given::unseen(&there.rules);
    assert_eq!(plan(&wanted, &there, Options::default()), Ok(vec![]));
}

fn foreign() {
    let netns = Netns::new("here");
    let text = "table inet other {
        chain out { type filter hook output priority 0; policy drop;
            ip daddr 10.0.0.0/8 accept
            ip6 daddr fd00::/8 accept
            limit rate 5/second accept
            meta l4proto { tcp, udp } th dport 53 accept
            tcp flags syn log prefix \"x\" accept
            ip daddr . tcp dport { 1.2.3.4 . 80 } accept
            meta mark set 1 accept
            meta mark set meta mark | 4
            tcp dport 25 reject with tcp reset
            meta mark & 0xff == 1 accept
            iif lo accept
        }
        chain in { type filter hook ingress device lo priority 0;
        }
    }
    table ip nat {
        chain POSTROUTING { type nat hook postrouting priority 100;
            masquerade
        }
    }
    table ip6 asleep {
        flags dormant
        chain out { type filter hook output priority 0;
            accept
        }
    }
    table arp ignored {
        chain out { type filter hook output priority 0;
        }
    }";
    Run::with_input(&netns, "nft", &["-f", "-"], text).ok();
    let snapshot = netns.run(|| Nftables::open().and_then(|nft| nft.everything()).expect("a snapshot"));
    let there = decode(&snapshot.messages);
    let specs = |family| -> Vec<String> {
        let of = |chain: &&Chain| chain.family == family && chain.table.as_str() == "inet other";
        let chain = there.rules.chains.iter().find(of).expect("a chain");
        assert_eq!(chain.base.map(|base| base.accepts), Some(false));
        chain.rules.iter().map(|rule| rule.seen.clone().expect("seen").spec).collect()
    };
    let (v4, v6) = (specs(Family::V4), specs(Family::V6));
    eprintln!("{v4:#?}\n{v6:#?}");
    assert_eq!(v4[0], "ip daddr 10.0.0.0/8 accept");
    assert_eq!(v6[0], "ip6 daddr fd00::/8 accept");
    assert_eq!((v4.len(), v6.len()), (11, 10));
    assert_eq!(v4[1], "expr limit accept");
    // A set of protocols is a rule for each.
    assert_eq!(v4[2..4], ["tcp dport 53 accept", "udp dport 53 accept"]);
    for chain in there.rules.chains.iter().filter(|chain| chain.table.as_str() == "inet other") {
        let read = ["tcp dport 53 accept", "udp dport 53 accept"];
        let is_read = |rule: &Rule| rule.seen.as_ref().is_some_and(|seen| read.contains(&seen.spec.as_str()));
        for rule in chain.rules.iter().skip(1).filter(|rule| !is_read(rule)) {
            let opaque = rule.matches.iter().any(|condition| matches!(condition.test, Test::Opaque(_)));
            assert!(opaque || matches!(rule.verdict, Verdict::Opaque(_)), "{rule:?}");
        }
    }
    assert_eq!(there.beyond.len(), 1, "{:?}", there.beyond);
    let asleep = there.rules.chains.iter().find(|chain| chain.table.as_str() == "asleep").expect("a chain");
    assert_eq!(asleep.base, None);
    assert!(there.ours.tables.is_empty());
    assert!(!there.rules.chains.iter().any(|chain| chain.table.as_str() == "ignored"));
}

fn large_sets() {
    let netns = Netns::new("here");
    let many: Vec<Cidr> = (0..10_000_u32)
        .map(|n| format!("10.{}.{}.0/25", n / 256, n % 256).parse().expect("a network"))
        .collect();
    let six: Vec<Cidr> =
        (0..10_000_u32).map(|n| format!("fd00:{n:x}::/33").parse().expect("a network")).collect();
    let numbers: Vec<u16> = (0..1000).map(|n| 1000 + n * 2).collect();
    let rule = |nets, numbers: &[u16]| {
        let matches = vec![tcp(), Match::is(Test::Destination(nets)), Match::is(ports(numbers))];
        Rule::new(RuleId::OutboundExcludeCidr, matches, Verdict::Return)
    };
    let rules = set(vec![
        chain(Family::V4, "out", Some(nat_output()), vec![rule(many, &numbers)]),
        chain(Family::V6, "out", Some(nat_output()), vec![rule(six, &numbers)]),
    ]);
    let batch = create(&rules, Options::default()).expect("a batch");
    let bytes = batch.bytes(None).expect("bytes").len();
    let started = Instant::now();
    assert_eq!(apply(&netns, &rules, Options::default()), 1);
    eprintln!(
        "{bytes} bytes in {} messages, applied and verified in {:?}",
        batch.objects().len(),
        started.elapsed()
    );
    // Without the privilege of the first user namespace the buffer ends at net.core.wmem_max.
    let error = netns
        .run_as(Who::user(1000), || Nftables::open().and_then(|nft| nft.commit(&vec![0; 256 << 20], &[])))
        .expect_err("too large");
    eprintln!("{error}");
    assert_eq!(error.class, Class::Host, "{error}");
    assert!(error.to_string().contains("net.core.wmem_max"), "{error}");
}

fn shared_set() {
    let netns = Netns::new("here");
    let rule = |verdict| Rule::new(RuleId::OutboundPort, vec![tcp(), Match::is(ports(&[80, 443]))], verdict);
    let rules = set(vec![
        chain(Family::V4, "a", None, vec![rule(Verdict::Return)]),
        chain(
            Family::V4,
            "b",
            Some(nat_output()),
            vec![rule(Verdict::Redirect(port(15001))), rule(Verdict::Return)],
        ),
    ]);
    apply(&netns, &rules, Options::default());
    assert_eq!(look(&netns).1.ours.sets.len(), 1);
}

/// Rules with sets, maps and chains of which each replacement keeps some.
fn staged() {
    let netns = Netns::new("here");
    let rule =
        |list: &[u16], verdict| Rule::new(RuleId::InboundPort, vec![tcp(), Match::is(ports(list))], verdict);
    let jump = |chain: &str| Verdict::Jump(chain.into());
    let maps = Options::default();
    let one = set(vec![
        chain(Family::V4, "x", None, vec![]),
        chain(Family::V4, "y", None, vec![rule(&[9, 11], Verdict::Return)]),
        chain(Family::V4, "in", Some(nat_output()), vec![rule(&[1], jump("x")), rule(&[2, 4], jump("y"))]),
    ]);
    let two = set(vec![
        chain(
            Family::V4,
            "in",
            Some(nat_output()),
            vec![rule(&[1], jump("z")), rule(&[2, 5], Verdict::Return)],
        ),
        chain(Family::V4, "z", None, vec![rule(&[9, 11], Verdict::Return)]),
        chain(Family::V6, "in", Some(nat_output()), vec![rule(&[7, 9], Verdict::Return)]),
    ]);
    let plain = set(vec![chain(Family::V6, "in", Some(nat_output()), vec![rule(&[1], Verdict::Return)])]);
    assert_eq!(apply(&netns, &one, maps), 1);
    assert_eq!(apply(&netns, &one, maps), 0);
    assert_eq!(apply(&netns, &one, Options { maps: false }), 0, "another spelling of the same");
    assert_eq!(apply(&netns, &two, maps), 3);
    assert_eq!(apply(&netns, &one, maps), 3);
    assert_eq!(apply(&netns, &two, Options { maps: false }), 3);
    assert_eq!(apply(&netns, &plain, maps), 2);
    assert_eq!(look(&netns).1.ours.sets.len(), 0);
    let (generation, there) = look(&netns);
    let nothing = plan(&RuleSet::default(), &there, maps).expect("a plan");
    assert_eq!(nothing.len(), 1);
    commit_all(&netns, generation, &nothing).expect("a removal");
    assert_eq!(Run::new(&netns, "nft", &["list", "ruleset"]).ok(), "");
    assert_eq!(removal(&look(&netns).1), None);
}

/// Maps of ports and of networks, hashes and intervals.
fn mapped(family: Family) -> RuleSet {
    let at = |id, list: &[u16], verdict| {
        Rule::new(id, vec![tcp(), Match::is(ports(list))], verdict).comment("why")
    };
    let to =
        |id, list: &[&str], verdict| Rule::new(id, vec![Match::is(Test::Destination(nets(list)))], verdict);
    let jump = || Verdict::Jump("there".into());
    let (back, none) = (|| Verdict::Return, || Rule::new(RuleId::OutboundAll, vec![], Verdict::Continue));
    let onward = |name: &str| Rule::new(RuleId::OutboundHook, vec![tcp()], Verdict::Jump(name.into()));
    let udp = vec![Match::is(Test::Protocol(Protocol::Udp))];
    let [one, some, rest]: [&[&str]; 3] = match family {
        Family::V4 => [&["127.0.0.1/32"], &["127.0.0.2/32", "127.0.1.0/24"], &["10.0.0.0/8", "127.0.2.0/23"]],
        Family::V6 => [&["::1/128"], &["::2/128", "fd00::/16"], &["::3/128", "fe00::/7"]],
    };
    set(vec![
        chain(family, "there", None, vec![none()]),
        chain(
            family,
            "ranges",
            None,
            vec![
                at(RuleId::InboundTunnel, &[15008], back()),
                at(RuleId::InboundExcludePort, &[15020, 15021, 15090], back()),
                at(RuleId::InboundPort, &[15009, 80], jump()),
            ],
        ),
        chain(
            family,
            "singles",
            None,
            vec![
                at(RuleId::InboundTunnel, &[15008], jump()),
                at(RuleId::InboundReserved, &[22], back()),
                at(RuleId::InboundExcludePort, &[15021], Verdict::Accept),
            ],
        ),
        chain(
            family,
            "networks",
            None,
            vec![
                to(RuleId::OutboundLoopback, one, back()),
                to(RuleId::OutboundExcludeCidr, some, back()),
                to(RuleId::OutboundCidr, rest, jump()),
            ],
        ),
        chain(
            family,
            "out",
            Some(nat_output()),
            vec![
                onward("ranges"),
                onward("networks"),
                onward("singles"),
                // conntrack, and with it chains of type nat, begins where something is translated.
                Rule::new(RuleId::DnsCapture, udp, Verdict::Redirect(port(15053))),
            ],
        ),
    ])
}

/// Each rule of a map is counted by itself, as the kernel, nft and we see it.
fn maps_count() {
    let of = |port: u16, family| match family {
        Family::V4 => SocketAddr::from(([127, 0, 0, 1], port)),
        Family::V6 => SocketAddr::from((Ipv6Addr::LOCALHOST, port)),
    };
    for family in Family::both() {
        let netns = Netns::new("here");
        assert_eq!(apply(&netns, &mapped(family), Options::default()), 1);
        let (_, there) = look(&netns);
        let maps = there.ours.sets.iter().filter(|set| set.counts).count();
        assert_eq!((maps, there.ours.sets.len()), (3, 3), "{:?}", there.ours.sets);
        let mut expected = BTreeMap::new();
        for (port, times, id) in [
            (15008, 1, RuleId::InboundTunnel),
            (15020, 2, RuleId::InboundExcludePort),
            (15021, 3, RuleId::InboundExcludePort),
            (80, 4, RuleId::InboundPort),
            (15009, 5, RuleId::InboundPort),
            (9999, 6, RuleId::OutboundHook),
        ] {
            for _ in 0..times {
                let error = netns.run(|| TcpStream::connect(of(port, family))).expect_err("nobody listens");
                assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
            }
            *expected.entry(id).or_insert(0) += times;
        }
        let all: u64 = expected.values().sum();
        let (_, there) = look(&netns);
        let chain = |name: &str| there.rules.chains.iter().find(|chain| chain.name == name).expect("a chain");
        let counts = |name: &str| -> BTreeMap<RuleId, u64> {
            let of = |rule: &Rule| (rule.id.expect("ours"), rule.seen.as_ref().expect("seen").packets);
            chain(name).rules.iter().map(of).filter(|(_, packets)| *packets > 0).collect()
        };
        let mut ranges = expected.clone();
        ranges.remove(&RuleId::OutboundHook);
        assert_eq!(counts("ranges"), ranges, "{family}");
        assert_eq!(counts("networks"), BTreeMap::from([(RuleId::OutboundLoopback, all)]), "{family}");
        let singles = [(RuleId::InboundTunnel, 1), (RuleId::InboundExcludePort, 3)];
        assert_eq!(counts("singles"), BTreeMap::from(singles), "{family}");
        let listed = Run::new(&netns, "nft", &["list", "ruleset"]).ok();
        for word in [
            "tcp dport vmap @map_",
            "15008 counter packets 1 bytes ",
            "comment \"mesh-init:inbound.tunnel: why\" : return",
            "15020-15021 counter packets 5 bytes ",
            "15021 counter packets 3 bytes ",
        ] {
            assert!(listed.contains(word), "no `{word}` in\n{listed}");
        }
    }
}

/// What somebody else does to a map is put right, and what it counted before is no matter.
fn tampered_maps() {
    let netns = Netns::new("here");
    let rules = mapped(Family::V4);
    apply(&netns, &rules, Options::default());
    let name = |keys: usize, interval: bool| {
        let sets = look(&netns).1.ours.sets;
        let set = sets.iter().find(|set| set.key_length == keys && (set.flags & 4 != 0) == interval);
        set.expect("a map").name.clone()
    };
    let (ranges, singles, networks) = (name(2, true), name(2, false), name(4, true));
    for line in [
        format!("delete element ip mesh_init {ranges} {{ 15008 : return }}"),
        format!("add element ip mesh_init {ranges} {{ 7000-7010 : return }}"),
        format!("flush map ip mesh_init {ranges}"),
        format!("delete element ip mesh_init {singles} {{ 15008 : jump there }}"),
        format!("add element ip mesh_init {singles} {{ 15009 : jump there }}"),
        format!("delete element ip mesh_init {networks} {{ 127.0.0.1 : return }}"),
        format!("flush map ip mesh_init {networks}"),
        "flush chain ip mesh_init networks".to_owned(),
    ] {
        let (_, before) = look(&netns);
        assert_eq!(plan(&rules, &before, Options::default()), Ok(vec![]));
        Run::new(&netns, "nft", &[&line]).ok();
        assert!(apply(&netns, &rules, Options::default()) > 0, "{line} was not seen");
    }
    // From a kernel that cannot count in maps to one that can, and back: the rules are the same.
    assert_eq!(apply(&netns, &rules, Options { maps: false }), 0);
    let (generation, there) = look(&netns);
    commit_all(&netns, generation, &removal(&there).into_iter().collect::<Vec<_>>()).expect("a removal");
    assert_eq!(apply(&netns, &rules, Options { maps: false }), 1);
    assert!(look(&netns).1.ours.sets.iter().all(|set| !set.counts));
    assert_eq!(apply(&netns, &rules, Options::default()), 0);
}

/// A base chain that stays cannot move; deleted and made anew in one batch it does.
fn moved_chain() {
    let netns = Netns::new("here");
    let at = |base: Option<Base>, verdict: Verdict| {
        set(vec![
            chain(Family::V4, "other", Some(nat_output()), vec![]),
            chain(Family::V4, "out", base, vec![Rule::new(RuleId::OutboundAll, vec![tcp()], verdict)]),
        ])
    };
    let base = |hook, kind, priority, accepts| Some(Base { hook, kind, priority, accepts });
    for base in [
        Some(nat_output()),
        base(Hook::Output, Kind::Nat, -101, true),
        base(Hook::Prerouting, Kind::Nat, -101, true),
        base(Hook::Input, Kind::Filter, 5, false),
        base(Hook::Input, Kind::Filter, 5, true),
        base(Hook::Output, Kind::Route, 5, true),
        None,
        Some(nat_output()),
    ] {
        assert_eq!(apply(&netns, &at(base, Verdict::Return), Options::default()), 1, "{base:?}");
    }
}

/// What somebody else does to ours is put right.
fn tampered() {
    let netns = Netns::new("here");
    let matches = vec![tcp(), Match::is(Test::Destination(nets(&["10.0.0.0/8", "12.0.0.0/8"])))];
    let rules = set(vec![
        chain(Family::V4, "to", None, vec![]),
        chain(
            Family::V4,
            "out",
            Some(nat_output()),
            vec![
                Rule::new(RuleId::OutboundExcludeCidr, matches, Verdict::Return),
                Rule::new(RuleId::OutboundAll, vec![tcp()], Verdict::Redirect(port(15001))),
            ],
        ),
        chain(
            Family::V4,
            "pre",
            Some(Base { hook: Hook::Prerouting, kind: Kind::Filter, priority: -150, accepts: true }),
            vec![Rule::new(
                RuleId::InboundAll,
                vec![tcp()],
                Verdict::Tproxy { port: port(15006), mark: Mark(1) },
            )],
        ),
    ]);
    apply(&netns, &rules, Options::default());
    let name = look(&netns).1.ours.sets[0].name.clone();
    let handle = || {
        let (_, there) = look(&netns);
        let at = there.rules.chains.iter().position(|chain| chain.name == "pre").expect("the chain");
        there.handles[at][0] + 1
    };
    for line in [
        format!("add element ip mesh_init {name} {{ 13.0.0.0/8 }}"),
        format!("delete element ip mesh_init {name} {{ 10.0.0.0/8 }}"),
        format!("flush set ip mesh_init {name}"),
        "insert rule ip mesh_init out accept".to_owned(),
        "insert rule ip mesh_init out limit rate 5/second accept".to_owned(),
        "flush chain ip mesh_init out".to_owned(),
        "add rule ip mesh_init out tcp dport { 1, 2 } accept".to_owned(),
        "add chain ip mesh_init more".to_owned(),
        "delete chain ip mesh_init to".to_owned(),
        "add set ip mesh_init more { type ipv4_addr; }".to_owned(),
        "add table ip6 mesh_init".to_owned(),
        "add table ip mesh_init { flags dormant; }".to_owned(),
        "add chain ip mesh_init pre { policy drop; }".to_owned(),
        format!("delete rule ip mesh_init pre handle {}", handle()),
    ] {
        let (_, before) = look(&netns);
        assert_eq!(plan(&rules, &before, Options::default()), Ok(vec![]));
        // Handles change with every replacement.
        let line = if line.starts_with("delete rule") {
            format!("delete rule ip mesh_init pre handle {}", handle())
        } else {
            line
        };
        Run::new(&netns, "nft", &[&line]).ok();
        let took = apply(&netns, &rules, Options::default());
        // An element that covers nothing that is tested for is a difference nevertheless, by the rule that names it.
        if !line.contains("add set") {
            assert!(took > 0, "{line} was not seen");
        }
    }
}

/// Two writers who looked at the same time: the second is told, and nothing of his is done.
fn clash() {
    let netns = Netns::new("here");
    let rules = |verdict| {
        set(vec![chain(
            Family::V4,
            "out",
            Some(nat_output()),
            vec![Rule::new(RuleId::OutboundAll, vec![], verdict)],
        )])
    };
    let (generation, there) = look(&netns);
    let batches = plan(&rules(Verdict::Accept), &there, Options::default()).expect("a plan");
    Run::new(&netns, "nft", &["add", "table", "ip", "somebody"]).ok();
    let error = commit_all(&netns, generation, &batches).expect_err("somebody was faster");
    eprintln!("{error}");
    assert_eq!(error.class, Class::TryAgain, "{error}");
    assert!(look(&netns).1.ours.tables.is_empty());
    assert_eq!(apply(&netns, &rules(Verdict::Accept), Options::default()), 1);
    // One commit, one generation.
    let (generation, there) = look(&netns);
    let batches = plan(&rules(Verdict::Return), &there, Options::default()).expect("a plan");
    commit_all(&netns, generation, &batches).expect("a commit");
    assert_eq!(look(&netns).0, generation + u32::try_from(batches.len()).expect("a few"));
}

fn refusals() {
    let netns = Netns::new("here");
    let try_it = |rules: &RuleSet, who| {
        let batch = create(rules, Options::default()).expect("a batch");
        let bytes = batch.bytes(None).expect("bytes");
        netns
            .run_as(who, || Nftables::open().and_then(|nft| nft.commit(&bytes, batch.objects())))
            .expect_err("a refusal")
    };
    let rules = |verdict| {
        let first = Rule::new(RuleId::OutboundAll, vec![], Verdict::Continue);
        let second = Rule::new(RuleId::OutboundAll, vec![], verdict);
        set(vec![chain(Family::V6, "out", Some(nat_output()), vec![first, second])])
    };
    // No such chain; a redirect where there is none.
    let error = try_it(&rules(Verdict::Jump("nowhere".into())), Who::ROOT);
    eprintln!("{error}");
    assert!(error.to_string().starts_with("rule 2 of chain out of table ip6 mesh_init"), "{error}");
    let mut wrong = rules(Verdict::Redirect(port(5)));
    wrong.chains[0].base = Some(Base { hook: Hook::Input, kind: Kind::Filter, priority: 0, accepts: true });
    let error = try_it(&wrong, Who::ROOT);
    eprintln!("{error}");
    assert!(error.to_string().starts_with("rule 2 of chain out"), "{error}");
    let mut wrong = rules(Verdict::Accept);
    wrong.chains[0].base = Some(Base { hook: Hook::Forward, kind: Kind::Nat, priority: 0, accepts: true });
    let error = try_it(&wrong, Who::ROOT);
    eprintln!("{error}");
    assert!(error.to_string().starts_with("chain out of table ip6 mesh_init"), "{error}");
    assert_eq!(error.class, Class::Host, "{error}");
    let error = try_it(&rules(Verdict::Accept), Who::user(1000));
    assert_eq!(error.class, Class::Privilege, "{error}");
    assert_eq!(Run::new(&netns, "nft", &["list", "ruleset"]).ok(), "");
}

/// What a create-only commit of some forty rules takes.
fn cost() {
    let rule = |n: u16| match n % 4 {
        0 => Rule::new(RuleId::OutboundExcludePort, vec![tcp(), Match::is(ports(&[n + 1]))], Verdict::Return),
        1 => Rule::new(RuleId::ProxyUid, vec![Match::is(Test::Mark(Mark(n.into())))], Verdict::Return),
        2 => Rule::new(
            RuleId::OutboundExcludeCidr,
            vec![Match::is(Test::Destination(nets(&["10.0.0.0/8"])))],
            Verdict::Return,
        ),
        _ => Rule::new(RuleId::OutboundAll, vec![tcp()], Verdict::Redirect(port(15001))),
    };
    let rules = set(vec![chain(Family::V4, "out", Some(nat_output()), (0..40).map(rule).collect())]);
    let mut times = Vec::new();
    for _ in 0..30 {
        let netns = Netns::new("here");
        times.push(netns.run(|| {
            let started = Instant::now();
            let nft = Nftables::open().expect("a socket");
            let there = nft.tables(TABLE).expect("a snapshot");
            let looked = started.elapsed();
            let batches = plan(&rules, &decode(&there.messages), Options::default()).expect("a plan");
            let bytes = batches[0].bytes(Some(there.generation)).expect("bytes");
            let planned = started.elapsed();
            nft.commit(&bytes, batches[0].objects()).expect("a commit");
            let committed = started.elapsed();
            (committed - planned, planned - looked, looked)
        }));
    }
    times.sort();
    eprintln!("commit, plan, look: least {:?}, median {:?}, most {:?}", times[0], times[15], times[29]);
}
