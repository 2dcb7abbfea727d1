//! nftables needs nobody: no program of iptables or nft, no /proc, no root, no namespace of the machine's own.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;

use crate::again::CLASSIC;
use crate::foreign::{self, DOCKER};
use crate::harness::Case;
use crate::istio::POD;
use crate::privilege::{BOTH, with_only};
use crate::scoped::{APP, OWNER, VM, serve};
use crate::support::call::Call;
use crate::support::command::{MESH_INIT, Run, mesh_init};
use crate::support::dial::dial;
use crate::support::rules::{Family, Variant, assert_same, dump};
use crate::support::sbin::Sbin;
use crate::support::wire::{HERE, THERE, two_hosts};
use crate::tools;
use crate::verify::Hosts;

pub(crate) fn cases() -> Vec<Case> {
    let list: [(&str, fn()); 9] = [
        ("without_iptables", without_iptables),
        ("asked_for_without_iptables", asked_for_without_iptables),
        ("in_a_chroot", in_a_chroot),
        ("without_proc", without_proc),
        ("one_capability", one_capability),
        ("one_capability_beside_iptables", one_capability_beside_iptables),
        ("no_root", no_root),
        ("user_namespace", user_namespace),
        ("user_namespace_in_one_step", user_namespace_in_one_step),
    ];
    list.into_iter().map(|(name, body)| Case::new(&format!("native::alone::{name}"), body)).collect()
}

/// No program of iptables under any name, and none of nft.
fn bare() -> Sbin {
    tools::bare().without(&["nft".to_owned()])
}

/// Then nftables is what is left, and it is said.
fn without_iptables() {
    for flags in [&CLASSIC[..], &VM] {
        let (here, there) = two_hosts();
        serve(&here, &there);
        let empty = dump(&here);
        let sbin = bare();
        let first = mesh_init(&here, flags);
        let again = mesh_init(&here, flags);
        let status = mesh_init(&here, &["status"]);
        let verified = mesh_init(&here, &["verify"]);
        drop(sbin);
        first.code(0).says("on nftables (no iptables is installed)").says("\nchanged ");
        again.code(0).says("nothing to do");
        status.code(0).says("captured: ").says("nftables");
        verified.code(0).says(": captured (");
        for family in Family::BOTH {
            dial(&here, OWNER, THERE.port(family, 80)).captured_by("proxy");
            dial(&there, APP, HERE.port(family, 8001)).captured_by("proxy");
        }
        // Once there is an iptables, what holds our rules is kept.
        mesh_init(&here, flags).code(0).says("nothing to do").says("it holds our rules already");
        let sbin = bare();
        let cleaned = mesh_init(&here, &["clean"]);
        drop(sbin);
        cleaned.code(0).says("removed");
        assert_same("after clean", &empty, &dump(&here));
    }
}

/// `--backend` decides where both could; upstream's flags ask for iptables unless they say otherwise.
fn asked_for_without_iptables() {
    let netns = foreign::namespace();
    let empty = dump(&netns);
    let pod: Vec<_> = POD.split(' ').collect();
    let sbin = bare();
    let refused = [
        mesh_init(&netns, &["-p", "15001", "--backend", "iptables"]),
        mesh_init(&netns, &["-p", "15001", "--iptables-variant", "nft"]),
    ];
    drop(sbin);
    for run in refused {
        run.code(69).says("iptables");
    }
    assert_same("after the refusals", &empty, &dump(&netns));
    let upstream = [&["istio-iptables", "--dual-stack", "--native-nftables"], &pod[..]].concat();
    let sbin = bare();
    let made = mesh_init(&netns, &upstream);
    let again = mesh_init(&netns, &upstream);
    let cleaned = mesh_init(&netns, &[&upstream[..], &["--cleanup-only"]].concat());
    drop(sbin);
    made.code(0).says("nftables");
    again.code(0).says("nothing to do");
    cleaned.code(0);
    assert_same("after the cleanup", &empty, &dump(&netns));
    // Where an iptables is, it is taken unless nftables is asked for.
    mesh_init(&netns, &CLASSIC).code(0).says("on iptables-nft (it is installed)");
    let asked = [&CLASSIC[..], &Variant::Native.flags()].concat();
    mesh_init(&netns, &asked).code(0).says("on nftables (asked for)").says("\nchanged ");
    mesh_init(&netns, &CLASSIC)
        .code(0)
        .says("on nftables (it holds our rules already)")
        .says("nothing to do");
}

