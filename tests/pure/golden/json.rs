//! One golden file for every kind of JSON. What needs a kernel is made here from the same types by hand: that a
//! kernel fills them rightly is for the kernel tests.

use mesh_init::backend::choose::Choice;
use mesh_init::backend::ebpf::lower::{Place, lower};
use mesh_init::cli::{self, Parsed};
use mesh_init::cni::conflist::Change;
use mesh_init::cni::conflist::cache::Attachment;
use mesh_init::cni::conflist::join::{self, Joined};
use mesh_init::error::Error;
use mesh_init::eval::probing::Direction;
use mesh_init::eval::sockets::Open;
use mesh_init::input::Faults;
use mesh_init::policy::settings::{Output, Variant};
use mesh_init::policy::validate::{self, Request};
use mesh_init::policy::{Facts, Families, Family, Layout, RuleId};
use mesh_init::report::{
    Applied, AtSockets, By, Checked, Cleaned, Confirmed, Counter, Ended, Ends, Failure, Hit, How, Installed,
    Report, Status, Told, TraceStep, Traced, Uninstalled, Verified, Watched,
};
use mesh_init_abi::{Clause, SurpriseKind};
use serde_json::Value;
use std::time::Duration;

use super::{folder, read};
use crate::cli::program::{Files, mesh_init};

pub(super) fn golden(name: &str) -> String {
    read(&folder("json").join(name))
}

fn request(args: &[&str]) -> Request {
    let words = std::iter::once("mesh-init").chain(args.iter().copied());
    match cli::parse(words.map(Into::into)) {
        Parsed::Call { flags, .. } => {
            validate::request(&flags, &Facts::default(), Faults::default()).expect("a valid request")
        }
        Parsed::Istio(_)
        | Parsed::Explain { .. }
        | Parsed::Trace { .. }
        | Parsed::Install(_)
        | Parsed::Uninstall(_)
        | Parsed::Cni => {
            panic!("not a verb that makes rules")
        }
        Parsed::Answer(text) | Parsed::Misuse(text) => panic!("{text}"),
    }
}

#[track_caller]
fn assert_golden(name: &str, report: &impl Report) {
    let answer = report.answer(Output::Json);
    assert_eq!(answer.stdout, golden(name), "{name}");
    assert_eq!((answer.stderr.as_str(), answer.code), ("", 0), "{name}");
}

#[test]
fn plan() {
    let run = mesh_init(&["plan", "-i", "", "--ipv6", "off", "--output", "json"]);
    assert_eq!(run.ok(), golden("plan.json"));
}

#[test]
fn policy() {
    #[rustfmt::skip]
    let args = [
        "plan", "-p", "15011", "-z", "15006", "-u", "1337", "-g", "1337,7", "-i", "10.0.0.0/8,fd00::/8",
        "-q", "443,8000-8080", "-x", "10.1.0.0/16", "-o", "25,6000-6100", "--uid-owner", "1338,root",
        "--gid-owner", "1340", "-b", "*", "-d", "9000", "-c", "eth1,veth+", "--ipv6", "on", "--output", "json",
    ];
    let plan: Value = serde_json::from_str(&mesh_init(&args).ok()).unwrap();
    assert_eq!(format!("{:#}\n", plan["policy"]), golden("policy.json"));
    // The file is input as well, and means the same.
    let path = folder("json").join("policy.json");
    let again = mesh_init(&["plan", "--config", path.to_str().unwrap(), "--output", "json"]).ok();
    assert_eq!(serde_json::from_str::<Value>(&again).unwrap(), plan);
}

#[test]
fn policy_of_a_pod() {
    #[rustfmt::skip]
    let args = [
        "plan", "-p", "15011", "-z", "15006", "-e", "15018", "-u", "1337", "-g", "1337", "-m", "TPROXY", "-b", "80,8000-8080",
        "-i", "10.0.0.0/8,fd00::/8", "-x", "10.1.0.0/16", "-q", "443", "-o", "25", "--loopback-cidr", "127.0.0.0/8",
        "-c", "eth1", "-k", "tap0", "-t", "5", "-r", "6", "--exclude-owner-group", "1340", "--redirect-dns",
        "--dns-server", "10.0.0.53,fd00::53", "--dns-port", "15054", "--drop-invalid", "--output", "json",
    ];
    let plan: Value = serde_json::from_str(&mesh_init(&args).ok()).unwrap();
    assert_eq!(format!("{:#}\n", plan["policy"]), golden("policy-istio.json"));
    let path = folder("json").join("policy-istio.json");
    let again = mesh_init(&["plan", "--config", path.to_str().unwrap(), "--output", "json"]).ok();
    assert_eq!(serde_json::from_str::<Value>(&again).unwrap(), plan);
}

