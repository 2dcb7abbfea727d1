//! The program as a user calls it, without any privilege: what it takes, refuses and says, and on which stream.

mod empty;
mod explain;
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
    for args in [
        &["--proxy-prot", "15001"][..],
        &["-y"],
        &["plan", "--bogus"],
        &["plan", "-p"],
        &["plan", "15001"],
        &["capture"],
        &["-p", "15001", "plan"],
        // What a verb does not take is not ignored.
        &["clean", "-p", "15001"],
        &["status", "--layout", "classic"],
        &["clean", "--env-file", "x"],
        &["apply", "--live"],
    ] {
        let run = mesh_init(args).code(64);
        assert!(run.stdout.is_empty() && run.stderr.contains("error:"), "{run}");
    }
    let run = mesh_init(&["plan", "--proxy-prot", "1"]).code(64);
    assert!(run.stderr.contains("--proxy-port"), "expected the flag that was meant, seen {run}");
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
