//! The hooks, the order of what is called on them, and what nat is asked.

use mesh_init::eval::decision::{Reason, Way};
use mesh_init::eval::{Outcome, evaluate};
use mesh_init::policy::{Family, IfName};
use mesh_init::rules::{Base, Chain, Kind, Routing, RuleSet, Table, Verdict};

use super::{called, conn, not_called, outcome, redirected, routed, sent_to, tproxied, v4, ways};

/// A set whose base chains are moved to another priority, in a table of nftables.
fn at(priority: i32, set: RuleSet) -> RuleSet {
    let moved = |chain: Chain| Chain {
        base: chain.base.map(|base| Base { priority, ..base }),
        table: Table::Other("other".to_owned()),
        ..chain
    };
    RuleSet { chains: set.chains.into_iter().map(moved).collect(), ..set }
}

#[test]
fn priorities_order_the_chains_of_two_sets() {
    let one = v4(&[("nat", &["-A OUTPUT -p tcp -j REDIRECT --to-ports 1"])]);
    let two = v4(&[("nat", &["-A OUTPUT -p tcp -j REDIRECT --to-ports 2"])]);
    for (priority, wins) in [(-101, 2), (-99, 1)] {
        let two = at(priority, two.clone());
        let decision = evaluate(&[&one, &two], &conn("out tcp 10.1.2.3:80"));
        assert_eq!(decision.outcome, redirected(wins), "{priority}");
        assert_eq!(not_called(&decision).len(), 1);
        assert_eq!(not_called(&decision)[0].1, Reason::Translated);
    }
    // -100 against -100: that of the table that was made last, which rules do not show.
    for sets in [[&one, &two], [&two, &one]] {
        assert_eq!(outcome(&sets, "out tcp 10.1.2.3:80"), Outcome::CannotTell);
    }
    let same = v4(&[("nat", &["-A OUTPUT -p tcp -j REDIRECT --to-ports 1"])]);
    assert_eq!(outcome(&[&one, &same], "out tcp 10.1.2.3:80"), redirected(1), "no matter which");
}

#[test]
fn tables_are_called_in_netfilters_order() {
    let all = v4(&[
        ("filter", &["-A OUTPUT -p udp -j DROP", "-A INPUT -p udp -j DROP"]),
        (
            "nat",
            &["-A OUTPUT -p udp -j ACCEPT", "-A POSTROUTING -p udp -j ACCEPT", "-A INPUT -p udp -j ACCEPT"],
        ),
        ("mangle", &["-A OUTPUT -p udp -j DROP", "-A POSTROUTING -p udp -j DROP", "-A INPUT -p udp -j DROP"]),
        ("raw", &["-A OUTPUT -p udp -j DROP", "-A PREROUTING -p udp -j DROP"]),
    ]);
    let away = evaluate(&[&all], &conn("out tcp 10.1.2.3:80"));
    assert_eq!(
        called(&away),
        ["raw OUTPUT", "mangle OUTPUT", "nat OUTPUT", "filter OUTPUT", "mangle POSTROUTING"]
    );
    assert_eq!(ways(&away), [Way::Away(IfName::eth0())]);
    let here = evaluate(&[&all], &conn("out tcp 127.0.0.1:80"));
    let rest = ["mangle POSTROUTING", "raw PREROUTING", "mangle INPUT", "filter INPUT"];
    assert_eq!(called(&here)[4..], rest);
    assert_eq!(ways(&here), [Way::Back, Way::Here(IfName::lo())]);
    let through = evaluate(&[&all], &conn("in tcp eth1 route=forward 10.1.2.3:80"));
    assert_eq!(called(&through), ["raw PREROUTING", "mangle POSTROUTING"]);
    assert_eq!(ways(&through), [Way::Forward]);
    let dropped = evaluate(&[&all], &conn("out udp 10.1.2.3:80"));
    assert_eq!((called(&dropped).len(), ways(&dropped)), (1, vec![]), "what is gone goes nowhere");
}

/// Whatever priority nftables gives a nat chain, it is called where nat is: before the filter table.
#[test]
fn nat_is_called_where_the_kernel_calls_all_of_nat() {
    let filter = v4(&[("filter", &["-A OUTPUT -p tcp -m tcp --dport 15001 -j DROP"])]);
    let nat = v4(&[("nat", &["-A OUTPUT -p tcp -j REDIRECT --to-ports 15001"])]);
    for priority in [-400, -100, 0, 100] {
        let nat = at(priority, nat.clone());
        assert_eq!(outcome(&[&filter, &nat], "out tcp 10.1.2.3:80"), Outcome::Dropped, "{priority}");
    }
    let mangle = v4(&[("mangle", &["-A OUTPUT -p tcp -m tcp --dport 15001 -j DROP"])]);
    let nat = at(-400, nat);
    assert_eq!(outcome(&[&mangle, &nat], "out tcp 10.1.2.3:80"), redirected(15001), "mangle is before nat");
}

