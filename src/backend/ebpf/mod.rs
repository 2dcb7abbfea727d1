//! Capture at the sockets: what the BPF programs are told of a policy, and what they say of a connection.

pub mod ask;
pub mod lower;
pub mod ports;
pub mod prefix;
pub mod text;
pub mod trie;

use mesh_init_abi::Clause;

use crate::policy::RuleId;

/// The clause that a program names, as everything else knows it; `None` if it says that none decided.
#[must_use]
pub fn rule_id(clause: Clause) -> Option<RuleId> {
    match clause {
        Clause::Silent => None,
        Clause::OutboundExcludePort => Some(RuleId::OutboundExcludePort),
        Clause::OutboundLoopback => Some(RuleId::OutboundLoopback),
        Clause::OutboundExcludeCidr => Some(RuleId::OutboundExcludeCidr),
        Clause::OutboundOwnAddress => Some(RuleId::OutboundOwnAddress),
        Clause::ProxyUid => Some(RuleId::ProxyUid),
        Clause::ProxyGid => Some(RuleId::ProxyGid),
        Clause::OutboundCapturePort => Some(RuleId::OutboundCapturePort),
        Clause::OutboundDns => Some(RuleId::OutboundDns),
        Clause::OutboundPort => Some(RuleId::OutboundPort),
        Clause::OutboundCidr => Some(RuleId::OutboundCidr),
        Clause::OutboundAll => Some(RuleId::OutboundAll),
        Clause::OutboundRest => Some(RuleId::OutboundRest),
        Clause::OutboundPassthrough => Some(RuleId::OutboundPassthrough),
        Clause::ProxySelf => Some(RuleId::ProxySelf),
        Clause::OutboundSelf => Some(RuleId::OutboundSelf),
        Clause::OutboundGroup => Some(RuleId::OutboundGroup),
        Clause::OutboundExcludeGroup => Some(RuleId::OutboundExcludeGroup),
        Clause::DnsCapture => Some(RuleId::DnsCapture),
        Clause::InboundTunnel => Some(RuleId::InboundTunnel),
        Clause::InboundReserved => Some(RuleId::InboundReserved),
        Clause::InboundExcludePort => Some(RuleId::InboundExcludePort),
        Clause::InboundPort => Some(RuleId::InboundPort),
        Clause::InboundAll => Some(RuleId::InboundAll),
    }
}
