//! What the maps are to hold, as text: a line an entry.

use std::net::{IpAddr, Ipv6Addr};

use mesh_init_abi::{
    Meaning, NetFlags, NetKey, OwnerFlags, OwnerKey, OwnerKind, Policy, PolicyFlags, PortFlags, PortKey,
};

use super::lower::Lowered;
use super::prefix::Prefix;

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
    let length = key.length();
    let address = Ipv6Addr::from(key.bits());
    match address.to_canonical() {
        IpAddr::V4(v4) if key.address.is_v4() => format!("{v4}/{}", length.saturating_sub(96)),
        IpAddr::V4(_) | IpAddr::V6(_) => format!("{address}/{length}"),
    }
}

/// A range of ports.
#[must_use]
pub fn ports(key: &PortKey) -> String {
    let first = u16::from_be(key.port);
    let free = 16_u32.saturating_sub(key.length());
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
    let entries = networks.iter().map(network_said);
    let entries = entries.chain(ranges.iter().map(ports_said)).chain(owners.iter().map(owner_said));
    for entry in entries {
        text += &entry;
        text.push('\n');
    }
    text
}

/// What is said of a network.
#[must_use]
pub fn network_said((key, flags): &(NetKey, NetFlags)) -> String {
    let words = words(
        flags.0,
        &[
            (NetFlags::LOOPBACK.0, "loopback"),
            (NetFlags::EXCLUDED.0, "excluded"),
            (NetFlags::INCLUDED.0, "included"),
            (NetFlags::DNS_SERVER.0, "dns-server"),
        ],
    );
    format!("network {}{words}", network(key))
}

/// What is said of a range of ports.
#[must_use]
pub fn ports_said((key, flags): &(PortKey, PortFlags)) -> String {
    let words = words(
        flags.0,
        &[
            (PortFlags::OUT_EXCLUDED.0, "outbound-excluded"),
            (PortFlags::OUT_INCLUDED.0, "outbound-included"),
            (PortFlags::IN_NAMED.0, "inbound-named"),
            (PortFlags::IN_RESERVED.0, "inbound-reserved"),
        ],
    );
    format!("port {}{words}", ports(key))
}

/// What is said of a user or a group.
#[must_use]
pub fn owner_said((key, flags): &(OwnerKey, OwnerFlags)) -> String {
    let kind = if key.kind == OwnerKind::USER { "user" } else { "group" };
    let words = words(
        flags.0,
        &[
            (OwnerFlags::PROXY.0, "proxy"),
            (OwnerFlags::FIRST.0, "first"),
            (OwnerFlags::OWNER.0, "owner"),
            (OwnerFlags::GROUP.0, "group"),
        ],
    );
    format!("{kind} {}{words}", key.id)
}

/// The words of those that hold, after a space each.
fn words(said: u32, all: &[(u32, &str)]) -> String {
    all.iter().filter(|(flag, _)| said & flag != 0).fold(String::new(), |text, (_, word)| text + " " + word)
}
