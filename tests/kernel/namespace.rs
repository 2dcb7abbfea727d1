//! Which namespace is worked in: the one that `--netns` names and no other, and not the host's by mistake.

use std::fs::{self, File};
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use nix::sys::stat::Mode;
use nix::unistd::{getppid, mkfifo};

use crate::child;
use crate::foreign;
use crate::harness::Case;
use crate::replace::{CLASSIC, words};
use crate::support::call::{Call, Running};
use crate::support::command::{MESH_INIT, command, mesh_init};
use crate::support::netns::Netns;
use crate::support::rules::{Variant, assert_same, dump};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        Case::new("namespace::refused", refused),
        Case::new("namespace::of_the_host", of_the_host),
        Case::new("namespace::of_the_host_by_flag", of_the_host_by_flag),
    ];
    cases.extend(Case::each_variant("namespace::entered", entered));
    cases
}

/// A process that lives in `netns` until the case ends.
fn inhabitant(netns: &Netns) -> Running {
    Call::of(netns, "sleep", &["300"]).start()
}

/// The rules come to be in the namespace that is named, and only there.
fn entered(variant: Variant) {
    let (caller, alone) = (foreign::namespace(), foreign::namespace());
    mesh_init(&alone, &words((variant, CLASSIC))).ok();
    // Rules of the caller's must not be taken for the other's.
    mesh_init(&caller, &words((variant, "-p 15009 -u 1339"))).ok();
    let (untouched, wanted) = (dump(&caller), dump(&alone));
    for by_process in [false, true] {
        let target = foreign::namespace();
        let empty = dump(&target);
        let inhabitant = inhabitant(&target);
        let name =
            if by_process { inhabitant.pid().to_string() } else { target.path().display().to_string() };
        let call = |args: &[&str]| mesh_init(&caller, &[args, &["--netns", &name]].concat());
        let policy = words((variant, CLASSIC));
        call(&["status"]).code(0).says("not captured");
        call(&[&["plan", "--live"], &policy[..]].concat()).code(0).says("15001");
        assert_same("after questions", &empty, &dump(&target));
        call(&policy).code(0).says("\nchanged ");
        assert_same("the target", &wanted, &dump(&target));
        call(&policy).code(0).says("nothing to do");
        call(&["status"]).code(0).says("captured: ").says("15001");
        call(&["clean"]).code(0).says("removed");
        assert_same("the target after clean", &empty, &dump(&target));
        assert_same("the caller's own", &untouched, &dump(&caller));
    }
}