#[test]
fn explain() {
    let call =
        ["explain", "-p", "15001", "-u", "1337", "-d", "15090", "--output", "json", "in tcp 10.0.0.5:15090"];
    assert_eq!(mesh_init(&call).ok(), golden("decision.json"));
    let call = ["explain", "--diff", "-b 80 --ipv6 off", "-b 81 -o 25 --ipv6 off", "--output", "json"];
    assert_eq!(mesh_init(&call).ok(), golden("difference.json"));
    let call = ["explain", "--mode", "NONE", "--all", "--output", "json"];
    let matrix: Value = serde_json::from_str(&mesh_init(&call).ok()).unwrap();
    let form: Value = serde_json::from_str(&golden("matrix.json")).unwrap();
    assert_eq!(
        matrix.as_object().unwrap().keys().collect::<Vec<_>>(),
        form.as_object().unwrap().keys().collect::<Vec<_>>()
    );
    assert_eq!(
        (&matrix["policy"], &matrix["rows"][0], &matrix["notes"]),
        (&form["policy"], &form["rows"][0], &form["notes"])
    );
}

#[test]
fn error() {
    let run =
        mesh_init(&["plan", "-p", "http", "--uid-owner", "5", "--layout", "classic", "--output", "json"]);
    assert_eq!(run.code(64).stdout, golden("error.json"));
    let error = Error::host("no usable iptables: iptables-restore and iptables-save were not found")
        .remedy("install the iptables package in the image or on the host");
    let answer = Failure::from(error).answer(Output::Json);
    assert_eq!((answer.stdout, answer.code), (golden("error-run.json"), 69));
}

#[test]
fn install_and_uninstall() {
    let change = |file: &str, before: bool, after: bool| Change {
        file: file.to_owned(),
        before: before.then(String::new),
        after: after.then(String::new),
        like: String::new(),
    };
    let program = "/opt/cni/bin/mesh-init".to_owned();
    let joined = Joined {
        network: "k8s-pod-network".to_owned(),
        file: "10-calico.conflist".to_owned(),
        how: join::How::Inline,
        reason: "nothing proves that the runtime reads drop-ins".to_owned(),
        changes: vec![change("10-calico.conflist", true, true)],
        notes: vec!["Cilium set other configurations aside (x.conflist.cilium_bak; *.cilium_bak): set its cni.exclusive=false, or it takes this back".to_owned()],
    };
    assert_golden("install.json", &Installed { joined, program: program.clone(), copied: true });
    let attachment =
        Attachment { network: "cbr0".into(), container: "4f6c".into(), interface: "eth0".into() };
    let changed =
        vec![change("10-calico.conflist", true, true), change("cbr0/90-mesh-init.conf", true, false)];
    let left = Uninstalled { changed, program, removed: true, attachments: vec![attachment] };
    assert_golden("uninstall.json", &left);
}

#[test]
fn apply_and_clean() {
    let applied = Applied {
        policy: request(&["--uid-owner", "1338", "--inbound", "8001"]).policy,
        layout: Layout::Scoped,
        by: By::Rules(Choice { variant: Variant::Nft, reason: "it is installed" }),
        families: Families::Both,
        changed: vec!["IPv4: table nat of iptables-nft".into(), "IPv6: table nat of iptables-nft".into()],
        open: 3,
        confirm_within: Some(60),
        notes: vec![],
    };
    assert_golden("apply.json", &applied);
    let changed = vec!["IPv4: table nat of iptables-legacy".into()];
    let notes =
        vec!["IPv4: a rule before ours lets traffic past them: nat -A OUTPUT -o eth0 -j RETURN".into()];
    assert_golden("clean.json", &Cleaned { changed, notes });
}

#[test]
fn status() {
    let counter = |id, packets, bytes| Counter { id, family: Family::V4, packets, bytes };
    let captured = Status::Captured {
        policy: Box::new(request(&["--uid-owner", "1338", "--inbound", "8001", "--ipv6", "off"]).policy),
        layout: Layout::Scoped,
        variant: Variant::Nft,
        families: Families::V4,
        whole: true,
        counters: vec![counter(RuleId::OutboundHook, 12, 720), counter(RuleId::OutboundAll, 5, 300)],
        older: Open { outbound: 2, inbound: 1 },
        notes: vec!["IPv6 is not captured, although the namespace has an IPv6 stack".into()],
    };
    assert_golden("status.json", &captured);
    let Status::Captured { policy, layout, variant, families, older, .. } = captured.clone() else {
        panic!()
    };
    let later = Status::Captured {
        policy,
        layout,
        variant,
        families,
        older,
        whole: true,
        counters: vec![counter(RuleId::OutboundHook, 16, 960), counter(RuleId::OutboundAll, 5, 300)],
        notes: vec![],
    };
    assert_golden("watch.json", &Watched::between(Some((Duration::from_secs(2), &captured)), &later));
    assert_golden("status-nothing.json", &Status::Nothing { notes: Vec::new() });
    let unknown = Status::Unknown {
        variants: Variant::IPTABLES.to_vec(),
        notes: vec!["both iptables hold rules of ours: a move was interrupted, apply again".into()],
    };
    assert_golden("status-unknown.json", &unknown);
}