#[test]
fn nat_is_asked_once_for_a_connection() {
    let set = v4(&[(
        "nat",
        &[
            "-A OUTPUT -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 1",
            "-A PREROUTING -p tcp -j REDIRECT --to-ports 2",
        ],
    )]);
    // Over lo both hooks are passed; what began here was decided on the way out, one way or the other.
    let translated = evaluate(&[&set], &conn("out tcp 127.0.0.1:80"));
    assert_eq!(translated.outcome, redirected(1));
    assert_eq!(not_called(&translated), [("PREROUTING".to_owned(), Reason::BeganHere)]);
    let left = evaluate(&[&set], &conn("out tcp 127.0.0.1:81"));
    assert_eq!(left.outcome, Outcome::Passed);
    assert_eq!(not_called(&left), [("PREROUTING".to_owned(), Reason::BeganHere)]);
    assert_eq!(outcome(&[&set], "in tcp 10.0.0.5:80"), redirected(2));
    // Later packets follow what was decided; what fits no connection is not asked about.
    for (state, reason) in [("established", Reason::NotFirst), ("invalid", Reason::Invalid)] {
        let decision = evaluate(&[&set], &conn(&format!("in tcp state={state} 10.0.0.5:80")));
        assert_eq!(decision.outcome, Outcome::Passed, "{state}");
        assert_eq!(not_called(&decision), [("PREROUTING".to_owned(), reason)], "{state}");
    }
    assert_eq!(outcome(&[&set], "in tcp state=related 10.0.0.5:80"), redirected(2));
    // Related is a new connection; an adopted one is new with a later packet.
    assert_eq!(outcome(&[&set], "out tcp state=new packet=later 10.1.2.3:80"), redirected(1));
}

/// The chains of nat that change the source change no destination.
#[test]
fn nat_of_the_source_decides_nothing() {
    let set = v4(&[("nat", &["-A POSTROUTING -j MASQUERADE", "-A INPUT -j SNAT --to-source 10.0.0.1"])]);
    for text in ["out tcp 10.1.2.3:80", "out tcp 127.0.0.1:80", "in tcp 10.0.0.5:80"] {
        assert_eq!(outcome(&[&set], text), Outcome::Passed, "{text}");
    }
}

/// Measured: a filter on the OUTPUT hook sees a redirected packet leave by the interface that it would have left by;
/// POSTROUTING sees lo.
#[test]
fn interfaces_do_not_change_within_a_hook() {
    let nat = ("nat", &["-A OUTPUT -p tcp -j REDIRECT --to-ports 15001"][..]);
    let blocked =
        |rule| outcome(&[&v4(&[nat, ("filter", &[rule])])], "out tcp 10.1.2.3:80") == Outcome::Dropped;
    assert!(blocked("-A OUTPUT -o eth0 -j DROP"));
    assert!(!blocked("-A OUTPUT -o lo -j DROP"));
    assert!(blocked("-A INPUT -i lo -j DROP"));
    assert!(!blocked("-A INPUT -i eth0 -j DROP"));
    let mangled =
        |rule| outcome(&[&v4(&[nat, ("mangle", &[rule])])], "out tcp 10.1.2.3:80") == Outcome::Dropped;
    assert!(mangled("-A POSTROUTING -o lo -j DROP"));
    assert!(!mangled("-A POSTROUTING -o eth0 -j DROP"));
    assert!(mangled("-A PREROUTING -i lo -j DROP"));
    // And the address is this host's from then on.
    assert!(blocked("-A OUTPUT -m addrtype --dst-type LOCAL -j DROP"));
    assert!(blocked("-A OUTPUT -d 127.0.0.1/32 -j DROP"));
    assert!(blocked("-A OUTPUT -p tcp -m tcp --dport 15001 -j DROP"));
    assert!(!blocked("-A OUTPUT -p tcp -m tcp --dport 80 -j DROP"));
}

