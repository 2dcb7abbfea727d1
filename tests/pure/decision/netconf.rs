//! The network configuration on stdin.

use mesh_init::cni::netconf::{
    Attachment, EXCLUDED_NAMESPACES, LOG_FILE, NetConf, OnMissing, Selection, Standard,
};
use mesh_init::cni::pod::{Annotations, CAPABILITY};
use mesh_init::policy::settings::Variant;
use serde_json::{Value, json};

use super::hostile::spent;
use super::{captured, conf, conf_text, delivering, pod, refused};

#[test]
fn defaults() {
    let conf = conf(&json!({}));
    assert_eq!(conf.standard.cni_version, "1.0.0");
    assert_eq!(conf.standard.name, "k8s-pod-network");
    assert_eq!(conf.standard.plugin, "mesh-init");
    assert_eq!(conf.selection, Selection::Istio);
    assert_eq!(conf.exclude_namespaces, EXCLUDED_NAMESPACES);
    assert_eq!(conf.on_missing_annotations, OnMissing::Fail);
    assert_eq!(conf.annotations, Annotations::Absent);
    assert_eq!(conf.log_file.as_deref(), Some(LOG_FILE.as_ref()));
    assert_eq!(conf.log_level, tracing::Level::INFO);
    assert_eq!(conf.agent_socket, None);
    assert!(conf.standard.prev_result.is_none() && conf.standard.valid_attachments.is_none());
    assert_eq!(Standard::parse(b"{}").unwrap().cni_version, "0.1.0");
    assert_eq!(Standard::parse(br#"{"cniVersion":""}"#).unwrap().cni_version, "0.1.0");
}

#[test]
fn what_the_specification_has_is_tolerated_and_everything_of_ours_is_read() {
    let conf = conf(&json!({
        "capabilities": { CAPABILITY: true }, "ipam": {}, "dns": {}, "args": { "cni": {} }, "ipMasq": true,
        "cni.dev/anything": [1], "runtimeConfig": { "portMappings": [{ "hostPort": 1 }], "dns": null },
        "selection": "all", "excludeNamespaces": ["a", "b-1"], "onMissingAnnotations": "skip",
        "backend": "iptables", "iptablesVariant": "legacy", "policy": { "proxy": { "uids": [5] } },
        "logFile": "", "logLevel": "debug", "agentSocket": "/run/mesh-init/agent.sock",
    }));
    assert_eq!(conf.selection, Selection::All);
    assert_eq!(conf.exclude_namespaces, ["a", "b-1"]);
    assert_eq!(conf.on_missing_annotations, OnMissing::Skip);
    assert_eq!(conf.log_file, None);
    assert_eq!(conf.log_level, tracing::Level::DEBUG);
    assert_eq!(conf.agent_socket.as_deref(), Some("/run/mesh-init/agent.sock".as_ref()));
    assert_eq!(captured(&pod(&[]), &conf).request.settings.variant, Some(Variant::Legacy));
}

#[test]
fn the_back_end_is_nftables_unless_it_is_another() {
    for (ours, want, iptables) in [
        (json!({}), Some(Variant::Native), false),
        (json!({ "backend": "nftables" }), Some(Variant::Native), false),
        (json!({ "backend": "iptables" }), None, true),
        (json!({ "backend": "auto" }), None, false),
        (json!({ "backend": "iptables", "iptablesVariant": "nft" }), Some(Variant::Nft), true),
    ] {
        let settings = captured(&super::injected(&[]), &conf(&ours)).request.settings;
        assert_eq!((settings.variant, settings.iptables), (want, iptables), "{ours}");
    }
}

#[test]
fn delivered_is_what_the_key_is_there_for() {
    let of = |ours: Value| conf(&ours).annotations;
    let none = Annotations::Delivered(Default::default());
    assert_eq!(of(delivering(&json!({}))), none);
    assert_eq!(of(delivering(&Value::Null)), none);
    assert_eq!(of(json!({ "runtimeConfig": {} })), Annotations::Absent);
    assert_eq!(of(json!({ "runtimeConfig": { "bandwidth": {} } })), Annotations::Absent);
    let some = of(delivering(&json!({ "a/b": "c", "": "" })));
    assert_eq!(some.get("a/b"), Some("c"));
    assert_eq!(some.get(""), Some(""));
    assert_eq!(some.get("x"), None);
    let faults = refused(&delivering(&json!({ "a": 1, "b": "x", "c": null }))).to_string();
    assert!(faults.contains("annotation a: is not a string") && faults.contains("annotation c:"), "{faults}");
    assert!(refused(&delivering(&json!([]))).to_string().contains("is not an object"));
    assert!(
        refused(&json!({ "runtimeConfig": "x" })).to_string().contains("runtimeConfig: is not an object")
    );
}

/// Go's plugins write `null` for what they leave out.
#[test]
fn null_is_as_good_as_none() {
    let plain = conf(&json!({}));
    for key in mesh_init::cni::netconf::OURS.into_iter().chain(["runtimeConfig", "prevResult"]) {
        let conf = conf(&json!({ key: null }));
        assert_eq!(conf.annotations, Annotations::Absent, "{key}");
        assert_eq!(format!("{conf:?}"), format!("{plain:?}"), "{key}");
    }
}

/// A configuration as large as is read, of keys that are one letter from being known.
#[test]
fn a_million_unknown_keys_are_refused_in_time() {
    let mut text = String::from("{");
    for number in 0..1_000_000 {
        text += &format!("\"logFilx{number}\":1,");
    }
    text += "\"selecton\":1}";
    let began = spent();
    let faults = NetConf::parse(text.as_bytes()).expect_err("unknown keys");
    let took = spent() - began;
    assert!(took < std::time::Duration::from_secs(12), "{} bytes took {took:?}", text.len());
    let told = faults.to_string();
    assert!(told.starts_with("netconf logFilx0: is not a known key: did you mean logFile?\n"), "{told}");
    assert!(told.ends_with("and 999951 more faults like these\n"), "{told}");
}

#[test]
fn the_previous_result_is_not_touched() {
    let text = r#"{ "ips" : [ {"z":1,"address":"10.0.0.2/16", "a":1.50} ],"x.vendor/y":{"b":[],"a":null}, "interfaces":[]}"#;
    let conf =
        format!(r#"{{"cniVersion":"1.0.0","name":"n","type":"t","prevResult":{text},"selection":"all"}}"#);
    let prev = NetConf::parse(conf.as_bytes()).unwrap().standard.prev_result.unwrap();
    assert_eq!(prev.text.get(), text);
    assert!(!prev.has_version);
    let with = prev.with_version("1.0.0");
    assert_eq!(with, format!(r#"{{"cniVersion":"1.0.0",{}"#, &text[1..]));
    serde_json::from_str::<Value>(&with).unwrap();
    for (prev, has, want) in [
        (r#"{"cniVersion":"0.4.0"}"#, true, r#"{"cniVersion":"0.4.0"}"#),
        (r#"{"CNIVersion":"0.4.0","ips":[]}"#, true, r#"{"CNIVersion":"0.4.0","ips":[]}"#),
        ("{ }", false, r#"{"cniVersion":"1.0.0"}"#),
    ] {
        let text = format!(r#"{{"prevResult":{prev}}}"#);
        let read = Standard::parse(text.as_bytes()).unwrap().prev_result.unwrap();
        assert_eq!((read.has_version, read.with_version("1.0.0").as_str()), (has, want));
    }
    assert!(Standard::parse(br#"{"prevResult":null}"#).unwrap().prev_result.is_none());
    assert!(refused(&json!({ "prevResult": [] })).to_string().contains("prevResult: is not an object"));
}

#[test]
fn attachments_are_read_under_both_names_and_absence_is_no_list() {
    let of = |ours: Value| Standard::parse(&conf_text(&ours)).unwrap().valid_attachments;
    let one = |id: &str| Attachment { container_id: id.into(), interface: "eth0".into() };
    let list = |id: &str| json!([{ "containerID": id, "ifname": "eth0", "more": 1 }]);
    assert_eq!(of(json!({})), None);
    assert_eq!(of(json!({ "cni.dev/valid-attachments": [] })), Some(vec![]));
    assert_eq!(of(json!({ "cni.dev/attachments": list("old") })), Some(vec![one("old")]));
    let both = json!({ "cni.dev/attachments": list("old"), "cni.dev/valid-attachments": list("new") });
    assert_eq!(of(both), Some(vec![one("new")]));
    assert_eq!(of(json!({ "cni.dev/valid-attachments": null })), None);
    for wrong in [json!("x"), json!([1]), json!([{ "containerID": "a" }])] {
        let faults = refused(&json!({ "cni.dev/valid-attachments": wrong })).to_string();
        assert!(faults.contains("cni.dev/valid-attachments: is not a list of attachments"), "{faults}");
    }
}

#[test]
fn every_fault_is_told_at_once_with_what_was_meant() {
    let faults = refused(&json!({
        "selecton": "all", "exclude_namespaces": [], "onMissingAnnotation": "skip", "wholly-unknown": 1,
        "selection": "everything", "excludeNamespaces": ["Kube_System"], "logLevel": 3, "logFile": "cni.log",
        "agentSocket": "", "policy": { "proxi": {} }, "onMissingAnnotations": "ignore",
    }));
    let told = faults.to_string();
    for says in [
        "netconf selecton: is not a known key: did you mean selection?",
        "netconf exclude_namespaces: is not a known key: did you mean excludeNamespaces?",
        "netconf onMissingAnnotation: is not a known key: did you mean onMissingAnnotations?",
        "netconf wholly-unknown: is not a known key: take it out",
        "netconf selection: \"everything\" is not one of its values: write istio, annotation, all",
        "netconf excludeNamespaces[0]: \"Kube_System\" is not a namespace's name",
        "netconf logLevel: is not a string",
        "netconf logFile: \"cni.log\" is not an absolute path",
        "netconf agentSocket: \"\" is not an absolute path",
        "netconf policy.proxi: is not a known key",
        "netconf onMissingAnnotations: \"ignore\" is not one of its values: write fail, skip",
    ] {
        assert!(told.contains(says), "{says}\nmissing in\n{told}");
    }
    assert_eq!(faults.list().len(), 11, "{told}");
}

#[test]
fn a_policy_that_no_pod_can_have_is_told_before_there_is_a_pod() {
    for (ours, says) in [
        (json!({ "policy": { "proxy": { "port": 0 } } }), "netconf policy.proxy.port: \"0\" is not a port"),
        (
            json!({ "policy": { "proxy": { "uids": ["envoy"] } } }),
            "netconf policy.proxy.uids[0]: \"envoy\" is not a user",
        ),
        (json!({ "policy": [] }), "netconf policy: is not an object"),
        (
            json!({ "policy": { "outbound": { "owners": { "uids": [1] } } } }),
            "cannot be expressed by the istio layout",
        ),
        (json!({ "backend": "xdp" }), "netconf backend: \"xdp\" is not one of its values"),
        (
            json!({ "backend": "ebpf", "policy": { "mode": "TPROXY" } }),
            "netconf policy.mode: \"TPROXY\" marks and routes packets",
        ),
        (
            json!({ "iptablesVariant": "nft", "backend": "nftables" }),
            "netconf iptablesVariant: \"nft\" has no meaning",
        ),
    ] {
        let told = refused(&ours).to_string();
        assert!(told.contains(says), "{ours}\n{told}");
    }
}

#[test]
fn what_is_no_object_is_one_fault() {
    let long = format!("{{\"{}\":", "k".repeat(1 << 20));
    for (text, says) in [
        (&b""[..], "netconf: is empty"),
        (b"  ", "netconf: is empty"),
        (b"{", "netconf: is not JSON"),
        (b"[]", "netconf: is not an object"),
        (b"null", "netconf: is not an object"),
        (b"{} {}", "netconf: is not JSON"),
        (b"\xff{}", "netconf: is not UTF-8"),
        (br#"{"a":1,"a":2}"#, "the key \"a\" stands twice"),
        (long.as_bytes(), "netconf: is not JSON"),
    ] {
        for faults in [NetConf::parse(text).unwrap_err(), Standard::parse(text).unwrap_err()] {
            assert_eq!(faults.list().len(), 1, "{faults}");
            assert!(faults.to_string().contains(says), "{faults}");
        }
    }
}

#[test]
fn the_standard_part_is_read_whatever_is_wrong_with_ours() {
    let standard = Standard::parse(&conf_text(&json!({ "selecton": 1, "policy": 5 }))).unwrap();
    assert_eq!(standard.cni_version, "1.0.0");
    let faults = Standard::parse(br#"{"cniVersion":1,"name":[],"type":{}}"#).unwrap_err();
    assert_eq!(faults.list().len(), 3, "{faults}");
}
