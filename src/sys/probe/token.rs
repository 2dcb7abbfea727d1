//! A real connection of our own: a listener in the place of the proxy, a client, and a random token between them.
//!
//! Both ends are reset when they are closed (socket(7), `SO_LINGER` of zero), so that no port pair waits for a
//! minute and no later packet leaves.

#![expect(unsafe_code, reason = "getrandom has no safe wrapper")]

use std::io::{ErrorKind, Read, Write};
use std::net::{
    IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, TcpListener, TcpStream, UdpSocket,
};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use caps::Capability;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrLike, SockaddrStorage, bind, connect, getsockopt,
    listen, setsockopt, socket, sockopt,
};

use super::conntrack::Tuple;
use super::owner::need;

/// What nobody else could send.
pub(super) type Token = [u8; 16];

/// How long a connection may be open at one end before the other end has it.
const HANDSHAKE: Duration = Duration::from_millis(100);

/// # Errors
/// The kernel gives no random bytes.
pub(super) fn token() -> Result<Token, String> {
    let mut token = Token::default();
    // Up to 256 bytes come whole once the pool is ready, which no signal then interrupts (getrandom(2)).
    // SAFETY: the kernel writes at most as many bytes as it is told that there is room for.
    let got = unsafe { nix::libc::getrandom(token.as_mut_ptr().cast(), token.len(), 0) };
    match usize::try_from(got) {
        Ok(got) if got == token.len() => Ok(token),
        Ok(_) => Err("no random token: getrandom(2) gave too few bytes".to_owned()),
        Err(_) => Err(format!("no random token: getrandom(2): {}", Errno::last())),
    }
}

/// Begins a connection and gives it up.
///
/// # Errors
/// A phrase that says why it cannot be begun.
pub(super) fn begin(destination: SocketAddr) -> Result<(), String> {
    let failed = |error: Errno| unsent(error, destination);
    let fd = stream(destination).map_err(failed)?;
    limit_hops(&fd, destination, Some(1)).map_err(failed)?;
    match connect(fd.as_raw_fd(), &SockaddrStorage::from(destination)) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

/// Listens in the place of the proxy.
#[derive(Debug)]
pub(super) struct Listener {
    listener: TcpListener,
    transparent: bool,
}

impl Listener {
    /// `None` if somebody listens there: without `SO_REUSEADDR` and `SO_REUSEPORT` the kernel refuses
    /// whatever could take a connection from somebody (socket(7)).
    ///
    /// # Errors
    /// A phrase that says why nobody can listen there.
    pub(super) fn bind(at: SocketAddr, transparent: bool) -> Result<Option<Listener>, String> {
        if transparent && need(Capability::CAP_NET_RAW, "").is_err() {
            need(Capability::CAP_NET_ADMIN, "to listen as a transparent proxy")?;
        }
        let attempt = || -> nix::Result<OwnedFd> {
            let fd = stream(at)?;
            if at.is_ipv6() {
                setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
            }
            // The address of a link that is still to be made (ip(7)).
            setsockopt(&fd, sockopt::IpFreebind, &true)?;
            if transparent {
                setsockopt(&fd, sockopt::IpTransparent, &true)?;
            }
            bind(fd.as_raw_fd(), &SockaddrStorage::from(at))?;
            listen(&fd, Backlog::new(8)?)?;
            Ok(fd)
        };
        match attempt() {
            Ok(fd) => Ok(Some(Listener { listener: fd.into(), transparent })),
            Err(Errno::EADDRINUSE) => Ok(None),
            Err(Errno::EACCES) => {
                need(Capability::CAP_NET_BIND_SERVICE, &format!("to listen on {at}"))?;
                Err(format!("listening on {at}: {}", Errno::EACCES))
            }
            Err(error) => Err(format!("listening on {at}: {error}")),
        }
    }

    /// The next connection that waits; `None` if there is none.
    fn accept(&self) -> Option<(TcpStream, SocketAddr)> {
        loop {
            match self.listener.accept() {
                Ok((stream, peer)) => {
                    reset_when_closed(&stream);
                    return Some((stream, peer));
                }
                // One that is gone again already (accept(2)).
                Err(error)
                    if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => {}
                Err(_) => return None,
            }
        }
    }
}

/// What became of an [`Attempt`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Met {
    /// Our listener got the token, and this is where it was told that the client went.
    Token(SocketAddr),
    /// Our listener got the connection and not the token.
    NoToken,
    /// Somebody else accepted the connection.
    Stranger,
    /// It failed.
    Failed(Errno),
}

/// A connection that is on its way, made with the credentials of the calling thread.
#[derive(Debug)]
pub(super) struct Attempt {
    client: TcpStream,
    pub(super) tuple: Tuple,
    token: Token,
    failed: Option<Errno>,
}

