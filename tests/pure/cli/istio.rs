//! `mesh-init istio-iptables`, dry runs only: what upstream's flags and variables mean, and what is said of them.
//!
//! Which rules it makes is for `tests/golden/istio`. A dry run asks this machine for its addresses, so it needs one;
//! how many families it prints depends on them, and no test here minds.

use std::os::unix::fs::symlink;

use super::program::{Files, MESH_INIT, Run, called, mesh_init_with};

fn istio_with(args: &[&str], environment: &[(&str, &str)]) -> Run {
    mesh_init_with(&[&["istio-iptables", "-n"], args].concat(), environment)
}

fn istio(args: &[&str]) -> Run {
    istio_with(args, &[])
}

/// What is said on stderr, but not of this machine's own addresses.
fn warnings(run: &Run) -> Vec<&str> {
    run.stderr.lines().filter(|line| !line.contains("--dual-stack captures it")).collect()
}

/// How often `line` stands in the transcript of IPv4, which comes first.
#[track_caller]
fn count(run: &Run, line: &str) -> usize {
    assert_eq!(run.code, Some(0), "expected a dry run, seen {run}");
    let text = run.stdout.strip_prefix("iptables-save\nip6tables-save\n");
    let text = text.unwrap_or_else(|| panic!("expected a transcript, seen {run}"));
    let ipv4 = text.split_once("* nat\n").unwrap_or_else(|| panic!("expected a nat table, seen {run}"));
    // The raw table follows the nat table, the mangle table precedes it; a second family begins anew.
    let after = ipv4.1.split("\n* mangle\n").next().and_then(|text| text.split("\n* nat\n").next());
    let lines = ipv4.0.lines().chain(after.unwrap_or_default().lines());
    lines.filter(|seen| *seen == line).count()
}

fn has(run: &Run, line: &str) -> bool {
    count(run, line) > 0
}

/// Requires `line`, and that nothing was said.
#[track_caller]
fn makes(run: &Run, line: &str) {
    assert!(has(run, line), "expected {line:?}, seen {run}");
    assert!(warnings(run).is_empty(), "expected nothing on stderr, seen {run}");
}

/// Requires one warning with these words, and a transcript all the same.
#[track_caller]
fn warns(run: &Run, words: &str) {
    assert_eq!(run.code, Some(0), "expected a dry run, seen {run}");
    let said = warnings(run);
    let right = said.len() == 1 && said[0].contains("WARN") && said[0].contains(words);
    assert!(right, "expected one warning {words:?}, seen {run}");
}

#[test]
fn without_options_the_loop_is_avoided_and_nothing_is_captured() {
    let run = istio(&[]);
    for line in [
        "-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001",
        "-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006",
        "-A ISTIO_INBOUND -p tcp --dport 15008 -j RETURN",
        "-A ISTIO_OUTPUT -m owner --gid-owner 1337 -j RETURN",
        "-A OUTPUT -j ISTIO_OUTPUT",
    ] {
        makes(&run, line);
    }
    let captures = |line: &&str| line.ends_with("-j ISTIO_REDIRECT") || line.starts_with("-A PREROUTING");
    assert_eq!(run.stdout.lines().filter(captures).count(), 0, "{run}");
}

/// Flag, its variable, two values, and the line that a value makes.
#[rustfmt::skip]
const PRECEDENCE: [(&str, &str, &str, &str, &str); 12] = [
    ("-z", "INBOUND_CAPTURE_PORT", "15016", "15026", "-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports {}"),
    ("-e", "INBOUND_TUNNEL_PORT", "15018", "15028", "-A ISTIO_INBOUND -p tcp --dport {} -j RETURN"),
    ("-u", "PROXY_UID", "77", "78", "-A ISTIO_OUTPUT -m owner --uid-owner {} -j RETURN"),
    ("-g", "PROXY_GID", "77", "78", "-A ISTIO_OUTPUT -m owner --gid-owner {} -j RETURN"),
    ("-b", "ISTIO_INBOUND_PORTS", "80", "81", "-A ISTIO_INBOUND -p tcp --dport {} -j ISTIO_IN_REDIRECT"),
    ("-c", "ISTIO_EXCLUDE_INTERFACES", "eth1", "eth2", "-A OUTPUT -o {} -j RETURN"),
    ("-i", "ISTIO_SERVICE_CIDR", "10.1.0.0/16", "10.2.0.0/16", "-A ISTIO_OUTPUT -d {} -j ISTIO_REDIRECT"),
    ("-x", "ISTIO_SERVICE_EXCLUDE_CIDR", "10.1.0.0/16", "10.2.0.0/16", "-A ISTIO_OUTPUT -d {} -j RETURN"),
    ("-q", "ISTIO_OUTBOUND_PORTS", "80", "81", "-A ISTIO_OUTPUT -p tcp --dport {} -j ISTIO_REDIRECT"),
    ("-o", "ISTIO_LOCAL_OUTBOUND_PORTS_EXCLUDE", "80", "81", "-A ISTIO_OUTPUT -p udp --dport {} -j RETURN"),
    ("-k", "KUBE_VIRT_INTERFACES", "tap0", "tap1", "-I PREROUTING 1 -i {} -j RETURN"),
    ("-p", "", "15011", "15012", "-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports {}"),
];

