//! `verify --repair`: what another program has flushed comes back, and nothing else is touched.

use std::io::{Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::mpsc;

use serde_json::{Value, json};

use crate::foreign;
use crate::harness::Case;
use crate::scoped::{APP, OWNER, apply, serve};
use crate::status::split;
use crate::support::call::Call;
use crate::support::command::{Run, mesh_init};
use crate::support::dial::dial;
use crate::support::netns::Netns;
use crate::support::rules::{Family, Variant, assert_same, counted, dump, restore};
use crate::support::sbin::Sbin;
use crate::support::wire::{HERE, THERE, two_hosts};
use crate::verify::{CLASSIC, ISTIO, SCOPED, TPROXY};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Case::all_for_each_variant(&[
        ("verify_repair::once", once),
        ("verify_repair::without_a_policy", without_a_policy),
        ("verify_repair::while_another_change_waits", while_another_change_waits),
        ("verify_repair::that_fails", that_fails),
        ("verify_repair::two_at_once", two_at_once),
        ("verify_repair::another_policy", another_policy),
        ("verify_repair::stranger_and_repair", stranger_and_repair),
        ("verify_repair::stranger_and_confirm", stranger_and_confirm),
    ]);
    let slow = Case::each_variant("verify_repair::flushed", flushed);
    cases.extend(slow.map(|case| case.within(std::time::Duration::from_secs(120))));
    cases
}

/// What `iptables -t nat -F; iptables -t nat -X` does, in both families, and so for mangle.
pub(crate) fn flush_by_iptables(netns: &Netns, variant: Variant) {
    for family in Family::BOTH {
        for table in ["nat", "mangle"] {
            for order in ["-F", "-X"] {
                Run::new(netns, &variant.program(family, ""), &["-t", table, order]).ok();
            }
        }
    }
}

fn flush_ruleset(netns: &Netns, variant: Variant) {
    match variant {
        Variant::Nft | Variant::Native => drop(Run::new(netns, "nft", &["flush", "ruleset"]).ok()),
        // Whoever uses it beside iptables-legacy flushes what that has as well.
        Variant::Legacy => {
            Run::new(netns, "nft", &["flush", "ruleset"]).ok();
            flush_by_iptables(netns, variant);
        }
    }
}

/// A firewall manager that loads its tables whole.
fn restore_whole(netns: &Netns, variant: Variant) {
    const TABLES: &str = "*nat\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n\
        :POSTROUTING ACCEPT [0:0]\n:POST_public - [0:0]\n-A POSTROUTING -o eth9 -j POST_public\n\
        -A POST_public -j MASQUERADE\nCOMMIT\n*mangle\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -i eth9 -j ACCEPT\nCOMMIT\n";
    for family in Family::BOTH {
        Run::with_input(netns, &variant.program(family, "restore"), &[], TABLES).ok();
    }
}

fn words<'a>(flags: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    ["verify", "--quick", "--repair"]
        .into_iter()
        .chain(flags.split(' '))
        .chain(more.iter().copied())
        .collect()
}

/// With the variant named, which nothing that is left would tell.
fn repair(netns: &Netns, variant: Variant, flags: &str) -> Run {
    mesh_init(netns, &words(flags, &variant.flags()))
}

#[track_caller]
fn json_of(run: &Run) -> Value {
    serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}: expected JSON, seen {run}"))
}

/// Rules with their counters; those of whole chains count what the kernel itself sends now and then.
pub(crate) fn counted_rules(netns: &Netns) -> String {
    counted(netns).lines().filter(|line| !line.starts_with(':')).map(|line| format!("{line}\n")).collect()
}

/// Whether the connections that every policy below captures are.
#[track_caller]
fn assert_captured(here: &Netns, there: &Netns, inbound: Option<&str>, captured: bool) {
    for family in Family::BOTH {
        let out = dial(here, OWNER, THERE.port(family, 80));
        assert_eq!(out.is_captured_by("proxy"), captured, "{out}");
        let Some(inbound) = inbound else { continue };
        let into = dial(there, APP, HERE.port(family, 8001));
        assert_eq!(into.is_captured_by(inbound), captured, "{into}");
    }
}

