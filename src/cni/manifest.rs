//! A pod's manifest: what of it a runtime passes on, and what it says beside that, which a plugin never hears.

use serde_json::Value;

use super::decide::Decision;
use super::pod::PodFacts;
use super::source::strings;
use crate::input::istio::parse_bool;
use crate::input::plain;
use crate::policy::{Dns, Gid, Uid};

/// A pod as it is written down.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Manifest {
    /// What a runtime passes on.
    pub pod: PodFacts,
    /// The pod has the host's network, so that no plugin is called.
    pub host_network: bool,
    /// What is taken for granted.
    pub assumed: Vec<String>,
    labels: Value,
    containers: Vec<Value>,
}

/// The proxy's container, by the name that Istio gives it.
const PROXY: &str = "istio-proxy";
const INIT: &str = "istio-init";

impl Manifest {
    /// The pods of a document: itself, the template of what makes pods, or those of a list's items.
    pub(super) fn templates(document: &Value) -> Vec<Value> {
        if let Some(items) = document.get("items").and_then(Value::as_array) {
            return items.iter().flat_map(Manifest::templates).collect();
        }
        if document.get("kind").is_some_and(|kind| kind == "Pod") {
            return vec![document.clone()];
        }
        let template = ["/spec/template", "/spec/jobTemplate/spec/template"];
        let Some(mut pod) = template.iter().find_map(|path| document.pointer(path)).cloned() else {
            return Vec::new();
        };
        let Some(members) = pod.as_object_mut() else { return Vec::new() };
        let own = members.entry("metadata").or_insert_with(|| Value::Object(Default::default()));
        // The pods' names begin so, and they are where their maker is.
        for key in ["name", "namespace"] {
            if let (Some(own), Some(value)) =
                (own.as_object_mut(), document.pointer(&format!("/metadata/{key}")))
            {
                own.entry(key).or_insert_with(|| value.clone());
            }
        }
        vec![pod]
    }

    /// Reads a pod.
    pub(super) fn of(document: &Value) -> Result<Manifest, String> {
        let text = |path: &str| document.pointer(path).and_then(Value::as_str).map(str::to_owned);
        let mut assumed = Vec::new();
        let namespace = text("/metadata/namespace").unwrap_or_else(|| {
            assumed.push("the manifest names no namespace: default is assumed".to_owned());
            "default".to_owned()
        });
        let name = text("/metadata/name").or_else(|| text("/metadata/generateName"));
        let annotations = match document.pointer("/metadata/annotations") {
            None | Some(Value::Null) => strings([].into_iter(), "")?,
            Some(Value::Object(all)) => strings(all.iter(), "annotation")?,
            Some(_) => return Err("has annotations that are not a mapping".to_owned()),
        };
        let list = |path: &str| document.pointer(path).and_then(Value::as_array).cloned().unwrap_or_default();
        Ok(Manifest {
            pod: PodFacts {
                namespace: Some(namespace),
                name: Some(name.unwrap_or_else(|| "unnamed".to_owned())),
                uid: text("/metadata/uid"),
                annotations,
            },
            host_network: document.pointer("/spec/hostNetwork") == Some(&Value::Bool(true)),
            assumed,
            labels: document.pointer("/metadata/labels").cloned().unwrap_or_default(),
            containers: [list("/spec/initContainers"), list("/spec/containers")].concat(),
        })
    }

    fn container(&self, name: &str) -> Option<&Value> {
        self.containers.iter().find(|container| container.get("name").is_some_and(|of| of == name))
    }

    /// What the manifest says that a plugin never hears, where it would make a difference to `decision`, with the
    /// annotation to set instead.
    #[must_use]
    pub fn unheard(&self, decision: &Decision) -> Vec<String> {
        let Decision::Capture(capture) = decision else { return Vec::new() };
        let policy = &capture.request.policy;
        let mut notes = Vec::new();
        let label = self.labels.get("sidecar.istio.io/inject").and_then(Value::as_str);
        if label.and_then(parse_bool) == Some(false) {
            notes.push("label sidecar.istio.io/inject is false, and labels are not delivered: set the annotation of that name".to_owned());
        }
        if self.container(INIT).is_some() {
            notes.push(format!("container {INIT} makes the rules too, and containers are not delivered: annotation sidecar.istio.io/status should list it"));
        }
        let Some(proxy) = self.container(PROXY) else { return notes };
        let number = |key: &str| {
            let id = proxy.pointer(&format!("/securityContext/{key}")).and_then(Value::as_u64)?;
            u32::try_from(id).ok().filter(|id| *id != 0)
        };
        let user = number("runAsUser").and_then(Uid::of).filter(|uid| !policy.proxy.uids.contains(uid));
        let group = number("runAsGroup").and_then(Gid::of).filter(|gid| !policy.proxy.gids.contains(gid));
        notes.extend(user.map(|uid| runs_as("user", uid.number(), "mesh-init.io/proxy-uid")));
        notes.extend(group.map(|gid| runs_as("group", gid.number(), "mesh-init.io/proxy-gid")));
        let on = |name: &str| Self::variable(proxy, name).and_then(parse_bool) == Some(true);
        for (name, missing) in
            [("ISTIO_META_DNS_CAPTURE", policy.dns == Dns::Off), ("INVALID_DROP", !policy.drop_invalid)]
        {
            if missing && on(name) {
                notes.push(format!("container {PROXY} has {name}, and the environment is not delivered: set it in proxyMetadata of annotation proxy.istio.io/config"));
            }
        }
        if on("DISABLE_ENVOY") {
            notes.push(format!("container {PROXY} has DISABLE_ENVOY, and the environment is not delivered: set annotation sidecar.istio.io/interceptionMode to NONE"));
        }
        let role = proxy
            .pointer("/args/1")
            .and_then(Value::as_str)
            .filter(|role| !role.is_empty() && *role != "sidecar");
        if let Some(role) = role.filter(|_| proxy.pointer("/args/0").is_some_and(|first| first == "proxy")) {
            notes.push(format!("container {PROXY} is a {}, and containers are not delivered: set annotation sidecar.istio.io/interceptionMode to NONE", plain(role)));
        }
        notes
    }

    fn variable<'a>(container: &'a Value, name: &str) -> Option<&'a str> {
        let all = container.get("env")?.as_array()?;
        all.iter().find(|entry| entry.get("name").is_some_and(|of| of == name))?.get("value")?.as_str()
    }
}

fn runs_as(what: &str, id: u32, annotation: &str) -> String {
    format!(
        "container {PROXY} runs as {what} {id}, and containers are not delivered: set annotation {annotation}"
    )
}
