//! Rules and writers of others beside ours: rules that cannot be read, that stand before ours or are written in odd
//! ways, and somebody else who changes the same table all the time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::foreign::{self, DOCKER};
use crate::harness::Case;
use crate::replace::{CLASSIC, words};
use crate::scoped::{APP, apply, serve};
use crate::status::{assert_whole, split, status};
use crate::support::command::{Run, mesh_init};
use crate::support::dial::dial;
use crate::support::netns::Netns;
use crate::support::rules::{Family, Variant, assert_same, dump};
use crate::support::wire::{HERE, THERE, two_hosts};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Case::all_for_each_variant(&[
        ("beside::let_past", let_past),
        ("beside::not_let_past", not_let_past),
        ("beside::comment_of_two_lines", comment_of_two_lines),
    ]);
    let writers = Case::each_variant("beside::another_writer", another_writer);
    cases.extend(writers.map(|case| case.within(Duration::from_secs(120))));
    cases.push(Case::new("beside::unreadable", unreadable));
    cases.push(Case::new("beside::unreadable_and_ours", unreadable_and_ours));
    cases
}

/// A rule that iptables-nft has no words for, in its own table.
const NATIVE: &str = "\
add table ip nat
add chain ip nat POSTROUTING { type nat hook postrouting priority 100; }
add rule ip nat POSTROUTING oifname eth9 masquerade
";

fn make_unreadable(netns: &Netns) {
    Run::with_input(netns, "nft", &["-f", "-"], NATIVE).ok();
    Run::new(netns, "iptables-nft-save", &["-t", "nat"]).says("incompatible");
}

/// Also what iptables-nft-save leaves out.
fn everything(netns: &Netns) -> String {
    dump(netns) + &Run::new(netns, "nft", &["-s", "list", "ruleset"]).ok()
}

