//! Credentials of a single thread.
//!
//! The functions of libc (and of nix) change every thread of the process; the raw calls change only the
//! caller, which is what a test wants that dials as uid 1000 while its other threads stay root. There is no
//! way back: a thread that took other credentials is used up.

#![expect(unsafe_code, reason = "only the raw system calls change the credentials of one thread")]

use std::fmt;
use std::io;

/// Whom a socket or a program belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Who {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Who {
    pub(crate) const ROOT: Self = Self { uid: 0, gid: 0 };

    /// A user whose group has the same number.
    pub(crate) const fn user(uid: u32) -> Self {
        Self { uid, gid: uid }
    }

    pub(crate) const fn group(self, gid: u32) -> Self {
        Self { uid: self.uid, gid }
    }

    /// Turns the calling thread, and only it, into this user, without supplementary groups.
    pub(crate) fn assume(self) -> io::Result<()> {
        if self == Self::ROOT { Ok(()) } else { self.assume_entirely() }
    }

    /// The same where 0 is no exception: the root of another user namespace is somebody else.
    pub(crate) fn assume_entirely(self) -> io::Result<()> {
        // SAFETY: a length of zero makes the kernel read nothing through the pointer.
        check(unsafe { libc::syscall(libc::SYS_setgroups, 0_usize, std::ptr::null::<libc::gid_t>()) })?;
        self.assume_group()?;
        // SAFETY: three integers, no memory involved.
        check(unsafe { libc::syscall(libc::SYS_setresuid, self.uid, self.uid, self.uid) })
    }

    /// Turns the calling thread into this user with supplementary groups.
    pub(crate) fn assume_with_groups(self, groups: &[u32]) -> io::Result<()> {
        self.assume_group()?;
        // SAFETY: the kernel reads as many numbers as it is told that there are.
        check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) })?;
        // SAFETY: three integers, no memory involved.
        check(unsafe { libc::syscall(libc::SYS_setresuid, self.uid, self.uid, self.uid) })
    }

    fn assume_group(self) -> io::Result<()> {
        // SAFETY: three integers, no memory involved.
        check(unsafe { libc::syscall(libc::SYS_setresgid, self.gid, self.gid, self.gid) })
    }

    /// Gives the calling thread another real and another effective user, as a set-user-ID program has them.
    pub(crate) fn assume_effective(real: u32, effective: u32) -> io::Result<()> {
        // SAFETY: three integers, no memory involved.
        check(unsafe { libc::syscall(libc::SYS_setresuid, real, effective, effective) })
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "uid {} gid {}", self.uid, self.gid)
    }
}

fn check(answer: libc::c_long) -> io::Result<()> {
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
