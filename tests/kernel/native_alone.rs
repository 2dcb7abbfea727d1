//! nftables needs nobody: no program of iptables or nft, no root, no namespace of the machine's own.

use std::fs;
use std::path::Path;

use nix::mount::{MsFlags, mount};

use crate::again::CLASSIC;
use crate::foreign;
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

pub(crate) fn cases() -> Vec<Case> {
    let list: [(&str, fn()); 6] = [
        ("without_iptables", without_iptables),
        ("asked_for_without_iptables", asked_for_without_iptables),
        ("in_a_chroot", in_a_chroot),
        ("two_capabilities", two_capabilities),
        ("no_root", no_root),
        ("user_namespace", user_namespace),
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

/// A root folder with nothing but our program, what it is linked with, and /proc.
fn in_a_chroot() {
    const ROOT: &str = "/run/root";
    let netns = foreign::namespace();
    let empty = dump(&netns);
    let linked = Run::new(&netns, "ldd", &[MESH_INIT]);
    let words = linked.stdout.split_whitespace().filter(|word| word.starts_with('/'));
    for file in words.chain([MESH_INIT]) {
        let to = if file == MESH_INIT { "/mesh-init" } else { file };
        let to = Path::new(ROOT).join(to.trim_start_matches('/'));
        fs::create_dir_all(to.parent().expect("a folder")).expect("a folder in /run");
        fs::copy(file, to).expect("a copy");
    }
    let proc = format!("{ROOT}/proc");
    fs::create_dir_all(&proc).expect("a folder in /run");
    let none = None::<&str>;
    mount(Some("/proc"), proc.as_str(), none, MsFlags::MS_BIND | MsFlags::MS_REC, none).expect("a /proc");
    let inside = |args: &[&str]| Run::new(&netns, "chroot", &[&[ROOT, "/mesh-init"], args].concat());
    inside(&CLASSIC).code(0).says("on nftables (no iptables is installed)").says("\nchanged ");
    inside(&["status"]).code(0).says("captured: ");
    // Without /dev there is no random token.
    inside(&["verify"]).code(0).says("captured (rules)");
    let dev = format!("{ROOT}/dev");
    fs::create_dir_all(&dev).expect("a folder in /run");
    mount(Some("/dev"), dev.as_str(), none, MsFlags::MS_BIND, none).expect("a /dev");
    inside(&["verify"]).code(0).says("captured (probe)");
    inside(&VM).code(0).says("\nchanged ");
    inside(&VM).code(0).says("nothing to do");
    mesh_init(&netns, &[&VM[..], &Variant::Native.flags()].concat()).code(0).says("nothing to do");
    inside(&["clean"]).code(0).says("removed");
    assert_same("after clean", &empty, &dump(&netns));
}

/// The capabilities of an init container are enough, without any of root's files.
fn two_capabilities() {
    let netns = foreign::namespace();
    let empty = dump(&netns);
    let asked = [&CLASSIC[..], &Variant::Native.flags()].concat();
    let call = |capabilities: &[&str]| with_only(&netns, capabilities, &asked).run();
    for (given, missing) in
        [(&[][..], "CAP_NET_ADMIN"), (&["net_raw"], "CAP_NET_ADMIN"), (&["net_admin"], "CAP_NET_RAW")]
    {
        call(given).code(77).says(missing);
        assert_same(&format!("with {given:?}"), &empty, &dump(&netns));
    }
    call(&BOTH).code(0).says("\nchanged ");
    with_only(&netns, &BOTH, &["status"]).run().code(0).says("captured: ");
    with_only(&netns, &BOTH, &["clean"]).run().code(0).says("removed");
    assert_same("after clean", &empty, &dump(&netns));
}

/// Without capabilities nothing is done; with them nobody needs to be root.
fn no_root() {
    let netns = foreign::namespace();
    let empty = dump(&netns);
    let asked = [&CLASSIC[..], &Variant::Native.flags()].concat();
    Run::as_user(&netns, APP, MESH_INIT, &asked, "").code(77).says("CAP_NET_ADMIN").says("root");
    assert_same("after the refusal", &empty, &dump(&netns));
    Run::as_user(&netns, APP, MESH_INIT, &[&["plan"], &asked[..]].concat(), "").code(0).says("nat_redirect");
    // Whether iptables-legacy has tables is in files of root's: where there are any, capabilities alone do not tell.
    let user = ["--reuid", "1000", "--regid", "1000", "--clear-groups"];
    let caps = ["--inh-caps", "+net_admin,+net_raw", "--ambient-caps", "+net_admin,+net_raw", MESH_INIT];
    let call = |args: &[&str]| Call::of(&netns, "setpriv", &[&user[..], &caps, args].concat()).run();
    if !Path::new("/proc/self/net/ip_tables_names").exists() {
        call(&asked).code(0).says("\nchanged ");
        call(&asked).code(0).says("nothing to do");
        call(&["status"]).code(0).says("captured: ");
        call(&["clean"]).code(0).says("removed");
    } else {
        call(&asked).code(77).says("run as uid 0");
    }
    assert_same("in the end", &empty, &dump(&netns));
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