#[test]
fn a_flag_wins_over_its_variable_and_that_over_the_default() {
    let default = istio(&[]);
    for (flag, variable, strong, weak, line) in PRECEDENCE {
        let made = |run: &Run, value: &str| has(run, &line.replace("{}", value));
        assert!(!made(&default, strong) && !made(&default, weak), "{default}");
        let by_flag = istio(&[flag, strong]);
        assert!(made(&by_flag, strong), "expected {line:?}, seen {by_flag}");
        // The last of several flags counts, lists included.
        let last = istio(&[flag, weak, flag, strong]);
        assert_eq!(last.stdout, by_flag.stdout, "{last}");
        if variable.is_empty() {
            continue;
        }
        let by_variable = istio_with(&[], &[(variable, strong)]);
        assert_eq!((by_variable.code, &by_variable.stdout), (Some(0), &by_flag.stdout), "{by_variable}");
        let both = istio_with(&[flag, strong], &[(variable, weak)]);
        assert_eq!(both.stdout, by_flag.stdout, "{both}");
        assert!(warnings(&both).is_empty(), "{both}");
    }
}

#[test]
fn of_two_variables_the_second_wins() {
    let dns = "-A ISTIO_OUTPUT -j ISTIO_OUTPUT_DNS";
    for (first, second, wanted) in [("true", "false", false), ("false", "true", true), ("0", "T", true)] {
        let environment = [("REDIRECT_DNS", first), ("ISTIO_META_DNS_CAPTURE", second)];
        let run = istio_with(&["--capture-all-dns"], &environment);
        assert_eq!(has(&run, dns), wanted, "{run}");
        let run = istio_with(&["--capture-all-dns", "--redirect-dns"], &environment);
        assert!(has(&run, dns), "{run}");
        let run = istio_with(&["--capture-all-dns", "--redirect-dns=false"], &environment);
        assert!(!has(&run, dns), "{run}");
    }
    let run = istio_with(&[], &[("DROP_INVALID", "true"), ("INVALID_DROP", "false")]);
    assert!(!has(&run, "-A ISTIO_DROP -j DROP"), "{run}");
}

#[test]
fn a_variable_that_is_empty_is_set() {
    // It says "no inbound ports", which is no default of ours.
    let run = istio_with(&[], &[("ISTIO_INBOUND_PORTS", "")]);
    assert_eq!(run.stdout, istio(&[]).stdout);
    let run = istio_with(&[], &[("INBOUND_CAPTURE_PORT", "")]);
    assert!(run.faults()[0].starts_with("variable INBOUND_CAPTURE_PORT: is empty"), "{run}");
    // Of the users it says the default.
    let run = istio_with(&["-g", "5"], &[("PROXY_UID", ""), ("ENVOY_USER", "root")]);
    makes(&run, "-A ISTIO_OUTPUT -m owner --uid-owner 0 -j RETURN");
    makes(&run, "-A ISTIO_OUTPUT -m owner --gid-owner 5 -j RETURN");
}

