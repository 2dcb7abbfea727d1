//! The program as a user calls it, without any privilege: what it takes, refuses and says, and on which stream.

mod empty;
mod explain;
mod explain_pod;
mod faults;
mod files;
mod hostile;
mod istio;
mod layouts;
mod precedence;
pub(crate) mod program;
mod spellings;

use program::{mesh_init, mesh_init_with};

#[test]
fn without_arguments_it_says_how_to_call_it() {
    let run = mesh_init(&[]).code(64);
    assert_eq!(run.stdout, "");
    for word in ["Usage: mesh-init", "--proxy-port", "--uid-owner", "Examples:", "Exit codes:"] {
        assert!(run.stderr.contains(word), "expected {word:?} in the help, seen {run}");
    }
    // Istio's own variables are no input, so there is still none.
    let run = mesh_init_with(&[], &[("ISTIO_SERVICE_CIDR", "10.0.0.0/8"), ("ENVOY_PORT", "15002")]).code(64);
    assert!(run.stderr.contains("Usage: mesh-init"), "{run}");
}

#[test]
fn help_and_version_are_answers() {
    for args in [&["--help"][..], &["-h"], &["plan", "--help"], &["apply", "--help"], &["status", "-h"]] {
        let run = mesh_init(args).code(0);
        assert!(run.stdout.contains("Usage: mesh-init") && run.stderr.is_empty(), "{run}");
    }
    let run = mesh_init(&["--version"]).code(0);
    assert_eq!(run.stdout, format!("mesh-init {}\n", env!("CARGO_PKG_VERSION")));
    assert_eq!(mesh_init(&["-V"]).code(0).stdout, run.stdout);
}

#[test]
fn what_cannot_be_understood_is_misuse() {
    for args in [&["plan", "-p"][..], &["capture"], &["-p", "15001", "plan"], &["explain", "--diff", "-b 80"]]
    {
        let run = mesh_init(args).code(64);
        assert!(run.stdout.is_empty() && run.stderr.contains("error:"), "{run}");
    }
    // What stops the reading is told with what was found before.
    let run = mesh_init(&["plan", "--bogus", "-p"]).code(64);
    for told in ["error: \"--bogus\" is not taken here", "error: a value is required for '--proxy-port"] {
        assert!(run.stderr.contains(told), "expected {told:?}, seen {run}");
    }
}

#[test]
fn words_that_a_verb_does_not_take_are_all_told_beside_the_other_faults() {
    for (args, unknown) in [
        (&["--proxy-prot", "15001"][..], &["--proxy-prot"][..]),
        (&["-y"], &["-y"]),
        (&["plan", "--bogus"], &["--bogus"]),
        (&["plan", "15001"], &["15001"]),
        (&["clean", "-p", "15001"], &["-p"]),
        (&["clean", "-p15001", "--uid-owner=7"], &["-p", "--uid-owner"]),
        (&["status", "--layout", "classic"], &["--layout"]),
        (&["clean", "--env-file", "x", "--bogus"], &["--env-file", "--bogus"]),
        (&["apply", "--live"], &["--live"]),
        (&["--bogus", "plan"], &["--bogus"]),
        (&["explain", "--host", "out", "tcp", "10.0.0.1:80"], &["--host"]),
    ] {
        let begins: Vec<String> =
            unknown.iter().map(|word| format!("{word:?} is not taken here: ")).collect();
        mesh_init(args).refused(&begins.iter().map(String::as_str).collect::<Vec<_>>());
    }
    let run = mesh_init(&["plan", "--proxy-prot", "1", "-z", "http", "--bogus", "--ipv6", "maybe"]);
    run.refused(&[
        "\"--proxy-prot\" is not taken here: give --proxy-port if that is meant",
        "\"--bogus\" is not taken here: leave it out, or see --help",
        "--inbound-capture-port: \"http\" is not a port",
        "--ipv6: \"maybe\" is not one of its values",
    ]);
    // Beyond some it is enough.
    let many: Vec<String> = (0..5000).map(|number| format!("--no-{number}")).collect();
    let run =
        mesh_init(&[&["plan"], &many.iter().map(String::as_str).collect::<Vec<_>>()[..]].concat()).code(64);
    assert!(run.stderr.len() < 4000 && run.stderr.contains("--no-19"), "{run}");
}

