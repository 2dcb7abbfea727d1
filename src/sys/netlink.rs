//! The few questions to nf_tables that need no program: which tables and which chains there are.
//!
//! linux/netfilter/nfnetlink.h and nf_tables.h; netlink(7).

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto, setsockopt,
    socket,
};
use nix::sys::time::TimeVal;

use crate::error::{Class, Error, Result};

const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFT_MSG_GETTABLE: u16 = 1;
const NFT_MSG_GETCHAIN: u16 = 4;
/// `NFTA_TABLE_NAME`, and in a chain `NFTA_CHAIN_TABLE`.
const TABLE_NAME: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_DUMP: u16 = 0x300;
/// struct nlmsghdr, linux/netlink.h.
const HEADER: usize = 16;
/// struct nfgenmsg.
const NFGENMSG: usize = 4;

/// A table of nf_tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NftTable {
    /// `NFPROTO_*` (linux/netfilter.h): 2 is ip, 10 is ip6, 1 is inet.
    pub family: u8,
    /// Its name.
    pub name: String,
}

/// A chain of nf_tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NftChain {
    /// Its table.
    pub table: NftTable,
    /// Its name.
    pub name: String,
}

/// The tables of nf_tables in this namespace; none if the kernel has no nf_tables.
///
/// # Errors
/// The kernel refuses the question.
pub fn nft_tables() -> Result<Vec<NftTable>> {
    ask("tables", NFT_MSG_GETTABLE, table)
}

/// The chains of nf_tables in this namespace, also those that iptables cannot read.
///
/// # Errors
/// The kernel refuses the question.
pub fn nft_chains() -> Result<Vec<NftChain>> {
    let chain = |message: &[u8]| {
        Some(NftChain { table: table(message)?, name: attribute(message, NFTA_CHAIN_NAME)? })
    };
    ask("chains", NFT_MSG_GETCHAIN, chain)
}

fn ask<T>(what: &str, question: u16, read: impl Fn(&[u8]) -> Option<T>) -> Result<Vec<T>> {
    match dump(question, read) {
        Ok(answers) => Ok(answers),
        // No nfnetlink (EPROTONOSUPPORT) or no nf_tables in it (EINVAL, EOPNOTSUPP).
        Err(Errno::EPROTONOSUPPORT | Errno::EINVAL | Errno::EOPNOTSUPP) => Ok(Vec::new()),
        Err(Errno::EPERM) => {
            Err(Error::new(Class::Privilege, format!("listing the {what} of nf_tables needs CAP_NET_ADMIN"))
                .remedy("run as root, or add the capability NET_ADMIN"))
        }
        Err(error) => Err(Error::refused(format!("listing the {what} of nf_tables: {error}"))),
    }
}

fn dump<T>(question: u16, read: impl Fn(&[u8]) -> Option<T>) -> nix::Result<Vec<T>> {
    let fd: OwnedFd = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkNetFilter,
    )?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    let patience = Duration::from_secs(5);
    setsockopt(&fd, ReceiveTimeout, &TimeVal::new(i64::try_from(patience.as_secs()).unwrap_or(5), 0))?;
    let mut request = Vec::with_capacity(HEADER + NFGENMSG);
    request.extend(20_u32.to_ne_bytes());
    request.extend(((NFNL_SUBSYS_NFTABLES << 8) | question).to_ne_bytes());
    request.extend((NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    request.extend([0; 8]); // sequence, port: one question on a socket of its own
    request.extend([0; NFGENMSG]); // AF_UNSPEC: every family
    sendto(fd.as_raw_fd(), &request, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;

    let mut answers = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = recv(fd.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        if read_answer(buffer.get(..count).unwrap_or_default(), &mut |message| answers.extend(read(message)))?
        {
            return Ok(answers);
        }
    }
}

/// Reads one datagram and hands its messages on; `true` when the dump is complete.
fn read_answer(mut rest: &[u8], see: &mut impl FnMut(&[u8])) -> nix::Result<bool> {
    while let Some(length) = u32_at(rest, 0).and_then(|length| usize::try_from(length).ok()) {
        let message = rest.get(..length).filter(|message| message.len() >= HEADER).ok_or(Errno::EBADMSG)?;
        match u16_at(message, 4) {
            Some(NLMSG_DONE) => return Ok(true),
            Some(NLMSG_ERROR) => {
                let code = u32_at(message, HEADER).map_or(0, u32::cast_signed);
                return if code == 0 { Ok(true) } else { Err(Errno::from_raw(code.saturating_neg())) };
            }
            Some(_) | None => see(message),
        }
        rest = rest.get(aligned(length)..).unwrap_or_default();
    }
    Ok(false)
}

fn table(message: &[u8]) -> Option<NftTable> {
    Some(NftTable { family: *message.get(HEADER)?, name: attribute(message, TABLE_NAME)? })
}

/// The text of a message's attribute of type `wanted` (struct nlattr, linux/netlink.h).
fn attribute(message: &[u8], wanted: u16) -> Option<String> {
    let mut attributes = message.get(HEADER + NFGENMSG..)?;
    while let Some(length) = u16_at(attributes, 0).map(usize::from).filter(|length| *length >= 4) {
        let value = attributes.get(4..length)?;
        if u16_at(attributes, 2) == Some(wanted) {
            let text = value.split(|byte| *byte == 0).next().unwrap_or_default();
            return Some(String::from_utf8_lossy(text).into_owned());
        }
        attributes = attributes.get(aligned(length)..).unwrap_or_default();
    }
    None
}

/// Netlink messages and attributes begin at multiples of 4.
fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(u32::try_from(HEADER + body.len()).unwrap().to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn read(datagram: &[u8]) -> nix::Result<(bool, Vec<NftTable>)> {
        let mut tables = Vec::new();
        let done = read_answer(datagram, &mut |message| tables.extend(table(message)))?;
        Ok((done, tables))
    }

    #[test]
    fn tables_are_read_until_done() {
        let body = [&[2, 0, 0, 0][..], &8_u16.to_ne_bytes(), &1_u16.to_ne_bytes(), b"nat\0"].concat();
        let datagram = [message(0xa00, &body), message(0xa00, &[10, 0, 0, 0])].concat();
        assert_eq!(read(&datagram), Ok((false, vec![NftTable { family: 2, name: "nat".into() }])));
        assert_eq!(read(&message(NLMSG_DONE, &[0; 4])), Ok((true, vec![])));
        assert_eq!(read(&message(NLMSG_ERROR, &(-1_i32).to_ne_bytes())), Err(Errno::EPERM));
    }

    #[test]
    fn garbage_ends() {
        assert_eq!(read(&[0; 64]), Err(Errno::EBADMSG));
        assert_eq!(read(&[255; 64]), Err(Errno::EBADMSG));
        assert_eq!(read(&[1, 2]), Ok((false, vec![])));
        let short = [&[2, 0, 0, 0][..], &3_u16.to_ne_bytes(), &1_u16.to_ne_bytes()].concat();
        assert_eq!(read(&message(0xa00, &short)), Ok((false, vec![])));
    }
}
