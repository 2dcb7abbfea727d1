//! What istio-iptables left, as a plain restore leaves it, among rules and routing of others: another policy of ours
//! and `clean` leave no trace of it and everything else as it was. Only bare rules for interfaces could be anybody's:
//! they are named and left, unless `--all` or upstream's own flags say that they are upstream's.

use std::time::Duration;

use super::calls::Golden;
use super::scene::{Others, Remains, everything, same, try_all};
use crate::foreign::{DOCKER, KUBE_PROXY};
use crate::harness::Case;
use crate::support::command::{Run, mesh_init};
use crate::support::rules::{Family, Variant};

/// The golden files whose rules are left.
const CALLS: [&str; 27] = [
    "custom-tproxy-mark",
    "defaults",
    "dns-capture-all-dual-stack",
    "dns-drop-invalid-excludes",
    "dns-servers-mixed-families",
    "drop-invalid-exclude-interface-tproxy",
    "drop-invalid-ipv6",
    "dual-stack",
    "env-over-default",
    "exclude-and-reroute-interface",
    "exclude-interface-dual-stack",
    "exclude-interface-tproxy",
    "exclude-interfaces",
    "injector-call",
    "injector-call-tproxy-dns-ipv6",
    "loopback-cidr-env",
    "owner-groups-include-list",
    "reroute-interface-nothing-outbound",
    "reroute-interface-with-cidrs",
    "reroute-interfaces-dual-stack",
    "several-uids-and-gids",
    "tproxy-all-features",
    "tproxy-dns-capture-all-dual-stack",
    "tproxy-nothing-inbound-ipv6",
    "tproxy-reroute-interface",
    "tproxy-several-uids-and-gids",
    "vm-tproxy",
];

/// Policies of every layout; the third one's mark is not the mark of any of the calls.
const POLICIES: [&str; 4] = [
    "-p 15001 -z 15006 -u 1337 -b 8001 -i 10.0.0.0/8",
    "-p 15001 -u 1337",
    "-p 15001 -z 15006 -u 1337 -m TPROXY -t 1500 -r 150",
    "--uid-owner 1338 --inbound 8001",
];

pub(super) fn cases() -> Vec<Case> {
    let cases = Case::all_for_each_variant(&[
        ("upstream::remains_then_clean", |variant| try_all(&CALLS, variant, cleaned)),
        ("upstream::remains_then_all", |variant| try_all(&CALLS, variant, cleaned_of_all)),
        ("upstream::remains_then_cleanup", |variant| try_all(&CALLS, variant, cleaned_by_flags)),
        ("upstream::remains_then_apply", |variant| try_all(&CALLS, variant, replaced)),
        ("upstream::remains_are_named", |variant| try_all(&CALLS, variant, named)),
    ]);
    cases.into_iter().map(|case| case.within(Duration::from_secs(120))).collect()
}

/// A user's own rules, and somebody's TPROXY with a mark and a table of its own.
const BEFORE: &str = "\
*nat
-A OUTPUT -p tcp --dport 8080 -j RETURN
-A PREROUTING -p tcp --dport 8080 -j RETURN
COMMIT
*mangle
-A PREROUTING -p tcp -m mark --mark 1 -j CONNMARK --save-mark
-A OUTPUT -p tcp -m connmark --mark 1 -j CONNMARK --restore-mark
-A OUTPUT -p tcp -m owner --uid-owner 33 -j MARK --set-mark 1
COMMIT
*raw
-A OUTPUT -p udp --dport 5353 -j NOTRACK
COMMIT
";
const AFTER: &str = "\
*nat
-A OUTPUT -p tcp --dport 8081 -j RETURN
-A PREROUTING -p tcp --dport 8081 -j RETURN
COMMIT
*mangle
-A OUTPUT -p tcp -o lo -m mark --mark 1 -j RETURN
-A PREROUTING -p udp -j MARK --set-mark 2
COMMIT
*raw
-A PREROUTING -p udp --dport 5353 -j NOTRACK
COMMIT
";
const ROUTING: [&str; 4] = [
    "-4 rule add fwmark 0x1 lookup 100 priority 1000",
    "-4 route add local default dev lo table 100",
    "-6 rule add fwmark 0x1 lookup 100 priority 1000",
    "-6 route add local default dev lo table 100",
];

