//! Sockets of other processes (pidfd_getfd(2)).

#![expect(unsafe_code, reason = "nix has neither pidfd_open(2) nor pidfd_getfd(2)")]

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;

use crate::error::Result;
use crate::sys::{fs, sockets};

/// A descriptor of our own for a socket that some process has; nothing if no process can be looked into that has it.
///
/// # Errors
/// /proc cannot be read.
pub fn take(socket: &sockets::Tcp) -> Result<Option<OwnedFd>> {
    let wanted = format!("socket:[{}]", socket.inode);
    for (pid, process) in fs::processes()? {
        // A process that has ended, or is not ours to look into.
        for fd in fs::list(&process.join("fd")).unwrap_or_default() {
            let is_it = std::fs::read_link(&fd).is_ok_and(|target| target.as_os_str() == wanted.as_str());
            let number =
                fd.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse::<i32>().ok());
            if let (true, Some(number)) = (is_it, number)
                && let Ok(taken) = duplicate(pid, number)
            {
                return Ok(Some(taken));
            }
        }
    }
    Ok(None)
}

fn duplicate(pid: i32, fd: i32) -> nix::Result<OwnedFd> {
    // SAFETY: two integers.
    let process = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let process = i32::try_from(Errno::result(process)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just made it for us, and nobody else has it.
    let process = unsafe { OwnedFd::from_raw_fd(process) };
    // SAFETY: three integers.
    let taken = unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), fd, 0) };
    let taken = i32::try_from(Errno::result(taken)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just made it for us, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(taken) })
}

/// The number of a descriptor, by which a map of sockets takes it.
#[must_use]
pub fn number(fd: &OwnedFd) -> i32 {
    fd.as_raw_fd()
}
