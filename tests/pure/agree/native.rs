//! What nftables' rules look like: sets where a layout has a rule for each, in base chains of our own.

use mesh_init::backend::nftables::Options;
use mesh_init::backend::nftables::script::script;
use mesh_init::eval::evaluate;
use mesh_init::policy::{Families, Family, RuleId};
use mesh_init::rules::compile::compile;
use mesh_init::rules::compile::native::{layouts_name, native};
use mesh_init::rules::{Hook, Kind, Table, Test};

use super::policies::Subject;

/// The rules of IPv4, by chain and without what is for people: counters and comments.
fn chains(args: &[&str]) -> Vec<(String, Vec<String>)> {
    let subject = Subject::new(args, Families::V4);
    // Maps are another way to say the same.
    let options = Options { maps: false };
    let scripts = script(&native(&subject.policy, subject.layout, subject.families), options);
    let [(Family::V4, text)] = scripts.as_slice() else { panic!("one table, of IPv4: {scripts:?}") };
    let mut chains: Vec<(String, Vec<String>)> = Vec::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("\tchain ").and_then(|line| line.strip_suffix(" {")) {
            chains.push((name.to_owned(), Vec::new()));
        } else if let Some(rule) = line.strip_prefix("\t\t") {
            let rule = rule.split(" comment ").next().unwrap_or(rule).replace("counter ", "");
            chains.last_mut().expect("a chain").1.push(rule);
        }
    }
    chains
}

#[track_caller]
fn assert_has(args: &[&str], expected: &[(&str, &[&str])]) {
    let seen = chains(args);
    for (chain, rules) in expected {
        // A chain with rules stands there twice: first declared, with its hook if it has one.
        let found: Vec<&str> = seen
            .iter()
            .filter(|(name, _)| name == chain)
            .flat_map(|(_, rules)| rules.iter().map(String::as_str))
            .collect();
        assert_eq!(found, *rules, "{chain}");
    }
}

#[test]
#[rustfmt::skip]
fn members_of_one_clause_are_a_set() {
    let pod = [
        "-u", "1337,1338", "-o", "25,99", "-x", "10.0.0.0/8,10.1.0.0/16", "-c", "eth7,eth8", "-k", "tap0",
        "-i", "172.16.0.0/12,192.168.0.0/16", "-q", "80,443", "-d", "15090,15021", "--exclude-owner-group", "7,8",
        "--redirect-dns", "--dns-server", "10.0.0.53,10.0.0.54",
    ];
    assert_has(&pod, &[
        ("nat_prerouting", &[
            "type nat hook prerouting priority -99; policy accept;",
            "iifname \"tap0\" ip daddr { 172.16.0.0/12, 192.168.0.0/16 } jump nat_redirect",
            "iifname \"tap0\" return",
            "iifname { \"eth7\", \"eth8\" } return",
            "meta l4proto tcp jump nat_inbound",
        ]),
        ("nat_output", &[
            "type nat hook output priority -99; policy accept;",
            "oifname { \"eth7\", \"eth8\" } return",
            "jump nat_outbound",
        ]),
        ("nat_inbound", &[
            "tcp dport 15008 return",
            "tcp dport { 15021, 15090 } return",
            "meta l4proto tcp jump nat_redirect_inbound",
        ]),
        ("nat_redirect", &["tcp flags & (fin | syn | rst | ack) == syn redirect to :15001"]),
        // Of one verdict, but each clause is a rule: its counter tells how often it decided.
        ("nat_outbound", &[
            "tcp dport { 25, 99 } return",
            "udp dport { 25, 99 } return",
            "oifname \"lo\" ip saddr 127.0.0.6/32 return",
            "oifname \"lo\" ip daddr != 127.0.0.1/32 tcp dport != { 53, 15008 } meta skuid { 1337, 1338 } jump nat_redirect_inbound",
            "oifname \"lo\" tcp dport != 53 meta skuid != { 1337, 1338 } return",
            "meta skuid { 1337, 1338 } return",
            "meta skgid { 7, 8 } return",
            "jump nat_dns",
            "ip daddr 127.0.0.1/32 return",
            "ip daddr 10.0.0.0/8 return",
            "tcp dport { 80, 443 } jump nat_redirect",
            "ip daddr { 172.16.0.0/12, 192.168.0.0/16 } jump nat_redirect",
        ]),
        ("nat_dns", &[
            "tcp dport 53 ip daddr { 10.0.0.53/32, 10.0.0.54/32 } tcp flags & (fin | syn | rst | ack) == syn redirect to :15053",
            "udp dport 53 ip daddr { 10.0.0.53/32, 10.0.0.54/32 } redirect to :15053",
        ]),
        // Zones of one clause that alternate stay in their order.
        ("raw_dns", &[
            "udp dport 53 meta skuid 1337 ct zone set 1",
            "udp sport 15053 meta skuid 1337 ct zone set 2",
            "udp dport 53 meta skuid 1338 ct zone set 1",
            "udp sport 15053 meta skuid 1338 ct zone set 2",
            "udp dport 53 ip daddr { 10.0.0.53/32, 10.0.0.54/32 } ct zone set 2",
        ]),
        ("raw_prerouting", &["type filter hook prerouting priority -300; policy accept;", "jump raw_inbound"]),
        ("raw_inbound", &["udp sport 53 ip saddr { 10.0.0.53/32, 10.0.0.54/32 } ct zone set 1"]),
    ]);
}

