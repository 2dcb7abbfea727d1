//! Which option brought a clause about.

use super::RuleId;
use crate::input::fault::quote;
use crate::input::options::option;
use crate::input::{Key, Raw};

/// The options that a clause follows from, the most telling one first; none for clauses that every policy has.
#[must_use]
pub fn keys(id: RuleId) -> &'static [Key] {
    match id {
        RuleId::OutboundExcludeInterface | RuleId::InboundExcludeInterface => &[Key::ExcludeInterface],
        RuleId::OutboundExcludePort => &[Key::ExcludeOutboundPort],
        RuleId::OutboundExcludeCidr => &[Key::ExcludeOutboundCidr],
        RuleId::ProxyUid => &[Key::ProxyUid],
        RuleId::ProxyGid => &[Key::ProxyGid],
        RuleId::ProxySelf | RuleId::TproxySelf | RuleId::OutboundSelf => &[Key::ProxyUid, Key::ProxyGid],
        RuleId::OutboundLoopback => &[Key::LoopbackCidr],
        RuleId::OutboundCapturePort => &[Key::ProxyPort, Key::InboundCapturePort],
        RuleId::OutboundPort => &[Key::OutboundPort],
        RuleId::OutboundCidr | RuleId::OutboundAll => &[Key::OutboundCidr, Key::UidOwner, Key::GidOwner],
        RuleId::OutboundRest => &[Key::OutboundCidr, Key::OutboundPort, Key::UidOwner, Key::GidOwner],
        RuleId::OutboundGroup => &[Key::OwnerGroup],
        RuleId::OutboundExcludeGroup => &[Key::ExcludeOwnerGroup],
        RuleId::OutboundDns | RuleId::DnsHook | RuleId::DnsZone => &[Key::RedirectDns],
        RuleId::DnsCapture => &[Key::CaptureAllDns, Key::DnsServer, Key::RedirectDns],
        RuleId::InterfaceReroute => &[Key::RerouteInterface],
        RuleId::DropInvalid => &[Key::DropInvalid],
        RuleId::InboundTunnel => &[Key::InboundTunnelPort],
        RuleId::InboundExcludePort => &[Key::ExcludeInbound],
        RuleId::InboundPort | RuleId::InboundAll => &[Key::Inbound],
        RuleId::RedirectOutbound => &[Key::ProxyPort],
        RuleId::RedirectInbound => &[Key::InboundCapturePort, Key::ProxyPort],
        RuleId::TproxyMark | RuleId::InboundMarked => &[Key::TproxyMark, Key::Mode],
        RuleId::InboundDivert | RuleId::InboundAnswer | RuleId::InboundSelf => &[Key::Mode],
        RuleId::OutboundHook
        | RuleId::OutboundOwnAddress
        | RuleId::OutboundPassthrough
        | RuleId::InboundHook
        | RuleId::InboundReserved
        | RuleId::InboundPassthrough => &[],
    }
}

/// Where the clause comes from in what was given: the flag, variable or key with its text, or the default of the
/// option.
#[must_use]
pub fn cause(id: RuleId, given: &Raw) -> Option<String> {
    let keys = keys(id);
    let found = keys.iter().find_map(|key| given.get(*key));
    if let Some(found) = found {
        let texts: Vec<&str> = found.iter().map(|given| given.text.as_str()).collect();
        let text = texts.join(",");
        let origin = found.first().map(|given| given.origin.to_string()).unwrap_or_default();
        return Some(format!("{origin} {}", quote(&text)));
    }
    keys.first().map(|key| format!("the default of --{}", option(*key).long))
}
