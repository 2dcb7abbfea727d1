//! Where the tools of iptables are looked for, and how it is found out what they are.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::foreign;
use crate::harness::Case;
use crate::replace::{CLASSIC, SCOPED, words};
use crate::support::call::Call;
use crate::support::command::{PATH, Run, mesh_init};
use crate::support::rules::{Family, Variant, assert_same, dump};
use crate::support::sbin::{REAL, Sbin, names, write_script};

pub(crate) fn cases() -> Vec<Case> {
    Case::all_for_each_variant(&[
        ("tools::only_in_path", only_in_path),
        ("tools::plain_names_by_link", |variant| plain_names(variant, Sbin::link)),
        ("tools::plain_names_by_version", |variant| plain_names(variant, Sbin::copy)),
        ("tools::tables_that_nobody_reads", tables_that_nobody_reads),
    ])
    .into_iter()
    .chain([Case::new("tools::empty_tables_that_nobody_reads", empty_tables_that_nobody_reads)])
    .collect()
}

const FOLDER: &str = "/run/tools";
const PLAIN: [&str; 4] = ["iptables-restore", "iptables-save", "ip6tables-restore", "ip6tables-save"];

/// No tool under any name.
pub(crate) fn bare() -> Sbin {
    Sbin::new().without(&names(&Family::BOTH, "restore")).without(&names(&Family::BOTH, "save"))
}

fn only_in_path(variant: Variant) {
    let (netns, alone) = (foreign::namespace(), foreign::namespace());
    mesh_init(&alone, &words((variant, CLASSIC))).ok();
    let (empty, wanted) = (dump(&netns), dump(&alone));
    let sbin = bare();
    fs::create_dir(FOLDER).expect("a folder in /run");
    for name in names(&Family::BOTH, "restore").into_iter().chain(names(&Family::BOTH, "save")) {
        symlink(Path::new(REAL).join(&name), Path::new(FOLDER).join(name)).expect("a link");
    }
    // Decoys: no program, and a folder.
    fs::create_dir_all("/run/decoys/ip6tables-legacy-save").expect("a folder in /run");
    fs::write("/run/decoys/iptables-nft-restore", "#!/bin/sh\n").expect("a file in /run");
    let call = |path: &str| Call::mesh_init(&netns, &words((variant, CLASSIC))).env("PATH", path).run();
    // A relative folder is whatever the caller stands in.
    for path in [PATH, "run/tools", "../../../../../../../../run/tools", "", "."] {
        call(path).code(69).says("iptables");
    }
    let found = call(&format!("relative:/nonexistent:/run/decoys:{FOLDER}:{PATH}"));
    drop(sbin);
    found.code(0).says("\nchanged ");
    assert_same("with the tools in PATH", &wanted, &dump(&netns));
    mesh_init(&netns, &["clean"]).ok();
    assert_same("after clean", &empty, &dump(&netns));
}

/// Only `iptables-restore` and its like, as small images have them.
fn plain_names(variant: Variant, give: fn(Sbin, &str, &str) -> Sbin) {
    let (netns, alone) = (foreign::namespace(), foreign::namespace());
    mesh_init(&alone, &words((variant, CLASSIC))).ok();
    let (empty, wanted) = (dump(&netns), dump(&alone));
    let program = format!("xtables-{}-multi", variant.name());
    let tools = || PLAIN.into_iter().fold(bare(), |sbin, name| give(sbin, name, &program));
    let on_the_machine = |flags: &str| {
        let sbin = tools();
        let run = mesh_init(&netns, &flags.split_whitespace().collect::<Vec<_>>());
        drop(sbin);
        run
    };
    on_the_machine(CLASSIC).code(0).says(&format!("on iptables-{}", variant.name())).says("\nchanged ");
    assert_same("with plain names", &wanted, &dump(&netns));
    on_the_machine(CLASSIC).code(0).says("nothing to do");
    let other = format!("{CLASSIC} --iptables-variant {}", variant.other().name());
    on_the_machine(&other).code(69).says(&format!("iptables-{}", variant.other().name()));
    assert_same("the other variant is not here", &wanted, &dump(&netns));
    on_the_machine(SCOPED).code(0).says("\nchanged ");
    on_the_machine("clean").code(0).says("removed");
    assert_same("after clean", &empty, &dump(&netns));
}

