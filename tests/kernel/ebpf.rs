//! Capture at the sockets: what can go wrong there that cannot with rules, each by a case of its own.
//!
//! Every case has a control group and a BPF file system of its own, so that no other process of the machine is captured.

mod addresses;
mod backlog;
mod beside;
mod churn;
mod connects;
mod dns;
mod elsewhere;
mod flips;
mod flood;
mod kills;
mod options;
mod owners;
mod proxy;
mod race;
mod sandboxes;
mod told;
mod upgrade;
mod users;
mod verifies;
mod ways;

use nix::mount::{MsFlags, mount};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use crate::harness::{Case, Check};
use crate::istio::{APP, PROXY};
use crate::support::bpf;
use crate::support::cgroup::Cgroup;
use crate::support::command::mesh_init;
use crate::support::creds::Who;
use crate::support::dial::Dialled;
use crate::support::netns::Netns;
use crate::support::rules::{Family, Variant};
use crate::support::serve::Service;
use crate::support::wire::{HERE, HERE_FAR, two_hosts};
use crate::telling::{self, Telling};

pub(crate) fn cases() -> Vec<Case> {
    [
        proxy::CASES,
        addresses::CASES,
        owners::CASES,
        elsewhere::CASES,
        options::CASES,
        beside::CASES,
        backlog::CASES,
        flood::CASES,
        flips::CASES,
        dns::CASES,
        connects::CASES,
        kills::CASES,
        told::CASES,
        sandboxes::CASES,
        upgrade::CASES,
        users::CASES,
        verifies::CASES,
        ways::CASES,
    ]
    .concat()
    .into_iter()
    .map(|(name, body)| Case::new(&format!("ebpf::{name}"), body).within(Duration::from_secs(120)))
    .chain(telling::cases(&TELLING))
    .collect()
}

pub(crate) fn checks() -> Vec<Check> {
    telling::checks(&TELLING)
}

/// Those that count something.
const TELLING: [Telling; 6] =
    [race::RACE, churn::CHURN, kills::APPLY, kills::CHANGE, kills::CLEAN, upgrade::KILLED];

/// A pod as Istio's injector asks for it.
const POD: &str = "--layout istio -p 15001 -z 15006 -u 1337 -b * -i *";

/// A case by its name behind `ebpf::`.
type Named = (&'static str, fn());

/// Where programs, maps and links are kept.
const KEPT: &str = "/sys/fs/bpf/mesh-init/v1";

/// The host `here` whose sockets are captured, and the host `there`. This process is in the control group.
#[derive(Debug)]
struct Pod {
    here: Netns,
    there: Netns,
    cgroup: Cgroup,
}

impl Pod {
    /// The two hosts, with no listeners and no policy.
    fn bare() -> Self {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("bpf"), "/sys/fs/bpf", Some("bpf"), flags, Some("mode=0700"))
            .expect("a BPF file system of our own");
        let cgroup = Cgroup::enter();
        let (here, there) = two_hosts();
        Self { here, there, cgroup }
    }

    /// A policy of `flags`, and every listener that a connection could reach by mistake; those of the proxy's come last.
    fn new(flags: &str) -> Self {
        let pod = Self::bare();
        serve_apps(&pod.here, &pod.there);
        pod.apply(flags);
        serve_proxy(&pod.here);
        pod
    }

    /// Both with iptables in the place of the sockets.
    fn with_rules(flags: &str) -> (Netns, Netns) {
        let (here, there) = two_hosts();
        serve_apps(&here, &there);
        serve_proxy(&here);
        let flags: Vec<_> = flags.split(' ').chain(Variant::Nft.flags()).collect();
        mesh_init(&here, &flags).ok();
        (here, there)
    }

    /// The words of a run that applies `flags` to this control group.
    fn words<'a>(&'a self, flags: &'a str) -> Vec<&'a str> {
        self.words_of("apply", flags)
    }

    /// The same of another verb.
    fn words_of<'a>(&'a self, verb: &'a str, flags: &'a str) -> Vec<&'a str> {
        let words = [verb, "--backend", "ebpf", "--cgroup", self.cgroup.folder()];
        words.into_iter().chain(flags.split(' ').filter(|word| !word.is_empty())).collect()
    }

    #[track_caller]
    fn apply(&self, flags: &str) {
        mesh_init(&self.here, &self.words(flags)).ok();
    }

    /// Two more hosts, of which one has a policy in the same control group.
    #[track_caller]
    fn second(&self, flags: &str) -> (Netns, Netns) {
        let (here, there) = two_hosts();
        mesh_init(&here, &self.words(flags)).ok();
        (here, there)
    }

    #[track_caller]
    fn clean(&self) {
        mesh_init(&self.here, &["clean"]).ok();
        assert!(!Path::new(KEPT).exists(), "kept after the last policy went");
    }
}

/// Who answered, and, if it was the proxy, whom it was told and whom it saw.
fn outcome(dialled: &Dialled) -> String {
    let seen = match &dialled.answer {
        Err(error) => return error.clone(),
        Ok(seen) => seen,
    };
    // Who was called by its own address need not be told: conntrack does it where there are rules.
    let original = seen.original.unwrap_or(seen.local);
    let original = SocketAddr::new(original.ip().to_canonical(), original.port());
    // What arrives by a redirect has the proxy's port as its own, and here the one that was called.
    let local = seen.local.ip().is_loopback().then_some(seen.local);
    // A host with more than one address has one for each destination behind rules, and one for all of them here, which is `::1`
    // of IPv6.
    let v6 = original.is_ipv6() && local.is_some();
    let peer = match is_own(seen.peer.ip()) && (v6 || !is_own(original.ip()))
        || v6 && seen.peer.ip().is_loopback()
    {
        true => "one of its own".to_owned(),
        false => seen.peer.ip().to_string(),
    };
    format!("{} original {original} peer {peer} local {local:?}", seen.name)
}

fn is_own(ip: IpAddr) -> bool {
    [HERE, HERE_FAR].iter().any(|own| Family::BOTH.iter().any(|family| own.ip(*family) == ip))
}

/// How many entries a map has, by its name.
fn entries(map: &str) -> usize {
    bpf::entries(&Path::new(KEPT).join("maps").join(map))
}

fn serve_apps(here: &Netns, there: &Netns) {
    Service::tcp(here, APP, "here", &[8080, 9090]);
    Service::tcp(here, Who::ROOT, "here", &[22, 80]);
    Service::tcp(there, Who::ROOT, "there", &[22, 80, 443, 8080, 9090]);
}

fn serve_proxy(here: &Netns) {
    Service::tcp(here, PROXY, "outbound", &[15001]);
    Service::tcp(here, PROXY, "inbound", &[15006]);
}