#[test]
fn what_is_no_boolean_is_ignored_in_a_variable_and_refused_in_a_flag() {
    let plain = istio(&[]).stdout;
    for (variable, value) in [
        ("REDIRECT_DNS", "yes"),
        ("DROP_INVALID", ""),
        ("CLEANUP_ONLY", "TRue"),
        ("SKIP_RULE_APPLY", "2"),
        ("IPTABLES_PROBE_PORT", "65536"),
        ("PROBE_TIMEOUT", "5"),
    ] {
        let run = istio_with(&[], &[(variable, value)]);
        warns(&run, &format!("variable {variable}: {value:?} cannot be read and is ignored"));
        assert_eq!(run.stdout, plain, "{run}");
    }
    // The first one is left standing.
    let run = istio_with(&[], &[("DROP_INVALID", "t"), ("INVALID_DROP", "on")]);
    warns(&run, "INVALID_DROP: \"on\" cannot be read");
    assert!(has(&run, "-A ISTIO_DROP -j DROP"), "{run}");
    let wrong =
        ["--redirect-dns=yes", "--drop-invalid=", "--iptables-probe-port", "-1", "--probe-timeout", "5"];
    istio(&wrong).refused(&[
        "--redirect-dns: \"yes\" is not true or false",
        "--drop-invalid: \"\" is not true or false",
        "--iptables-probe-port: \"-1\" is not a port",
        "--probe-timeout: \"5\" is not a duration",
    ]);
}

#[test]
fn booleans_are_gos() {
    let dropped = "-A ISTIO_DROP -j DROP";
    for word in ["1", "t", "T", "TRUE", "true", "True"] {
        makes(&istio(&[&format!("--drop-invalid={word}")]), dropped);
    }
    for word in ["0", "f", "F", "FALSE", "false", "False"] {
        assert!(!has(&istio(&[&format!("--drop-invalid={word}")]), dropped), "{word}");
    }
}

#[test]
fn only_tproxy_is_tproxy() {
    makes(&istio(&["-m", "TPROXY", "-b", "*"]), "-A ISTIO_DIVERT -j MARK --set-mark 1337");
    let redirect = istio(&["-m", "REDIRECT", "-b", "*"]);
    makes(&redirect, "-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT");
    for typo in ["tproxy", "TPROXI", " TPROXY", "NONE"] {
        let run = istio(&["-m", typo, "-b", "*"]);
        warns(&run, "is not TPROXY and therefore REDIRECT");
        assert_eq!(run.stdout, redirect.stdout, "{run}");
    }
    let run = istio(&["-m", "", "-b", "*"]);
    assert!(run.stdout == redirect.stdout && warnings(&run).is_empty(), "{run}");
}

#[test]
fn the_mark_and_the_table_count_in_tproxy_mode() {
    let run = istio(&["-m", "TPROXY", "-b", "80", "-t", "7", "-r", "99"]);
    let line =
        "-A ISTIO_TPROXY ! -d 127.0.0.1/32 -p tcp -j TPROXY --tproxy-mark 7/0xffffffff --on-port 15006";
    makes(&run, line);
    istio(&["-m", "TPROXY", "-t", "0x7", "-r", "main"]).refused(&[
        "--istio-inbound-tproxy-mark: \"0x7\" is not a decimal number",
        "--istio-inbound-tproxy-route-table: \"main\" is not a decimal number",
    ]);
    warns(&istio(&["-t", "0x7"]), "is no number, and has no effect without TPROXY");
    assert_eq!(istio(&["-t", "7", "-r", "99"]).stdout, istio(&[]).stdout);
}

#[test]
fn exclusions_beside_a_list_of_ports_have_no_effect() {
    let run = istio(&["-b", "80", "-d", "15090"]);
    warns(&run, "--istio-local-exclude-ports: \"15090\" has no effect unless all inbound ports are captured");
    assert_eq!(run.stdout, istio(&["-b", "80"]).stdout);
    warns(&istio(&["-d", "15090"]), "has no effect unless all inbound ports are captured");
    makes(&istio(&["-b", "*", "-d", "15090"]), "-A ISTIO_INBOUND -p tcp --dport 15090 -j RETURN");
    // The injector may give it empty.
    let run = istio(&["-b", "80", "-d", ""]);
    makes(&run, "-A ISTIO_INBOUND -p tcp --dport 80 -j ISTIO_IN_REDIRECT");
}

