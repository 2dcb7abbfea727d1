//! What capture at the sockets cannot do.

use super::values::Values;
use super::{CapturePolicy, Mode};
use crate::input::Key;
use crate::input::options::option;

/// What no hook of a socket can do is asked for in vain.
pub(super) fn check(values: &mut Values<'_>, policy: &CapturePolicy) {
    if policy.mode == Mode::None {
        return;
    }
    let others = "or give --backend iptables or nftables";
    let interfaces = &policy.interfaces;
    let asked = [
        (
            policy.mode == Mode::Tproxy,
            Key::Mode,
            "marks and routes packets, and an eBPF socket hook sees none",
            format!("give REDIRECT, with which the proxy sees the client's address all the same, {others}"),
        ),
        (
            policy.drop_invalid,
            Key::DropInvalid,
            "needs connection tracking, which eBPF capture works without",
            format!("leave it out, {others}"),
        ),
        (
            !interfaces.exclude.is_empty(),
            Key::ExcludeInterface,
            "names interfaces, and an eBPF socket hook is asked before routing chooses one",
            format!("exclude networks, {others}"),
        ),
        (
            !interfaces.reroute.is_empty(),
            Key::RerouteInterface,
            "is about what passes through, which has no socket here that an eBPF hook could see",
            format!("leave it out, {others}"),
        ),
    ];
    for (_, key, problem, remedy) in asked.into_iter().filter(|(asked, ..)| *asked) {
        match values.raw.first(key) {
            Some(given) => values.faults.option(given, problem, remedy),
            None => values.faults.whole(format!("--{} {problem}", option(key).long), remedy),
        }
    }
}
