//! What `docs/annotations.md` and `docs/cni.md` list is what there is.

use std::path::Path;

use mesh_init::cni::netconf::NetConf;
use serde_json::json;

use super::{conf, conf_text, injected, rejected};

fn document(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The names in the first column of the tables of a section.
fn rows<'a>(text: &'a str, section: &str) -> Vec<&'a str> {
    let (_, after) =
        text.split_once(&format!("\n{section}\n")).unwrap_or_else(|| panic!("expected {section}"));
    let end = after.find("\n## ").unwrap_or(after.len());
    let name = |line: &'a str| line.strip_prefix("| `")?.split_once('`').map(|(name, _)| name);
    after[..end].lines().filter_map(name).collect()
}

#[test]
fn every_annotation_that_is_listed_is_read() {
    let text = document("annotations.md");
    let ours = rows(&text, "## Ours");
    assert_eq!(ours.len(), 4, "{ours:?}");
    let istios: Vec<&str> = rows(&text, "## Istio's").into_iter().filter(|name| name.contains('/')).collect();
    assert_eq!(istios.len(), 11, "{istios:?}");
    for name in ours.iter().chain(&istios) {
        let faults = rejected(&injected(&[(name, "\u{1}{")]), &conf(&json!({}))).to_string();
        assert!(faults.contains(&format!("annotation {name}: ")), "{name}: {faults}");
        assert!(!faults.contains("is not a known annotation"), "{name}: {faults}");
    }
}

#[test]
fn every_key_that_is_listed_is_known_and_every_known_key_is_listed() {
    let text = document("cni.md");
    let listed = rows(&text, "## Network configuration");
    let all: serde_json::Map<_, _> = listed.iter().map(|key| ((*key).to_owned(), json!(5))).collect();
    let told = NetConf::parse(&conf_text(&all.into())).unwrap_err().to_string();
    assert!(!told.contains("is not a known key"), "{told}");
    let known = mesh_init::cni::netconf::OURS;
    let known = known.into_iter().chain(["capabilities"]);
    assert!(known.clone().all(|key| listed.contains(&key)), "{listed:?}");
    assert_eq!(known.count(), listed.len(), "{listed:?}");
}
