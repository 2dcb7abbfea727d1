//! Which layout `auto` takes, what a forced one refuses, and that the fault says which flag and from where.

use serde_json::Value;

use super::program::{Files, mesh_init};

fn layout(args: &[&str]) -> String {
    let plan = mesh_init(&[&["plan", "--output", "json"], args].concat()).ok();
    let plan: Value = serde_json::from_str(&plan).unwrap();
    plan["layout"].as_str().unwrap().to_owned()
}

#[test]
fn auto_takes_the_layout_that_the_flags_need() {
    for args in [
        &[][..],
        &["-p", "15001", "-u", "1337"],
        &["-u", "1337", "-g", "1337", "-i", "10.0.0.0/8"],
        &["--ipv6", "off"],
        &["--layout", "auto", "-p", "1"],
        &["--layout", "classic", "-m", "REDIRECT"],
    ] {
        assert_eq!(layout(args), "classic", "{args:?}");
    }
    for args in [
        &["--uid-owner", "1338"][..],
        &["--gid-owner", "1338", "-b", "8001"],
        &[
            "--uid-owner",
            "1338",
            "-z",
            "15006",
            "-x",
            "10.0.0.0/8",
            "-o",
            "25",
            "-c",
            "eth9",
            "-m",
            "redirect",
        ],
        &["--layout", "scoped", "-i", "", "-b", "8001"],
    ] {
        assert_eq!(layout(args), "scoped", "{args:?}");
    }
}

/// The options of today's `istio-iptables` that no layout of this version has rules for without an owner.
#[test]
fn what_only_istios_present_layout_has_is_refused_by_name() {
    let flags = [
        ("-z", "15006", "inbound-capture-port"),
        ("-e", "15009", "inbound-tunnel-port"),
        ("-m", "TPROXY", "mode"),
        ("-m", "REDIRECT", "mode"),
        ("-b", "80", "inbound"),
        ("-d", "80", "exclude-inbound"),
        ("-x", "10.0.0.0/8", "exclude-outbound-cidr"),
        ("-q", "80", "outbound-port"),
        ("-o", "80", "exclude-outbound-port"),
        ("-c", "eth9", "exclude-interface"),
        ("-k", "tap0", "reroute-interface"),
        ("-t", "5", "tproxy-mark"),
        ("-r", "6", "tproxy-table"),
        ("--owner-group", "7", "owner-group"),
        ("--exclude-owner-group", "7", "exclude-owner-group"),
        ("--drop-invalid", "", "drop-invalid"),
        ("--redirect-dns", "", "redirect-dns"),
    ];
    for (flag, value, long) in flags {
        let args: Vec<&str> = [flag, value].into_iter().filter(|word| !word.is_empty()).collect();
        let run = mesh_init(&[&["plan"], args.as_slice()].concat());
        let given = if value.is_empty() { "true" } else { value };
        let told = format!("--{long}: {given:?} needs the layout of today's istio-iptables");
        assert!(run.faults().iter().any(|fault| fault.starts_with(&told)), "expected {told:?}, seen {run}");
    }
}

#[test]
fn several_are_refused_one_by_one_with_their_origins() {
    let files = Files::new();
    let env = files.write("sidecar.env", "# ports\nISTIO_INBOUND_PORTS=27017,3306,8080\n");
    let config = files.write("policy.json", r#"{"interfaces":{"reroute":["tap0"]}}"#);
    mesh_init(&["plan", "-z", "15006", "--env-file", &env, "--config", &config]).refused(&[
        "--inbound-capture-port: \"15006\" needs the layout of today's istio-iptables",
        &format!(
            "{env}:2 ISTIO_INBOUND_PORTS: \"27017,3306,8080\" needs the layout of today's istio-iptables"
        ),
        &format!("{config} interfaces.reroute[0]: \"tap0\" needs the layout of today's istio-iptables"),
    ]);
}

#[test]
fn a_forced_layout_refuses_what_it_has_no_rules_for() {
    for (args, faults) in [
        (
            &["--layout", "classic", "-b", "80", "--uid-owner", "5"][..],
            &[
                "--inbound: \"80\" cannot be expressed by the classic layout",
                "--uid-owner: \"5\" cannot be expressed by the classic layout",
            ][..],
        ),
        (
            &["--uid-owner", "5", "-k", "tap0", "--owner-group", "7", "--redirect-dns=true"],
            &[
                "--reroute-interface: \"tap0\" cannot be expressed by the scoped layout",
                "--owner-group: \"7\" cannot be expressed by the scoped layout",
                "--redirect-dns: \"true\" cannot be expressed by the scoped layout",
            ],
        ),
        (
            &["--uid-owner", "5", "-m", "tproxy"],
            &["--mode: \"tproxy\" cannot be expressed by the scoped layout"],
        ),
        (
            &["--layout", "classic", "-m", "TPROXY"],
            &["--mode: \"TPROXY\" cannot be expressed by the classic layout"],
        ),
        (&["--layout", "istio"], &["--layout: \"istio\" is not a layout that this version makes"]),
        (&["--layout", "inet"], &["--layout: \"inet\" is not a layout"]),
    ] {
        mesh_init(&[&["plan"], args].concat()).refused(faults);
    }
}

#[test]
fn a_scoped_capture_names_its_owners() {
    let run = mesh_init(&["plan", "--layout", "scoped", "-b", "80"]);
    run.refused(&["the scoped layout captures the traffic of named owners, and none is named"]);
}

#[test]
fn an_owner_that_is_the_proxy_is_a_fault() {
    for (args, fault) in [
        (&["--uid-owner", "1337"][..], "--uid-owner: \"1337\" is the proxy's own user"),
        (&["--uid-owner", "root", "-u", "0"], "--uid-owner: \"0\" is the proxy's own user"),
        (&["--gid-owner", "5", "-g", "4,5"], "--gid-owner: \"5\" is the proxy's own group"),
    ] {
        mesh_init(&[&["plan"], args].concat()).refused(&[fault]);
    }
    // Root may be an owner where the proxy is somebody else.
    mesh_init(&["plan", "--uid-owner", "root"]).ok();
}
