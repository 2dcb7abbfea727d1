//! Questions to the kernel over netlink: one message, and an acknowledgement or a list.
//!
//! netlink(7); struct nlmsghdr, struct nlattr and the rounding to 4 in linux/netlink.h.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto, setsockopt,
    socket,
};
use nix::sys::time::TimeVal;

pub(super) use crate::netlink::attribute;
use crate::netlink::{self, HEADER, u16_at, u32_at};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
const NLA_F_NESTED: u16 = 0x8000;
/// How long the kernel may take; it answers while we send.
const PATIENCE: i64 = 2;

/// A netlink socket. It belongs to the network namespace of the thread that opened it, whoever uses it.
#[derive(Debug)]
pub(super) struct Netlink {
    fd: OwnedFd,
    sequence: u32,
}

impl Netlink {
    pub(super) fn open(protocol: SockProtocol) -> nix::Result<Netlink> {
        let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        setsockopt(&fd, ReceiveTimeout, &TimeVal::new(PATIENCE, 0))?;
        Ok(Netlink { fd, sequence: 0 })
    }

    /// Sends one message and waits for its acknowledgement. What the kernel answered beside that, without the
    /// header; empty if nothing.
    pub(super) fn ask(&mut self, kind: u16, flags: u16, body: &[u8]) -> nix::Result<Vec<u8>> {
        self.send(kind, NLM_F_ACK | flags, body)?;
        let mut answer = Vec::new();
        self.receive(|message| answer = message.get(HEADER..).unwrap_or_default().to_vec())?;
        Ok(answer)
    }

    /// What `read` makes of the messages, headers included, with which the kernel answers a question for all there
    /// is.
    pub(super) fn list<T>(
        &mut self,
        kind: u16,
        body: &[u8],
        read: impl Fn(&[u8]) -> Option<T>,
    ) -> nix::Result<Vec<T>> {
        self.send(kind, NLM_F_DUMP, body)?;
        let mut list = Vec::new();
        self.receive(|message| list.extend(read(message)))?;
        Ok(list)
    }

    fn send(&mut self, kind: u16, flags: u16, body: &[u8]) -> nix::Result<()> {
        self.sequence += 1;
        let length = u32::try_from(HEADER + body.len()).map_err(|_| Errno::EMSGSIZE)?;
        let mut request = Vec::with_capacity(HEADER + body.len());
        request.extend(length.to_ne_bytes());
        request.extend(kind.to_ne_bytes());
        request.extend((NLM_F_REQUEST | flags).to_ne_bytes());
        request.extend(self.sequence.to_ne_bytes());
        request.extend([0; 4]); // the port: the kernel knows ours
        request.extend(body);
        sendto(self.fd.as_raw_fd(), &request, &NetlinkAddr::new(0, 0), MsgFlags::empty()).map(drop)
    }

    fn receive(&self, mut see: impl FnMut(&[u8])) -> nix::Result<()> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let count = match recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Err(Errno::EINTR) => continue,
                other => other?,
            };
            if read_answer(buffer.get(..count).unwrap_or_default(), self.sequence, &mut see)? {
                return Ok(());
            }
        }
    }
}

/// Reads one datagram and hands its messages on; `true` when it had the end of what `sequence` asked for.
fn read_answer(datagram: &[u8], sequence: u32, see: &mut impl FnMut(&[u8])) -> nix::Result<bool> {
    for message in netlink::messages(datagram) {
        let message = message.map_err(|netlink::Cut| Errno::EBADMSG)?;
        // Answers to an earlier question may still come when that one took too long.
        if u32_at(message, 8) != Some(sequence) {
            continue;
        }
        match u16_at(message, 4) {
            Some(NLMSG_DONE) => return Ok(true),
            Some(NLMSG_ERROR) => {
                let code = u32_at(message, HEADER).ok_or(Errno::EBADMSG)?.cast_signed();
                return if code == 0 { Ok(true) } else { Err(Errno::from_raw(code.saturating_neg())) };
            }
            Some(_) | None => see(message),
        }
    }
    Ok(false)
}

/// An attribute that holds attributes.
pub(super) fn nest(kind: u16, attributes: &[Vec<u8>]) -> Vec<u8> {
    attribute(kind | NLA_F_NESTED, &attributes.concat())
}

/// The value at the end of a path of attributes.
pub(super) fn find<'a>(attributes: &'a [u8], path: &[u16]) -> Option<&'a [u8]> {
    path.iter().try_fold(attributes, |attributes, wanted| netlink::find(attributes, *wanted))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::tests::message;

    #[test]
    fn attributes_are_found_again() {
        let inner = [attribute(1, &[7]), attribute(2, b"text\0")];
        let bytes = [attribute(9, &[]), nest(4, &inner)].concat();
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(find(&bytes, &[4, 2]), Some(&b"text\0"[..]));
        assert_eq!(find(&bytes, &[4, 1]), Some(&[7][..]));
        assert_eq!(find(&bytes, &[9]), Some(&[][..]));
        assert_eq!(find(&bytes, &[4, 3]), None);
        assert_eq!(find(&bytes, &[9, 1]), None);
    }

    /// What one datagram says to the question of this number.
    fn read(datagram: &[u8], sequence: u32) -> nix::Result<(bool, Vec<Vec<u8>>)> {
        let mut seen = Vec::new();
        let done = read_answer(datagram, sequence, &mut |message| seen.push(message[HEADER..].to_vec()))?;
        Ok((done, seen))
    }

    #[test]
    fn an_answer_ends_with_its_acknowledgement() {
        let other = message(NLMSG_ERROR, 0, 1, &(-1_i32).to_ne_bytes());
        let datagram = [other, message(16, 0, 2, &[1, 2, 3, 4])].concat();
        assert_eq!(read(&datagram, 2), Ok((false, vec![vec![1, 2, 3, 4]])));
        assert_eq!(read(&message(NLMSG_ERROR, 0, 2, &[0; 4]), 2), Ok((true, vec![])));
        let refusal = message(NLMSG_ERROR, 0, 2, &(-2_i32).to_ne_bytes());
        assert_eq!(read(&refusal, 2), Err(Errno::ENOENT));
    }

    #[test]
    fn a_list_ends_when_the_kernel_says_so() {
        let items = [message(20, 2, 3, &[1]), message(20, 2, 3, &[2])].concat();
        assert_eq!(read(&items, 3), Ok((false, vec![vec![1], vec![2]])));
        assert_eq!(
            read(&[items, message(NLMSG_DONE, 2, 3, &[0; 4])].concat(), 3).map(|read| read.0),
            Ok(true)
        );
        assert_eq!(read(&message(NLMSG_DONE, 2, 2, &[0; 4]), 3), Ok((false, vec![])));
    }

    #[test]
    fn garbage_ends() {
        assert_eq!(read(&[0; 64], 1), Err(Errno::EBADMSG));
        assert_eq!(read(&[255; 64], 1), Err(Errno::EBADMSG));
        assert_eq!(read(&[1, 2], 1), Ok((false, vec![])));
        assert_eq!(read(&message(NLMSG_ERROR, 0, 1, &[]), 1), Err(Errno::EBADMSG));
        assert_eq!(find(&[0; 16], &[1]), None);
        assert_eq!(find(&[255; 16], &[1]), None);
        assert_eq!(find(&[5, 0, 2, 0, 9], &[1]), None);
    }
}
