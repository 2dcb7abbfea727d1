//! Input that is meant to harm: what it says must neither reach a rule nor forge or flood what the program says.

use super::program::{Files, Run, mesh_init, mesh_init_with};

const SMUGGLED: [&str; 8] = [
    "eth0\n-A OUTPUT -j ACCEPT",
    "eth0 -j ACCEPT",
    "10.0.0.0/8 -j ACCEPT\n",
    "80\n-A PREROUTING -j ACCEPT\nCOMMIT\n",
    "1337 --suppl-groups -j ACCEPT",
    "\" -j ACCEPT --comment \"",
    "$(id)",
    "\u{1b}[2Jmesh-init: all is well",
];

/// Everything that takes a value, on the command line of a VM host.
const FLAGS: [&str; 21] = [
    "-p",
    "-z",
    "-u",
    "-g",
    "-m",
    "-b",
    "-d",
    "-i",
    "-x",
    "-q",
    "-o",
    "-c",
    "--uid-owner",
    "--gid-owner",
    "--ipv6",
    "--layout",
    "--backend",
    "--iptables-variant",
    "--wait",
    "--output",
    "--dns-server",
];

/// Refused, each fault a line that the program began, and little of the input given back.
#[track_caller]
fn refused_plainly(run: &Run) {
    let faults = run.faults();
    assert!(!faults.is_empty(), "{run}");
    for fault in faults {
        assert!(!fault.contains(char::is_control), "expected plain text, seen {fault:?}");
    }
    assert!(run.stderr.len() < 4096, "expected a short answer, seen {} bytes", run.stderr.len());
    assert_eq!(run.stdout, "");
}

#[test]
fn rules_cannot_be_smuggled_in_by_any_flag() {
    for flag in FLAGS {
        for value in SMUGGLED {
            let owner = if flag == "--uid-owner" { &[][..] } else { &["--uid-owner", "4242"] };
            refused_plainly(&mesh_init(&[&["plan", flag, value], owner].concat()));
        }
    }
}

#[test]
fn nor_by_variables_env_files_and_config_files() {
    let files = Files::new();
    for value in SMUGGLED {
        refused_plainly(&mesh_init_with(
            &["plan", "--uid-owner", "4242"],
            &[("MESH_INIT_EXCLUDE_INTERFACE", value)],
        ));
        let env = files.write("a.env", format!("MESH_INIT_EXCLUDE_INTERFACE='{value}'\n"));
        refused_plainly(&mesh_init(&["plan", "--uid-owner", "4242", "--env-file", &env]));
        let text = serde_json::json!({ "interfaces": { "exclude": [value] } }).to_string();
        let config = files.write("a.json", text);
        refused_plainly(&mesh_init(&["plan", "--uid-owner", "4242", "--config", &config]));
    }
}

#[test]
fn large_values_are_not_given_back() {
    let files = Files::new();
    let large = "9".repeat(3_000_000);
    let many = vec!["x"; 500_000].join(",");
    for value in [&large, &many] {
        let env = files.write("large.env", format!("ISTIO_SERVICE_CIDR={value}\n"));
        let run = mesh_init(&["plan", "--env-file", &env]).code(64);
        assert!(run.stderr.len() < 16_384, "expected a short answer, seen {} bytes", run.stderr.len());
        let config = files.write("large.json", format!("{{\"outbound\":{{\"cidrs\":\"{value}\"}}}}"));
        let run = mesh_init(&["plan", "--config", &config]).code(64);
        assert!(run.stderr.len() < 16_384, "expected a short answer, seen {} bytes", run.stderr.len());
    }
    let flag = "9".repeat(100_000);
    refused_plainly(&mesh_init(&["plan", "-p", &flag]));
}

/// Keys, names and paths come from outside as much as values do.
#[test]
fn keys_of_a_config_file_cannot_forge_or_flood_messages() {
    let files = Files::new();
    let forged = files.write("forged.json", "{\"a\\nmesh-init: all is well\":1}");
    refused_plainly(&mesh_init(&["plan", "--config", &forged]));
    let long = files.write("long.json", format!("{{\"{}\":1}}", "k".repeat(3_000_000)));
    refused_plainly(&mesh_init(&["plan", "--config", &long]));
}

#[test]
fn broken_toml_is_not_given_back() {
    let files = Files::new();
    let escape = files.write("escape.toml", "a = \u{1b}[2J\n");
    refused_plainly(&mesh_init(&["plan", "--config", &escape]));
    let long = files.write("long.toml", format!("a = {}\n", "k".repeat(3_000_000)));
    refused_plainly(&mesh_init(&["plan", "--config", &long]));
}

#[test]
fn names_in_an_env_file_do_not_flood_messages() {
    let files = Files::new();
    let names: String = (0..100_000).map(|number| format!("NAME_{number}=1\n")).collect();
    for text in [names, format!("{}=1\n", "N".repeat(3_000_000))] {
        let env = files.write("names.env", text);
        let run = mesh_init(&["plan", "--env-file", &env]).code(0);
        assert!(run.stderr.len() < 16_384, "expected a short warning, seen {} bytes", run.stderr.len());
    }
}

#[test]
fn paths_cannot_forge_messages() {
    for flag in ["--env-file", "--config"] {
        refused_plainly(&mesh_init(&["plan", flag, "/nonexistent\nmesh-init: all is well"]));
        refused_plainly(&mesh_init(&["plan", flag, &format!("/{}", "x".repeat(100_000))]));
    }
}
