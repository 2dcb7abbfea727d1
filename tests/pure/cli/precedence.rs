//! Which source wins: flag > `MESH_INIT_*` > env file (a later one wins) > config file > default. A winner
//! replaces the loser as a whole, lists too.

use super::program::{Files, lines_with, mesh_init, mesh_init_with};

/// All sources of one option, strongest first, with what each says.
struct Sources {
    files: Files,
    flag: [String; 2],
    variable: (String, String),
    env_files: [String; 2],
    config: String,
}

impl Sources {
    /// `says` is asked with the rank of the source, 0 for the flag.
    fn new(flag: &str, name: &str, istio: &str, key: &str, says: impl Fn(usize) -> String) -> Sources {
        let files = Files::new();
        let env_files = [
            files.write("later.env", format!("{istio}={}\n", says(2))),
            files.write("earlier.env", format!("{name}={}\n", says(3))),
        ];
        let config = files.write("policy.toml", format!("{key} = {:?}\n", says(4)));
        Sources { files, flag: [flag.into(), says(0)], variable: (name.into(), says(1)), env_files, config }
    }

    /// The plan when the `from` strongest sources are silent.
    fn plan(&self, from: usize) -> String {
        assert!(self.files.path("policy.toml").is_file());
        let mut args = vec!["plan"];
        let mut variables = Vec::new();
        if from == 0 {
            args.extend(self.flag.iter().map(String::as_str));
        }
        if from <= 1 {
            variables.push((self.variable.0.as_str(), self.variable.1.as_str()));
        }
        if from <= 3 {
            args.extend(["--env-file", &self.env_files[1]]);
        }
        if from <= 2 {
            args.extend(["--env-file", &self.env_files[0]]);
        }
        if from <= 4 {
            args.extend(["--config", &self.config]);
        }
        mesh_init_with(&args, &variables).ok()
    }
}

#[test]
fn of_one_value() {
    let port = |rank: usize| (15100 + rank).to_string();
    let sources = Sources::new("-p", "MESH_INIT_PROXY_PORT", "ENVOY_PORT", "proxy.port", port);
    for rank in 0..=5 {
        let plan = sources.plan(rank);
        let expected = if rank == 5 { "15001".to_owned() } else { port(rank) };
        let redirects = lines_with(&plan, "--to-ports");
        assert_eq!(redirects.len(), 2, "{plan}");
        for line in redirects {
            assert!(line.ends_with(&format!("--to-ports {expected}")), "rank {rank}: {line}");
        }
    }
}

#[test]
fn of_a_list() {
    let uids = |rank: usize| format!("{},{}", 2000 + rank, 3000 + rank);
    let sources = Sources::new("-u", "MESH_INIT_PROXY_UID", "PROXY_UID", "proxy.uids", uids);
    for rank in 0..=5 {
        let plan = sources.plan(rank);
        let expected = if rank == 5 { "1337".to_owned() } else { uids(rank) };
        let words = plan.split("--uid-owner ").skip(1).filter_map(|rest| rest.split(' ').next());
        let seen: Vec<&str> = words.collect();
        let once: Vec<&str> = expected.split(',').collect();
        assert_eq!(seen, [once.as_slice(), &once].concat(), "rank {rank}: the loser's items do not count");
    }
}

