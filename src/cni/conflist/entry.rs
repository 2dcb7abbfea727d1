//! Our own entry of a chain, made from its template, a file and flags.

use serde_json::{Map, Value, json};

use super::TYPE;
use super::edit::Entry;
use crate::input::fault::{Faults, plain, quote};
use crate::input::{Origin, Sourced};

/// What makes a runtime hand the pod's annotations over (containerd 1.5 and later, CRI-O 1.28 and later).
pub const ANNOTATIONS: &str = "io.kubernetes.cri.pod-annotations";

/// What makes it say which control group the pod has (CNI conventions, "Well-known Capabilities").
const CGROUP_PATH: &str = "cgroupPath";

/// Keys that the runtime sets in what it hands to a plugin (spec, sections 1 and 3): in an entry they have no meaning.
const RUNTIMES_OWN: [&str; 4] = ["cniVersion", "name", "prevResult", "runtimeConfig"];

/// What is asked of the plugin.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Which pods are captured.
    pub selection: Option<String>,
    /// In whose namespaces none is.
    pub exclude_namespaces: Vec<String>,
    /// What carries the rules.
    pub backend: Option<String>,
}

/// The entry: `type` and `capabilities` of the template, then the keys of a file, then those of flags, which win.
#[must_use]
pub fn entry(options: &Options, file: Option<Map<String, Value>>) -> Entry {
    let mut entry = Entry::new();
    entry.insert("type".to_owned(), json!(TYPE));
    entry.insert("capabilities".to_owned(), json!({ ANNOTATIONS: true }));
    let given = file.as_ref().is_some_and(|file| file.contains_key("capabilities"));
    entry.extend(file.unwrap_or_default());
    if let Some(selection) = &options.selection {
        entry.insert("selection".to_owned(), json!(selection));
    }
    if !options.exclude_namespaces.is_empty() {
        entry.insert("excludeNamespaces".to_owned(), json!(options.exclude_namespaces));
    }
    if let Some(backend) = &options.backend {
        entry.insert("backend".to_owned(), json!(backend));
    }
    // Programs are attached to the pod's own control group, which the runtime knows best.
    if !given && entry.get("backend") == Some(&json!("ebpf")) {
        entry.insert("capabilities".to_owned(), json!({ ANNOTATIONS: true, CGROUP_PATH: true }));
    }
    entry
}

/// Reads the file of `--plugin-config`. What each key means is judged with the whole entry; here it must be an object
/// that may stand in a list.
pub fn read(given: &Sourced, text: &str, faults: &mut Faults) -> Option<Map<String, Value>> {
    let path = &given.text;
    let at = |key: &str| Origin::Config { path: path.clone(), key: key.to_owned() };
    let remedy = "give a JSON object: the entry of mesh-init in a list of plugins, its type may be left out";
    let scanned = match super::scan::scan(text) {
        Ok(scanned) => scanned,
        Err(malformed) => {
            faults.source(at(""), format!("is no JSON: {malformed}"), remedy);
            return None;
        }
    };
    let Ok(Value::Object(object)) = serde_json::from_str(text) else {
        faults.source(at(""), "is no JSON object", remedy);
        return None;
    };
    let members = scanned.members();
    for (n, member) in members.iter().enumerate() {
        let key = plain(&member.key);
        if members.iter().take(n).any(|earlier| earlier.key == member.key) {
            faults.source(at(&key), "stands twice", "leave one of the two out");
        }
        if RUNTIMES_OWN.contains(&member.key.as_str()) {
            faults.source(at(&key), "is for the runtime to say", "leave it out");
        }
    }
    if let Some(kind) = object.get("type").filter(|kind| **kind != json!(TYPE)) {
        let kind = quote(&kind.to_string());
        faults.source(at("type"), format!("is {kind}"), format!("leave it out, or give {TYPE:?}"));
    }
    if let Some(capabilities) = object.get("capabilities") {
        let fits = capabilities.as_object().is_some_and(|all| all.values().all(Value::is_boolean));
        if !fits {
            let remedy = "give an object of booleans: any runtime refuses the whole list otherwise";
            faults.source(at("capabilities"), "is no object of booleans", remedy);
        }
    }
    Some(object)
}
