//! Can this suite fail? Each way in which a case could pass for the wrong reason is tried here.

use std::time::Duration;

use crate::child::{self, Verdict};
use crate::harness::{Case, Check, judge};
use crate::support::creds::Who;
use crate::support::dial::{dial, dial_udp};
use crate::support::netns::Netns;
use crate::support::rules::{Family, Variant, assert_differs, assert_same, dump, legacy_tables, restore};
use crate::support::serve::Service;
use crate::support::wire::{BEHIND, HERE, LOOPBACK, THERE, three_hosts, two_hosts};

const APP: Who = Who::user(1000);
const PROXY: Who = Who::user(1337);

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        Case::new("self_check::without_rules_nothing_is_captured", without_rules_nothing_is_captured),
        Case::new("self_check::credentials_are_the_threads", credentials_are_the_threads),
        Case::new("self_check::routing", routing),
        Case::new("self_check::looking_leaves_no_table", looking_leaves_no_table),
        Case::new("self_check::hangs", hang).hidden(),
        Case::new("self_check::panics", || panic!("this is expected")).hidden(),
        Case::new("self_check::panics_elsewhere", panic_elsewhere).hidden(),
        Case::new("self_check::skips", || child::skip("this is expected")).hidden(),
    ];
    cases.extend(Case::each_variant("self_check::captured", rules_by_hand_capture));
    cases.extend(Case::each_variant("self_check::dump_sees_a_rule", dump_sees_a_rule));
    cases
}

/// Checks of the harness from outside.
pub(crate) fn checks() -> Vec<Check> {
    let check = |name, case, message| Check { name, body: Box::new(move || fails_with(case, message)) };
    vec![
        check("self_check::a_hanging_case_fails", "self_check::hangs", "still running at its deadline"),
        check("self_check::a_panic_fails", "self_check::panics", "this is expected"),
        check("self_check::a_panic_elsewhere_fails", "self_check::panics_elsewhere", "on another thread"),
        check("self_check::a_missing_case_fails", "self_check::no_such_case", "no case is called"),
        Check { name: "self_check::a_skip_fails_under_ci", body: Box::new(a_skip_fails_under_ci) },
    ]
}

const HANG: Duration = Duration::from_millis(500);

fn fails_with(case: &str, message: &str) -> Verdict {
    match child::run(case, HANG) {
        Verdict::Failed(text) if text.contains(message) => Verdict::Passed,
        Verdict::Skipped(reason) => Verdict::Skipped(reason),
        other @ (Verdict::Passed | Verdict::Failed(_)) => {
            Verdict::Failed(format!("expected a failure with `{message}`, seen {other:?}"))
        }
    }
}

fn a_skip_fails_under_ci() -> Verdict {
    let skipped = match child::run("self_check::skips", HANG) {
        Verdict::Skipped(reason) => reason,
        other @ (Verdict::Passed | Verdict::Failed(_)) => {
            return Verdict::Failed(format!("expected a skip, seen {other:?}"));
        }
    };
    let judged = |under_ci| judge(Verdict::Skipped(skipped.clone()), under_ci);
    match (judged(true), judged(false)) {
        (Err(failed), Ok(_)) if failed.message().is_some_and(|text| text.contains(&skipped)) => {
            Verdict::Passed
        }
        _ => Verdict::Failed("expected a failure under CI and a skip elsewhere".to_owned()),
    }
}

fn hang() {
    std::thread::sleep(Duration::from_secs(60));
}

fn panic_elsewhere() {
    let thread = std::thread::spawn(|| panic!("on another thread"));
    while !thread.is_finished() {
        std::thread::yield_now();
    }
}

fn without_rules_nothing_is_captured() {
    let (here, there) = two_hosts();
    let proxy = Service::tcp(&here, PROXY, "proxy", &[15001]);
    Service::tcp(&here, Who::ROOT, "here", &[80]);
    Service::tcp(&there, Who::ROOT, "there", &[80]);
    Service::udp(&there, Who::ROOT, "there-udp", 53);
    for family in Family::BOTH {
        for (from, to, name) in [
            (&here, THERE, "there"),
            (&there, HERE, "here"),
            (&here, HERE, "here"),
            (&here, LOOPBACK, "here"),
        ] {
            let dialled = dial(from, APP, to.port(family, 80));
            dialled.untouched_to(name);
            assert!(!dialled.is_captured_by("proxy"), "expected no capture, seen {dialled}");
            assert!(
                !dialled.is_captured_by(name),
                "an answer of the server is not a capture, seen {dialled}"
            );
            assert!(!dialled.is_untouched_to("proxy"), "the name of the answerer counts, seen {dialled}");
        }
        dial_udp(&here, APP, THERE.port(family, 53)).untouched_to("there-udp");
        let nobody = dial(&here, APP, THERE.port(family, 81));
        assert!(nobody.answer.is_err(), "expected no answer, seen {nobody}");
    }
    assert!(proxy.accepted().is_empty(), "expected nothing at the proxy, seen {:?}", proxy.accepted());
}

