//! What `status` says as JSON: the very policy that made the rules, whether they are whole, and what they counted.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::foreign;
use crate::harness::Case;
use crate::scoped::{APP, OWNER, PROXY, VM, apply, captured, serve};
use crate::support::command::{Run, mesh_init};
use crate::support::dial::{Open, dial};
use crate::support::netns::Netns;
use crate::support::rules::{Family, Variant, assert_same, dump, restore, save};
use crate::support::wire::{HERE, THERE, two_hosts};

/// Flags whose rules say everything that the flags do.
const POLICIES: [&str; 23] = [
    "--uid-owner 1338",
    "--uid-owner 1338 --inbound 8001",
    "--uid-owner 1338 -z 15006",
    "--uid-owner 1338 -p 15002 -z 15006",
    "--uid-owner 1338 -z 15006 --inbound 8001",
    "--uid-owner 1338 --inbound 8001 -u @ -g 1337",
    "--uid-owner @ --inbound 8001 -i @",
    "--uid-owner 1338 --inbound * -z 15006 -p 15002",
    "--uid-owner 1338 --inbound * -d 9090,9100-9110",
    "--uid-owner 1338 --inbound 8001 -c eth+",
    "--uid-owner 1338 --inbound 22,8000-8010 -q 80,443-500 -o 9443,9000-9010",
    "--gid-owner 5000,5001",
    "--uid-owner 1338,1400 --gid-owner 5000 -u 1337,1401 -g 4000,4001 -c eth1,veth+",
    "--uid-owner 1338 -i 10.0.0.0/8,fd00::/8 -x 10.9.0.0/24,fd00:9::/64 -q 8080",
    "--uid-owner 1338 --inbound 8001 -i 10.0.0.0/8 -x 10.9.0.0/24",
    "-p 15001",
    "-p 15002 -u 1337,1338",
    "-p 15001 -u 1337,1338 -g 1340,1341",
    "-p 15001 -u @ -g 1337",
    "-p 15001 -u 1337 -i 10.0.0.0/24,10.7.0.1/32,fd00::/64",
    "-p 15001 -u 1337 -i @",
    "-p 15001 -u 1337 --ipv6 off",
    "--uid-owner 1338 --inbound 8001 --ipv6 off",
];

/// Flags that say more than their rules do: of what is not captured, nothing needs to be known.
const UNTOLD: [&str; 8] = [
    "--uid-owner @ --inbound 8001",
    "--uid-owner 1338 -i @ --inbound 8001 -u 1400 -g 1401",
    "--uid-owner 1338 -i @ --inbound * -d 9090 -z 15006",
    "--uid-owner 1338 -i 10.0.0.0/8",
    "--uid-owner 1338 -i ::/0",
    "--uid-owner 1338 -i 10.0.0.0/8 -x fd00:9::/64 --inbound 8001",
    "-p 15001 -u 1400 -i @",
    // The order of networks of different families.
    "-p 15001 -u 1337 -i fd00::/64,10.0.0.0/24",
];

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Case::all_for_each_variant(&[
        ("status::untold", untold),
        ("status::repaired", repaired),
        ("status::families_that_differ", families_that_differ),
        ("status::counters", counters),
        ("status::older_connections", older_connections),
    ]);
    cases.extend(Case::all_native(&[
        ("status::untold", untold),
        ("status::counters", counters),
        ("status::older_connections", older_connections),
    ]));
    let slow = Case::all_for_each_carrier(&[("status::policy", policy)]);
    cases.extend(slow.into_iter().map(|case| case.within(Duration::from_secs(120))));
    cases
}

/// The words of `flags`; `@` is an empty one.
pub(crate) fn split(flags: &'static str) -> Vec<&'static str> {
    flags.split(' ').map(|word| if word == "@" { "" } else { word }).collect()
}

#[track_caller]
pub(crate) fn json_of(run: Run) -> Value {
    serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}: expected JSON, seen {run}"))
}

#[track_caller]
pub(crate) fn status(netns: &Netns) -> Value {
    json_of(mesh_init(netns, &["status", "--output", "json"]).code(0))
}

