//! What the maps are to hold, as text: a line an entry.

use std::fmt::Write;
use std::net::{IpAddr, Ipv6Addr};

use mesh_init_abi::{
    Address, Meaning, NetFlags, NetKey, OwnerFlags, OwnerKind, Policy, PolicyFlags, PortFlags, PortKey,
};

use super::lower::Lowered;

/// Bits of a key's prefix that are not the network's or the range's: generation and cookie.
const SCOPE: u32 = 96;

/// The layout of a policy, by its name.
#[must_use]
pub fn layout(policy: &Policy) -> &'static str {
    match policy.meaning {
        Meaning::CLASSIC => "classic",
        Meaning::SCOPED => "scoped",
        Meaning::ISTIO => "istio",
        Meaning::ISTIO_IPTABLES => "istio-iptables",
        _ => "none",
    }
}

/// A network, in its family's form.
#[must_use]
pub fn network(key: &NetKey) -> String {
    let Address(words) = key.address;
    let bits = words.iter().fold(0_u128, |bits, word| bits << 32 | u128::from(u32::from_be(*word)));
    let length = key.prefix_len.saturating_sub(SCOPE);
    let address = Ipv6Addr::from(bits);
    match address.to_canonical() {
        IpAddr::V4(v4) if key.address.is_v4() => format!("{v4}/{}", length.saturating_sub(96)),
        IpAddr::V4(_) | IpAddr::V6(_) => format!("{address}/{length}"),
    }
}

/// A range of ports.
#[must_use]
pub fn ports(key: &PortKey) -> String {
    let first = u16::from_be(key.port);
    let free = 16_u32.saturating_sub(key.prefix_len.saturating_sub(SCOPE));
    match free {
        0 => first.to_string(),
        _ => format!("{first}-{}", u32::from(first) + ((1 << free.min(16)) - 1)),
    }
}

/// All of it.
#[must_use]
pub fn text(lowered: &Lowered) -> String {
    let Lowered { policy, networks, ports: ranges, owners } = lowered;
    let mut text = format!(
        "policy {}: outbound {}, inbound {}, tunnel {}, DNS {}{}\n",
        layout(policy),
        policy.outbound_port,
        policy.inbound_port,
        policy.tunnel_port,
        policy.dns_port,
        words(
            policy.flags.0,
            &[
                (PolicyFlags::IPV6.0, "ipv6"),
                (PolicyFlags::OUTBOUND_V4.0, "outbound-ipv4"),
                (PolicyFlags::OUTBOUND_V6.0, "outbound-ipv6"),
                (PolicyFlags::TO_ALL.0, "to-all"),
                (PolicyFlags::TO_LOOPBACK.0, "to-loopback"),
                (PolicyFlags::DNS.0, "dns"),
                (PolicyFlags::DNS_ALL.0, "dns-all"),
                (PolicyFlags::GROUPS_ONLY.0, "groups-only"),
                (PolicyFlags::INBOUND.0, "inbound"),
                (PolicyFlags::INBOUND_ALL.0, "inbound-all"),
            ]
        )
    );
    for (key, flags) in networks {
        let said = words(
            flags.0,
            &[
                (NetFlags::LOOPBACK.0, "loopback"),
                (NetFlags::EXCLUDED.0, "excluded"),
                (NetFlags::INCLUDED.0, "included"),
                (NetFlags::DNS_SERVER.0, "dns-server"),
            ],
        );
        writeln!(text, "network {}{said}", network(key)).unwrap_or_default();
    }
    for (key, flags) in ranges {
        let said = words(
            flags.0,
            &[
                (PortFlags::OUT_EXCLUDED.0, "outbound-excluded"),
                (PortFlags::OUT_INCLUDED.0, "outbound-included"),
                (PortFlags::IN_NAMED.0, "inbound-named"),
                (PortFlags::IN_RESERVED.0, "inbound-reserved"),
            ],
        );
        writeln!(text, "port {}{said}", ports(key)).unwrap_or_default();
    }
    for (key, flags) in owners {
        let kind = if key.kind == OwnerKind::USER { "user" } else { "group" };
        let said = words(
            flags.0,
            &[
                (OwnerFlags::PROXY.0, "proxy"),
                (OwnerFlags::FIRST.0, "first"),
                (OwnerFlags::OWNER.0, "owner"),
                (OwnerFlags::GROUP.0, "group"),
            ],
        );
        writeln!(text, "{kind} {}{said}", key.id).unwrap_or_default();
    }
    text
}

/// The words of those that hold, after a space each.
fn words(said: u32, all: &[(u32, &str)]) -> String {
    all.iter().filter(|(flag, _)| said & flag != 0).fold(String::new(), |text, (_, word)| text + " " + word)
}