fn rules_by_hand_capture(variant: Variant) {
    let (here, there) = two_hosts();
    let proxy = Service::tcp(&here, PROXY, "proxy", &[15001]);
    Service::tcp(&there, Who::ROOT, "there", &[80]);
    let rules = "*nat\n\
        -A OUTPUT -p tcp -m owner --uid-owner 1000 -j REDIRECT --to-ports 15001\n\
        -A OUTPUT -p tcp -m owner --gid-owner 4000 -j REDIRECT --to-ports 15001\n\
        -A PREROUTING -p tcp -j REDIRECT --to-ports 15001\nCOMMIT\n";
    for family in Family::BOTH {
        restore(&here, variant, family, rules);
        let outbound = dial(&here, APP, THERE.port(family, 80));
        outbound.captured_by("proxy");
        assert!(!outbound.is_untouched_to("there"), "expected capture, seen {outbound}");
        assert!(
            !outbound.is_untouched_to("proxy"),
            "a captured connection is not untouched, seen {outbound}"
        );
        dial(&here, Who::user(1001).group(4000), THERE.port(family, 80)).captured_by("proxy");
        dial(&here, Who::user(1001), THERE.port(family, 80)).untouched_to("there");
        dial(&here, PROXY, THERE.port(family, 80)).untouched_to("there");
        dial(&there, APP, HERE.port(family, 7)).captured_by("proxy");
    }
    assert_eq!(proxy.accepted().len(), 6, "expected three connections a family, seen {:?}", proxy.accepted());
}

fn credentials_are_the_threads() {
    let ids = || (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    let netns = Netns::new("here");
    let inside = netns.run_as(Who::user(1000).group(4000), ids);
    assert_eq!(
        (inside, ids()),
        ((1000, 4000), (0, 0)),
        "expected the thread's own ids, and root outside of it"
    );
}

fn routing() {
    let (_here, there, behind) = three_hosts();
    Service::tcp(&there, Who::ROOT, "there", &[80]);
    Service::tcp(&behind, Who::ROOT, "behind", &[80]);
    for family in Family::BOTH {
        let out = dial(&behind, APP, THERE.port(family, 80));
        out.untouched_to("there");
        let peer = out.answer.as_ref().map(|greeting| greeting.peer.ip());
        assert_eq!(
            peer,
            Ok(BEHIND.ip(family)),
            "expected the client's own address at the server, seen {out}"
        );
        dial(&there, APP, BEHIND.port(family, 80)).untouched_to("behind");
    }
}

/// The dump notices one rule, no counter, and neither the coming nor the staying of an empty table.
fn dump_sees_a_rule(variant: Variant) {
    let netns = Netns::new("here");
    let before = dump(&netns);
    let rule = |verb: &str| format!("*nat\n{verb} OUTPUT -p tcp -j REDIRECT --to-ports 15001\nCOMMIT\n");
    for family in Family::BOTH {
        restore(&netns, variant, family, &rule("-A"));
        let with = dump(&netns);
        assert!(
            with.contains("-A OUTPUT -p tcp -j REDIRECT --to-ports 15001"),
            "expected the rule, seen\n{with}"
        );
        drop(dial(&netns, APP, LOOPBACK.port(family, 80)));
        assert_same("counters", &with, &dump(&netns));
        restore(&netns, variant, family, &rule("-D"));
        assert_same("the rule gone again", &before, &dump(&netns));
    }
    for change in
        ["addr add 10.7.0.1/32 dev lo", "rule add fwmark 7 lookup 7", "route add local ::/0 dev lo table 7"]
    {
        let before = dump(&netns);
        netns.ip(change);
        assert_differs(&format!("ip {change}"), &before, &dump(&netns));
    }
}

fn looking_leaves_no_table() {
    let netns = Netns::new("here");
    let tables = || {
        let native = crate::support::command::Run::new(&netns, "nft", &["list", "tables"]).ok();
        Family::BOTH.map(|family| legacy_tables(&netns, family)).concat() + &native
    };
    let dumped = dump(&netns);
    assert_eq!(tables(), "", "expected no table after a dump");
    for variant in Variant::BOTH {
        let before = tables();
        for verb in ["-A", "-D"] {
            restore(&netns, variant, Family::V4, &format!("*nat\n{verb} OUTPUT -p tcp -j ACCEPT\nCOMMIT\n"));
        }
        assert_ne!(tables(), before, "expected to see the table that {} made", variant.name());
    }
    assert_same("empty tables", &dumped, &dump(&netns));
}
