//! User namespaces, as pods have them that do not have the host's users (`hostUsers: false`).

#![expect(unsafe_code, reason = "only a process of one thread can enter a user namespace, so one is cloned")]

use std::fs::{self, File};
use std::io::{Read, Write, pipe};
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Stdio};

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use super::command::command;
use super::creds::Who;
use super::netns::Netns;

/// A user namespace and a network namespace that it owns; both go when nobody holds them.
#[derive(Debug)]
pub(crate) struct Users {
    pub(crate) netns: Netns,
    users: File,
    holder: Child,
}

impl Users {
    /// Who is 0 there is `first` outside, and who come after him follow: so many users, and as many groups.
    pub(crate) fn new(name: &str, first: Who, count: u32) -> Self {
        let mut command = command("unshare", &["--user", "--net", "sh", "-c", "echo; exec cat"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut holder = command.spawn().expect("unshare");
        holder.stdout.as_mut().expect("a pipe").read_exact(&mut [0]).expect("its namespaces are there");
        let of = |what: &str| PathBuf::from(format!("/proc/{}/{what}", holder.id()));
        for (map, first) in [("uid_map", first.uid), ("gid_map", first.gid)] {
            fs::write(of(map), format!("0 {first} {count}")).expect("root may, once");
        }
        let users = File::open(of("ns/user")).expect("a process of ours");
        Self { netns: Netns::of(name, &of("ns/net")), users, holder }
    }

    /// Runs `make` in a process of the namespaces as `who`, by the ids that they have there, and hands on the descriptor that
    /// it makes. The process is a clone of one with several threads: what it does must not allocate.
    pub(crate) fn make(&self, who: Who, make: impl FnOnce() -> nix::Result<OwnedFd> + Send) -> OwnedFd {
        self.netns.run(|| self.make_here(who, make)).unwrap_or_else(|error| panic!("as {who} there: {error}"))
    }

    fn make_here(&self, who: Who, make: impl FnOnce() -> nix::Result<OwnedFd>) -> nix::Result<OwnedFd> {
        let (mut told, mut tell) = pipe().expect("a pipe");
        let flags = libc::CLONE_FILES | libc::SIGCHLD;
        // SAFETY: as fork(2), but that descriptors are shared; the child calls nothing that takes a lock of libc's.
        let child = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
        let child = i32::try_from(Errno::result(child)?).expect("a process number");
        if child == 0 {
            let work = || -> nix::Result<OwnedFd> {
                setns(&self.users, CloneFlags::CLONE_NEWUSER)?;
                who.assume_entirely().map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))?;
                make()
            };
            let (error, fd) = match work() {
                Ok(fd) => (0, fd.into_raw_fd()),
                Err(errno) => (errno as i32, -1),
            };
            let mut words = [0; 8];
            words[..4].copy_from_slice(&error.to_ne_bytes());
            words[4..].copy_from_slice(&fd.to_ne_bytes());
            // The table of descriptors is the parent's, too: nothing of it may be closed here.
            drop(tell.write_all(&words));
            // SAFETY: it ends this process, and runs nothing that the parent would.
            unsafe { libc::_exit(0) }
        }
        let mut words = [0; 8];
        told.read_exact(&mut words).expect("it tells before it ends");
        waitpid(Pid::from_raw(child), None)?;
        let number = |at: usize| i32::from_ne_bytes([words[at], words[at + 1], words[at + 2], words[at + 3]]);
        match number(0) {
            // SAFETY: the child has made it in the table that is ours, too, and is gone.
            0 => Ok(unsafe { OwnedFd::from_raw_fd(number(4)) }),
            error => Err(Errno::from_raw(error)),
        }
    }
}

impl Drop for Users {
    fn drop(&mut self) {
        // It ends with its standard input.
        drop(self.holder.stdin.take());
        drop(self.holder.wait());
    }
}
