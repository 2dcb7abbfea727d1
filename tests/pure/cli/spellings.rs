//! Every option by every name it has: all spellings mean the same, from every source, and what a layout has no
//! rules for is refused by name, never ignored.

use mesh_init::input::options::{Kind, Opt, Part};
use mesh_init::input::{Key, OPTIONS};

use super::program::{Files, Run, mesh_init, mesh_init_with};

/// What a call is about before the option under test is added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// A pod whose chains the flags choose: `proxy_init`'s, or today's for all that it did not have.
    Pod,
    /// A pod with the chains of `proxy_init` 0.7.1 and no others.
    Classic,
    /// A pod with today's chains.
    Istio,
    Vm,
}

/// What `plan` without `--live` has no use for: refused as a flag, whatever its value.
const OF_A_MACHINE: [Key; 6] =
    [Key::IptablesVariant, Key::Netns, Key::Host, Key::ConfirmWithin, Key::All, Key::Wait];

const ROLES: [Role; 4] = [Role::Pod, Role::Classic, Role::Istio, Role::Vm];

impl Role {
    /// The call without the option. What an option needs beside it is there, unless it is that option.
    fn args(self, without: Key) -> Vec<&'static str> {
        let mut args = vec!["plan"];
        match self {
            Role::Pod => {}
            Role::Classic | Role::Istio if without == Key::Layout => {}
            Role::Classic => args.extend(["--layout", "classic"]),
            Role::Istio => args.extend(["--layout", "istio"]),
            Role::Vm if without == Key::UidOwner => {}
            Role::Vm => args.extend(["--uid-owner", "4242"]),
        }
        match (self, without) {
            (Role::Vm, Key::ExcludeInbound) => args.extend(["--inbound", "*"]),
            (Role::Pod | Role::Istio, Key::TproxyMark | Key::TproxyTable) => {
                args.extend(["--mode", "TPROXY"])
            }
            (Role::Pod | Role::Istio, Key::DnsServer) => args.push("--redirect-dns"),
            (Role::Pod | Role::Istio, Key::DnsPort) => {
                args.extend(["--redirect-dns", "--dns-server", "10.0.0.54"])
            }
            (Role::Pod | Role::Istio, Key::CaptureAllDns) => args.push("--redirect-dns"),
            (_, _) => {}
        }
        args
    }

    /// What the option cannot be without, and what has no effect without the option.
    fn beside(self, key: Key) -> &'static [&'static str] {
        match (self, key) {
            (Role::Pod | Role::Istio, Key::RedirectDns) => &["--dns-server", "10.0.0.54"],
            (_, Key::Cgroup | Key::ProxyCgroup) => &["--backend", "ebpf"],
            (_, _) => &[],
        }
    }

    /// What the layout that the role chooses has rules for: `-p -u -g -i` of `proxy_init`; everything but owners in
    /// today's; on a VM host, which an owner makes of any, all but TPROXY, `-k`, owner groups, DNS, HBONE and
    /// dropping.
    fn expresses(self, key: Key) -> bool {
        let any = [Key::ProxyPort, Key::ProxyUid, Key::ProxyGid, Key::OutboundCidr, Key::Ipv6];
        let owners = [Key::UidOwner, Key::GidOwner];
        let vm = [
            Key::InboundCapturePort,
            Key::Mode,
            Key::Inbound,
            Key::ExcludeInbound,
            Key::ExcludeOutboundCidr,
            Key::OutboundPort,
            Key::ExcludeOutboundPort,
            Key::ExcludeInterface,
        ];
        match self {
            Role::Pod => true,
            Role::Classic => any.contains(&key) || key == Key::Mode,
            Role::Istio => !owners.contains(&key),
            Role::Vm => any.contains(&key) || owners.contains(&key) || vm.contains(&key),
        }
    }
}

