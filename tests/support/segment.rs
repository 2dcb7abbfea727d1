//! Single TCP segments, seen and sent on a raw socket beside the kernel's own connections.

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, recv, sendto, socket,
};

use super::netns::Netns;
use super::rules::Family;
use super::wire::THERE;

const PATIENCE: Duration = Duration::from_secs(3);
const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// Every TCP segment that arrives at `there`, in one family.
#[derive(Debug)]
pub(crate) struct Tap {
    fd: OwnedFd,
    family: Family,
}

/// A segment, as its header says.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    from: SocketAddr,
    to: SocketAddr,
    number: u32,
    acknowledged: u32,
    flags: u8,
    length: u32,
}

impl Tap {
    pub(crate) fn new(there: &Netns, family: Family) -> Self {
        let domain = match family {
            Family::V4 => AddressFamily::Inet,
            Family::V6 => AddressFamily::Inet6,
        };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = there.run(|| socket(domain, SockType::Raw, flags, SockProtocol::Tcp)).expect("a raw socket");
        // So that it also tells for whom a segment is: IPv6's raw sockets are given no address.
        bind(fd.as_raw_fd(), &SockaddrStorage::from(THERE.port(family, 0))).expect("an address of ours");
        Self { fd, family }
    }

    /// The last segment so far from `from` to `to`.
    pub(crate) fn last(&self, from: SocketAddr, to: SocketAddr) -> Segment {
        let end = Instant::now() + PATIENCE;
        let mut last = None;
        loop {
            match self.next(from, to) {
                Some(segment) => last = Some(segment),
                None if last.is_some() => return last.expect("just seen"),
                None => assert!(Instant::now() < end, "no segment from {from} to {to}"),
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Answers `segment`, far outside of the window.
    pub(crate) fn send_beside(&self, segment: &Segment) {
        let answer = Segment {
            from: segment.to,
            to: segment.from,
            number: segment.acknowledged.wrapping_add(1 << 30),
            acknowledged: segment.number.wrapping_add(segment.length),
            flags: ACK,
            length: 0,
        };
        let bytes = answer.bytes();
        let mut to = answer.to;
        // Raw IPv6 sockets take no port.
        to.set_port(0);
        let sent = sendto(self.fd.as_raw_fd(), &bytes, &SockaddrStorage::from(to), MsgFlags::empty());
        assert_eq!(sent, Ok(bytes.len()), "sending {answer:?}");
    }

    /// Whether a reset from `from` to `to` arrives within `patience`.
    pub(crate) fn sees_reset(&self, from: SocketAddr, to: SocketAddr, patience: Duration) -> bool {
        let end = Instant::now() + patience;
        while Instant::now() < end {
            match self.next(from, to) {
                Some(segment) if segment.flags & RST != 0 => return true,
                Some(_) => {}
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        false
    }

    /// What has arrived and was not looked at.
    fn next(&self, from: SocketAddr, to: SocketAddr) -> Option<Segment> {
        let mut buffer = [0; 2048];
        loop {
            match recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Err(Errno::EAGAIN) => return None,
                Err(error) => panic!("a raw socket: {error}"),
                Ok(length) => {
                    let header = match self.family {
                        Family::V4 => usize::from(buffer[0] & 15) * 4,
                        Family::V6 => 0,
                    };
                    let segment = Segment::parse(&buffer[header..length], from, to);
                    if segment.is_some() {
                        return segment;
                    }
                }
            }
        }
    }
}

impl Segment {
    /// The segment in `bytes` if its ports are those of `from` and `to`.
    fn parse(bytes: &[u8], from: SocketAddr, to: SocketAddr) -> Option<Self> {
        let short = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let long = |at: usize| u32::from(short(at)) << 16 | u32::from(short(at + 2));
        if (short(0), short(2)) != (from.port(), to.port()) {
            return None;
        }
        let (header, flags) = (usize::from(bytes[12] >> 4) * 4, bytes[13]);
        let data = u32::try_from(bytes.len() - header).expect("a packet is small");
        let length = data + u32::from(flags & (SYN | FIN) != 0);
        Some(Self { from, to, number: long(4), acknowledged: long(8), flags, length })
    }

    /// A header without options, with its checksum (RFC 9293, 3.1).
    fn bytes(&self) -> [u8; 20] {
        let mut bytes = [0; 20];
        bytes[0..2].copy_from_slice(&self.from.port().to_be_bytes());
        bytes[2..4].copy_from_slice(&self.to.port().to_be_bytes());
        bytes[4..8].copy_from_slice(&self.number.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.acknowledged.to_be_bytes());
        bytes[12] = 5 << 4;
        bytes[13] = self.flags;
        bytes[14..16].copy_from_slice(&1024_u16.to_be_bytes());
        let octets = |address: SocketAddr| match address {
            SocketAddr::V4(address) => address.ip().octets().to_vec(),
            SocketAddr::V6(address) => address.ip().octets().to_vec(),
        };
        let protocol = [0, 6, 0, 20];
        let summed = [&octets(self.from)[..], &octets(self.to), &protocol, &bytes].concat();
        let words = summed.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
        let sum: u32 = words.sum();
        let folded = (sum & 0xffff) + (sum >> 16);
        let folded = u16::try_from((folded & 0xffff) + (folded >> 16)).expect("folded twice");
        bytes[16..18].copy_from_slice(&(!folded).to_be_bytes());
        bytes
    }
}
