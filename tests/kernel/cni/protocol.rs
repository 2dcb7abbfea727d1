//! Environment, names, standard input, versions, gates, results and errors.

use std::fs::File;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use super::runtime::{ALL, Call, VERSIONS, conf, conf_after_add, previous};
use crate::harness::Case;
use crate::support::netns::Netns;
use crate::support::rules::dump;

/// Verbs and the variables that each must have.
const NEEDS: [(&str, &[&str]); 6] = [
    ("ADD", &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"]),
    ("CHECK", &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"]),
    ("DEL", &["CNI_CONTAINERID", "CNI_IFNAME"]),
    ("GC", &[]),
    ("STATUS", &[]),
    ("VERSION", &[]),
];
/// What may be there and is needed by nobody.
const OPTIONAL: [&str; 2] = ["CNI_PATH", "CNI_ARGS"];

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut case = |name: String, body: Box<dyn Fn()>| cases.push(Case::new(&format!("cni::{name}"), body));
    for (verb, needs) in NEEDS {
        for name in needs {
            case(format!("env::{verb}_without_{name}"), Box::new(|| missing(verb, name)));
            case(format!("env::{verb}_with_empty_{name}"), Box::new(|| empty(verb, name)));
        }
        for name in OPTIONAL {
            case(format!("env::{verb}_needs_no_{name}"), Box::new(move || optional(verb, name)));
        }
    }
    for version in VERSIONS {
        let verbs =
            [("ADD", "0.3.0"), ("DEL", "0.3.0"), ("CHECK", "0.4.0"), ("GC", "1.1.0"), ("STATUS", "1.1.0")];
        for (verb, since) in verbs {
            case(
                format!("version::{verb}_of_{version}"),
                Box::new(move || gate(verb, version, version >= since)),
            );
        }
        case(format!("result::echoed_in_{version}"), Box::new(move || echoed(version)));
        case(
            format!("result::echoed_when_skipped_in_{version}"),
            Box::new(move || echoed_when_skipped(version)),
        );
        case(format!("result::empty_in_{version}"), Box::new(move || empty_result(version)));
        case(format!("result::errors_in_{version}"), Box::new(move || error_of(version)));
    }
    for version in ["", "0.1.0", "0.2.0", "1.2.0", "2.0.0", "1.0", "1.0.0-rc1", "v1.0.0"] {
        case(format!("version::refused_{version:?}"), Box::new(move || refused(version)));
    }
    let list: [(&str, fn()); 21] = [
        ("env::all_that_is_missing_is_one_message", all_missing),
        ("env::unknown_commands", unknown_commands),
        ("env::no_command_tells_about_the_plugin", about),
        ("env::arguments_are_a_persons", arguments_are_a_persons),
        ("env::called_as_istio_iptables", called_as_istio_iptables),
        ("env::container_ids", container_ids),
        ("env::interface_names", interface_names),
        ("env::network_names", network_names),
        ("env::arguments_of_any_kind", arguments_of_any_kind),
        ("stdin::empty", || stdin(b"", 6)),
        ("stdin::no_json", || stdin(b"{\"cniVersion\":", 6)),
        ("stdin::no_object", || stdin(b"[]", 6)),
        ("stdin::no_utf8", || stdin(b"{\"name\":\"\xff\"}", 6)),
        ("stdin::keys_of_the_wrong_type", || stdin(b"{\"cniVersion\":1,\"name\":\"net\"}", 6)),
        ("stdin::too_large", too_large),
        ("stdin::unreadable", unreadable),
        ("version::version_never_reads", version_never_reads),
        ("version::version_as_runtimes_ask", version_as_runtimes_ask),
        ("result::untouched_to_the_byte", untouched),
        ("result::version_added_where_there_is_none", version_added),
        ("result::no_object", no_object),
    ];
    cases.extend(list.map(|(name, body)| Case::new(&format!("cni::{name}"), body)));
    cases
}

fn call(verb: &str, pod: &Netns) -> Call {
    let conf = conf_after_add("1.1.0", &format!(r#"{ALL},"cni.dev/valid-attachments":[]"#));
    Call::about(verb, pod).conf(conf)
}

/// The variable is named in the message, and nothing is done.
fn missing(verb: &str, name: &str) {
    let pod = Netns::new("pod");
    let before = dump(&pod);
    let answer = call(verb, &pod).without(name).run();
    answer.fails(4).says(name).says("\"cniVersion\":\"1.1.0\"");
    assert_eq!(before, dump(&pod));
}

fn empty(verb: &str, name: &str) {
    call(verb, &Netns::new("pod")).env(name, "").run().fails(4).says(name);
}

fn optional(verb: &str, name: &str) {
    let pod = Netns::new("pod");
    if verb == "CHECK" {
        call("ADD", &pod).run().ok();
    }
    call(verb, &pod).without(name).run().ok();
    call(verb, &pod).env(name, "").run().ok();
}

fn all_missing() {
    for (verb, needs) in NEEDS {
        let answer = Call::bare(verb).run();
        if needs.is_empty() {
            answer.ok();
            continue;
        }
        answer.fails(4);
        for name in needs {
            answer.says(name);
        }
        // What is bad is in the same message.
        let answer = Call::bare(verb).env("CNI_IFNAME", "a/b").run();
        answer.fails(4).says("CNI_CONTAINERID").says("a/b");
    }
}

fn unknown_commands() {
    for verb in ["add", "FOO", " ADD", "ADD ", "VERSION\n", "\u{1f41f}"] {
        call(verb, &Netns::new("pod")).run().fails(4).says("CNI_COMMAND");
    }
}

/// With and without a terminal's word, and nothing is read.
fn about() {
    let calls =
        [Call::bare("").args(&["cni"]), Call::bare("").without("CNI_COMMAND").args(&["cni"]), Call::bare("")];
    for call in calls {
        let running = call.start();
        let answer = running.finish();
        answer.silent();
        assert!(answer.took < Duration::from_secs(4), "it waited: {answer}");
        for word in VERSIONS {
            assert!(answer.stderr.contains(word), "{answer}");
        }
    }
}

/// A verb or a flag that somebody types means what it says, whatever the environment holds.
fn arguments_are_a_persons() {
    let pod = Netns::new("pod");
    let answer = call("ADD", &pod).args(&["plan", "-p", "15001", "-u", "1337"]).run();
    assert!(answer.ok().contains("* nat"), "{answer}");
    let answer = call("ADD", &pod).args(&["--version"]).run();
    assert!(answer.ok().starts_with("mesh-init "), "{answer}");
    // `cni` alone is a call all the same, and takes no arguments.
    call("ADD", &pod).args(&["cni"]).run().ok();
    assert!(dump(&pod).contains("mesh_init"));
    let answer = call("VERSION", &pod).args(&["cni", "--help"]).run();
    assert!(answer.ok().contains("CNI_COMMAND"), "{answer}");
    let answer = call("VERSION", &pod).args(&["cni", "-p", "15001"]).run();
    assert!(!answer.stdout.contains("supportedVersions") && !answer.stderr.is_empty(), "{answer}");
}

fn called_as_istio_iptables() {
    let pod = Netns::new("pod");
    let link = "/run/istio-iptables";
    std::os::unix::fs::symlink(crate::support::command::MESH_INIT, link).expect("a link");
    // By that name, no argument is a call of istio-iptables with its defaults.
    let answer = call("VERSION", &pod).through(&["sh", "-c", "exec /run/istio-iptables", "sh"]).run();
    assert!(!answer.stdout.contains("supportedVersions"), "{answer}");
}

fn container_ids() {
    let pod = Netns::new("pod");
    for good in ["a", "0", "A.b_c-d", "cnitool-0123456789abcdef0123", &"f".repeat(64)] {
        call("ADD", &pod).env("CNI_CONTAINERID", good).run().ok();
    }
    for bad in ["-a", ".a", "_a", "a/b", "a b", "a\n", "a:b", "\u{e4}", "a;b", "..", &"f".repeat(2000)] {
        for verb in ["ADD", "DEL", "CHECK"] {
            call(verb, &pod).env("CNI_CONTAINERID", bad).run().fails(4).says("CNI_CONTAINERID");
        }
    }
}

fn interface_names() {
    let pod = Netns::new("pod");
    for good in ["eth0", "a", "eth0.100", "123456789012345", "net-1_x"] {
        call("ADD", &pod).env("CNI_IFNAME", good).run().ok();
    }
    for bad in [".", "..", "a/b", "a:b", "a b", "a\tb", "1234567890123456", "eth0\n"] {
        for verb in ["ADD", "DEL", "CHECK"] {
            call(verb, &pod).env("CNI_IFNAME", bad).run().fails(4).says("CNI_IFNAME");
        }
    }
}

fn network_names() {
    let pod = Netns::new("pod");
    let with = |name: &str| conf_after_add("1.1.0", ALL).replace(r#""name":"net""#, name);
    for good in ["a", "0", "a.b_c-d", "k8s-pod-network"] {
        call("ADD", &pod).conf(with(&format!(r#""name":"{good}""#))).run().ok();
    }
    for bad in [
        r#""name":"""#,
        r#""name":null"#,
        r#""args":{}"#,
        r#""name":"-a""#,
        r#""name":"a/b""#,
        r#""name":"a b""#,
    ] {
        for verb in ["ADD", "DEL", "CHECK", "GC", "STATUS"] {
            call(verb, &pod).conf(with(bad)).run().fails(7).says("name");
        }
    }
}

/// Values with `=`, a trailing semicolon, any order, unknown keys without `IgnoreUnknown`: all refused by the Go library.
fn arguments_of_any_kind() {
    let pod = Netns::new("pod");
    let texts = [
        "K8S_POD_NAME=web;K8S_POD_NAMESPACE=demo",
        "K8S_POD_NAMESPACE=demo;IgnoreUnknown=1;K8S_POD_NAME=web;",
        "FOO=a=b=c;K8S_POD_NAMESPACE=demo;K8S_POD_NAME=web;nonsense;;=",
        "IP=10.0.0.1;K8S_POD_NAMESPACE=demo;K8S_POD_INFRA_CONTAINER_ID=x;K8S_POD_NAME=web",
    ];
    for text in texts {
        let answer = call("ADD", &pod).env("CNI_ARGS", text).run();
        answer.ok();
        let line = answer.log();
        assert_eq!((&line["namespace"], &line["pod"]), (&"demo".into(), &"web".into()), "{answer}");
    }
    let answer =
        call("ADD", &pod).env("CNI_ARGS", "K8S_POD_NAMESPACE=demo;K8S_POD_NAME=a=b==c;K8S_POD_UID==").run();
    answer.ok();
    let line = answer.log();
    assert_eq!((&line["pod"], &line["uid"]), (&"a=b==c".into(), &"=".into()), "{answer}");
    // What decides is the exact value, up to the semicolon.
    let excluded = conf_after_add("1.1.0", r#","selection":"all","excludeNamespaces":["demo"]"#);
    for (text, decision) in [
        ("K8S_POD_NAMESPACE=demo;K8S_POD_NAME=web", "skip"),
        ("K8S_POD_NAMESPACE=demo=;K8S_POD_NAME=web", "capture"),
        ("K8S_POD_NAMESPACE=demo ;K8S_POD_NAME=web", "capture"),
        ("X=K8S_POD_NAMESPACE=demo;K8S_POD_NAME=web", "capture"),
    ] {
        let answer = call("ADD", &pod).env("CNI_ARGS", text).conf(excluded.clone()).run();
        answer.ok();
        assert_eq!(answer.log()["decision"], decision, "{text}: {answer}");
    }
}

fn stdin(text: &[u8], code: u32) {
    let pod = Netns::new("pod");
    let before = dump(&pod);
    for verb in ["ADD", "DEL", "CHECK", "GC", "STATUS"] {
        call(verb, &pod).conf(text).run().fails(code);
    }
    call("VERSION", &pod).conf(text).run().ok();
    assert_eq!(before, dump(&pod));
}

fn too_large() {
    let pod = Netns::new("pod");
    let text = conf("1.1.0", &format!(r#","args":{{"a":"{}"}}"#, "x".repeat(33 << 20)));
    let answer = call("ADD", &pod).conf(text).run();
    answer.fails(6).says("32 MiB");
    assert!(answer.took < Duration::from_secs(5), "{answer}");
}

fn unreadable() {
    let pod = Netns::new("pod");
    let folder = File::open("/run").expect("a folder");
    call("ADD", &pod).run_with(Stdio::from(folder)).fails(5);
    call("ADD", &pod).run_with(Stdio::null()).fails(6);
}

fn gate(verb: &str, version: &str, allowed: bool) {
    let pod = Netns::new("pod");
    if verb == "CHECK" {
        call("ADD", &pod).run().ok();
    }
    let text = conf_after_add(version, &format!(r#"{ALL},"cni.dev/valid-attachments":[]"#));
    let answer = call(verb, &pod).conf(text).run();
    if allowed {
        assert_eq!(answer.ok().is_empty(), verb != "ADD", "{answer}");
    } else {
        answer.fails(1).says(verb).says(&format!("\"cniVersion\":\"{version}\""));
    }
}

fn refused(version: &str) {
    let pod = Netns::new("pod");
    let before = dump(&pod);
    let mut text = conf_after_add(version, ALL);
    if version.is_empty() {
        // No version at all means 0.1.0.
        text = text.replace(r#""cniVersion":"","#, "");
    }
    for verb in ["ADD", "DEL", "CHECK", "GC", "STATUS"] {
        let answer = call(verb, &pod).conf(text.clone()).run();
        answer.fails(1);
        for spoken in VERSIONS {
            answer.says(spoken);
        }
    }
    assert_eq!(before, dump(&pod));
}

/// A pipe that stays open and holds nothing.
fn version_never_reads() {
    let answer = Call::bare("VERSION").start().finish();
    let said: Value = serde_json::from_str(answer.ok()).expect("JSON");
    assert_eq!(said, serde_json::json!({ "cniVersion": "1.1.0", "supportedVersions": VERSIONS }));
    assert!(answer.took < Duration::from_secs(4), "it waited: {answer}");
    assert_eq!(answer.stderr, "");
}

/// libcni and podman set everything to `dummy` and send a configuration without a name.
fn version_as_runtimes_ask() {
    let call = Call::at("VERSION", "dummy".as_ref()).env("CNI_IFNAME", "dummy").env("CNI_PATH", "dummy");
    for text in [r#"{"cniVersion":"1.0.0"}"#, r#"{"cniVersion":"9.9.9"}"#, "", "garbage"] {
        let answer = call.clone().conf(text).run();
        let said: Value = serde_json::from_str(answer.ok()).expect("JSON");
        assert_eq!(said["supportedVersions"], serde_json::json!(VERSIONS));
    }
}

fn echoed(version: &str) {
    let pod = Netns::new("pod");
    let answer = call("ADD", &pod).conf(conf_after_add(version, ALL)).run();
    assert_eq!(answer.ok(), previous(version) + "\n");
    assert!(dump(&pod).contains("mesh_init"), "captured beside");
}

fn echoed_when_skipped(version: &str) {
    let pod = Netns::new("pod");
    let before = dump(&pod);
    let skipped = r#","selection":"annotation","runtimeConfig":{"io.kubernetes.cri.pod-annotations":{}}"#;
    let answer = call("ADD", &pod).conf(conf_after_add(version, skipped)).run();
    assert_eq!(answer.ok(), previous(version) + "\n");
    assert_eq!(answer.log()["decision"], "skip");
    assert_eq!(before, dump(&pod));
}

/// A plugin that stands alone answers with nothing in its configuration's version.
fn empty_result(version: &str) {
    for more in [ALL.to_owned(), format!(r#"{ALL},"prevResult":null"#)] {
        let answer = call("ADD", &Netns::new("pod")).conf(conf(version, &more)).run();
        assert_eq!(answer.ok(), format!("{{\"cniVersion\":\"{version}\"}}\n"));
    }
}

fn error_of(version: &str) {
    let answer = call("ADD", &Netns::new("pod")).conf(conf(version, r#","selection":"nonsense""#)).run();
    answer.fails(7).says(&format!("\"cniVersion\":\"{version}\"")).says("selection");
}

/// Blanks, the order of keys, numbers as they are written, escapes, keys that nobody knows.
fn untouched() {
    let odd = "{ \"z\" : [ 1.0e+02 , 12345678901234567890123 , -0 ] ,\n\t\"ips\":[],\"cniVersion\":\"1.1.0\",\"a\":{\"b\":1,\"a\":2},\"\\u00e9\":\"\\/\" }";
    let text = conf("1.1.0", &format!("{ALL},\"prevResult\":  {odd}  "));
    let answer = call("ADD", &Netns::new("pod")).conf(text).run();
    assert_eq!(answer.ok(), format!("{odd}\n"));
}

fn version_added() {
    for (given, expected) in [
        (r#"{"ips":[]}"#, r#"{"cniVersion":"0.4.0","ips":[]}"#),
        (r#"{"CNIVersion":"0.4.0","ips":[]}"#, r#"{"CNIVersion":"0.4.0","ips":[]}"#),
        ("{}", r#"{"cniVersion":"0.4.0"}"#),
    ] {
        let text = conf("0.4.0", &format!(r#"{ALL},"prevResult":{given}"#));
        let answer = call("ADD", &Netns::new("pod")).conf(text).run();
        assert_eq!(answer.ok(), format!("{expected}\n"));
    }
}

fn no_object() {
    let pod = Netns::new("pod");
    let before = dump(&pod);
    for given in ["1", "[]", "\"x\"", "true"] {
        let text = conf("1.1.0", &format!(r#"{ALL},"prevResult":{given}"#));
        call("ADD", &pod).conf(text.clone()).run().fails(7).says("prevResult");
        call("CHECK", &pod).conf(text.clone()).run().fails(7);
        // A pod's end does not depend on it.
        call("DEL", &pod).conf(text).run().silent();
    }
    assert_eq!(before, dump(&pod));
}
