//! A detached process that holds a decision open: somebody confirms in time, or it acts.
//!
//! It is a fork of its caller, with everything that the caller knew, in a session of its own (daemon(7)): it
//! survives the caller and the caller's terminal. It listens on an abstract unix socket (unix(7)) of the network
//! namespace that the decision is about, so whoever is there finds it, and it leaves nothing behind.

#![expect(unsafe_code, reason = "fork, close_range and _exit have no safe wrapper")]

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork};

use crate::error::{Class, Error, Result};

const NAME: &[u8] = b"mesh-init/confirm";
/// How long either side waits for the other's word.
const PATIENCE: Duration = Duration::from_secs(5);
const KEEP: u8 = b'k';
const ASK: u8 = b'?';
const READY: u8 = b'r';
const CANCEL: u8 = b'c';
const DONE: u8 = b'd';
const BUSY: u8 = b'b';

/// The caller's end of a holder that waits.
#[derive(Debug)]
pub struct Holder {
    link: UnixStream,
}

/// A holder that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Its process.
    pub pid: i32,
    /// How long it will still wait.
    pub left: Duration,
}

/// Starts a holder that waits for `wait` and then, unless it is told to keep things as they are, runs `expired` with
/// whether the caller ever said that it was done. Other holders are refused until that has ended.
///
/// # Errors
/// It cannot be started, or another one waits in this namespace.
pub fn start(wait: Duration, expired: impl FnOnce(bool)) -> Result<Holder> {
    let failed = |what: &str, error: &dyn std::fmt::Display| {
        Error::refused(format!("starting the holder: {what}: {error}"))
    };
    let (mut ours, theirs) = UnixStream::pair().map_err(|error| failed("socketpair", &error))?;
    // SAFETY: no other thread runs: those that a run starts have ended with the call that started them. The child
    // leaves by _exit alone.
    let forked = unsafe { fork() }.map_err(|error| failed("fork", &error))?;
    if let ForkResult::Parent { child } = forked {
        drop(theirs);
        waitpid(child, None).map_err(|error| failed("waiting", &error))?;
        let mut word = Vec::new();
        let mut first = [0];
        ours.set_read_timeout(Some(PATIENCE)).map_err(|error| failed("its socket", &error))?;
        match ours.read_exact(&mut first) {
            Ok(()) if first == [READY] => return Ok(Holder { link: ours }),
            Ok(()) if first == [BUSY] => {
                let error = Error::new(Class::TryAgain, "another change waits to be confirmed");
                return Err(error.remedy("run mesh-init confirm, or wait until it has been taken back"));
            }
            Ok(()) => ours.read_to_end(&mut word).map_err(|error| failed("its word", &error))?,
            Err(error) => return Err(failed("it ended", &error)),
        };
        return Err(failed("it ended", &String::from_utf8_lossy(&word)));
    }
    drop(ours);
    hold(theirs, wait, expired)
}

/// The child: detaches, waits, acts, ends. Never returns to the caller's code.
fn hold(link: UnixStream, wait: Duration, expired: impl FnOnce(bool)) -> ! {
    if nix::unistd::setsid().is_ok() {
        // SAFETY: as above; the second fork gives up the session's lead, so that no terminal can become its own.
        let second = unsafe { fork() };
        if let Ok(ForkResult::Child) = second
            && let Some((_listener, done)) = waits_in_vain(link, wait)
        {
            expired(done);
        }
    }
    // SAFETY: ends the process without running what the caller registered to run at its own end.
    unsafe { nix::libc::_exit(0) }
}

/// Somebody wants the process to end, as systemd does with what a service or a session leaves: then it is time to act.
static ASKED_TO_END: AtomicBool = AtomicBool::new(false);

extern "C" fn asked_to_end(_: nix::libc::c_int) {
    ASKED_TO_END.store(true, Ordering::Relaxed);
}

/// Waits. If nobody spoke in time: the socket, which keeps other holders away, and whether the caller was done.
fn waits_in_vain(link: UnixStream, wait: Duration) -> Option<(UnixListener, bool)> {
    let mut link = alone(link).ok()?;
    let listener = match SocketAddr::from_abstract_name(NAME).and_then(|name| UnixListener::bind_addr(&name))
    {
        Ok(listener) => listener,
        Err(error) => {
            let word = match error.kind() == ErrorKind::AddrInUse {
                true => vec![BUSY],
                false => format!("x{error}").into_bytes(),
            };
            link.write_all(&word).ok();
            return None;
        }
    };
    link.write_all(&[READY]).ok()?;
    let end = Instant::now() + wait;
    let mut caller = Some(link);
    let mut done = false;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() || ASKED_TO_END.load(Ordering::Relaxed) {
            return Some((listener, done));
        }
        let mut fds = vec![PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        fds.extend(caller.as_ref().map(|link| PollFd::new(link.as_fd(), PollFlags::POLLIN)));
        // A signal just before the wait would be missed by it, so it is never long.
        let left = left.min(Duration::from_secs(1));
        let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        if poll(&mut fds, timeout).is_err() {
            continue;
        }
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        if ready.get(1) == Some(&true) {
            let mut word = [0];
            match caller.as_mut().map(|link| link.read_exact(&mut word)) {
                Some(Ok(())) if word == [CANCEL] => return None,
                Some(Ok(())) if word == [DONE] => done = true,
                // The caller has ended, as it does in the end.
                Some(Ok(()) | Err(_)) | None => caller = None,
            }
        }
        if ready.first() == Some(&true)
            && listener.accept().is_ok_and(|(stream, _)| told_to_keep(stream, end))
        {
            return None;
        }
    }
}

