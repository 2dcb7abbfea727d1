//! Whether rules can be made on this machine at all, found out where nobody is disturbed.

use super::{Machine, native};
use crate::error::{Error, Result};
use crate::rules::RuleSet;
use crate::sys::bpf::{cgroup, feature};
use crate::sys::netns;

/// Makes `rules` by nftables in a network namespace of its own, which is gone afterwards: what the kernel lacks is
/// then known by name, before a pod needs it.
///
/// # Errors
/// The kernel lacks something, or a privilege is missing.
pub fn nftables(rules: &RuleSet, machine: &Machine) -> Result<()> {
    let tried = std::thread::scope(|scope| {
        let work = || netns::private().and_then(|()| native::change(rules, machine));
        std::thread::Builder::new().spawn_scoped(scope, work).map(|thread| thread.join())
    });
    match tried {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) => Err(Error::refused("trying nftables failed in an unexpected way")),
        Err(error) => Err(Error::host(format!("no thread can be started: {error}"))),
    }
}

/// Whether the kernel has what capture at the sockets needs: each part is tried by a program of a few instructions.
///
/// # Errors
/// What is missing, with the version of Linux that brought it.
pub fn ebpf() -> Result<()> {
    cgroup::root()?;
    netns::cookie()?;
    feature::probe()
}
