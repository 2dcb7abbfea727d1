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

/// Each option that `proxy_init` 0.7.1 did not have chooses today's chains, and says in them what it was given for.
#[test]
fn what_proxy_init_did_not_have_chooses_the_istio_layout() {
    for (args, line) in [
        (&["-z", "15006"][..], "-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006"),
        (&["-e", "15009"], "-A ISTIO_INBOUND -p tcp -m tcp --dport 15009 -j RETURN"),
        (&["-m", "TPROXY"], "-A ISTIO_INBOUND -p tcp -j ISTIO_TPROXY"),
        (&["-m", "tproxy"], "-A ISTIO_DIVERT -j MARK --set-xmark 0x539/0xffffffff"),
        (&["-m", "REDIRECT"], "-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT"),
        (&["-b", "80"], "-A ISTIO_INBOUND -p tcp -m tcp --dport 80 -j ISTIO_IN_REDIRECT"),
        (&["-b", "*"], "-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT"),
        (&["-b", ""], "-A ISTIO_OUTPUT -j ISTIO_REDIRECT"),
        (&["-d", "80-90"], "-A ISTIO_INBOUND -p tcp -m tcp --dport 80:90 -j RETURN"),
        (&["-x", "10.0.0.0/8"], "-A ISTIO_OUTPUT -d 10.0.0.0/8 -j RETURN"),
        (&["-q", "80"], "-A ISTIO_OUTPUT -p tcp -m tcp --dport 80 -j ISTIO_REDIRECT"),
        (&["-o", "80"], "-A ISTIO_OUTPUT -p udp -m udp --dport 80 -j RETURN"),
        (
            &["-c", "eth9"],
            "-A PREROUTING -i eth9 -m comment --comment \"mesh-init:inbound.exclude-interface\" -j RETURN",
        ),
        (
            &["-k", "tap0"],
            "-I PREROUTING 1 -i tap0 -m comment --comment \"mesh-init:interface.reroute\" -j ISTIO_REDIRECT",
        ),
        (&["-m", "TPROXY", "-t", "0x5"], "-A ISTIO_DIVERT -j MARK --set-xmark 0x5/0xffffffff"),
        (&["-m", "TPROXY", "-r", "6"], "-A ISTIO_DIVERT -j MARK --set-xmark 0x539/0xffffffff"),
        (&["--loopback-cidr", "127.0.0.0/8"], "-A ISTIO_OUTPUT -d 127.0.0.0/8 -j RETURN"),
        (
            &["--owner-group", "7,8"],
            "-A ISTIO_OUTPUT -m owner ! --gid-owner 7 -m owner ! --gid-owner 8 -j RETURN",
        ),
        (&["--exclude-owner-group", "7"], "-A ISTIO_OUTPUT -m owner --gid-owner 7 -j RETURN"),
        (&["--drop-invalid"], "-A ISTIO_DROP -j DROP"),
        (
            &["--redirect-dns", "--capture-all-dns"],
            "-A ISTIO_OUTPUT_DNS -p udp -m udp --dport 53 -j REDIRECT --to-ports 15053",
        ),
        (
            &["--redirect-dns", "--dns-server", "10.0.0.53", "--dns-port", "15054"],
            "-A ISTIO_OUTPUT_DNS -d 10.0.0.53/32 -p udp -m udp --dport 53 -j REDIRECT --to-ports 15054",
        ),
    ] {
        assert_eq!(layout(args), "istio", "{args:?}");
        let plan = mesh_init(&[&["plan"], args].concat()).ok();
        assert!(plan.lines().any(|seen| seen == line), "{args:?}: expected {line:?} in\n{plan}");
    }
}

#[test]
fn options_that_say_no_more_than_their_absence_choose_nothing() {
    for args in [
        &["--drop-invalid=false"][..],
        &["--redirect-dns=false"],
        &["--capture-all-dns=0", "-p", "15001"],
        &["--layout", "classic", "--drop-invalid=false"],
    ] {
        assert_eq!(layout(args), "classic", "{args:?}");
    }
    // A named layout is made whatever the other flags are.
    assert_eq!(layout(&["--layout", "istio"]), "istio");
    assert_eq!(layout(&["--layout", "istio-iptables", "-m", "TPROXY"]), "istio-iptables");
    assert_eq!(layout(&["--layout", "istio", "-m", "none"]), "istio");
}

