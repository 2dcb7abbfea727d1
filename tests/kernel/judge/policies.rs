//! Policies made by hand, so that every clause decides something.

use std::ffi::OsString;
use std::fmt;

use mesh_init::cli::{self, Parsed};
use mesh_init::input::{Faults, istio};
use mesh_init::policy::facts::Questions;
use mesh_init::policy::validate::{self, Request};
use mesh_init::policy::{Facts, Families, Ipv6};
use mesh_init::rules::RuleSet;
use mesh_init::rules::compile::{compile, native};

use super::world::{RESOLVER, World};
use crate::support::call::Call;
use crate::support::command::{Run, mesh_init};
use crate::support::rules::{Family, Variant};
use crate::support::wire::HERE;

/// A call of the program: variables, and words, of which `@` is an empty one.
#[derive(Clone, Debug)]
pub(super) struct Policy {
    env: Vec<(&'static str, String)>,
    text: String,
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.env.iter().try_for_each(|(name, value)| write!(f, "{name}={value} "))?;
        f.write_str(&self.text)
    }
}

impl Policy {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self { env: Vec::new(), text: text.into() }
    }

    pub(super) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.env.push((name, value.into()));
        self
    }

    fn words(&self) -> impl Iterator<Item = &str> {
        self.text.split(' ').map(|word| if word == "@" { "" } else { word })
    }

    fn is_letter(&self) -> bool {
        self.text.starts_with("istio-iptables")
    }

    #[track_caller]
    pub(super) fn apply(&self, world: &World, variant: Variant) {
        let flags = match (variant, self.is_letter()) {
            (Variant::Native, true) => vec!["--native-nftables"],
            (Variant::Legacy | Variant::Nft, true) => vec!["--force-iptables-binary", variant.name()],
            (_, false) => variant.flags().to_vec(),
        };
        let words: Vec<_> = self.words().chain(flags).collect();
        let call = Call::mesh_init(&world.here, &words);
        let call = self.env.iter().fold(call, |call, (name, value)| call.env(name, value));
        call.run().code(0);
    }

    /// The same for capture at the sockets, which istio-iptables knows nothing of.
    pub(super) fn at_sockets(&self) -> Self {
        let Some(rest) = self.text.strip_prefix("istio-iptables ") else { return self.clone() };
        let stack = if rest.starts_with("--dual-stack ") { "on" } else { "off" };
        let mut text = format!("--layout istio-iptables --ipv6 {stack}");
        let mut flag = "";
        for word in rest.split(' ').filter(|word| *word != "--dual-stack") {
            // It has another sign for ranges of ports.
            let ranges = ["-b", "-d", "-o", "-q"].contains(&flag);
            let said = if ranges { word.replace(':', "-") } else { word.to_owned() };
            text = format!("{text} {said}");
            flag = word;
        }
        for (name, value) in &self.env {
            let flag = match *name {
                "ISTIO_OUTBOUND_OWNER_GROUPS" => "--owner-group",
                "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE" => "--exclude-owner-group",
                _ => panic!("{name} has no flag"),
            };
            text = format!("{text} {flag} {value}");
        }
        Self::new(text)
    }

    /// The same without what no hook of a socket can do.
    pub(super) fn able(&self) -> Self {
        let mut able = Vec::new();
        let mut words = self.text.split(' ');
        while let Some(word) = words.next() {
            match word {
                "-m" | "-c" | "-k" | "-t" | "-r" => drop(words.next()),
                "--drop-invalid" => {}
                _ => able.push(word),
            }
        }
        Self::new(able.join(" "))
    }

    /// Runs the program, for capture at the sockets of `here`.
    pub(super) fn run_at_sockets(&self, world: &World) -> Run {
        let words: Vec<_> = self.words().chain(["--backend", "ebpf"]).collect();
        mesh_init(&world.here, &words)
    }

    /// What the program makes of the words.
    pub(super) fn request(&self) -> Result<Request, Faults> {
        let facts = Facts {
            resolvers: Family::BOTH.map(|family| RESOLVER.ip(family)).into(),
            addresses: Family::BOTH.map(|family| HERE.ip(family)).into(),
            ..Facts::default()
        };
        let env = self.env.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        request(self.words(), &env.collect::<Vec<_>>(), |_| facts)
    }

    /// The rules for iptables, or for nftables.
    #[track_caller]
    pub(super) fn compiled(&self, variant: Variant) -> RuleSet {
        let request = self.request().unwrap_or_else(|faults| panic!("{self}: {faults}"));
        match variant {
            Variant::Legacy | Variant::Nft => compiled(&request),
            Variant::Native => native::native(&request.policy, request.layout, families(&request)),
        }
    }
}

/// What the program makes of `words`, as it makes it; `facts` answers what a call of istio-iptables asks.
pub(crate) fn request<'a>(
    words: impl Iterator<Item = &'a str>,
    environment: &[(OsString, OsString)],
    facts: impl FnOnce(Questions) -> Facts,
) -> Result<Request, Faults> {
    let words: Vec<&str> = std::iter::once("mesh-init").chain(words).collect();
    let mut faults = Faults::default();
    match cli::parse(words.iter().map(Into::into)) {
        Parsed::Call { flags, .. } => validate::request(&flags, &facts(Questions::of(&flags)), faults),
        Parsed::Istio(call) => {
            let text =
                |long: &str| call.flags.iter().find(|(of, _)| *of == long).map(|(_, texts)| texts.clone());
            let given = istio::parse(text, environment, &mut faults);
            let facts = facts(Questions::of_istio(&given));
            let call = mesh_init::policy::istio::call(&given, call.extra.clone(), &facts, faults)?;
            Ok(call.request)
        }
        other @ (Parsed::Explain { .. }
        | Parsed::Trace { .. }
        | Parsed::Install(_)
        | Parsed::Uninstall(_)
        | Parsed::Cni
        | Parsed::Answer(_)
        | Parsed::Misuse(_)) => {
            panic!("{words:?}: {other:?}")
        }
    }
}

