//! TCP packets as they come over a host's wires: a packet(7) socket that hears everything in a namespace.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, socket};

use super::netns::Netns;

/// `IPPROTO_TCP`.
const TCP: u8 = 6;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
/// How long a packet may be on a wire whose both ends are in this machine.
const ON_THE_WIRE: Duration = Duration::from_millis(30);

/// Hears from the moment that it was made.
#[derive(Debug)]
pub(crate) struct Tap(OwnedFd);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    /// The time to live, or the hop limit.
    pub(crate) hops: u8,
    flags: u8,
}

impl Packet {
    /// The first packet of a connection.
    pub(crate) fn is_first(&self) -> bool {
        self.flags & (SYN | ACK) == SYN
    }
}

impl Tap {
    pub(crate) fn new(netns: &Netns) -> Self {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        // A datagram socket: packets begin with the network's header.
        let open = || socket(AddressFamily::Packet, SockType::Datagram, flags, SockProtocol::EthAll);
        Self(netns.run(open).expect("a packet socket"))
    }

    /// What was heard since the last call.
    pub(crate) fn heard(&self) -> Vec<Packet> {
        thread::sleep(ON_THE_WIRE);
        let mut heard = Vec::new();
        let mut buffer = [0; 2048];
        loop {
            match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(count) => heard.extend(tcp(&buffer[..count])),
                Err(Errno::EAGAIN) => return heard,
                Err(error) => panic!("hearing packets: {error}"),
            }
        }
    }
}

fn tcp(packet: &[u8]) -> Option<Packet> {
    let (from, to, hops, protocol, header) = match packet.first()? >> 4 {
        4 => {
            let ip = |at: usize| Some(IpAddr::from(Ipv4Addr::from(four(packet, at)?)));
            let header = usize::from(packet.first()? & 0xf) * 4;
            (ip(12)?, ip(16)?, *packet.get(8)?, *packet.get(9)?, header)
        }
        6 => {
            let ip = |at: usize| {
                let bytes: [u8; 16] = packet.get(at..at + 16)?.try_into().ok()?;
                Some(IpAddr::from(Ipv6Addr::from(bytes)))
            };
            (ip(8)?, ip(24)?, *packet.get(7)?, *packet.get(6)?, 40)
        }
        _ => return None,
    };
    if protocol != TCP {
        return None;
    }
    let ports = four(packet, header)?;
    let port = |high: u8, low: u8| u16::from_be_bytes([high, low]);
    Some(Packet {
        from: SocketAddr::new(from, port(ports[0], ports[1])),
        to: SocketAddr::new(to, port(ports[2], ports[3])),
        hops,
        flags: *packet.get(header + 13)?,
    })
}

fn four(packet: &[u8], at: usize) -> Option<[u8; 4]> {
    packet.get(at..at + 4)?.try_into().ok()
}
