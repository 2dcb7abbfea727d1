//! What conditions see of a packet.

use mesh_init::eval::{Outcome, evaluate};
use mesh_init::policy::{Family, Port, RuleId, Uid};
use mesh_init::rules::{Base, Chain, Hook, Kind, Match, Rule, RuleSet, Table, Test, Verdict};

use super::{conn, of, outcome, redirected, sent_to, v4};

#[track_caller]
fn dropped(rule: &str, text: &str) -> bool {
    let family = conn(text).family();
    outcome(&[&of(family, &[("filter", &[&format!("{rule} -j DROP")])])], text) == Outcome::Dropped
}

#[test]
fn every_condition_holds_or_not() {
    for (rule, hit, missed) in [
        ("-A OUTPUT -s 192.0.2.0/24", "out tcp 10.1.2.3:80", "out tcp 10.0.0.1 -> 10.1.2.3:80"),
        ("-A OUTPUT -d 10.1.2.0/24", "out tcp 10.1.2.255:80", "out tcp 10.1.3.0:80"),
        ("-A OUTPUT -d fd00::/8", "out tcp [fdff::1]:80", "out tcp [fe00::1]:80"),
        ("-A INPUT -i eth+", "in tcp eth7 10.0.0.5:80", "in tcp et7 10.0.0.5:80"),
        ("-A INPUT -i eth0", "in tcp eth0 10.0.0.5:80", "in tcp eth01 10.0.0.5:80"),
        ("-A OUTPUT -o lo", "out tcp 127.0.0.9:80", "out tcp 10.1.2.3:80"),
        ("-A OUTPUT -p tcp", "out tcp 10.1.2.3:80", "out udp 10.1.2.3:80"),
        ("-A OUTPUT -p icmp", "out icmp 10.1.2.3", "out tcp 10.1.2.3:80"),
        (
            "-A OUTPUT -p tcp -m tcp --sport 40000",
            "out tcp 10.1.2.3:80",
            "out tcp 10.0.0.1:39999 -> 10.1.2.3:80",
        ),
        ("-A OUTPUT -p tcp -m tcp --dport 80:82", "out tcp 10.1.2.3:82", "out tcp 10.1.2.3:83"),
        ("-A OUTPUT -p tcp -m multiport ! --dports 80,82", "out tcp 10.1.2.3:81", "out tcp 10.1.2.3:82"),
        (
            "-A OUTPUT -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN",
            "out tcp 10.1.2.3:1",
            "out tcp packet=later 10.1.2.3:1",
        ),
        ("-A OUTPUT -m owner --uid-owner 1000", "out tcp 10.1.2.3:80", "out tcp uid=0 10.1.2.3:80"),
        (
            "-A OUTPUT -m owner --gid-owner 7",
            "out tcp gid=7 10.1.2.3:80",
            "out tcp gid=8 groups=7 10.1.2.3:80",
        ),
        ("-A OUTPUT -m owner ! --gid-owner 7", "out tcp gid=8 10.1.2.3:80", "out tcp gid=7 10.1.2.3:80"),
        ("-A OUTPUT -m addrtype --dst-type LOCAL", "out tcp lo 10.0.0.5:80", "out tcp 10.1.2.3:80"),
        (
            "-A INPUT -m conntrack --ctstate INVALID,NEW",
            "in tcp 10.0.0.5:80",
            "in tcp packet=later 10.0.0.5:80",
        ),
        ("-A OUTPUT -m mark --mark 0x7", "out tcp mark=7 10.1.2.3:80", "out tcp mark=8 10.1.2.3:80"),
        ("-A OUTPUT -m connmark --mark 0x7", "out tcp connmark=7 10.1.2.3:80", "out tcp mark=7 10.1.2.3:80"),
        ("-A OUTPUT -m conntrack ! --ctdir REPLY", "out tcp 10.1.2.3:80", "in tcp 10.0.0.5:80"),
    ] {
        assert!(dropped(rule, hit), "{rule}: {hit}");
        assert!(!dropped(rule, missed), "{rule}: {missed}");
    }
    assert!(!dropped("-A OUTPUT -m conntrack --ctdir REPLY", "out tcp 10.1.2.3:80"));
    // A protocol without ports has none that is another than 80, either.
    assert!(!dropped("-A OUTPUT -p udp -m udp --dport 80", "out icmp 10.1.2.3"));
    // What is no TCP has no SYN.
    let first = Rule::new(RuleId::OutboundAll, vec![Match::is(Test::FirstPacket)], Verdict::Drop);
    let base = Base::builtin(&Table::Filter, Hook::Output);
    let set = only(Table::Filter, base, first);
    assert_eq!(outcome(&[&set], "out udp 10.1.2.3:80"), Outcome::Passed);
    assert_eq!(outcome(&[&set], "out tcp 10.1.2.3:80"), Outcome::Dropped);
}

fn only(table: Table, base: Base, rule: Rule) -> RuleSet {
    let name = "chain".to_owned();
    let chain = Chain { family: Family::V4, table, name, base: Some(base), rules: vec![rule] };
    RuleSet { chains: vec![chain], routing: vec![] }
}

/// A rule applies if all its conditions hold.
#[test]
fn all_conditions_must_hold() {
    let rule = "-A OUTPUT -d 10.0.0.0/8 -p tcp -m owner --uid-owner 7";
    assert!(dropped(rule, "out tcp uid=7 10.1.2.3:80"));
    for text in ["out tcp uid=8 10.1.2.3:80", "out udp uid=7 10.1.2.3:80", "out tcp uid=7 11.1.2.3:80"] {
        assert!(!dropped(rule, text), "{text}");
    }
}