fn others() -> Others {
    let before = [DOCKER, KUBE_PROXY, BEFORE].concat();
    Others { before, after: AFTER.to_owned(), routing: &ROUTING }
}

fn cleaned(call: &Golden, variant: Variant) -> Vec<String> {
    let expected = everything(&others().scene(call, variant, Remains::Untold));
    let here = others().scene(call, variant, Remains::All);
    let run = mesh_init(&here, &["clean"]);
    same("after clean", &expected, &here, &run)
}

fn cleaned_of_all(call: &Golden, variant: Variant) -> Vec<String> {
    let expected = everything(&others().scene(call, variant, Remains::None));
    let here = others().scene(call, variant, Remains::All);
    let run = mesh_init(&here, &["clean", "--all"]);
    same("after clean --all", &expected, &here, &run)
}

fn cleaned_by_flags(call: &Golden, variant: Variant) -> Vec<String> {
    let expected = everything(&others().scene(call, variant, Remains::None));
    let here = others().scene(call, variant, Remains::All);
    let run = call.run(&here, variant, &["--cleanup-only"]);
    same("after --cleanup-only", &expected, &here, &run)
}

/// Another policy, in the same iptables and in the other one, and away again.
fn replaced(call: &Golden, variant: Variant) -> Vec<String> {
    let mut wrong = Vec::new();
    let fresh = others().scene(call, variant, Remains::Untold);
    let untold = everything(&fresh);
    // Two each, one for either iptables.
    let at = CALLS.iter().position(|name| *name == call.name).expect("one of them");
    for number in [at % 2 * 2, at / 2 % 2 * 2 + 1] {
        let policy = POLICIES[number];
        let target = if number % 2 == 0 { variant } else { variant.other() };
        let words: Vec<_> = policy.split(' ').chain(["--iptables-variant", target.name()]).collect();
        mesh_init(&fresh, &words).ok();
        let expected = everything(&fresh);
        mesh_init(&fresh, &["clean"]).ok();
        let here = others().scene(call, variant, Remains::All);
        let run = mesh_init(&here, &words);
        wrong.extend(same(&format!("after {policy}"), &expected, &here, &run));
        let run = mesh_init(&here, &["clean"]);
        wrong.extend(same(&format!("after {policy} and clean"), &untold, &here, &run));
    }
    wrong
}

/// Each bare rule that is left is named with its family and table; where nothing is left of upstream's, nothing is
/// said of `--all`, which takes nothing else.
fn named(call: &Golden, variant: Variant) -> Vec<String> {
    let none = Others::default();
    let mut wrong = Vec::new();
    for command in [&["clean"][..], &["clean", "--all"]] {
        let here = none.scene(call, variant, Remains::All);
        let run = mesh_init(&here, command);
        let notes = |run: &Run| run.stdout.lines().filter(|line| line.starts_with("note: ")).count();
        let mut expected = 0;
        for (family, name) in [(Family::V4, "IPv4"), (Family::V6, "IPv6")] {
            for (table, rule) in call.untold(family) {
                if command.len() > 1 {
                    continue;
                }
                expected += 1;
                let rule = format!("{table} {}", rule.replace("-I PREROUTING 1", "-A PREROUTING"));
                let is_note =
                    |line: &str| line.starts_with(&format!("note: {name}: ")) && line.contains(&rule);
                if !run.stdout.lines().any(is_note) {
                    wrong.push(format!("expected a note on {name}: {rule}, seen {run}"));
                }
            }
        }
        if notes(&run) > expected {
            wrong.push(format!("expected {expected} notes, seen {run}"));
        }
    }
    wrong
}