#[test]
fn items_may_have_blanks_around_them_and_be_empty() {
    let plain = istio(&["-b", "80,81", "-o", "25", "-c", "eth1"]).stdout;
    let run = istio(&["-b", " 80, 81 ", "-o", "25", "-c", "eth1"]);
    warns(&run, "has blanks around its items, which are dropped");
    assert_eq!(run.stdout, plain);
    for ports in ["80,,81", ",80,81", "80,81,"] {
        let run = istio(&["-b", ports, "-o", "25", "-c", "eth1"]);
        warns(&run, &format!("--istio-inbound-ports: {ports:?} has an empty item, which is dropped"));
        assert_eq!(run.stdout, plain, "{run}");
    }
}

#[test]
fn repetitions_are_kept() {
    let run = istio(&["-o", "25,25", "-u", "7,7", "-x", "10.0.0.0/8,10.0.0.0/8"]);
    for line in [
        "-A ISTIO_OUTPUT -p tcp --dport 25 -j RETURN",
        "-A ISTIO_OUTPUT -m owner --uid-owner 7 -j RETURN",
        "-A ISTIO_OUTPUT -d 10.0.0.0/8 -j RETURN",
    ] {
        assert_eq!(count(&run, line), 2, "{line} in {run}");
    }
}

#[test]
fn networks_are_prefixes() {
    istio(&["-i", "10.0.0.1,10.0.0.0/33", "-x", "*"]).refused(&[
        "--istio-service-cidr: \"10.0.0.1\" is not a network",
        "--istio-service-cidr: \"10.0.0.0/33\" is not a network",
        "--istio-service-exclude-cidr: \"*\" cannot be everything here",
    ]);
    let fault = "--istio-service-cidr: \" 10.1.0.0/16\" is not a network";
    istio(&["-i", "10.0.0.0/8, 10.1.0.0/16"]).refused(&[fault]);
    istio(&["-x", "fd00::1"]).refused(&["--istio-service-exclude-cidr: \"fd00::1\" is not a network"]);
    istio(&["-i", "*,10.0.0.0/8"]).refused(&["--istio-service-cidr: \"*\" stands beside other items"]);
    let run = istio(&["-i", "10.1.2.3/8"]);
    warns(&run, "10.1.2.3/8 is taken as the network 10.0.0.0/8");
    assert!(has(&run, "-A ISTIO_OUTPUT -d 10.0.0.0/8 -j ISTIO_REDIRECT"), "{run}");
}

#[test]
fn ranges_are_written_with_a_colon() {
    makes(&istio(&["-b", "8000:8080"]), "-A ISTIO_INBOUND -p tcp --dport 8000:8080 -j ISTIO_IN_REDIRECT");
    istio(&["-b", "8000-8080", "-o", "1-2", "-q", "3-4"]).refused(&[
        "--istio-inbound-ports: \"8000-8080\" is not a port or a range of ports: write a range as first:last",
        "--istio-local-outbound-ports-exclude: \"1-2\" is not a port or a range of ports",
        "--istio-outbound-ports: \"3-4\" is not a port or a range of ports",
    ]);
}

#[test]
fn what_would_not_load_is_refused() {
    for (args, fault) in [
        (&["-p", "http"][..], "--envoy-port: \"http\" is not a port"),
        (&["-z", ""], "--inbound-capture-port: is empty"),
        (
            &["-b", "80 -j ACCEPT"],
            "--istio-inbound-ports: \"80 -j ACCEPT\" is not a port or a range of ports",
        ),
        (&["-u", "no-such-user"], "--proxy-uid: \"no-such-user\" is not a user"),
        (&["-c", "eth0/1"], "--istio-exclude-interfaces: \"eth0/1\" is not an interface name"),
        (&["--force-iptables-binary", "xtables"], "--force-iptables-binary: \"xtables\" is no iptables"),
    ] {
        let run = istio(args);
        assert!(run.faults().iter().any(|seen| seen.starts_with(fault)), "expected {fault:?}, seen {run}");
        assert_eq!(run.stdout, "", "{run}");
    }
    for cidr in ["10.0.0.0/8", "127.0.0.0/7", "127.0.0.1", "::1/128", "x"] {
        let name = "ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR";
        let run = istio_with(&[], &[(name, cidr)]);
        run.refused(&[&format!("variable {name}: {cidr:?} is not a loopback network")]);
    }
    for no_rules in ["--dry-run", "--cleanup-only", "--skip-rule-apply"] {
        let run = istio(&[no_rules, "--confirm-within", "5s"]);
        run.refused(&["--confirm-within: \"5s\" has nothing to take back: no rules are made"]);
    }
    for args in [&["--no-such-flag"][..], &["-p"], &["--layout", "classic"], &["--uid-owner", "5"]] {
        let run = istio(args).code(64);
        assert!(run.stderr.contains("error:") && run.stdout.is_empty(), "{run}");
    }
}

