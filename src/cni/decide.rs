//! What becomes of a pod: captured, and by which policy; left alone, and why; or refused.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use super::annotations::{CAPTURE, Given, POLICY};
use super::istio::STATUS;
use super::netconf::{NetConf, OnMissing, Selection};
use super::pod::{Annotations, CAPABILITY, PodFacts};
use super::reading::{self, Read};
use crate::input::istio::parse_bool;
use crate::input::{Faults, Origin, Raw, plain};
use crate::policy::validate::Request;

/// The decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Its traffic is captured.
    Capture(Box<Capture>),
    /// It is left alone.
    Skip(Skip),
    /// Its annotations, or what they leave to the network configuration, make no policy (error code 7).
    Reject(Faults),
    /// Its annotations are not known, so that nobody can say (error code 11: try again later).
    Unknown(Faults),
}

/// A pod that is captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capture {
    /// What is captured, in which layout, by what.
    pub request: Request,
    /// What the policy was made from, each value with its origin.
    pub given: Raw,
    /// Why the pod is captured at all.
    pub why: Chosen,
}

impl Chosen {
    /// The reason in one word, for logs and programs.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Chosen::Sidecar => "sidecar",
            Chosen::Enabled => "enabled",
            Chosen::Policy => "policy",
            Chosen::All => "all",
        }
    }
}

/// Why a pod is captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chosen {
    /// Istio's injector has put a sidecar in.
    Sidecar,
    /// `mesh-init.io/capture` says so.
    Enabled,
    /// `mesh-init.io/policy` is there.
    Policy,
    /// Everything is.
    All,
}

impl fmt::Display for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Chosen::Sidecar => write!(f, "annotation {STATUS}: it has a sidecar of Istio's"),
            Chosen::Enabled => write!(f, "annotation {CAPTURE} is {ENABLED}"),
            Chosen::Policy => write!(f, "annotation {POLICY} is there"),
            Chosen::All => f.write_str("selection all"),
        }
    }
}

/// Why a pod is left alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Skip {
    /// The runtime names no pod and no namespace, as podman does, and not everything is selected.
    NoPod,
    /// It has the host's network, so that no plugin is called: what a manifest says, and a runtime never.
    HostNetwork,
    /// Its namespace is excluded.
    Namespace(String),
    /// Its annotations are not known, and the configuration says that this is no obstacle.
    Unknown,
    /// Istio's injector has put no sidecar in.
    NoSidecar,
    /// `sidecar.istio.io/inject` is false.
    NotInjected,
    /// An `istio-init` container makes the rules.
    InitContainer,
    /// A template whose proxy takes no captured traffic.
    Template(&'static str),
    /// Nothing is to be captured: mode NONE, and who says so.
    ModeNone(Origin),
    /// None of our annotations asks for capture.
    NotAsked,
    /// `mesh-init.io/capture` is `disabled`.
    Disabled,
}

impl Skip {
    /// The reason in one word, for logs and programs.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Skip::NoPod => "noPod",
            Skip::HostNetwork => "hostNetwork",
            Skip::Namespace(_) => "namespaceExcluded",
            Skip::Unknown => "annotationsUnknown",
            Skip::NoSidecar => "noSidecar",
            Skip::NotInjected => "notInjected",
            Skip::InitContainer => "initContainer",
            Skip::Template(_) => "template",
            Skip::ModeNone(_) => "modeNone",
            Skip::NotAsked => "notAsked",
            Skip::Disabled => "disabled",
        }
    }
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Skip::NoPod => f.write_str("no pod and namespace are named, and the selection is not all"),
            Skip::HostNetwork => f.write_str("its network is the host's, for which no plugin is called"),
            Skip::Namespace(name) => write!(f, "namespace {} is excluded", plain(name)),
            Skip::Unknown => {
                f.write_str("its annotations were not delivered, and onMissingAnnotations is skip")
            }
            Skip::NoSidecar => write!(f, "no annotation {STATUS}: it has no sidecar of Istio's"),
            Skip::NotInjected => write!(f, "annotation {INJECT} is false"),
            Skip::InitContainer => write!(f, "annotation {STATUS} lists {INIT}, which makes the rules"),
            Skip::Template(name) => {
                write!(f, "annotation {TEMPLATES} names {name}, whose proxy takes no captured traffic")
            }
            Skip::ModeNone(origin) => write!(f, "{origin}: mode NONE captures nothing"),
            Skip::NotAsked => write!(f, "neither annotation {CAPTURE} nor {POLICY} is there"),
            Skip::Disabled => write!(f, "annotation {CAPTURE} is {DISABLED}"),
        }
    }
}