/// Two conditions that differ are no set: each of one would be met with each of the other.
#[test]
#[rustfmt::skip]
fn rules_that_differ_twice_stay_two() {
    assert_has(&["-k", "tap0,tap1", "-i", "172.16.0.0/12,192.168.0.0/16"], &[
        ("nat_prerouting", &[
            "type nat hook prerouting priority -99; policy accept;",
            "iifname { \"tap0\", \"tap1\" } ip daddr 192.168.0.0/16 jump nat_redirect",
            "iifname { \"tap0\", \"tap1\" } ip daddr 172.16.0.0/12 jump nat_redirect",
            "iifname { \"tap0\", \"tap1\" } return",
            "meta l4proto tcp jump nat_inbound",
        ]),
    ]);
}

#[test]
#[rustfmt::skip]
fn tproxy_marks_and_what_it_leaves_is_dropped() {
    assert_has(&["-m", "TPROXY", "-d", "8080"], &[
        ("mangle_prerouting", &[
            "type filter hook prerouting priority -150; policy accept;",
            "meta l4proto tcp jump mangle_inbound",
            "meta l4proto tcp iifname \"lo\" meta mark 0x539 ct mark set meta mark",
        ]),
        ("mangle_output", &[
            "type route hook output priority -150; policy accept;",
            "meta l4proto tcp ct mark 0x539 meta mark set ct mark",
        ]),
        ("mangle_tproxy", &[
            "ip daddr != 127.0.0.1/32 tcp flags & (fin | syn | rst | ack) == syn tproxy to :15001 meta mark set 0x539 accept",
            "ip daddr != 127.0.0.1/32 tcp flags & (fin | syn | rst | ack) == syn drop",
        ]),
        ("mangle_divert", &["meta mark set 0x539", "accept"]),
    ]);
}

#[test]
#[rustfmt::skip]
fn a_hosts_rules_come_before_everybodys() {
    assert_has(&["--uid-owner", "5,6", "-b", "80,443"], &[
        ("nat_output", &["type nat hook output priority -101; policy accept;", "meta l4proto tcp jump nat_outbound"]),
        ("nat_outbound", &[
            "meta skuid 1337 return",
            "tcp dport 15001 fib daddr type local return",
            "tcp dport 53 return",
            "tcp flags & (fin | syn | rst | ack) == syn meta skuid { 5, 6 } jump nat_redirect",
        ]),
        ("nat_prerouting", &[
            "type nat hook prerouting priority -101; policy accept;",
            "meta l4proto tcp jump nat_inbound",
        ]),
        ("nat_inbound", &[
            "tcp flags & (fin | syn | rst | ack) == syn fib daddr type local tcp dport { 80, 443 } jump nat_redirect",
        ]),
    ]);
}