#[test]
fn any_source_chooses_the_layout() {
    let files = Files::new();
    let env = files.write("sidecar.env", "# ports\nISTIO_INBOUND_PORTS=27017,3306,8080\n");
    let config = files.write("policy.json", r#"{"interfaces":{"reroute":["tap0"]}}"#);
    assert_eq!(layout(&["--env-file", &env]), "istio");
    assert_eq!(layout(&["--config", &config]), "istio");
    let flags = mesh_init(&["plan", "-z", "15006", "-b", "27017,3306,8080", "-k", "tap0"]).ok();
    let files_too = ["plan", "-z", "15006", "--env-file", &env, "--config", &config];
    assert_eq!(mesh_init(&files_too).ok(), flags);
    // What a policy file spells out of the defaults does not.
    let config = files.write("policy.json", r#"{"inbound":{"ports":"*"},"dropInvalid":false}"#);
    assert_eq!(layout(&["--config", &config]), "classic");
}

#[test]
fn a_refusal_names_where_the_option_is_from() {
    let files = Files::new();
    let env = files.write("sidecar.env", "# ports\nISTIO_INBOUND_PORTS=27017,3306,8080\n");
    let config = files.write("policy.json", r#"{"interfaces":{"reroute":["tap0"]}}"#);
    let args = ["plan", "--layout", "classic", "-z", "15006", "--env-file", &env, "--config", &config];
    mesh_init(&args).refused(&[
        "--inbound-capture-port: \"15006\" cannot be expressed by the classic layout",
        &format!(
            "{env}:2 ISTIO_INBOUND_PORTS: \"27017,3306,8080\" cannot be expressed by the classic layout"
        ),
        &format!("{config} interfaces.reroute[0]: \"tap0\" cannot be expressed by the classic layout"),
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
            &["--uid-owner", "5", "-k", "tap0", "--owner-group", "7", "--drop-invalid=true"],
            &[
                "--reroute-interface: \"tap0\" cannot be expressed by the scoped layout",
                "--owner-group: \"7\" cannot be expressed by the scoped layout",
                "--drop-invalid: \"true\" cannot be expressed by the scoped layout",
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
        (
            &["--layout", "istio", "--uid-owner", "5", "--gid-owner", "6"],
            &[
                "--uid-owner: \"5\" cannot be expressed by the istio layout",
                "--gid-owner: \"6\" cannot be expressed by the istio layout",
            ],
        ),
        (
            &["--layout", "istio-iptables", "--uid-owner", "5"],
            &["--uid-owner: \"5\" cannot be expressed by the istio-iptables layout"],
        ),
        (&["--layout", "inet"], &["--layout: \"inet\" is not a layout"]),
        (&["--layout", "Istio"], &["--layout: \"Istio\" is not a layout"]),
    ] {
        mesh_init(&[&["plan"], args].concat()).refused(faults);
    }
}

#[test]
fn values_of_tproxy_and_dns_that_are_none() {
    for (args, faults) in [
        (
            &["-m", "TPROXY", "-t", "0", "-r", "4294967296"][..],
            &[
                "--tproxy-mark: \"0\" is not a packet mark",
                "--tproxy-table: \"4294967296\" is not such a number",
            ][..],
        ),
        (&["-m", "TPROXY", "-r", "254"], &["--tproxy-table: \"254\" is a routing table of the kernel's own"]),
        (&["-r", "0"], &["--tproxy-table: \"0\" is a routing table of the kernel's own"]),
        (&["-m", "TPROXY", "-t", "0x"], &["--tproxy-mark: \"0x\" is not a packet mark"]),
        (&["-m", "TPROXY", "-t", "5/0xff"], &["--tproxy-mark: \"5/0xff\" is not a packet mark"]),
        (&["--capture-all-dns"], &["--capture-all-dns: \"true\" has no effect without --redirect-dns"]),
        (&["--dns-port", "53"], &["--dns-port: \"53\" has no effect without --redirect-dns"]),
        (
            &["--redirect-dns", "--capture-all-dns", "--dns-server", "10.0.0.53"],
            &["--dns-server: \"10.0.0.53\" has no effect beside --capture-all-dns"],
        ),
        (
            &["--redirect-dns", "--capture-all-dns", "--dns-port", "15001"],
            &["port 15001 is both the DNS port and a capture port"],
        ),
        (
            &["--owner-group", "7", "--exclude-owner-group", "8"],
            &["--exclude-owner-group: \"8\" has no effect beside a list of groups"],
        ),
        (&["-b", "80", "-d", "81"], &["--exclude-inbound: \"81\" has no effect unless all inbound ports"]),
        (&["-e", "15001"], &["--inbound-tunnel-port: \"15001\" is both the tunnel port and a capture port"]),
        (&["-b", "15001"], &["--inbound: \"15001\" is where captured traffic goes"]),
        (&["--loopback-cidr", "10.0.0.0/8"], &["--loopback-cidr: \"10.0.0.0/8\" is not a loopback network"]),
        (
            &["--loopback-cidr", "127.0.0.0/7"],
            &["--loopback-cidr: \"127.0.0.0/7\" is not a loopback network"],
        ),
        (&["--loopback-cidr", "127.0.0.1"], &["--loopback-cidr: \"127.0.0.1\" is not a loopback network"]),
        (&["--loopback-cidr", "::1/128"], &["--loopback-cidr: \"::1/128\" is not a loopback network"]),
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
