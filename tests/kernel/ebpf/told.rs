//! What people are told of capture at the sockets: `explain --live`, `watch`, and what the policy did not foresee.

use std::net::SocketAddr;

use serde_json::Value;

use super::{Named, Pod, entries, serve_apps};
use crate::istio::{APP, PROXY};
use crate::support::command::{Run, mesh_init};
use crate::support::creds::Who;
use crate::support::dial::dial;
use crate::support::rules::Family;
use crate::support::wire::{HERE, LOOPBACK, THERE, THERE_FAR};

pub(super) const CASES: &[Named] = &[
    ("told::explain", explain),
    ("told::explain_beside_rules", explain_beside_rules),
    ("told::watch", watch),
    ("told::nobody_listens", nobody_listens),
    ("told::the_proxys_own_port", the_proxys_own_port),
    ("told::an_address_that_went", an_address_that_went),
];

const FLAGS: &str = "--layout istio -p 15001 -z 15006 -u 1337 -x 10.9.0.0/24,fd00:9::/64 -o 443 -d 22";

/// The answers of `explain --live` to these, as JSON.
#[track_caller]
fn asked(pod: &Pod, connections: &[String]) -> Value {
    let words: Vec<&str> = connections.iter().map(String::as_str).collect();
    let words = [&["explain", "--live", "--output", "json"], &words[..]].concat();
    serde_json::from_str(&mesh_init(&pod.here, &words).ok()).expect("JSON")
}

/// What is said becomes of connections, against what becomes of them.
fn explain() {
    let pod = Pod::new(FLAGS);
    let mut rows: Vec<(String, bool, &str)> = Vec::new();
    for family in Family::BOTH {
        for (who, to, clause) in [
            (APP, THERE.port(family, 80), "outbound.all"),
            (APP, THERE.port(family, 443), "outbound.exclude-port"),
            (APP, THERE_FAR.port(family, 80), "outbound.exclude-cidr"),
            (PROXY, THERE.port(family, 80), "proxy.uid"),
            (APP, LOOPBACK.port(family, 8080), "outbound.self"),
            (PROXY, HERE.port(family, 8080), "proxy.self"),
        ] {
            let captured = dial(&pod.here, who, to).answer.is_ok_and(|seen| is_proxys(&seen.name));
            let local = if to.ip() == HERE.ip(family) { "route=local " } else { "" };
            rows.push((format!("out tcp uid={} gid={} {local}{to}", who.uid, who.gid), captured, clause));
        }
        for (to, clause) in
            [(HERE.port(family, 80), "inbound.all"), (HERE.port(family, 22), "inbound.exclude-port")]
        {
            let captured = dial(&pod.there, APP, to).answer.is_ok_and(|seen| is_proxys(&seen.name));
            rows.push((format!("in tcp eth0 {} -> {to}", THERE.ip(family)), captured, clause));
        }
    }
    assert_eq!(rows.iter().filter(|(_, captured, _)| *captured).count(), 6, "{rows:?}");
    let questions: Vec<String> = rows.iter().map(|(question, ..)| question.clone()).collect();
    let answers = asked(&pod, &questions);
    let note = answers["notes"][0].as_str().expect("a note");
    assert!(note.starts_with("outbound, only sockets of control group "), "{note}");
    for ((question, captured, clause), answer) in
        rows.iter().zip(answers["answers"].as_array().expect("answers"))
    {
        assert_eq!(answer["outcome"]["verdict"] == "captured", *captured, "{question}: {answer:#}");
        assert_eq!(answer["by"]["clause"], *clause, "{question}: {answer:#}");
        let hook = if question.starts_with("in") { "sk_lookup" } else { "cgroup/connect" };
        assert!(answer["by"]["hook"].as_str().is_some_and(|of| of.starts_with(hook)), "{answer:#}");
    }
    mesh_init(
        &pod.here,
        &["explain", "--live", &format!("in tcp state=established {}", HERE.port(Family::V4, 80))],
    )
    .says("not captured")
    .says("no BPF program: the connection was open before");
}

fn is_proxys(name: &str) -> bool {
    name == "outbound" || name == "inbound"
}

/// Rules of others have their say where the programs let pass, and none where these have sent a connection to the proxy.
fn explain_beside_rules() {
    let pod = Pod::new(FLAGS);
    let there = THERE.ip(Family::V4);
    for (from, port) in [(THERE_FAR, 80), (THERE, 80)] {
        let from = from.ip(Family::V4);
        let rule =
            format!("-t nat -A OUTPUT -d {from} -p tcp --dport {port} -j DNAT --to-destination {there}:9090");
        Run::new(&pod.here, "iptables", &rule.split(' ').collect::<Vec<_>>()).ok();
    }
    let [excluded, captured] = [THERE_FAR, THERE].map(|to| to.port(Family::V4, 80));
    let seen = dial(&pod.here, APP, excluded).answer.expect("it is answered");
    assert_eq!((seen.name.as_str(), seen.local), ("there", SocketAddr::new(there, 9090)));
    dial(&pod.here, APP, captured).captured_by("outbound");
    let answers = asked(&pod, &[excluded, captured].map(|to| format!("out tcp uid=1000 {to}")));
    assert_eq!(answers["answers"][0]["outcome"]["to"], format!("{there}:9090"), "{answers:#}");
    assert_eq!(answers["answers"][1]["outcome"]["verdict"], "captured", "{answers:#}");
}

