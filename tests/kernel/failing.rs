//! Tools that are missing, fail, lie or hang: the right exit code, a word on what is wrong, and the namespace as
//! it was before.

use std::fs;
use std::time::{Duration, Instant};

use crate::foreign::{self, DOCKER};
use crate::harness::Case;
use crate::replace::{CLASSIC, OTHER_CLASSIC, SCOPED, words};
use crate::support::call::Call;
use crate::support::command::{Run, mesh_init};
use crate::support::netns::Netns;
use crate::support::rules::{Family, Variant, assert_differs, assert_same, dump};
use crate::support::sbin::{Sbin, names};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Case::all_for_each_variant(&[
        ("failing::no_iptables_for_ipv6", no_iptables_for_ipv6),
        ("failing::refused_after_ipv4", refused_after_ipv4),
        ("failing::no_table_after_ipv4", no_table_after_ipv4),
        ("failing::a_lie_for_ipv6", |variant| a_lie(variant, &[Family::V6])),
        ("failing::a_lie", |variant| a_lie(variant, &Family::BOTH)),
        ("failing::garbage_read_back", |variant| read_back(variant, "echo '*nat'; echo garbage")),
        ("failing::nothing_read_back", |variant| read_back(variant, "echo 'no table' >&2; exit 1")),
        ("failing::half_read_back", half_read_back),
    ]);
    cases.push(Case::new("failing::no_iptables", no_iptables));
    let hanging = Case::each_variant("failing::hung_restore", hung_restore);
    cases.extend(hanging.map(|case| case.within(Duration::from_secs(90))));
    cases.push(Case::new("failing::hung_save", hung_save).within(Duration::from_secs(90)));
    cases
}

/// What a namespace may hold before: nothing, a policy, or a policy among rules of others.
fn grounds(variant: Variant) -> Vec<(&'static str, Netns)> {
    let (empty, captured, shared) = (foreign::namespace(), foreign::namespace(), foreign::namespace());
    mesh_init(&captured, &words((variant, CLASSIC))).ok();
    foreign::load(&shared, variant, DOCKER);
    mesh_init(&shared, &words((variant, CLASSIC))).ok();
    // Theirs stand on both sides of ours.
    foreign::load(
        &shared,
        variant,
        "*nat\n-A OUTPUT -p udp -j ACCEPT\n-A PREROUTING -p udp -j ACCEPT\nCOMMIT\n",
    );
    vec![("nothing", empty), ("classic", captured), ("classic among others", shared)]
}

/// Tries both layouts on every ground with the tools of `sbin`; each time nothing may have changed.
#[track_caller]
fn leaves_all_as_it_was(variant: Variant, sbin: impl Fn() -> Sbin, judge: impl Fn(Run)) {
    for (ground, netns) in grounds(variant) {
        let before = dump(&netns);
        for flags in [OTHER_CLASSIC, SCOPED] {
            let stand_ins = sbin();
            let run = mesh_init(&netns, &words((variant, flags)));
            drop(stand_ins);
            assert_same(&format!("{flags} on {ground} failed with {run}"), &before, &dump(&netns));
            judge(run);
        }
        // With the tools back, the same command works.
        mesh_init(&netns, &words((variant, SCOPED))).ok();
        assert_differs(ground, &before, &dump(&netns));
    }
}

fn no_iptables() {
    let netns = foreign::namespace();
    let before = dump(&netns);
    for verb in ["restore", "save"] {
        for flags in [CLASSIC, SCOPED] {
            let flags: Vec<&str> = flags.split(' ').collect();
            let without = |args: &[&str]| {
                let sbin = Sbin::new().without(&names(&Family::BOTH, verb));
                let run = mesh_init(&netns, args);
                drop(sbin);
                run
            };
            let run = without(&[&flags[..], &["--backend", "iptables"]].concat());
            run.code(69).says(&format!("iptables-{verb}")).says("install");
            assert_same(&format!("without {verb}"), &before, &dump(&netns));
            // Unless one is asked for, none is needed.
            without(&flags).code(0).says("on nftables (no iptables is installed)");
            let clean = without(&["clean"]);
            clean.code(0).says("table mesh_init of nftables");
            assert_same(&format!("by nftables without {verb}"), &before, &dump(&netns));
        }
    }
    for variant in Variant::BOTH {
        let sbin = Sbin::new().without(&Family::BOTH.map(|family| variant.program(family, "restore")));
        let run = mesh_init(&netns, &words((variant, CLASSIC)));
        let by_the_other = mesh_init(&netns, &["plan", "--live", "-p", "15001", "-u", "1337"]);
        drop(sbin);
        run.code(69).says(&format!("iptables-{}", variant.name()));
        by_the_other.code(0).says(&format!("iptables-{}", variant.other().name()));
        assert_same("without one variant", &before, &dump(&netns));
    }
}

/// The namespace has an IPv6 stack, so to leave it out must be said.
fn no_iptables_for_ipv6(variant: Variant) {
    let netns = foreign::namespace();
    let before = dump(&netns);
    let without =
        || Sbin::new().without(&names(&[Family::V6], "restore")).without(&names(&[Family::V6], "save"));
    for flags in [CLASSIC, SCOPED] {
        for ipv6 in ["auto", "on"] {
            let sbin = without();
            let run =
                Call::mesh_init(&netns, &[words((variant, flags)), vec!["--ipv6", ipv6]].concat()).run();
            drop(sbin);
            run.code(69).says("ip6tables").says("--ipv6 off");
            assert_same("a stack that cannot be captured", &before, &dump(&netns));
        }
    }
    let sbin = without();
    let run = Call::mesh_init(&netns, &[words((variant, CLASSIC)), vec!["--ipv6", "off"]].concat()).run();
    drop(sbin);
    run.code(0).says("IPv4 only");
    let after = dump(&netns);
    assert_eq!(
        after.matches("--to-ports 15001").count(),
        1,
        "expected IPv4 alone to be captured, seen\n{after}"
    );
}

