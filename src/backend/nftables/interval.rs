//! Networks and ports as numbers: merged into intervals, as a set of nf_tables holds them, and taken apart again.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::policy::{Cidr, Family, Port, PortRange};

/// Numbers from `first` to `last`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Interval {
    /// The lowest.
    pub first: u128,
    /// The highest.
    pub last: u128,
}

/// The same numbers in order, with as few intervals as possible.
#[must_use]
pub fn merged(mut intervals: Vec<Interval>) -> Vec<Interval> {
    intervals.sort_unstable();
    let mut merged: Vec<Interval> = Vec::with_capacity(intervals.len());
    for interval in intervals {
        match merged.last_mut() {
            Some(last) if interval.first <= last.last.saturating_add(1) => {
                last.last = last.last.max(interval.last)
            }
            _ => merged.push(interval),
        }
    }
    merged
}

/// The bits of an address.
#[must_use]
pub const fn width(family: Family) -> u32 {
    match family {
        Family::V4 => 32,
        Family::V6 => 128,
    }
}

/// The highest number of so many bits.
#[must_use]
pub const fn highest(bits: u32) -> u128 {
    if bits == 0 { 0 } else { u128::MAX >> (128 - bits) }
}

/// A network's addresses.
#[must_use]
pub fn of_cidr(cidr: &Cidr) -> Interval {
    let first = match cidr.first_address() {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    };
    Interval {
        first,
        last: first | highest(width(cidr.family()).saturating_sub(u32::from(cidr.prefix_len()))),
    }
}

/// The network of an address and a prefix; `None` if the prefix is too long.
#[must_use]
pub fn cidr(family: Family, address: u128, prefix: u32) -> Option<Cidr> {
    let address = match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::from(u32::try_from(address).ok()?)),
        Family::V6 => IpAddr::V6(Ipv6Addr::from(address)),
    };
    format!("{address}/{prefix}").parse().ok()
}

/// An interval as networks, as few as possible; none if it goes beyond the family's addresses.
#[must_use]
pub fn cidrs(family: Family, interval: Interval) -> Vec<Cidr> {
    let bits = width(family);
    let Interval { mut first, last } = interval;
    let mut found = Vec::new();
    if last > highest(bits) {
        return found;
    }
    while first <= last {
        // The largest network that begins here and does not go beyond the end.
        let aligned = first.trailing_zeros().min(bits);
        let fits = |free: &u32| last - first >= highest(*free);
        let free = (0..=aligned).rev().find(fits).unwrap_or(0);
        found.extend(cidr(family, first, bits - free));
        match first.checked_add(highest(free)).and_then(|end| end.checked_add(1)) {
            Some(next) => first = next,
            None => break,
        }
    }
    found
}

/// Networks without repetition: in order, and as few as possible. Those of the other family stay as they are, to be
/// refused by who can say why.
#[must_use]
pub fn merged_cidrs(family: Family, list: &[Cidr]) -> Vec<Cidr> {
    if list.iter().any(|net| net.family() != family) {
        return list.to_vec();
    }
    let intervals = merged(list.iter().map(of_cidr).collect());
    intervals.into_iter().flat_map(|interval| cidrs(family, interval)).collect()
}

/// The numbers of ports.
#[must_use]
pub fn of_ports(range: &PortRange) -> Interval {
    Interval { first: range.first.number().into(), last: range.last.number().into() }
}

/// Ports; `None` for port 0, which no packet may carry, and for what is no port at all.
#[must_use]
pub fn ports(interval: Interval) -> Option<PortRange> {
    let port = |number: u128| u16::try_from(number).ok().and_then(Port::of);
    Some(PortRange { first: port(interval.first)?, last: port(interval.last)? })
}

/// Ports without repetition: in order, and as few ranges as possible.
#[must_use]
pub fn merged_ports(list: &[PortRange]) -> Vec<PortRange> {
    merged(list.iter().map(of_ports).collect()).into_iter().filter_map(ports).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(list: &[&str]) -> Vec<Cidr> {
        list.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn networks_are_merged() {
        for (family, given, want) in [
            (Family::V4, &["10.1.0.0/16", "10.0.0.0/8"][..], &["10.0.0.0/8"][..]),
            (Family::V4, &["10.128.0.0/9", "10.0.0.0/9"], &["10.0.0.0/8"]),
            (Family::V4, &["255.255.255.255", "0.0.0.0"], &["0.0.0.0/32", "255.255.255.255/32"]),
            (Family::V4, &["0.0.0.0/0", "10.0.0.0/8"], &["0.0.0.0/0"]),
            (Family::V4, &["128.0.0.0/1", "0.0.0.0/1"], &["0.0.0.0/0"]),
            (Family::V4, &["10.0.0.1", "10.0.0.2", "10.0.0.3"], &["10.0.0.1/32", "10.0.0.2/31"]),
            (Family::V6, &["::/0"], &["::/0"]),
            (Family::V6, &["ffff::/16", "fd00::/8"], &["fd00::/8", "ffff::/16"]),
            (Family::V6, &["8000::/1", "::/1"], &["::/0"]),
        ] {
            assert_eq!(merged_cidrs(family, &nets(given)), nets(want), "{given:?}");
        }
    }

    #[test]
    fn an_interval_is_few_networks() {
        let all = Interval { first: 0, last: u128::MAX };
        assert_eq!(cidrs(Family::V6, all), nets(&["::/0"]));
        let most = Interval { first: 1, last: u128::MAX };
        assert_eq!(cidrs(Family::V6, most).len(), 128);
        assert_eq!(cidrs(Family::V4, Interval { first: 1, last: highest(32) - 1 }).len(), 62);
        assert_eq!(cidrs(Family::V4, all), []);
        let foreign = nets(&["fd00::/8", "10.0.0.0/8"]);
        assert_eq!(merged_cidrs(Family::V4, &foreign), foreign);
    }

    #[test]
    fn ports_are_merged() {
        let ranges =
            |list: &[&str]| -> Vec<PortRange> { list.iter().map(|text| text.parse().unwrap()).collect() };
        assert_eq!(merged_ports(&ranges(&["443", "80", "81-90", "85-100"])), ranges(&["80-100", "443"]));
        assert_eq!(merged_ports(&ranges(&["65535", "1"])), ranges(&["1", "65535"]));
        assert_eq!(ports(Interval { first: 0, last: 5 }), None);
        assert_eq!(ports(Interval { first: 5, last: 65_536 }), None);
    }
}
