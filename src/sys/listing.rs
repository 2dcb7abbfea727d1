//! Which tables and which chains nf_tables has: questions that need no program, and that a kernel without nf_tables
//! answers as well.
//!
//! linux/netfilter/nf_tables.h.

use nix::errno::Errno;

use super::nftables::{NFT_MSG_GETCHAIN, NFT_MSG_GETTABLE, Nftables, messages};
use crate::error::{Class, Error, Result};
use crate::netlink::{HEADER, find, text};

/// `NFTA_TABLE_NAME`, and in a chain `NFTA_CHAIN_TABLE`.
const TABLE_NAME: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
/// struct nfgenmsg.
const NFGENMSG: usize = 4;
/// `AF_UNSPEC`: every family.
const EVERY: u8 = 0;

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
    ask("chains", NFT_MSG_GETCHAIN, chain)
}

fn ask<T>(what: &str, question: u16, read: impl Fn(&[u8]) -> Option<T>) -> Result<Vec<T>> {
    match Nftables::socket().and_then(|nftables| nftables.list(question, EVERY)) {
        Ok(answers) => Ok(messages(&answers).filter_map(read).collect()),
        // No nfnetlink (EPROTONOSUPPORT) or no nf_tables in it (EINVAL, EOPNOTSUPP).
        Err(Errno::EPROTONOSUPPORT | Errno::EINVAL | Errno::EOPNOTSUPP) => Ok(Vec::new()),
        Err(Errno::EPERM) => {
            Err(Error::new(Class::Privilege, format!("listing the {what} of nf_tables needs CAP_NET_ADMIN"))
                .remedy("run as root, or add the capability NET_ADMIN"))
        }
        Err(Errno::EINTR) => {
            let problem = format!("listing the {what} of nf_tables: they changed with every look");
            Err(Error::new(Class::TryAgain, problem).remedy("try again"))
        }
        Err(error) => Err(Error::refused(format!("listing the {what} of nf_tables: {error}"))),
    }
}

fn table(message: &[u8]) -> Option<NftTable> {
    Some(NftTable { family: *message.get(HEADER)?, name: attribute(message, TABLE_NAME)? })
}

fn chain(message: &[u8]) -> Option<NftChain> {
    Some(NftChain { table: table(message)?, name: attribute(message, NFTA_CHAIN_NAME)? })
}

/// The text of a message's attribute.
fn attribute(message: &[u8], wanted: u16) -> Option<String> {
    find(message.get(HEADER + NFGENMSG..)?, wanted).map(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::{attribute, tests::message};

    #[test]
    fn a_message_is_a_table_or_a_chain() {
        let name = attribute(TABLE_NAME, b"nat\0");
        let body = [&[2, 0, 0, 0][..], &name, &attribute(NFTA_CHAIN_NAME, b"OUTPUT\0")].concat();
        let nat = NftTable { family: 2, name: "nat".into() };
        assert_eq!(table(&message(0xa00, 0, 0, &body)), Some(nat.clone()));
        let output = NftChain { table: nat, name: "OUTPUT".into() };
        assert_eq!(chain(&message(0xa03, 0, 0, &body)), Some(output));
        for body in [&[][..], &[10, 0, 0, 0], &[10, 0, 0, 0, 3, 0, 1, 0], &[10, 0, 0, 0, 255, 0, 1, 0]] {
            assert_eq!(table(&message(0xa00, 0, 0, body)), None, "{body:?}");
        }
    }
}