/// Flushed in three ways; after a repair the rules are those of before, beside those of whoever flushed.
fn flushed(variant: Variant) {
    for (flags, inbound) in
        [(CLASSIC, Some("proxy")), (SCOPED, Some("proxy")), (ISTIO, Some("inbound")), (TPROXY, None)]
    {
        for (what, flush) in [
            ("iptables -F", flush_by_iptables as fn(&Netns, Variant)),
            ("nft flush ruleset", flush_ruleset),
            ("a whole restore", restore_whole),
        ] {
            let (here, there) = two_hosts();
            serve(&here, &there);
            flush(&here, variant);
            let bare = dump(&here);
            apply(&here, variant, &split(flags));
            let whole = dump(&here);
            flush(&here, variant);
            assert_captured(&here, &there, inbound, false);
            mesh_init(&here, &["verify", "--quick"]).code(126);
            let run = repair(&here, variant, flags).code(0);
            assert!(run.stdout.contains("\nrepaired: IPv4: table "), "{flags} after {what}: {run}");
            assert_captured(&here, &there, inbound, true);
            assert_same(&format!("{flags} after {what} and {run}"), &whole, &dump(&here));
            mesh_init(&here, &["clean"]).ok();
            assert_same("after clean", &bare, &dump(&here));
        }
    }
}

/// What holds is not written again.
fn once(variant: Variant) {
    for flags in [CLASSIC, SCOPED, ISTIO, TPROXY] {
        let netns = foreign::namespace();
        apply(&netns, variant, &split(flags));
        flush_by_iptables(&netns, variant);
        let args = words(flags, &["--output", "json", "--iptables-variant", variant.name()]);
        let seen = json_of(&mesh_init(&netns, &args).code(0));
        assert!(seen["repaired"].as_array().is_some_and(|repaired| repaired.len() >= 2), "{seen:#}");
        assert_eq!(seen["captured"], true, "{seen:#}");
        let (rules, all) = (counted_rules(&netns), dump(&netns));
        for args in [args, words(flags, &["--output", "json"])] {
            let seen = json_of(&mesh_init(&netns, &args).code(0));
            assert_eq!((&seen["repaired"], &seen["captured"]), (&json!([]), &json!(true)), "{seen:#}");
        }
        assert_same("rules and counters", &rules, &counted_rules(&netns));
        assert_same("everything else", &all, &dump(&netns));
        // Tried as well, after one rule is gone.
        restore(&netns, variant, Family::V6, "*nat\n-F ISTIO_OUTPUT\nCOMMIT\n");
        let full: Vec<_> = ["verify", "--repair"].into_iter().chain(flags.split(' ')).collect();
        mesh_init(&netns, &full).code(0).says("repaired: ").says("captured (probe)");
        assert_same("after a repair", &all, &dump(&netns));
    }
}

fn without_a_policy(variant: Variant) {
    let netns = foreign::namespace();
    apply(&netns, variant, &split(CLASSIC));
    restore(&netns, variant, Family::V4, "*nat\n-F OUTPUT\nCOMMIT\n");
    let before = dump(&netns);
    for line in
        ["verify --repair", "verify --quick --repair --output json", "verify --repair --iptables-variant nft"]
    {
        let args: Vec<_> = line.split(' ').collect();
        mesh_init(&netns, &args).code(64).says("--repair needs the policy").says("--config");
        assert_same(line, &before, &dump(&netns));
    }
    mesh_init(&netns, &["verify", "--quick", "--repair", "-p", "70000"]).code(64);
    assert_same("a fault", &before, &dump(&netns));
}

/// Whoever waits for a word of confirmation decides what is there.
fn while_another_change_waits(variant: Variant) {
    for marked in [true, false] {
        let netns = foreign::namespace();
        apply(&netns, variant, &split("-p 15009 -u 1339"));
        let waiting =
            [&split(CLASSIC)[..], &["--confirm-within", "60s", "--iptables-variant", variant.name()]]
                .concat();
        mesh_init(&netns, &waiting).code(0).says("mesh-init confirm");
        match marked {
            true => restore(&netns, variant, Family::V4, "*nat\n-F OUTPUT\nCOMMIT\n"),
            false => flush_by_iptables(&netns, variant),
        }
        let before = dump(&netns);
        for flags in [CLASSIC, "-p 15009 -u 1339"] {
            let run = repair(&netns, variant, flags).code(126);
            run.says("not repaired: another change waits to be confirmed");
            assert_same(flags, &before, &dump(&netns));
        }
        mesh_init(&netns, &["confirm"]).code(0);
        repair(&netns, variant, CLASSIC).code(0).says("repaired: ");
        let alone = foreign::namespace();
        apply(&alone, variant, &split(CLASSIC));
        assert_same("in the end", &dump(&alone), &dump(&netns));
    }
}