#[test]
fn at_sockets() {
    let request = request(&["--backend", "ebpf", "--layout", "istio", "-x", "10.0.0.0/8", "--ipv6", "off"]);
    let place = Place { netns: 7, generation: 1 };
    let lowered = lower(&request.policy, request.layout, Families::V4, place).expect("what sockets can do");
    let told = |kind, address: &str, port, count, ago| Told {
        kind,
        address: address.parse().expect("an address"),
        port,
        count,
        ago: Duration::from_secs(ago),
    };
    let captured = |all, surprises: &[Told]| Status::AtSockets {
        found: Box::new(AtSockets {
            lowered: lowered.clone(),
            policy: Some(request.policy.clone()),
            counters: vec![
                (Clause::OutboundAll, all),
                (Clause::OutboundExcludeCidr, 2),
                (Clause::ProxyUid, 0),
            ],
            listeners: 1,
            detached: vec!["mesh_connect6".into()],
            cgroup: Some(0x142),
            proxy_cgroup: Some(0x1a7),
            older: false,
            surprises: surprises.to_vec(),
        }),
        notes: vec![],
    };
    let refused = told(SurpriseKind::NO_LISTENER, "192.0.2.7", 8080, 12, 3);
    let before = captured(40, std::slice::from_ref(&refused));
    assert_golden("status-sockets.json", &before);
    let alone = told(SurpriseKind::NOT_CAPTURED, "127.0.0.1", 15001, 1, 0);
    let later = captured(46, &[alone, refused]);
    assert_golden("watch-sockets.json", &Watched::between(Some((Duration::from_secs(2), &before)), &later));
    let text = later.text();
    for line in [
        "not attached: mesh_connect6",
        "outbound.exclude-cidr                   2",
        "surprise: 192.0.2.7 was refused at port 8080: no listener of the proxy's is known where it should go (12 times, the last 3 s ago)",
    ] {
        assert!(text.lines().any(|of| of == line), "expected {line:?}, seen {text}");
    }
    #[rustfmt::skip]
    let policy = [
        "--backend", "ebpf", "-x", "10.0.0.0/8", "--ipv6", "off", "--cgroup", "/sys/fs/cgroup/pod",
        "--proxy-cgroup", "/sys/fs/cgroup/pod/proxy", "--output", "json",
    ];
    assert_eq!(mesh_init(&[&["plan"], &policy[..]].concat()).ok(), golden("plan-sockets.json"));
    let asked = [&["explain", "out tcp uid=1000 10.1.2.3:80"], &policy[..]].concat();
    assert_eq!(mesh_init(&asked).ok(), golden("decision-sockets.json"));
}

#[test]
fn trace() {
    let ends = |destination: &str, interface: &str| Ends {
        source: "10.0.0.1:40000".into(),
        destination: destination.into(),
        interface: Some(interface.into()),
    };
    let hit = |chain: &str, handle, depth, verdict: &str| Hit {
        chain: chain.into(),
        number: None,
        handle,
        depth,
        rule: None,
        clause: None,
        comment: None,
        verdict: verdict.into(),
        mark: None,
    };
    let enter = |chain: &str, priority| TraceStep::Enter { chain: chain.into(), priority: Some(priority) };
    let trail = vec![
        enter("mangle OUTPUT", -150),
        TraceStep::Rule(Hit {
            number: Some(1),
            rule: Some("-p tcp -j MARK --set-xmark 0x7/0xffffffff".into()),
            mark: Some(7),
            ..hit("mangle OUTPUT", 3, 0, "continue")
        }),
        TraceStep::Policy { chain: "mangle OUTPUT".into(), accepts: true },
        enter("nat OUTPUT", -100),
        TraceStep::Rule(Hit {
            number: Some(1),
            rule: Some(
                r#"-p tcp -m comment --comment "istio/install-istio-output" -j ISTIO_OUTPUT"#.to_owned(),
            ),
            clause: Some(RuleId::OutboundHook),
            comment: Some("istio/install-istio-output".into()),
            ..hit("nat OUTPUT", 9, 0, "jump ISTIO_OUTPUT")
        }),
        // It was gone by the time that it was looked for.
        TraceStep::Rule(hit("nat ISTIO_OUTPUT", 12, 1, "accept")),
        TraceStep::Way("out over lo, and back in"),
    ];
    let traced = Traced {
        direction: "out",
        protocol: "tcp".into(),
        ends: ends("10.1.2.3:80", "eth0"),
        mark: 0,
        trail,
        end: Ended::Delivered(ends("127.0.0.1:15001", "lo"), 7),
        incomplete: false,
    };
    assert_golden("trace.json", &traced);
    let text = traced.text();
    for line in [
        "out tcp 10.0.0.1:40000 -> 10.1.2.3:80 by eth0",
        "      continue, mark 0x7",
        "      outbound.hook: jump ISTIO_OUTPUT",
        "      ISTIO_OUTPUT ? (handle 12: it is gone)",
        "  -> to a socket of this host: 127.0.0.1:15001 from lo",
    ] {
        assert!(text.lines().any(|of| of == line), "expected {line:?}, seen {text}");
    }
}

