//! io_uring(7) as far as it makes sockets and connects them: a queue of one, asked and answered.

#![expect(unsafe_code, reason = "neither the standard library nor nix has io_uring_setup(2)")]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::socket::{SockaddrLike, SockaddrStorage};

/// `enum io_uring_op` (include/uapi/linux/io_uring.h).
const CONNECT: u8 = 16;
const SOCKET: u8 = 45;
/// `IOSQE_ASYNC`.
const ASYNC: u8 = 1 << 4;
const SETUP_SQPOLL: u32 = 1 << 1;
const ENTER_GETEVENTS: u32 = 1;
const ENTER_SQ_WAKEUP: u32 = 1 << 1;
const NEED_WAKEUP: u32 = 1;

/// Which thread does the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// The one that asks.
    Caller,
    /// One of the kernel's for the process.
    Worker,
    /// One of the kernel's that looks for work by itself.
    Poller,
}

impl By {
    pub(crate) const ALL: [Self; 3] = [Self::Caller, Self::Worker, Self::Poller];
}

/// A part of the ring that the kernel shares with us.
struct Shared {
    at: *mut u8,
    length: usize,
}

impl Shared {
    fn new(ring: &OwnedFd, length: usize, offset: libc::off_t) -> io::Result<Self> {
        let (how, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_POPULATE);
        // SAFETY: a mapping of its own, wherever the kernel wants it.
        let at = unsafe { libc::mmap(ptr::null_mut(), length, how, flags, ring.as_raw_fd(), offset) };
        if at == libc::MAP_FAILED {
            Err(io::Error::last_os_error())
        } else {
            Ok(Self { at: at.cast(), length })
        }
    }

    /// A number that the kernel reads or writes, too.
    fn number(&self, offset: u32) -> &AtomicU32 {
        assert!(offset as usize + 4 <= self.length && offset.is_multiple_of(4));
        // SAFETY: it lies in the mapping, which lives as long as this, and is aligned.
        unsafe { AtomicU32::from_ptr(self.at.wrapping_add(offset as usize).cast()) }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: a mapping of ours, of which nobody has a reference any more.
        unsafe { libc::munmap(self.at.cast(), self.length) };
    }
}

/// A ring.
pub(crate) struct Ring {
    fd: OwnedFd,
    /// `struct io_uring_params` in words.
    parameters: [u32; 30],
    questions: Shared,
    answers: Shared,
    entries: Shared,
    by: By,
}

impl Ring {
    /// A ring of this thread.
    pub(crate) fn new(by: By) -> io::Result<Self> {
        let mut parameters = [0_u32; 30];
        if by == By::Poller {
            parameters[2] = SETUP_SQPOLL;
            // It falls asleep after so many milliseconds.
            parameters[4] = 2000;
        }
        // SAFETY: the kernel reads and writes the parameters, which are as long as it takes them for.
        let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 4, parameters.as_mut_ptr()) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made it for us, and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).expect("a descriptor")) };
        let [questions, answers] = [parameters[0], parameters[1]].map(|entries| entries as usize);
        Ok(Self {
            questions: Shared::new(&fd, parameters[16] as usize + questions * 4, 0)?,
            answers: Shared::new(&fd, parameters[25] as usize + answers * 16, 0x800_0000)?,
            entries: Shared::new(&fd, questions * 64, 0x1000_0000)?,
            fd,
            parameters,
            by,
        })
    }

    /// A stream socket of the family (`AF_INET`, `AF_INET6`).
    pub(crate) fn socket(&self, family: i32) -> io::Result<OwnedFd> {
        let kind = u64::from((libc::SOCK_STREAM | libc::SOCK_CLOEXEC).cast_unsigned());
        let fd = self.ask(SOCKET, family, kind, 0)?;
        // SAFETY: the kernel has just made it for us, and nobody else has it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// Connects.
    pub(crate) fn connect(&self, socket: &OwnedFd, to: &SockaddrStorage) -> io::Result<()> {
        let at = to.as_ptr().expose_provenance() as u64;
        self.ask(CONNECT, socket.as_raw_fd(), u64::from(to.len()), at).map(drop)
    }

    /// `off` and `addr` are what the operation takes there.
    fn ask(&self, operation: u8, fd: i32, off: u64, addr: u64) -> io::Result<i32> {
        let of = |index: usize| self.parameters[index];
        let tail = self.questions.number(of(11));
        let place = tail.load(Ordering::Relaxed) & self.questions.number(of(12)).load(Ordering::Relaxed);
        let mut entry = [0_u8; 64];
        entry[0] = operation;
        entry[1] = if self.by == By::Worker { ASYNC } else { 0 };
        entry[4..8].copy_from_slice(&fd.to_ne_bytes());
        entry[8..16].copy_from_slice(&off.to_ne_bytes());
        entry[16..24].copy_from_slice(&addr.to_ne_bytes());
        let at = self.entries.at.wrapping_add(place as usize * 64);
        // SAFETY: the place is one of the entries, and the kernel looks at it behind the tail alone.
        unsafe { ptr::copy_nonoverlapping(entry.as_ptr(), at, 64) };
        self.questions.number(of(16) + place * 4).store(place, Ordering::Relaxed);
        tail.fetch_add(1, Ordering::SeqCst);
        let asleep = self.questions.number(of(14)).load(Ordering::SeqCst) & NEED_WAKEUP != 0;
        let wake = if self.by == By::Poller && asleep { ENTER_SQ_WAKEUP } else { 0 };
        let (ring, flags) = (self.fd.as_raw_fd(), ENTER_GETEVENTS | wake);
        // SAFETY: no memory but the ring's, and what the entry names, which the caller holds.
        let entered =
            unsafe { libc::syscall(libc::SYS_io_uring_enter, ring, 1, 1, flags, ptr::null::<()>(), 0) };
        if entered < 0 {
            return Err(io::Error::last_os_error());
        }
        let head = self.answers.number(of(20));
        let place = head.load(Ordering::Acquire) & self.answers.number(of(22)).load(Ordering::Relaxed);
        assert_ne!(
            head.load(Ordering::Relaxed),
            self.answers.number(of(21)).load(Ordering::Acquire),
            "no answer"
        );
        let outcome = self.answers.number(of(25) + place * 16 + 8).load(Ordering::Relaxed).cast_signed();
        head.fetch_add(1, Ordering::Release);
        if outcome < 0 { Err(io::Error::from_raw_os_error(-outcome)) } else { Ok(outcome) }
    }
}