#[test]
fn groups_of_a_pods_processes() {
    const NAME: &str = "ISTIO_OUTBOUND_OWNER_GROUPS";
    const EXCLUDE: &str = "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE";
    let run = istio_with(&[], &[(NAME, "7,root")]);
    makes(&run, "-A ISTIO_OUTPUT -m owner ! --gid-owner 7 -m owner ! --gid-owner 0 -j RETURN");
    makes(&istio_with(&[], &[(NAME, "")]), "-A ISTIO_OUTPUT -j RETURN");
    let run = istio_with(&[], &[(NAME, "*"), (EXCLUDE, "7")]);
    makes(&run, "-A ISTIO_OUTPUT -m owner --gid-owner 7 -j RETURN");
    warns(
        &istio_with(&[], &[(NAME, "8"), (EXCLUDE, "7")]),
        "has no effect beside a list of groups to capture",
    );
    // iptables has room for so many in one rule, upstream for 64 in its list.
    let many = |count: u32| (1..=count).map(|gid| gid.to_string()).collect::<Vec<_>>().join(",");
    assert_eq!(istio_with(&[], &[(NAME, &many(49))]).code, Some(0));
    for count in [50, 64, 65] {
        let fault = format!("variable {NAME}: is a list of {count}, of which iptables takes 49 in one rule");
        istio_with(&[], &[(NAME, &many(count))]).refused(&[&fault]);
    }
    // What is excluded is not limited.
    assert_eq!(istio_with(&[], &[(EXCLUDE, &many(65))]).code, Some(0));
}

#[test]
fn envoy_port_is_not_read_and_said_to_be() {
    let run = istio_with(&[], &[("ENVOY_PORT", "15011")]);
    warns(&run, "ENVOY_PORT: not read since Istio 1.21: give -p");
    assert_eq!(run.stdout, istio(&[]).stdout);
}

#[test]
fn the_proxys_user_is_looked_up() {
    // Every Linux has root.
    let run = istio_with(&[], &[("ENVOY_USER", "root")]);
    makes(&run, "-A ISTIO_OUTPUT -m owner --uid-owner 0 -j RETURN");
    makes(&run, "-A ISTIO_OUTPUT -m owner --gid-owner 0 -j RETURN");
    let run = istio_with(&[], &[("ENVOY_USER", "no-such-user")]);
    makes(&run, "-A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN");
}

/// The program by `name`, in a folder of its own.
fn by_name(files: &Files, name: &str, words: &[&str]) -> Run {
    let path = files.path(name);
    if !path.exists() {
        symlink(MESH_INIT, &path).unwrap();
    }
    called(&path, words, &[])
}

#[test]
fn every_name_it_is_called_by() {
    let files = Files::new();
    let plain = istio(&["-b", "*"]).stdout;
    for (name, leading) in [
        ("istio-iptables", &[][..]),
        ("istio-iptables", &["istio-iptables"]),
        ("pilot-agent", &["istio-iptables"]),
        ("mesh-init", &["istio-iptables"]),
    ] {
        let run = by_name(&files, name, &[leading, &["-n", "-b", "*"]].concat());
        assert_eq!((run.code, &run.stdout), (Some(0), &plain), "{run}");
    }
    // By any other name it is mesh-init, and the word only counts in the first place.
    let run = by_name(&files, "istio-iptables-old", &["--version"]).code(0);
    assert!(run.stdout.starts_with("mesh-init "), "{run}");
    by_name(&files, "istio-iptables-old", &["plan", "istio-iptables"]).code(64);
}

