//! System calls as programs of 32 bits make them, by a program of 64: the kernel treats the call as theirs
//! (`in_compat_syscall`).

#![expect(unsafe_code, reason = "no library makes calls of another width")]

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use nix::sys::socket::{SockaddrLike, SockaddrStorage};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

/// Of `socketcall` (include/uapi/linux/net.h).
const SOCKET: u32 = 1;
const CONNECT: u32 = 3;
const GETSOCKOPT: u32 = 15;

/// A page that 32 bits can name.
pub(crate) struct Low(*mut u8);

impl Low {
    const SIZE: usize = 4096;
    /// Where what the words name begins.
    const INSIDE: usize = 64;

    pub(crate) fn new() -> Self {
        let how = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | MAP_LOW;
        // SAFETY: a mapping of its own, wherever the kernel wants it among the low ones.
        let at = unsafe { libc::mmap(ptr::null_mut(), Self::SIZE, how, flags, -1, 0) };
        assert_ne!(at, libc::MAP_FAILED, "{}", io::Error::last_os_error());
        Self(at.cast())
    }

    fn address(&self, offset: usize) -> u32 {
        u32::try_from(self.0.addr() + offset).expect("a low address")
    }

    fn put(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= Self::SIZE);
        // SAFETY: it lies in the page.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.0.wrapping_add(offset), bytes.len()) };
    }

    fn get(&self, offset: usize, length: usize) -> Vec<u8> {
        assert!(offset + length <= Self::SIZE);
        // SAFETY: it lies in the page, and the kernel has written it, or it is zero.
        unsafe { std::slice::from_raw_parts(self.0.wrapping_add(offset), length) }.to_vec()
    }

    fn call(&self, which: u32, words: &[u32]) -> io::Result<i32> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        self.put(0, &bytes);
        let answer = socketcall(which, self.address(0));
        if answer < 0 { Err(io::Error::from_raw_os_error(-answer)) } else { Ok(answer) }
    }

    /// A stream socket for `to`.
    pub(crate) fn socket(&self, to: SocketAddr) -> io::Result<OwnedFd> {
        let family = if to.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        let words = [family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0].map(i32::cast_unsigned);
        let fd = self.call(SOCKET, &words)?;
        // SAFETY: the kernel has just made it for us, and nobody else has it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    pub(crate) fn connect(&self, socket: &OwnedFd, to: SocketAddr) -> io::Result<()> {
        let storage = SockaddrStorage::from(to);
        // SAFETY: an address of this length.
        let bytes =
            unsafe { std::slice::from_raw_parts(storage.as_ptr().cast::<u8>(), storage.len() as usize) };
        self.put(Self::INSIDE, bytes);
        let words = [socket.as_raw_fd().cast_unsigned(), self.address(Self::INSIDE), storage.len()];
        self.call(CONNECT, &words).map(drop)
    }

    /// An option's value.
    pub(crate) fn option(&self, socket: RawFd, level: i32, name: i32, length: u32) -> io::Result<Vec<u8>> {
        self.put(Self::INSIDE, &length.to_ne_bytes());
        let value = Self::INSIDE + 8;
        self.put(value, &vec![0; length as usize]);
        let [socket, level, name] = [socket, level, name].map(i32::cast_unsigned);
        self.call(GETSOCKOPT, &[socket, level, name, self.address(value), self.address(Self::INSIDE)])?;
        Ok(self.get(value, length as usize))
    }
}

impl Drop for Low {
    fn drop(&mut self) {
        // SAFETY: a mapping of ours, of which nobody has a reference any more.
        unsafe { libc::munmap(self.0.cast(), Self::SIZE) };
    }
}

/// Whether the kernel takes such calls: who makes one where it does not is killed.
pub(crate) fn works() -> bool {
    if !cfg!(target_arch = "x86_64") {
        return false;
    }
    // SAFETY: the child makes one call and ends, and takes no lock of libc's.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "{}", io::Error::last_os_error());
    if child == 0 {
        let refused = socketcall(0, 0) == -libc::ENOSYS;
        // SAFETY: it ends this process, and runs nothing that the parent would.
        unsafe { libc::_exit(refused.into()) }
    }
    waitpid(Pid::from_raw(child), None).expect("a child of ours")
        == WaitStatus::Exited(Pid::from_raw(child), 0)
}

#[cfg(target_arch = "x86_64")]
const MAP_LOW: i32 = libc::MAP_32BIT;
#[cfg(not(target_arch = "x86_64"))]
const MAP_LOW: i32 = 0;

#[cfg(target_arch = "x86_64")]
fn socketcall(which: u32, words: u32) -> i32 {
    /// arch/x86/entry/syscalls/syscall_32.tbl.
    const SOCKETCALL: u64 = 102;
    let answer: u64;
    // SAFETY: the kernel reads and writes what the words name; `rbx`, which is the compiler's own, is put back, and the call
    // changes no other register but those that are named.
    unsafe {
        std::arch::asm!(
            "xchg {which}, rbx",
            "int 0x80",
            "xchg {which}, rbx",
            which = inout(reg) u64::from(which) => _,
            inlateout("rax") SOCKETCALL => answer,
            in("rcx") u64::from(words),
            lateout("r8") _, lateout("r9") _, lateout("r10") _, lateout("r11") _,
        );
    }
    #[expect(clippy::cast_possible_truncation, reason = "an answer of 32 bits")]
    let answer = answer as u32;
    answer.cast_signed()
}

#[cfg(not(target_arch = "x86_64"))]
fn socketcall(_which: u32, _words: u32) -> i32 {
    -libc::ENOSYS
}
