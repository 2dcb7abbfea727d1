//! A single first packet of TCP, from no connection: whoever answers it is told so by the kernel (a reset), and no
//! program ever sees one.
//!
//! raw(7), ipv6(7); the header of RFC 9293.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use caps::Capability;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, connect, getsockname,
    recv, send, socket,
};

use super::conntrack::Tuple;
use super::owner::need;

const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;
/// A header without options.
const HEADER: usize = 20;
const WINDOW: u16 = 1024;
/// Two fillers, and the option with a digest of zeros.
const SIGNATURE: &[u8] = &[1, 1, 19, 18, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// What becomes of the packet where it arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// The kernel answers it, and the answer is reset at once.
    Plain,
    /// No TCP takes it, neither ours nor a stranger's, because its checksum is wrong. NAT and connection tracking do
    /// not look at that in what is sent from this host (`tcp_error` in net/netfilter/nf_conntrack_proto_tcp.c), only
    /// in what comes in.
    Spoilt,
    /// TCP drops it without an answer, because it is signed (RFC 2385) and nobody has a key (`tcp_inbound_md5_hash` and
    /// `tcp_v4_send_reset` in net/ipv4). A kernel without `CONFIG_TCP_MD5SIG` takes it as plain. A reset would make
    /// connection tracking forget it before we can ask (`nf_conntrack_tcp_packet`).
    Signed,
}

/// The packet and the socket that sends it, made with the credentials of the calling thread.
#[derive(Debug)]
pub(super) struct Syn {
    raw: OwnedFd,
    /// Holds the source port: bound, and nobody can connect to it.
    _port: OwnedFd,
    pub(super) tuple: Tuple,
    sequence: u32,
}

impl Syn {
    /// # Errors
    /// A phrase that says what is missing.
    pub(super) fn new(destination: SocketAddr, hops: Option<u8>, sequence: u32) -> Result<Syn, String> {
        need(Capability::CAP_NET_RAW, "to send a packet that the proxy does not get")?;
        let family = if destination.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let failed = |error: Errno| super::token::unsent(error, destination);
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let raw = socket(family, SockType::Raw, flags, SockProtocol::Tcp).map_err(failed)?;
        super::token::limit_hops(&raw, destination, hops).map_err(failed)?;
        // The port of a raw socket's address has no meaning.
        let to = SockaddrStorage::from(SocketAddr::new(destination.ip(), 0));
        connect(raw.as_raw_fd(), &to).map_err(failed)?;
        let ip = super::token::address(getsockname(raw.as_raw_fd()).map_err(failed)?)?.ip();
        let port = socket(family, SockType::Stream, flags, None).map_err(failed)?;
        bind(port.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(ip, 0))).map_err(failed)?;
        let source = super::token::address(getsockname(port.as_raw_fd()).map_err(failed)?)?;
        let source = SocketAddr::new(ip, source.port());
        Ok(Syn { raw, _port: port, tuple: Tuple { source, destination }, sequence })
    }

    /// # Errors
    /// A phrase that says why it did not leave.
    pub(super) fn send(&self, form: Form) -> Result<(), String> {
        let packet = packet(&self.tuple, self.sequence, form);
        match send(self.raw.as_raw_fd(), &packet, MsgFlags::empty()) {
            Ok(_) => Ok(()),
            // A hook that drops a packet of ours makes its sender fail (NF_HOOK, linux/netfilter.h).
            Err(Errno::EPERM) => Err("a rule of this host drops the packet before it leaves".to_owned()),
            Err(error) => Err(super::token::unsent(error, self.tuple.destination)),
        }
    }

    /// Whether an answer has come from the very port that the packet was sent to.
    pub(super) fn is_answered(&self) -> bool {
        let mut buffer = [0; 256];
        while let Ok(count) = recv(self.raw.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            if answers(buffer.get(..count).unwrap_or_default(), &self.tuple) {
                return true;
            }
        }
        false
    }
}

fn packet(tuple: &Tuple, sequence: u32, form: Form) -> Vec<u8> {
    let Tuple { source, destination } = tuple;
    let options = if form == Form::Signed { SIGNATURE } else { &[] };
    let words = u8::try_from((HEADER + options.len()) / 4).unwrap_or_default();
    let first = [source.port().to_be_bytes(), destination.port().to_be_bytes()].concat();
    let numbers = [sequence.to_be_bytes(), [0; 4]].concat(); // acknowledges nothing
    let rest = [&[words << 4, SYN], &WINDOW.to_be_bytes()[..]].concat();
    let before = [first, numbers, rest].concat();
    let after = [&[0; 2], options].concat(); // nothing urgent
    let right = sum(&[&before[..], &after[..]].concat(), tuple);
    // Differs in half of the bits: not even the two forms of zero can make them equal.
    let checksum = if form == Form::Spoilt { right ^ 0x5555 } else { right };
    [before, checksum.to_be_bytes().to_vec(), after].concat()
}