#[test]
fn flags_without_effect_are_faults() {
    const NO_MACHINE: &str = "has no effect: without --live no machine is looked at";
    let connection = "out tcp 10.0.0.1:80";
    for flag in [
        "--iptables-variant=nft",
        "--netns=/run/netns/x",
        "--host",
        "--confirm-within=9s",
        "--all",
        "--wait=1",
    ] {
        let name = flag.split('=').next().unwrap_or_default();
        let told = match flag.split_once('=') {
            Some((name, value)) => format!("{name}: {value:?} {NO_MACHINE}: "),
            None => format!("{name}: \"true\" {NO_MACHINE}: "),
        };
        mesh_init(&["plan", "-p", "15001", flag]).refused(&[&told]);
        if !["--host", "--confirm-within", "--all"].contains(&name) {
            mesh_init(&["explain", flag, connection]).refused(&[&told]);
        }
    }
    for (args, told) in [
        (&["status", "--all"][..], "--all: \"true\" has no effect here"),
        (&["confirm", "--all"], "--all: \"true\" has no effect here"),
        (&["watch", "--all"], "--all: \"true\" has no effect here"),
        (&["verify", "--host"], "--host: \"true\" has no effect: without a policy"),
        (&["verify", "--repair"], "--repair needs the policy"),
        (&["verify", "-p", "1", "--confirm-within", "9s"], "--confirm-within: \"9s\" is for apply"),
        (&["verify", "--strict", "--quick"], "--quick tries nothing, and --strict"),
        (&["explain", "--live", "--layout", "istio", connection], "--layout: \"istio\" says nothing of"),
        (
            &["explain", "--live", "--backend", "nftables", connection],
            "--backend: \"nftables\" says nothing of",
        ),
        (
            &["explain", "--live", "--iptables-variant", "nft", connection],
            "--iptables-variant: \"nft\" says nothing",
        ),
    ] {
        mesh_init(args).refused(&[told]);
    }
    // Beside other faults.
    mesh_init(&["watch", "--interval", "0", "--count", "-1", "--wait", "x"]).refused(&[
        "--interval: \"0\" is not such a number: give a number from 1 to 3600",
        "--count: \"-1\" is not such a number",
        "--wait: \"x\"",
    ]);
    mesh_init(&["watch", "--interval", "3601", "--count=4294967296"]).refused(&["--interval: ", "--count: "]);
    mesh_init(&["verify", "--repair", "--wait", "long", "--host"]).refused(&[
        "--repair needs the policy",
        "--host: ",
        "--wait: \"long\"",
    ]);
    // A variable is for every command.
    let plain = mesh_init(&["plan"]).ok();
    let variables =
        [("MESH_INIT_NETNS", "/run/netns/x"), ("MESH_INIT_WAIT", "5"), ("MESH_INIT_HOST", "true")];
    assert_eq!(mesh_init_with(&["plan"], &variables).ok(), plain);
}

#[test]
fn the_classic_call() {
    let plan = mesh_init(&["plan", "-p", "15001", "-u", "1337"]).ok();
    assert_eq!(plan, mesh_init(&["plan"]).ok(), "these are the defaults");
    assert_eq!(plan, mesh_init(&["plan", "--envoy-port=15001", "-u1337"]).ok());
    assert!(plan.starts_with("# IPv4") && plan.contains("\n# IPv6"), "{plan}");
    assert_eq!(plan.matches("* nat\n").count(), 2, "{plan}");
    assert_eq!(plan.matches("--uid-owner 1337 ").count(), 2, "{plan}");
    assert_eq!(plan.matches("--to-ports 15001\n").count(), 2, "{plan}");
}

#[test]
fn names_become_numbers() {
    // Every Linux has root as user and group 0.
    let plan = mesh_init(&["plan", "-u", "root,1337", "-g", "root"]).ok();
    for line in ["--uid-owner 0 ", "--uid-owner 1337 ", "--gid-owner 0 "] {
        assert_eq!(plan.matches(line).count(), 2, "expected {line:?} once a family, seen\n{plan}");
    }
    assert!(!plan.contains("root"), "{plan}");
    let run = mesh_init(&["plan", "-u", "1337,no-such-user", "-g", "no-such-group"]).code(64);
    let faults = run.faults();
    assert_eq!(faults.len(), 2, "{run}");
    assert!(faults[0].starts_with("--proxy-uid: \"no-such-user\" is not a user in /etc/passwd"), "{run}");
    assert!(faults[1].starts_with("--proxy-gid: \"no-such-group\" is not a group in /etc/group"), "{run}");
}

#[test]
fn an_unknown_variable_of_ours_is_a_warning() {
    let plain = mesh_init(&["plan", "--output", "json"]).ok();
    // Kubernetes makes such variables for a Service of that name.
    let variables =
        [("MESH_INIT_SERVICE_HOST", "10.0.0.1"), ("MESH_INIT_PORT", "tcp://10.0.0.1:80"), ("MESH_INIT", "1")];
    let run = mesh_init_with(&["plan", "--output", "json"], &variables).code(0);
    assert_eq!(run.stdout, plain, "stdout is for the answer");
    assert_eq!(run.stderr.lines().count(), 1, "{run}");
    assert!(
        run.stderr.contains("WARN") && run.stderr.contains("MESH_INIT_PORT, MESH_INIT_SERVICE_HOST"),
        "{run}"
    );
}

#[test]
fn mode_none_makes_nothing() {
    for args in
        [&["plan", "-m", "NONE"][..], &["plan", "--mode=none", "-z", "15006", "-b", "80", "-k", "tap0"]]
    {
        assert_eq!(mesh_init(args).ok(), "# nothing to do\n", "{args:?}");
    }
}