impl Attempt {
    /// Sends the first packet.
    ///
    /// # Errors
    /// A phrase that says why none was sent.
    pub(super) fn start(destination: SocketAddr, hops: Option<u8>, token: Token) -> Result<Attempt, String> {
        // Routes are looked up first, without a packet: later the same error may be a router's word.
        let source = source(destination)?;
        let failed = |error: Errno| unsent(error, destination);
        let fd = stream(destination).map_err(failed)?;
        limit_hops(&fd, destination, hops).map_err(failed)?;
        bind(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(source, 0))).map_err(failed)?;
        let client = TcpStream::from(fd);
        let port = client.local_addr().map_err(|error| format!("its own address: {error}"))?.port();
        reset_when_closed(&client);
        let tuple = Tuple { source: SocketAddr::new(source, port), destination };
        let failed = match connect(client.as_raw_fd(), &SockaddrStorage::from(destination)) {
            Ok(()) | Err(Errno::EINPROGRESS) => None,
            Err(error) => Some(error),
        };
        Ok(Attempt { client, tuple, token, failed })
    }

    /// Waits until it has met somebody; `None` if it has not in time.
    pub(super) fn wait(&mut self, listener: &Listener, patience: Duration) -> Option<Met> {
        let mut end = Instant::now() + patience;
        let mut connected = false;
        loop {
            while let Some((server, peer)) = listener.accept() {
                // Anybody else who is captured at this moment is reset, as without us.
                if peer == self.tuple.source {
                    return Some(self.meet(server, listener.transparent));
                }
            }
            if let Some(error) = self.failed.or_else(|| self.take_error()) {
                return Some(Met::Failed(error));
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return connected.then_some(Met::Stranger);
            }
            let mut fds = vec![PollFd::new(listener.listener.as_fd(), PollFlags::POLLIN)];
            if !connected {
                fds.push(PollFd::new(self.client.as_fd(), PollFlags::POLLOUT));
            }
            let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
            if poll(&mut fds, timeout).is_ok() && fds.get(1).and_then(PollFd::any).unwrap_or(false) {
                connected = true;
                end = end.min(Instant::now() + HANDSHAKE);
            }
        }
    }

    fn take_error(&self) -> Option<Errno> {
        let error = self.client.take_error().ok().flatten()?;
        Some(error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))
    }

    /// Hands the token over, and asks the kernel what the client wanted.
    fn meet(&mut self, mut server: TcpStream, transparent: bool) -> Met {
        let mut seen = Token::default();
        let mut hand_over = || -> std::io::Result<()> {
            self.client.write_all(&self.token)?;
            server.set_nonblocking(false)?;
            server.set_read_timeout(Some(HANDSHAKE))?;
            server.read_exact(&mut seen)
        };
        if hand_over().is_err() || seen != self.token {
            return Met::NoToken;
        }
        let original = if transparent { None } else { original_destination(&server) };
        match original.or_else(|| server.local_addr().ok()) {
            Some(original) => Met::Token(original),
            None => Met::NoToken,
        }
    }
}

/// Where the client of a redirected connection went (`getorigdst` in net/netfilter/nf_conntrack_proto.c).
pub(super) fn original_destination(server: &TcpStream) -> Option<SocketAddr> {
    if server.local_addr().ok()?.is_ipv4() {
        let raw = getsockopt(server, sockopt::OriginalDst).ok()?;
        let ip = Ipv4Addr::from(u32::from_be(raw.sin_addr.s_addr));
        Some(SocketAddrV4::new(ip, u16::from_be(raw.sin_port)).into())
    } else {
        let raw = getsockopt(server, sockopt::Ip6tOriginalDst).ok()?;
        let ip = Ipv6Addr::from(raw.sin6_addr.s6_addr);
        Some(SocketAddrV6::new(ip, u16::from_be(raw.sin6_port), 0, 0).into())
    }
}

fn stream(at: SocketAddr) -> nix::Result<OwnedFd> {
    let family = if at.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)
}

/// A packet that goes no further than `hops` (ip(7), ipv6(7)).
pub(super) fn limit_hops(fd: &OwnedFd, destination: SocketAddr, hops: Option<u8>) -> nix::Result<()> {
    match hops.map(i32::from) {
        None => Ok(()),
        Some(hops) if destination.is_ipv4() => setsockopt(fd, sockopt::Ipv4Ttl, &hops),
        Some(hops) => setsockopt(fd, sockopt::Ipv6Ttl, &hops),
    }
}

fn reset_when_closed(stream: &TcpStream) {
    // Without it the close is a polite one, and an entry of conntrack lives two minutes longer.
    setsockopt(stream, sockopt::Linger, &nix::libc::linger { l_onoff: 1, l_linger: 0 }).ok();
}

/// The address from which the kernel sends to `destination`; connecting a datagram socket sends nothing.
fn source(destination: SocketAddr) -> Result<IpAddr, String> {
    let any: SocketAddr = match destination {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let ask = || {
        let socket = UdpSocket::bind(any)?;
        socket.connect(destination)?;
        socket.local_addr()
    };
    ask()
        .map(|address| address.ip())
        .map_err(|error| unsent(error.raw_os_error().map_or(Errno::EIO, Errno::from_raw), destination))
}

/// Why nothing was sent, as a phrase.
pub(super) fn unsent(error: Errno, destination: SocketAddr) -> String {
    let ip = destination.ip();
    if matches!(error, Errno::ENETUNREACH | Errno::EHOSTUNREACH) {
        return format!("no route to {ip}");
    }
    if error == Errno::EADDRNOTAVAIL {
        return format!("no address to send from to {ip}");
    }
    if error == Errno::EAFNOSUPPORT {
        return "this kernel has no IPv6".to_owned();
    }
    format!("sending to {destination}: {error}")
}

/// The address that a system call returned.
pub(super) fn address(storage: SockaddrStorage) -> Result<SocketAddr, String> {
    let v4 = storage.as_sockaddr_in().map(|v4| SocketAddrV4::from(*v4).into());
    let v6 = || storage.as_sockaddr_in6().map(|v6| SocketAddrV6::from(*v6).into());
    v4.or_else(v6).ok_or_else(|| format!("an address of family {:?}", storage.family()))
}
