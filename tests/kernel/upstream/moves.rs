//! From every layout to every other one, in one iptables and between both: in the end the rules are exactly those
//! that the last command makes in a fresh namespace.

use std::time::Duration;

use super::scene::everything;
use crate::foreign;
use crate::harness::Case;
use crate::support::call::Call;
use crate::support::command::{Run, mesh_init};
use crate::support::netns::Netns;
use crate::support::rules::{Variant, assert_same};

/// istio-iptables to the letter, our reading of it, classic and scoped; both of the first two in both modes.
const COMMANDS: [&str; 7] = [
    "istio-iptables -b * -d 15090,15021,15020 -i * -k net1 --dual-stack",
    "istio-iptables -m TPROXY -b 80,8080 -i 10.0.0.0/8,fd00::/8 -k net1,net2 --redirect-dns --capture-all-dns \
        --drop-invalid --dual-stack",
    "-p 15001 -z 15006 -u 1337 -b * -i 10.0.0.0/8 -c eth1 -k net1",
    "-p 15001 -z 15006 -u 1337 -m TPROXY -t 1400 -r 140 -c eth1 --drop-invalid",
    "-p 15001 -u 1337",
    "--uid-owner 1338 --inbound 8001 -c eth1",
    "istio-iptables -u 1337,2000 -m TPROXY -t 1400 -b * -q 9000 -x 10.9.0.0/16",
];

pub(super) fn cases() -> Vec<Case> {
    let cases = Case::all_for_each_variant(&[
        ("upstream::moves", |variant| moves(|_| variant)),
        ("upstream::moves_between_variants", |variant| {
            moves(|step| if step % 2 == 0 { variant } else { variant.other() });
        }),
    ]);
    cases.into_iter().map(|case| case.within(Duration::from_secs(120))).collect()
}

fn run(netns: &Netns, variant: Variant, command: &str) -> Run {
    let words: Vec<_> = command.split_whitespace().collect();
    match words[0] {
        "istio-iptables" => Call::mesh_init(netns, &words).env("FORCE_IPTABLES_BINARY", variant.name()).run(),
        _ => mesh_init(netns, &[&words[..], &["--iptables-variant", variant.name()]].concat()),
    }
}

/// A walk that takes every step from one command to another once.
fn walk() -> Vec<usize> {
    let mut left: Vec<(usize, usize)> = Vec::new();
    for from in 0..COMMANDS.len() {
        left.extend((0..COMMANDS.len()).filter(|to| *to != from).map(|to| (from, to)));
    }
    // Hierholzer: every command has as many steps in as out.
    let (mut open, mut walk) = (vec![0], Vec::new());
    while let Some(at) = open.last().copied() {
        match left.iter().position(|(from, _)| *from == at) {
            Some(step) => open.push(left.swap_remove(step).1),
            None => walk.extend(open.pop()),
        }
    }
    walk.reverse();
    assert_eq!(walk.len(), COMMANDS.len() * (COMMANDS.len() - 1) + 1);
    walk
}

fn moves(variant: impl Fn(usize) -> Variant) {
    let mut fresh: Vec<((usize, Variant), String)> = Vec::new();
    let here = foreign::namespace();
    let empty = everything(&here);
    let mut done = Vec::new();
    for (step, command) in walk().into_iter().enumerate() {
        let variant = variant(step);
        if !fresh.iter().any(|(of, _)| *of == (command, variant)) {
            let there = foreign::namespace();
            run(&there, variant, COMMANDS[command]).ok();
            fresh.push(((command, variant), everything(&there)));
        }
        let expected = fresh.iter().find(|(of, _)| *of == (command, variant)).map(|(_, text)| text);
        run(&here, variant, COMMANDS[command]).ok();
        done.push(format!("{command} in {}", variant.name()));
        let last = done[done.len().saturating_sub(2)..].join(" -> ");
        assert_same(&last, expected.expect("made above"), &everything(&here));
        let status = mesh_init(&here, &["status"]).code(0);
        let whole = status.stdout.starts_with("captured: ") && !status.stdout.contains("NOT WHOLE");
        assert!(whole, "expected `captured` and whole after {last}, seen {status}");
        run(&here, variant, COMMANDS[command]).code(0).says("nothing to do");
    }
    mesh_init(&here, &["clean"]).ok();
    assert_same("after clean", &empty, &everything(&here));
}
