//! Whose a socket is: the credentials of one thread, and what it may do.
//!
//! `-m owner` and `meta skuid` look at the file system ids with which a socket was made (`f_cred->fsuid`,
//! net/netfilter/xt_owner.c and nft_meta.c). setfsuid(2) changes them for the calling thread alone and, unlike
//! setresuid(2), takes no network capability away.

use caps::{CapSet, Capability};
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};

/// Whether the calling thread has `capability` in effect.
pub(super) fn has(capability: Capability) -> bool {
    caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false)
}

/// Fails with a phrase that names `capability` if the calling thread lacks it.
pub(super) fn need(capability: Capability, purpose: &str) -> Result<(), String> {
    if has(capability) { Ok(()) } else { Err(format!("{capability} is missing {purpose}")) }
}

/// Does `work` on a thread whose sockets are of this user and group; ours where none is given.
///
/// # Errors
/// A phrase that says why it cannot be that user.
pub(super) fn with<T: Send>(
    uid: Option<u32>,
    gid: Option<u32>,
    work: impl FnOnce() -> Result<T, String> + Send,
) -> Result<T, String> {
    if uid.is_none() && gid.is_none() {
        return work();
    }
    super::on_a_thread(|| {
        // The group first: it needs a capability of its own, which neither call takes away.
        if let Some(gid) = gid {
            setfsgid(Gid::from_raw(gid));
            // Neither call fails: a second one tells what the first has done.
            let became = setfsgid(Gid::from_raw(u32::MAX)).as_raw();
            check(became == gid, Capability::CAP_SETGID, "gid", gid)?;
        }
        if let Some(uid) = uid {
            setfsuid(Uid::from_raw(uid));
            let became = setfsuid(Uid::from_raw(u32::MAX)).as_raw();
            check(became == uid, Capability::CAP_SETUID, "uid", uid)?;
        }
        work()
    })
}

fn check(became: bool, capability: Capability, what: &str, id: u32) -> Result<(), String> {
    if became {
        return Ok(());
    }
    need(capability, &format!("to send as {what} {id}"))?;
    Err(format!("{what} {id} is not mapped in this user namespace (user_namespaces(7))"))
}
