//! Which pods are captured at all.

use mesh_init::cni::decide::{Chosen, Decision, Skip, decide, needs_annotations};
use mesh_init::cni::pod::{Annotations, PodFacts};
use serde_json::json;

use super::{INJECTED, captured, conf, injected, pod, rejected};

#[track_caller]
fn skipped(pod: &PodFacts, ours: &serde_json::Value) -> Skip {
    match decide(pod, &conf(ours)) {
        Decision::Skip(skip) => skip,
        other @ (Decision::Capture(_) | Decision::Reject(_) | Decision::Unknown(_)) => {
            panic!("not skipped: {other:?}")
        }
    }
}

#[test]
fn istios_selection_is_by_the_injectors_record() {
    let ours = json!({});
    assert_eq!(captured(&injected(&[]), &conf(&ours)).why, Chosen::Sidecar);
    assert_eq!(captured(&pod(&[(INJECTED.0, "not JSON")]), &conf(&ours)).why, Chosen::Sidecar);
    let status = |text: &str| skipped(&pod(&[(INJECTED.0, text)]), &ours);
    assert_eq!(skipped(&pod(&[]), &ours), Skip::NoSidecar);
    assert_eq!(
        status(r#"{"initContainers":["istio-init"],"containers":["istio-proxy"]}"#),
        Skip::InitContainer
    );
    assert_eq!(status(r#"{"containers":["istio-init"]}"#), Skip::InitContainer);
    for word in ["false", "0", "f", "F", "FALSE", "False"] {
        assert_eq!(
            skipped(&injected(&[("sidecar.istio.io/inject", word)]), &ours),
            Skip::NotInjected,
            "{word}"
        );
    }
    for word in ["true", "no", "", "fAlse"] {
        captured(&injected(&[("sidecar.istio.io/inject", word)]), &conf(&ours));
    }
    for (names, found) in
        [("gateway", "gateway"), ("sidecar, grpc-agent", "grpc-agent"), ("a,gateway,b", "gateway")]
    {
        assert_eq!(
            skipped(&injected(&[("inject.istio.io/templates", names)]), &ours),
            Skip::Template(found),
            "{names}"
        );
    }
    captured(&injected(&[("inject.istio.io/templates", "sidecar,gateways,my-gateway")]), &conf(&ours));
    let none = skipped(&injected(&[("sidecar.istio.io/interceptionMode", "NONE")]), &ours);
    assert_eq!(none.to_string(), "annotation sidecar.istio.io/interceptionMode: mode NONE captures nothing");
    // What asks for capture under another selection does not here.
    assert_eq!(skipped(&pod(&[("mesh-init.io/capture", "enabled")]), &ours), Skip::NoSidecar);
}

#[test]
fn our_own_annotations_select_when_they_are_to() {
    let ours = json!({ "selection": "annotation" });
    let one = |name: &str, text: &str| decide(&pod(&[(name, text)]), &conf(&ours));
    assert_eq!(captured(&pod(&[("mesh-init.io/capture", "enabled")]), &conf(&ours)).why, Chosen::Enabled);
    assert_eq!(captured(&pod(&[("mesh-init.io/policy", "{}")]), &conf(&ours)).why, Chosen::Policy);
    assert_eq!(one("mesh-init.io/capture", "disabled"), Decision::Skip(Skip::Disabled));
    assert_eq!(one("app.kubernetes.io/name", "x"), Decision::Skip(Skip::NotAsked));
    let both = pod(&[("mesh-init.io/capture", "disabled"), ("mesh-init.io/policy", "{}")]);
    assert_eq!(decide(&both, &conf(&ours)), Decision::Skip(Skip::Disabled));
    assert_eq!(decide(&injected(&[]), &conf(&ours)), Decision::Skip(Skip::NotAsked));
    // Whether such a pod is to be captured nobody can say.
    for (name, text, says) in [
        (
            "mesh-init.io/capture",
            "true",
            "mesh-init.io/capture: \"true\" is not one of its values: give enabled or disabled",
        ),
        ("mesh-init.io/capture", "Enabled", "give enabled or disabled"),
        ("mesh-init.io/captrue", "enabled", "did you mean mesh-init.io/capture?"),
        ("mesh-init.io/x", "", "is not a known annotation"),
    ] {
        let faults = rejected(&pod(&[(name, text)]), &conf(&ours)).to_string();
        assert!(faults.contains(says), "{name}={text}\n{faults}");
    }
}

#[test]
fn namespaces_are_excluded_before_anything_is_asked() {
    for selection in ["istio", "annotation", "all"] {
        let ours = json!({ "selection": selection });
        for name in ["kube-system", "mesh-init"] {
            let unknown = PodFacts {
                namespace: Some(name.to_owned()),
                annotations: Annotations::Absent,
                ..injected(&[])
            };
            assert_eq!(skipped(&unknown, &ours), Skip::Namespace(name.to_owned()), "{selection}");
            assert!(!needs_annotations(&unknown, &conf(&ours)));
        }
        let other = json!({ "selection": selection, "excludeNamespaces": ["shop"] });
        assert_eq!(
            skipped(&injected(&[("mesh-init.io/policy", "{}")]), &other),
            Skip::Namespace("shop".into())
        );
    }
    let none = json!({ "excludeNamespaces": [] });
    captured(&PodFacts { namespace: Some("kube-system".into()), ..injected(&[]) }, &conf(&none));
}

#[test]
fn what_knows_no_pods_is_captured_only_with_everything() {
    let podman = PodFacts { name: Some("web".into()), ..PodFacts::default() };
    for ours in [json!({}), json!({ "selection": "annotation" })] {
        assert_eq!(skipped(&podman, &ours), Skip::NoPod);
        assert_eq!(skipped(&PodFacts::default(), &ours), Skip::NoPod);
        // Also what asks for capture.
        let asking = injected(&[("mesh-init.io/capture", "enabled")]);
        let nameless = PodFacts { name: None, ..asking.clone() };
        assert_eq!(skipped(&nameless, &ours), Skip::NoPod);
        assert_eq!(skipped(&PodFacts { namespace: None, ..asking }, &ours), Skip::NoPod);
        assert!(!needs_annotations(&podman, &conf(&ours)));
    }
    let all = conf(&json!({ "selection": "all", "policy": { "proxy": { "uids": [101], "gids": [] } } }));
    for facts in [podman, PodFacts::default(), pod(&[])] {
        let capture = captured(&facts, &all);
        assert_eq!(capture.why, Chosen::All);
        let told = capture.request.policy.to_string();
        assert_eq!(
            told,
            "outbound TCP of everyone but uid 101 to anywhere -> 15001; inbound all ports -> 15001"
        );
    }
}

#[test]
fn unknown_annotations_fail_or_skip_as_configured() {
    let unknown = PodFacts { annotations: Annotations::Absent, ..pod(&[]) };
    for selection in ["istio", "annotation"] {
        let fail = conf(&json!({ "selection": selection }));
        let Decision::Unknown(faults) = decide(&unknown, &fail) else { panic!("{selection}") };
        let told = faults.to_string();
        for says in [
            "shop/cart",
            "\"capabilities\": {\"io.kubernetes.cri.pod-annotations\": true}",
            "onMissingAnnotations",
        ] {
            assert!(told.contains(says), "{told}");
        }
        assert!(needs_annotations(&unknown, &fail));
        let skip = json!({ "selection": selection, "onMissingAnnotations": "skip" });
        assert_eq!(skipped(&unknown, &skip), Skip::Unknown);
        assert!(needs_annotations(&unknown, &conf(&skip)), "the agent may know, and is asked first");
        assert!(!needs_annotations(&pod(&[]), &fail), "none is an answer");
    }
    let all = conf(&json!({ "selection": "all" }));
    assert!(!needs_annotations(&unknown, &all));
    captured(&unknown, &all);
}