/// Counters of connections, and how many a second.
fn watch() {
    let pod = Pod::new(FLAGS);
    let calls = 7;
    for _ in 0..calls {
        dial(&pod.here, APP, THERE.port(Family::V4, 80)).captured_by("outbound");
    }
    let said = mesh_init(&pod.here, &["watch", "--count", "2", "--interval", "1"]).ok();
    let looks: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let [first, second] = looks.as_slice() else { panic!("two looks: {said}") };
    for (look, rate) in [(first, Value::Null), (second, 0.0.into())] {
        assert_eq!(look["captured"], true, "{look:#}");
        let counters = look["counters"].as_array().expect("counters");
        let all = counters.iter().find(|counter| counter["rule"] == "outbound.all").expect("it decided");
        assert_eq!(all["connections"], calls, "{look:#}");
        assert_eq!(all["connectionsPerSecond"], rate, "{look:#}");
        assert_eq!(look["surprises"].as_array().map(Vec::len), Some(0), "{look:#}");
    }
    pod.clean();
}

/// What happened, by its kind, of whom, and how often.
#[track_caller]
fn surprises(pod: &Pod) -> Vec<(String, String, u64, u64)> {
    let status: Value =
        serde_json::from_str(&mesh_init(&pod.here, &["status", "--output", "json"]).ok()).expect("JSON");
    let word = |of: &Value| of.as_str().expect("a word").to_owned();
    let number = |of: &Value| of.as_u64().expect("a number");
    let told = status["surprises"].as_array().expect("surprises").iter();
    let mut told: Vec<_> = told
        .map(|one| {
            assert!(number(&one["secondsAgo"]) < 60, "{one:#}");
            (word(&one["kind"]), word(&one["address"]), number(&one["port"]), number(&one["count"]))
        })
        .collect();
    told.sort();
    told
}

fn surprise(kind: &str, address: impl ToString, port: u64, count: u64) -> (String, String, u64, u64) {
    (kind.to_owned(), address.to_string(), port, count)
}

/// Who was refused, and at which port, is known of both families, and goes with the policy.
fn nobody_listens() {
    let pod = Pod::bare();
    serve_apps(&pod.here, &pod.there);
    pod.apply(FLAGS);
    assert_eq!(surprises(&pod), []);
    for family in Family::BOTH {
        for port in [80, 80, 8080] {
            dial(&pod.there, APP, HERE.port(family, port)).answer.expect_err("nobody listens for the proxy");
        }
    }
    let [v4, v6] = Family::BOTH.map(|family| THERE.ip(family));
    let mut expected = vec![
        surprise("noListener", v4, 80, 2),
        surprise("noListener", v4, 8080, 1),
        surprise("noListener", v6, 80, 2),
        surprise("noListener", v6, 8080, 1),
    ];
    expected.sort();
    assert_eq!(surprises(&pod), expected);
    let text = mesh_init(&pod.here, &["status"]).ok();
    assert!(text.contains(&format!("surprise: {v4} was refused at port 80")), "{text}");
    mesh_init(&pod.here, &["verify"]).says(&format!("{v6} was refused at port 80"));
    // Another policy does not forget them; no policy does.
    pod.apply("--layout istio -p 15001 -z 15006 -u 1337");
    assert_eq!(surprises(&pod), expected);
    let (here, _) = pod.second(FLAGS);
    mesh_init(&pod.here, &["clean"]).ok();
    assert_eq!(entries("SURPRISES"), 0);
    mesh_init(&here, &["clean"]).ok();
}

/// Who calls the proxy's port by itself was meant for nobody else.
fn the_proxys_own_port() {
    let pod = Pod::new(FLAGS);
    dial(&pod.here, APP, LOOPBACK.port(Family::V4, 8080)).untouched_to("here");
    assert_eq!(surprises(&pod), []);
    let seen = dial(&pod.here, PROXY, LOOPBACK.port(Family::V4, 15001)).answer.expect("it is answered");
    assert_eq!((seen.name.as_str(), seen.original), ("outbound", None));
    assert_eq!(surprises(&pod), [surprise("notCaptured", "127.0.0.1", 15001, 1)]);
}

/// An address that went after the policy was applied cannot be a source, and the call is captured all the same.
fn an_address_that_went() {
    let pod = Pod::new("--layout istio -p 15001 -z 15006 -u 1337");
    let seen = dial(&pod.here, APP, THERE_FAR.port(Family::V4, 80)).answer.expect("it is captured");
    let source = seen.peer.ip();
    assert!(!source.is_loopback(), "the host's own address: {seen:?}");
    pod.here.ip(&format!("address flush to {source}"));
    let seen = dial(&pod.here, Who::user(1001), THERE.port(Family::V4, 80)).answer.expect("it is captured");
    assert_eq!((seen.name.as_str(), seen.peer.ip()), ("outbound", LOOPBACK.ip(Family::V4)));
    assert_eq!(surprises(&pod), [surprise("noSource", source, 80, 1)]);
    mesh_init(&pod.here, &["status"]).says(&format!("could not have {source} as its source"));
}
