//! `explain --pod`: what the CNI plugin decides, from files.

use serde_json::{Value, json};

use super::program::{Files, Run, mesh_init, mesh_init_with};

const SIDECAR: (&str, &str) = ("sidecar.istio.io/status", r#"{"containers":["istio-proxy"]}"#);

fn manifest(annotations: &Value, spec: Value) -> String {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "cart", "namespace": "shop", "annotations": annotations }, "spec": spec,
    })
    .to_string()
}

fn asked(file: &str, more: &[&str]) -> Run {
    mesh_init(&[&["explain", "--pod", file], more].concat())
}

#[test]
fn a_manifest_is_judged_with_its_connections() {
    let files = Files::new();
    let annotations =
        json!({ SIDECAR.0: SIDECAR.1, "traffic.sidecar.istio.io/excludeOutboundPorts": "5432" });
    let file = files.write("pod.json", manifest(&annotations, json!({})));
    let text = asked(&file, &["out", "tcp", "10.1.2.3:5432", "in", "tcp", "10.0.0.5:8080"]).ok();
    for says in [
        "captured: pod shop/cart\n  annotation sidecar.istio.io/status: it has a sidecar of Istio's\n",
        "--exclude-outbound-port \"5432\"  annotation traffic.sidecar.istio.io/excludeOutboundPorts\n",
        "not captured: out tcp uid=1000 10.1.2.3:5432\n",
        "because of annotation traffic.sidecar.istio.io/excludeOutboundPorts \"5432\"\n",
        "captured -> 15006: in tcp",
    ] {
        assert!(text.contains(says), "{says}\nmissing in\n{text}");
    }
    let none = files.write("none.json", manifest(&json!({}), json!({})));
    let text = asked(&none, &["out", "tcp", "10.1.2.3:80"]).ok();
    assert!(
        text.starts_with("not captured: pod shop/cart\n  no annotation sidecar.istio.io/status"),
        "{text}"
    );
    assert!(text.contains("not captured: out tcp uid=1000 10.1.2.3:80"), "{text}");
}

