//! Address families and networks.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family's explicit loopback destination, as a network: `127.0.0.1/32` (RFC 1122 3.2.1.3; upstream
    /// matches the one address, not the /8) or `::1/128` (RFC 4291 2.5.3).
    #[must_use]
    pub fn loopback(self) -> Cidr {
        let address = match self {
            Family::V4 => IpAddr::from([127, 0, 0, 1]),
            Family::V6 => IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]),
        };
        Cidr(IpNet::from(address))
    }
}

impl Family {
    /// Where the proxy sends passed-through traffic from, as a network: Istio's `127.0.0.6/32` or `::6/128`.
    #[must_use]
    pub fn passthrough(self) -> Cidr {
        let address = match self {
            Family::V4 => IpAddr::from([127, 0, 0, 6]),
            Family::V6 => IpAddr::from([0, 0, 0, 0, 0, 0, 0, 6]),
        };
        Cidr(IpNet::from(address))
    }

    /// The network of all addresses.
    #[must_use]
    pub fn everything(self) -> Cidr {
        match self {
            Family::V4 => Cidr(IpNet::V4(Ipv4Net::default())),
            Family::V6 => Cidr(IpNet::V6(Ipv6Net::default())),
        }
    }

    /// Both families.
    pub fn both() -> impl Iterator<Item = Family> {
        [Family::V4, Family::V6].into_iter()
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        })
    }
}

/// The families that rules are made for. IPv4 is always among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Families {
    /// IPv4 alone.
    V4,
    /// Both.
    Both,
}

impl Families {
    /// The families, IPv4 first.
    #[must_use]
    pub fn list(self) -> &'static [Family] {
        match self {
            Families::V4 => &[Family::V4],
            Families::Both => &[Family::V4, Family::V6],
        }
    }
}

/// A network, host bits cleared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr(IpNet);

impl Cidr {
    /// The network's family.
    #[must_use]
    pub fn family(&self) -> Family {
        match self.0 {
            IpNet::V4(_) => Family::V4,
            IpNet::V6(_) => Family::V6,
        }
    }

    /// Whether `address` lies inside.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address)
    }

    /// Whether its first address is a loopback address.
    #[must_use]
    pub fn begins_at_loopback(&self) -> bool {
        self.0.addr().is_loopback()
    }

    /// Its first address.
    #[must_use]
    pub fn first_address(&self) -> IpAddr {
        self.0.network()
    }

    /// The prefix's length.
    #[must_use]
    pub fn prefix_len(&self) -> u8 {
        self.0.prefix_len()
    }

    /// Whether the network is a whole family.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.0.prefix_len() == 0
    }
}

impl From<IpAddr> for Cidr {
    fn from(address: IpAddr) -> Self {
        Cidr(IpNet::from(address))
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What is wrong with a text that should be a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotACidr;

impl FromStr for Cidr {
    type Err = NotACidr;

    /// `a.b.c.d/n`, `x::/n` or a bare address. Host bits are cleared, as iptables clears them.
    fn from_str(text: &str) -> Result<Self, NotACidr> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Cidr(IpNet::from(address)));
        }
        // Rust's number parser takes "+8"; a prefix length is digits.
        let (_, prefix) = text.split_once('/').ok_or(NotACidr)?;
        if !prefix.chars().all(|c| c.is_ascii_digit()) {
            return Err(NotACidr);
        }
        text.parse::<IpNet>().map(|net| Cidr(net.trunc())).map_err(|_| NotACidr)
    }
}

impl Cidr {
    /// Whether the text had host bits set, i.e. says more than the network it names.
    #[must_use]
    pub fn was_truncated(text: &str) -> bool {
        text.parse::<IpNet>().is_ok_and(|net| net.trunc() != net)
    }

    /// Whether this is an IPv4 network written as IPv6 (`::ffff:a.b.c.d`, RFC 4291 2.5.5.2). No packet on
    /// the wire or in ip6tables carries such an address, so a rule for it would never match.
    #[must_use]
    pub fn is_mapped_ipv4(&self) -> bool {
        match self.0 {
            IpNet::V4(_) => false,
            IpNet::V6(net) => net.prefix_len() >= 96 && net.addr().to_ipv4_mapped().is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_read_as_iptables_reads_them() {
        for (text, want) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("10.1.2.3", "10.1.2.3/32"),
            ("fd00::9", "fd00::9/128"),
            ("FD00:0::/8", "fd00::/8"),
            ("0.0.0.0/0", "0.0.0.0/0"),
        ] {
            assert_eq!(text.parse::<Cidr>().unwrap().to_string(), want, "{text}");
        }
        for text in [
            "",
            "/8",
            "10.0.0.0/33",
            "10.0.0/8",
            "10.0.0.0/+8",
            "10.0.0.0/ 8",
            "a/8",
            "1/0",
            "::/129",
            "010.0.0.1",
        ] {
            assert_eq!(text.parse::<Cidr>(), Err(NotACidr), "{text}");
        }
    }

    #[test]
    fn mapped_networks_are_known() {
        assert!("::ffff:10.0.0.0/104".parse::<Cidr>().unwrap().is_mapped_ipv4());
        assert!(!"::/0".parse::<Cidr>().unwrap().is_mapped_ipv4());
        assert!(!"fd00::/8".parse::<Cidr>().unwrap().is_mapped_ipv4());
        assert!(Cidr::was_truncated("10.0.0.1/8"));
        assert!(!Cidr::was_truncated("10.0.0.0/8"));
    }
}
