//! What stands in `cni-conf` and `deploy/kubernetes` is what the program makes, takes and understands.

use std::fs;
use std::path::{Path, PathBuf};

use mesh_init::cli::{self, Parsed};
use mesh_init::cni::conflist::edit::{self, Entry};
use mesh_init::cni::conflist::{Runtime, load, request};
use serde_json::Value;

use crate::cli::program::mesh_init;

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.as_ref().display()))
}

fn given(words: &[&str]) -> cli::install::Texts {
    match cli::parse(["mesh-init"].into_iter().chain(words.iter().copied()).map(Into::into)) {
        Parsed::Install(given) | Parsed::Uninstall(given) => given,
        other @ (Parsed::Call { .. }
        | Parsed::Explain { .. }
        | Parsed::Trace { .. }
        | Parsed::Cni
        | Parsed::Istio(_)
        | Parsed::Answer(_)
        | Parsed::Misuse(_)) => panic!("{words:?}: {other:?}"),
    }
}

fn install(words: &[&str]) -> request::Install {
    let words: Vec<&str> = ["install"].into_iter().chain(words.iter().copied()).collect();
    request::install(&given(&words), None).unwrap_or_else(|faults| panic!("{words:?}: {faults}"))
}

#[test]
fn the_template_is_what_install_writes() {
    let template: Entry = serde_json::from_str(&read(project("cni-conf/mesh-init.json"))).unwrap();
    assert_eq!(install(&[]).entry, template);
    assert_eq!(edit::drop_in(&template), read(project("cni-conf/mesh-init.json")));
}

/// Each example is its vendor's file (the fuzzers' seeds have it) with our entry as `install` puts it there.
#[test]
fn the_examples_are_what_install_makes_of_their_vendors() {
    let mut seen = 0;
    for entry in fs::read_dir(project("cni-conf/examples")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "conflist") {
            continue;
        }
        let text = read(&path);
        let vendor = read(project("fuzz/seeds/conflist").join(path.file_name().unwrap()));
        let list = load::list(&text).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
        assert!(list.items().len() >= 2 && list.items().last().unwrap().is_ours(), "{}", path.display());
        assert_eq!(edit::without(&text), Ok(Some(vendor.clone())), "{}", path.display());
        // There are no annotations in podman.
        let words: &[&str] = if list.name == "podman" { &["--selection", "all"] } else { &[] };
        assert_eq!(edit::with(&vendor, &install(words).entry), Ok(text), "{}", path.display());
        seen += 1;
    }
    assert_eq!(seen, 8);
}

#[test]
fn the_attachment_of_multus_declares_no_annotations() {
    let yaml = read(project("cni-conf/examples/multus-attachment.yaml"));
    let (_, config) =
        yaml.split_once("config: |-\n").expect("the attachment has its configuration as a block");
    let list = load::list(config).expect("a block of JSON");
    let [first, ours] = list.items() else { panic!("{list:?}") };
    assert!(!first.is_ours() && ours.is_ours());
    let entry: Value = serde_json::from_str(&config[ours.value.span.clone()]).unwrap();
    // The runtime would not set what is declared, and what is missing is decided on.
    assert_eq!(entry.get("capabilities"), None);
    assert_eq!((&entry["selection"], &entry["onMissingAnnotations"]), (&"all".into(), &"skip".into()));
}

/// The arguments in the manifests are read by this very program.
#[test]
fn the_manifests_call_what_there_is() {
    let mut calls = Vec::new();
    for file in ["install.yaml", "uninstall.yaml"] {
        let text = read(project("deploy/kubernetes").join(file));
        for line in text.lines().filter_map(|line| line.trim().strip_prefix("args: [")?.strip_suffix(']')) {
            let words: Vec<String> = line.split(", ").map(|word| word.trim_matches('"').to_owned()).collect();
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let given = given(&words);
            let (places, every) = match words[0] {
                "install" => request::install(&given, None).map(|install| (install.places, install.every)),
                _ => request::uninstall(&given).map(|uninstall| (uninstall.places, uninstall.every)),
            }
            .unwrap_or_else(|faults| panic!("{line}: {faults}"));
            assert_eq!(places.root, Path::new("/host"), "{line}");
            // Every folder that it reaches is mounted.
            for folder in [&places.bin_dir, &places.net_dir] {
                assert!(
                    text.contains(&format!("mountPath: /host{}}}", folder.display())),
                    "{line}: {folder:?}"
                );
            }
            calls.push((words[0].to_owned(), every.is_some()));
        }
        assert!(text.contains(&format!("image: mesh-init:{}", env!("CARGO_PKG_VERSION"))), "{file}");
    }
    let expected = [("install", false), ("install", true), ("uninstall", false), ("uninstall", true)];
    assert_eq!(calls, expected.map(|(verb, every)| (verb.to_owned(), every)));
}

