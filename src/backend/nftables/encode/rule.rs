//! One rule: its conditions, a counter, its verdict, its comment.

use std::net::SocketAddr;

use super::WithSets;
use super::expr::Expressions;
use crate::backend::nftables::abi::{
    IFNAMSIZ, NF_ACCEPT, NF_DROP, NF_NAT_RANGE_PROTO_SPECIFIED, NFT_CT_DIRECTION, NFT_CT_MARK, NFT_CT_STATE,
    NFT_CT_ZONE, NFT_GOTO, NFT_JUMP, NFT_META_IIFNAME, NFT_META_L4PROTO, NFT_META_MARK, NFT_META_OIFNAME,
    NFT_META_SKGID, NFT_META_SKUID, NFT_NAT_DNAT, NFT_PAYLOAD_NETWORK_HEADER, NFT_PAYLOAD_TRANSPORT_HEADER,
    NFT_REG_1, NFT_REG_2, NFT_RETURN, NFTA_NAT_FAMILY, NFTA_NAT_FLAGS, NFTA_NAT_REG_ADDR_MIN,
    NFTA_NAT_REG_PROTO_MIN, NFTA_NAT_TYPE, NFTA_REDIR_FLAGS, NFTA_REDIR_REG_PROTO_MIN, NFTA_TPROXY_FAMILY,
    NFTA_TPROXY_REG_PORT, RTN_LOCAL, STATE_ESTABLISHED, STATE_INVALID, STATE_NEW, STATE_RELATED,
    TCP_FIRST_MASK, TCP_FLAGS_OFFSET, TCP_SYN,
};
use crate::backend::nftables::interval::{self, highest, of_cidr, of_ports, width};
use crate::backend::nftables::set::{Key, Set};
use crate::backend::nftables::{comment, nfproto, normal};
use crate::policy::{Cidr, Family, IfName, PortRange};
use crate::rules::{ConnState, Match, Protocol, Rule, Test, Verdict};

/// A rule as the kernel takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lowered {
    /// The attributes of its expressions.
    pub expressions: Vec<u8>,
    /// Its comment, as nft keeps it.
    pub userdata: Vec<u8>,
    /// What it needs of the kernel beyond nf_tables.
    pub needs: Vec<&'static str>,
}

/// Where the addresses of a packet are (linux/ip.h, linux/ipv6.h): source and destination, and their length.
#[must_use]
pub const fn addresses(family: Family) -> (u32, u32, u32) {
    match family {
        Family::V4 => (12, 16, 4),
        Family::V6 => (8, 24, 16),
    }
}

/// The bit of a state in what `ct state` loads.
#[must_use]
pub const fn state_bit(state: ConnState) -> u32 {
    match state {
        ConnState::Invalid => STATE_INVALID,
        ConnState::New => STATE_NEW,
        ConnState::Related => STATE_RELATED,
        ConnState::Established => STATE_ESTABLISHED,
    }
}

/// A rule, in its [`normal`](fn@normal::normal) form, as one of nf_tables; TPROXY as two.
///
/// iptables' TPROXY drops a packet for which there is no socket (net/netfilter/xt_TPROXY.c). That of nf_tables ends
/// the rule (net/netfilter/nft_tproxy.c, `NFT_BREAK`), and what the proxy should have seen would go on without it.
/// So a second rule with the same conditions drops what the first has left.
///
/// # Errors
/// What of the rule cannot be said.
pub fn lower(family: Family, rule: &Rule) -> Result<Vec<WithSets>, String> {
    let mut made = vec![one(family, rule, &rule.verdict)?];
    if let Verdict::Tproxy { .. } = rule.verdict {
        made.push(one(family, rule, &Verdict::Drop)?);
    }
    Ok(made)
}

