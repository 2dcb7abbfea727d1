//! What the kernel says of a marked packet, message by message (nft_trace_notify() in net/netfilter/nf_tables_trace.c).

use std::net::IpAddr;

use crate::backend::nftables::abi::{
    NFT_MSG_TRACE, NFT_TRACETYPE_POLICY, NFT_TRACETYPE_RETURN, NFT_TRACETYPE_RULE, NFTA_TRACE_CHAIN,
    NFTA_TRACE_ID, NFTA_TRACE_IIF, NFTA_TRACE_MARK, NFTA_TRACE_NETWORK_HEADER, NFTA_TRACE_OIF,
    NFTA_TRACE_POLICY, NFTA_TRACE_RULE_HANDLE, NFTA_TRACE_TABLE, NFTA_TRACE_TRANSPORT_HEADER,
    NFTA_TRACE_TYPE, NFTA_TRACE_VERDICT,
};
use crate::backend::nftables::decode::expr;
use crate::backend::nftables::set::Code;
use crate::backend::nftables::wire::{Attributes, Message, messages};

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The same for all messages about a packet, until it comes back over lo (trace_fill_id()).
    pub id: u32,
    /// The table's family (`NFPROTO_*`).
    pub of: u8,
    /// Its table.
    pub table: String,
    /// Its chain.
    pub chain: String,
    /// What happened there.
    pub deed: Deed,
    /// The packet's mark afterwards.
    pub mark: u32,
    /// The packet as the base chain got it: with the first message of each base chain.
    pub header: Option<Header>,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deed {
    /// All conditions of a rule held.
    Rule {
        /// The kernel's number of the rule.
        handle: u64,
        /// What it said.
        verdict: Code,
    },
    /// A chain ended without a rule that says so.
    End,
    /// A base chain ended; whether its policy accepts.
    Policy(bool),
}

/// What a packet looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Its protocol's number.
    pub protocol: u8,
    /// Where from.
    pub source: IpAddr,
    /// Where to.
    pub destination: IpAddr,
    /// Source and destination, of protocols that have ports.
    pub ports: Option<(u16, u16)>,
    /// The index of the interface by which it came.
    pub arrived: Option<u32>,
    /// The index of the interface by which it is to leave.
    pub leaves: Option<u32>,
}

impl Header {
    /// Whether it is the same packet, wherever it is.
    #[must_use]
    pub fn same(&self, other: &Header) -> bool {
        let of = |header: &Header| (header.protocol, header.source, header.destination, header.ports);
        of(self) == of(other)
    }
}

/// The events of a datagram; what is none is left out.
pub fn events(datagram: &[u8]) -> impl Iterator<Item = Event> {
    messages(datagram).filter(|message| message.nft() == Some(NFT_MSG_TRACE)).filter_map(event)
}

fn event(message: Message<'_>) -> Option<Event> {
    let said = message.attributes;
    let rule = || {
        let verdict = expr::verdict(said.nest(NFTA_TRACE_VERDICT))?;
        Some(Deed::Rule { handle: said.u64(NFTA_TRACE_RULE_HANDLE)?, verdict })
    };
    let deed = match said.u32(NFTA_TRACE_TYPE)? {
        // A rule has a number. What has none is a chain's end, whichever type it comes under (6.18 says rule).
        NFT_TRACETYPE_RULE | NFT_TRACETYPE_RETURN => rule().unwrap_or(Deed::End),
        NFT_TRACETYPE_POLICY => Deed::Policy(said.u32(NFTA_TRACE_POLICY)? != 0),
        _ => return None,
    };
    Some(Event {
        id: said.u32(NFTA_TRACE_ID)?,
        of: message.head.family,
        table: said.text(NFTA_TRACE_TABLE)?,
        chain: said.text(NFTA_TRACE_CHAIN)?,
        deed,
        // It is left out if it is 0.
        mark: said.u32(NFTA_TRACE_MARK).unwrap_or(0),
        header: header(said),
    })
}

/// RFC 791 section 3.1, RFC 8200 section 3.
fn header(said: Attributes<'_>) -> Option<Header> {
    let network = said.get(NFTA_TRACE_NETWORK_HEADER)?;
    let (protocol, source, destination) = match network.first()? >> 4 {
        4 => (*network.get(9)?, address::<4>(network, 12)?, address::<4>(network, 16)?),
        6 => (*network.get(6)?, address::<16>(network, 8)?, address::<16>(network, 24)?),
        _ => return None,
    };
    let transport = said.get(NFTA_TRACE_TRANSPORT_HEADER).unwrap_or_default();
    let port = |at: usize| transport.get(at..at + 2)?.try_into().ok().map(u16::from_be_bytes);
    // TCP, UDP, SCTP, UDP-Lite (IANA's protocol numbers).
    let ports = matches!(protocol, 6 | 17 | 132 | 136).then(|| port(0).zip(port(2))).flatten();
    let (arrived, leaves) = (said.u32(NFTA_TRACE_IIF), said.u32(NFTA_TRACE_OIF));
    Some(Header { protocol, source, destination, ports, arrived, leaves })
}

