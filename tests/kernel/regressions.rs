//! Whole families as networks, namespaces by their path, and command lines that ask for nothing or for too much.

use crate::foreign;
use crate::harness::Case;
use crate::replace::CLASSIC;
use crate::scoped::{APP, OWNER, apply, captured};
use crate::status::{assert_whole, json_of, split, status};
use crate::support::command::mesh_init;
use crate::support::creds::Who;
use crate::support::dial::dial;
use crate::support::netns::Netns;
use crate::support::rules::{Family, Variant, assert_same, dump};
use crate::support::wire::{HERE, THERE};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Case::all_for_each_variant(&[
        ("regressions::whole_families_scoped", whole_families_scoped),
        ("regressions::whole_families_classic", whole_families_classic),
        ("regressions::by_the_path", by_the_path),
    ]);
    cases.push(Case::new("regressions::misuse_as_json", misuse_as_json));
    cases.push(Case::new("regressions::nothing_to_capture", nothing_to_capture));
    cases
}

/// Whether the owner's connections to `there` are captured, IPv4 and IPv6, after a run with `flags`, whose repetition
/// does nothing.
#[track_caller]
fn captures(variant: Variant, flags: &'static str, who: Who, expected: [bool; 2]) -> Netns {
    let words = split(flags);
    let (here, there) = captured(variant, &words);
    let again = [&words[..], &variant.flags()].concat();
    mesh_init(&here, &again).code(0).says("nothing to do");
    assert_whole(flags, &status(&here), true);
    for (family, expected) in Family::BOTH.into_iter().zip(expected) {
        let dialled = dial(&here, who, THERE.port(family, 80));
        let seen = (dialled.is_captured_by("proxy"), dialled.is_untouched_to("there"));
        assert_eq!(seen, (expected, !expected), "{flags}: {dialled}");
    }
    there
}

fn whole_families_scoped(variant: Variant) {
    for (flags, expected) in [
        ("--uid-owner 1338 -x 0.0.0.0/0", [false, true]),
        ("--uid-owner 1338 -x ::/0", [true, false]),
        ("--uid-owner 1338 -i 0.0.0.0/0", [true, false]),
        ("--uid-owner 1338 -i ::/0", [false, true]),
        ("--uid-owner 1338 -i 0.0.0.0/0,::/0", [true, true]),
        ("--uid-owner 1338 -i 0.0.0.0/0,::/0 -x 0.0.0.0/0", [false, true]),
        ("--uid-owner 1338 -x 0.0.0.0/0,::/0", [false, false]),
        ("--uid-owner 1338 -i 0.0.0.0/0 -z 15006", [true, false]),
    ] {
        captures(variant, flags, OWNER, expected);
        let inbound = format!("{flags} --inbound 8001").leak();
        let there = captures(variant, inbound, OWNER, expected);
        let inbound = if flags.contains("-z") { "inbound" } else { "proxy" };
        for family in Family::BOTH {
            dial(&there, APP, HERE.port(family, 8001)).captured_by(inbound);
        }
    }
}

fn whole_families_classic(variant: Variant) {
    for (flags, expected) in [
        ("-p 15001 -u 1337 -i 0.0.0.0/0", [true, false]),
        ("-p 15001 -u 1337 -i ::/0", [false, true]),
        ("-p 15001 -u 1337 -i 0.0.0.0/0,::/0", [true, true]),
    ] {
        let there = captures(variant, flags, APP, expected);
        for family in Family::BOTH {
            dial(&there, APP, HERE.port(family, 8001)).captured_by("proxy");
        }
    }
}

fn by_the_path(variant: Variant) {
    let (inside, outside) = (foreign::namespace(), foreign::namespace());
    let (before, elsewhere) = (dump(&inside), dump(&outside));
    apply(&inside, variant, &split(CLASSIC));
    let path = inside.path();
    let path = path.to_str().expect("a name of ours");
    let seen = json_of(mesh_init(&outside, &["status", "--netns", path, "--output", "json"]).code(0));
    assert_eq!(seen, status(&inside), "seen from outside");
    assert_whole("from outside", &seen, true);
    assert_eq!(status(&outside)["captured"], false);
    mesh_init(&outside, &["clean", "--netns", path]).code(0).says("removed from");
    assert_same("cleaned from outside", &before, &dump(&inside));
    mesh_init(&outside, &["status", "--netns", path]).code(0).says("not captured");
    assert_same("the other namespace", &elsewhere, &dump(&outside));
}

fn misuse_as_json() {
    let netns = foreign::namespace();
    for line in [
        "status --bogus --output json",
        "--output=json --bogus",
        "clean -p 15001 --output json",
        "apply -p --output json",
        "--uid-owner 1338 status --output json",
        "-p nonsense --output json",
    ] {
        let run = mesh_init(&netns, &split(line)).code(64);
        let seen = json_of(run.clone());
        assert_eq!(seen["schema"], "mesh-init/error/v1", "{run}");
        assert_eq!(seen["exitCode"], 64, "{run}");
        assert!(seen["problems"][0]["problem"].is_string(), "{run}");
    }
}

fn nothing_to_capture() {
    let netns = foreign::namespace();
    let before = dump(&netns);
    for line in ["--host", "--wait 3", "--host --wait 3", "--output json"] {
        let run = mesh_init(&netns, &split(line)).code(64).says("Usage: mesh-init").says("Exit codes");
        assert_same(&format!("after {run}"), &before, &dump(&netns));
    }
}
