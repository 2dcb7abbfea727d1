//! TCP sockets as /proc/net/tcp lists them, and which of them a policy would capture had they begun now.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::policy::validate::reserved_inbound;
use crate::policy::{CapturePolicy, Destinations, Inbound, Ipv6, Mode, Owners, Port};

/// `TCP_ESTABLISHED` and `TCP_LISTEN` (include/net/tcp_states.h).
pub const ESTABLISHED: u8 = 0x01;
/// As [`ESTABLISHED`].
pub const LISTEN: u8 = 0x0a;

/// A TCP socket; IPv4 addresses are IPv4 also on a socket of both families.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Socket {
    /// Its own end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// Its state.
    pub state: u8,
    /// The user who made it.
    pub uid: u32,
}

impl Socket {
    /// Whether it waits for connections.
    #[must_use]
    pub fn is_listening(&self) -> bool {
        self.state == LISTEN
    }
}

/// Whether the counters of /proc/net/sockstat or sockstat6 (proc(5)) tell of TCP sockets. In doubt, they do.
#[must_use]
pub fn any_in_use(counters: &str) -> bool {
    !counters.lines().any(|line| line.starts_with("TCP: inuse 0 ") || line == "TCP6: inuse 0")
}

/// Reads /proc/net/tcp or tcp6 (proc(5)); lines of another form are headings.
#[must_use]
pub fn parse(text: &str) -> Vec<Socket> {
    text.lines().filter_map(socket).collect()
}

fn socket(line: &str) -> Option<Socket> {
    let mut columns = line.split_whitespace().skip(1);
    let local = address(columns.next()?)?;
    let remote = address(columns.next()?)?;
    let state = u8::from_str_radix(columns.next()?, 16).ok()?;
    let uid = columns.nth(3)?.parse().ok()?;
    Some(Socket { local, remote, state, uid })
}

/// `0100007F:1F90`: the address as 32-bit words in the machine's byte order, the port as a number.
fn address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut bytes = Vec::with_capacity(16);
    for at in (0..address.len()).step_by(8) {
        let word = u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    let address = match <[u8; 4]>::try_from(bytes.as_slice()) {
        Ok(bytes) => IpAddr::V4(Ipv4Addr::from(bytes)),
        Err(_) => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes.as_slice()).ok()?)).to_canonical(),
    };
    Some(SocketAddr::new(address, port))
}

/// Open connections of a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Open {
    /// Begun here.
    pub outbound: usize,
    /// Begun elsewhere.
    pub inbound: usize,
}

impl Open {
    /// Both.
    #[must_use]
    pub fn total(self) -> usize {
        self.outbound + self.inbound
    }
}

/// The open connections that `policy` would capture had they begun now, and that the proxy does not hold:
/// they are older than the capture.
///
/// A captured connection has a twin: the proxy's socket on its capture port, whose other end is this
/// connection's own (outbound) or the client (inbound, where the application then talks to the proxy alone).
/// /proc does not tell a socket's group or interface, so owners and exclusions by those do not count.
#[must_use]
pub fn older(sockets: &[Socket], policy: &CapturePolicy) -> Open {
    let mut older = Open::default();
    if policy.mode == Mode::None {
        return older;
    }
    let ports = [policy.proxy.port.number(), policy.proxy.inbound_port.number()];
    let listening: BTreeSet<u16> =
        sockets.iter().filter(|s| s.is_listening()).map(|s| s.local.port()).collect();
    let own: BTreeSet<IpAddr> = sockets.iter().map(|s| s.local.ip()).collect();
    let open: Vec<&Socket> = sockets.iter().filter(|s| s.state == ESTABLISHED).collect();
    let with_proxy: BTreeSet<SocketAddr> =
        open.iter().filter(|s| ports.contains(&s.local.port())).map(|s| s.remote).collect();
    for socket in open {
        let of_proxy = ports.contains(&socket.local.port()) || ports.contains(&socket.remote.port());
        let left_alone = policy.ipv6 == Ipv6::Off && socket.remote.is_ipv6();
        if of_proxy || left_alone {
            continue;
        }
        if listening.contains(&socket.local.port()) {
            let here = own.contains(&socket.remote.ip()) || socket.remote.ip().is_loopback();
            if !here && captures_inbound(policy, socket.local.port()) {
                older.inbound += 1;
            }
        } else if captures_outbound(policy, socket) && !with_proxy.contains(&socket.local) {
            older.outbound += 1;
        }
    }
    older
}

/// Whether the policy is that of a VM host, which leaves some ports alone by itself.
fn is_scoped(policy: &CapturePolicy) -> bool {
    policy.outbound.owners != Owners::Everyone
}

fn captures_inbound(policy: &CapturePolicy, port: u16) -> bool {
    let Some(port) = Port::of(port) else { return false };
    match &policy.inbound {
        Inbound::AllExcept(excluded) => {
            let reserved = is_scoped(policy) && reserved_inbound(&policy.proxy).contains(port);
            !excluded.contains(port) && !reserved
        }
        Inbound::Only(only) => only.contains(port),
    }
}

fn captures_outbound(policy: &CapturePolicy, socket: &Socket) -> bool {
    let out = &policy.outbound;
    let Some(port) = Port::of(socket.remote.port()) else { return false };
    let address = socket.remote.ip();
    let by_proxy = policy.proxy.uids.iter().any(|uid| uid.number() == socket.uid);
    let of_owner = match &out.owners {
        Owners::Everyone => !address.is_loopback(),
        Owners::Only { uids, .. } => uids.iter().any(|uid| uid.number() == socket.uid),
    };
    let included = match &out.destinations {
        Destinations::All { .. } => true,
        Destinations::Some { cidrs, ports } => {
            ports.contains(port) || cidrs.iter().any(|cidr| cidr.contains(address))
        }
    };
    let dns = is_scoped(policy) && port.number() == 53;
    let excluded =
        out.exclude_ports.contains(port) || out.exclude_cidrs.iter().any(|cidr| cidr.contains(address));
    of_owner && !by_proxy && included && !excluded && !dns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_net_tcp_is_read() {
        let text = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
            0: 0100007F:3A99 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1337        0 123 1 0 100 0 0 10 0\n   \
            1: 0000000000000000FFFF00000100007F:1F90 0000000000000000FFFF00000200000A:C350 01 0:0 0:0 0 1000 0 9\n";
        let sockets = parse(text);
        assert_eq!(sockets.len(), 2);
        assert_eq!(sockets[0].local, "127.0.0.1:15001".parse().unwrap());
        assert!(sockets[0].is_listening());
        assert_eq!(sockets[0].uid, 1337);
        assert_eq!(sockets[1].remote, "10.0.0.2:50000".parse().unwrap());
        assert_eq!((sockets[1].state, sockets[1].uid), (ESTABLISHED, 1000));
    }
}