#[test]
fn options_make_the_entry() {
    let words = [
        "--selection",
        "ALL",
        "--exclude-namespace",
        "b,a",
        "--exclude-namespace",
        "b, c",
        "--backend",
        "iptables",
    ];
    let request = install(&[&words[..], &["--runtime", "crio", "--chain", "auto", "--every", "5"]].concat());
    let expected = r#"{"type":"mesh-init","capabilities":{"io.kubernetes.cri.pod-annotations":true},"selection":"all","excludeNamespaces":["b","a","c"],"backend":"iptables"}"#;
    assert_eq!(serde_json::to_string(&request.entry).unwrap(), expected);
    assert_eq!((request.runtime, request.chain, request.every.unwrap().as_secs()), (Runtime::Crio, None, 5));
    for backend in ["nftables", "iptables", "ebpf"] {
        let entry = install(&["--backend", backend]).entry;
        assert_eq!(entry.get("backend").and_then(|value| value.as_str()), Some(backend));
    }
    let delivered = |words: &[&str]| install(words).entry["capabilities"].clone();
    let annotations = serde_json::json!({ "io.kubernetes.cri.pod-annotations": true });
    assert_eq!(delivered(&["--backend", "nftables"]), annotations);
    let both = serde_json::json!({ "io.kubernetes.cri.pod-annotations": true, "cgroupPath": true });
    assert_eq!(delivered(&["--backend", "ebpf"]), both);
    // A file's keys are beside them, and a flag wins.
    let file = |text: &str| {
        let words = ["install", "--plugin-config", "/f.json", "--selection", "istio"];
        request::install(&given(&words), Some(Ok(text.to_owned())))
    };
    assert_eq!(file(r#"{"backend":"ebpf"}"#).unwrap().entry["capabilities"], both);
    let given = r#"{"backend":"ebpf","capabilities":{"ips":true}}"#;
    assert_eq!(file(given).unwrap().entry["capabilities"], serde_json::json!({ "ips": true }));
    let request =
        file(r#"{"type":"mesh-init","selection":"all","capabilities":{},"policy":{"proxy":{"port":15001}}}"#);
    let expected =
        r#"{"type":"mesh-init","capabilities":{},"selection":"istio","policy":{"proxy":{"port":15001}}}"#;
    assert_eq!(serde_json::to_string(&request.unwrap().entry).unwrap(), expected);
    for (text, told) in [
        ("[1]", "/f.json: is no JSON object"),
        ("{", "/f.json: is no JSON: line 1 column 2"),
        (r#"{"a":1,"a":2}"#, "/f.json a: stands twice"),
        (r#"{"type":"bridge"}"#, "/f.json type: is"),
        (r#"{"capabilities":{"a":1}}"#, "/f.json capabilities: is no object of booleans"),
        (r#"{"name":"x","prevResult":{}}"#, "/f.json name: is for the runtime to say"),
        // What the plugin itself would refuse, for every pod.
        (r#"{"selecton":"all"}"#, "netconf selecton: is not a known key: did you mean selection?"),
        (r#"{"policy":{"proxy":{"port":0}}}"#, "netconf policy.proxy.port: \"0\" is not a port"),
        (r#"{"backend":"nftable"}"#, "netconf backend: \"nftable\""),
    ] {
        let faults = file(text).unwrap_err().to_string();
        assert!(faults.starts_with(told), "{text}: {faults}");
    }
}

#[test]
fn faults_are_told_at_once() {
    let words = [
        "install",
        "--drop-in",
        "x",
        "--runtime",
        "docker",
        "--bin-dir",
        "opt",
        "--wait",
        "9999999",
        "--backend",
        "a",
        "--backend",
        "b",
    ];
    let run = mesh_init(&words).code(64);
    for flag in [
        "--drop-in",
        "--runtime",
        "--bin-dir",
        "--wait",
        "--backend: \"a\"",
        "--backend: \"b\" is given more than once",
    ] {
        assert!(run.stderr.contains(flag), "{flag}: {run}");
    }
    assert_eq!(run.stderr.lines().count(), 6, "{run}");
    let run = mesh_init(&["uninstall", "--wait-for-pods", "soon", "--output", "json"]).code(64);
    let error: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!((&error["schema"], &error["exitCode"]), (&"mesh-init/error/v1".into(), &64.into()));
    mesh_init(&["install", "--plugin-config", "/no/such/file"]).code(64);
    // No option of the one is one of the other.
    for words in
        [["install", "--wait-for-pods", "1"], ["uninstall", "--chain", "a"], ["install", "-p", "15001"]]
    {
        assert!(mesh_init(&words).code(64).stderr.contains("error:"));
    }
}
