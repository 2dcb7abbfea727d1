//! Env files as Istio's VM scripts write them, and policy files as JSON and as TOML.

use super::program::{Files, mesh_init, path_text};

#[test]
fn the_env_files_of_a_mesh_expansion() {
    let files = Files::new();
    let cluster = files.write("cluster.env", "ISTIO_SERVICE_CIDR=10.63.240.0/20\n");
    assert_eq!(
        mesh_init(&["plan", "--env-file", &cluster]).ok(),
        mesh_init(&["plan", "-i", "10.63.240.0/20"]).ok()
    );
    let sidecar = files.write("sidecar.env", "ISTIO_INBOUND_PORTS=27017,3306,8080\n");
    let vm = ["plan", "--uid-owner", "1338"];
    let by_env = mesh_init(&[&vm[..], &["--env-file", &cluster, "--env-file", &sidecar]].concat()).ok();
    let by_flags = mesh_init(&[&vm[..], &["-i", "10.63.240.0/20", "-b", "27017,3306,8080"]].concat()).ok();
    assert_eq!(by_env, by_flags);
    // One flag with both files, and the variable, mean the same.
    let both = format!("{cluster},{sidecar}");
    assert_eq!(mesh_init(&[&vm[..], &["--env-file", &both]].concat()).ok(), by_flags);
}

#[test]
fn a_later_file_and_a_later_line_win() {
    let files = Files::new();
    let first = files.write("first.env", "ENVOY_PORT=15011\nISTIO_SERVICE_CIDR=10.1.0.0/16\n");
    let last = files.write("last.env", "ENVOY_PORT=15012\nMESH_INIT_PROXY_PORT=15013\n");
    let plan = mesh_init(&["plan", "--env-file", &first, "--env-file", &last]).ok();
    assert_eq!(plan, mesh_init(&["plan", "-p", "15013", "-i", "10.1.0.0/16"]).ok());
    let plan = mesh_init(&["plan", "--env-file", &last, "--env-file", &first]).ok();
    assert_eq!(plan, mesh_init(&["plan", "-p", "15011", "-i", "10.1.0.0/16"]).ok());
}

#[test]
fn quoting_is_a_shells_and_nothing_is_executed() {
    let files = Files::new();
    let text = "# the mesh\n\nexport ISTIO_SERVICE_CIDR=\"10.0.0.0/8\",'172.16.0.0/12' # two\nPROXY_UID=13\\\n37\r\n";
    let env = files.write("quoted.env", text);
    let flags = mesh_init(&["plan", "-i", "10.0.0.0/8,172.16.0.0/12", "-u", "1337"]).ok();
    assert_eq!(mesh_init(&["plan", "--env-file", &env]).ok(), flags);

    let proof = files.path("executed");
    let touch = path_text(&proof);
    let env = files.write(
        "shell.env",
        format!(
            "PROXY_UID=$(touch {touch})\nENVOY_PORT=`touch {touch}`\nA=1; touch {touch}\nB=$HOME\nnonsense\n"
        ),
    );
    let run = mesh_init(&["plan", "--env-file", &env]);
    let faults = run.faults();
    assert_eq!(faults.len(), 5, "{run}");
    for (line, fault) in faults.iter().enumerate() {
        assert!(fault.starts_with(&format!("{env}:{}", line + 1)), "{run}");
    }
    assert!(!proof.exists(), "something was executed");
}

#[test]
fn names_without_effect_are_a_warning() {
    let files = Files::new();
    let env =
        files.write("sidecar.env", "ISTIO_CP_AUTH=MUTUAL_TLS\nISTIO_NAMESPACE=default\nENVOY_PORT=15001\n");
    let run = mesh_init(&["plan", "--env-file", &env]).code(0);
    assert_eq!(run.stdout, mesh_init(&["plan"]).ok());
    assert!(
        run.stderr.lines().count() == 1 && run.stderr.contains("ISTIO_CP_AUTH, ISTIO_NAMESPACE"),
        "{run}"
    );
}

const JSON: &str = r#"{
  "schema": "mesh-init/policy/v1",
  "mode": "redirect",
  "proxy": { "port": 15011, "inboundPort": 15006, "uids": [1337, "root"], "gids": ["7"] },
  "outbound": {
    "cidrs": ["10.0.0.0/8", "fd00::/8"],
    "ports": [80, "443-444"],
    "excludeCidrs": ["10.1.0.0/16"],
    "excludePorts": ["25"],
    "owners": { "uids": [1338], "gids": [1339] }
  },
  "inbound": { "ports": "*", "excludePorts": [9000, "9100-9200"] },
  "interfaces": { "exclude": ["eth9", "veth+"] },
  "ipv6": "on"
}"#;

const TOML: &str = r#"
schema = "mesh-init/policy/v1"
mode = "redirect"
ipv6 = "on"

[proxy]
port = 15011
inboundPort = 15006
uids = [1337, "root"]
gids = ["7"]