/// A good value of each policy option, other than its default.
fn value(key: Key) -> &'static str {
    match key {
        Key::ProxyPort => "15011",
        Key::InboundCapturePort => "15016",
        Key::InboundTunnelPort => "15018",
        Key::ProxyUid => "77,78",
        Key::ProxyGid => "79",
        Key::Mode => "redirect",
        Key::Inbound => "8080-8082,9090",
        Key::ExcludeInbound => "9000",
        Key::OutboundCidr => "10.0.0.0/8",
        Key::ExcludeOutboundCidr => "10.1.0.0/16",
        Key::OutboundPort => "443",
        Key::ExcludeOutboundPort => "25",
        Key::LoopbackCidr => "127.0.0.0/16",
        Key::ExcludeInterface => "eth9",
        Key::RerouteInterface => "tap0",
        Key::TproxyMark => "0x5",
        Key::TproxyTable => "6",
        Key::UidOwner => "1338",
        Key::GidOwner => "1339",
        Key::OwnerGroup => "1340",
        Key::ExcludeOwnerGroup => "1341",
        Key::RedirectDns | Key::CaptureAllDns | Key::DropInvalid | Key::Host | Key::All => "true",
        Key::DnsPort => "15054",
        Key::DnsServer => "10.0.0.53",
        Key::Ipv6 => "off",
        Key::Layout => "auto",
        Key::Backend => "iptables",
        Key::Cgroup => "/sys/fs/cgroup/kubepods",
        Key::ProxyCgroup => "/sys/fs/cgroup/mesh.slice",
        Key::IptablesVariant => "nft",
        Key::Netns => "/proc/1/ns/net",
        Key::ConfirmWithin => "60s",
        Key::Wait => "3",
        Key::Output => "json",
        Key::EnvFile | Key::Config => "",
    }
}

/// The value, or the path of a file for options that take one.
fn value_or_file(opt: &Opt, files: &Files) -> String {
    if opt.key == Key::EnvFile {
        files.write("some.env", "PROXY_UID=99\n")
    } else if opt.key == Key::Config {
        files.write("some.toml", "proxy.uids = [99]\n")
    } else {
        value(opt.key).to_owned()
    }
}

/// The option as words of a command line, in every way there is.
fn spelled(opt: &Opt, value: &str) -> Vec<Vec<String>> {
    let mut spelled = Vec::new();
    for long in std::iter::once(&opt.long).chain(opt.aliases) {
        spelled.push(vec![format!("--{long}={value}")]);
        spelled.push(match opt.kind {
            Kind::Switch => vec![format!("--{long}")],
            Kind::One | Kind::List => vec![format!("--{long}"), value.to_owned()],
        });
    }
    if let Some(short) = opt.short {
        spelled.push(vec![format!("-{short}"), value.to_owned()]);
        spelled.push(vec![format!("-{short}{value}")]);
    }
    spelled
}

fn run(role: Role, opt: &Opt, words: &[String]) -> Run {
    let mut args = role.args(opt.key);
    args.extend(role.beside(opt.key));
    args.extend(words.iter().map(String::as_str));
    mesh_init(&args)
}

#[test]
fn the_names_are_those_of_the_interface() {
    let names = [
        ("p", "proxy-port"),
        ("z", "inbound-capture-port"),
        ("e", "inbound-tunnel-port"),
        ("u", "proxy-uid"),
        ("g", "proxy-gid"),
        ("m", "mode"),
        ("b", "inbound"),
        ("d", "exclude-inbound"),
        ("i", "outbound-cidr"),
        ("x", "exclude-outbound-cidr"),
        ("q", "outbound-port"),
        ("o", "exclude-outbound-port"),
        ("c", "exclude-interface"),
        ("k", "reroute-interface"),
    ];
    for (short, long) in names {
        let opt = OPTIONS.iter().find(|opt| opt.long == long);
        assert!(
            opt.is_some_and(|opt| opt.short.map(String::from).as_deref() == Some(short)),
            "-{short} --{long}"
        );
    }
    for short in ['t', 'r'] {
        assert!(OPTIONS.iter().any(|opt| opt.short == Some(short)), "-{short}");
    }
    let long = "uid-owner gid-owner owner-group exclude-owner-group redirect-dns capture-all-dns dns-port dns-server \
                drop-invalid ipv6 netns backend iptables-variant layout output env-file wait host config envoy-port \
                inbound-ports istio-inbound-ports";
    for long in long.split_whitespace() {
        assert!(OPTIONS.iter().any(|opt| opt.long == long || opt.aliases.contains(&long)), "--{long}");
    }
}

