//! Failures after something was committed, where taking it back is refused too, and tools that cannot be started.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::foreign;
use crate::harness::Case;
use crate::replace::{CLASSIC, OTHER_CLASSIC, SCOPED, words};
use crate::scoped::{APP, serve};
use crate::support::command::mesh_init;
use crate::support::dial::dial;
use crate::support::rules::{Family, Variant, assert_same, dump};
use crate::support::sbin::Sbin;
use crate::support::wire::{HERE, THERE, two_hosts};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Case::all_for_each_variant(&[
        ("undo::refused_twice", refused_twice),
        ("undo::killed_after_removal", killed_after_removal),
        ("undo::no_start_of_restore", |variant| no_start(variant, "restore")),
        ("undo::no_start_of_save", |variant| no_start(variant, "save")),
    ]);
    cases.push(Case::new("undo::refused_twice_then_again", refused_twice_then_again));
    cases
}

/// The old variant gives up its rules for one family, not for the other, and takes nothing back.
fn stand_ins(from: Variant, refusing: Family) -> Sbin {
    let willing = if refusing == Family::V4 { Family::V6 } else { Family::V4 };
    let text = "text=$(cat)\nif printf '%s\\n' \"$text\" | grep -q '^-[AI]'; then echo no undo >&2; exit 1; fi\n\
        printf '%s\\n' \"$text\" | $real \"$@\"";
    Sbin::new()
        .with(&from.program(refusing, "restore"), "sleep 0.2\necho no removal >&2; exit 1")
        .with(&from.program(willing, "restore"), text)
}

/// A move away from `variant`; whichever family refuses, both stay captured.
fn refused_twice(variant: Variant) {
    for refusing in Family::BOTH {
        let (here, there) = two_hosts();
        serve(&here, &there);
        mesh_init(&here, &words((variant, CLASSIC))).ok();
        let sbin = stand_ins(variant, refusing);
        let run = mesh_init(&here, &words((variant.other(), CLASSIC)));
        drop(sbin);
        eprintln!("{run}");
        for family in Family::BOTH {
            dial(&here, APP, THERE.port(family, 80)).captured_by("proxy");
            dial(&there, APP, HERE.port(family, 80)).captured_by("proxy");
        }
        run.code(1).says("no removal").says("could not be taken back");
    }
}

/// A move away from `variant` whose removals are committed and then killed, so that nobody knows, and whose undo is
/// refused: the new rules are all that captures, and stay.
fn killed_after_removal(variant: Variant) {
    let (here, there) = two_hosts();
    serve(&here, &there);
    mesh_init(&here, &words((variant, CLASSIC))).ok();
    let text = "text=$(cat)\nif printf '%s\\n' \"$text\" | grep -q '^-[AI]'; then echo no undo >&2; exit 1; fi\n\
        printf '%s\\n' \"$text\" | $real \"$@\"\nkill -KILL $$";
    let mut sbin = Sbin::new();
    for family in Family::BOTH {
        sbin = sbin.with(&variant.program(family, "restore"), text);
    }
    let run = mesh_init(&here, &words((variant.other(), CLASSIC)));
    drop(sbin);
    for family in Family::BOTH {
        dial(&here, APP, THERE.port(family, 80)).captured_by("proxy");
        dial(&there, APP, HERE.port(family, 80)).captured_by("proxy");
    }
    run.code(1).says("killed by signal 9").says("could not be taken back");
}

/// With the tools back, either command works.
fn refused_twice_then_again() {
    let (from, to) = (Variant::Legacy, Variant::Nft);
    for last in [vec!["clean"], words((from, CLASSIC)), words((to, CLASSIC)), words((to, SCOPED))] {
        let netns = foreign::namespace();
        if last != ["clean"] {
            mesh_init(&netns, &last).ok();
        }
        let expected = dump(&netns);
        mesh_init(&netns, &["clean"]).ok();
        mesh_init(&netns, &words((from, CLASSIC))).ok();
        let sbin = stand_ins(from, Family::V6);
        mesh_init(&netns, &words((to, CLASSIC))).code(1);
        drop(sbin);
        mesh_init(&netns, &["status"]).code(0).says("both iptables hold rules of ours");
        mesh_init(&netns, &last).ok();
        assert_same(&format!("after {last:?}"), &expected, &dump(&netns));
    }
}

/// The file is there, its interpreter is not.
fn no_start(variant: Variant, verb: &str) {
    for before in [None, Some(CLASSIC), Some(SCOPED)] {
        for family in Family::BOTH {
            for flags in [OTHER_CLASSIC, SCOPED] {
                if before == Some(flags) {
                    continue;
                }
                let netns = foreign::namespace();
                if let Some(before) = before {
                    mesh_init(&netns, &words((variant, before))).ok();
                }
                let held = dump(&netns);
                let program = variant.program(family, verb);
                let sbin = Sbin::new().without(std::slice::from_ref(&program));
                let path = format!("/usr/sbin/{program}");
                fs::write(&path, "#!/nonexistent\n").expect("a file");
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("its mode");
                let run = mesh_init(&netns, &words((variant, flags)));
                drop(sbin);
                assert_same(&format!("on {before:?} after {run}"), &held, &dump(&netns));
                assert!(run.code.is_some_and(|code| code != 0), "expected a failure, seen {run}");
                run.says("cannot be started");
                mesh_init(&netns, &words((variant, flags))).ok();
            }
        }
    }
}