/// Whatever is not another network namespace is refused, and nothing is changed anywhere.
fn refused() {
    const FIFO: &str = "/run/fifo";
    let netns = foreign::namespace();
    mesh_init(&netns, &["-p", "15009"]).ok();
    let before = dump(&netns);
    let neighbour = inhabitant(&netns).pid().to_string();
    let dead = Call::of(&netns, "true", &[""; 0]).start();
    let dead_pid = dead.pid().to_string();
    dead.finish();
    mkfifo(FIFO, Mode::S_IRUSR).expect("a FIFO");
    fs::write("/run/plain", "").expect("a file");
    let mut faults = Vec::new();
    let own = netns.path().display().to_string();
    for (name, code) in [
        (own.as_str(), 64),
        ("/proc/self/ns/net", 64),
        ("/proc/thread-self/ns/net", 64),
        (&neighbour, 64),
        ("0", 64),
        ("", 64),
        ("blue", 64),
        ("-1", 64),
        ("+1", 64),
        ("1,2", 64),
        ("1.5", 64),
        ("99999999999", 64),
        ("/run/plain", 69),
        ("/run", 69),
        ("/run/nothing", 69),
        ("/run/plain/net", 69),
        ("/dev/zero", 69),
        ("/proc/self/ns/mnt", 69),
        ("/proc/self/ns/pid", 69),
        ("/proc/self/ns", 69),
        (&dead_pid, 69),
        ("4294967295", 69),
        (FIFO, 69),
    ] {
        for verb in ["apply -p 15001", "plan --live -p 15001", "status", "clean"] {
            let flag = format!("--netns={name}");
            let args: Vec<_> = verb.split(' ').chain([flag.as_str()]).collect();
            let run = Call::mesh_init(&netns, &args).start().finish_within(Duration::from_secs(2));
            let fault = match &run {
                None => Some(format!("`{verb} {flag}` hangs")),
                Some(run) if run.code != Some(code) => Some(format!("expected {code}, seen {run}")),
                Some(run) if run.stderr.lines().count() != 1 || !run.stderr.contains(name) => {
                    Some(format!("expected one line that names {name}, seen {run}"))
                }
                Some(_) => None,
            };
            faults.extend(fault);
        }
    }
    assert_same("after all refusals", &before, &dump(&netns));
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The network namespace of whoever runs the suite.
pub(crate) fn of_the_runner() -> String {
    format!("/proc/{}/ns/net", getppid())
}

/// Looks from there; nothing may be changed.
fn from_outside<T: Send>(look: impl FnOnce() -> T + Send) -> T {
    let entered = || {
        let outside = File::open(of_the_runner()).expect("the namespace of the parent");
        setns(outside, CloneFlags::CLONE_NEWNET).expect("entering it");
        look()
    };
    thread::scope(|scope| scope.spawn(entered).join().expect("a look outside"))
}

/// Skips the case where the suite does not run in the host's own network namespace.
pub(crate) fn needs_the_host() {
    // A sysctl that the kernel registers for its first network namespace alone.
    let is_initial = from_outside(|| fs::exists("/proc/sys/net/core/dev_weight").expect("/proc/sys"));
    if !is_initial {
        child::skip("the suite does not run in the host's own network namespace");
    }
}

/// `plan --live` goes through what `apply` goes through, and cannot change anything if the guard is missing.
fn of_the_host() {
    needs_the_host();
    let tables = || {
        from_outside(|| {
            let read =
                |file: &str| fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap_or_default();
            let nft = command("nft", &["list", "tables"]).output().expect("starting nft");
            [
                read("ip_tables_names"),
                read("ip6_tables_names"),
                String::from_utf8_lossy(&nft.stdout).into_owned(),
            ]
        })
    };
    let before = tables();
    for flags in ["-p 15001 -u 1337", "--layout classic", "-i 10.0.0.0/8 --ipv6 off"] {
        let args: Vec<_> = ["plan", "--live"].into_iter().chain(flags.split(' ')).collect();
        let output = from_outside(|| command(MESH_INIT, &args).output().expect("starting mesh-init"));
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "plan --live {flags} on the host: {said}");
        for word in ["host", "--host", "--uid-owner"] {
            assert!(said.contains(word), "expected `{word}`, seen {said}");
        }
    }
    assert_eq!(tables(), before, "expected no change of the host's tables");
    // Elsewhere, nobody asks.
    let netns = Netns::new("here");
    mesh_init(&netns, &["plan", "--live", "-p", "15001", "-u", "1337"]).code(0).says("15001");
}

/// The way there by `--netns` is guarded as well.
fn of_the_host_by_flag() {
    needs_the_host();
    let netns = Netns::new("here");
    let mut names = vec![of_the_runner(), getppid().to_string()];
    match File::open("/proc/1/ns/net") {
        Ok(_) => names.extend(["1", "/proc/1/ns/net"].map(str::to_owned)),
        // A sandbox may hide process 1; then nobody gets in that way.
        Err(_) => drop(mesh_init(&netns, &["plan", "--live", "-p", "15001", "--netns", "1"]).code(77)),
    }
    for name in names {
        mesh_init(&netns, &["plan", "--live", "-p", "15001", "--netns", &name])
            .code(64)
            .says("host")
            .says("--host");
    }
}
