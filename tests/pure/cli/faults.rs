//! Bad input: every fault at once, each a line with its origin, the value and a remedy; text on stderr, JSON on
//! stdout where it is asked for.

use serde_json::{Value, json};

use super::program::{Files, mesh_init, mesh_init_with};

const TEN: [&str; 19] = [
    "-p",
    "http",
    "-z",
    "65536",
    "--proxy-gid=-1",
    "-m",
    "sideways",
    "-b",
    "0",
    "-i",
    "10.0.0.0/33",
    "-x",
    "10.0.0.0.0",
    "-o",
    "9-8",
    "-c",
    "eth0/1",
    "--ipv6",
    "maybe",
];

/// Origin, value, problem of the faults of `TEN`, in the order of the help.
const TEN_FAULTS: [(&str, &str, &str); 10] = [
    ("--proxy-port", "http", "is not a port"),
    ("--inbound-capture-port", "65536", "is not a port"),
    ("--proxy-gid", "-1", "is not a group id"),
    ("--mode", "sideways", "is not one of its values"),
    ("--inbound", "0", "is not a port or a range of ports"),
    ("--outbound-cidr", "10.0.0.0/33", "is not a network"),
    ("--exclude-outbound-cidr", "10.0.0.0.0", "is not a network"),
    ("--exclude-outbound-port", "9-8", "is a range that ends before it begins"),
    ("--exclude-interface", "eth0/1", "is not an interface name"),
    ("--ipv6", "maybe", "is not one of its values"),
];

fn ten<'a>(before: &[&'a str]) -> Vec<&'a str> {
    [before, &["--uid-owner", "1338"], &TEN].concat()
}

#[test]
fn ten_faults_are_ten_lines() {
    for verb in [&["plan"][..], &["apply"], &[]] {
        let run = mesh_init(&ten(verb));
        let mut faults = run.faults();
        assert_eq!(faults.len(), 10, "{run}");
        assert_eq!(run.stdout, "", "{run}");
        for (origin, value, problem) in TEN_FAULTS {
            let start = format!("{origin}: \"{value}\" {problem}: ");
            let at = faults.iter().position(|fault| fault.starts_with(&start));
            let fault = faults.remove(at.unwrap_or_else(|| panic!("expected {start:?}, seen {run}")));
            assert!(fault.len() > start.len() + "give x".len(), "expected a remedy, seen {fault:?}");
        }
    }
}

#[test]
fn as_json_the_same_faults_stand_on_stdout() {
    let text = mesh_init(&ten(&["plan"]));
    let run = mesh_init(&ten(&["plan", "--output", "json"])).code(64);
    assert_eq!(run.stderr, text.stderr, "the text is said in any case");
    let told: Value = serde_json::from_str(&run.stdout).unwrap();
    assert!(run.stdout.starts_with("{\n  \"schema\": \"mesh-init/error/v1\""), "{run}");
    assert_eq!(told["exitCode"], json!(64));
    let problems = told["problems"].as_array().unwrap();
    assert_eq!(problems.len(), 10);
    for (origin, value, problem) in TEN_FAULTS {
        let found = problems.iter().find(|told| told["origin"] == *origin).unwrap();
        assert_eq!(found["value"], json!(format!("{value:?}")), "{found}");
        assert_eq!(found["problem"], json!(problem), "{found}");
        assert!(found["remedy"].as_str().is_some_and(|remedy| !remedy.is_empty()), "{found}");
    }
    // The form can be asked for by any source.
    let run = mesh_init_with(&ten(&["plan"]), &[("MESH_INIT_OUTPUT", "json")]).code(64);
    assert_eq!(serde_json::from_str::<Value>(&run.stdout).unwrap(), told);
}

#[test]
fn faults_of_all_sources_are_told_together() {
    let files = Files::new();
    let env = files.write("a.env", "ENVOY_PORT=0\nnonsense\n");
    let config = files.write("p.toml", "mode = 3\nsurprise = 1\n[dns]\nredirect = \"yes\"\n");
    let args = ["plan", "--ipv6", "x", "--env-file", &env, "--config", &config, "--env-file", "/nonexistent"];
    let run = mesh_init_with(&args, &[("MESH_INIT_WAIT", "soon")]);
    let faults = run.faults();
    for start in [
        "--env-file: /nonexistent cannot be read".to_owned(),
        format!("{env}:2"),
        format!("{env}:1 ENVOY_PORT: \"0\" is not a port"),
        format!("{config} surprise: is not a known key"),
        format!("{config} dns.redirect: is not true or false"),
        format!("{config} mode: \"3\" is not one of its values"),
        "--ipv6: \"x\" is not one of its values".to_owned(),
        "variable MESH_INIT_WAIT: \"soon\" is not such a number".to_owned(),
    ] {
        assert!(faults.iter().any(|fault| fault.starts_with(&start)), "expected {start:?}, seen {run}");
    }
}

