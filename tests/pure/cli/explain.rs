//! `explain` by the rules that options would make: no kernel is asked.

use super::program::{Files, Run, mesh_init, mesh_init_with};

fn explain(policy: &[&str], connection: &str) -> Run {
    mesh_init(&[&["explain"], policy, &[connection]].concat())
}

/// The first line, and what brought the deciding clause about.
#[track_caller]
fn assert_says(policy: &[&str], connection: &str, first: &str, clause: &str, cause: &str) {
    let text = explain(policy, connection).ok();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], first, "{text}");
    assert!(lines[1].trim().starts_with(&format!("{clause}: ")), "expected {clause}, seen {text}");
    assert_eq!(lines[2].trim(), format!("because of {cause}"), "{text}");
}

#[test]
fn the_answer_comes_first_and_then_its_cause() {
    const POD: &[&str] =
        &["-p", "15001", "-z", "15006", "-x", "10.9.0.0/16", "-o", "25,6000-6010", "-d", "15090"];
    for (connection, first, clause, cause) in [
        (
            "out tcp uid=1000 10.1.2.3:9080",
            "captured -> 15001: out tcp uid=1000 10.1.2.3:9080",
            "outbound.all",
            "the default of --outbound-cidr",
        ),
        (
            "out tcp uid=1000 [fd00::9]:80",
            "captured -> 15001: out tcp uid=1000 [fd00::9]:80",
            "outbound.all",
            "the default of --outbound-cidr",
        ),
        (
            "out tcp uid=1337 10.1.2.3:9080",
            "not captured: out tcp uid=1337 10.1.2.3:9080",
            "proxy.uid",
            "the default of --proxy-uid",
        ),
        (
            "out tcp 10.9.255.255:80",
            "not captured: out tcp uid=1000 10.9.255.255:80",
            "outbound.exclude-cidr",
            "--exclude-outbound-cidr \"10.9.0.0/16\"",
        ),
        (
            "outbound tcp 10.1.2.3:6005",
            "not captured: out tcp uid=1000 10.1.2.3:6005",
            "outbound.exclude-port",
            "--exclude-outbound-port \"25,6000-6010\"",
        ),
        (
            "in tcp eth0 192.0.2.7 -> 10.0.0.5:8001",
            "captured -> 15006: in tcp 192.0.2.7:40000 -> 10.0.0.5:8001",
            "inbound.all",
            "the default of --inbound",
        ),
        (
            "in tcp 10.0.0.5:15090",
            "not captured: in tcp 10.0.0.5:15090",
            "inbound.exclude-port",
            "--exclude-inbound \"15090\"",
        ),
    ] {
        assert_says(POD, connection, first, clause, cause);
    }
    assert_says(
        &["-m", "tproxy"],
        "in tcp 10.0.0.5:80",
        "captured -> 15001 (TPROXY): in tcp 10.0.0.5:80",
        "inbound.all",
        "the default of --inbound",
    );
    let files = Files::new();
    let path = files
        .write("vm.json", r#"{"schema": "mesh-init/policy/v1", "outbound": {"owners": {"uids": [1338]}}}"#);
    assert_says(
        &["--config", &path],
        "out tcp uid=1338 127.0.0.1:8001",
        "captured -> 15001: out tcp uid=1338 127.0.0.1:8001",
        "outbound.all",
        &format!("{path} outbound.owners.uids[0] \"1338\""),
    );
}

#[test]
fn every_rule_on_the_way_is_told_in_order() {
    let text = explain(&["-u", "1337", "--layout", "classic", "--ipv6", "off"], "out tcp 10.1.2.3:80").ok();
    let told: Vec<&str> = text.lines().skip(5).map(str::trim).collect();
    let mut at = 0;
    for wanted in [
        "nat OUTPUT (priority -100)",
        "HIT outbound.hook",
        "no: -o lo",
        "no: -m owner --uid-owner 1337",
        "no: -d 127.0.0.1/32",
        "HIT outbound.all",
        "HIT redirect.outbound",
        "-> out over lo, and back in",
        "nat PREROUTING: not asked, the connection began here, and its destination was decided when it set out",
        "-> to a socket of this host, from lo",
    ] {
        let found = told.iter().skip(at).position(|line| line.ends_with(wanted));
        at += found.unwrap_or_else(|| panic!("expected {wanted:?} after line {at}, seen {text}")) + 1;
    }
    assert_eq!(at, told.len(), "{text}");
}

/// The same policy on the other back end: the rules are told in the words of who would list them.
#[test]
fn rules_of_nftables_are_told_in_nfts_words() {
    let policy = [
        "-u",
        "1337",
        "-x",
        "10.9.0.0/16,10.8.0.0/16",
        "-o",
        "25,26",
        "--backend",
        "nftables",
        "--ipv6",
        "off",
    ];
    let text = explain(&policy, "out tcp 10.1.2.3:80").ok();
    let told: Vec<&str> = text.lines().map(str::trim).collect();
    for line in [
        "mesh_init nat_output (priority -99)",
        "1 jump nat_outbound  HIT outbound.hook",
        "no: tcp dport { 25, 26 }",
        "no: ip daddr { 10.9.0.0/16, 10.8.0.0/16 }",
    ] {
        let of = |seen: &&&str| **seen == line || seen.ends_with(line);
        assert!(told.iter().find(of).is_some(), "expected {line:?}, seen {text}");
    }
    assert!(!text.contains(" -j ") && !text.contains("--dport"), "{text}");
}

#[test]
fn several_connections_in_words_or_in_quotes() {
    let words = [
        "explain",
        "-p",
        "15001",
        "out",
        "tcp",
        "10.1.2.3:80",
        "in",
        "tcp",
        "192.0.2.7",
        "->",
        "10.0.0.5:80",
    ];
    let text = mesh_init(&words).ok();
    let quoted =
        mesh_init(&["explain", "out tcp 10.1.2.3:80", "-p", "15001", "in tcp 192.0.2.7 -> 10.0.0.5:80"]).ok();
    assert_eq!(text, quoted);
    let answers: Vec<&str> = text.lines().filter(|line| line.starts_with("captured -> 15001: ")).collect();
    assert_eq!(answers.len(), 2, "{text}");
}

#[test]
fn what_is_wrong_is_told_at_once() {
    let run = mesh_init(&["explain", "-p", "http", "out", "tcp", "10.1.2.3", "x=1", "in", "udp"]);
    run.refused(&[
        "--proxy-port: \"http\" is not a port",
        "connection \"out tcp 10.1.2.3 x=1\": 10.1.2.3: which port?",
        "connection \"in udp\": no destination",
    ]);
    for args in [&["explain"][..], &["explain", "-p", "15001"]] {
        mesh_init(args).refused(&["no connection is asked about"]);
    }
    mesh_init(&["explain", "--all", "--output", "svg"]).refused(&["there is no way to draw"]);
    mesh_init(&["explain", "--output", "png", "out tcp 1.2.3.4:5"]).refused(&["--output: \"png\""]);
    mesh_init(&["explain", "--live", "-p", "15001", "--all"])
        .refused(&["--proxy-port: \"15001\" says nothing"]);
    mesh_init(&["explain", "--diff", "-b 80", "-b 81", "-p", "15001"])
        .refused(&["--diff takes its policies"]);
    mesh_init(&["explain", "--all", "out tcp 1.2.3.4:5", "-p", "http"])
        .refused(&["--all asks about connections of its own", "--proxy-port: \"http\""]);
    for more in ["--live", "--all", "out tcp 1.2.3.4:5"] {
        mesh_init(&["explain", "--diff", "", "-b http", more])
            .refused(&["--diff compares two policies", "--inbound: \"http\""]);
    }
    // Of both policies, and of what stands beside them.
    mesh_init(&["explain", "--diff", "-b http --no-such-flag", "--ipv6 maybe --wait 3", "--output", "x"])
        .refused(&[
            "\"--no-such-flag\" is not taken here",
            "--inbound: \"http\" is not a port",
            "--ipv6: \"maybe\" is not one of its values",
            "--wait: \"3\" has no effect: policies are compared",
            "--output: \"x\" is not one of its values",
        ]);
    mesh_init(&["explain", "--diff", "--live -b 80", "status"])
        .refused(&["--diff \"--live -b 80\": is no policy", "--diff: status cannot be read"]);
    // Variables are no part of either policy, and of no question about what is here.
    let variables = [("MESH_INIT_PROXY_PORT", "15009")];
    let same = mesh_init_with(&["explain", "--diff", "-p 15001", ""], &variables).ok();
    assert!(same.starts_with("no difference in "), "{same}");
}

#[test]
fn two_policies_side_by_side() {
    let same = mesh_init(&["explain", "--diff", "-p 15001", ""]).ok();
    assert!(same.starts_with("no difference in "), "{same}");
    let text = mesh_init(&["explain", "--diff", "-b 80", "-b 81 -m TPROXY"]).ok();
    for line in [
        "inbound: included port 81",
        "  in tcp 192.0.2.9:81",
        "  A: not captured, no rule says anything of it",
        "  B: captured -> 15001 (TPROXY), inbound.port: inbound traffic to a named port is captured",
    ] {
        assert!(text.lines().any(|seen| seen == line), "expected {line:?}, seen {text}");
    }
}

#[test]
fn the_matrix_names_each_kind_once_a_family() {
    let text = mesh_init(&[
        "explain",
        "--all",
        "--redirect-dns",
        "--dns-server",
        "10.0.0.53,fd00::53",
        "-k",
        "tap0",
        "-c",
        "eth7",
        "--owner-group",
        "7",
    ])
    .ok();
    for kind in ["application of an excluded group", "application to an included port"] {
        assert!(!text.contains(kind), "{kind}: {text}");
    }
    for kind in [
        "application to another host ",
        "application by an excluded interface",
        "somebody else to another host",
        "DNS over UDP to a listed server",
        "inbound: from a rerouted interface",
        "inbound: by an excluded interface",
    ] {
        assert_eq!(text.matches(kind).count(), 2, "{kind}: {text}");
    }
}

#[test]
fn drawings_hold_every_station() {
    let draw =
        |form: &str| mesh_init(&["explain", "-u", "1337", "--output", form, "out tcp 10.1.2.3:80"]).ok();
    for (form, begin, end, arrow) in [
        ("mermaid", "flowchart TD\n", "\n", " --> "),
        ("dot", "digraph way {\n", "}\n", " -> w0s"),
        ("svg", "<svg xmlns=", "</svg>\n", "<line "),
    ] {
        let text = draw(form);
        assert!(text.starts_with(begin) && text.ends_with(end), "{text}");
        for station in
            ["out tcp uid=1000 10.1.2.3:80", "nat OUTPUT", "outbound.all", "redirect.outbound", "15001"]
        {
            assert!(text.contains(station), "{form}: expected {station}, seen {text}");
        }
        assert!(text.matches(arrow).count() >= 6, "{form}: {text}");
    }
}