/// Where no socket is known, "not user 7" holds for iptables and nothing holds for nftables
/// (net/netfilter/xt_owner.c, net/netfilter/nft_meta.c).
#[test]
fn owners_where_no_socket_is_known() {
    for hook in [Hook::Prerouting, Hook::Input] {
        for (table, negated, holds) in [
            (Table::Filter, true, true),
            (Table::Filter, false, false),
            (Table::Other("t".into()), true, false),
            (Table::Other("t".into()), false, false),
        ] {
            for test in [
                Test::OwnerUid(Uid::of(1000).into_iter().collect()),
                Test::OwnerGid(mesh_init::policy::Gid::of(1000).into_iter().collect()),
            ] {
                let rule = Rule::new(RuleId::OutboundAll, vec![Match { negated, test }], Verdict::Drop);
                let base = Base { hook, kind: Kind::Filter, priority: 0, accepts: true };
                let set = only(table.clone(), base, rule);
                // Over lo the sending socket is forgotten on arrival.
                for text in ["in tcp 10.0.0.5:80", "out tcp 127.0.0.1:80"] {
                    let outcome = outcome(&[&set], text);
                    assert_eq!(outcome == Outcome::Dropped, holds, "{table} {negated} {text}");
                }
            }
        }
    }
    assert!(dropped("-A POSTROUTING -m owner --uid-owner 1000", "out tcp 127.0.0.1:80"), "it is not yet");
}

/// What arrives is redirected to the address of its interface, which is not known here.
#[test]
fn the_address_of_the_interface_is_not_known() {
    let set =
        |rule| v4(&[("nat", &["-A PREROUTING -p tcp -j REDIRECT --to-ports 15001"]), ("filter", &[rule])]);
    let text = "in tcp 10.0.0.5:80";
    assert_eq!(outcome(&[&set("-A INPUT -d 10.0.0.5/32 -j DROP")], text), Outcome::CannotTell);
    assert_eq!(outcome(&[&set("-A INPUT -p tcp -m tcp --dport 15001 -j DROP")], text), Outcome::Dropped);
    assert_eq!(outcome(&[&set("-A INPUT -d 10.0.0.5/32 -j ACCEPT")], text), redirected(15001), "either way");
    assert_eq!(outcome(&[&set("-A INPUT -m addrtype --dst-type LOCAL -j DROP")], text), Outcome::Dropped);
    assert_eq!(outcome(&[&set("-A FORWARD -j DROP")], "in tcp route=forward 10.1.2.3:80"), redirected(15001));
    // IPv6 has its own loopback address.
    let set = of(
        Family::V6,
        &[
            ("nat", &["-A OUTPUT -p tcp -j REDIRECT --to-ports 15001"]),
            ("filter", &["-A OUTPUT -d ::1/128 -j DROP"]),
        ],
    );
    assert_eq!(outcome(&[&set], "out tcp [fd00::9]:80"), Outcome::Dropped);
}

#[test]
fn dnat_changes_what_later_chains_see() {
    let set = |to: &str, rule: &str| {
        v4(&[("nat", &[&format!("-A PREROUTING -p tcp -j DNAT --to-destination {to}")]), ("filter", &[rule])])
    };
    let text = "in tcp 10.0.0.5:80";
    assert_eq!(
        outcome(&[&set("10.0.0.5:8080", "-A FORWARD -j DROP")], text),
        sent_to("10.0.0.5:8080"),
        "another port"
    );
    assert_eq!(
        outcome(&[&set("10.0.0.5:8080", "-A INPUT -p tcp -m tcp --dport 8080 -j DROP")], text),
        Outcome::Dropped
    );
    assert_eq!(outcome(&[&set("10.9.9.9:80", "-A FORWARD -d 10.9.9.9/32 -j DROP")], text), Outcome::Dropped);
    assert_eq!(outcome(&[&set("10.9.9.9:80", "-A INPUT -j DROP")], text), sent_to("10.9.9.9:80"));
    assert_eq!(
        outcome(&[&set("127.0.0.1:80", "-A INPUT -j DROP")], "in tcp route=forward 10.1.2.3:80"),
        Outcome::Dropped
    );
    // To the same address elsewhere it still goes elsewhere.
    let out = v4(&[
        ("nat", &["-A OUTPUT -p tcp -j DNAT --to-destination 10.1.2.3:81"]),
        ("mangle", &["-A POSTROUTING -o eth0 -j DROP"]),
    ]);
    assert_eq!(outcome(&[&out], "out tcp 10.1.2.3:80"), Outcome::Dropped);
}

/// A range that holds every port holds no packet without one.
#[test]
fn port_zero_is_no_port() {
    let all =
        vec![mesh_init::policy::PortRange { first: Port::of(1).unwrap(), last: Port::of(65535).unwrap() }];
    for test in [Test::DestinationPort(all.clone()), Test::SourcePort(all)] {
        let rule = Rule::new(RuleId::OutboundAll, vec![Match::is(test)], Verdict::Drop);
        let set = only(Table::Filter, Base::builtin(&Table::Filter, Hook::Output), rule);
        assert_eq!(evaluate(&[&set], &conn("out icmp 10.1.2.3")).outcome, Outcome::Passed);
        assert_eq!(evaluate(&[&set], &conn("out udp 10.1.2.3:65535")).outcome, Outcome::Dropped);
    }
}
