//! Istio's annotations against what its plugin makes of them.
//!
//! The expected side is by hand: the flags of `istio-iptables` that upstream's plugin would call for, read by our own
//! `istio-iptables`. What the two share ends at the table of options.

use mesh_init::input::Faults;
use mesh_init::input::istio::{FLAGS, parse};
use mesh_init::policy::istio::call;
use mesh_init::policy::{Destinations, Facts, Ipv6, Layout};
use serde_json::json;

use super::{captured, conf, injected, rejected};
use crate::policy::CapturePolicy;

const T: &str = "traffic.sidecar.istio.io/";

/// The policy of a call of `istio-iptables`.
fn upstream(flags: &str) -> CapturePolicy {
    let words: Vec<&str> = flags.split(' ').collect();
    let lookup = |long: &str| {
        let short = FLAGS.iter().find(|flag| flag.long == long)?.short.map(|short| format!("-{short}"));
        let at =
            words.iter().position(|word| Some(*word) == short.as_deref() || *word == format!("--{long}"))?;
        let value = words.get(at + 1).copied().filter(|word| !word.starts_with("--")).unwrap_or("true");
        Some(vec![value.trim_matches('\'').to_owned()])
    };
    let mut faults = Faults::default();
    let given = parse(lookup, &[], &mut faults);
    let mut policy = call(&given, Default::default(), &Facts::default(), faults).unwrap().request.policy;
    // Wherever there is IPv6.
    policy.ipv6 = Ipv6::Auto;
    // Ports beside everything say no more.
    if let Destinations::All { ports } = &mut policy.outbound.destinations {
        *ports = Default::default();
    }
    policy
}

const FIXED: &str = "-p 15001 -z 15006 -e 15008 -u 1337 -g 1337";