pub(crate) fn compiled(request: &Request) -> RuleSet {
    compile(&request.policy, request.layout, families(request))
}

fn families(request: &Request) -> Families {
    if request.policy.ipv6 == Ipv6::Off { Families::V4 } else { Families::Both }
}

/// Each beside `before`.
fn all(before: &str, texts: &[&str]) -> Vec<Policy> {
    texts.iter().map(|text| Policy::new(format!("{before}{text}"))).collect()
}

pub(super) fn classic_and_scoped() -> Vec<Policy> {
    let mut policies = all(
        "-p 15001 ",
        &["-u 1337", "-u 1337,1338 -g 4000 -i 10.9.0.0/24,fd00:9::/64", "-u 1337 -i @", "-u 1337 --ipv6 off"],
    );
    let far = "-i 10.9.0.0/24,fd00:9::/64 -x 10.9.0.2/32,fd00:9::2/128";
    policies.extend(all(
        "",
        &[
            "--uid-owner 1338 --inbound 8001",
            "--uid-owner 1338,1339 --gid-owner 2000 -b * -d 9090 -z 15006",
            &format!("--uid-owner 1338 {far} -q 443,8000-8090 -o 8080 -c eth1 -b 80,8001"),
            "--gid-owner 4000,4001 -x 10.0.0.0/24,fd00::/64 -g 2000 -c eth+ -b *",
            "--uid-owner 1000 -u 1337 -g 4000 -q 80 -i @ -b @ -p 16001 -z 16006",
        ],
    ));
    policies
}

pub(super) fn redirect() -> Vec<Policy> {
    all(
        "--layout istio -z 15006 ",
        &[
            "-u 1337 -b * -i *",
            "-u 1337 -d 8080,15020-15021 -x 10.9.0.0/24,fd00:9::/64 -o 443,9000-9100",
            "-u 1337 -b 80,9090 -i 10.9.0.0/24,fd00:9::/64 -q 443",
            "-u 1337 -b @ -i @",
            "-u 1337,1338 -g 4000,4001 --drop-invalid",
            "-u 1337 -i 127.0.0.0/8,10.9.0.0/24,fd00:9::/64",
            "-u 1337 -i ::1/128,10.9.0.0/24,fd00:9::/64 -e 9090",
            "-u 1337 --loopback-cidr 127.0.0.0/8 -x 127.0.0.0/8,::1/128",
            "-u 1337 -k eth1",
            "-u 1337 -k eth1 -i 10.9.0.0/24,fd00:9::/64 -p 16001",
            "-u 1337 -c eth1 --owner-group 2000,4000",
            "-u 1337 -c eth+ --exclude-owner-group 2000",
            "-u 1337 --owner-group= -q 80 -i @",
        ],
    )
}

pub(super) fn tproxy_and_dns() -> Vec<Policy> {
    all(
        "--layout istio -p 15001 -z 15006 ",
        &[
            "-u 1337 -g 1337 -m TPROXY",
            "-u 1337 -m TPROXY -b 80,9090 -k eth1 --drop-invalid",
            "-u 1337 -g 1337 -m TPROXY -d 8080 -t 77 -r 99 -c eth1",
            "-u 1337 -g 1337 -m TPROXY -b @ -e 9090",
            "-u 1337 -g 1337 -m TPROXY --redirect-dns --capture-all-dns -i 127.0.0.0/8,10.0.0.0/8",
            "-u 1337 --redirect-dns",
            "-u 1337,1338 -g 1337 --redirect-dns --capture-all-dns --dns-port 1053",
            "-u 1337 --redirect-dns --dns-server 127.0.0.2,::1,10.0.0.1,fd00::1 --exclude-owner-group 2000",
            "-u 1337 --redirect-dns --dns-server 10.9.0.2 -o 53 -i 10.9.0.0/24",
        ],
    )
}

pub(super) fn letter() -> Vec<Policy> {
    let flags = "istio-iptables --dual-stack ";
    let mut policies = all(
        flags,
        &[
            "-u 1337 -b * -i * -d 15090,15021,15020",
            "-u 1337,1338 -g 4000,4001 -b * -i *",
            "-u 1337 -m TPROXY -b * -i *",
            "-u 1337 -g 1337 -m TPROXY -b 80,9090 -i * -k eth1 -t 77 -r 99",
            "-u 1337 -m TPROXY -b * -i * -c eth1 -d 8080 --drop-invalid --redirect-dns",
            "-u 1337 -b * -i * --redirect-dns --capture-all-dns",
            "-u 1337 -b * -k eth1 -c tap0 -i 10.9.0.0/24,fd00:9::/64 -x 10.9.0.1/32 -o 443 -q 8080:8090",
            "-u 1337",
            "-u 1337 -i 127.0.0.0/8,10.9.0.0/24,fd00:9::/64 -b 80 -e 9090",
        ],
    );
    policies.push(Policy::new("istio-iptables -u 1337 -b * -i *"));
    let groups = |name, value| Policy::new(format!("{flags}-u 1337 -b * -i *")).with(name, value);
    policies.push(groups("ISTIO_OUTBOUND_OWNER_GROUPS", "2000,4000"));
    policies.push(groups("ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE", "2000"));
    policies
}