/// Each of our chains stands for one of a layout, and is called by the kernel as that one is, in its own place.
#[test]
fn chains_stand_for_the_layouts() {
    assert_eq!(layouts_name("nat_outbound"), Some((Table::Nat, "ISTIO_OUTPUT")));
    assert_eq!(layouts_name("mangle_tproxy"), Some((Table::Mangle, "ISTIO_TPROXY")));
    assert_eq!(layouts_name("raw_prerouting"), Some((Table::Raw, "PREROUTING")));
    for name in ["outbound", "nat_ISTIO_OUTPUT", "nat_elsewhere", "inet_outbound", "nat", "nat_"] {
        assert_eq!(layouts_name(name), None, "{name}");
    }
    let subject = Subject::new(&["-m", "TPROXY", "--layout", "istio"], Families::Both);
    let seen = native(&subject.policy, subject.layout, subject.families);
    let bases: Vec<(&str, Hook, Kind, i32)> = seen
        .chains
        .iter()
        .filter(|chain| chain.family == Family::V6)
        .filter_map(|chain| chain.base.map(|base| (chain.name.as_str(), base.hook, base.kind, base.priority)))
        .collect();
    for expected in [
        ("nat_output", Hook::Output, Kind::Nat, -99),
        ("mangle_prerouting", Hook::Prerouting, Kind::Filter, -150),
        ("mangle_output", Hook::Output, Kind::Route, -150),
    ] {
        assert!(bases.contains(&expected), "{expected:?}: {bases:?}");
    }
}

/// The clause that decides is the layout's, however the rules are carried.
#[test]
fn the_clause_that_decides_is_known() {
    let subject = Subject::new(&["-u", "1337", "-x", "10.0.0.0/8", "--layout", "istio"], Families::V4);
    for rules in [compile, native].map(|make| make(&subject.policy, subject.layout, subject.families)) {
        for (conn, clause) in [
            ("out tcp 192.0.2.1:80", Some(RuleId::OutboundAll)),
            ("out tcp 10.1.2.3:80", Some(RuleId::OutboundExcludeCidr)),
            ("out tcp uid=1337 192.0.2.1:80", Some(RuleId::ProxyUid)),
            ("in udp 192.0.2.1:80", None),
        ] {
            assert_eq!(evaluate(&[&rules], &conn.parse().expect("a connection")).clause(), clause, "{conn}");
        }
    }
}

#[test]
fn no_member_is_there_twice() {
    let args = [
        "-x",
        "10.0.0.0/8,10.0.0.0/8",
        "-q",
        "80,443,80",
        "--exclude-owner-group",
        "7,8,7",
        "-c",
        "e1,e2,e1",
    ];
    let subject = Subject::new(&[&args[..], &["--layout", "istio-iptables"]].concat(), Families::V4);
    let rules = native(&subject.policy, subject.layout, subject.families);
    let mut seen = 0;
    for test in rules.chains.iter().flat_map(|chain| &chain.rules).flat_map(|rule| &rule.matches) {
        let members: Vec<String> = if let Test::Destination(list) = &test.test {
            list.iter().map(ToString::to_string).collect()
        } else if let Test::DestinationPort(list) = &test.test {
            list.iter().map(ToString::to_string).collect()
        } else if let Test::OwnerGid(list) = &test.test {
            list.iter().map(ToString::to_string).collect()
        } else if let Test::InInterface(list) | Test::OutInterface(list) = &test.test {
            list.iter().map(ToString::to_string).collect()
        } else {
            continue;
        };
        let once: std::collections::BTreeSet<&String> = members.iter().collect();
        assert_eq!(once.len(), members.len(), "{members:?}");
        seen += usize::from(members.len() > 1);
    }
    assert!(seen >= 4, "only {seen} sets");
}
