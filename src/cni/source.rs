//! What somebody hands over to ask about a pod: its manifest, a network configuration that a plugin was given, or what
//! libcni remembers of an attachment.

use std::collections::BTreeMap;

use serde_json::Value;

use super::manifest::Manifest;
use super::pod::{Annotations, CAPABILITY, PodFacts};
use crate::input::fault::quote;
use crate::input::{plain, yaml};

/// The type under which a network configuration names this plugin.
pub const PLUGIN: &str = "mesh-init";

/// What was handed over.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// A manifest of a pod, or of what makes pods.
    Manifest(Box<Manifest>),
    /// A plugin's network configuration, as JSON.
    Conf(Value),
    /// What libcni remembers.
    Cached(Box<Cached>),
}

/// An attachment that libcni remembers (`cniCacheV1` in libcni/api.go).
#[derive(Debug, Clone, PartialEq)]
pub struct Cached {
    /// The pod, with the annotations that the runtime passed to the chain.
    pub pod: PodFacts,
    /// Our part of the configuration at that time; `None` if the plugin was not in the chain.
    pub conf: Option<Value>,
}

/// Reads YAML or JSON.
///
/// # Errors
/// What it is instead, in words that follow its name.
pub fn read(text: &str) -> Result<Source, String> {
    let documents = match serde_json::from_str::<Value>(text) {
        Ok(document) => vec![document],
        Err(_) => yaml::parse(text)?,
    };
    let [first, ..] = documents.as_slice() else { return Err("is empty".to_owned()) };
    let kind = first.get("kind").and_then(Value::as_str);
    if kind == Some("cniCacheV1") {
        return cached(first).map(|cached| Source::Cached(Box::new(cached)));
    }
    if kind.is_none() && ["cniVersion", "type", "plugins"].iter().any(|key| first.get(key).is_some()) {
        return Ok(Source::Conf(first.clone()));
    }
    let pods = documents.iter().flat_map(Manifest::templates).collect::<Vec<_>>();
    match pods.as_slice() {
        [] => Err("is neither a manifest with a pod nor a plugin's network configuration".to_owned()),
        [pod] => Manifest::of(pod).map(|manifest| Source::Manifest(Box::new(manifest))),
        more => Err(format!("has {} pods: one at a time", more.len())),
    }
}

/// Our part of a configuration: of a list the plugin of our type, with what a runtime adds to it; else the whole.
///
/// # Errors
/// A list without us.
pub fn plugin(conf: &Value) -> Result<Value, String> {
    let Some(plugins) = conf.get("plugins").and_then(Value::as_array) else { return Ok(conf.clone()) };
    let is_ours = |plugin: &&Value| plugin.get("type").is_some_and(|of| of == PLUGIN);
    let mut ours = plugins.iter().find(is_ours).cloned().ok_or(format!("has no plugin of type {PLUGIN}"))?;
    if let Value::Object(members) = &mut ours {
        for key in ["cniVersion", "name"] {
            if let Some(value) = conf.get(key) {
                members.insert(key.to_owned(), value.clone());
            }
        }
    }
    Ok(ours)
}

/// Whether a configuration asks the runtime for annotations.
#[must_use]
pub fn declares(plugin: &Value) -> bool {
    plugin.get("capabilities").and_then(|all| all.get(CAPABILITY)) == Some(&Value::Bool(true))
}

/// The pod that `CNI_ARGS` names; keys that are not the pod's are passed over.
#[must_use]
pub fn named<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> PodFacts {
    let mut pod = PodFacts::default();
    for (key, value) in pairs {
        let value = Some(value.to_owned()).filter(|value| !value.is_empty());
        match key {
            "K8S_POD_NAMESPACE" => pod.namespace = value,
            "K8S_POD_NAME" => pod.name = value,
            "K8S_POD_UID" => pod.uid = value,
            _ => {}
        }
    }
    pod
}

fn cached(tree: &Value) -> Result<Cached, String> {
    let args = tree.get("cniArgs").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let pair = |item: &'_ Value| Some((item.get(0)?.as_str()?.to_owned(), item.get(1)?.as_str()?.to_owned()));
    let pairs: Vec<(String, String)> = args.iter().filter_map(pair).collect();
    let mut pod = named(pairs.iter().map(|(key, value)| (key.as_str(), value.as_str())));
    pod.annotations = match tree.get("capabilityArgs").and_then(|all| all.get(CAPABILITY)) {
        None => Annotations::Absent,
        Some(Value::Object(all)) => strings(all.iter(), "capabilityArgs")?,
        Some(_) => Annotations::Delivered(BTreeMap::new()),
    };
    let conf = tree.get("config").and_then(Value::as_str).ok_or("has no configuration")?;
    let conf = base64(conf).ok_or("has a configuration that is not base64")?;
    let conf: Value = serde_json::from_slice(&conf)
        .map_err(|why| format!("has a configuration that is not JSON: {why}"))?;
    Ok(Cached { pod, conf: plugin(&conf).ok() })
}

/// Names and values of annotations.
pub(super) fn strings<'a>(
    all: impl Iterator<Item = (&'a String, &'a Value)>,
    place: &str,
) -> Result<Annotations, String> {
    let text = |(name, value): (&'a String, &'a Value)| match value.as_str() {
        Some(text) => Ok((name.clone(), text.to_owned())),
        None => Err(format!("{place} {}: is not a string, which the API server refuses", plain(name))),
    };
    all.map(text).collect::<Result<_, _>>().map(Annotations::Delivered)
}

/// Base64 with padding (RFC 4648 section 4), as Go's encoding/json writes bytes.
fn base64(text: &str) -> Option<Vec<u8>> {
    let body = text.trim_end_matches('=');
    if !text.len().is_multiple_of(4) || text.len() - body.len() > 2 {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut held) = (0u32, 0u32);
    for byte in body.bytes() {
        let digit = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6 | u32::from(digit)) & 0x3fff;
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push(u8::try_from(bits >> held & 0xff).ok()?);
        }
    }
    Some(bytes)
}

/// The parts of `NAMESPACE/NAME`.
#[must_use]
pub fn name(text: &str) -> Option<(&str, &str)> {
    let plain = |part: &str| {
        let fits =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
        !part.is_empty() && part.len() <= 253 && part.bytes().all(fits) && !part.starts_with('.')
    };
    text.split_once('/').filter(|(namespace, name)| plain(namespace) && plain(name))
}

/// Says which pod was looked for and not found.
#[must_use]
pub fn not_found(text: &str, folder: &str) -> String {
    format!(
        "{} is neither a file nor a pod that is attached here, by what libcni keeps in {folder}",
        quote(text)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_rfc_4648s() {
        for (text, want) in [
            ("", Some("")),
            ("Zg==", Some("f")),
            ("Zm8=", Some("fo")),
            ("Zm9v", Some("foo")),
            ("Zm9vYmE=", Some("fooba")),
            ("eyJhIjoiPz4ifQ==", Some(r#"{"a":"?>"}"#)),
            ("Zm9", None),
            ("Zm9v=", None),
            ("Z===", None),
            ("Zm-v", None),
        ] {
            assert_eq!(base64(text).as_deref(), want.map(str::as_bytes), "{text}");
        }
    }

    #[test]
    fn names_are_a_namespace_and_a_pod() {
        assert_eq!(name("shop/cart-0"), Some(("shop", "cart-0")));
        for text in ["shop", "/x", "x/", "a/b/c", "./cart", "../x", "Shop/cart"] {
            assert_eq!(name(text), None, "{text}");
        }
    }
}