/// By which interface a packet passes on is decided by routing, which is not known.
#[test]
fn the_way_out_of_what_passes_through_is_not_known() {
    let set = v4(&[("filter", &["-A FORWARD -o eth1 -j DROP"])]);
    assert_eq!(outcome(&[&set], "in tcp eth0 route=forward 10.1.2.3:80"), Outcome::CannotTell);
    let set = v4(&[("filter", &["-A FORWARD -i eth0 -j DROP"])]);
    assert_eq!(outcome(&[&set], "in tcp eth0 route=forward 10.1.2.3:80"), Outcome::Dropped);
    assert_eq!(outcome(&[&set], "in tcp eth1 route=forward 10.1.2.3:80"), Outcome::Passed);
    assert_eq!(outcome(&[&set], "in tcp eth0 10.0.0.5:80"), Outcome::Passed, "it stays");
    let set = v4(&[
        ("nat", &["-A OUTPUT -d 127.0.0.9/32 -p tcp -j DNAT --to-destination 10.1.2.3:81"]),
        ("mangle", &["-A POSTROUTING -o eth1 -j DROP"]),
    ]);
    assert_eq!(outcome(&[&set], "out tcp 127.0.0.9:80"), Outcome::CannotTell);
    assert_eq!(outcome(&[&set], "out tcp eth1 10.1.2.4:80"), Outcome::Dropped);
    assert_eq!(outcome(&[&set], "out tcp 127.0.0.8:80"), Outcome::Passed);
}

#[test]
fn tproxy_needs_its_routing_for_what_is_not_this_hosts() {
    let rule =
        "-A PREROUTING -p tcp -j TPROXY --on-port 15006 --on-ip 0.0.0.0 --tproxy-mark 0x539/0xffffffff";
    let set = v4(&[("mangle", &[rule]), ("filter", &["-A FORWARD -p udp -j DROP"])]);
    assert_eq!(outcome(&[&set], "in tcp 10.0.0.5:80"), tproxied(15006), "delivered here anyway");
    assert_eq!(outcome(&[&set], "in tcp route=forward 10.1.2.3:80"), Outcome::Passed);
    let set = routed(set);
    let through = evaluate(&[&set], &conn("in tcp route=forward 10.1.2.3:80"));
    assert_eq!((&through.outcome, ways(&through)), (&tproxied(15006), vec![Way::Here(IfName::eth0())]));
    // The rule without the route, the route without the rule, and those of another mark, family or table.
    for (lost, other) in [(0, "the rule"), (1, "the route")] {
        let mut set = set.clone();
        set.routing.remove(lost);
        assert_eq!(outcome(&[&set], "in tcp route=forward 10.1.2.3:80"), Outcome::Passed, "without {other}");
    }
    for piece in 0..2 {
        let mut set = set.clone();
        match &mut set.routing[piece] {
            Routing::Rule { family, .. } | Routing::Route { family, .. } => *family = Family::V6,
            Routing::PassthroughAddress => {}
        }
        let outcome = outcome(&[&set], "in tcp route=forward 10.1.2.3:80");
        assert_eq!(outcome, Outcome::Passed, "{piece} of another family");
    }
    let mut elsewhere = set.clone();
    elsewhere.routing[1] = Routing::Route { family: Family::V4, table: 134 };
    assert_eq!(outcome(&[&elsewhere], "in tcp route=forward 10.1.2.3:80"), Outcome::Passed, "another table");
    let other =
        "-A PREROUTING -p tcp -j TPROXY --on-port 15006 --on-ip 0.0.0.0 --tproxy-mark 0x53a/0xffffffff";
    let set = routed(v4(&[("mangle", &[other])]));
    assert_eq!(outcome(&[&set], "in tcp route=forward 10.1.2.3:80"), Outcome::Passed, "another mark");
}

/// A mark alone brings a packet here, too: later packets of a captured connection through this host.
#[test]
fn a_mark_that_is_routed_here_delivers_without_tproxy() {
    let set = v4(&[
        (
            "mangle",
            &["-A PREROUTING -p tcp -m conntrack --ctstate ESTABLISHED -j MARK --set-xmark 0x539/0xffffffff"],
        ),
        ("filter", &["-A INPUT -j DROP"]),
    ]);
    assert_eq!(outcome(&[&set], "in tcp packet=later route=forward 10.1.2.3:80"), Outcome::Passed);
    let set = routed(set);
    assert_eq!(outcome(&[&set], "in tcp packet=later route=forward 10.1.2.3:80"), Outcome::Dropped);
    assert_eq!(outcome(&[&set], "in tcp route=forward 10.1.2.3:80"), Outcome::Passed);
}