#[test]
fn values_that_are_no_values() {
    for (args, fault) in [
        (&["-p", "0"][..], "--proxy-port: \"0\" is not a port"),
        (&["-p", "65536"], "--proxy-port: \"65536\" is not a port"),
        (&["--proxy-port=-1"], "--proxy-port: \"-1\" is not a port"),
        (&["-p", "+1"], "--proxy-port: \"+1\" is not a port"),
        (&["-p", "15001,15002"], "--proxy-port: \"15001,15002\" is not a port"),
        (&["-p", "1\u{661}"], "--proxy-port: \"1\u{661}\" is not a port"),
        (&["-p", ""], "--proxy-port: is empty"),
        (&["-u", "1337,4294967295"], "--proxy-uid: \"4294967295\" is not a user id"),
        (&["-u", "1337,,1"], "--proxy-uid: \"1337,,1\" has an empty item"),
        (&["-u", "*"], "--proxy-uid: \"*\" cannot be everything here"),
        (&["-i", "*,10.0.0.0/8"], "--outbound-cidr: \"*\" stands beside other items"),
        (&["-i", "10.0.0.0/8,"], "--outbound-cidr: \"10.0.0.0/8,\" has an empty item"),
        (&["-i", "10.0.0.0/+8"], "--outbound-cidr: \"10.0.0.0/+8\" is not a network"),
        (&["-i", "10.0.0.0 /8"], "--outbound-cidr: \"10.0.0.0 /8\" is not a network"),
        (&["-i", "!10.0.0.0/8"], "--outbound-cidr: \"!10.0.0.0/8\" is not a network"),
        (&["-i", "::ffff:10.0.0.0/104"], "--outbound-cidr: \"::ffff:10.0.0.0/104\" is IPv4 written as IPv6"),
        (&["-i", "example.com"], "--outbound-cidr: \"example.com\" is not a network"),
        (&["--netns", "0"], "--netns: \"0\" is not a network namespace"),
        (&["--netns", "blue"], "--netns: \"blue\" is not a network namespace"),
        (&["--wait", "3601"], "--wait: \"3601\" is not such a number"),
        (&["--wait", "+1"], "--wait: \"+1\" is not such a number"),
        (&["--host=maybe"], "--host: \"maybe\" is not true or false"),
        (&["--backend", "xdp"], "--backend: \"xdp\" is not one of its values"),
        (&["--cgroup", "/x"], "--cgroup: \"/x\" has no effect without --backend ebpf"),
        (&["--proxy-cgroup", "/x"], "--proxy-cgroup: \"/x\" has no effect without --backend ebpf"),
        (
            &["--backend", "ebpf", "-m", "TPROXY", "--layout", "istio"],
            "--mode: \"TPROXY\" marks and routes packets",
        ),
        (
            &["--backend", "ebpf", "--drop-invalid", "--layout", "istio"],
            "--drop-invalid: \"true\" needs connection tracking",
        ),
        (&["--backend", "ebpf", "-c", "eth1"], "--exclude-interface: \"eth1\" names interfaces"),
        (&["--backend", "ebpf", "-k", "tap0"], "--reroute-interface: \"tap0\" is about what passes through"),
        (
            &["--backend", "ebpf", "--confirm-within", "9s"],
            "--confirm-within: \"9s\" has no meaning for --backend ebpf",
        ),
        (
            &["--backend", "ebpf", "--iptables-variant", "nft"],
            "--iptables-variant: \"nft\" has no meaning for --backend ebpf",
        ),
        (&["--iptables-variant", "xtables"], "--iptables-variant: \"xtables\" is not one of its values"),
        (&["--output", "yaml"], "--output: \"yaml\" is not one of its values"),
    ] {
        // Refused before any machine is looked at.
        mesh_init(&[&["plan", "--live"], args].concat()).refused(&[fault]);
    }
    for verb in ["status", "clean"] {
        mesh_init(&[verb, "--wait", "x", "--output", "y"]).refused(&["--wait: \"x\"", "--output: \"y\""]);
    }
}

#[test]
fn flags_that_contradict_each_other() {
    let vm = ["plan", "--uid-owner", "1338"];
    for (args, fault) in [
        (&["-b", "80", "-d", "81"][..], "--exclude-inbound: \"81\" has no effect unless all inbound ports"),
        (&["-d", "81"], "--exclude-inbound: \"81\" has no effect unless all inbound ports"),
        (&["-b", "15001"], "--inbound: \"15001\" is where captured traffic goes"),
        (&["-b", "15000-15010"], "--inbound: \"15001\" is where captured traffic goes"),
        (&["-b", "15006", "-z", "15006"], "--inbound: \"15006\" is where captured traffic goes"),
        (&["-p", "15008"], "--proxy-port: \"15008\" is both the tunnel port and a capture port"),
    ] {
        mesh_init(&[&vm, args].concat()).refused(&[fault]);
    }
}

/// One wrong value is one fault: what follows from it is not the caller's to mend.
#[test]
fn a_fault_does_not_bring_another() {
    for (args, fault) in [
        (&["-u", "no-such-user"][..], "--proxy-uid: \"no-such-user\""),
        (&["--proxy-uid=-1"], "--proxy-uid: \"-1\" is not a user id"),
        (&["--layout", ""], "--layout: "),
        (&["--uid-owner", "1338", "-b", "http"], "--inbound: \"http\""),
        (&["--layout", "scoped", "--uid-owner", "no-such-user"], "--uid-owner: \"no-such-user\""),
    ] {
        mesh_init(&[&["plan"], args].concat()).refused(&[fault]);
    }
}
