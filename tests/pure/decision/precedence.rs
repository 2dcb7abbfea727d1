//! Which of several sources wins, and that each value keeps its origin.

use mesh_init::input::Key;
use mesh_init::policy::{Destinations, Dns, Inbound, Layout};
use serde_json::{Value, json};

use super::{captured, conf, injected, pod, rejected};
use crate::policy::CapturePolicy;

fn policy(annotations: &[(&str, &str)], ours: &Value) -> CapturePolicy {
    captured(&injected(annotations), &conf(ours)).request.policy
}

#[test]
fn the_proxys_identity_is_that_of_the_nearest_source() {
    let from_conf = json!({ "policy": { "proxy": { "uids": [3], "gids": [33] } } });
    let whole = ("mesh-init.io/policy", r#"{"proxy":{"uids":[2],"gids":[22]}}"#);
    for (annotations, ours, want) in [
        (vec![], json!({}), "1337/1337"),
        (vec![], from_conf.clone(), "3/33"),
        (vec![whole], from_conf.clone(), "2/22"),
        (vec![("mesh-init.io/proxy-uid", "1"), whole], from_conf.clone(), "1/22"),
        (vec![("mesh-init.io/proxy-gid", " 11 "), whole], from_conf, "2/11"),
        (vec![("mesh-init.io/proxy-uid", "1"), ("mesh-init.io/proxy-gid", "11")], json!({}), "1/11"),
    ] {
        let proxy = policy(&annotations, &ours).proxy;
        assert_eq!(format!("{}/{}", proxy.uids[0], proxy.gids[0]), want, "{annotations:?} {ours}");
    }
}

#[test]
fn key_by_key_ours_wins_over_istios_over_the_configuration_over_the_defaults() {
    let ours = json!({ "policy": {
        "outbound": { "excludePorts": [3], "excludeCidrs": ["10.3.0.0/16"] },
        "interfaces": { "exclude": ["eth3"] }, "inbound": { "excludePorts": [3] }, "proxy": { "port": 15003 },
    }});
    let istio = [
        ("traffic.sidecar.istio.io/excludeOutboundPorts", "2"),
        ("traffic.sidecar.istio.io/excludeOutboundIPRanges", "10.2.0.0/16"),
    ];
    let whole = ("mesh-init.io/policy", r#"{"outbound":{"excludePorts":[1]}}"#);
    let capture = captured(&injected(&[istio[0], istio[1], whole]), &conf(&ours));
    let policy = &capture.request.policy;
    assert_eq!(policy.outbound.exclude_ports.to_string(), "1");
    assert_eq!(policy.outbound.exclude_cidrs[0].to_string(), "10.2.0.0/16");
    assert_eq!(policy.interfaces.exclude[0].as_str(), "eth3");
    assert_eq!(policy.proxy.port.number(), 15003);
    assert_eq!(policy.proxy.inbound_port.number(), 15006);
    let Inbound::AllExcept(excluded) = &policy.inbound else { panic!("{policy}") };
    assert_eq!(excluded.to_string(), "3,15020,15021,15090");
    for (key, origin) in [
        (Key::ExcludeOutboundPort, "annotation mesh-init.io/policy outbound.excludePorts[0]"),
        (Key::ExcludeOutboundCidr, "annotation traffic.sidecar.istio.io/excludeOutboundIPRanges"),
        (Key::ExcludeInterface, "netconf policy.interfaces.exclude[0]"),
        (Key::InboundCapturePort, "default"),
    ] {
        assert_eq!(capture.given.first(key).unwrap().origin.to_string(), origin);
    }
}

#[test]
fn destinations_of_ours_are_not_widened_by_what_the_injector_writes() {
    let written = ("traffic.sidecar.istio.io/includeOutboundIPRanges", "*");
    for (whole, want) in [
        (r#"{"outbound":{"ports":[80]}}"#, "to port 80"),
        (r#"{"outbound":{"cidrs":["10.0.0.0/8"]}}"#, "to 10.0.0.0/8"),
        (r#"{"outbound":{"cidrs":[]}}"#, "to none"),
        (r#"{"outbound":{"excludePorts":[80]}}"#, "to anywhere"),
    ] {
        for annotations in
            [vec![("mesh-init.io/policy", whole)], vec![("mesh-init.io/policy", whole), written]]
        {
            let told = policy(&annotations, &json!({})).to_string();
            assert!(told.contains(want), "{annotations:?}: {told}");
        }
    }
    let ports = policy(&[], &json!({ "policy": { "outbound": { "ports": [80] } } }));
    assert!(matches!(ports.outbound.destinations, Destinations::Some { .. }), "{ports}");
}

#[test]
fn what_a_pod_says_makes_what_the_configuration_says_moot_and_not_wrong() {
    let dns = |words: &str| format!("proxyMetadata: {{ISTIO_META_DNS_CAPTURE: \"{words}\"}}");
    let (on, off) = (dns("true"), dns("false"));
    let servers =
        json!({ "policy": { "dns": { "redirect": true, "servers": ["10.0.0.53"], "port": 5353 } } });
    let all = json!({ "policy": { "dns": { "redirect": true, "all": true, "port": 5353 } } });
    assert!(matches!(policy(&[], &servers).dns, Dns::Servers { .. }));
    for ours in [&servers, &all] {
        let with = |config: &str| policy(&[("proxy.istio.io/config", config)], ours).dns;
        assert!(matches!(with(&on), Dns::All { port } if port.number() == 5353));
        assert_eq!(with(&off), Dns::Off);
    }
    let named = r#"{"dns":{"servers":["10.0.0.54"]}}"#;
    assert!(matches!(policy(&[("mesh-init.io/policy", named)], &all).dns, Dns::Servers { .. }));
    let excluded = json!({ "policy": { "inbound": { "excludePorts": [9000] } } });
    let narrow = policy(&[("traffic.sidecar.istio.io/includeInboundPorts", "80")], &excluded);
    assert!(matches!(&narrow.inbound, Inbound::Only(ports) if ports.to_string() == "80"), "{narrow}");
    let only = json!({ "policy": { "inbound": { "ports": [80] } } });
    let narrow = policy(&[("traffic.sidecar.istio.io/excludeInboundPorts", "90")], &only);
    assert!(matches!(&narrow.inbound, Inbound::Only(ports) if ports.to_string() == "80"), "{narrow}");
    let plain = json!({ "selection": "annotation", "policy": { "inbound": { "excludePorts": [9000] } } });
    let capture = captured(&pod(&[("mesh-init.io/policy", r#"{"inbound":{"ports":[80]}}"#)]), &conf(&plain));
    assert!(matches!(&capture.request.policy.inbound, Inbound::Only(ports) if ports.to_string() == "80"));
}

#[test]
fn without_istio_a_policy_means_what_it_means_in_a_file() {
    let ours = conf(&json!({ "selection": "annotation" }));
    let capture = captured(&pod(&[("mesh-init.io/policy", r#"{"proxy":{"port":15011}}"#)]), &ours);
    assert_eq!(capture.request.layout, Layout::Classic);
    assert_eq!(capture.request.policy.proxy.inbound_port.number(), 15011);
    // Istio's words count wherever they stand.
    let both =
        [("mesh-init.io/capture", "enabled"), ("traffic.sidecar.istio.io/excludeOutboundPorts", "5432")];
    let capture = captured(&pod(&both), &ours);
    assert_eq!(capture.request.layout, Layout::Istio);
    assert_eq!(capture.request.policy.outbound.exclude_ports.to_string(), "5432");
    assert_eq!(capture.request.policy.proxy.inbound_port.number(), 15006);
}

#[test]
fn mode_none_is_that_of_the_nearest_source() {
    use mesh_init::cni::decide::{Decision, Skip, decide};
    let none = ("sidecar.istio.io/interceptionMode", "NONE");
    let whole = ("mesh-init.io/policy", r#"{"mode":"REDIRECT"}"#);
    captured(&injected(&[none, whole]), &conf(&json!({})));
    captured(&injected(&[whole]), &conf(&json!({ "policy": { "mode": "NONE" } })));
    // A mode that cannot be read is not made good by a weaker one.
    let wrong = injected(&[("sidecar.istio.io/interceptionMode", "redirect")]);
    let faults = rejected(&wrong, &conf(&json!({ "policy": { "mode": "NONE" } })));
    assert!(faults.to_string().contains("\"redirect\" is not an interception mode"), "{faults}");
    for (annotations, ours) in [
        (vec![("mesh-init.io/policy", r#"{"mode":"none"}"#)], json!({})),
        (vec![], json!({ "policy": { "mode": "NONE" } })),
        (vec![none, ("traffic.sidecar.istio.io/includeInboundPorts", "x")], json!({})),
    ] {
        let decision = decide(&injected(&annotations), &conf(&ours));
        assert!(matches!(decision, Decision::Skip(Skip::ModeNone(_))), "{annotations:?}: {decision:?}");
    }
}