/// A root folder with nothing but our program and what it is linked with: no /proc, no /dev, no /etc.
fn in_a_chroot() {
    const ROOT: &str = "/run/root";
    let (here, there) = two_hosts();
    for family in Family::BOTH {
        here.ip(&format!("route add default via {}", THERE.ip(family)));
    }
    let empty = dump(&here);
    let linked = Run::new(&here, "ldd", &[MESH_INIT]);
    let words = linked.stdout.split_whitespace().filter(|word| word.starts_with('/'));
    for file in words.chain([MESH_INIT]) {
        let to = if file == MESH_INIT { "/mesh-init" } else { file };
        let to = Path::new(ROOT).join(to.trim_start_matches('/'));
        fs::create_dir_all(to.parent().expect("a folder")).expect("a folder in /run");
        fs::copy(file, to).expect("a copy");
    }
    let inside = |args: &[&str]| Run::new(&here, "chroot", &[&[ROOT, "/mesh-init"], args].concat());
    let both = [("captured (probe)", false), ("captured (conntrack)", true)];
    for (asked, chosen) in
        [(&[][..], "on nftables (no iptables is installed)"), (&Variant::Native.flags(), "(asked for)")]
    {
        let classic = [&CLASSIC[..], asked].concat();
        inside(&classic).code(0).says(chosen).says("layout classic").says("IPv4 and IPv6").says("\nchanged ");
        inside(&classic).code(0).says("nothing to do").says("/proc is not mounted");
        inside(&["status"]).code(0).says("captured: ");
        inside(&[&["plan", "--live"], &VM[..], asked].concat()).code(0).says("table ip mesh_init");
        let explained = inside(&["explain", "--live", "out tcp uid=1000 [fd00::9]:80"]).code(0);
        explained.says("captured -> 15001").says("outbound.all").says("/proc is not mounted");
        inside(&["verify", "--strict"]).code(0).says("captured (probe)");
        inside(&[&VM[..], asked].concat()).code(0).says("\nchanged ");
        inside(&VM).code(0).says("nothing to do");
        mesh_init(&here, &[&VM[..], &Variant::Native.flags()].concat()).code(0).says("nothing to do");
        inside(&["clean"]).code(0).says("removed");
        assert_same("after clean", &empty, &dump(&here));
    }
    // Who listens and what is open is asked elsewhere than in /proc.
    serve(&here, &there);
    let elsewhere = THERE.port(Family::V6, 7000);
    let listener = there.run(|| TcpListener::bind(elsewhere).expect("a free port"));
    let open = here.run_as(APP, || TcpStream::connect(elsewhere).expect("somebody listens"));
    for (how, held) in both {
        let port = if held { "15001" } else { "15009" };
        inside(&["-p", port, "-u", "1337"]).code(0).says("\nchanged ");
        let run = inside(&["verify", "--strict"]).code(0);
        assert_eq!(run.stdout.matches(how).count(), 4, "expected {how} four times, seen {run}");
        inside(&["status"]).code(0).says("1 connection older than the capture (1 outbound, 0 inbound)");
    }
    drop((open, listener));
    for family in Family::BOTH {
        dial(&here, APP, THERE.port(family, 80)).captured_by("proxy");
        dial(&there, APP, HERE.port(family, 8001)).captured_by("proxy");
    }
    inside(&["-p", "15001", "--confirm-within", "60s"]).code(0);
    inside(&["confirm"]).code(0);
    inside(&["-p", "15001", "-u", "0", "--uid-owner", "1337"]).code(69).says("15001 runs as uid 1337");
    inside(&["clean"]).code(0).says("removed");
    assert_same("in the end", &empty, &dump(&here));
}

/// Where /proc is missing and iptables is not: whose tables cannot be listed is not used, and it is said why.
fn without_proc() {
    let netns = foreign::namespace();
    let empty = dump(&netns);
    let without = |args: &[&str]| {
        let script = format!("umount -l /proc && exec {MESH_INIT} \"$@\"");
        Run::new(&netns, "unshare", &[&["-m", "sh", "-c", &script, "sh"], args].concat())
    };
    for line in ["--iptables-variant nft", "--iptables-variant legacy", "--backend iptables"] {
        let run = without(&[&CLASSIC[..], &line.split(' ').collect::<Vec<_>>()].concat()).code(69);
        run.says("cannot be used here").says("/proc is not mounted").says("--backend nftables");
        assert_same(line, &empty, &dump(&netns));
    }
    without(&CLASSIC).code(0).says("on nftables (no iptables can be used where its tables cannot be listed)");
    without(&CLASSIC).code(0).says("nothing to do");
    without(&["verify"]).code(0).says("captured (probe)");
    without(&["clean"]).code(0).says("removed");
    assert_same("after clean", &empty, &dump(&netns));
}

