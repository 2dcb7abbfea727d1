//! What connection tracking knows of one connection, and making it forget.
//!
//! linux/netfilter/nfnetlink_conntrack.h. An entry has the connection as it began and as its answers come: where
//! NAT sends it on, the answers come from another source than it was sent to.

use std::net::{IpAddr, SocketAddr};

use nix::errno::Errno;
use nix::sys::socket::SockProtocol;

use crate::sys::message::{Netlink, attribute, find, nest};

/// `NFNL_SUBSYS_CTNETLINK` in the upper byte.
const IPCTNL_MSG_CT_GET: u16 = 0x101;
const IPCTNL_MSG_CT_DELETE: u16 = 0x102;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
/// `NFPROTO_IPV4` and `NFPROTO_IPV6`, linux/netfilter.h.
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
/// `IPPROTO_TCP`.
const TCP: u8 = 6;
/// struct nfgenmsg.
const NFGENMSG: usize = 4;

/// A TCP connection as its first packet was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tuple {
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
}

/// What is known of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    /// Who answers.
    pub(super) answers: SocketAddr,
}

/// Connection tracking of the namespace in which it was opened.
#[derive(Debug)]
pub(super) struct Conntrack(Netlink);

impl Conntrack {
    /// # Errors
    /// A phrase that says what is missing.
    pub(super) fn open() -> Result<Conntrack, String> {
        Netlink::open(SockProtocol::NetlinkNetFilter).map(Conntrack).map_err(explain)
    }

    /// The entry of a connection; `None` if it is not tracked.
    ///
    /// # Errors
    /// A phrase that says what is missing.
    pub(super) fn look(&mut self, tuple: &Tuple) -> Result<Option<Entry>, String> {
        match self.0.ask(IPCTNL_MSG_CT_GET, 0, &question(tuple)) {
            Ok(answer) => Ok(read_entry(&answer)),
            Err(Errno::ENOENT) => Ok(None),
            Err(error) => Err(explain(error)),
        }
    }

    /// Deletes the entry. One that cannot be deleted goes by itself (`nf_conntrack_tcp_timeout_*`).
    pub(super) fn forget(&mut self, tuple: &Tuple) {
        self.0.ask(IPCTNL_MSG_CT_DELETE, 0, &question(tuple)).ok();
    }
}

fn explain(error: Errno) -> String {
    // nfnetlink asks for it before it looks at the message (net/netfilter/nfnetlink.c).
    if error == Errno::EPERM {
        return "CAP_NET_ADMIN is missing to ask connection tracking".to_owned();
    }
    // The module nf_conntrack_netlink is not there, or nfnetlink itself.
    if matches!(error, Errno::EINVAL | Errno::EOPNOTSUPP | Errno::EPROTONOSUPPORT) {
        return "this kernel has no nf_conntrack_netlink to ask connection tracking".to_owned();
    }
    format!("connection tracking cannot be asked: {error}")
}

fn question(tuple: &Tuple) -> Vec<u8> {
    let family = if tuple.destination.is_ipv4() { NFPROTO_IPV4 } else { NFPROTO_IPV6 };
    let address = |ip: IpAddr, v4: u16, v6: u16| match ip {
        IpAddr::V4(ip) => attribute(v4, &ip.octets()),
        IpAddr::V6(ip) => attribute(v6, &ip.octets()),
    };
    let addresses = nest(
        CTA_TUPLE_IP,
        &[
            address(tuple.source.ip(), CTA_IP_V4_SRC, CTA_IP_V6_SRC),
            address(tuple.destination.ip(), CTA_IP_V4_DST, CTA_IP_V6_DST),
        ],
    );
    let ports = nest(
        CTA_TUPLE_PROTO,
        &[
            attribute(CTA_PROTO_NUM, &[TCP]),
            attribute(CTA_PROTO_SRC_PORT, &tuple.source.port().to_be_bytes()),
            attribute(CTA_PROTO_DST_PORT, &tuple.destination.port().to_be_bytes()),
        ],
    );
    [vec![family, 0, 0, 0], nest(CTA_TUPLE_ORIG, &[addresses, ports])].concat()
}

fn read_entry(answer: &[u8]) -> Option<Entry> {
    let attributes = answer.get(NFGENMSG..)?;
    let addresses = find(attributes, &[CTA_TUPLE_REPLY, CTA_TUPLE_IP])?;
    let ip = match find(addresses, &[CTA_IP_V4_SRC]) {
        Some(v4) => IpAddr::from(<[u8; 4]>::try_from(v4).ok()?),
        None => IpAddr::from(<[u8; 16]>::try_from(find(addresses, &[CTA_IP_V6_SRC])?).ok()?),
    };
    let port = find(attributes, &[CTA_TUPLE_REPLY, CTA_TUPLE_PROTO, CTA_PROTO_SRC_PORT])?;
    let port = u16::from_be_bytes(port.try_into().ok()?);
    Some(Entry { answers: SocketAddr::new(ip, port) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(ip: Vec<u8>, port: u16) -> Vec<u8> {
        let ports = nest(CTA_TUPLE_PROTO, &[attribute(CTA_PROTO_SRC_PORT, &port.to_be_bytes())]);
        let addresses = nest(CTA_TUPLE_IP, &[ip]);
        [vec![0; NFGENMSG], nest(CTA_TUPLE_REPLY, &[addresses, ports])].concat()
    }

    #[test]
    fn who_answers_is_read() {
        let v4 = reply(attribute(CTA_IP_V4_SRC, &[127, 0, 0, 1]), 15001);
        let answers = "127.0.0.1:15001".parse().unwrap();
        assert_eq!(read_entry(&v4), Some(Entry { answers }));
        let v6 = reply(attribute(CTA_IP_V6_SRC, &std::net::Ipv6Addr::LOCALHOST.octets()), 15006);
        let answers = "[::1]:15006".parse().unwrap();
        assert_eq!(read_entry(&v6), Some(Entry { answers }));
    }

    #[test]
    fn garbage_is_no_entry() {
        assert_eq!(read_entry(&[]), None);
        assert_eq!(read_entry(&[0; 40]), None);
        assert_eq!(read_entry(&[255; 40]), None);
        assert_eq!(read_entry(&reply(attribute(CTA_IP_V4_SRC, &[1, 2]), 1)), None);
    }

    #[test]
    fn a_question_has_the_whole_tuple() {
        let tuple =
            Tuple { source: "10.0.0.1:40000".parse().unwrap(), destination: "192.0.2.1:80".parse().unwrap() };
        let bytes = question(&tuple);
        assert_eq!(bytes[0], NFPROTO_IPV4);
        let at = |path: &[u16]| find(&bytes[NFGENMSG..], &[&[CTA_TUPLE_ORIG], path].concat());
        assert_eq!(at(&[CTA_TUPLE_IP, CTA_IP_V4_DST]), Some(&[192, 0, 2, 1][..]));
        assert_eq!(at(&[CTA_TUPLE_PROTO, CTA_PROTO_SRC_PORT]), Some(&40000_u16.to_be_bytes()[..]));
        assert_eq!(at(&[CTA_TUPLE_PROTO, CTA_PROTO_NUM]), Some(&[6][..]));
    }
}
