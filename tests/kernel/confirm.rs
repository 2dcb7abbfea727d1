//! `--confirm-within` and `confirm`: what nobody confirms is taken back to the letter, whatever became of the one who
//! made it.

use std::fs;
use std::io::{Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::foreign::{self, DOCKER, FIREWALLD, LOOKALIKE};
use crate::harness::Case;
use crate::scoped::{APP, apply};
use crate::status::{json_of, split};
use crate::support::call::Call;
use crate::support::command::{MESH_INIT, Run, mesh_init};
use crate::support::netns::Netns;
use crate::support::rules::{Family, Variant, assert_differs, assert_same, dump};
use crate::support::sbin::Sbin;
use crate::support::terminal::Terminal;
use crate::support::victim::Victim;
use crate::verify::{CLASSIC, ISTIO, SCOPED, TPROXY};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Case::all_for_each_variant(&[
        ("confirm::in_time", in_time),
        ("confirm::holder_killed", holder_killed),
        ("confirm::asked_to_end", asked_to_end),
        ("confirm::a_second_one", a_second_one),
        ("confirm::overtaken", overtaken),
        ("confirm::nothing_to_change", nothing_to_change),
        ("confirm::that_fails", that_fails),
        ("confirm::that_fails_with_tproxy", that_fails_with_tproxy),
        ("confirm::routing_of_others", routing_of_others),
        ("confirm::strangers", strangers),
        ("confirm::silent_connections", silent_connections),
        ("confirm::by_the_path", by_the_path),
        ("confirm::lookalikes_of_tproxy", lookalikes_of_tproxy),
    ]);
    let slow = Case::all_for_each_variant(&[
        ("confirm::not_confirmed", not_confirmed),
        ("confirm::terminal_gone", terminal_gone),
        ("confirm::killed_at_the_gate", killed_at_the_gate),
        ("confirm::killed", killed),
        ("confirm::lock_held_at_the_end", lock_held_at_the_end),
        ("confirm::tool_fails_at_the_end", tool_fails_at_the_end),
    ]);
    cases.extend(slow.into_iter().map(|case| case.within(Duration::from_secs(120))));
    cases.extend(Case::all_native(&[
        ("confirm::in_time", in_time),
        ("confirm::holder_killed", holder_killed),
        ("confirm::asked_to_end", asked_to_end),
        ("confirm::a_second_one", a_second_one),
        ("confirm::overtaken", overtaken),
        ("confirm::nothing_to_change", nothing_to_change),
        ("confirm::routing_of_others", routing_of_others),
        ("confirm::strangers", strangers),
        ("confirm::silent_connections", silent_connections),
        ("confirm::lookalikes_of_tproxy", lookalikes_of_tproxy),
    ]));
    let slow = Case::all_native(&[
        ("confirm::not_confirmed", not_confirmed),
        ("confirm::terminal_gone", terminal_gone),
        ("confirm::killed", killed),
    ]);
    cases.extend(slow.into_iter().map(|case| case.within(Duration::from_secs(120))));
    cases.push(Case::new("confirm::refused", refused));
    cases.push(Case::new("confirm::times", times));
    cases.push(Case::new("confirm::holder_has_nothing", holder_has_nothing));
    cases.push(Case::new("confirm::descriptors_of_high_number", descriptors_of_high_number));
    cases
}

/// Long enough that nobody waits for it.
const LONG: &str = "60s";

/// A command line that holds for `within`.
fn words<'a>(variant: Variant, flags: &'a str, within: &'a str) -> Vec<&'a str> {
    flags.split(' ').chain(variant.flags()).chain(["--confirm-within", within]).collect()
}

/// Applies `flags` on condition; the process that waits.
#[track_caller]
fn hold(netns: &Netns, variant: Variant, flags: &str, within: &str) -> Pid {
    mesh_init(netns, &words(variant, flags, within)).code(0).says("run mesh-init confirm within");
    holder(netns).expect("a process that waits")
}

/// The process that waits here, as `status` names it.
fn holder(netns: &Netns) -> Option<Pid> {
    let status = mesh_init(netns, &["status"]).code(0);
    let (_, rest) = status.stdout.split_once("unconfirmed: process ")?;
    rest.split(' ').next()?.parse().ok().map(Pid::from_raw)
}

