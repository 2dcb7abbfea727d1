//! How to work, as opposed to what to capture: namespace, variant, deadlines, form of the answer.

use std::path::PathBuf;
use std::time::Duration;

/// A network namespace as the caller names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetnsRef {
    /// That of a process.
    Pid(u32),
    /// A file such as `/run/netns/blue` or `/proc/42/ns/net`.
    Path(PathBuf),
}

/// What carries rules: one of the two iptables that Linux has, which do not see each other's rules, or nftables
/// without a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Variant {
    /// `ip_tables` of the kernel, by socket options.
    Legacy,
    /// `nf_tables` of the kernel, in the form of iptables.
    Nft,
    /// `nf_tables` of the kernel, in tables of our own.
    Native,
}

impl Variant {
    /// Every one.
    pub const ALL: [Variant; 3] = [Variant::Legacy, Variant::Nft, Variant::Native];
    /// The two iptables.
    pub const IPTABLES: [Variant; 2] = [Variant::Legacy, Variant::Nft];
}

impl std::fmt::Display for Variant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Variant::Legacy => "iptables-legacy",
            Variant::Nft => "iptables-nft",
            Variant::Native => "nftables",
        })
    }
}

/// The form of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// How to capture at the sockets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ebpf {
    /// The control group whose processes are captured; `None` is the root, with all there are.
    pub cgroup: Option<PathBuf>,
    /// The control group in which only the proxy runs.
    pub proxy_cgroup: Option<PathBuf>,
}

/// How to work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The namespace to work in; `None` is the caller's.
    pub netns: Option<NetnsRef>,
    /// Capturing all of the host's own namespace is meant.
    pub host: bool,
    /// How long to wait for a confirmation before what was there is brought back.
    pub confirm_within: Option<Duration>,
    /// What upstream may have left, and nobody else is known to have made, counts as ours too.
    pub all: bool,
    /// How long to wait for a lock.
    pub wait: Duration,
    /// The form of the answer.
    pub output: Output,
    /// What is to carry the rules; `None` lets the machine's state decide.
    pub variant: Option<Variant>,
    /// One of the two iptables is to carry them, whichever.
    pub iptables: bool,
    /// No rules: BPF programs at the sockets.
    pub ebpf: Option<Ebpf>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            netns: None,
            host: false,
            confirm_within: None,
            all: false,
            wait: Duration::from_secs(10),
            output: Output::Text,
            variant: None,
            iptables: false,
            ebpf: None,
        }
    }
}