/// A removal that is a dry run prints nothing: what it would remove depends on the machine.
#[test]
fn removing_by_every_name_of_it() {
    let files = Files::new();
    let removes = |run: &Run| assert_eq!((run.code, run.stdout.as_str()), (Some(0), ""), "{run}");
    removes(&istio(&["--cleanup-only"]));
    removes(&istio_with(&[], &[("CLEANUP_ONLY", "1")]));
    removes(&mesh_init_with(&["istio-iptables", "clean", "-n"], &[]));
    removes(&by_name(&files, "istio-iptables", &["clean", "-n"]));
    removes(&by_name(&files, "istio-iptables", &["istio-iptables", "clean", "-n"]));
    let flags = ["-n", "-u", "1337", "-g", "1337", "-m", "TPROXY", "-t", "1337", "--redirect-dns=false"];
    removes(&by_name(&files, "istio-clean-iptables", &flags));
    // Only as the first word: elsewhere it is a positional argument like any other.
    assert_eq!(istio(&["clean"]).stdout, istio(&[]).stdout);
    // Nor is anything made here.
    removes(&istio(&["--skip-rule-apply"]));
}

#[test]
fn words_and_flags_of_other_times_have_no_effect() {
    let plain = istio(&["-b", "80"]).stdout;
    for args in [
        &["ignored", "-b", "80", "more"][..],
        &["-f", "-b", "80"],
        &["--restore-format=false", "-b", "80"],
        &["--iptables-trace-logging", "-b", "80"],
        &["--output-paths", "/tmp/x", "-b", "80"],
        &["--host-nsenter-exec", "-b", "80"],
        &["--iptables-version", "1.8.7", "-b", "80"],
        &["--log_output_level=default:info,all:debug", "--log_as_json", "--log_target", "stdout", "-b", "80"],
        &["--network-namespace", "/proc/1/ns/net", "--cni-mode", "-b", "80"],
        &["--reconcile", "--force-apply", "-b", "80"],
        &["--iptables-probe-port", "15002", "--probe-timeout=1m30s", "-b", "80"],
        &["--force-iptables-binary", "nft", "-b80"],
        &["--istio-inbound-ports=80"],
    ] {
        let run = istio(args);
        assert_eq!((run.code, &run.stdout), (Some(0), &plain), "{run}");
        assert!(warnings(&run).is_empty(), "{run}");
    }
}

#[test]
fn native_nftables_is_a_script_of_nft() {
    for run in [istio(&["--native-nftables"]), istio_with(&[], &[("NATIVE_NFTABLES", "true")])] {
        assert_eq!(run.code, Some(0), "{run}");
        assert!(run.stdout.starts_with("table ip mesh_init {\n"), "{run}");
        for line in [
            "type nat hook output priority -99; policy accept;",
            "redirect to :15006 comment \"mesh-init:redirect.inbound: captured inbound traffic goes to the proxy's inbound port\"",
        ] {
            assert!(run.stdout.lines().any(|seen| seen.ends_with(line)), "expected {line:?}, seen {run}");
        }
    }
    let run = istio(&["--native-nftables", "--force-iptables-binary", "legacy"]);
    assert!(warnings(&run).iter().any(|line| line.contains("has no effect beside native nftables")), "{run}");
    assert_eq!(istio(&["--native-nftables=false"]).stdout, istio(&[]).stdout);
}

#[test]
fn a_dry_run_is_written_over_the_beginning_of_its_file() {
    const NAME: &str = "DRY_RUN_FILE_PATH";
    let files = Files::new();
    let text = istio(&["-b", "*"]).stdout;
    let new = files.path("new");
    let run = istio_with(&["-b", "*"], &[(NAME, new.to_str().unwrap())]);
    assert_eq!((run.code, &run.stdout), (Some(0), &text), "{run}");
    assert_eq!(std::fs::read_to_string(&new).unwrap(), text, "the file is made");
    let long = files.write("long", "x".repeat(text.len() + 3));
    assert_eq!(istio_with(&["-b", "*"], &[(NAME, &long)]).code, Some(0));
    assert_eq!(std::fs::read_to_string(&long).unwrap(), format!("{text}xxx"), "its end is kept");
    let run = istio_with(&[], &[(NAME, "/nonexistent/file")]).code(64);
    assert!(run.stderr.contains("/nonexistent/file cannot be written"), "{run}");
    assert_eq!(istio_with(&["-b", "*"], &[(NAME, "")]).stdout, text);
}

#[test]
fn help_is_its_own() {
    let run = mesh_init_with(&["istio-iptables", "--help"], &[]).code(0);
    for word in ["--istio-service-cidr", "--istio-local-outbound-ports-exclude", "--native-nftables"] {
        assert!(run.stdout.contains(word), "expected {word:?}, seen {run}");
    }
    assert!(!run.stdout.contains("--uid-owner") && run.stderr.is_empty(), "{run}");
}
