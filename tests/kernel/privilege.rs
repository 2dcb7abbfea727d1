//! What mesh-init needs, what it says when it lacks it, and what it hands on to the tools.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;

use nix::mount::{MsFlags, mount};

use crate::again::CLASSIC;
use crate::foreign;
use crate::harness::Case;
use crate::replace::{OTHER_CLASSIC, SCOPED, words};
use crate::scoped::APP;
use crate::support::call::Call;
use crate::support::command::{MESH_INIT, Run, mesh_init};
use crate::support::netns::Netns;
use crate::support::rules::{Family, Variant, assert_same, dump};
use crate::support::sbin::Sbin;

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Case::all_for_each_variant(&[
        ("privilege::two_capabilities_on_a_read_only_root", two_capabilities_on_a_read_only_root),
        ("privilege::of_the_tools", of_the_tools),
        ("privilege::no_root_but_two_capabilities", no_root_but_two_capabilities),
    ]);
    cases.push(Case::new("privilege::missing_ones_are_named", missing_ones_are_named));
    cases.push(Case::new("privilege::no_root", no_root));
    cases
}

/// A policy, whatever the variant.
const PLAIN: &str = "-p 15001 -u 1337";
pub(crate) const BOTH: [&str; 2] = ["net_admin", "net_raw"];

/// mesh-init as a root that has `capabilities` and can never get others: what a container is given.
pub(crate) fn with_only(netns: &Netns, capabilities: &[&str], args: &[&str]) -> Call {
    let bound: String = capabilities.iter().map(|name| format!(",+{name}")).collect();
    let bound = format!("-all{bound}");
    let drop = ["--bounding-set", &bound, "--inh-caps", "-all", MESH_INIT];
    Call::of(netns, "setpriv", &[&drop, args].concat())
}

/// Makes every file system of the case's mount namespace read-only.
fn make_all_read_only() {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("/proc/self/mounts");
    let none = None::<&str>;
    for line in mounts.lines() {
        let mut columns = line.split(' ').skip(1);
        let (Some(at), Some(kind)) = (columns.next(), columns.next()) else { continue };
        if !["nsfs", "proc"].contains(&kind) {
            let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
            // A mount under another one cannot be reached, by nobody.
            let _hidden = mount(none, at, none, flags, none).is_err();
        }
    }
    for folder in ["/", "/run", "/tmp", "/var/tmp", "/dev/shm", "/etc"] {
        let refusal = fs::write(format!("{folder}/mesh-init-test"), "").expect_err("everything is read-only");
        assert_eq!(refusal.kind(), ErrorKind::ReadOnlyFilesystem, "{folder}: {refusal}");
    }
}

/// What a pod with `readOnlyRootFilesystem` and the two capabilities gives.
fn two_capabilities_on_a_read_only_root(variant: Variant) {
    let netns = foreign::namespace();
    let empty = dump(&netns);
    let wanted = [PLAIN, SCOPED, OTHER_CLASSIC].map(|flags| {
        let alone = foreign::namespace();
        mesh_init(&alone, &words((variant, flags))).ok();
        (words((variant, flags)), dump(&alone))
    });
    make_all_read_only();
    for (flags, wanted) in wanted {
        with_only(&netns, &BOTH, &flags).run().code(0).says("\nchanged ");
        assert_same(&flags.join(" "), &wanted, &dump(&netns));
        with_only(&netns, &BOTH, &flags).run().code(0).says("nothing to do");
        let plan = [&["plan", "--live"], &flags[..]].concat();
        with_only(&netns, &BOTH, &plan).run().code(0).says("nothing to do");
    }
    with_only(&netns, &BOTH, &["status"]).run().code(0).says("captured: ");
    with_only(&netns, &BOTH, &["clean"]).run().code(0).says("removed");
    assert_same("after clean", &empty, &dump(&netns));
}