#[test]
fn every_spelling_of_every_option_is_taken_or_refused_by_name() {
    let files = Files::new();
    for role in ROLES {
        for opt in OPTIONS {
            let value = value_or_file(opt, &files);
            let mut first: Option<Run> = None;
            for words in spelled(opt, &value) {
                let run = run(role, opt, &words);
                match opt.part {
                    Part::Policy if !role.expresses(opt.key) => {
                        let faults = run.faults();
                        let named = faults.iter().any(|fault| {
                            fault.starts_with(&format!("--{}: ", opt.long)) && fault.contains("layout")
                        });
                        assert!(
                            named,
                            "expected a fault of --{} that names the layout, seen {run}",
                            opt.long
                        );
                        assert!(run.stdout.is_empty(), "{run}");
                    }
                    _ if OF_A_MACHINE.contains(&opt.key) => {
                        let told = format!("--{}: {value:?} has no effect: without --live", opt.long);
                        run.clone().refused(&[&told]);
                    }
                    Part::Policy | Part::Making | Part::Looking => {
                        assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{run}");
                    }
                }
                let first = first.get_or_insert_with(|| run.clone());
                let same = (first.code, &first.stdout, &first.stderr) == (run.code, &run.stdout, &run.stderr);
                assert!(same, "expected the same from {first}\nand {run}");
            }
            assert!(first.is_some());
        }
    }
}

#[test]
fn what_is_taken_counts() {
    for role in ROLES {
        for opt in OPTIONS.iter().filter(|opt| opt.part == Part::Policy && role.expresses(opt.key)) {
            // REDIRECT is the only mode that classic and scoped have, and owners are what a VM host is made of.
            let only = opt.key == Key::Mode && [Role::Classic, Role::Vm].contains(&role);
            if only || opt.key == Key::UidOwner && role == Role::Vm {
                continue;
            }
            let value = if opt.key == Key::Mode { "TPROXY" } else { value(opt.key) };
            let words = [format!("--{}={value}", opt.long)];
            let mut args = role.args(opt.key);
            // Which servers there are without a name for them is for the machine to say.
            if [Key::DnsServer, Key::CaptureAllDns].contains(&opt.key) {
                args.retain(|word| *word != "--redirect-dns");
            }
            let without = mesh_init(&args).ok();
            let with = run(role, opt, &words).ok();
            assert_ne!(without, with, "--{} changes nothing for a {role:?}", opt.long);
        }
    }
}

/// The same value by every other source must end as the flag ends; a refusal names that source instead.
#[test]
fn every_source_knows_every_option() {
    let files = Files::new();
    for (role, opt) in ROLES.into_iter().flat_map(|role| OPTIONS.iter().map(move |opt| (role, opt))) {
        let value = value_or_file(opt, &files);
        let args = [role.args(opt.key).as_slice(), role.beside(opt.key)].concat();
        // Elsewhere such an option is for other commands, which read the same variables.
        let flag = match OF_A_MACHINE.contains(&opt.key) {
            true => mesh_init(&args),
            false => run(role, opt, &[format!("--{}={value}", opt.long)]),
        };
        let compare = |source: &str, run: Run| {
            let same = run.code == flag.code && run.stdout == flag.stdout;
            assert!(same, "expected {source} to mean what the flag means: {flag}\nseen {run}");
            assert_eq!(run.stderr.lines().count(), flag.stderr.lines().count(), "{flag}\n{run}");
            let named = flag.code == Some(0) || run.stderr.contains(&format!("mesh-init: {source}: "));
            assert!(named, "expected a fault of {source}, seen {run}");
        };
        let variable = opt.variable();
        compare(
            &format!("variable {variable}"),
            mesh_init_with(&args, &[(variable.as_str(), value.as_str())]),
        );
        if opt.key != Key::EnvFile {
            for name in std::iter::once(variable.as_str()).chain(opt.istio) {
                let path = files.write("one.env", format!("{name}='{value}'\n"));
                let args = [args.as_slice(), &["--env-file", &path]].concat();
                compare(&format!("{path}:1 {name}"), mesh_init(&args));
            }
        }
        if let Some(key) = opt.config {
            let literal = if opt.kind == Kind::Switch { value.clone() } else { format!("{value:?}") };
            let path = files.write("one.toml", format!("{key} = {literal}\n"));
            let args = [args.as_slice(), &["--config", &path]].concat();
            compare(&format!("{path} {key}"), mesh_init(&args));
        }
    }
}