fn that_fails(variant: Variant) {
    for (refusing, script) in [
        (Family::V4, "echo no way >&2; exit 1"),
        (Family::V6, "echo no way >&2; exit 1"),
        (Family::V4, "kill -KILL $$"),
        (Family::V6, "cat > /dev/null; exit 0"),
    ] {
        let netns = foreign::namespace();
        apply(&netns, variant, &split(SCOPED));
        flush_by_iptables(&netns, variant);
        let before = dump(&netns);
        let sbin = Sbin::new().with(&variant.program(refusing, "restore"), script);
        let text = repair(&netns, variant, SCOPED);
        let args = words(SCOPED, &["--output", "json", "--iptables-variant", variant.name()]);
        let run = mesh_init(&netns, &args);
        drop(sbin);
        for run in [text, run] {
            assert!(run.code.is_some_and(|code| code != 0), "expected a failure, seen {run}");
            run.code(1);
        }
        assert_same(&format!("{refusing:?} `{script}`"), &before, &dump(&netns));
        repair(&netns, variant, SCOPED).code(0).says("repaired: ");
    }
    // Tools that are not there.
    let netns = foreign::namespace();
    let sbin = Sbin::new().without(&Family::BOTH.map(|family| variant.program(family, "restore")));
    let run = repair(&netns, variant, SCOPED);
    drop(sbin);
    run.code(69);
}

fn two_at_once(variant: Variant) {
    let netns = foreign::namespace();
    apply(&netns, variant, &split(SCOPED));
    let whole = dump(&netns);
    flush_by_iptables(&netns, variant);
    let args = words(SCOPED, &["--output", "json", "--iptables-variant", variant.name(), "--wait", "30"]);
    let runs: Vec<_> = (0..4).map(|_| Call::mesh_init(&netns, &args).start()).collect();
    for run in runs {
        run.finish().code(0);
    }
    assert_same("after all of them", &whole, &dump(&netns));
}

/// Rules of another policy are not as they should be either, and are replaced; other iptables' too.
fn another_policy(variant: Variant) {
    let alone = foreign::namespace();
    apply(&alone, variant, &split(SCOPED));
    let wanted = dump(&alone);
    for (before, other) in
        [(CLASSIC, variant), (ISTIO, variant), (TPROXY, variant), (SCOPED, variant.other())]
    {
        let netns = foreign::namespace();
        apply(&netns, other, &split(before));
        repair(&netns, variant, SCOPED).code(0).says("repaired: ");
        assert_same(&format!("instead of {before}"), &wanted, &dump(&netns));
    }
}

/// Somebody without privileges listens under the name by which changes that wait are found, and answers.
fn stranger_at_the_name(netns: &Netns) {
    let (ready, bound) = mpsc::channel();
    netns.spawn(APP, move || {
        let name = SocketAddr::from_abstract_name(b"mesh-init/confirm").expect("a name");
        let listener = UnixListener::bind_addr(&name).expect("a free name");
        ready.send(()).expect("the case waits");
        for mut stream in listener.incoming().flatten() {
            let mut word = [0];
            let answer = 60_000_u64.to_ne_bytes();
            let _gone = stream.read(&mut word).and_then(|_| stream.write_all(&answer)).is_err();
        }
    });
    bound.recv().expect("the listener");
}

/// He cannot keep a repair away.
fn stranger_and_repair(variant: Variant) {
    let netns = foreign::namespace();
    apply(&netns, variant, &split(SCOPED));
    let whole = dump(&netns);
    flush_by_iptables(&netns, variant);
    stranger_at_the_name(&netns);
    repair(&netns, variant, SCOPED).code(0).says("repaired: ");
    assert_same("after the repair", &whole, &dump(&netns));
}

/// He cannot make anybody believe that a change was confirmed, or that one waited.
fn stranger_and_confirm(variant: Variant) {
    let netns = foreign::namespace();
    stranger_at_the_name(&netns);
    mesh_init(&netns, &["confirm"]).code(1).says("nothing waits to be confirmed");
    let run = mesh_init(&netns, &[&split(SCOPED)[..], &variant.flags()].concat()).code(0);
    assert_eq!(run.stderr, "", "{run}");
    mesh_init(&netns, &["confirm"]).code(1).says("nothing waits to be confirmed");
}