fn one(family: Family, rule: &Rule, verdict: &Verdict) -> Result<WithSets, String> {
    let mut sets = Vec::new();
    let mut expressions = Expressions::default();
    let protocol = protocol_of(rule);
    for condition in &rule.matches {
        condition_of(&mut expressions, &mut sets, family, protocol, condition)?;
    }
    expressions.counter();
    verdict_of(&mut expressions, family, verdict)?;
    let userdata = comment::userdata(comment::of(rule).as_deref());
    let (expressions, needs) = expressions.finish()?;
    Ok((Lowered { expressions, userdata, needs }, sets))
}

/// The protocol that a rule's ports are of.
#[must_use]
pub fn protocol_of(rule: &Rule) -> Option<&Protocol> {
    protocol_in(&rule.matches)
}

/// The protocol that ports among these conditions are of.
#[must_use]
pub fn protocol_in(matches: &[Match]) -> Option<&Protocol> {
    matches.iter().find_map(|condition| {
        let Test::Protocol(protocol) = &condition.test else { return None };
        (!condition.negated).then_some(protocol)
    })
}

/// Whether a protocol has the two ports at its beginning.
#[must_use]
pub fn has_ports(protocol: &Protocol) -> bool {
    match protocol {
        Protocol::Tcp | Protocol::Udp => true,
        Protocol::Other(name) => matches!(name.as_str(), "sctp" | "dccp" | "udplite"),
    }
}

fn condition_of(
    to: &mut Expressions,
    sets: &mut Vec<Set>,
    family: Family,
    protocol: Option<&Protocol>,
    condition: &Match,
) -> Result<(), String> {
    let not = condition.negated;
    let in_set = |to: &mut Expressions, set: Set| {
        to.lookup(not, &set.name);
        sets.push(set);
    };
    let (source, destination, _) = addresses(family);
    match &condition.test {
        Test::Source(nets) => networks(to, in_set, family, source, not, nets)?,
        Test::Destination(nets) => networks(to, in_set, family, destination, not, nets)?,
        Test::InInterface(names) => interfaces(to, in_set, family, NFT_META_IIFNAME, not, names)?,
        Test::OutInterface(names) => interfaces(to, in_set, family, NFT_META_OIFNAME, not, names)?,
        Test::Protocol(protocol) => {
            to.meta(NFT_META_L4PROTO);
            to.compare(not, &[protocol_number(protocol)?]);
        }
        Test::SourcePort(ranges) => ports(to, in_set, family, (0, protocol), not, ranges)?,
        Test::DestinationPort(ranges) => ports(to, in_set, family, (2, protocol), not, ranges)?,
        Test::FirstPacket if protocol == Some(&Protocol::Tcp) => {
            to.payload(NFT_PAYLOAD_TRANSPORT_HEADER, TCP_FLAGS_OFFSET, 1);
            to.mask(&[TCP_FIRST_MASK]);
            to.compare(not, &[TCP_SYN]);
        }
        Test::FirstPacket => {
            return Err("a first packet is one of protocol tcp, which the rule does not ask for".into());
        }
        Test::OwnerUid(uids) => {
            let ids: Vec<u32> = uids.iter().map(|uid| uid.number()).collect();
            owners(to, in_set, (family, Key::Uid, NFT_META_SKUID), not, &ids)?;
        }
        Test::OwnerGid(gids) => {
            let ids: Vec<u32> = gids.iter().map(|gid| gid.number()).collect();
            owners(to, in_set, (family, Key::Gid, NFT_META_SKGID), not, &ids)?;
        }
        Test::DestinationIsLocal => {
            to.fib_type();
            to.compare(not, &RTN_LOCAL.to_ne_bytes());
        }
        Test::ConnState(states) if states.is_empty() => return Err(EMPTY.into()),
        Test::ConnState(states) => {
            let bits = states.iter().fold(0, |bits, state| bits | state_bit(*state));
            to.ct(NFT_CT_STATE);
            to.mask(&bits.to_ne_bytes());
            to.compare(!not, &[0; 4]);
        }
        Test::Answer => {
            to.ct(NFT_CT_DIRECTION);
            to.compare(not, &[1]); // IP_CT_DIR_REPLY
        }
        Test::Mark(mark) => {
            to.meta(NFT_META_MARK);
            to.compare(not, &mark.0.to_ne_bytes());
        }
        Test::Connmark(mark) => {
            to.ct(NFT_CT_MARK);
            to.compare(not, &mark.0.to_ne_bytes());
        }
        Test::Opaque(text) => return Err(format!("`{text}` is not understood")),
    }
    Ok(())
}