#[track_caller]
fn all_refuse(netns: &Netns, more: &[&'static str], says: &str) {
    let before = everything(netns);
    let lines = [
        "status",
        "status --output json",
        "clean",
        "clean --iptables-variant nft",
        "-p 15001 -u 1337",
        "-p 15002 -u 1338 --iptables-variant nft",
        "--uid-owner 1338 --inbound 8001",
        "plan --live -p 15001 -u 1337",
    ];
    for line in lines.iter().chain(more).copied() {
        let run = mesh_init(netns, &split(line));
        assert_same(&format!("after {run}"), &before, &everything(netns));
        run.code(69).says("IPv4 tables of iptables-nft").says("cannot be read").says(says);
    }
}

fn unreadable() {
    let (here, there) = two_hosts();
    serve(&here, &there);
    make_unreadable(&here);
    all_refuse(&here, &[], "--iptables-variant");
    let native = Run::new(&here, "nft", &["-s", "list", "table", "ip", "nat"]).ok();
    mesh_init(&here, &words((Variant::Legacy, CLASSIC))).code(0);
    for family in Family::BOTH {
        dial(&here, APP, THERE.port(family, 80)).captured_by("proxy");
        dial(&there, APP, HERE.port(family, 80)).captured_by("proxy");
    }
    mesh_init(&here, &["status", "--iptables-variant", "legacy"]).code(0).says("captured: ");
    mesh_init(&here, &["clean", "--iptables-variant", "legacy"]).code(0).says("removed from");
    assert_eq!(Run::new(&here, "nft", &["-s", "list", "table", "ip", "nat"]).ok(), native);
}

fn unreadable_and_ours() {
    let (here, there) = two_hosts();
    serve(&here, &there);
    mesh_init(&here, &words((Variant::Nft, CLASSIC))).ok();
    make_unreadable(&here);
    // The other iptables would work beside rules of ours that nobody can take away: refused too.
    let legacy = ["-p 15002 -u 1338 --iptables-variant legacy", "clean --iptables-variant legacy"];
    all_refuse(&here, &legacy, "chain ISTIO_");
    for family in Family::BOTH {
        dial(&here, APP, THERE.port(family, 80)).captured_by("proxy");
        dial(&there, APP, HERE.port(family, 80)).captured_by("proxy");
    }
}

const PAST: [&str; 2] = ["OUTPUT -o eth0 -j RETURN", "OUTPUT -j ACCEPT"];

fn let_past(variant: Variant) {
    let netns = foreign::namespace();
    foreign::load(&netns, variant, &format!("*nat\n-A {}\n-A {}\nCOMMIT\n", PAST[0], PAST[1]));
    let before = dump(&netns);
    let runs = [
        mesh_init(&netns, &words((variant, CLASSIC))).code(0),
        mesh_init(&netns, &words((variant, CLASSIC))).code(0).says("nothing to do"),
        mesh_init(&netns, &["status"]).code(0),
        mesh_init(&netns, &["clean"]).code(0).says("left"),
    ];
    for run in runs {
        for rule in PAST {
            for family in ["IPv4", "IPv6"] {
                let named = |line: &str| {
                    line.starts_with(&format!("note: {family}: ")) && line.contains(&format!("-A {rule}"))
                };
                assert!(
                    run.stdout.lines().any(named),
                    "expected a note on -A {rule} of {family}, seen {run}"
                );
            }
        }
    }
    assert_same("after clean", &before, &dump(&netns));
}

fn not_let_past(variant: Variant) {
    let netns = foreign::namespace();
    foreign::load(&netns, variant, DOCKER);
    foreign::load(
        &netns,
        variant,
        "*nat\n-A OUTPUT -p udp -j ACCEPT\n-A PREROUTING -p udp -j RETURN\nCOMMIT\n",
    );
    let before = dump(&netns);
    for line in [CLASSIC, "--uid-owner 1338 --inbound 8001"] {
        let runs = [
            mesh_init(&netns, &words((variant, line))).code(0),
            mesh_init(&netns, &["status"]).code(0),
            mesh_init(&netns, &["clean"]).code(0),
        ];
        for run in runs {
            assert!(!run.stdout.contains("note:"), "expected no note, seen {run}");
        }
        assert_same("after clean", &before, &dump(&netns));
    }
}

/// A comment may hold anything, also what looks like the next line of a save.
fn comment_of_two_lines(variant: Variant) {
    let comments =
        ["a\nb", "a\n-A OUTPUT -j ISTIO_OUTPUT", "\n", "x\nCOMMIT\n*nat", "quote \" and\n\\ slash\n"];
    for comment in comments {
        let netns = foreign::namespace();
        for family in Family::BOTH {
            for rule in ["-A OUTPUT -p udp", "-A PREROUTING -p udp"] {
                let words: Vec<_> = ["-t", "nat"].into_iter().chain(rule.split(' ')).collect();
                let words = [&words[..], &["-m", "comment", "--comment", comment, "-j", "ACCEPT"]].concat();
                Run::new(&netns, &variant.program(family, ""), &words).ok();
            }
        }
        let before = dump(&netns);
        assert_eq!(status(&netns)["captured"], false, "beside {comment:?}");
        for flags in [CLASSIC, "--uid-owner 1338 --inbound 8001"] {
            mesh_init(&netns, &words((variant, flags))).code(0).says("\nchanged ");
            mesh_init(&netns, &words((variant, flags))).code(0).says("nothing to do");
            assert_whole(comment, &status(&netns), true);
        }
        mesh_init(&netns, &["clean"]).code(0).says("removed from");
        assert_same(&format!("after clean, beside {comment:?}"), &before, &dump(&netns));
    }
}

/// Somebody who takes the same lock puts a rule first and takes it away, again and again.
fn another_writer(variant: Variant) {
    const POLICIES: [&str; 2] =
        ["--uid-owner 1338 --inbound 8001", "--uid-owner 1400 --inbound 8002 -p 15002"];
    let netns = foreign::namespace();
    apply(&netns, variant, &split(POLICIES[1]));
    let expected = dump(&netns);
    let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let writers = Family::BOTH.map(|family| {
        let (netns, stop, rounds) = (netns.clone(), Arc::clone(&stop), Arc::clone(&rounds));
        thread::spawn(move || {
            let program = variant.program(family, "");
            while !stop.load(Ordering::SeqCst) {
                for verb in ["-I", "-D"] {
                    let rule =
                        ["-w", "-t", "nat", verb, "OUTPUT", "-p", "udp", "--dport", "9", "-j", "ACCEPT"];
                    Run::new(&netns, &program, &rule).ok();
                }
                rounds.fetch_add(1, Ordering::SeqCst);
            }
        })
    });
    let runs: Vec<_> =
        (0..30).map(|number| mesh_init(&netns, &words((variant, POLICIES[number % 2])))).collect();
    stop.store(true, Ordering::SeqCst);
    for writer in writers {
        writer.join().expect("the other writer");
    }
    let rounds = rounds.load(Ordering::SeqCst);
    let failed: Vec<_> = runs.iter().filter(|run| run.code != Some(0)).map(ToString::to_string).collect();
    assert!(
        failed.is_empty(),
        "{} of 30 failed beside {rounds} rounds:\n{}",
        failed.len(),
        failed.join("\n")
    );
    assert!(rounds >= 10, "expected another writer at work, seen {rounds} rounds");
    apply(&netns, variant, &split(POLICIES[1]));
    assert_same(&format!("after {rounds} rounds"), &expected, &dump(&netns));
}
