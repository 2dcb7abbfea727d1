//! Somebody else is at it: another program that holds the lock of iptables, or another run of ours.

use std::fs::{self, File};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MsFlags, mount};

use crate::foreign;
use crate::harness::Case;
use crate::replace::{CLASSIC, OTHER_CLASSIC, SCOPED, State, words};
use crate::support::call::Call;
use crate::support::command::{Run, mesh_init};
use crate::support::netns::Netns;
use crate::support::rules::{Family, Variant, assert_differs, assert_same, dump};
use crate::support::sbin::Sbin;

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        Case::new("locks::of_iptables_held", of_iptables_held),
        Case::new("locks::of_iptables_released", of_iptables_released),
        Case::new("locks::of_iptables_elsewhere", of_iptables_elsewhere),
        Case::new("locks::of_iptables_on_a_read_only_run", of_iptables_on_a_read_only_run),
    ];
    cases.extend(Case::all_for_each_variant(&[
        ("locks::read_only_run", read_only_run),
        ("locks::of_a_run_held", of_a_run_held),
        ("locks::of_a_run_released", of_a_run_released),
        ("locks::many_runs", many_runs),
    ]));
    cases
}

/// Where iptables-legacy has its lock.
const XTABLES: &str = "/run/xtables.lock";
const LEGACY: State = (Variant::Legacy, CLASSIC);
const OTHER: State = (Variant::Legacy, OTHER_CLASSIC);

fn hold(path: &Path) -> Flock<File> {
    let file = File::options().create(true).truncate(false).write(true).read(true).open(path);
    let file = file.or_else(|_| File::open(path)).expect("a lock file");
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| error).expect("the lock is free")
}

fn waiting(netns: &Netns, state: State, seconds: &str) -> Call {
    Call::mesh_init(netns, &[words(state), vec!["--wait", seconds]].concat())
}

/// How long `run` took, and what it said.
fn timed(run: impl FnOnce() -> Run) -> (Duration, Run) {
    let started = Instant::now();
    let run = run();
    (started.elapsed(), run)
}

/// Gives up when it has waited, changes nothing, and says what to try.
#[track_caller]
fn gives_up(netns: &Netns, call: impl FnOnce() -> Run) {
    let before = dump(netns);
    let (took, run) = timed(call);
    assert_same(&format!("after {run}"), &before, &dump(netns));
    run.code(75).says("lock").says("--wait");
    let patience = Duration::from_millis(900)..Duration::from_secs(8);
    assert!(patience.contains(&took), "expected to wait about a second, seen {took:?}");
}

fn of_iptables_held() {
    let netns = foreign::namespace();
    let lock = hold(Path::new(XTABLES));
    gives_up(&netns, || waiting(&netns, LEGACY, "1").run());
    // iptables-nft has no such lock.
    mesh_init(&netns, &words((Variant::Nft, CLASSIC))).ok();
    mesh_init(&netns, &["clean"]).ok();
    drop(lock);
    mesh_init(&netns, &words(LEGACY)).ok();
    let _lock = hold(Path::new(XTABLES));
    gives_up(&netns, || waiting(&netns, OTHER, "1").run());
    mesh_init(&netns, &words(LEGACY)).code(0).says("nothing to do");
}

fn of_iptables_released() {
    let netns = foreign::namespace();
    let lock = hold(Path::new(XTABLES));
    let release = thread::spawn(move || {
        thread::sleep(Duration::from_secs(1));
        drop(lock);
    });
    let (took, run) = timed(|| waiting(&netns, LEGACY, "10").run());
    run.code(0).says("\nchanged ");
    release.join().expect("the releasing thread");
    let patience = Duration::from_millis(900)..Duration::from_secs(8);
    assert!(patience.contains(&took), "expected to go on when the lock is free, seen {took:?}");
}

/// The caller's `XTABLES_LOCKFILE` is the one variable that is handed on.
fn of_iptables_elsewhere() {
    const ELSEWHERE: &str = "/run/elsewhere.lock";
    let netns = foreign::namespace();
    let usual = hold(Path::new(XTABLES));
    waiting(&netns, LEGACY, "1").env("XTABLES_LOCKFILE", ELSEWHERE).run().code(0).says("\nchanged ");
    let _elsewhere = hold(Path::new(ELSEWHERE));
    drop(usual);
    gives_up(&netns, || waiting(&netns, OTHER, "1").env("XTABLES_LOCKFILE", ELSEWHERE).run());
}

fn remount_run(flags: MsFlags) {
    let none = None::<&str>;
    mount(none, "/run", none, MsFlags::MS_REMOUNT | flags, none).expect("remounting /run");
}