/// Measured: TPROXY chooses the socket, and REDIRECT what it takes for its address.
#[test]
fn tproxy_keeps_its_socket_beside_nat() {
    let tproxy =
        "-A PREROUTING -p tcp -j TPROXY --on-port 15006 --on-ip 0.0.0.0 --tproxy-mark 0x539/0xffffffff";
    let redirect = "-A PREROUTING -p tcp -j REDIRECT --to-ports 15001";
    let set = v4(&[("mangle", &[tproxy]), ("nat", &[redirect])]);
    let decision = evaluate(&[&set], &conn("in tcp 10.0.0.5:80"));
    assert_eq!(decision.outcome, redirected(15006));
    assert_eq!(decision.by.map(|place| place.chain.table.clone()), Some(Table::Mangle));
    assert_eq!(outcome(&[&set], "in tcp route=forward 10.1.2.3:80"), redirected(15006), "NAT brings it here");
    let set = v4(&[("mangle", &[tproxy]), ("nat", &["-A OUTPUT -p tcp -j REDIRECT --to-ports 15001"])]);
    assert_eq!(outcome(&[&set], "out tcp 10.1.2.3:80"), redirected(15006));
    let dnat = "-A PREROUTING -p tcp -j DNAT --to-destination 10.0.0.5:8080";
    let set = v4(&[("mangle", &[tproxy]), ("nat", &[dnat])]);
    assert_eq!(outcome(&[&set], "in tcp 10.0.0.5:80"), redirected(15006));
    assert_eq!(outcome(&[&set], "in udp 10.0.0.5:80"), Outcome::Passed);
}

#[test]
fn a_mark_set_on_the_way_out_routes_again() {
    let mark = "-A OUTPUT -p tcp -m connmark --mark 0x539 -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff";
    let set = v4(&[("mangle", &[mark]), ("filter", &["-A INPUT -j DROP"])]);
    let text = "out tcp connmark=0x539 10.1.2.3:80";
    assert_eq!(outcome(&[&set], text), Outcome::Passed, "nothing routes by it");
    let set = routed(set);
    let decision = evaluate(&[&set], &conn(text));
    assert_eq!((&decision.outcome, ways(&decision)[0].clone()), (&Outcome::Dropped, Way::Back));
    assert_eq!(
        outcome(&[&set], "out tcp mark=0x539 connmark=0x539 10.1.2.3:80"),
        Outcome::Passed,
        "no change"
    );
    // Only mangle's OUTPUT does so.
    let raw = routed(v4(&[
        ("raw", &["-A OUTPUT -j MARK --set-xmark 0x539/0xffffffff"]),
        ("filter", &["-A INPUT -j DROP"]),
    ]));
    assert_eq!(outcome(&[&raw], "out tcp 10.1.2.3:80"), Outcome::Passed);
    assert_eq!(raw.chains[0].base.map(|base| base.kind), Some(Kind::Filter));
    // The address stays what it was, and the interface until the hook ends.
    for (rule, dropped) in [("-m addrtype --dst-type LOCAL", false), ("-o lo", false), ("-o eth0", true)] {
        let rule = format!("-A OUTPUT {rule} -j DROP");
        let set = routed(v4(&[("mangle", &[mark]), ("filter", &[rule.as_str()])]));
        assert_eq!(outcome(&[&set], text) == Outcome::Dropped, dropped, "{rule}");
    }
}

#[test]
fn a_mark_can_be_saved_and_restored() {
    let save = "-j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff";
    let set = v4(&[(
        "mangle",
        &[
            "-A OUTPUT -p tcp -j MARK --set-xmark 0x7/0xffffffff",
            &format!("-A OUTPUT {save}"),
            "-A OUTPUT -j MARK --set-xmark 0x8/0xffffffff",
            "-A OUTPUT -m mark ! --mark 0x8 -j DROP",
            "-A POSTROUTING -p tcp -m connmark --mark 0x7 -j DROP",
        ],
    )]);
    assert_eq!(outcome(&[&set], "out tcp 10.1.2.3:80"), Outcome::Dropped);
    assert_eq!(outcome(&[&set], "out udp 10.1.2.3:80"), Outcome::Passed);
    assert_eq!(outcome(&[&set], "out udp mark=7 10.1.2.3:80"), Outcome::Passed);
}