#[test]
fn verify_and_confirm() {
    let checked = |direction, how, detail: &str| Checked {
        direction,
        family: Family::V4,
        how,
        detail: detail.to_owned(),
    };
    let outbound = "a connection of user 1338 came to the proxy's port";
    let inbound = "a connection to port 8001 did not come to the proxy's port";
    let mut verified = Verified {
        policy: Some(request(&["--uid-owner", "1338", "--inbound", "8001"]).policy),
        checked: vec![
            checked(Direction::Outbound, How::Probe, outbound),
            checked(Direction::Inbound, How::NotCaptured, inbound),
        ],
        wrong: vec![],
        strict: false,
        repaired: vec![],
        notes: vec![],
    };
    assert_golden("verify.json", &verified);
    assert_eq!(verified.verdict(Output::Json).code, 126);
    verified.checked.pop();
    assert_eq!(verified.verdict(Output::Json).code, 0);
    // What was only read counts unless everything is to be tried.
    verified.checked[0].how = How::Rules;
    assert_eq!(verified.verdict(Output::Json).code, 0);
    verified.strict = true;
    assert_eq!(verified.verdict(Output::Json).code, 126);
    // A probe that came through does not outweigh rules that are not the policy's.
    verified.strict = false;
    verified.wrong.push("IPv4: table nat of iptables-nft".to_owned());
    assert_eq!(verified.verdict(Output::Json).code, 126);
    let nothing = Verified {
        policy: None,
        checked: vec![],
        wrong: vec![],
        strict: false,
        repaired: vec![],
        notes: vec![],
    };
    assert_golden("verify-nothing.json", &nothing);
    assert_eq!(nothing.verdict(Output::Json).code, 126);
    assert_golden("confirm.json", &Confirmed { held: true });
}

#[test]
fn the_schema_comes_first_and_keys_are_in_camel_case() {
    for entry in std::fs::read_dir(folder("json")).unwrap() {
        let path = entry.unwrap().path();
        let text = read(&path);
        let name = path.file_stem().unwrap().to_str().unwrap();
        let kind = name.split('-').next().unwrap();
        let schema = format!("{{\n  \"schema\": \"mesh-init/{kind}/v1\"");
        assert!(text.starts_with(&schema), "{name}: expected it to begin with {schema}");
        keys(&serde_json::from_str(&text).unwrap(), &mut |key| {
            let camel = key.starts_with(|c: char| c.is_ascii_lowercase())
                && key.chars().all(|c| c.is_ascii_alphanumeric());
            assert!(camel, "{name}: {key}");
        });
    }
}

fn keys(value: &Value, check: &mut impl FnMut(&str)) {
    match value {
        Value::Object(members) => members.iter().for_each(|(key, value)| {
            check(key);
            keys(value, check);
        }),
        Value::Array(items) => items.iter().for_each(|item| keys(item, check)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// A pod that is judged by the plugin's defaults.
fn pod(text: &str, code: i32) -> String {
    let files = Files::new();
    let run =
        mesh_init(&["explain", "--pod", &files.write("cart.yaml", text), "--output", "json"]).code(code);
    assert_eq!(run.stderr, "");
    run.stdout
}

#[test]
fn what_the_plugin_decides_for_a_pod() {
    let cart = read(&folder("pods").join("cart.yaml"));
    assert_eq!(pod(&cart, 0), golden("pod.json"));
    assert_eq!(pod(&cart.replace("\"5432\"", "mysql"), 64), golden("pod-reject.json"));
    assert_eq!(pod(&cart.replace("sidecar.istio.io/status", "other"), 0), golden("pod-skip.json"));
}
