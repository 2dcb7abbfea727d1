//! The same policy once more: nothing is written, nothing is counted anew.

use crate::harness::Case;
use crate::scoped::{APP, OWNER, VM, serve};
use crate::support::command::mesh_init;
use crate::support::dial::dial;
use crate::support::rules::{Family, Variant, assert_differs, assert_same, counted, dump, restore};
use crate::support::wire::{HERE, THERE, two_hosts};

pub(crate) const CLASSIC: [&str; 4] = ["-p", "15001", "-u", "1337"];

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    cases.extend(Case::all_for_each_carrier(&[
        ("again::classic", |variant| unchanged(variant, &CLASSIC)),
        ("again::scoped", |variant| unchanged(variant, &VM)),
        ("again::variant_found", variant_found),
        ("again::questions_change_nothing", questions_change_nothing),
    ]));
    cases.extend(Case::each_variant("again::repaired", repaired));
    cases
}

fn unchanged(variant: Variant, flags: &[&str]) {
    let (here, there) = two_hosts();
    serve(&here, &there);
    let words: Vec<_> = flags.iter().copied().chain(variant.flags()).collect();
    mesh_init(&here, &words).ok();
    for family in Family::BOTH {
        for _ in 0..3 {
            dial(&here, OWNER, THERE.port(family, 80)).captured_by("proxy");
            dial(&there, APP, HERE.port(family, 8001)).captured_by("proxy");
        }
    }
    let (rules, state) = (counted(&here), dump(&here));
    let redirects: Vec<_> = match variant {
        Variant::Legacy | Variant::Nft => {
            rules.lines().filter(|line| line.contains("--to-ports 15001")).collect()
        }
        Variant::Native => rules.lines().filter(|line| line.contains("redirect to :15001")).collect(),
    };
    let nothing = |line: &&str| line.starts_with("[0:0]") || line.contains("counter packets 0 ");
    let counts = !redirects.iter().any(nothing);
    assert!(
        counts && redirects.len() >= 2,
        "expected redirects of both families that counted, seen {redirects:?}"
    );
    let again = mesh_init(&here, &words).code(0);
    assert!(again.stdout.contains("nothing to do"), "expected `nothing to do` on stdout, seen {again}");
    assert_same("rules and counters after the second run", &rules, &counted(&here));
    assert_same("everything else after the second run", &state, &dump(&here));
}

/// Without the flag, the variant that holds ours is the one: there is nothing to do either.
fn variant_found(variant: Variant) {
    let (here, _there) = two_hosts();
    let words: Vec<_> = CLASSIC.into_iter().chain(variant.flags()).collect();
    mesh_init(&here, &words).ok();
    let rules = counted(&here);
    let again = mesh_init(&here, &CLASSIC).code(0);
    assert!(again.stdout.contains("nothing to do"), "expected `nothing to do` on stdout, seen {again}");
    assert_same("rules after a run without --iptables-variant", &rules, &counted(&here));
}

/// What somebody changed inside our chains is put right.
fn repaired(variant: Variant) {
    for flags in [&CLASSIC, &VM] {
        let (here, _there) = two_hosts();
        let words: Vec<_> = flags.iter().copied().chain(variant.flags()).collect();
        mesh_init(&here, &words).ok();
        let whole = dump(&here);
        let faults = [
            "-D ISTIO_OUTPUT 1",
            "-I ISTIO_OUTPUT -j RETURN",
            "-F ISTIO_REDIRECT",
            "-F OUTPUT",
            "-F PREROUTING",
        ];
        for (fault, family) in faults.into_iter().flat_map(|fault| Family::BOTH.map(|family| (fault, family)))
        {
            restore(&here, variant, family, &format!("*nat\n{fault}\nCOMMIT\n"));
            assert_differs(fault, &whole, &dump(&here));
            mesh_init(&here, &words).ok();
            assert_same(
                &format!("{flags:?} after `{fault}` in {family:?} and another run"),
                &whole,
                &dump(&here),
            );
        }
    }
}

/// Where rules are, a question leaves them and their counters alone, whatever it asks about.
fn questions_change_nothing(variant: Variant) {
    let (here, there) = two_hosts();
    serve(&here, &there);
    let words: Vec<_> = VM.into_iter().chain(variant.flags()).collect();
    mesh_init(&here, &words).ok();
    dial(&here, OWNER, THERE.port(Family::V4, 80)).captured_by("proxy");
    let (rules, state) = (counted(&here), dump(&here));
    let questions: [&[&str]; 5] = [
        &["status"],
        &["status", "--output", "json"],
        &["plan", "-p", "15001", "-u", "1337"],
        &["plan", "--live", "-p", "15001", "-u", "1337"],
        &["plan", "--live", "--uid-owner", "1338", "--inbound", "8001"],
    ];
    for question in questions {
        let run = mesh_init(&here, question).code(0);
        assert_same(&format!("rules and counters after {run}"), &rules, &counted(&here));
        assert_same(&format!("everything else after {run}"), &state, &dump(&here));
        if question.contains(&"--uid-owner") {
            assert!(run.stdout.contains("nothing to do"), "expected `nothing to do` on stdout, seen {run}");
        }
    }
}