#[test]
fn refused_and_unknown_pods_have_exit_codes_of_their_own() {
    let files = Files::new();
    let wrong =
        json!({ SIDECAR.0: SIDECAR.1, "traffic.sidecar.istio.io/includeInboundPorts": "80\n-j ACCEPT" });
    let file = files.write("pod.json", manifest(&wrong, json!({})));
    let run = asked(&file, &["out", "tcp", "10.1.2.3:80"]).code(64);
    assert!(run.stdout.starts_with("does not start: pod shop/cart\n  annotation traffic"), "{run}");
    assert!(run.stdout.contains(r#""80\n-j ACCEPT" is not a port"#), "{run}");
    let conf = json!({ "cniVersion": "1.0.0", "name": "n", "plugins": [
        { "type": "bridge" }, { "type": "mesh-init", "selection": "annotation" },
    ]});
    let netconf = files.write("10-n.conflist", conf.to_string());
    let run = asked(&file, &["--netconf", &netconf]).code(75);
    assert!(run.stdout.starts_with("does not start yet: pod shop/cart"), "{run}");
    assert!(run.stdout.contains("does not declare the capability"), "{run}");
}

#[test]
fn the_configuration_in_use_decides() {
    let files = Files::new();
    let file = files.write("pod.json", manifest(&json!({ "mesh-init.io/capture": "enabled" }), json!({})));
    assert!(asked(&file, &[]).ok().starts_with("not captured"));
    let plugin = json!({
        "type": "mesh-init", "selection": "annotation", "policy": { "proxy": { "port": 15011 } },
        "capabilities": { "io.kubernetes.cri.pod-annotations": true },
    });
    let conf = json!({ "cniVersion": "1.0.0", "name": "n", "plugins": [{ "type": "bridge" }, plugin] });
    for conf in [conf, plugin] {
        let netconf = files.write("conf", conf.to_string());
        let text = asked(&file, &["--netconf", &netconf]).ok();
        assert!(text.contains("--proxy-port \"15011\"  netconf policy.proxy.port"), "{text}");
    }
    let other = files.write("other", json!({ "plugins": [{ "type": "bridge" }] }).to_string());
    asked(&file, &["--netconf", &other])
        .refused(&[&format!("--netconf {other:?} has no plugin of type mesh-init")]);
    let wrong = files.write("wrong", json!({ "type": "mesh-init", "selecton": "all" }).to_string());
    let run = asked(&file, &["--netconf", &wrong]);
    assert!(run.stderr.contains("netconf selecton: is not a known key: did you mean selection?"), "{run}");
}

#[test]
fn what_a_plugin_never_hears_is_said_with_the_annotation_to_set() {
    let files = Files::new();
    let proxy = |more: Value| {
        let mut proxy = json!({ "name": "istio-proxy" });
        proxy.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({ "containers": [{ "name": "app" }, proxy] })
    };
    let env = |name: &str| proxy(json!({ "env": [{ "name": name, "value": "true" }] }));
    for (spec, says) in [
        (
            proxy(json!({ "securityContext": { "runAsUser": 2000 } })),
            "runs as user 2000, and containers are not delivered: set annotation mesh-init.io/proxy-uid",
        ),
        (
            proxy(json!({ "securityContext": { "runAsGroup": 2001 } })),
            "set annotation mesh-init.io/proxy-gid",
        ),
        (env("ISTIO_META_DNS_CAPTURE"), "has ISTIO_META_DNS_CAPTURE"),
        (env("INVALID_DROP"), "has INVALID_DROP"),
        (env("DISABLE_ENVOY"), "has DISABLE_ENVOY"),
        (proxy(json!({ "args": ["proxy", "router"] })), "is a router"),
        (json!({ "initContainers": [{ "name": "istio-init" }] }), "container istio-init makes the rules too"),
    ] {
        let file = files.write("pod.json", manifest(&json!({ SIDECAR.0: SIDECAR.1 }), spec.clone()));
        let text = asked(&file, &[]).ok();
        assert!(text.contains(says), "{spec}\n{text}");
        assert_eq!(text.matches("note: ").count(), 2, "one beside that of the defaults: {spec}\n{text}");
    }
    let same = proxy(
        json!({ "securityContext": { "runAsUser": 1337, "runAsGroup": 0 }, "args": ["proxy", "sidecar"] }),
    );
    let file = files.write("pod.json", manifest(&json!({ SIDECAR.0: SIDECAR.1 }), same));
    assert_eq!(asked(&file, &[]).ok().matches("note: ").count(), 1);
    let host =
        files.write("host.json", manifest(&json!({ SIDECAR.0: SIDECAR.1 }), json!({ "hostNetwork": true })));
    assert!(asked(&host, &[]).ok().contains("its network is the host's, for which no plugin is called"));
}

#[test]
fn a_captured_configuration_is_judged_as_the_plugin_judged_it() {
    let files = Files::new();
    let stdin = json!({
        "cniVersion": "1.0.0", "name": "n", "type": "mesh-init",
        "runtimeConfig": { "io.kubernetes.cri.pod-annotations": { SIDECAR.0: SIDECAR.1 } }, "prevResult": {},
    });
    let file = files.write("stdin.json", stdin.to_string());
    let args = [("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=cart;K8S_POD_UID=a=b")];
    let text = mesh_init_with(&["explain", "--pod", &file], &args).ok();
    assert!(text.starts_with("captured: pod shop/cart\n"), "{text}");
    let text = asked(&file, &[]).ok();
    assert!(text.contains("no pod and namespace are named") && text.contains("CNI_ARGS"), "{text}");
}

/// Standard base64 of bytes, as libcni writes a configuration.
fn base64(text: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |bytes: &[u8]| {
        let bits = (0..3).fold(0u32, |bits, n| bits << 8 | u32::from(bytes.get(n).copied().unwrap_or(0)));
        let digit = |n: usize| match n <= bytes.len() {
            true => char::from(DIGITS[(bits >> (18 - 6 * n) & 63) as usize]),
            false => '=',
        };
        (0..4).map(digit).collect::<String>()
    };
    text.as_bytes().chunks(3).map(group).collect()
}

#[test]
fn what_libcni_remembers_of_a_pod_is_found_by_its_name() {
    let files = Files::new();
    let list = |ours: bool| {
        let mut plugins = vec![json!({ "type": "bridge" })];
        plugins.extend(ours.then(|| json!({ "type": "mesh-init", "backend": "iptables" })));
        base64(&json!({ "cniVersion": "1.0.0", "name": "n", "plugins": plugins }).to_string())
    };
    let cache = |name: &str, ours: bool| {
        json!({
            "kind": "cniCacheV1", "containerId": "c", "config": list(ours), "ifName": "eth0", "networkName": "n",
            "cniArgs": [["IgnoreUnknown", "1"], ["K8S_POD_NAMESPACE", "shop"], ["K8S_POD_NAME", name]],
            "capabilityArgs": { "io.kubernetes.cri.pod-annotations": { SIDECAR.0: SIDECAR.1 } },
        })
    };
    let folder = std::path::Path::new(&files.write("mark", "")).parent().unwrap().to_owned();
    std::fs::create_dir(folder.join("results")).unwrap();
    files.write("results/n-a-eth0", "not a cache");
    files.write("results/n-b-eth0", cache("other", true).to_string());
    let own = files.write("results/n-c-eth0", cache("cart", true).to_string());
    files.write("results/n-d-eth0", cache("early", false).to_string());
    let folder = folder.to_str().unwrap();
    let text = asked("shop/cart", &["--cni-cache", folder]).ok();
    assert!(text.starts_with("captured: pod shop/cart\n") && text.contains("back end iptables"), "{text}");
    assert_eq!(asked(&own, &[]).ok(), text);
    let text = asked("shop/early", &["--cni-cache", folder]).ok();
    assert!(text.contains("the plugin was not in the chain when the pod was attached"), "{text}");
    for missing in ["shop/none", "cart", "../cart", ""] {
        let run = asked(missing, &["--cni-cache", folder]).code(64);
        assert!(run.stderr.contains("is neither a file nor a pod that is attached here"), "{run}");
    }
}

#[test]
fn what_is_no_pod_is_refused_with_what_it_is() {
    let files = Files::new();
    for (text, says) in [
        ("", "is empty"),
        ("a: b", "is neither a manifest with a pod nor"),
        ("kind: Service", "is neither a manifest"),
        ("kind: Pod\n---\nkind: Pod\n", "has 2 pods"),
        ("kind: Pod\nmetadata: {annotations: {a: 1}}", "annotation a: is not a string"),
        ("kind: Pod\nmetadata: {annotations: [a]}", "has annotations that are not a mapping"),
        ("a: [", "is not YAML"),
        (r#"{"kind":"cniCacheV1"}"#, "has no configuration"),
        (r#"{"kind":"cniCacheV1","config":"?"}"#, "is not base64"),
    ] {
        let file = files.write("pod", text);
        let run = asked(&file, &[]).code(64);
        assert!(run.stderr.contains(says), "{text:?}: {run}");
    }
    let file = files.write("pod", manifest(&json!({}), json!({})));
    asked(&file, &["--proxy-port", "1", "nonsense"])
        .refused(&["--proxy-port: \"1\" has no meaning beside --pod", "connection"]);
    asked(&file, &["--output", "svg"]).refused(&["a pod's decision is not drawn"]);
}

#[test]
fn workloads_are_judged_by_their_template() {
    let files = Files::new();
    let template = "metadata: {annotations: {mesh-init.io/capture: enabled}}";
    for (text, name) in [
        (
            format!(
                "kind: Deployment\nmetadata: {{name: web, namespace: a}}\nspec:\n  template:\n    {template}\n"
            ),
            "a/web",
        ),
        (
            format!(
                "kind: CronJob\nmetadata: {{name: web}}\nspec:\n  jobTemplate:\n    spec:\n      template:\n        {template}\n"
            ),
            "default/web",
        ),
        (
            format!(
                "kind: List\nitems:\n- kind: Service\n- kind: Pod\n  {}\n",
                "metadata: {name: p, namespace: b, annotations: {mesh-init.io/capture: enabled}}"
            ),
            "b/p",
        ),
    ] {
        let file = files.write("pod.yaml", &text);
        let netconf = json!({ "selection": "annotation", "capabilities": { "io.kubernetes.cri.pod-annotations": true } });
        let netconf = files.write("conf", netconf.to_string());
        let told = asked(&file, &["--netconf", &netconf]).ok();
        assert!(told.starts_with(&format!("captured: pod {name}\n")), "{text}\n{told}");
    }
}