/// Leaves everything of the caller's but `link`: descriptors, terminal, directory.
fn alone(link: UnixStream) -> nix::Result<UnixStream> {
    // SAFETY: ignoring a signal runs no code of ours.
    unsafe { signal(Signal::SIGHUP, SigHandler::SigIgn) }?;
    // SAFETY: the handler stores to an atomic and does nothing else (signal-safety(7)).
    unsafe { signal(Signal::SIGTERM, SigHandler::Handler(asked_to_end)) }?;
    nix::unistd::chdir("/")?;
    // Where there is no /dev, a memory file that nobody reads does as well.
    let null = nix::fcntl::open("/dev/null", nix::fcntl::OFlag::O_RDWR, nix::sys::stat::Mode::empty())
        .or_else(|_| memfd_create(c"null", MFdFlags::MFD_CLOEXEC))?;
    for standard in 0..=2 {
        // SAFETY: dup2(2) takes integers; the standard descriptors are nobody's value here.
        unsafe { nix::libc::dup2(null.as_raw_fd(), standard) };
    }
    // SAFETY: fcntl(2) takes integers and makes a descriptor.
    let moved = unsafe { nix::libc::fcntl(link.as_raw_fd(), nix::libc::F_DUPFD_CLOEXEC, 100) };
    let moved_to = u32::try_from(moved).unwrap_or(3);
    close(3, moved_to.saturating_sub(1));
    close(moved_to + 1, u32::MAX);
    let _closed_already = (null.into_raw_fd(), link.into_raw_fd());
    if moved < 0 {
        return Err(nix::errno::Errno::EMFILE);
    }
    // SAFETY: the descriptor was made just now; nobody else owns it.
    Ok(UnixStream::from(unsafe { OwnedFd::from_raw_fd(moved) }))
}

/// Closes the descriptors from `first` to `last`: what values of the caller's own still name is never used again, for
/// this process ends by _exit.
fn close(first: u32, last: u32) {
    // SAFETY: close_range(2) takes integers.
    unsafe { nix::libc::syscall(nix::libc::SYS_close_range, first, last, 0) };
}

/// Listens to one who came. Only root and our own user have a say: anybody in the namespace can connect.
fn told_to_keep(mut stream: UnixStream, end: Instant) -> bool {
    let entitled = getsockopt(&stream, PeerCredentials)
        .is_ok_and(|peer| peer.uid() == 0 || peer.uid() == nix::unistd::geteuid().as_raw());
    let mut word = [0];
    if !entitled || stream.set_read_timeout(Some(PATIENCE)).is_err() || stream.read_exact(&mut word).is_err()
    {
        return false;
    }
    let left = end.saturating_duration_since(Instant::now());
    let answer = u64::try_from(left.as_millis()).unwrap_or(u64::MAX).to_ne_bytes();
    stream.write_all(&answer).is_ok() && word == [KEEP]
}

impl Holder {
    /// What it may have to take back is whole.
    pub fn done(mut self) {
        // A holder that is gone needs no word.
        self.link.write_all(&[DONE]).ok();
    }

    /// Nothing has to be held after all.
    pub fn cancel(mut self) {
        // A holder that is gone needs no word.
        self.link.write_all(&[CANCEL]).ok();
    }
}

/// The holder that waits in this namespace, if there is one.
#[must_use]
pub fn find() -> Option<Found> {
    speak(ASK)
}

/// Tells the holder in this namespace to keep things as they are; it ends then. `None` if there is none.
#[must_use]
pub fn keep() -> Option<Found> {
    speak(KEEP)
}

fn speak(word: u8) -> Option<Found> {
    let name = SocketAddr::from_abstract_name(NAME).ok()?;
    let mut stream = UnixStream::connect_addr(&name).ok()?;
    let peer = getsockopt(&stream, PeerCredentials).ok()?;
    // Anybody in the namespace can listen there; only root and our own user hold anything.
    if peer.uid() != 0 && peer.uid() != nix::unistd::geteuid().as_raw() {
        return None;
    }
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.write_all(&[word]).ok()?;
    let mut left = [0; 8];
    stream.read_exact(&mut left).ok()?;
    Some(Found { pid: peer.pid(), left: Duration::from_millis(u64::from_ne_bytes(left)) })
}