#[track_caller]
pub(crate) fn assert_whole(what: &str, seen: &Value, whole: bool) {
    assert_eq!(
        (&seen["captured"], &seen["whole"]),
        (&json!(true), &json!(whole)),
        "{what}: expected `captured` and `whole: {whole}`, seen {seen:#}"
    );
}

/// What status says of a namespace captured with `flags`, and what was planned.
#[track_caller]
fn seen_and_planned(variant: Variant, flags: &'static str) -> (Value, Value) {
    let netns = foreign::namespace();
    let words = split(flags);
    apply(&netns, variant, &words);
    let seen = status(&netns);
    let planned = [&["plan", "--output", "json"], words.as_slice()].concat();
    let planned = json_of(mesh_init(&netns, &planned).code(0));
    assert_whole(flags, &seen, true);
    assert_eq!(seen["variant"], variant.full_name(), "{flags}");
    assert_eq!(seen["layout"], planned["layout"], "{flags}");
    (seen, planned)
}

fn policy(variant: Variant) {
    for flags in POLICIES {
        let (seen, planned) = seen_and_planned(variant, flags);
        let [seen_policy, planned_policy] = [&seen, &planned].map(|of| match variant {
            Variant::Legacy | Variant::Nft => of["policy"].clone(),
            // What is in sets has no order.
            Variant::Native => sorted(&of["policy"]),
        });
        assert_eq!(seen_policy, planned_policy, "{flags}: expected the policy as planned, seen {seen:#}");
    }
}

fn untold(variant: Variant) {
    for flags in UNTOLD {
        let (seen, planned) = seen_and_planned(variant, flags);
        assert_eq!(seen["policy"]["inbound"], planned["policy"]["inbound"], "{flags}: {seen:#}");
    }
}

/// Lists in one order, whatever it was.
fn sorted(of: &Value) -> Value {
    match of {
        Value::Array(list) => {
            let mut list: Vec<_> = list.iter().map(sorted).collect();
            list.sort_by_key(Value::to_string);
            Value::Array(list)
        }
        Value::Object(map) => map.iter().map(|(key, value)| (key.clone(), sorted(value))).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => of.clone(),
    }
}

/// Every rule of ours is missed, and the next run puts it back.
fn repaired(variant: Variant) {
    for flags in ["-p 15001 -u 1337 -g 1340", "--uid-owner 1338 --inbound 8001 -z 15006"] {
        let netns = foreign::namespace();
        let words = split(flags);
        apply(&netns, variant, &words);
        let whole = dump(&netns);
        for family in Family::BOTH {
            let saved = save(&netns, variant, family, &["-t", "nat"]);
            for rule in saved.lines().filter_map(|line| line.strip_prefix("-A ")) {
                restore(&netns, variant, family, &format!("*nat\n-D {rule}\nCOMMIT\n"));
                assert_whole(rule, &status(&netns), false);
                mesh_init(&netns, &["status"]).code(0).says("not whole");
                apply(&netns, variant, &words);
                assert_same(&format!("repaired after -D {rule}"), &whole, &dump(&netns));
                assert_whole(rule, &status(&netns), true);
            }
        }
    }
}

/// What a run leaves that was interrupted between the families.
fn families_that_differ(variant: Variant) {
    let pairs = [
        ("-p 15001 -u 1337", "-p 15002 -u 1338 -g 1340"),
        ("--uid-owner 1338 --inbound 8001", "--uid-owner 1400 --inbound 8002 -p 15002 -z 15006"),
        ("-p 15001 -u 1337", "--uid-owner 1400 --inbound 8002 -p 15002"),
        ("--uid-owner 1338 --inbound 8001", "-p 15002 -u 1338"),
    ];
    for (old, new) in pairs {
        for (family, name) in [(Family::V4, "IPv4"), (Family::V6, "IPv6")] {
            let netns = foreign::namespace();
            let (old, new) = (split(old), split(new));
            apply(&netns, variant, &old);
            let planned = [&["plan", "--live", "--output", "json"], new.as_slice()].concat();
            let planned = json_of(mesh_init(&netns, &planned).code(0));
            let transactions = planned["transactions"].as_array().expect("a list");
            for transaction in transactions.iter().filter(|of| of["family"] == name) {
                restore(&netns, variant, family, transaction["text"].as_str().expect("a text"));
            }
            let (what, seen) = (format!("{name} new, {old:?} to {new:?}"), status(&netns));
            assert_whole(&what, &seen, false);
            assert_eq!(seen["families"], json!(["IPv4", "IPv6"]), "{what}");
            let first = if family == Family::V4 { 15002 } else { 15001 };
            assert_eq!(seen["policy"]["proxy"]["port"], first, "{what}: {seen:#}");
            mesh_init(&netns, &["status"]).code(0).says("not whole");
            apply(&netns, variant, &new);
            assert_whole(&what, &status(&netns), true);
        }
    }
}