const EMPTY: &str = "it names an empty set";

fn protocol_number(protocol: &Protocol) -> Result<u8, String> {
    let name = protocol.to_string();
    normal::number(&name).ok_or_else(|| format!("the number of protocol `{name}` is not known"))
}

fn networks(
    to: &mut Expressions,
    in_set: impl FnOnce(&mut Expressions, Set),
    family: Family,
    offset: u32,
    not: bool,
    nets: &[Cidr],
) -> Result<(), String> {
    if let Some(foreign) = nets.iter().find(|net| net.family() != family) {
        return Err(format!("{foreign} is not {family}"));
    }
    let (.., length) = addresses(family);
    to.payload(NFT_PAYLOAD_NETWORK_HEADER, offset, length);
    let intervals = interval::merged(nets.iter().map(of_cidr).collect());
    match nets {
        [] => return Err(EMPTY.into()),
        [net] => {
            let host = highest(width(family).saturating_sub(net.prefix_len().into()));
            let bytes = |number: u128| {
                let all = number.to_be_bytes();
                all.get(all.len().saturating_sub(length as usize)..).unwrap_or_default().to_vec()
            };
            if host != 0 {
                to.mask(&bytes(highest(width(family)) ^ host));
            }
            to.compare(not, &bytes(of_cidr(net).first));
        }
        _ => in_set(to, Set::of_intervals(family, Key::Address(family), &intervals)),
    }
    Ok(())
}

fn interfaces(
    to: &mut Expressions,
    in_set: impl FnOnce(&mut Expressions, Set),
    family: Family,
    key: u32,
    not: bool,
    names: &[IfName],
) -> Result<(), String> {
    to.meta(key);
    match names {
        [] => return Err(EMPTY.into()),
        [name] => match name.as_str().strip_suffix('+') {
            Some(beginning) => to.compare(not, beginning.as_bytes()),
            None => {
                let mut bytes = name.as_str().as_bytes().to_vec();
                bytes.resize(IFNAMSIZ, 0);
                to.compare(not, &bytes);
            }
        },
        _ => in_set(to, Set::of_interfaces(family, names)),
    }
    Ok(())
}

fn ports(
    to: &mut Expressions,
    in_set: impl FnOnce(&mut Expressions, Set),
    family: Family,
    (offset, protocol): (u32, Option<&Protocol>),
    not: bool,
    ranges: &[PortRange],
) -> Result<(), String> {
    if !protocol.is_some_and(has_ports) {
        return Err("it names ports, but no protocol that has them".into());
    }
    to.payload(NFT_PAYLOAD_TRANSPORT_HEADER, offset, 2);
    match ranges {
        [] => return Err(EMPTY.into()),
        [range] if range.first == range.last => to.compare(not, &range.first.number().to_be_bytes()),
        [range] => to.range(not, &range.first.number().to_be_bytes(), &range.last.number().to_be_bytes()),
        _ => {
            let intervals = interval::merged(ranges.iter().map(of_ports).collect());
            in_set(to, Set::of_intervals(family, Key::Port, &intervals));
        }
    }
    Ok(())
}

fn owners(
    to: &mut Expressions,
    in_set: impl FnOnce(&mut Expressions, Set),
    (family, kind, key): (Family, Key, u32),
    not: bool,
    ids: &[u32],
) -> Result<(), String> {
    to.meta(key);
    match ids {
        [] => return Err(EMPTY.into()),
        [id] => to.compare(not, &id.to_ne_bytes()),
        _ => in_set(to, Set::of_ids(family, kind, ids.iter().copied())),
    }
    Ok(())
}