[outbound]
cidrs = ["10.0.0.0/8", "fd00::/8"]
ports = [80, "443-444"]
excludeCidrs = ["10.1.0.0/16"]
excludePorts = ["25"]
owners.uids = [1338]
owners.gids = [1339]

[inbound]
ports = "*"
excludePorts = [9000, "9100-9200"]

[interfaces]
exclude = ["eth9", "veth+"]
"#;

#[rustfmt::skip]
const FLAGS: [&str; 29] = [
    "plan", "-m", "redirect", "-p", "15011", "-z", "15006", "-u", "1337,root", "-g", "7", "-i", "10.0.0.0/8,fd00::/8",
    "-q", "80,443-444", "-x", "10.1.0.0/16", "-o", "25", "--uid-owner", "1338", "--gid-owner", "1339",
    "-b", "*", "-d", "9000,9100-9200", "-c", "eth9,veth+",
];

#[test]
fn json_toml_and_flags_say_the_same() {
    let files = Files::new();
    let flags = mesh_init(&[&FLAGS[..], &["--ipv6", "on"]].concat()).ok();
    for (name, text) in [("policy.json", JSON), ("policy", JSON), ("policy.toml", TOML)] {
        let path = files.write(name, text);
        assert_eq!(mesh_init(&["plan", "--config", &path]).ok(), flags, "{name}");
    }
}

#[test]
fn what_a_policy_file_may_not_say() {
    let files = Files::new();
    for (text, fault) in [
        (r#"{"proxy":{"prot":15001}}"#, "proxy.prot: is not a known key"),
        (r#"{"outbund":{}}"#, "outbund: is not a known key"),
        (r#"{"layout":"classic"}"#, "layout: is not a known key"),
        (r#"{"schema":"mesh-init/policy/v2"}"#, "schema: is not a schema this version reads"),
        (r#"{"proxy":15001}"#, "proxy: is not an object"),
        (r#"{"proxy":{"port":[15001]}}"#, "proxy.port: is not one value"),
        (r#"{"proxy":{"port":15001.5}}"#, "proxy.port: \"15001.5\" is not a port"),
        (r#"{"proxy":{"port":1e4}}"#, "proxy.port: \"10000.0\" is not a port"),
        (r#"{"proxy":{"uids":[null]}}"#, "proxy.uids[0]: is not a list"),
        (r#"{"proxy":{"uids":{"a":1}}}"#, "proxy.uids: is not a list"),
        (r#"{"outbound":{"cidrs":["10.0.0.0/8",""]}}"#, "outbound.cidrs[1]: is not a list"),
    ] {
        let path = files.write("policy.json", text);
        mesh_init(&["plan", "--config", &path]).refused(&[&format!("{path} {fault}")]);
    }
    for (name, text) in [("a.json", "{"), ("a.json", ""), ("a.toml", "= 1"), ("a.toml", "{}")] {
        let path = files.write(name, text);
        let run = mesh_init(&["plan", "--config", &path]);
        let faults = run.faults();
        assert!(
            faults.len() == 1 && faults[0].starts_with(&path) && faults[0].contains("docs/json.md"),
            "{run}"
        );
    }
}

#[test]
fn files_that_cannot_be_read() {
    let files = Files::new();
    let folder = path_text(&files.path(""));
    let fifo = path_text(&files.path("fifo"));
    let made = std::process::Command::new("mkfifo").arg(&fifo).status();
    assert!(made.is_ok_and(|status| status.success()), "mkfifo");
    let bytes = files.write("bytes", [0xff, 0xfe]);
    let large = files.write("large", vec![b'#'; 10_000_000]);
    for flag in ["--env-file", "--config"] {
        for (path, problem) in [
            ("/nonexistent/file", "cannot be read: No such file or directory"),
            (&folder, "is not a plain file"),
            (&fifo, "is not a plain file"),
            ("/dev/zero", "is not a plain file"),
            (&bytes, "is not UTF-8"),
            (&large, "is larger than 4 MiB"),
        ] {
            mesh_init(&["plan", flag, path]).refused(&[&format!("{flag}: {path} {problem}")]);
        }
        let run = mesh_init(&["plan", flag, ""]);
        assert!(run.faults().len() == 1 && run.stderr.contains(&format!("{flag}: is empty")), "{run}");
    }
}

/// A config file may be named in an env file; another env file may not, and is not ignored either.
#[test]
fn files_named_in_env_files() {
    let files = Files::new();
    let config = files.write("policy.json", r#"{"proxy":{"port":15011}}"#);
    let env = files.write("one.env", format!("MESH_INIT_CONFIG={config}\n"));
    assert_eq!(mesh_init(&["plan", "--env-file", &env]).ok(), mesh_init(&["plan", "-p", "15011"]).ok());
    let other = files.write("other.env", "ENVOY_PORT=15012\n");
    let env = files.write("two.env", format!("MESH_INIT_ENV_FILE={other}\n"));
    let run = mesh_init(&["plan", "--env-file", &env]);
    assert!(run.stderr.contains("MESH_INIT_ENV_FILE"), "expected it to be refused or told, seen {run}");
}
