//! What keeps a program attached: a link, which is kept under a path.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;

use super::object::{Attach, explain};
use super::{call, pins};
use crate::error::Result;

/// What is kept under a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nothing.
    Missing,
    /// What it was attached to is gone.
    Severed,
    /// Another program is attached.
    Other,
    /// The program is attached.
    Attached,
}

/// What the link under `path` is, of `program`.
///
/// # Errors
/// The kernel does not tell.
pub fn state(path: &Path, program: &OwnedFd) -> Result<State> {
    let Some(link) = pins::open(path)? else { return Ok(State::Missing) };
    let failed = |errno| explain(&format!("looking at {}", path.display()), errno);
    let info = call::link_info(&link).map_err(failed)?;
    if is_severed(&info) {
        return Ok(State::Severed);
    }
    let wanted = call::program_info(program).map_err(failed)?;
    Ok(if info.program == wanted.id { State::Attached } else { State::Other })
}

/// What tells a program's instructions from others'.
///
/// # Errors
/// The kernel does not tell.
pub fn tag(program: &OwnedFd) -> Result<[u8; 8]> {
    call::program_info(program)
        .map(|info| info.tag)
        .map_err(|errno| explain("looking at a BPF program", errno))
}

/// Whether what the link under `path` was attached to is gone; a link that is not there is.
///
/// # Errors
/// The kernel does not tell.
pub fn severed(path: &Path) -> Result<bool> {
    let Some(link) = pins::open(path)? else { return Ok(true) };
    let info =
        call::link_info(&link).map_err(|errno| explain(&format!("looking at {}", path.display()), errno))?;
    Ok(is_severed(&info))
}

/// `bpf_cgroup_link_fill_link_info` and `bpf_netns_link_fill_info` tell of no cgroup and no inode then. The attach type of a
/// namespace's link stands where a cgroup's number ends.
fn is_severed(info: &call::LinkInfo) -> bool {
    /// `BPF_LINK_TYPE_NETNS`.
    const NETNS: u32 = 5;
    info.target == 0 && (info.kind == NETNS || info.target_end == 0)
}

/// Puts `program` in the place of what is attached by the link under `path`, if there is one; one that is severed stays so.
///
/// # Errors
/// The kernel does not take it.
pub fn renew(path: &Path, program: &OwnedFd) -> Result<()> {
    let Some(link) = pins::open(path)? else { return Ok(()) };
    match call::link_update(&link, program) {
        Ok(()) | Err(Errno::ENOLINK) => Ok(()),
        Err(errno) => Err(explain(&format!("replacing the program of {}", path.display()), errno)),
    }
}

/// Attaches `program` to `target` and keeps that under `path`. Where another one of ours is attached it takes its place at
/// once; what is severed is made anew.
///
/// # Errors
/// The kernel does not take it.
pub fn make(path: &Path, program: &OwnedFd, target: &impl AsFd, attach: Attach) -> Result<()> {
    match state(path, program)? {
        State::Attached => return Ok(()),
        State::Other => {
            if let Some(link) = pins::open(path)? {
                match call::link_update(&link, program) {
                    Ok(()) => return Ok(()),
                    // Its cgroup has gone meanwhile, or the kernel cannot do it: it is made anew.
                    Err(Errno::ENOLINK | Errno::EINVAL | Errno::EOPNOTSUPP) => {}
                    Err(errno) => {
                        return Err(explain(&format!("replacing the program of {}", path.display()), errno));
                    }
                }
            }
        }
        State::Missing | State::Severed => {}
    }
    let link = call::link_create(program, target, attach as u32)
        .map_err(|errno| explain(&format!("attaching the BPF program of {}", path.display()), errno))?;
    pins::remove(path)?;
    pins::keep(&link, path)
}