/// The code of a verdict that is nothing but a code.
#[must_use]
pub fn plain(verdict: &Verdict) -> Option<(i32, Option<&str>)> {
    match verdict {
        Verdict::Accept => Some((NF_ACCEPT, None)),
        Verdict::Drop => Some((NF_DROP, None)),
        Verdict::Return => Some((NFT_RETURN, None)),
        Verdict::Jump(chain) => Some((NFT_JUMP, Some(chain))),
        Verdict::Goto(chain) => Some((NFT_GOTO, Some(chain))),
        Verdict::Continue
        | Verdict::Redirect(_)
        | Verdict::Dnat(_)
        | Verdict::Tproxy { .. }
        | Verdict::SetMark(_)
        | Verdict::SaveMark
        | Verdict::RestoreMark
        | Verdict::Zone(_)
        | Verdict::Opaque(_) => None,
    }
}

fn verdict_of(to: &mut Expressions, family: Family, verdict: &Verdict) -> Result<(), String> {
    let set_mark = |to: &mut Expressions, mark: u32| {
        to.immediate(NFT_REG_1, &mark.to_ne_bytes());
        to.meta_set(NFT_META_MARK);
    };
    match verdict {
        Verdict::Continue => {}
        Verdict::Accept | Verdict::Drop | Verdict::Return | Verdict::Jump(_) | Verdict::Goto(_) => {
            if let Some((code, chain)) = plain(verdict) {
                to.verdict(code, chain);
            }
        }
        Verdict::Redirect(port) => {
            to.immediate(NFT_REG_1, &port.number().to_be_bytes());
            to.special("redir", "expression redir (CONFIG_NFT_REDIR)", |data| {
                data.u32(NFTA_REDIR_REG_PROTO_MIN, NFT_REG_1);
                data.u32(NFTA_REDIR_FLAGS, NF_NAT_RANGE_PROTO_SPECIFIED);
            });
        }
        Verdict::Dnat(address) => {
            let bytes = match (family, address) {
                (_, address) if address.port() == 0 => return Err(format!("{address} has no port")),
                (Family::V4, SocketAddr::V4(address)) => address.ip().octets().to_vec(),
                (Family::V6, SocketAddr::V6(address)) => address.ip().octets().to_vec(),
                (_, address) => return Err(format!("{address} is not {family}")),
            };
            to.immediate(NFT_REG_1, &bytes);
            to.immediate(NFT_REG_2, &address.port().to_be_bytes());
            to.special("nat", "expression nat (CONFIG_NFT_NAT)", |data| {
                data.u32(NFTA_NAT_TYPE, NFT_NAT_DNAT);
                data.u32(NFTA_NAT_FAMILY, nfproto(family).into());
                data.u32(NFTA_NAT_REG_ADDR_MIN, NFT_REG_1);
                data.u32(NFTA_NAT_REG_PROTO_MIN, NFT_REG_2);
                data.u32(NFTA_NAT_FLAGS, NF_NAT_RANGE_PROTO_SPECIFIED);
            });
        }
        Verdict::Tproxy { port, mark } => {
            to.immediate(NFT_REG_1, &port.number().to_be_bytes());
            to.special("tproxy", "expression tproxy (CONFIG_NFT_TPROXY)", |data| {
                data.u32(NFTA_TPROXY_FAMILY, nfproto(family).into());
                data.u32(NFTA_TPROXY_REG_PORT, NFT_REG_1);
            });
            set_mark(to, mark.0);
            to.verdict(NF_ACCEPT, None);
        }
        Verdict::SetMark(mark) => set_mark(to, mark.0),
        Verdict::SaveMark => {
            to.meta(NFT_META_MARK);
            to.ct_set(NFT_CT_MARK);
        }
        Verdict::RestoreMark => {
            to.ct(NFT_CT_MARK);
            to.meta_set(NFT_META_MARK);
        }
        Verdict::Zone(zone) => {
            to.immediate(NFT_REG_1, &zone.to_ne_bytes());
            to.ct_set(NFT_CT_ZONE);
        }
        Verdict::Opaque(text) => return Err(format!("`{text}` is not understood")),
    }
    Ok(())
}
