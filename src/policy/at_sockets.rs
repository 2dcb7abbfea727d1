//! What capture at the sockets cannot do.

use std::fmt;

use super::values::Values;
use super::{CapturePolicy, Mode};
use crate::input::Key;
use crate::input::options::option;

/// What a policy asks for that no hook of a socket can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unable {
    /// Mode TPROXY.
    Tproxy,
    /// Packets that fit no connection are to be dropped.
    DropInvalid,
    /// Interfaces are excluded.
    ExcludeInterface,
    /// Virtual interfaces are rerouted.
    RerouteInterface,
}

impl Unable {
    /// Everything of the kind that `policy` asks for.
    #[must_use]
    pub fn of(policy: &CapturePolicy) -> Vec<Unable> {
        if policy.mode == Mode::None {
            return Vec::new();
        }
        let interfaces = &policy.interfaces;
        [
            (policy.mode == Mode::Tproxy).then_some(Unable::Tproxy),
            policy.drop_invalid.then_some(Unable::DropInvalid),
            (!interfaces.exclude.is_empty()).then_some(Unable::ExcludeInterface),
            (!interfaces.reroute.is_empty()).then_some(Unable::RerouteInterface),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    fn key(self) -> Key {
        match self {
            Unable::Tproxy => Key::Mode,
            Unable::DropInvalid => Key::DropInvalid,
            Unable::ExcludeInterface => Key::ExcludeInterface,
            Unable::RerouteInterface => Key::RerouteInterface,
        }
    }

    /// Why not, as what is said of the option.
    #[must_use]
    pub fn problem(self) -> &'static str {
        match self {
            Unable::Tproxy => "marks and routes packets, and an eBPF socket hook sees none",
            Unable::DropInvalid => "needs connection tracking, which eBPF capture works without",
            Unable::ExcludeInterface => {
                "names interfaces, and an eBPF socket hook is asked before routing chooses one"
            }
            Unable::RerouteInterface => {
                "is about what passes through, which has no socket here that an eBPF hook could see"
            }
        }
    }

    /// What is asked for, as it can be typed.
    fn named(self) -> String {
        let value = if self == Unable::Tproxy { " TPROXY" } else { "" };
        format!("--{}{value}", option(self.key()).long)
    }

    fn remedy(self) -> String {
        let instead = match self {
            Unable::Tproxy => "give REDIRECT, with which the proxy sees the client's address all the same",
            Unable::DropInvalid | Unable::RerouteInterface => "leave it out",
            Unable::ExcludeInterface => "exclude networks",
        };
        format!("{instead}, or give --backend iptables or nftables")
    }
}

impl fmt::Display for Unable {
    /// What is asked for, why it cannot be, and what can be done.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}; {}", self.named(), self.problem(), self.remedy())
    }
}

/// What no hook of a socket can do is asked for in vain.
pub(super) fn check(values: &mut Values<'_>, policy: &CapturePolicy) {
    for unable in Unable::of(policy) {
        match values.raw.first(unable.key()) {
            Some(given) => values.faults.option(given, unable.problem(), unable.remedy()),
            None => values.faults.whole(format!("{} {}", unable.named(), unable.problem()), unable.remedy()),
        }
    }
}