/// One capability of an init container's two is enough, without any of root's files.
fn one_capability() {
    let hosts = Hosts::new();
    let netns = &hosts.here;
    let empty = dump(netns);
    let asked = [&CLASSIC[..], &Variant::Native.flags()].concat();
    for given in [&[][..], &["net_raw"], &["net_raw", "sys_admin"]] {
        let run = with_only(netns, given, &asked).run().code(77).says("missing CAP_NET_ADMIN;");
        assert!(!run.stderr.contains("NET_RAW"), "expected no word of it, seen {run}");
        assert_same(&format!("with {given:?}"), &empty, &dump(netns));
    }
    let one = |args: &[&str]| with_only(netns, &["net_admin"], args).run();
    one(&asked).code(0).says("\nchanged ");
    one(&asked).code(0).says("nothing to do");
    // What holds our rules is chosen, so nothing of iptables is needed either.
    one(&CLASSIC).code(0).says("nothing to do");
    one(&["status"]).code(0).says("captured: ");
    one(&["explain", "--live", "out tcp 10.1.2.3:80"]).code(0).says("captured -> 15001");
    // A connection of another user and one from elsewhere take more, which is said there alone.
    let tried = one(&["verify"]).code(0);
    tried.says("outbound IPv4: captured (probe)").says("CAP_SYS_ADMIN is missing");
    one(&["verify", "--strict"]).code(126);
    one(&[&VM[..], &Variant::Native.flags()].concat()).code(0).says("\nchanged ");
    one(&["verify"]).code(0).says("captured (rules): not tried: CAP_SETUID is missing to send as uid 1338");
    with_only(netns, &["net_admin", "setuid", "sys_admin"], &["verify", "--strict"]).run().code(0);
    one(&["clean"]).code(0).says("removed");
    assert_same("after clean", &empty, &dump(netns));
    let run = with_only(netns, &["net_admin"], &CLASSIC).run().code(77);
    run.says("missing CAP_NET_RAW;").says("--backend nftables");
    assert_same("what chooses iptables", &empty, &dump(netns));
}

/// Rules of iptables beside ours: those of iptables-nft are read with that one capability, those of iptables-legacy take
/// the other one, and to move from either takes it too.
fn one_capability_beside_iptables() {
    for variant in Variant::BOTH {
        let netns = foreign::namespace();
        foreign::load(&netns, variant, DOCKER);
        let before = dump(&netns);
        let asked = [&CLASSIC[..], &Variant::Native.flags()].concat();
        let one = |args: &[&str]| with_only(&netns, &["net_admin"], args).run();
        match variant {
            Variant::Legacy => {
                for args in [&asked[..], &["status"], &["clean"]] {
                    one(args).code(77).says("missing CAP_NET_RAW;");
                }
            }
            Variant::Nft | Variant::Native => {
                one(&asked).code(0).says("\nchanged ");
                one(&asked).code(0).says("nothing to do");
                one(&["status"]).code(0).says("captured: ");
                one(&["clean"]).code(0).says("removed");
            }
        }
        assert_same("rules of others", &before, &dump(&netns));
        mesh_init(&netns, &[&CLASSIC[..], &variant.flags()].concat()).ok();
        let moved = dump(&netns);
        for args in [&asked[..], &["clean"]] {
            one(args).code(77).says("missing CAP_NET_RAW;");
            assert_same("rules of ours in iptables", &moved, &dump(&netns));
        }
        with_only(&netns, &BOTH, &asked).run().code(0).says("\nchanged ");
        with_only(&netns, &BOTH, &["clean"]).run().code(0).says("removed");
        assert_same("in the end", &before, &dump(&netns));
    }
}

/// Whether the kernel has iptables-legacy's lists of tables, which are files of root's.
fn has_lists() -> bool {
    Path::new("/proc/self/net/ip_tables_names").exists()
}

/// Without capabilities nothing is done; with them nobody needs to be root.
fn no_root() {
    let netns = foreign::namespace();
    let empty = dump(&netns);
    let asked = [&CLASSIC[..], &Variant::Native.flags()].concat();
    Run::as_user(&netns, APP, MESH_INIT, &asked, "").code(77).says("CAP_NET_ADMIN").says("root");
    assert_same("after the refusal", &empty, &dump(&netns));
    Run::as_user(&netns, APP, MESH_INIT, &[&["plan"], &asked[..]].concat(), "").code(0).says("nat_redirect");
    let user = ["--reuid", "1000", "--regid", "1000", "--clear-groups"];
    let caps = ["--inh-caps", "+net_admin,+net_raw", "--ambient-caps", "+net_admin,+net_raw", MESH_INIT];
    let call = |args: &[&str]| Call::of(&netns, "setpriv", &[&user[..], &caps, args].concat()).run();
    let first = call(&asked).code(0).says("\nchanged ");
    // Whether iptables-legacy has tables is in files of root's, which capabilities alone do not open: it is told.
    assert_eq!(first.stderr.contains("ip_tables_names cannot be read"), has_lists(), "{first}");
    call(&asked).code(0).says("nothing to do");
    call(&["status"]).code(0).says("captured: ");
    call(&["clean"]).code(0).says("removed");
    assert_same("after clean", &empty, &dump(&netns));
    if has_lists() {
        for variant in Variant::BOTH {
            let run = call(&[&CLASSIC[..], &variant.flags()].concat()).code(77);
            run.says(variant.full_name()).says("ip_tables_names").says("run as uid 0 of the host");
            assert_same("after the refusal", &empty, &dump(&netns));
        }
    }
}

