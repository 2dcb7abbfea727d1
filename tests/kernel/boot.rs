//! The commands of the systemd units, as they stand there: capture at boot, and its repair.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::foreign;
use crate::harness::Case;
use crate::privilege::with_only;
use crate::scoped::{APP, OWNER, apply, serve};
use crate::status::{assert_whole, status};
use crate::support::command::{Run, mesh_init};
use crate::support::dial::dial;
use crate::support::netns::Netns;
use crate::support::rules::{Family, Variant, assert_same, dump};
use crate::support::wire::{HERE, THERE, two_hosts};
use crate::verify_repair::{counted_rules, flush_by_iptables};

pub(crate) fn cases() -> Vec<Case> {
    Case::all_for_each_variant(&[
        ("boot::a_life", a_life),
        ("boot::verify_restores", verify_restores),
        ("boot::reload", reload),
    ])
}

const UNITS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/systemd");
/// Where the policy of the test is.
const POLICY: &str = "/run/policy.json";

/// A unit file: the values of each key, in their order.
struct Unit(BTreeMap<String, Vec<String>>);

impl Unit {
    fn read(name: &str) -> Self {
        let path = Path::new(UNITS).join(name);
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut keys: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let lines = text.lines().filter(|line| !line.starts_with(['#', '[']));
        for (key, value) in lines.filter_map(|line| line.split_once('=')) {
            keys.entry(key.to_owned()).or_default().push(value.to_owned());
        }
        Self(keys)
    }

    fn one(&self, key: &str) -> &str {
        let values = self.0.get(key).map(Vec::as_slice).unwrap_or_default();
        assert_eq!(values.len(), 1, "{key}: expected one, seen {values:?}");
        &values[0]
    }

    /// Runs the command of `key` with the capabilities that the unit leaves, from the built program and the test's
    /// policy.
    #[track_caller]
    fn run(&self, key: &str, netns: &Netns, variant: Variant) -> Run {
        let words: Vec<_> = self.one(key).split(' ').collect();
        assert_eq!(words.first(), Some(&"/usr/local/bin/mesh-init"), "{key}");
        let place =
            |word: &&str| if *word == "/etc/mesh-init/policy.json" { POLICY } else { *word }.to_owned();
        let args: Vec<String> = words[1..].iter().map(place).collect();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let bound: Vec<_> = self
            .one("CapabilityBoundingSet")
            .split(' ')
            .map(|name| name.strip_prefix("CAP_").expect("a capability").to_lowercase())
            .collect();
        let bound: Vec<&str> = bound.iter().map(String::as_str).collect();
        // As /etc/default/mesh-init would name it.
        with_only(netns, &bound, &args).env("MESH_INIT_IPTABLES_VARIANT", variant.name()).run()
    }
}

/// The policy of the repository, for this test.
fn write_policy() {
    let text = fs::read_to_string(Path::new(UNITS).join("policy.json")).expect("policy.json");
    let policy: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(policy["schema"], "mesh-init/policy/v1");
    fs::write(POLICY, text).expect("a file");
}

/// What policy.json says is captured, or not.
#[track_caller]
fn assert_captured(here: &Netns, there: &Netns, captured: bool) {
    for family in Family::BOTH {
        let out = dial(here, OWNER, THERE.port(family, 80));
        let into = dial(there, APP, HERE.port(family, 8001));
        for dialled in [out, into] {
            assert_eq!(dialled.is_captured_by("proxy"), captured, "{dialled}");
        }
        dial(here, APP, THERE.port(family, 80)).untouched_to("there");
    }
}

/// Started, verified, stopped.
fn a_life(variant: Variant) {
    write_policy();
    let (unit, verify) = (Unit::read("mesh-init.service"), Unit::read("mesh-init-verify.service"));
    let (here, there) = two_hosts();
    serve(&here, &there);
    let before = dump(&here);
    unit.run("ExecStart", &here, variant).code(0).says("\nchanged ");
    assert_captured(&here, &there, true);
    assert_whole("after the start", &status(&here), true);
    let (rules, all) = (counted_rules(&here), dump(&here));
    for _ in 0..2 {
        let run = verify.run("ExecStart", &here, variant).code(0);
        assert!(!run.stdout.contains("repaired"), "{run}");
    }
    unit.run("ExecStart", &here, variant).code(0).says("nothing to do");
    assert_same("rules and counters", &rules, &counted_rules(&here));
    assert_same("everything else", &all, &dump(&here));
    unit.run("ExecStop", &here, variant).code(0).says("removed from");
    assert_captured(&here, &there, false);
    assert_same("after the stop", &before, &dump(&here));
}

/// Flushed by another program, and back after the next run of the timer.
fn verify_restores(variant: Variant) {
    write_policy();
    let (unit, verify) = (Unit::read("mesh-init.service"), Unit::read("mesh-init-verify.service"));
    let (here, there) = two_hosts();
    serve(&here, &there);
    unit.run("ExecStart", &here, variant).code(0);
    let whole = dump(&here);
    for flush in [
        (|netns, variant| flush_by_iptables(netns, variant)) as fn(&Netns, Variant),
        |netns, variant| match variant {
            Variant::Nft | Variant::Native => drop(Run::new(netns, "nft", &["flush", "ruleset"]).ok()),
            Variant::Legacy => drop(Run::new(netns, "iptables-legacy", &["-t", "nat", "-F", "OUTPUT"]).ok()),
        },
        |netns, variant| {
            let text = "*nat\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n";
            Run::with_input(netns, &variant.program(Family::V6, "restore"), &[], text).ok();
        },
    ] {
        flush(&here, variant);
        let uncaptured = Family::BOTH
            .iter()
            .filter(|family| !dial(&here, OWNER, THERE.port(**family, 80)).is_captured_by("proxy"));
        assert!(uncaptured.count() > 0, "expected a flush to matter");
        verify.run("ExecStart", &here, variant).code(0).says("repaired: ");
        assert_captured(&here, &there, true);
        assert_same("after the repair", &whole, &dump(&here));
        let run = verify.run("ExecStart", &here, variant).code(0);
        assert!(!run.stdout.contains("repaired"), "{run}");
    }
}

/// Another policy in the file, and the file gone.
fn reload(variant: Variant) {
    write_policy();
    let (unit, verify) = (Unit::read("mesh-init.service"), Unit::read("mesh-init-verify.service"));
    let netns = foreign::namespace();
    unit.run("ExecStart", &netns, variant).code(0);
    let first = dump(&netns);
    let text = fs::read_to_string(POLICY).expect("the policy").replace("8001", "8002");
    fs::write(POLICY, text).expect("a file");
    unit.run("ExecReload", &netns, variant).code(0).says("\nchanged ");
    let alone = foreign::namespace();
    apply(&alone, variant, &["--uid-owner", "1338", "--inbound", "8002"]);
    assert_same("after the reload", &dump(&alone), &dump(&netns));
    verify.run("ExecStart", &netns, variant).code(0);
    write_policy();
    // Who verifies by the file makes what it says.
    verify.run("ExecStart", &netns, variant).code(0).says("repaired: ");
    assert_same("after the old file", &first, &dump(&netns));
    fs::remove_file(POLICY).expect("a file of ours");
    for (unit, key) in [(&unit, "ExecReload"), (&verify, "ExecStart")] {
        let run = unit.run(key, &netns, variant);
        assert!(run.code.is_some_and(|code| [64, 69].contains(&code)), "expected a refusal, seen {run}");
    }
    assert_same("without a policy", &first, &dump(&netns));
    mesh_init(&netns, &["clean"]).code(0);
}
