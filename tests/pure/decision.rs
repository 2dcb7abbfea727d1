//! What becomes of a pod: the network configuration, its annotations, and the decision.

mod documents;
mod hostile;
mod istio;
mod netconf;
mod precedence;
mod selection;

use std::collections::BTreeMap;

use mesh_init::cni::decide::{Capture, Decision, decide};
use mesh_init::cni::netconf::NetConf;
use mesh_init::cni::pod::{Annotations, CAPABILITY, PodFacts};
use mesh_init::input::Faults;
use serde_json::{Value, json};

/// What the injector leaves on every pod that has a sidecar.
const INJECTED: (&str, &str) = (
    "sidecar.istio.io/status",
    r#"{"initContainers":["istio-validation"],"containers":["istio-proxy"],"volumes":[],"revision":"default"}"#,
);

/// A network configuration with `ours` beside what a runtime writes.
fn conf_text(ours: &Value) -> Vec<u8> {
    let mut conf = json!({ "cniVersion": "1.0.0", "name": "k8s-pod-network", "type": "mesh-init" });
    conf.as_object_mut().unwrap().extend(ours.as_object().unwrap().clone());
    conf.to_string().into_bytes()
}

fn conf(ours: &Value) -> NetConf {
    NetConf::parse(&conf_text(ours)).unwrap_or_else(|faults| panic!("{ours}\n{faults}"))
}

fn refused(ours: &Value) -> Faults {
    NetConf::parse(&conf_text(ours)).err().unwrap_or_else(|| panic!("{ours} is taken"))
}

/// The pod `shop/cart`.
fn pod(annotations: &[(&str, &str)]) -> PodFacts {
    let all: BTreeMap<String, String> =
        annotations.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
    PodFacts {
        namespace: Some("shop".to_owned()),
        name: Some("cart".to_owned()),
        uid: None,
        annotations: Annotations::Delivered(all),
    }
}

/// The same, with a sidecar.
fn injected(annotations: &[(&str, &str)]) -> PodFacts {
    pod(&[&[INJECTED], annotations].concat())
}

/// The runtime's part of a network configuration that delivers `annotations`.
fn delivering(annotations: &Value) -> Value {
    json!({ "runtimeConfig": { CAPABILITY: annotations } })
}

#[track_caller]
fn captured(pod: &PodFacts, conf: &NetConf) -> Capture {
    match decide(pod, conf) {
        Decision::Capture(capture) => *capture,
        Decision::Skip(reason) => panic!("skipped: {reason}"),
        Decision::Reject(faults) | Decision::Unknown(faults) => panic!("refused:\n{faults}"),
    }
}

#[track_caller]
fn rejected(pod: &PodFacts, conf: &NetConf) -> Faults {
    match decide(pod, conf) {
        Decision::Reject(faults) => faults,
        other @ (Decision::Capture(_) | Decision::Skip(_) | Decision::Unknown(_)) => {
            panic!("not rejected: {other:?}")
        }
    }
}