/// The network namespace of a user namespace, as rootless containers have it: its root may do all there.
fn user_namespace() {
    let netns = foreign::namespace();
    let before = dump(&netns);
    let policies =
        ["-p 15001 -u 1337 --host", "--uid-owner 1338 --inbound 8001", "-p 15001 -z 15006 -m TPROXY"];
    for flags in policies {
        let script = format!(
            "set -e; ip link set lo up; {MESH_INIT} {flags} --backend nftables; nft list ruleset; \
             {MESH_INIT} {flags}; {MESH_INIT} status; {MESH_INIT} clean; nft list ruleset | wc -l"
        );
        // Users are known before there are files that belong to them.
        let within = ["-Ur", "unshare", "-n", "sh", "-c", &script];
        let run = Run::as_user(&netns, APP, "unshare", &within, "").code(0);
        for word in ["\nchanged ", "table ip6 mesh_init {", "nothing to do", "captured: ", "removed"] {
            assert!(run.stdout.contains(word), "expected `{word}`, seen {run}");
        }
        assert_eq!(run.stdout.lines().last(), Some("0"), "expected no rule that is left, seen {run}");
    }
    assert_same("the namespace around it", &before, &dump(&netns));
}

/// The same made at once: the namespace is older than the map of its users, so its files in /proc belong to the host's
/// root, and nobody inside can tell whether iptables-legacy has tables.
fn user_namespace_in_one_step() {
    let netns = foreign::namespace();
    let before = dump(&netns);
    let iptables = format!(
        "for flags in '--iptables-variant nft' '--iptables-variant legacy' '--backend iptables'; do
            {MESH_INIT} -p 15001 $flags; test $? = 77 || exit 9
        done;"
    );
    for backend in ["--backend nftables", ""] {
        // Two namespaces of one user namespace, with a wire between them.
        let script = format!(
            "set -e
            ip link set lo up
            unshare -n sleep 60 & beside=$!
            for link in 0 1 2 3 4 5 6 7 8 9; do
                ip link add eth0 type veth peer name eth0 netns $beside 2>&1 && break
                sleep 0.1
            done
            ip address add 10.1.0.1/24 dev eth0
            ip address add fd00:1::1/64 dev eth0 nodad
            ip link set eth0 up
            nsenter -t $beside -n ip link set eth0 up
            ip route add default via 10.1.0.9
            ip route add default via fd00:1::9
            {MESH_INIT} -p 15001 -u 1337 {backend}
            {MESH_INIT} -p 15001 -u 1337 {backend}
            {MESH_INIT} verify --strict
            {MESH_INIT} -p 15002 -u 1337 -i 192.0.2.0/24,2001:db8::/32 {backend}
            {MESH_INIT} status
            {MESH_INIT} verify --strict
            set +e
            {lists}
            set -e
            {MESH_INIT} status
            {MESH_INIT} clean
            nft list ruleset | wc -l
            kill $beside",
            lists = if has_lists() { &iptables } else { "" },
        );
        let run = Run::as_user(&netns, APP, "unshare", &["-Urn", "sh", "-c", &script], "").code(0);
        for (words, times) in [
            ("\nchanged ", 2),
            ("nothing to do", 1),
            ("captured: ", 2),
            ("captured (probe)", 8),
            ("removed", 1),
        ] {
            assert_eq!(run.stdout.matches(words).count(), times, "expected `{words}`, seen {run}");
        }
        assert_eq!(run.stdout.lines().last(), Some("0"), "expected no rule that is left, seen {run}");
        if has_lists() {
            let refused = "cannot be used here: whether iptables-legacy has tables here cannot be told: \
                /proc/thread-self/net/ip_tables_names cannot be read";
            assert_eq!(run.stderr.matches(refused).count(), 3, "seen {run}");
            for who in ["iptables-nft", "iptables-legacy", "mesh-init: iptables"] {
                assert!(run.stderr.contains(&format!("{who} cannot be used here")), "{who}: seen {run}");
            }
            if backend.is_empty() {
                run.says("on nftables (no iptables can be used where its tables cannot be listed)");
            }
        }
    }
    assert_same("the namespace around it", &before, &dump(&netns));
}