#[test]
fn a_winner_given_empty_wins() {
    let files = Files::new();
    let config = files.write("policy.json", r#"{"outbound":{"cidrs":["10.0.0.0/8"]}}"#);
    let env = files.write("cluster.env", "ISTIO_SERVICE_CIDR=172.16.0.0/12\n");
    let nothing = mesh_init(&["plan", "-i", ""]).ok();
    assert_eq!(mesh_init(&["plan", "-i", "", "--env-file", &env, "--config", &config]).ok(), nothing);
    let args = ["plan", "--env-file", &env, "--config", &config];
    assert_eq!(mesh_init_with(&args, &[("MESH_INIT_OUTBOUND_CIDR", "")]).ok(), nothing);
    let empty = files.write("empty.env", "ISTIO_SERVICE_CIDR=\n");
    assert_eq!(mesh_init(&["plan", "--env-file", &empty, "--config", &config]).ok(), nothing);
    let none = files.write("none.json", r#"{"outbound":{"cidrs":[]}}"#);
    assert_eq!(mesh_init(&["plan", "--config", &none]).ok(), nothing);
}

#[test]
fn a_loser_does_not_count_even_if_it_is_wrong_elsewhere() {
    // The loser's value is not looked at, and the layout is chosen by what won.
    let files = Files::new();
    let env = files.write("some.env", "MESH_INIT_PROXY_PORT=http\nISTIO_SERVICE_CIDR=garbage\n");
    let plan = mesh_init(&["plan", "-p", "15002", "-i", "10.0.0.0/8", "--env-file", &env]).ok();
    assert_eq!(plan, mesh_init(&["plan", "-p", "15002", "-i", "10.0.0.0/8"]).ok());
}

#[test]
fn istios_names_count_in_env_files_and_not_in_the_environment() {
    let istio = [
        ("ISTIO_SERVICE_CIDR", "10.0.0.0/8"),
        ("ISTIO_INBOUND_PORTS", "80"),
        ("ENVOY_PORT", "15002"),
        ("PROXY_UID", "7"),
        ("ISTIO_INBOUND_INTERCEPTION_MODE", "TPROXY"),
        ("ISTIO_META_DNS_CAPTURE", "true"),
    ];
    assert_eq!(mesh_init_with(&["plan"], &istio).ok(), mesh_init(&["plan"]).ok());

    let files = Files::new();
    let env = files.write("sidecar.env", "ISTIO_SERVICE_CIDR=10.0.0.0/8\nENVOY_PORT=15002\nPROXY_UID=7\n");
    let flags = mesh_init(&["plan", "-i", "10.0.0.0/8", "-p", "15002", "-u", "7"]).ok();
    assert_eq!(mesh_init(&["plan", "--env-file", &env]).ok(), flags);
}

#[test]
fn a_single_value_twice_is_a_fault_and_a_list_is_joined() {
    let twice = [
        ("proxy-port", &["-p", "15001", "--envoy-port", "15002"][..]),
        ("proxy-port", &["-p", "15001", "-p", "15001"]),
        ("mode", &["--layout", "classic", "-m", "REDIRECT", "--mode", "REDIRECT"]),
        ("ipv6", &["--ipv6", "on", "--ipv6", "off"]),
        ("layout", &["--layout", "auto", "--layout", "classic"]),
        ("backend", &["--backend", "auto", "--backend", "iptables"]),
        ("iptables-variant", &["--iptables-variant", "nft", "--iptables-variant", "legacy"]),
        ("netns", &["--netns", "1", "--netns", "2"]),
        ("host", &["--host", "--host=false"]),
        ("wait", &["--wait", "1", "--wait", "2"]),
        ("output", &["--output", "text", "--output", "text"]),
    ];
    for (long, args) in twice {
        // Refused before any machine is looked at.
        let run = mesh_init(&[&["plan", "--live"], args].concat());
        let faults = run.faults();
        let told = format!("give --{long} once");
        assert!(faults.len() == 1 && faults[0].contains(&told), "expected {told:?}, seen {run}");
    }
    let joined = mesh_init(&["plan", "-u", "1,2,3", "-i", "10.0.0.0/8,172.16.0.0/12,fd00::/8"]).ok();
    let apart = [
        "plan",
        "-u",
        "1",
        "-i",
        "10.0.0.0/8",
        "-u",
        "2,3",
        "-i",
        "172.16.0.0/12",
        "--outbound-cidr=fd00::/8",
    ];
    assert_eq!(mesh_init(&apart).ok(), joined);
    // Lists are joined within a source only.
    let run = mesh_init_with(&["plan", "-u", "1", "-u", "2"], &[("MESH_INIT_PROXY_UID", "3")]).ok();
    assert_eq!(run, mesh_init(&["plan", "-u", "1,2"]).ok());
}

#[test]
fn two_config_files_are_a_fault() {
    let files = Files::new();
    let one = files.write("one.json", r#"{"proxy":{"port":15011}}"#);
    let two = files.write("two.json", r#"{"proxy":{"port":15012}}"#);
    let run = mesh_init(&["plan", "--config", &one, "--config", &two]);
    let faults = run.faults();
    assert!(faults.len() == 1 && faults[0].contains("give --config once"), "{run}");
}