/// The checksum of a segment, whose own place is zero or left out, and the pseudo-header.
fn sum(segment: &[u8], tuple: &Tuple) -> u16 {
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    // The pseudo-headers of both families add up to the same: addresses, length, protocol. The length is that of a
    // whole segment: two more than a part without its checksum, which is no multiple of four.
    let length = u8::try_from(segment.len().next_multiple_of(4)).unwrap_or_default();
    let pseudo = [octets(tuple.source.ip()), octets(tuple.destination.ip()), vec![0, length, 0, 6]].concat();
    let words = pseudo.chunks(2).chain(segment.chunks(2));
    let total: u32 = words.map(|word| word.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte))).sum();
    let folded = (total & 0xffff) + (total >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    !u16::try_from(folded & 0xffff).unwrap_or_default()
}

/// Whether a packet, with its IP header in IPv4 and without it in IPv6 (raw(7), ipv6(7)), ends or accepts the
/// connection.
fn answers(packet: &[u8], tuple: &Tuple) -> bool {
    let tcp = match packet.first() {
        Some(first) if tuple.destination.is_ipv4() => packet.get(usize::from(first & 0xf) * 4..),
        _ => Some(packet),
    };
    let Some(tcp) = tcp else { return false };
    let ports = [tuple.destination.port().to_be_bytes(), tuple.source.port().to_be_bytes()].concat();
    let flags = tcp.get(13).copied().unwrap_or_default();
    tcp.starts_with(&ports) && flags & ACK != 0 && flags & (SYN | RST) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuple(source: &str, destination: &str) -> Tuple {
        Tuple { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
    }

    /// Of a packet and its pseudo-header together, a right checksum makes all ones.
    fn is_right(packet: &[u8], tuple: &Tuple) -> bool {
        sum(packet, tuple) == 0
    }

    #[test]
    fn checksums_are_right_or_wrong() {
        for tuple in [
            tuple("10.0.0.1:40000", "192.0.2.1:80"),
            tuple("255.255.255.255:65535", "192.0.2.1:65535"),
            tuple("[fd00::1]:40000", "[2001:db8::1]:443"),
        ] {
            for sequence in [0, 1, 0x1234_5678, u32::MAX] {
                assert!(is_right(&packet(&tuple, sequence, Form::Plain), &tuple));
                assert!(is_right(&packet(&tuple, sequence, Form::Signed), &tuple));
                assert!(!is_right(&packet(&tuple, sequence, Form::Spoilt), &tuple));
            }
        }
    }

    #[test]
    fn the_packet_is_a_syn() {
        let tuple = tuple("10.0.0.1:36183", "192.0.2.1:80");
        for (form, length) in [(Form::Plain, 20), (Form::Spoilt, 20), (Form::Signed, 40)] {
            let bytes = packet(&tuple, 1234, form);
            assert_eq!(bytes.len(), length);
            assert_eq!(bytes[..4], [0x8d, 0x57, 0, 80]);
            assert_eq!(usize::from(bytes[12] >> 4) * 4, length);
            assert_eq!(bytes[13], SYN);
        }
    }

    #[test]
    fn answers_are_told_from_noise() {
        let tuple = tuple("10.0.0.1:40000", "192.0.2.1:80");
        let answer = |flags: u8| {
            let mut tcp = [[0, 80], 40000_u16.to_be_bytes()].concat();
            tcp.resize(HEADER, 0);
            tcp[13] = flags;
            [vec![0x45; 1], vec![0; 19], tcp].concat()
        };
        assert!(answers(&answer(SYN | ACK), &tuple));
        assert!(answers(&answer(RST | ACK), &tuple));
        assert!(!answers(&answer(ACK), &tuple));
        assert!(!answers(&answer(SYN), &tuple));
        assert!(!answers(&answer(SYN | ACK)[1..], &tuple));
        assert!(!answers(&[], &tuple));
        assert!(!answers(&[0x4f], &tuple));
    }
}
