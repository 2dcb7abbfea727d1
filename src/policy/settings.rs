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

/// One of the two iptables that Linux has; they do not see each other's rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Variant {
    /// `ip_tables` of the kernel, by socket options.
    Legacy,
    /// `nf_tables` of the kernel, by netlink.
    Nft,
}

impl Variant {
    /// Both.
    pub const ALL: [Variant; 2] = [Variant::Legacy, Variant::Nft];
}

impl std::fmt::Display for Variant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Variant::Legacy => "iptables-legacy",
            Variant::Nft => "iptables-nft",
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
    /// The iptables to use; `None` lets the machine's state decide.
    pub variant: Option<Variant>,
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
        }
    }
}
