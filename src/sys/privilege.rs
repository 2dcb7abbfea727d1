//! Capabilities: what we have, and giving up what we do not need.

use caps::{CapSet, Capability, CapsHashSet};

use crate::error::{Class, Error, Result};

/// A capability that some part of a run needs.
pub use caps::Capability as Need;

/// Our effective user and group: those of the sockets that we make.
#[must_use]
pub fn own_ids() -> (u32, u32) {
    (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw())
}

/// Whether this is the first process of its PID namespace.
#[must_use]
pub fn is_first_process() -> bool {
    nix::unistd::getpid().as_raw() == 1
}

/// Fails if one of `needed` is not in effect, naming every one that is missing, and with them those of `likely`, which
/// the work will need next: nobody should have to ask twice.
///
/// # Errors
/// What is missing, and how to give it.
pub fn require(needed: &[Need], likely: &[Need]) -> Result<()> {
    let have = caps::read(None, CapSet::Effective)
        .map_err(|error| Error::refused(format!("reading capabilities: {error}")))?;
    if needed.iter().all(|cap| have.contains(cap)) {
        return Ok(());
    }
    let missing = needed.iter().chain(likely).filter(|cap| !have.contains(cap));
    let missing: Vec<String> = missing.map(ToString::to_string).collect();
    let short: Vec<&str> = missing.iter().map(|name| name.trim_start_matches("CAP_")).collect();
    Err(Error::new(Class::Privilege, format!("missing {}", missing.join(" and ")))
        .remedy(format!("run as root, or give the container capabilities.add: [{}]", short.join(", "))))
}

/// Keeps `needed` and drops the rest, for this process and the programs that it runs.
///
/// `no_new_privs` (prctl(2)) is what holds for children: without it, execve(2) gives a root process every
/// capability of the bounding set back.
///
/// # Errors
/// The kernel refuses.
pub fn keep_only(needed: &[Need]) -> Result<()> {
    let failed = |what: &str, error: &dyn std::fmt::Display| {
        Error::refused(format!("dropping privileges: {what}: {error}"))
    };
    nix::sys::prctl::set_no_new_privs().map_err(|error| failed("no_new_privs", &error))?;
    let have = caps::read(None, CapSet::Permitted).map_err(|error| failed("permitted set", &error))?;
    let keep: CapsHashSet = needed.iter().copied().filter(|cap: &Capability| have.contains(cap)).collect();
    caps::clear(None, CapSet::Ambient).map_err(|error| failed("ambient set", &error))?;
    let none = CapsHashSet::new();
    for (set, wanted) in
        [(CapSet::Effective, &keep), (CapSet::Permitted, &keep), (CapSet::Inheritable, &none)]
    {
        caps::set(None, set, wanted).map_err(|error| failed("capability set", &error))?;
    }
    // A process that is not root has only what it hands on through its ambient set.
    if !nix::unistd::geteuid().is_root() {
        caps::set(None, CapSet::Inheritable, &keep).map_err(|error| failed("inheritable set", &error))?;
        caps::set(None, CapSet::Ambient, &keep).map_err(|error| failed("ambient set", &error))?;
    }
    Ok(())
}