fn runs(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

#[track_caller]
fn wait_until_gone(pid: Pid, patience: Duration) {
    let end = Instant::now() + patience;
    while runs(pid) {
        assert!(Instant::now() < end, "expected process {pid} to end within {patience:?}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Nothing says that something waits.
#[track_caller]
fn assert_settled(netns: &Netns) {
    let status = mesh_init(netns, &["status"]).code(0);
    assert!(!status.stdout.contains("unconfirmed"), "expected nothing that waits, seen {status}");
    let dump = dump(netns);
    assert!(!dump.contains("MESH_INIT_UNCONFIRMED"), "expected no mark, seen\n{dump}");
    let sockets = netns.run(|| fs::read_to_string("/proc/thread-self/net/unix")).expect("/proc/net/unix");
    assert!(!sockets.contains("@mesh-init"), "expected no socket of ours, seen\n{sockets}");
    mesh_init(netns, &["confirm"]).code(1).says("nothing waits to be confirmed");
}

/// Waits until the state is that of `before`.
#[track_caller]
fn assert_back(what: &str, netns: &Netns, before: &str, patience: Duration) {
    let end = Instant::now() + patience;
    while dump(netns) != before && Instant::now() < end {
        thread::sleep(Duration::from_millis(50));
    }
    assert_same(what, before, &dump(netns));
    // Not on its way through it.
    thread::sleep(Duration::from_millis(200));
    assert_same(what, before, &dump(netns));
    assert_settled(netns);
}

/// The state without the order in which tables came to be, which iptables-legacy-save keeps.
fn state(netns: &Netns) -> String {
    let dump = dump(netns);
    let parts = dump.split("== ").map(|part| {
        let (name, tables) = part.split_once('\n').unwrap_or((part, ""));
        let mut tables: Vec<_> = tables.split_inclusive("COMMIT\n").collect();
        if name.contains("tables") {
            tables.sort_unstable();
        }
        format!("{name}\n{}", tables.concat())
    });
    parts.collect::<Vec<_>>().join("== ")
}

/// Upstream's rules as its own program leaves them, with an excluded interface.
const UPSTREAM: &str = "\
*nat
:ISTIO_INBOUND - [0:0]
:ISTIO_REDIRECT - [0:0]
:ISTIO_IN_REDIRECT - [0:0]
:ISTIO_OUTPUT - [0:0]
-A ISTIO_INBOUND -p tcp --dport 15008 -j RETURN
-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001
-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006
-A OUTPUT -j ISTIO_OUTPUT
-A ISTIO_OUTPUT -o lo -s @LOOPBACK@ -j RETURN
-A ISTIO_OUTPUT -o lo ! -d @LOOPBACK@ -p tcp ! --dport 15008 -m owner --uid-owner 1337 -j ISTIO_IN_REDIRECT
-A ISTIO_OUTPUT -o lo -m owner ! --uid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -d @LOOPBACK@ -j RETURN
-A ISTIO_OUTPUT -j ISTIO_REDIRECT
-A PREROUTING -p tcp -j ISTIO_INBOUND
-A ISTIO_INBOUND -p tcp --dport 15020 -j RETURN
-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT
COMMIT
";

/// What there may be before, and what is then applied.
fn grounds(variant: Variant) -> Vec<(&'static str, Netns, &'static str)> {
    let ground = |prepare: &dyn Fn(&Netns)| {
        let netns = foreign::namespace();
        prepare(&netns);
        netns
    };
    let ours = |of: Variant, flags: &'static str| move |netns: &Netns| apply(netns, of, &split(flags));
    let upstream = |netns: &Netns| foreign::load(netns, variant, UPSTREAM);
    let around = |flags: &'static str| {
        move |netns: &Netns| {
            foreign::load(netns, variant, DOCKER);
            foreign::load(netns, variant.other(), FIREWALLD);
            apply(netns, variant, &split(flags));
            // On both sides of ours.
            let more = "*nat\n-A OUTPUT -p udp -j ACCEPT\n-I OUTPUT -p udp --dport 7 -j ACCEPT\n\
                -I PREROUTING -p udp --dport 7 -j ACCEPT\n-A PREROUTING -p udp -j ACCEPT\nCOMMIT\n";
            foreign::load(netns, variant, more);
        }
    };
    let upstream_around = |netns: &Netns| {
        foreign::load(netns, variant, DOCKER);
        foreign::load(netns, variant, UPSTREAM);
        foreign::load(
            netns,
            variant,
            "*nat\n-A OUTPUT -p udp -j ACCEPT\n-A PREROUTING -p udp -j ACCEPT\nCOMMIT\n",
        );
    };
    vec![
        ("nothing, scoped", ground(&|_| ()), SCOPED),
        ("nothing, TPROXY", ground(&|_| ()), TPROXY),
        ("classic, scoped", ground(&ours(variant, CLASSIC)), SCOPED),
        ("scoped, istio", ground(&ours(variant, SCOPED)), ISTIO),
        ("classic, another port", ground(&ours(variant, CLASSIC)), "-p 15011 -u 1400 -g 1401"),
        ("REDIRECT, TPROXY", ground(&ours(variant, ISTIO)), TPROXY),
        ("TPROXY, REDIRECT", ground(&ours(variant, TPROXY)), ISTIO),
        ("TPROXY, scoped", ground(&ours(variant, TPROXY)), SCOPED),
        ("IPv4 alone, both", ground(&ours(variant, "-p 15001 -u 1337 --ipv6 off")), CLASSIC),
        ("the other iptables", ground(&ours(variant.other(), CLASSIC)), SCOPED),
        ("TPROXY of the other iptables", ground(&ours(variant.other(), TPROXY)), ISTIO),
        ("upstream's, scoped", ground(&upstream), SCOPED),
        ("upstream's, istio", ground(&upstream), ISTIO),
        ("others', scoped", ground(&|netns| foreign::load(netns, variant, DOCKER)), SCOPED),
        ("lookalikes, istio", ground(&|netns| foreign::load(netns, variant, LOOKALIKE)), ISTIO),
        ("classic among others, scoped", ground(&around(CLASSIC)), SCOPED),
        ("scoped among others, TPROXY", ground(&around(SCOPED)), TPROXY),
        ("upstream's among others, scoped", ground(&upstream_around), SCOPED),
        ("classic, mode none", ground(&ours(variant, CLASSIC)), "-m NONE"),
    ]
}

/// Nobody says a word.
fn not_confirmed(variant: Variant) {
    let started: Vec<_> = grounds(variant)
        .into_iter()
        .map(|(what, netns, flags)| {
            let before = dump(&netns);
            let begun = Instant::now();
            let holder = hold(&netns, variant, flags, "3");
            assert_differs(what, &before, &dump(&netns));
            (what, netns, before, holder, begun)
        })
        .collect();
    let mut faults = Vec::new();
    for (what, netns, before, holder, begun) in started {
        wait_until_gone(holder, Duration::from_secs(20));
        let took = begun.elapsed();
        assert!(took >= Duration::from_secs(3), "{what}: taken back after {took:?}");
        let after = dump(&netns);
        if before != after {
            faults.push(format!("{what}:\n{}", crate::support::rules::difference(&before, &after)));
            continue;
        }
        assert_settled(&netns);
    }
    assert!(faults.is_empty(), "expected the state of before, seen\n{}", faults.join("\n"));
}

/// Somebody has upstream's mark and table already, in part.
fn routing_of_others(variant: Variant) {
    for flags in [SCOPED, TPROXY] {
        let netns = foreign::namespace();
        foreign::load_routing(&netns);
        apply(&netns, variant, &split(CLASSIC));
        let before = dump(&netns);
        let waiting = hold(&netns, variant, flags, "1s");
        wait_until_gone(waiting, Duration::from_secs(15));
        assert_back(flags, &netns, &before, Duration::ZERO);
    }
}

/// Somebody has the very rules that TPROXY needs, without a comment.
fn lookalikes_of_tproxy(variant: Variant) {
    let netns = foreign::namespace();
    foreign::load(&netns, variant, LOOKALIKE);
    let before = dump(&netns);
    let run = mesh_init(&netns, &words(variant, TPROXY, "1s"));
    assert_back(&format!("after {run}"), &netns, &before, Duration::from_secs(8));
    run.code(0);
}

/// Somebody's connection breaks because of the rules.
fn terminal_gone(variant: Variant) {
    for (kills_shell_first, flags) in [(true, CLASSIC), (false, SCOPED)] {
        let netns = foreign::namespace();
        apply(&netns, variant, &split("-p 15011 -u 1400"));
        let before = dump(&netns);
        let line = words(variant, flags, "2s").join(" ");
        let begun = Instant::now();
        let mut terminal =
            Terminal::new(&netns, &format!("{MESH_INIT} {line}; echo code $?; exec sleep 100"));
        terminal.wait_for("code 0");
        if kills_shell_first {
            terminal.hang_up();
            let changed = dump(&netns);
            assert!(begun.elapsed() > Duration::from_secs(2) || before != changed, "expected a change first");
        } else {
            // The other way round: it waits while the terminal is there, and does what it is to do.
            assert!(begun.elapsed() > Duration::from_secs(2) || holder(&netns).is_some());
        }
        assert_back(flags, &netns, &before, Duration::from_secs(12));
        assert!(begun.elapsed() >= Duration::from_secs(2));
    }
}

/// Confirmed, it stays, and nothing of the waiting is left.
fn in_time(variant: Variant) {
    for flags in [CLASSIC, SCOPED, ISTIO, TPROXY] {
        let (netns, alone) = (foreign::namespace(), foreign::namespace());
        apply(&netns, variant, &split("-p 15011 -u 1400"));
        apply(&alone, variant, &split(flags));
        let run = mesh_init(&netns, &[&words(variant, flags, "5s")[..], &["--output", "json"]].concat());
        let said = json_of(run.code(0));
        assert_eq!(said["confirmWithinSeconds"], 5, "{said:#}");
        let waiting = holder(&netns).expect("a process that waits");
        let verified = mesh_init(&netns, &["verify", "--quick"]).code(0);
        verified.says("unconfirmed: process").says("captured (rules)");
        assert!(runs(waiting));
        let confirmed = json_of(mesh_init(&netns, &["confirm", "--output", "json"]).code(0));
        assert_eq!(
            (&confirmed["confirmed"], &confirmed["held"]),
            (&true.into(), &true.into()),
            "{confirmed:#}"
        );
        wait_until_gone(waiting, Duration::from_secs(2));
        assert_same(flags, &state(&alone), &state(&netns));
        assert_settled(&netns);
        mesh_init(&netns, &split(flags)).code(0).says("nothing to do");
    }
    let netns = foreign::namespace();
    hold(&netns, variant, CLASSIC, "2s");
    mesh_init(&netns, &["confirm"]).code(0).says("confirmed: the rules stay");
    let kept = dump(&netns);
    thread::sleep(Duration::from_millis(2500));
    assert_same("after its time", &kept, &dump(&netns));
}

/// Then only the mark tells, and it is told.
fn holder_killed(variant: Variant) {
    for keep in [true, false] {
        let (netns, alone) = (foreign::namespace(), foreign::namespace());
        apply(&netns, variant, &split(SCOPED));
        let first = dump(&netns);
        apply(&alone, variant, &split(CLASSIC));
        let waiting = hold(&netns, variant, CLASSIC, "1s");
        kill(waiting, Signal::SIGKILL).expect("a process of ours");
        wait_until_gone(waiting, Duration::from_secs(2));
        thread::sleep(Duration::from_millis(1500));
        assert_differs("nobody takes it back", &first, &dump(&netns));
        for verb in ["status", "verify --quick"] {
            let args: Vec<_> = verb.split(' ').collect();
            mesh_init(&netns, &args).code(0).says("unconfirmed, and the process that would").says("is gone");
        }
        let wanted = if keep {
            mesh_init(&netns, &["confirm"]).code(0).says("was gone already");
            dump(&alone)
        } else {
            apply(&netns, variant, &split(SCOPED));
            first
        };
        assert_same("then", &wanted, &dump(&netns));
        assert_settled(&netns);
    }
}

/// The machine goes down, or somebody is impatient: what nobody confirmed is taken back then.
fn asked_to_end(variant: Variant) {
    for (flags, after) in [(CLASSIC, Duration::ZERO), (TPROXY, Duration::from_millis(700))] {
        let netns = foreign::namespace();
        apply(&netns, variant, &split(SCOPED));
        let before = dump(&netns);
        let waiting = hold(&netns, variant, flags, LONG);
        thread::sleep(after);
        kill(waiting, Signal::SIGTERM).expect("a process of ours");
        wait_until_gone(waiting, Duration::from_secs(10));
        assert_back(flags, &netns, &before, Duration::ZERO);
    }
}

/// One at a time.
fn a_second_one(variant: Variant) {
    let netns = foreign::namespace();
    apply(&netns, variant, &split(ISTIO));
    let before = dump(&netns);
    let waiting = hold(&netns, variant, CLASSIC, LONG);
    let state = dump(&netns);
    for (of, flags) in [(variant, SCOPED), (variant, CLASSIC), (variant.other(), SCOPED)] {
        let run = mesh_init(&netns, &words(of, flags, "1s")).code(75);
        run.says("another change waits to be confirmed").says("mesh-init confirm");
        assert_same(flags, &state, &dump(&netns));
        assert_eq!(holder(&netns), Some(waiting), "the first one still waits");
    }
    thread::sleep(Duration::from_millis(1200));
    assert_same("no second time", &state, &dump(&netns));
    mesh_init(&netns, &["confirm"]).code(0);
    // Then the next one.
    let kept = dump(&netns);
    let second = hold(&netns, variant, SCOPED, "1s");
    wait_until_gone(second, Duration::from_secs(15));
    assert_same("the second one alone is taken back", &kept, &dump(&netns));
    assert_differs("not the first", &before, &kept);
    // Two at the same moment: one gets it.
    let runs = [CLASSIC, ISTIO].map(|flags| Call::mesh_init(&netns, &words(variant, flags, LONG)).start());
    let mut codes: Vec<_> = runs.into_iter().map(|run| run.finish().code).collect();
    codes.sort_unstable();
    assert_eq!(codes, [Some(0), Some(75)]);
    mesh_init(&netns, &["clean"]).code(0);
}

/// What is said later counts.
fn overtaken(variant: Variant) {
    for (what, line) in [
        ("apply", "--uid-owner 1500 --inbound 8005"),
        ("the same again", CLASSIC),
        ("TPROXY", TPROXY),
        ("clean", "clean"),
        ("istio-iptables", "istio-iptables -p 15001 -z 15006 -u 1337 --dual-stack"),
        ("istio-iptables --cleanup-only", "istio-iptables --cleanup-only"),
    ] {
        let (netns, alone) = (foreign::namespace(), foreign::namespace());
        apply(&netns, variant, &split(SCOPED));
        let waiting = hold(&netns, variant, CLASSIC, "2s");
        let args: Vec<_> = line.split(' ').collect();
        let later = |netns: &Netns| {
            let [name, value] = variant.variable();
            Call::mesh_init(netns, &args).env(name, value).run().code(0)
        };
        later(&netns).says(&format!("process {waiting}"));
        later(&alone);
        wait_until_gone(waiting, Duration::from_secs(2));
        let wanted = state(&alone);
        assert_same(what, &wanted, &state(&netns));
        thread::sleep(Duration::from_millis(2200));
        assert_same(&format!("{what}, after the time"), &wanted, &state(&netns));
        assert_settled(&netns);
    }
}

/// The rules are there already: only the mark comes and goes.
fn nothing_to_change(variant: Variant) {
    for confirmed in [true, false] {
        let netns = foreign::namespace();
        apply(&netns, variant, &split(SCOPED));
        let before = dump(&netns);
        let waiting = hold(&netns, variant, SCOPED, if confirmed { LONG } else { "1s" });
        if confirmed {
            mesh_init(&netns, &["confirm"]).code(0);
        }
        wait_until_gone(waiting, Duration::from_secs(15));
        assert_same("in the end", &before, &dump(&netns));
        assert_settled(&netns);
    }
}

/// Nothing is held of what was never done.
fn that_fails(variant: Variant) {
    fails(variant, CLASSIC);
}

/// Nor of the routing that was made first.
fn that_fails_with_tproxy(variant: Variant) {
    fails(variant, TPROXY);
}

fn fails(variant: Variant, flags: &'static str) {
    for refusing in Family::BOTH {
        let netns = foreign::namespace();
        apply(&netns, variant, &split(SCOPED));
        let before = dump(&netns);
        let sbin =
            Sbin::new().with(&variant.program(refusing, "restore"), "sleep 0.1; echo no way >&2; exit 1");
        let run = mesh_init(&netns, &words(variant, flags, LONG));
        drop(sbin);
        run.code(1).says("no way");
        assert_back(&format!("after the refusal of {flags}"), &netns, &before, Duration::ZERO);
        hold(&netns, variant, flags, LONG);
        mesh_init(&netns, &["confirm"]).code(0);
    }
}

/// Where nobody could confirm, or where the holder would not live.
fn refused() {
    let netns = foreign::namespace();
    let before = dump(&netns);
    let apply: Vec<_> = format!("{CLASSIC} --confirm-within 5s").split(' ').map(str::to_owned).collect();
    let istio: Vec<_> =
        "istio-iptables -p 15001 -u 1337 --confirm-within 5s".split(' ').map(str::to_owned).collect();
    for line in [apply, istio] {
        let first =
            [&["-pf".to_owned(), "--kill-child".to_owned(), MESH_INIT.to_owned()], &line[..]].concat();
        Call::of(&netns, "unshare", &first).run().code(64).says("--confirm-within").says("first process");
        assert_same("as the first process", &before, &dump(&netns));
        for (name, value, says) in
            [("KUBERNETES_SERVICE_HOST", "10.0.0.1", "pod"), ("CNI_COMMAND", "ADD", "container runtime")]
        {
            let run = Call::mesh_init(&netns, &line).env(name, value).run().code(64);
            run.says("--confirm-within").says(says).says("leave it out");
            assert_same(name, &before, &dump(&netns));
        }
    }
    // Not the first one there, and it lives on as long as that one.
    let script = format!("{MESH_INIT} {CLASSIC} --confirm-within 60s && {MESH_INIT} confirm");
    Call::of(&netns, "unshare", &["-pf", "--kill-child", "sh", "-c", &format!("{script}; exit $?")])
        .run()
        .code(0)
        .says("confirmed");
}

fn times() {
    let netns = foreign::namespace();
    let before = dump(&netns);
    for time in [
        "0",
        "0s",
        "-1",
        "-1s",
        "25h",
        "86401",
        "",
        "soon",
        "1 m",
        "99999999999999999999s",
        "1d",
        "0.5s",
        "NaN",
    ] {
        let flag = format!("--confirm-within={time}");
        let args: Vec<_> = CLASSIC.split(' ').chain([flag.as_str()]).collect();
        mesh_init(&netns, &args).code(64).says("--confirm-within");
        let args: Vec<_> = ["istio-iptables", "-p", "15001", &flag].into_iter().collect();
        mesh_init(&netns, &args).code(64).says("--confirm-within");
        let run = Call::mesh_init(&netns, &split(CLASSIC)).env("MESH_INIT_CONFIRM_WITHIN", time).run();
        run.code(64).says("MESH_INIT_CONFIRM_WITHIN");
        assert_same(time, &before, &dump(&netns));
    }
    for (time, seconds) in [("1", 1), ("24h", 86_400), ("1m30s", 90), ("1500ms", 1), ("60s", 60)] {
        let args: Vec<_> = CLASSIC.split(' ').chain(["--confirm-within", time, "--output", "json"]).collect();
        let said = json_of(mesh_init(&netns, &args).code(0));
        assert_eq!(said["confirmWithinSeconds"], seconds, "{time}: {said:#}");
        mesh_init(&netns, &["clean"]).code(0);
    }
    // It says nothing of what is to be captured.
    mesh_init(&netns, &["--confirm-within", "60s"]).code(64);
    assert_same("in the end", &before, &dump(&netns));
    assert_settled(&netns);
}

/// The descriptors of a process and what they stand for.
fn descriptors(pid: Pid) -> Vec<String> {
    let folder = fs::read_dir(format!("/proc/{pid}/fd")).expect("a process of ours");
    let target = |entry: fs::DirEntry| fs::read_link(entry.path()).map(|path| path.display().to_string());
    folder.flatten().filter_map(|entry| target(entry).ok()).collect()
}

/// No descriptor, no terminal, no directory and no session of its caller's; and a hang-up does not end it.
fn holder_has_nothing() {
    let netns = foreign::namespace();
    let line = format!("{MESH_INIT} {CLASSIC} --confirm-within 60s");
    // Whoever reads what it says is not kept waiting, whichever descriptors it has besides.
    let script = format!(
        "cd /tmp; exec 7</etc/passwd 8>/run/eight; said=$({line} 9>&1); echo said ${{#said}}; {line} | cat; {MESH_INIT} status"
    );
    let begun = Instant::now();
    let run = Call::of(&netns, "sh", &["-c", &script]).run().code(0);
    assert!(begun.elapsed() < Duration::from_secs(20), "{run}");
    run.says("said ").says("unconfirmed: process").says("another change waits to be confirmed");
    let pid = holder(&netns).expect("a process that waits");
    let held = descriptors(pid);
    let wanted = |target: &String| target == "/dev/null" || target.starts_with("socket:");
    assert!(held.iter().all(wanted) && held.len() <= 5, "expected /dev/null and its socket, seen {held:?}");
    assert_eq!(fs::read_link(format!("/proc/{pid}/cwd")).expect("its directory"), Path::new("/"));
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("its state");
    let fields: Vec<&str> = stat.rsplit_once(") ").expect("a state").1.split(' ').collect();
    let (group, session, terminal) = (fields[2], fields[3], fields[4]);
    assert_ne!(session, nix::unistd::getsid(None).expect("ours").to_string(), "its session");
    assert_ne!(group, nix::unistd::getpgrp().to_string(), "its group");
    assert_ne!(session, pid.to_string(), "who leads no session gets no terminal");
    assert_eq!(terminal, "0", "its terminal");
    kill(pid, Signal::SIGHUP).expect("a process of ours");
    thread::sleep(Duration::from_millis(200));
    assert_eq!(holder(&netns), Some(pid), "after SIGHUP");
    mesh_init(&netns, &["confirm"]).code(0);
    wait_until_gone(pid, Duration::from_secs(2));
}

/// Shells give such numbers to what they keep.
fn descriptors_of_high_number() {
    let netns = foreign::namespace();
    let line = format!("{MESH_INIT} {CLASSIC} --confirm-within 60s");
    let script =
        format!("exec 99</etc/passwd 100</etc/group 101</etc/hostname 120>/run/120 200</etc/hosts; {line}");
    Call::of(&netns, "bash", &["-c", &script]).run().code(0);
    let pid = holder(&netns).expect("a process that waits");
    let held = descriptors(pid);
    mesh_init(&netns, &["confirm"]).code(0);
    let wanted = |target: &String| target == "/dev/null" || target.starts_with("socket:");
    assert!(held.iter().all(wanted), "expected /dev/null and its socket, seen {held:?}");
}

fn connect(netns: &Netns, who: crate::support::creds::Who) -> Option<UnixStream> {
    netns.run_as(who, || {
        let name = SocketAddr::from_abstract_name(b"mesh-init/confirm").expect("a name");
        UnixStream::connect_addr(&name).ok()
    })
}

/// Another user can neither confirm nor end it, however he tries.
fn strangers(variant: Variant) {
    let netns = foreign::namespace();
    let before = dump(&netns);
    let begun = Instant::now();
    let waiting = hold(&netns, variant, CLASSIC, "4s");
    let state = dump(&netns);
    Run::as_user(&netns, APP, MESH_INIT, &["confirm"], "").code(77);
    for word in [&b"k"[..], b"c", b"d", b"?", b"kkkk", b""] {
        for _ in 0..20 {
            let Some(mut stream) = connect(&netns, APP) else { continue };
            let mut heard = Vec::new();
            let _refused =
                stream.write_all(word).and_then(|()| stream.shutdown(std::net::Shutdown::Write)).is_err();
            let _reset = stream.read_to_end(&mut heard).is_err();
            assert_eq!(heard, b"", "expected no answer to {word:?}");
        }
    }
    assert!(runs(waiting));
    assert_same("after all of that", &state, &dump(&netns));
    // Root is heard all the same.
    mesh_init(&netns, &["status"]).code(0).says(&format!("unconfirmed: process {waiting}"));
    wait_until_gone(waiting, Duration::from_secs(20));
    assert!(begun.elapsed() >= Duration::from_secs(4), "taken back after {:?}", begun.elapsed());
    assert_back("in the end", &netns, &before, Duration::from_secs(5));
}

/// Whoever connects and says nothing delays nobody for long: the time is the time.
fn silent_connections(variant: Variant) {
    let netns = foreign::namespace();
    let before = dump(&netns);
    let waiting = hold(&netns, variant, CLASSIC, "2s");
    let silent: Vec<_> = (0..100).filter_map(|_| connect(&netns, APP)).collect();
    wait_until_gone(waiting, Duration::from_secs(12));
    drop(silent);
    assert_back("in the end", &netns, &before, Duration::from_secs(5));
}

/// The tool waits for this file.
const GATE: &str = "/run/gate";
const AT_THE_GATE: &str = "/run/at-the-gate";

/// One family is changed, the other one is not, when the command is killed.
fn killed_at_the_gate(variant: Variant) {
    for (gated, from, to) in [
        (Family::V6, None, CLASSIC),
        (Family::V4, None, CLASSIC),
        (Family::V6, Some(CLASSIC), SCOPED),
        (Family::V4, Some(SCOPED), CLASSIC),
        (Family::V6, Some(ISTIO), TPROXY),
        (Family::V4, Some(TPROXY), ISTIO),
    ] {
        let netns = foreign::namespace();
        if let Some(flags) = from {
            apply(&netns, variant, &split(flags));
        }
        let before = dump(&netns);
        let wait =
            format!("touch {AT_THE_GATE}\nwhile [ ! -e {GATE} ]; do sleep 0.01; done\nexec $real \"$@\"");
        let sbin = Sbin::new().with(&variant.program(gated, "restore"), &wait);
        let running = Call::mesh_init(&netns, &words(variant, to, "2s")).start();
        let end = Instant::now() + Duration::from_secs(10);
        while !fs::exists(AT_THE_GATE).expect("/run") {
            assert!(Instant::now() < end, "expected the tool to be started");
            thread::sleep(Duration::from_millis(5));
        }
        // The other family has had its time.
        thread::sleep(Duration::from_millis(300));
        kill(Pid::from_raw(i32::try_from(running.pid()).expect("a small number")), Signal::SIGKILL)
            .expect("it runs");
        assert_eq!(running.finish().code, None);
        drop(sbin);
        let half = dump(&netns);
        assert_differs("the other family is changed", &before, &half);
        assert_back(
            &format!("from {from:?} to {to}, {gated:?} at the gate"),
            &netns,
            &before,
            Duration::from_secs(12),
        );
        fs::remove_file(AT_THE_GATE).expect("a file of ours");
    }
}

/// Killed at any instant.
fn killed(variant: Variant) {
    Victim::adopt_orphans();
    for (from, to) in [(SCOPED, CLASSIC), (ISTIO, TPROXY)] {
        for number in 0..8_u32 {
            let netns = foreign::namespace();
            apply(&netns, variant, &split(from));
            let before = dump(&netns);
            let slow = match variant {
                Variant::Legacy | Variant::Nft => {
                    Family::BOTH.map(|family| variant.program(family, "restore")).to_vec()
                }
                Variant::Native => Vec::new(),
            };
            let sbin = slow
                .iter()
                .fold(Sbin::new(), |sbin, name| sbin.with(name, "sleep 0.03; $real \"$@\"; exit $?"));
            let victim = Victim::start(&netns, MESH_INIT, &words(variant, to, "1s"));
            // It waits for the holder too, which is an orphan.
            let at = Duration::from_millis(u64::from(number) * 25);
            let death = victim.kill(at, number % 2 == 0);
            drop(sbin);
            assert_same(&format!("{from} to {to}, killed after {at:?}: {death:?}"), &before, &dump(&netns));
            assert_settled(&netns);
        }
    }
}

/// Another run is at it when the time is over: then after that one.
fn lock_held_at_the_end(variant: Variant) {
    let netns = foreign::namespace();
    apply(&netns, variant, &split(SCOPED));
    let before = dump(&netns);
    let args = [&words(variant, CLASSIC, "1s")[..], &["--wait", "1"]].concat();
    mesh_init(&netns, &args).code(0);
    let lock = netns.run(|| {
        let name = SocketAddr::from_abstract_name(b"mesh-init/apply").expect("a name");
        UnixListener::bind_addr(&name).expect("nobody works here")
    });
    thread::sleep(Duration::from_secs(4));
    drop(lock);
    assert_back("after the lock", &netns, &before, Duration::from_secs(10));
}

/// A tool fails once when the time is over: it is not the last word.
fn tool_fails_at_the_end(variant: Variant) {
    let netns = foreign::namespace();
    apply(&netns, variant, &split(SCOPED));
    let before = dump(&netns);
    mesh_init(&netns, &words(variant, CLASSIC, "1s")).code(0);
    let once = "if mkdir /run/failed 2>/dev/null; then echo not now >&2; exit 4; fi\nexec $real \"$@\"";
    let sbin = Sbin::new().with(&variant.program(Family::V4, "restore"), once);
    let end = Instant::now() + Duration::from_secs(10);
    while !fs::exists("/run/failed").expect("/run") {
        assert!(Instant::now() < end, "expected an attempt");
        thread::sleep(Duration::from_millis(10));
    }
    thread::sleep(Duration::from_secs(3));
    drop(sbin);
    assert_back("after the failure", &netns, &before, Duration::from_secs(10));
}

/// From another namespace.
fn by_the_path(variant: Variant) {
    let (netns, caller) = (foreign::namespace(), foreign::namespace());
    let before = dump(&netns);
    let untouched = dump(&caller);
    let path = netns.path().display().to_string();
    let elsewhere = ["--netns", &path];
    for confirmed in [true, false] {
        mesh_init(&netns, &["clean"]).code(0);
        let within = if confirmed { LONG } else { "1s" };
        mesh_init(&caller, &[&words(variant, SCOPED, within)[..], &elsewhere].concat()).code(0);
        mesh_init(&caller, &["confirm"]).code(1).says("nothing waits");
        mesh_init(&caller, &[&["status"][..], &elsewhere].concat()).code(0).says("unconfirmed: process");
        if confirmed {
            mesh_init(&caller, &[&["confirm"][..], &elsewhere].concat()).code(0).says("confirmed");
            assert_differs("it stays", &before, &dump(&netns));
        } else {
            assert_back("taken back", &netns, &before, Duration::from_secs(10));
        }
        assert_same("the caller's", &untouched, &dump(&caller));
    }
}
