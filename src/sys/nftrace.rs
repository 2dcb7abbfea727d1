//! Listening to what nf_tables says of marked packets, and for the end of listening.
//!
//! netlink(7); `NFNLGRP_NFTRACE` of linux/netfilter/nfnetlink.h; signalfd(2). Everything is about the network
//! namespace of the thread that opens the socket.

#![expect(unsafe_code, reason = "one option of netlink sockets has no safe wrapper")]

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::sockopt::{RcvBuf, RcvBufForce};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt, socket,
};

use crate::error::{Class, Error, Result};

/// `NFNLGRP_NFTRACE`.
const GROUP: libc::c_int = 9;
/// What the kernel may have to say while nobody reads, in bytes: some hundred packets' ways.
const ROOM: usize = 1 << 20;
const DATAGRAM: usize = 64 << 10;

/// Listens, from when it is made until it is dropped.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
    signals: SignalFd,
    buffer: Vec<u8>,
}

/// What was heard.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard<'a> {
    /// Messages of the kernel.
    Messages(&'a [u8]),
    /// The kernel had more to say than there was room for.
    Lost,
    /// Nothing, for as long as was asked for.
    Nothing,
    /// SIGINT, SIGTERM or SIGHUP: somebody wants this to end.
    Asked,
}

impl Listener {
    /// Begins to listen. From now on the signals that ask to end are heard here alone.
    ///
    /// # Errors
    /// The kernel has no netlink for netfilter, or `CAP_NET_ADMIN` is missing.
    pub fn open() -> Result<Listener> {
        let open = || -> nix::Result<Listener> {
            let protocol = SockProtocol::NetlinkNetFilter;
            let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
            bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
            // Without CAP_NET_ADMIN in the first user namespace the host's limit holds; less room is no fault.
            if setsockopt(&fd, RcvBufForce, &ROOM).is_err() {
                setsockopt(&fd, RcvBuf, &ROOM).ok();
            }
            let size = u32::try_from(size_of::<libc::c_int>()).unwrap_or(4);
            let group = GROUP;
            let group = (&raw const group).cast();
            let (level, name) = (libc::SOL_NETLINK, libc::NETLINK_ADD_MEMBERSHIP);
            // SAFETY: the value is an int that outlives the call, and its size is given.
            let joined = unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, group, size) };
            Errno::result(joined)?;
            let mut asking = SigSet::empty();
            [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]
                .into_iter()
                .for_each(|signal| asking.add(signal));
            asking.thread_block()?;
            let signals = SignalFd::with_flags(&asking, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
            Ok(Listener { fd, signals, buffer: vec![0; DATAGRAM] })
        };
        open().map_err(|errno| {
            if errno == Errno::EPERM {
                let problem = "listening to nf_tables' trace needs CAP_NET_ADMIN";
                return Error::new(Class::Privilege, problem)
                    .remedy("run as root, or add the capability NET_ADMIN");
            }
            Error::host(format!("listening to nf_tables' trace: {errno}"))
                .remedy("the kernel needs CONFIG_NETFILTER_NETLINK and CONFIG_NF_TABLES")
        })
    }

    /// Waits for the next thing to hear, at most `patience`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn hear(&mut self, patience: Duration) -> Result<Heard<'_>> {
        let failed = |errno: Errno| Error::refused(format!("listening to nf_tables' trace: {errno}"));
        let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
        let mut ready = [
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.fd.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut ready, timeout) {
            Ok(0) | Err(Errno::EINTR) => return Ok(Heard::Nothing),
            Ok(_) => {}
            Err(errno) => return Err(failed(errno)),
        }
        let [asked, heard] = ready.map(|one| one.any().unwrap_or(true));
        if asked {
            return Ok(Heard::Asked);
        }
        if !heard {
            return Ok(Heard::Nothing);
        }
        match recv(self.fd.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(count) => Ok(Heard::Messages(self.buffer.get(..count).unwrap_or_default())),
            Err(Errno::ENOBUFS) => Ok(Heard::Lost),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(Heard::Nothing),
            Err(errno) => Err(failed(errno)),
        }
    }
}

/// The name of the interface with an index in this namespace; `None` if it is gone.
#[must_use]
pub fn interface_name(index: u32) -> Option<String> {
    nix::net::if_::if_indextoname(index).ok().and_then(|name| name.into_string().ok())
}
