//! Annotations of somebody who means no good: never a rule nobody asked for, never slow, never a message without end.

use std::time::Duration;

use mesh_init::cni::decide::{Decision, decide};
use mesh_init::cni::netconf::NetConf;
use mesh_init::input::Faults;
use serde_json::json;

use super::{INJECTED, conf, conf_text, delivering, injected, pod};

/// The names that a pod's author may use.
const NAMES: [&str; 15] = [
    "sidecar.istio.io/interceptionMode",
    "sidecar.istio.io/inject",
    "inject.istio.io/templates",
    "traffic.sidecar.istio.io/includeOutboundIPRanges",
    "traffic.sidecar.istio.io/excludeOutboundIPRanges",
    "traffic.sidecar.istio.io/includeInboundPorts",
    "traffic.sidecar.istio.io/excludeInboundPorts",
    "traffic.sidecar.istio.io/includeOutboundPorts",
    "traffic.sidecar.istio.io/excludeOutboundPorts",
    "traffic.sidecar.istio.io/excludeInterfaces",
    "istio.io/reroute-virtual-interfaces",
    "proxy.istio.io/config",
    "mesh-init.io/policy",
    "mesh-init.io/proxy-uid",
    "sidecar.istio.io/status",
];

const LISTS: [&str; 8] = ["8", "80,", ",", "0,", "x,", "1.2.3.4/8,", "::1/9,", "e,"];

#[rustfmt::skip]
const TREES: [&str; 28] = [
    "[", "{", "[[],", "{a: ", "a: ", "- ", "? ", "\n", "&a ", "*a ", "!a ", "'", "\"", "%", "#", "\u{1F600}", "|\n", ">\n",
    "{\"a\":", "a\n", "-\n-", "\t", "a: b\n", "? a\n: b\n", "[a]: ", ": ", "{}, ", "\\",
];

/// What a decision may take of a build that is slow on purpose; the whole ADD has five seconds.
const QUICK: Duration = Duration::from_secs(1);
/// What may be said of one pod.
const TOLD: usize = 16 << 10;

/// The processor time of this thread: what others do meanwhile does not count.
pub(super) fn spent() -> Duration {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").expect("a kernel that counts");
    Duration::from_nanos(told.split(' ').next().unwrap().parse().unwrap())
}

#[track_caller]
fn timed(name: &str, text: &str) -> Decision {
    let selections = [conf(&json!({})), conf(&json!({ "selection": "annotation" }))];
    let mut decision = None;
    for conf in &selections {
        let facts = pod(&[INJECTED, ("mesh-init.io/capture", "enabled"), (name, text)]);
        let began = spent();
        let decided = decide(&facts, conf);
        let took = spent() - began;
        assert!(took < QUICK, "{name}: {} bytes took {took:?}", text.len());
        match &decided {
            Decision::Reject(faults) => bounded(name, faults),
            Decision::Capture(capture) => {
                let said = capture.request.warnings.join("\n");
                assert!(said.len() < TOLD, "{name}: {} bytes are said", said.len());
            }
            Decision::Skip(_) | Decision::Unknown(_) => {}
        }
        decision.get_or_insert(decided);
    }
    decision.unwrap()
}

fn bounded(name: &str, faults: &Faults) {
    let told = faults.to_string();
    assert!(told.len() < TOLD, "{name}: {} bytes are told", told.len());
    for line in told.lines() {
        assert!(!line.contains(char::is_control), "{name}: {line:?}");
    }
}

