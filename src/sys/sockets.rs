//! The TCP sockets of a network namespace, where /proc does not list them.
//!
//! sock_diag(7); linux/inet_diag.h, linux/sock_diag.h.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use nix::errno::Errno;
use nix::sys::socket::SockProtocol;

use super::message::Netlink;
use crate::error::{Error, Result};
use crate::netlink::HEADER;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// `IPPROTO_TCP`.
const TCP: u8 = 6;
/// struct inet_diag_sockid.
const SOCKID: usize = 48;
/// struct inet_diag_msg, after which attributes follow.
const INET_DIAG_MSG: usize = 72;
const INET_DIAG_CGROUP_ID: u16 = 21;

/// A TCP socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tcp {
    /// Its own end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// Its state, as /proc/net/tcp numbers them (include/net/tcp_states.h).
    pub state: u8,
    /// The user who made it.
    pub uid: u32,
    /// The inode of its file in sockfs, as links in /proc/PID/fd have it.
    pub inode: u32,
    /// Its cookie (`SO_COOKIE`, socket(7)).
    pub cookie: u64,
    /// The number of the control group of version 2 that it was made in; kernels before 5.8 do not tell.
    pub cgroup: Option<u64>,
}

/// Those of the calling thread's namespace, both families.
///
/// # Errors
/// The kernel has no such list.
pub fn tcp() -> Result<Vec<Tcp>> {
    list(u32::MAX, 0)
}

/// `TCP_LISTEN` (include/net/tcp_states.h).
const LISTEN: u8 = 10;

/// The listeners at `port` in the calling thread's namespace, both families.
///
/// # Errors
/// As of [`tcp`].
pub fn listeners(port: u16) -> Result<Vec<Tcp>> {
    let mut found = list(1 << LISTEN, port)?;
    found.retain(|socket| socket.state == LISTEN && socket.local.port() == port);
    Ok(found)
}

/// Those in `states`, each a bit, at `port`, or at any for 0. A kernel need not mind either.
fn list(states: u32, port: u16) -> Result<Vec<Tcp>> {
    let of = |family| {
        Netlink::open(SockProtocol::NetlinkSockDiag)
            .and_then(|mut netlink| netlink.list(SOCK_DIAG_BY_FAMILY, &question(family, states, port), read))
    };
    let of_v6 = match of(AF_INET6) {
        // A kernel without IPv6 has none (inet_diag_lock_handler() and sock_diag_rcv_msg() in net).
        Err(Errno::ENOENT | Errno::EINVAL | Errno::EAFNOSUPPORT) => Ok(Vec::new()),
        other => other,
    };
    of(AF_INET).and_then(|of_v4| Ok([of_v4, of_v6?].concat())).map_err(|errno| {
        Error::host(format!("the TCP sockets cannot be listed: /proc is not mounted, and sock_diag: {errno}"))
            .remedy("mount /proc, or load tcp_diag on the host")
    })
}

/// struct inet_diag_req_v2: of `family`, in one of `states`, with its own end at `port`.
fn question(family: u8, states: u32, port: u16) -> Vec<u8> {
    let mut question = vec![family, TCP, 0, 0];
    question.extend(states.to_ne_bytes());
    let end = question.len() + SOCKID;
    question.extend(port.to_be_bytes());
    question.resize(end, 0);
    question
}

/// struct inet_diag_msg.
fn read(message: &[u8]) -> Option<Tcp> {
    let body = message.get(HEADER..)?;
    let (family, state) = (*body.first()?, *body.get(1)?);
    let port = |at: usize| Some(u16::from_be_bytes(body.get(at..at + 2)?.try_into().ok()?));
    let ip = |at: usize| -> Option<IpAddr> {
        match family {
            AF_INET => Some(Ipv4Addr::from(<[u8; 4]>::try_from(body.get(at..at + 4)?).ok()?).into()),
            _ => {
                let bytes = <[u8; 16]>::try_from(body.get(at..at + 16)?).ok()?;
                Some(IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical())
            }
        }
    };
    let word = |at: usize| Some(u32::from_ne_bytes(body.get(at..at + 4)?.try_into().ok()?));
    let (uid, inode) = (word(64)?, word(68)?);
    let cookie = u64::from(word(44)?) | u64::from(word(48)?) << 32;
    let local = SocketAddr::new(ip(8)?, port(4)?);
    let cgroup = cgroup(body.get(INET_DIAG_MSG..).unwrap_or_default());
    Some(Tcp { local, remote: SocketAddr::new(ip(24)?, port(6)?), state, uid, inode, cookie, cgroup })
}

/// The attribute with the control group's number, of those that follow (rtnetlink(7)).
fn cgroup(mut attributes: &[u8]) -> Option<u64> {
    loop {
        let half = |at: usize| Some(u16::from_ne_bytes(attributes.get(at..at + 2)?.try_into().ok()?));
        let (length, kind) = (usize::from(half(0)?), half(2)?);
        if kind == INET_DIAG_CGROUP_ID {
            return Some(u64::from_ne_bytes(attributes.get(4..12)?.try_into().ok()?));
        }
        attributes = attributes.get(length.max(4).next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_listener_is_listed() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let local = listener.local_addr().unwrap();
            let listed = tcp().unwrap();
            let found = listed.iter().find(|socket| socket.local == local).unwrap();
            assert_eq!((found.state, found.uid), (10, nix::unistd::geteuid().as_raw()));
            assert_eq!(found.remote.port(), 0);
        }
    }

    #[test]
    fn garbage_is_none() {
        for length in 0..HEADER + 72 {
            assert_eq!(read(&vec![2; length]), None);
        }
    }
}
