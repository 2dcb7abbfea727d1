//! One run at a time in a network namespace.
//!
//! The lock is an abstract unix socket (unix(7)): such names belong to the network namespace, need no writable
//! file system, and go away with the process that holds them, however it dies.

use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, UnixCredentials, connect, getsockopt, socket,
    sockopt::PeerCredentials,
};

use crate::error::{Class, Error, Result};

const NAME: &[u8] = b"mesh-init/apply";

/// Held as long as it lives.
#[derive(Debug)]
pub struct Lock {
    /// Nothing if a stranger, who cannot be another run, keeps the name taken.
    _socket: Option<UnixListener>,
}

impl Lock {
    /// Gives up the value without touching the descriptor, which a fork has closed already.
    pub fn forget(self) {
        std::mem::forget(self);
    }
}

/// Takes the lock of the current network namespace, waiting up to `wait`.
///
/// # Errors
/// Somebody else still holds it; the error names the process.
pub fn take(wait: Duration) -> Result<Lock> {
    let failed =
        |error: &dyn std::fmt::Display| Error::refused(format!("the lock of this namespace: {error}"));
    let end = Instant::now() + wait;
    let address = SocketAddr::from_abstract_name(NAME).map_err(|error| failed(&error))?;
    loop {
        match UnixListener::bind_addr(&address) {
            Ok(socket) => return Ok(Lock { _socket: Some(socket) }),
            Err(error) if error.kind() == ErrorKind::AddrInUse => {}
            Err(error) => return Err(failed(&error)),
        }
        let left = end.saturating_duration_since(Instant::now());
        let holder = queue().map_err(|error| failed(&error))?;
        // Whoever works here is root or our own user. Any other process of the namespace that takes the name would
        // only keep capture from being made or repaired.
        if let Some((_, who)) = &holder
            && who.uid() != 0
            && who.uid() != nix::unistd::geteuid().as_raw()
        {
            tracing::warn!(
                "process {} of uid {} keeps the lock of this namespace and is no run: ignored",
                who.pid(),
                who.uid()
            );
            return Ok(Lock { _socket: None });
        }
        if left.is_zero() {
            let who = holder.map_or_else(String::new, |(_, who)| {
                format!(" (process {} of uid {})", who.pid(), who.uid())
            });
            return Err(Error::new(
                Class::TryAgain,
                format!("another run{who} holds the lock of this namespace"),
            )
            .remedy("try again when it has ended"));
        }
        match holder {
            Some((queued, _)) => wait_for_end(&queued, left)?,
            // It ended just now, or its queue is full: look again in a moment.
            None => std::thread::sleep(Duration::from_millis(5).min(left)),
        }
    }
}

/// Connects to the holder, which never accepts: the connection breaks when the holder ends.
fn queue() -> nix::Result<Option<(OwnedFd, UnixCredentials)>> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    if connect(std::os::fd::AsRawFd::as_raw_fd(&fd), &UnixAddr::new_abstract(NAME)?).is_err() {
        return Ok(None);
    }
    let who = getsockopt(&fd, PeerCredentials)?;
    Ok(Some((fd, who)))
}

fn wait_for_end(queued: &OwnedFd, left: Duration) -> Result<()> {
    let mut fds = [PollFd::new(queued.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
    match poll(&mut fds, timeout) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(error) => Err(Error::refused(format!("waiting for the lock of this namespace: {error}"))),
    }
}