/// Our rules may be in tables that no program here reads: nothing is done then.
fn tables_that_nobody_reads(variant: Variant) {
    let netns = foreign::namespace();
    mesh_init(&netns, &words((variant, CLASSIC))).ok();
    let before = dump(&netns);
    for call in [&["-p", "15001", "-u", "1337"][..], &["--uid-owner", "1000"], &["clean"], &["status"]] {
        let sbin = ["restore", "save"]
            .into_iter()
            .fold(Sbin::new().without(&PLAIN.map(str::to_owned)), |sbin, verb| {
                sbin.without(&Family::BOTH.map(|family| variant.program(family, verb)))
            });
        let run = mesh_init(&netns, call);
        drop(sbin);
        run.code(69).says(&format!("iptables-{}", variant.name())).says("install");
        assert_same(&format!("after {call:?}"), &before, &dump(&netns));
    }
    // A tool that cannot say what it is does not count as read.
    let sbin = bare();
    write_script(Path::new("/usr/sbin/iptables-restore"), "exit 1");
    write_script(Path::new("/usr/sbin/iptables-save"), "exit 1");
    let run = mesh_init(&netns, &["-p", "15001", "-u", "1337"]);
    drop(sbin);
    assert!(run.code.is_some_and(|code| code != 0), "expected a refusal, seen {run}");
    assert_same("after a tool that says nothing", &before, &dump(&netns));
}

/// iptables-nft leaves its tables behind when the rules move to nftables. Without its program the kernel itself shows that
/// they hold nothing; a rule, a chain or a policy of somebody's is something.
fn empty_tables_that_nobody_reads() {
    let netns = foreign::namespace();
    let empty = dump(&netns);
    let bare = |words: &str| {
        let sbin = bare();
        let run = mesh_init(&netns, &words.split(' ').collect::<Vec<_>>());
        drop(sbin);
        run
    };
    for family in Family::BOTH {
        // Every table that there is.
        for table in ["raw", "mangle", "nat", "filter", "security"] {
            for verb in ["-A OUTPUT -j ACCEPT", "-F"] {
                let line: Vec<_> = ["-t", table].into_iter().chain(verb.split(' ')).collect();
                Run::new(&netns, &Variant::Nft.program(family, ""), &line).ok();
            }
        }
    }
    mesh_init(&netns, &words((Variant::Nft, CLASSIC))).ok();
    bare("status").code(69).says("iptables-nft").says("chain ISTIO_");
    mesh_init(&netns, &words((Variant::Native, CLASSIC))).ok();
    let left = Run::new(&netns, "nft", &["list", "tables"]).ok();
    for table in ["ip nat", "ip6 nat", "ip filter", "ip6 mangle"] {
        assert!(left.contains(&format!("table {table}\n")), "expected a table that was left, seen {left}");
    }
    bare("status").code(0).says("captured: ");
    bare(CLASSIC).code(0).says("nothing to do");
    bare("verify --quick").code(0);
    bare(&format!("plan --live {SCOPED}")).code(0).says("table ip mesh_init");
    let explained = bare("explain --live --all").code(0);
    assert!(!explained.stdout.contains("read without it"), "{explained}");
    bare(SCOPED).code(0).says("\nchanged ");
    // What somebody has there counts, whatever it is.
    for (make, unmake) in [
        ("add rule ip filter OUTPUT tcp dport 1 drop", "flush chain ip filter OUTPUT"),
        ("add chain ip6 nat SOMEBODYS", "delete chain ip6 nat SOMEBODYS"),
        ("add chain ip filter OUTPUT { policy drop; }", "add chain ip filter OUTPUT { policy accept; }"),
    ] {
        Run::with_input(&netns, "nft", &["-f", "-"], &format!("{make}\n")).ok();
        let before = dump(&netns);
        for words in ["status", "clean", CLASSIC] {
            bare(words).code(69).says("iptables-nft that cannot be read").says("install");
        }
        assert_same(make, &before, &dump(&netns));
        Run::with_input(&netns, "nft", &["-f", "-"], &format!("{unmake}\n")).ok();
        bare("status").code(0).says("captured: ");
    }
    bare("clean").code(0).says("removed");
    assert_same("after clean", &empty, &dump(&netns));
}