/// The tool for IPv6 waits until IPv4 is committed, and then fails.
fn fail_after_ipv4(variant: Variant, says: &str, code: i32) -> Sbin {
    let (restore, save) = (variant.program(Family::V6, "restore"), variant.program(Family::V4, "save"));
    drop(fs::remove_file(COMMITTED));
    let script = format!(
        "while ! /run/real/{save} | grep -Eq -- '--to-ports 15002|owner --uid-owner 1000 '; do sleep 0.01; done\n\
         touch {COMMITTED}\ncat <<'end' >&2\n{says}\nend\nexit {code}"
    );
    Sbin::new().with(&restore, &script)
}

/// There when the stand-in has seen the new rules for IPv4.
const COMMITTED: &str = "/run/committed";

fn was_committed() {
    assert!(
        fs::exists(COMMITTED).expect("/run can be read"),
        "expected IPv4 to be committed before IPv6 failed"
    );
}

fn refused_after_ipv4(variant: Variant) {
    const WORDS: &str = "ip6tables-restore: line 7 failed";
    leaves_all_as_it_was(
        variant,
        || fail_after_ipv4(variant, WORDS, 1),
        |run| {
            was_committed();
            run.code(1).says(WORDS).says("IPv6");
        },
    );
}

fn no_table_after_ipv4(variant: Variant) {
    const WORDS: &str = "ip6tables-restore v1.8.9: can't initialize ip6tables table `nat': Table does not exist (do you need to insmod?)";
    leaves_all_as_it_was(
        variant,
        || fail_after_ipv4(variant, WORDS, 3),
        |run| {
            was_committed();
            run.code(69).says("Table does not exist").says("--ipv6 off");
        },
    );
}

/// Success is what is read back, not what a tool claims.
fn a_lie(variant: Variant, families: &[Family]) {
    let sbin = || {
        let lie = |sbin: Sbin, family: &Family| {
            sbin.with(&variant.program(*family, "restore"), "cat > /run/swallowed")
        };
        families.iter().fold(Sbin::new(), lie)
    };
    leaves_all_as_it_was(variant, sbin, |run| {
        run.code(1).says("reads back differently").says("IPv6");
    });
}

/// What cannot be read cannot be judged: neither before nor after.
fn read_back(variant: Variant, script: &str) {
    let save = variant.program(Family::V6, "save");
    leaves_all_as_it_was(
        variant,
        || Sbin::new().with(&save, script),
        |run| {
            run.code(1).says("reading the IPv6 rules").says(variant.name());
        },
    );
}

/// An answer that ends in the middle of a table.
fn half_read_back(variant: Variant) {
    let sbin = || Sbin::new().with(&variant.program(Family::V6, "save"), "$real \"$@\" | head -n 5");
    leaves_all_as_it_was(variant, sbin, |run| {
        run.code(1).says("IPv6");
    });
}

/// Leaves the numbers of itself and of a child in a file, and never ends.
const HANG: &str = "sleep 300 &\necho $$ $! >> /run/hung\nsleep 300";

/// Everything that hung is gone.
#[track_caller]
fn assert_buried(least: usize) {
    let hung = fs::read_to_string("/run/hung").expect("what hung left its numbers");
    let processes: Vec<_> = hung.split_whitespace().collect();
    assert!(processes.len() >= 2 * least, "expected {least} hung tools, seen {hung:?}");
    let alive = |pid: &&&str| {
        fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains("300"))
    };
    let left: Vec<_> = processes.iter().filter(alive).collect();
    assert!(left.is_empty(), "expected that nothing hung outlives the run, seen {left:?}");
}

fn hung_restore(variant: Variant) {
    let (ground, netns) = grounds(variant).remove(2);
    let before = dump(&netns);
    let sbin = Sbin::new().with(&variant.program(Family::V6, "restore"), HANG);
    let started = Instant::now();
    let run = Call::mesh_init(&netns, &[words((variant, OTHER_CLASSIC)), vec!["--wait", "1"]].concat()).run();
    let took = started.elapsed();
    drop(sbin);
    eprintln!("{took:?}: {run}");
    assert_buried(1);
    assert_same(&format!("{ground} after {run}"), &before, &dump(&netns));
    run.code(1).says("killed").says("IPv6");
    assert!(took < Duration::from_secs(30), "expected an end at the deadline, seen {took:?}");
}

fn hung_save() {
    let (_, netns) = grounds(Variant::Legacy).remove(1);
    let before = dump(&netns);
    let sbin = Sbin::new().with(&Variant::Legacy.program(Family::V4, "save"), HANG);
    let started = Instant::now();
    let run = mesh_init(&netns, &["-p", "15002", "-u", "1338", "--wait", "1"]);
    let took = started.elapsed();
    drop(sbin);
    eprintln!("{took:?}: {run}");
    assert_buried(1);
    assert_same(&format!("after {run}"), &before, &dump(&netns));
    run.code(1).says("killed").says("reading the IPv4 rules of iptables-legacy");
    assert!(took < Duration::from_secs(30), "expected an end at the deadline, seen {took:?}");
}