fn address<const N: usize>(bytes: &[u8], at: usize) -> Option<IpAddr>
where
    IpAddr: From<[u8; N]>,
{
    bytes.get(at..at + N)?.try_into().ok().map(|bytes: [u8; N]| bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::nftables::abi::{
        NF_ACCEPT, NFT_CONTINUE, NFT_JUMP, NFT_RETURN, NFTA_VERDICT_CHAIN, NFTA_VERDICT_CODE,
    };
    use crate::backend::nftables::wire::{Head, Writer, nft};

    /// A TCP packet of 10.0.0.1:40000 to 10.1.2.3:80, behind `fill`.
    fn message(writer: &mut Writer, fill: impl FnOnce(&mut Writer)) {
        let head = Head { kind: nft(NFT_MSG_TRACE), flags: 0, sequence: 0, family: 2, resource: 0 };
        writer.message(head, |body| {
            body.u32(NFTA_TRACE_ID, 7);
            body.text(NFTA_TRACE_TABLE, "nat");
            body.text(NFTA_TRACE_CHAIN, "OUTPUT");
            fill(body);
        });
    }

    fn headers(body: &mut Writer) {
        let mut ip = vec![0x45; 20];
        ip[9] = 6;
        ip[12..16].copy_from_slice(&[10, 0, 0, 1]);
        ip[16..20].copy_from_slice(&[10, 1, 2, 3]);
        body.bytes(NFTA_TRACE_NETWORK_HEADER, &ip);
        body.bytes(NFTA_TRACE_TRANSPORT_HEADER, &[0x9c, 0x40, 0, 80, 0, 0]);
        body.u32(NFTA_TRACE_OIF, 3);
    }

    #[test]
    fn events_are_read() {
        let mut writer = Writer::new();
        message(&mut writer, |body| {
            body.u32(NFTA_TRACE_TYPE, NFT_TRACETYPE_RULE);
            body.u64(NFTA_TRACE_RULE_HANDLE, 12);
            body.nest(NFTA_TRACE_VERDICT, |verdict| {
                verdict.u32(NFTA_VERDICT_CODE, NFT_JUMP.cast_unsigned());
                verdict.text(NFTA_VERDICT_CHAIN, "there");
            });
            body.u32(NFTA_TRACE_MARK, 9);
            headers(body);
        });
        message(&mut writer, |body| body.u32(NFTA_TRACE_TYPE, NFT_TRACETYPE_RETURN));
        message(&mut writer, |body| {
            body.u32(NFTA_TRACE_TYPE, NFT_TRACETYPE_RULE);
            let code = NFT_CONTINUE.cast_unsigned();
            body.nest(NFTA_TRACE_VERDICT, |verdict| verdict.u32(NFTA_VERDICT_CODE, code));
        });
        message(&mut writer, |body| {
            body.u32(NFTA_TRACE_TYPE, NFT_TRACETYPE_RETURN);
            body.u64(NFTA_TRACE_RULE_HANDLE, 13);
            let code = NFT_RETURN.cast_unsigned();
            body.nest(NFTA_TRACE_VERDICT, |verdict| verdict.u32(NFTA_VERDICT_CODE, code));
        });
        message(&mut writer, |body| {
            body.u32(NFTA_TRACE_TYPE, NFT_TRACETYPE_POLICY);
            body.u32(NFTA_TRACE_POLICY, NF_ACCEPT.cast_unsigned());
        });
        // What a later kernel may say.
        message(&mut writer, |body| body.u32(NFTA_TRACE_TYPE, 9));
        let bytes = writer.finish().unwrap();
        let read: Vec<Event> = events(&bytes).collect();
        let verdict = Code { code: NFT_JUMP, chain: Some("there".into()) };
        let deeds: Vec<&Deed> = read.iter().map(|event| &event.deed).collect();
        let back = Code { code: NFT_RETURN, chain: None };
        let rule = |handle, verdict| Deed::Rule { handle, verdict };
        assert_eq!(deeds, [&rule(12, verdict), &Deed::End, &Deed::End, &rule(13, back), &Deed::Policy(true)]);
        assert_eq!(read.iter().map(|event| event.mark).collect::<Vec<_>>(), [9, 0, 0, 0, 0]);
        let header = read[0].header.unwrap();
        assert_eq!((header.protocol, header.ports), (6, Some((40000, 80))));
        assert_eq!((header.source, header.destination).1.to_string(), "10.1.2.3");
        assert_eq!((header.arrived, header.leaves), (None, Some(3)));
        assert_eq!(read[1].header, None);
        for end in 0..bytes.len() {
            assert!(events(&bytes[..end]).count() <= read.len());
        }
    }
}