/// The lines that each tool has left about itself.
fn told_by_tools() -> BTreeSet<String> {
    let folder = fs::read_dir("/run/told").expect("stand-ins ran");
    let mut told = BTreeSet::new();
    for file in folder.flatten() {
        told.extend(fs::read_to_string(file.path()).expect("a file").lines().map(str::to_owned));
    }
    told
}

/// Stand-ins that note what they were given before they do their work.
fn noting(variant: Variant) -> Sbin {
    const NOTE: &str = "mkdir -p /run/told\n\
        { grep -E '^(CapInh|CapPrm|CapEff|CapAmb|NoNewPrivs):' /proc/$$/status; \
        tr '\\0' '\\n' < /proc/$$/environ | sed 's/^/variable /'; } > /run/told/${0##*/}\n\
        exec $real \"$@\"";
    let tools = ["restore", "save"].map(|verb| Family::BOTH.map(|family| variant.program(family, verb)));
    tools.as_flattened().iter().fold(Sbin::new(), |sbin, name| sbin.with(name, NOTE))
}

/// Starts mesh-init for a namespace, with arguments.
type Caller<'a> = &'a dyn Fn(&Netns, &[&str]) -> Call;

/// Exactly two capabilities, no way to more, and an environment with at most the lock file in it, whoever calls.
fn of_the_tools(variant: Variant) {
    const NET_ADMIN_AND_RAW: u64 = 1 << 12 | 1 << 13;
    const SYS_MODULE: u64 = 1 << 16;
    let caller = Netns::new("caller");
    let full = |netns: &Netns, args: &[&str]| Call::mesh_init(netns, args);
    let two = |netns: &Netns, args: &[&str]| with_only(netns, &BOTH, args);
    let entering = |netns: &Netns, args: &[&str]| {
        let path = netns.path().display().to_string();
        with_only(&caller, &["net_admin", "net_raw", "sys_admin"], &[args, &["--netns", &path]].concat())
    };
    let callers: [(&str, Caller<'_>); 3] =
        [("full root", &full), ("two capabilities", &two), ("--netns", &entering)];
    for (name, call) in callers {
        for lock_file in [None, Some("/run/other.lock")] {
            let netns = foreign::namespace();
            let loaded = ["ip", "ip6"].into_iter().all(|family| {
                let file = format!("/proc/thread-self/net/{family}_tables_names");
                netns.run(|| fs::exists(file).expect("/proc can be read"))
            });
            let module = if loaded || name != "full root" { 0 } else { SYS_MODULE };
            let capabilities = format!("{:016x}", NET_ADMIN_AND_RAW | module);
            let sbin = noting(variant);
            for flags in [SCOPED, PLAIN] {
                let mut call = call(&netns, &words((variant, flags)))
                    .env("IFS", "x")
                    .env("LD_LIBRARY_PATH", "/run")
                    .env("IPTABLES_LIB_DIR", "/run")
                    .env("XTABLES_LIBDIR", "/usr/lib/x86_64-linux-gnu/xtables");
                if let Some(file) = lock_file {
                    call = call.env("XTABLES_LOCKFILE", file);
                }
                call.run().code(0).says("\nchanged ");
            }
            drop(sbin);
            let mut expected = BTreeSet::from([
                "CapAmb:\t0000000000000000".to_owned(),
                "CapInh:\t0000000000000000".to_owned(),
                format!("CapEff:\t{capabilities}"),
                format!("CapPrm:\t{capabilities}"),
                "NoNewPrivs:\t1".to_owned(),
            ]);
            expected.extend(lock_file.map(|file| format!("variable XTABLES_LOCKFILE={file}")));
            assert_eq!(told_by_tools(), expected, "{name}, lock file {lock_file:?}");
            let tools = fs::read_dir("/run/told").expect("stand-ins ran").count();
            assert_eq!(tools, 4, "expected all four tools to be used by {name}");
            fs::remove_dir_all("/run/told").expect("a folder of our own");
        }
    }
    assert_same("the caller's namespace", &dump(&Netns::new("caller")), &dump(&caller));
}

/// Whoever has the two capabilities need not be root. iptables-legacy insists on it, and says so.
fn no_root_but_two_capabilities(variant: Variant) {
    let netns = foreign::namespace();
    let before = dump(&netns);
    let user = ["--reuid", "1000", "--regid", "1000", "--clear-groups"];
    let caps = ["--inh-caps", "+net_admin,+net_raw", "--ambient-caps", "+net_admin,+net_raw", MESH_INIT];
    let state = words((variant, PLAIN));
    let run = Call::of(&netns, "setpriv", &[&user[..], &caps, &state].concat()).run();
    eprintln!("{run}");
    match run.code {
        Some(0) => {
            let alone = foreign::namespace();
            mesh_init(&alone, &state).ok();
            assert_same("by a user with two capabilities", &dump(&alone), &dump(&netns));
        }
        _ => {
            run.code(77);
            assert_same("after the refusal", &before, &dump(&netns));
        }
    }
}

/// The verbs that look at or change the machine.
const VERBS: [&str; 4] = ["apply -p 15002", "plan --live -p 15002", "status", "clean"];

fn missing_ones_are_named() {
    let netns = foreign::namespace();
    mesh_init(&netns, &CLASSIC).ok();
    let before = dump(&netns);
    let with = |capabilities: &[&str], line: &str| -> Run {
        with_only(&netns, capabilities, &line.split(' ').collect::<Vec<_>>()).run().code(77)
    };
    for verb in VERBS {
        for (given, missing, not_missing) in [
            (&[][..], &["CAP_NET_ADMIN", "CAP_NET_RAW"][..], &["CAP_SYS_ADMIN"][..]),
            (&["net_raw"], &["CAP_NET_ADMIN"], &["CAP_NET_RAW"]),
            (&["net_admin"], &["CAP_NET_RAW"], &["CAP_NET_ADMIN"]),
            (&["sys_admin", "net_admin", "dac_override"], &["CAP_NET_RAW"], &["CAP_NET_ADMIN"]),
        ] {
            // Rules of iptables-nft can be read without raw sockets.
            if verb == "status" && given.contains(&"net_admin") {
                with_only(&netns, given, &[verb]).run().code(0).says("captured: ");
                continue;
            }
            let run = with(given, verb);
            for name in missing {
                assert!(run.stderr.contains(name), "expected {name} to be named, seen {run}");
            }
            for name in not_missing {
                assert!(!run.stderr.contains(name), "expected {name} not to be named, seen {run}");
            }
            assert_same(&format!("{verb} with {given:?}"), &before, &dump(&netns));
        }
        let other = Netns::new("other");
        let line = format!("{verb} --netns {}", other.path().display());
        with(&BOTH, &line).says("CAP_SYS_ADMIN");
        with(&[], &line).says("CAP_SYS_ADMIN").says("CAP_NET_ADMIN").says("CAP_NET_RAW");
        assert_same("--netns without CAP_SYS_ADMIN", &before, &dump(&netns));
    }
    // To think needs nothing.
    with_only(&netns, &[], &["plan", "-p", "15001"]).run().code(0).says("ISTIO_REDIRECT");
}

fn no_root() {
    let netns = foreign::namespace();
    mesh_init(&netns, &CLASSIC).ok();
    let before = dump(&netns);
    for verb in VERBS {
        let args: Vec<_> = verb.split(' ').collect();
        let run = Run::as_user(&netns, APP, MESH_INIT, &args, "");
        run.code(77).says("CAP_NET_ADMIN").says("root");
        assert_same(verb, &before, &dump(&netns));
    }
    Run::as_user(&netns, APP, MESH_INIT, &["plan", "-p", "15001"], "").code(0).says("ISTIO_REDIRECT");
}
