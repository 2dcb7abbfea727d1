//! The probe of `istio-iptables --run-validation`, as upstream does it: the proxy's own path to itself, without any
//! privilege.
//!
//! tools/istio-iptables/pkg/validation of istio/istio. It must run as the proxy's uid: the rule for what that
//! uid sends over `lo` is what redirects the probe. Upstream listens beside a running proxy, with `SO_REUSEPORT`,
//! and so do we here, and nowhere else.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, connect, listen, setsockopt, socket,
    sockopt,
};

use super::token::original_destination;

/// The address that upstream dials, and in IPv6.
const V4: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 6);
const V6: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6);
const PAUSE: Duration = Duration::from_secs(1);

/// Dials `probe_port` of 127.0.0.6 (or ::6) every second until a listener on `proxy_port` or `inbound_port`
/// of loopback is told that this was the original destination's port.
///
/// # Errors
/// A phrase that says what was seen until the deadline.
pub fn validate(
    proxy_port: u16,
    inbound_port: u16,
    probe_port: u16,
    v6: bool,
    deadline: Duration,
) -> Result<(), String> {
    let end = Instant::now() + deadline;
    let (from, to): (IpAddr, IpAddr) =
        if v6 { (Ipv6Addr::LOCALHOST.into(), V6.into()) } else { (Ipv4Addr::LOCALHOST.into(), V4.into()) };
    let mut listeners = Vec::new();
    let mut refusals = Vec::new();
    for port in [proxy_port, inbound_port] {
        match share(SocketAddr::new(from, port)) {
            Ok(listener) => listeners.push(listener),
            Err(error) => refusals.push(format!("listening on port {port} of {from}: {error}")),
        }
    }
    if listeners.is_empty() {
        return Err(refusals.join(", and "));
    }
    let mut seen = String::new();
    loop {
        let next = (Instant::now() + PAUSE).min(end);
        let client = dial(from, SocketAddr::new(to, probe_port));
        if let Err(error) = &client {
            seen = format!("{to} port {probe_port}: {error}");
        }
        loop {
            let left = next.saturating_duration_since(Instant::now());
            for port in accepted(&listeners, left) {
                match port {
                    Some(port) if port == probe_port => return Ok(()),
                    Some(port) => seen = format!("a connection that was meant for port {port}"),
                    None => seen = "a connection that was not redirected".to_owned(),
                }
            }
            if let Some(error) = client.as_ref().ok().and_then(|client| client.take_error().ok().flatten()) {
                seen = format!("{to} port {probe_port}: {error}");
            }
            if left.is_zero() {
                break;
            }
        }
        if Instant::now() >= end {
            refusals.extend((!seen.is_empty()).then_some(seen));
            let seen = refusals.iter().map(|seen| format!("; {seen}")).collect::<String>();
            let target = SocketAddr::new(to, probe_port);
            return Err(format!("no connection to {target} was redirected to us within {deadline:?}{seen}"));
        }
    }
}

/// Listens on a port that others may listen on as well.
fn share(at: SocketAddr) -> nix::Result<TcpListener> {
    let fd = stream(at)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    setsockopt(&fd, sockopt::ReusePort, &true)?;
    bind(fd.as_raw_fd(), &SockaddrStorage::from(at))?;
    listen(&fd, Backlog::new(128)?)?;
    Ok(fd.into())
}

fn dial(from: IpAddr, to: SocketAddr) -> nix::Result<TcpStream> {
    let fd = stream(to)?;
    bind(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(from, 0)))?;
    match connect(fd.as_raw_fd(), &SockaddrStorage::from(to)) {
        Ok(()) | Err(nix::errno::Errno::EINPROGRESS) => Ok(fd.into()),
        Err(error) => Err(error),
    }
}

fn stream(at: SocketAddr) -> nix::Result<std::os::fd::OwnedFd> {
    let family = if at.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)
}

/// The original ports of what came in within `patience`; `None` for what was not redirected.
fn accepted(listeners: &[TcpListener], patience: Duration) -> Vec<Option<u16>> {
    let poll_fd = |listener| PollFd::new(TcpListener::as_fd(listener), PollFlags::POLLIN);
    let mut fds: Vec<PollFd<'_>> = listeners.iter().map(poll_fd).collect();
    let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
    // Interrupted or not, what is there is taken.
    poll(&mut fds, timeout).ok();
    let mut ports = Vec::new();
    for (mut stream, _) in listeners.iter().filter_map(|listener| listener.accept().ok()) {
        let port = original_destination(&stream).map(|original| original.port());
        if let Some(port) = port {
            // The client is ourselves, or somebody who does not read it.
            stream.write_all(port.to_string().as_bytes()).ok();
        }
        ports.push(port);
    }
    ports
}