#[test]
fn words_of_a_rule_are_no_value() {
    let hostile = [
        "80\n-A OUTPUT -j ACCEPT",
        "80 -j ACCEPT",
        "-j ACCEPT",
        "*\nCOMMIT\n*filter\n-P INPUT DROP",
        "80\0",
        "\0",
        "\u{661}\u{662}",
        "\u{ff18}\u{ff10}",
        "10.0.0.0/8\n-j ACCEPT",
        "10.0.0.0/\u{668}",
        "eth0 -j ACCEPT",
        "$(reboot)",
        "80;443",
        "1337 -j ACCEPT",
        "\u{202e}08",
        "99999999999999999999999999",
        "{\"outbound\":{\"excludePorts\":[\"80 -j ACCEPT\"]}}",
        "proxyMetadata: {ISTIO_META_DNS_CAPTURE: \"true\\n-j ACCEPT\"}",
    ];
    // Those that are words of their own, which the selection reads, say nothing of rules.
    let words = ["sidecar.istio.io/inject", "inject.istio.io/templates", "sidecar.istio.io/status"];
    for name in NAMES {
        for text in hostile {
            let decision = timed(name, text);
            // YAML and JSON that are something else, or that nobody asks for, may pass; what passes is as without it.
            match decision {
                Decision::Reject(faults) => {
                    let said = faults.to_string();
                    assert!(said.contains(name), "{name} {text:?}: {said}");
                    assert!(!words.contains(&name), "{name} {text:?}: {said}");
                }
                Decision::Capture(capture) => {
                    let plain = super::captured(&injected(&[]), &conf(&json!({})));
                    assert_eq!(capture.request.policy, plain.request.policy, "{name} {text:?}");
                    let may = words.contains(&name) || name == "proxy.istio.io/config";
                    assert!(may, "{name} {text:?} passes");
                }
                Decision::Skip(_) | Decision::Unknown(_) => panic!("{name} {text:?}: {decision:?}"),
            }
        }
    }
}

#[test]
fn a_value_without_end_is_refused_by_its_length() {
    for name in NAMES {
        for unit in ["80,", "[", "\u{1F600}"] {
            let text = unit.repeat((10 << 20) / unit.len());
            let Decision::Reject(faults) = timed(name, &text) else { panic!("{name} {unit:?}") };
            let told = faults.to_string();
            assert!(
                told.contains(name) && told.contains("bytes long, and at most 262144 are read"),
                "{told}"
            );
        }
    }
    let many: String =
        (0..1_000_000).map(|n| format!("10.{}.{}.{}/32,", n >> 16, n >> 8 & 255, n & 255)).collect();
    for name in [
        "traffic.sidecar.istio.io/includeOutboundIPRanges",
        "traffic.sidecar.istio.io/excludeOutboundIPRanges",
    ] {
        let Decision::Reject(faults) = timed(name, many.trim_end_matches(',')) else { panic!("{name}") };
        assert_eq!(faults.list().len(), 1, "{faults}");
    }
    let policy = format!(
        r#"{{"outbound":{{"excludeCidrs":["{}"]}}}}"#,
        many.trim_end_matches(',').replace(',', "\",\"")
    );
    assert!(matches!(timed("mesh-init.io/policy", &policy), Decision::Reject(_)));
}

#[test]
fn what_is_just_short_enough_is_quick() {
    const MOST: usize = mesh_init::cni::annotations::LONGEST;
    let filled = |unit: &str| unit.repeat(MOST / unit.len());
    for name in NAMES {
        for unit in LISTS {
            timed(name, &filled(unit));
        }
    }
    // What opens, nests or names in JSON and YAML, each again and again.
    for name in ["proxy.istio.io/config", "mesh-init.io/policy", "sidecar.istio.io/status"] {
        for unit in TREES {
            timed(name, &filled(unit));
        }
    }
    // As many networks as fit, all with bits that are cut, are captured as they stand.
    let mut text = String::new();
    let mut count = 0;
    while text.len() < MOST - 24 {
        text += &format!("{}10.{}.{}.1/24", if count == 0 { "" } else { "," }, count >> 8, count & 255);
        count += 1;
    }
    let name = "traffic.sidecar.istio.io/excludeOutboundIPRanges";
    let Decision::Capture(capture) = timed(name, &text) else { panic!("{count} networks") };
    assert_eq!(capture.request.policy.outbound.exclude_cidrs.len(), count);
    assert!(capture.request.warnings.last().unwrap().starts_with("and "), "{:?}", capture.request.warnings);
}

#[test]
fn what_is_not_read_does_not_count() {
    let long = "x".repeat(10 << 20);
    let text = conf_text(&delivering(&json!({ INJECTED.0: INJECTED.1, "vendor.example/blob": long })));
    let began = spent();
    let conf = NetConf::parse(&text).unwrap();
    let facts = mesh_init::cni::pod::PodFacts { annotations: conf.annotations.clone(), ..pod(&[]) };
    super::captured(&facts, &conf);
    let took = spent() - began;
    assert!(took < QUICK, "{took:?}");
}