#[test]
fn annotations_mean_what_upstreams_plugin_makes_of_them() {
    let cases: &[(&[(&str, &str)], &str)] = &[
        // Nothing: every default.
        (&[], "-m REDIRECT -i * -x '' -b * -d 15020,15021,15090 -o 15020"),
        (&[("interceptionMode", "REDIRECT")], "-m REDIRECT -i * -b * -d 15020,15021,15090 -o 15020"),
        (&[("interceptionMode", "TPROXY")], "-m TPROXY -i * -b * -d 15020,15021,15090 -o 15020"),
        // Outbound networks.
        (&[("includeOutboundIPRanges", "*")], "-i * -b * -d 15020,15021,15090 -o 15020"),
        (&[("includeOutboundIPRanges", "")], "-i '' -b * -d 15020,15021,15090 -o 15020"),
        (
            &[("includeOutboundIPRanges", "10.0.0.0/8,fd00::/8")],
            "-i 10.0.0.0/8,fd00::/8 -b * -d 15020,15021,15090 -o 15020",
        ),
        (
            &[("excludeOutboundIPRanges", "10.96.0.1/32")],
            "-i * -x 10.96.0.1/32 -b * -d 15020,15021,15090 -o 15020",
        ),
        (&[("excludeOutboundIPRanges", "")], "-i * -b * -d 15020,15021,15090 -o 15020"),
        // Inbound ports: none is not the default, and exclusions need everything.
        (&[("includeInboundPorts", "")], "-i * -b '' -o 15020"),
        (&[("includeInboundPorts", "  ")], "-i * -b '' -o 15020"),
        (&[("includeInboundPorts", "8080, 9090")], "-i * -b 8080,9090 -o 15020"),
        (&[("includeInboundPorts", "8080"), ("excludeInboundPorts", "9090")], "-i * -b 8080 -o 15020"),
        (&[("includeInboundPorts", "0")], "-i * -b '' -o 15020"),
        (&[("includeInboundPorts", "0080,\n443")], "-i * -b 80,443 -o 15020"),
        (&[("includeInboundPorts", "15006,80,15001")], "-i * -b 15006,80,15001 -o 15020"),
        // The three are always appended, in order, each once.
        (&[("excludeInboundPorts", "")], "-i * -b * -d 15020,15021,15090 -o 15020"),
        (&[("excludeInboundPorts", "9090")], "-i * -b * -d 9090,15020,15021,15090 -o 15020"),
        (&[("excludeInboundPorts", " 15090 ,22")], "-i * -b * -d 15090,22,15020,15021 -o 15020"),
        // Outbound ports.
        (&[("excludeOutboundPorts", "")], "-i * -b * -d 15020,15021,15090"),
        (&[("excludeOutboundPorts", "3306,5432")], "-i * -b * -d 15020,15021,15090 -o 3306,5432"),
        (
            &[("includeOutboundIPRanges", "10.0.0.0/8"), ("includeOutboundPorts", "80,443")],
            "-i 10.0.0.0/8 -q 80,443 -b * -d 15020,15021,15090 -o 15020",
        ),
        (&[("includeOutboundPorts", "80")], "-i * -q 80 -b * -d 15020,15021,15090 -o 15020"),
        (
            &[("includeOutboundIPRanges", ""), ("includeOutboundPorts", "80")],
            "-i '' -q 80 -b * -d 15020,15021,15090 -o 15020",
        ),
        // Interfaces: the newer name wins, even if it is empty.
        (&[("excludeInterfaces", "eth1,net1.5")], "-i * -b * -d 15020,15021,15090 -o 15020 -c eth1,net1.5"),
        (&[("kubevirtInterfaces", "k6t-eth0")], "-i * -b * -d 15020,15021,15090 -o 15020 -k k6t-eth0"),
        (
            &[("kubevirtInterfaces", "k6t-eth0"), ("reroute", "tap0")],
            "-i * -b * -d 15020,15021,15090 -o 15020 -k tap0",
        ),
        (&[("kubevirtInterfaces", "k6t-eth0"), ("reroute", "")], "-i * -b * -d 15020,15021,15090 -o 15020"),
        // The proxy's environment.
        (
            &[("config", "proxyMetadata:\n  ISTIO_META_DNS_CAPTURE: \"true\"\n")],
            "-i * -b * -d 15020,15021,15090 -o 15020 --redirect-dns --capture-all-dns",
        ),
        (
            &[(
                "config",
                "concurrency: 2\nproxyMetadata: {ISTIO_META_DNS_CAPTURE: 't', INVALID_DROP: \"1\"}",
            )],
            "-i * -b * -d 15020,15021,15090 -o 15020 --redirect-dns --capture-all-dns --drop-invalid",
        ),
        (
            &[(
                "config",
                "proxyMetadata:\n  ISTIO_META_DNS_CAPTURE: \"yes\"\n  ISTIO_DUAL_STACK: \"true\"\n",
            )],
            "-i * -b * -d 15020,15021,15090 -o 15020",
        ),
        (
            &[("config", "proxy_metadata:\n  ISTIO_META_DNS_CAPTURE: \"true\"\n")],
            "-i * -b * -d 15020,15021,15090 -o 15020 --redirect-dns --capture-all-dns",
        ),
        (&[("config", "")], "-i * -b * -d 15020,15021,15090 -o 15020"),
        (&[("config", "holdApplicationUntilProxyStarts: true")], "-i * -b * -d 15020,15021,15090 -o 15020"),
        (
            &[("config", r#"{"proxyMetadata": {"INVALID_DROP": "true"}}"#)],
            "-i * -b * -d 15020,15021,15090 -o 15020 --drop-invalid",
        ),
    ];
    for (annotations, flags) in cases {
        let named = full(annotations);
        let named: Vec<(&str, &str)> = named.iter().map(|(name, text)| (name.as_str(), *text)).collect();
        let capture = captured(&injected(&named), &conf(&json!({})));
        assert_eq!(capture.request.layout, Layout::Istio, "{annotations:?}");
        assert_eq!(capture.request.policy, upstream(&format!("{FIXED} {flags}")), "{annotations:?}");
    }
}

/// The whole names.
fn full<'a>(annotations: &[(&'a str, &'a str)]) -> Vec<(String, &'a str)> {
    let name = |short: &str| match short {
        "interceptionMode" => "sidecar.istio.io/interceptionMode".to_owned(),
        "reroute" => "istio.io/reroute-virtual-interfaces".to_owned(),
        "config" => "proxy.istio.io/config".to_owned(),
        traffic => format!("{T}{traffic}"),
    };
    annotations.iter().map(|(short, text)| (name(short), *text)).collect()
}

#[test]
fn what_upstream_refuses_is_refused_by_name() {
    let cases: &[(&str, &str, &str)] = &[
        ("interceptionMode", "redirect", "annotation sidecar.istio.io/interceptionMode: \"redirect\""),
        ("interceptionMode", "", "annotation sidecar.istio.io/interceptionMode"),
        ("interceptionMode", "TPROXY ", "\"TPROXY \" is not an interception mode"),
        ("includeOutboundIPRanges", "10.0.0.1", "includeOutboundIPRanges: \"10.0.0.1\" is not a network"),
        ("includeOutboundIPRanges", "10.0.0.0/8, 10.1.0.0/16", "\" 10.1.0.0/16\" is not a network"),
        ("includeOutboundIPRanges", "*,10.0.0.0/8", "\"*\" is not a network"),
        ("includeOutboundIPRanges", "10.0.0.0/08", "\"10.0.0.0/08\" is not a network"),
        ("includeOutboundIPRanges", "10.0.0.0/8,", "\"\" is not a network"),
        ("includeOutboundIPRanges", " ", "\" \" is not a network"),
        ("excludeOutboundIPRanges", "\n", "is not a network"),
        ("excludeOutboundIPRanges", "*", "excludeOutboundIPRanges: \"*\" is not a network"),
        ("includeInboundPorts", "http", "includeInboundPorts: \"http\" is not a port"),
        ("includeInboundPorts", "80,", "\"\" is not a port"),
        ("includeInboundPorts", "80-90", "\"80-90\" is not a port"),
        ("includeInboundPorts", "80:90", "\"80:90\" is not a port"),
        ("includeInboundPorts", "65536", "\"65536\" is not a port"),
        ("includeInboundPorts", "+80", "\"+80\" is not a port"),
        ("includeInboundPorts", "*,80", "\"*\" cannot stand for all ports here"),
        ("includeInboundPorts", " *", "\" *\" cannot stand for all ports here"),
        ("excludeInboundPorts", "*", "excludeInboundPorts: \"*\" cannot stand for all ports here"),
        ("includeOutboundPorts", "*", "includeOutboundPorts: \"*\" cannot stand for all ports here"),
        ("excludeOutboundPorts", "*", "excludeOutboundPorts: \"*\" cannot stand for all ports here"),
        ("excludeInterfaces", "eth0, eth1", "\" eth1\" is not an interface's name"),
        ("excludeInterfaces", "  ", "\"  \" is not an interface's name"),
        ("excludeInterfaces", "0eth", "\"0eth\" is not an interface's name"),
        ("excludeInterfaces", "veth+", "\"veth+\" is not an interface's name"),
        ("kubevirtInterfaces", "sixteen-letters-", "kubevirtInterfaces: \"sixteen-letters-\""),
        ("reroute", "a b", "annotation istio.io/reroute-virtual-interfaces: \"a b\""),
        ("config", "proxyMetadata: [a]", "proxy.istio.io/config proxyMetadata: is not a mapping"),
        ("config", "proxy_metadata: [a]", "proxy.istio.io/config proxyMetadata: is not a mapping"),
        ("config", "proxyMetadata: {}\nproxy_metadata: {}", "has proxyMetadata twice"),
        ("config", "proxyMetadata: {", "annotation proxy.istio.io/config: is not YAML"),
        ("config", "a: &x {}\nproxyMetadata: *x", "has an alias"),
        ("config", "- a", "is not one mapping"),
    ];
    for (name, text, says) in cases {
        let named = full(&[(name, text)]);
        let faults = rejected(&injected(&[(&named[0].0, named[0].1)]), &conf(&json!({})));
        assert!(faults.to_string().contains(says), "{name} {text:?}:\n{faults}");
        assert_eq!(faults.list().len(), 1, "{name} {text:?}:\n{faults}");
    }
}

#[test]
fn every_fault_is_told_at_once() {
    let wrong = [
        ("sidecar.istio.io/interceptionMode", "x"),
        ("traffic.sidecar.istio.io/includeInboundPorts", "a,b"),
        ("traffic.sidecar.istio.io/excludeOutboundIPRanges", "c"),
        ("mesh-init.io/proxy-uid", "d"),
        ("mesh-init.io/policy", r#"{"outbound":{"excludePorts":["e"]}}"#),
    ];
    let told = rejected(&injected(&wrong), &conf(&json!({}))).to_string();
    for value in ["\"x\"", "\"a\"", "\"b\"", "\"c\"", "\"d\"", "\"e\""] {
        assert!(told.contains(value), "{value} missing in\n{told}");
    }
    assert!(told.contains("annotation mesh-init.io/policy outbound.excludePorts[0]: \"e\""), "{told}");
}

#[test]
fn what_has_no_effect_is_said() {
    for (name, text, says) in [
        ("traffic.sidecar.istio.io/includeInboundPorts", "0,80", "port 0 is in no packet"),
        (
            "traffic.sidecar.istio.io/includeInboundPorts",
            "80,15006",
            "includeInboundPorts: 15006 is where captured traffic goes",
        ),
        ("traffic.sidecar.istio.io/excludeOutboundPort", "80", "is none of Istio's"),
        ("proxy.istio.io/config", "proxyMetadata: {INVALID_DROP: maybe}", "\"maybe\" is not true or false"),
        (
            "proxy.istio.io/config",
            "proxyMetadata: {PROXY_UID: \"5\"}",
            "proxyMetadata.PROXY_UID: has no effect",
        ),
    ] {
        let capture = captured(&injected(&[(name, text)]), &conf(&json!({})));
        let told = capture.request.warnings.join("\n");
        assert!(told.contains(says), "{name} {text:?}:\n{told}");
    }
    let both = [
        ("traffic.sidecar.istio.io/includeInboundPorts", "80"),
        ("traffic.sidecar.istio.io/excludeInboundPorts", "90"),
    ];
    let told = captured(&injected(&both), &conf(&json!({}))).request.warnings.join("\n");
    assert!(
        told.contains("excludeInboundPorts: has no effect unless all inbound ports are captured"),
        "{told}"
    );
}