/// Where no lock file can be made, runs that share a namespace still exclude each other.
fn of_iptables_on_a_read_only_run() {
    let (netns, beside) = (foreign::namespace(), foreign::namespace());
    remount_run(MsFlags::MS_RDONLY);
    let lock = hold(&netns.path());
    gives_up(&netns, || waiting(&netns, LEGACY, "1").run());
    waiting(&beside, LEGACY, "1").run().code(0).says("\nchanged ");
    drop(lock);
    // A lock file that the caller names counts there, too.
    let elsewhere = tempfile::NamedTempFile::new().expect("a temporary file");
    let _lock = hold(elsewhere.path());
    gives_up(&netns, || waiting(&netns, LEGACY, "1").env("XTABLES_LOCKFILE", elsewhere.path()).run());
    waiting(&netns, LEGACY, "1").run().code(0).says("\nchanged ");
}

fn read_only_run(variant: Variant) {
    let netns = foreign::namespace();
    let empty = dump(&netns);
    remount_run(MsFlags::MS_RDONLY);
    let refusal = fs::write("/run/file", "").expect_err("/run is read-only");
    assert_eq!(refusal.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    for flags in [CLASSIC, SCOPED, OTHER_CLASSIC] {
        mesh_init(&netns, &words((variant, flags))).code(0).says("\nchanged ");
        mesh_init(&netns, &words((variant, flags))).code(0).says("nothing to do");
    }
    mesh_init(&netns, &words((variant.other(), SCOPED))).code(0).says("\nchanged ");
    mesh_init(&netns, &["status"]).code(0).says("captured: ");
    mesh_init(&netns, &["clean"]).code(0).says("removed");
    remount_run(MsFlags::empty());
    assert_same("after clean", &empty, &dump(&netns));
}

/// The tool waits for this file.
const GATE: &str = "/run/gate";
const AT_THE_GATE: &str = "/run/at-the-gate";

/// A run that holds the lock until the gate opens.
fn gated(variant: Variant) -> Sbin {
    let wait = format!("touch {AT_THE_GATE}\nwhile [ ! -e {GATE} ]; do sleep 0.01; done\nexec $real \"$@\"");
    Sbin::new().with(&variant.program(Family::V4, "restore"), &wait)
}

fn wait_at_the_gate() {
    let end = Instant::now() + Duration::from_secs(10);
    while !fs::exists(AT_THE_GATE).expect("/run can be read") {
        assert!(Instant::now() < end, "expected the first run to start its tool");
        thread::sleep(Duration::from_millis(5));
    }
}

fn of_a_run_held(variant: Variant) {
    let netns = foreign::namespace();
    let before = dump(&netns);
    let sbin = gated(variant);
    let first = waiting(&netns, (variant, CLASSIC), "10").start();
    wait_at_the_gate();
    for (call, seconds) in [("apply", "1"), ("clean", "1"), ("apply", "0")] {
        let mut args = vec![call, "--wait", seconds];
        if call == "apply" {
            args.extend(words((variant, OTHER_CLASSIC)));
        }
        let (took, run) = timed(|| mesh_init(&netns, &args));
        run.code(75).says(&format!("process {}", first.pid())).says("lock").says("--wait");
        assert!(took < Duration::from_secs(5), "expected to wait {seconds} s, seen {took:?}");
    }
    // Questions wait for nobody.
    let (took, run) = timed(|| Run::new(&netns, crate::support::command::MESH_INIT, &["status"]));
    run.code(0);
    assert!(took < Duration::from_secs(5), "expected an answer at once, seen {took:?}");
    // Another namespace has another lock.
    let beside = foreign::namespace();
    waiting(&beside, (variant.other(), CLASSIC), "1").run().code(0).says("\nchanged ");
    fs::write(GATE, "").expect("opening the gate");
    first.finish().code(0).says("\nchanged ");
    drop(sbin);
    assert_differs("the first run", &before, &dump(&netns));
}

fn of_a_run_released(variant: Variant) {
    let (netns, alone) = (foreign::namespace(), foreign::namespace());
    mesh_init(&alone, &words((variant, OTHER_CLASSIC))).ok();
    let sbin = gated(variant);
    let first = waiting(&netns, (variant, CLASSIC), "10").start();
    wait_at_the_gate();
    let mut second = waiting(&netns, (variant, OTHER_CLASSIC), "10").start();
    thread::sleep(Duration::from_millis(500));
    assert!(second.still_runs(), "expected the second run to wait for the first");
    fs::write(GATE, "").expect("opening the gate");
    first.finish().code(0).says("\nchanged ");
    second.finish().code(0).says("\nchanged ");
    drop(sbin);
    assert_same("the last one", &dump(&alone), &dump(&netns));
}

/// All of them get their turn, and what is left is one of their policies, whole.
fn many_runs(variant: Variant) {
    let policies = [CLASSIC, OTHER_CLASSIC, SCOPED];
    let wanted = policies.map(|flags| {
        let alone = foreign::namespace();
        mesh_init(&alone, &words((variant, flags))).ok();
        dump(&alone)
    });
    let netns = foreign::namespace();
    let runs: Vec<_> = policies
        .iter()
        .cycle()
        .take(12)
        .map(|flags| waiting(&netns, (variant, flags), "20").start())
        .collect();
    for run in runs {
        run.finish().code(0);
    }
    let seen = dump(&netns);
    assert!(wanted.contains(&seen), "expected one of the policies, seen\n{seen}");
}