/// The packets of a clause.
#[track_caller]
pub(crate) fn packets(status: &Value, id: &str, family: Family) -> u64 {
    let family = if family == Family::V4 { "IPv4" } else { "IPv6" };
    let rules = status["rules"].as_array().expect("a list");
    let rule = rules.iter().find(|rule| rule["id"] == id && rule["family"] == family);
    let rule = rule.unwrap_or_else(|| panic!("expected {id} of {family}, seen {status:#}"));
    rule["packets"].as_u64().expect("a number")
}

fn counters(variant: Variant) {
    let flags = ["--uid-owner", "1338,1400", "--gid-owner", "5000", "--inbound", "8001", "-x", "10.9.0.0/24"];
    let (here, there) = captured(variant, &flags);
    let before = status(&here);
    for (family, times) in [(Family::V4, 3), (Family::V6, 2)] {
        for _ in 0..times {
            dial(&here, OWNER, THERE.port(family, 80)).captured_by("proxy");
        }
        // By its group: another rule of the same clause.
        dial(&here, APP.group(5000), THERE.port(family, 80)).captured_by("proxy");
        dial(&here, APP, THERE.port(family, 80)).untouched_to("there");
        for _ in 0..4 {
            dial(&there, APP, HERE.port(family, 8001)).captured_by("proxy");
        }
        for _ in 0..times + 2 {
            dial(&here, PROXY, THERE.port(family, 80)).untouched_to("there");
        }
    }
    let after = status(&here);
    for (family, times) in [(Family::V4, 3), (Family::V6, 2)] {
        let expected = [
            ("outbound.all", times + 1),
            ("inbound.port", 4),
            ("redirect.outbound", times + 5),
            ("proxy.uid", times + 2),
        ];
        for (id, expected) in expected {
            let delta = packets(&after, id, family) - packets(&before, id, family);
            assert_eq!(delta, expected, "{id} of {family:?}: {after:#}");
        }
    }
    assert_eq!(packets(&after, "outbound.exclude-cidr", Family::V4), 0, "{after:#}");
}

fn older_connections(variant: Variant) {
    for family in Family::BOTH {
        let (here, there) = two_hosts();
        serve(&here, &there);
        let mut outbound = Open::new(&here, OWNER, THERE.port(family, 80));
        let mut inbound = Open::new(&there, APP, HERE.port(family, 8001));
        // These would not be captured had they begun later.
        let unnamed = [(&here, APP, THERE.port(family, 80)), (&there, APP, HERE.port(family, 8002))];
        let _unnamed = unnamed.map(|(from, who, to)| Open::new(from, who, to));
        let words = VM.into_iter().chain(variant.flags()).chain(["--output", "json"]);
        let applied = json_of(mesh_init(&here, &words.collect::<Vec<_>>()).code(0));
        assert_eq!(applied["openConnections"], 2, "{applied:#}");
        let both = json!({ "outbound": 1, "inbound": 1 });
        assert_eq!(status(&here)["olderConnections"], both, "right after the capture");
        let newer = [(&here, OWNER, THERE.port(family, 80)), (&there, APP, HERE.port(family, 8001))];
        let _newer = newer.map(|(from, who, to)| Open::new(from, who, to));
        assert_eq!(status(&here)["olderConnections"], both, "beside newer ones");
        outbound.echo("still");
        inbound.echo("there");
        drop((outbound, inbound));
        // Both ends have to hear of it.
        let end = Instant::now() + Duration::from_secs(3);
        let none = json!({ "outbound": 0, "inbound": 0 });
        while status(&here)["olderConnections"] != none {
            assert!(Instant::now() < end, "expected none older, seen {:#}", status(&here));
            thread::sleep(Duration::from_millis(20));
        }
    }
}