const INJECT: &str = "sidecar.istio.io/inject";
const TEMPLATES: &str = "inject.istio.io/templates";
const INIT: &str = "istio-init";
const ENABLED: &str = "enabled";
const DISABLED: &str = "disabled";

/// Whether the decision depends on annotations that are not known yet, so that asking for them is worth the time.
#[must_use]
pub fn needs_annotations(pod: &PodFacts, conf: &NetConf) -> bool {
    let known = pod.annotations != Annotations::Absent || conf.selection == Selection::All;
    !known && by_name(pod, conf).is_none()
}

/// Decides.
#[must_use]
pub fn decide(pod: &PodFacts, conf: &NetConf) -> Decision {
    if let Some(skip) = by_name(pod, conf) {
        return Decision::Skip(skip);
    }
    let none = BTreeMap::new();
    let all = match (&pod.annotations, conf.selection, conf.on_missing_annotations) {
        (Annotations::Delivered(all), ..) => all,
        (Annotations::Absent, Selection::All, _) => &none,
        (Annotations::Absent, _, OnMissing::Skip) => return Decision::Skip(Skip::Unknown),
        (Annotations::Absent, _, OnMissing::Fail) => return Decision::Unknown(unknown(pod)),
    };
    let mut faults = Faults::default();
    let mut given = Given { all, faults: &mut faults };
    let chosen = choose(&mut given, conf.selection);
    // Whoever reads a misspelt word of ours as none may leave a pod uncaptured that was to be captured.
    given.only_known();
    let why = match (chosen, faults.is_empty()) {
        (_, false) => return Decision::Reject(faults),
        (Err(skip), true) => return Decision::Skip(skip),
        (Ok(why), true) => why,
    };
    match reading::request(all, conf) {
        Ok(Read::Capture(request, given)) => {
            Decision::Capture(Box::new(Capture { request: *request, given, why }))
        }
        Ok(Read::Nothing(origin)) => Decision::Skip(Skip::ModeNone(origin)),
        Err(faults) => Decision::Reject(faults),
    }
}

/// What the names alone decide.
fn by_name(pod: &PodFacts, conf: &NetConf) -> Option<Skip> {
    match &pod.namespace {
        Some(name) if conf.exclude_namespaces.contains(name) => Some(Skip::Namespace(name.clone())),
        Some(_) if pod.name.is_some() || conf.selection == Selection::All => None,
        None if conf.selection == Selection::All => None,
        Some(_) | None => Some(Skip::NoPod),
    }
}

fn unknown(pod: &PodFacts) -> Faults {
    let mut faults = Faults::default();
    faults.whole(
        format!("pod {pod}: its annotations were not delivered, so it is not known whether it is to be captured"),
        format!(
            "declare \"capabilities\": {{{CAPABILITY:?}: true}} beside the plugin's type, or set onMissingAnnotations to skip"
        ),
    );
    faults
}

fn choose(given: &mut Given<'_>, selection: Selection) -> Result<Chosen, Skip> {
    match selection {
        Selection::All => Ok(Chosen::All),
        Selection::Annotation => {
            let asked = given.read(CAPTURE).map(|given| given.text);
            match asked.as_deref() {
                Some(ENABLED) => Ok(Chosen::Enabled),
                Some(DISABLED) => Err(Skip::Disabled),
                Some(_) => Err(Skip::NotAsked),
                None if given.all.contains_key(POLICY) => Ok(Chosen::Policy),
                None => Err(Skip::NotAsked),
            }
        }
        Selection::Istio => istio(given),
    }
}

fn istio(given: &mut Given<'_>) -> Result<Chosen, Skip> {
    let Some(status) = given.read(STATUS) else { return Err(Skip::NoSidecar) };
    if given.read(INJECT).is_some_and(|given| parse_bool(&given.text) == Some(false)) {
        return Err(Skip::NotInjected);
    }
    // The injector's record of what it has put in. That it is there counts, whatever it says beside.
    let record: Option<Value> = serde_json::from_str(&status.text).ok();
    let lists = |key: &str| {
        let names = record.as_ref().and_then(|record| record.get(key)?.as_array());
        names.is_some_and(|names| names.iter().any(|name| name == INIT))
    };
    if lists("initContainers") || lists("containers") {
        return Err(Skip::InitContainer);
    }
    let templates = given.read(TEMPLATES).map(|given| given.text).unwrap_or_default();
    let named = |name: &&str| templates.split(',').any(|of| of.trim() == *name);
    match ["gateway", "grpc-agent"].into_iter().find(named) {
        Some(name) => Err(Skip::Template(name)),
        None => Ok(Chosen::Sidecar),
    }
}