/// Docker answers DNS on 127.0.0.11 by DNAT in the same built-in chain.
#[test]
fn dockers_rules_before_and_after_ours() {
    let docker = [
        "-A OUTPUT -d 127.0.0.11/32 -j D",
        "-A D -d 127.0.0.11/32 -p tcp -m tcp --dport 53 -j DNAT --to-destination 127.0.0.11:40001",
    ];
    let ours = [
        "-A OUTPUT -p tcp -j O",
        "-A O ! -d 127.0.0.1/32 -o lo -j R",
        "-A R -p tcp -j REDIRECT --to-ports 15001",
    ];
    let query = "out tcp 127.0.0.11:53";
    let before = v4(&[(
        "nat",
        &[docker, [ours[0], ours[1]]].concat().into_iter().chain([ours[2]]).collect::<Vec<_>>(),
    )]);
    assert_eq!(outcome(&[&before], query), sent_to("127.0.0.11:40001"));
    let after = v4(&[("nat", &[&ours[..], &docker].concat())]);
    assert_eq!(outcome(&[&after], query), redirected(15001));
    assert_eq!(outcome(&[&before], "out tcp 127.0.0.11:80"), redirected(15001), "Docker takes DNS alone");
    // In a table of their own, our rules are not asked once Docker's has translated.
    let own = at(-99, v4(&[("nat", &ours)]));
    let docker = v4(&[("nat", &docker)]);
    let decision = evaluate(&[&own, &docker], &conn(query));
    assert_eq!(decision.outcome, sent_to("127.0.0.11:40001"));
    assert_eq!(not_called(&decision)[0].1, Reason::Translated);
    let own = at(-101, own);
    assert_eq!(outcome(&[&own, &docker], query), redirected(15001));
}

/// Any two of several: here the first and the last are of equal priority.
#[test]
fn the_order_of_three_sets_cannot_be_told() {
    let one = v4(&[("nat", &["-A OUTPUT -p tcp -j REDIRECT --to-ports 1"])]);
    let between = v4(&[("filter", &["-A OUTPUT -p udp -j DROP"])]);
    let two = v4(&[("nat", &["-A OUTPUT -p tcp -j REDIRECT --to-ports 2"])]);
    assert_eq!(outcome(&[&one, &between, &two], "out tcp 10.1.2.3:80"), Outcome::CannotTell);
    assert_eq!(outcome(&[&one, &between, &one], "out tcp 10.1.2.3:80"), redirected(1));
}

/// net/netfilter/xt_mark.c, `mark_tg`: the mask's bits are cleared, then the value's are flipped.
#[test]
fn a_masked_mark_keeps_the_other_bits() {
    for (bits, before, after) in [
        ("0x4000/0x4000", "0x1", "0x4001"),
        ("0x4000/0x4000", "0x4001", "0x4001"),
        ("0x0/0x4000", "0x4001", "0x1"),
        ("0x1/0x0", "0x3", "0x2"),
        ("0x7/0xffffffff", "0x4008", "0x7"),
    ] {
        let set = v4(&[
            ("mangle", &[&format!("-A OUTPUT -j MARK --set-xmark {bits}")]),
            ("filter", &[&format!("-A OUTPUT -m mark --mark {after} -j DROP")]),
        ]);
        let text = format!("out tcp mark={before} 10.1.2.3:80");
        assert_eq!(outcome(&[&set], &text), Outcome::Dropped, "{bits} {before}");
    }
}

/// For conntrack a redirect is a translation of the destination.
#[test]
fn what_is_redirected_is_translated() {
    let drop = "-A OUTPUT -m conntrack --ctstate DNAT -j DROP";
    let redirect = "-A OUTPUT -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 1";
    let set = v4(&[("nat", &[redirect]), ("filter", &[drop])]);
    assert_eq!(outcome(&[&set], "out tcp 10.1.2.3:80"), Outcome::Dropped);
    assert_eq!(outcome(&[&set], "out tcp 10.1.2.3:81"), Outcome::Passed);
}

/// Where the order decides, a rule that decides in either is named.
#[test]
fn what_decides_in_the_other_order_is_named() {
    let mark = v4(&[("mangle", &["-A OUTPUT -j MARK --set-xmark 0x1/0xffffffff"])]);
    let drop = v4(&[("mangle", &["-A OUTPUT -m mark --mark 0x1 -j DROP"])]);
    for sets in [[&mark, &drop], [&drop, &mark]] {
        let decision = evaluate(&sets, &conn("out tcp 10.1.2.3:80"));
        assert_eq!(decision.outcome, Outcome::CannotTell);
        assert_eq!(decision.by.map(|place| &place.rule.verdict), Some(&Verdict::Drop));
    }
}
