//! Networks, flattened for one look-up of the longest prefix: the value of a network says what every list says of it.

use std::net::{IpAddr, Ipv6Addr};

use mesh_init_abi::{Address, NetFlags};

use crate::policy::{Cidr, Family};

/// A network of the trie: its first address, the bits of it that count (of 128, in IPv6's form), and what is said of it.
pub type Entry = (Address, u8, NetFlags);

/// An address as the programs have it.
#[must_use]
pub fn address(of: IpAddr) -> Address {
    let bits = match of {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    };
    of_bits(bits)
}

/// And back.
#[must_use]
pub fn ip(of: Address) -> IpAddr {
    Ipv6Addr::from(bits(of)).to_canonical()
}

/// Its bits, in IPv6's form, the first one first.
#[must_use]
pub fn bits(Address(words): Address) -> u128 {
    words.iter().fold(0, |bits, word| bits << 32 | u128::from(u32::from_be(*word)))
}

fn of_bits(bits: u128) -> Address {
    let word = |shift: u32| u32::try_from((bits >> shift) & 0xffff_ffff).unwrap_or_default().to_be();
    Address([word(96), word(64), word(32), word(0)])
}

/// A network by its bits, in IPv6's form.
type Network = (u128, u8);

fn network(cidr: &Cidr) -> Network {
    match cidr.first_address() {
        IpAddr::V4(address) => (address.to_ipv6_mapped().to_bits(), cidr.prefix_len().saturating_add(96)),
        IpAddr::V6(address) => (address.to_bits(), cidr.prefix_len()),
    }
}

fn covers((first, prefix_len): Network, (of, _): Network) -> bool {
    let shift = u32::from(128_u8.saturating_sub(prefix_len));
    (first ^ of).checked_shr(shift).unwrap_or_default() == 0
}

/// The entries for `families` that say of every address what the lists together say of it: an address lies in all
/// networks that the longest of its prefixes lies in, so that one value holds what they all say.
///
/// A network that says no more than the one around it is left out. IPv4 always has an entry: IPv6's form of its addresses
/// would else lie in IPv6's networks. IPv6 networks of IPv4 addresses in IPv6's form are left out, for no packet
/// carries such an address.
#[must_use]
pub fn flatten(families: &[Family], lists: &[(&[Cidr], NetFlags)]) -> Vec<Entry> {
    families.iter().flat_map(|family| of_family(*family, lists)).collect()
}

fn of_family(family: Family, lists: &[(&[Cidr], NetFlags)]) -> Vec<Entry> {
    let listed = lists.iter().flat_map(|(cidrs, flags)| cidrs.iter().map(|cidr| (*cidr, *flags)));
    let mut networks: Vec<(Network, NetFlags)> = listed
        .filter(|(cidr, _)| cidr.family() == family && !cidr.is_mapped_ipv4())
        .map(|(cidr, flags)| (network(&cidr), flags))
        .collect();
    // The outer one before those in it.
    networks.sort_by_key(|(network, _)| *network);
    let root = network(&family.everything());
    let mut entries = vec![(root, NetFlags::NONE)];
    // The networks around the one at hand, each with what holds in it.
    let mut around: Vec<(Network, NetFlags)> = vec![(root, NetFlags::NONE)];
    for (network, flags) in networks {
        while around.last().is_some_and(|(outer, _)| !covers(*outer, network)) {
            around.pop();
        }
        let outer = around.last().map_or(NetFlags::NONE, |(_, flags)| *flags);
        let flags = outer.and(flags);
        if flags == outer {
            continue;
        }
        around.push((network, flags));
        match entries.last_mut() {
            // The same network again, in another list.
            Some((last, of)) if *last == network => *of = flags,
            Some(_) | None => entries.push((network, flags)),
        }
    }
    // Only the first can say nothing: the others say more than what is around them.
    let needed = |(_, flags): &(Network, NetFlags)| family == Family::V4 || *flags != NetFlags::NONE;
    let needed = entries.into_iter().filter(needed);
    needed.map(|((first, prefix_len), flags)| (of_bits(first), prefix_len, flags)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidrs(text: &str) -> Vec<Cidr> {
        text.split(' ').filter(|text| !text.is_empty()).map(|text| text.parse().expect("a network")).collect()
    }

    fn flat(families: &[Family], included: &str, excluded: &str) -> Vec<(Address, u8, u32)> {
        let (included, excluded) = (cidrs(included), cidrs(excluded));
        let lists = [(included.as_slice(), NetFlags::INCLUDED), (excluded.as_slice(), NetFlags::EXCLUDED)];
        let entries = flatten(families, &lists);
        entries.into_iter().map(|(address, prefix_len, flags)| (address, prefix_len, flags.0)).collect()
    }

    fn entry(text: &str, flags: NetFlags) -> (Address, u8, u32) {
        let (first, prefix_len) = network(&text.parse().expect("a network"));
        (of_bits(first), prefix_len, flags.0)
    }

    #[test]
    fn inner_networks_say_what_the_outer_ones_say() {
        let (none, both) = (NetFlags::NONE, NetFlags::INCLUDED.and(NetFlags::EXCLUDED));
        assert_eq!(
            flat(&[Family::V4], "10.1.0.0/16 10.3.0.0/16 10.1.2.0/24", "10.0.0.0/8 10.1.0.0/16 11.0.0.0/8"),
            [
                entry("0.0.0.0/0", none),
                entry("10.0.0.0/8", NetFlags::EXCLUDED),
                entry("10.1.0.0/16", both),
                // 10.1.2.0/24 says no more.
                entry("10.3.0.0/16", both),
                entry("11.0.0.0/8", NetFlags::EXCLUDED),
            ]
        );
    }

    #[test]
    fn the_families_do_not_meet() {
        let both = [Family::V4, Family::V6];
        assert_eq!(flat(&both, "", ""), [entry("0.0.0.0/0", NetFlags::NONE)]);
        // All of IPv6 is not all of IPv4.
        assert_eq!(
            flat(&both, "::/0 ::ffff:10.0.0.0/104", "fd00::/8"),
            [
                entry("0.0.0.0/0", NetFlags::NONE),
                entry("::/0", NetFlags::INCLUDED),
                entry("fd00::/8", NetFlags::INCLUDED.and(NetFlags::EXCLUDED)),
            ]
        );
        assert_eq!(
            flat(&both, "0.0.0.0/0 fd00::1", ""),
            [entry("0.0.0.0/0", NetFlags::INCLUDED), entry("fd00::1", NetFlags::INCLUDED)]
        );
        assert_eq!(flat(&[Family::V4], "fd00::/8", ""), [entry("0.0.0.0/0", NetFlags::NONE)]);
        assert_eq!(address("10.0.0.1".parse().unwrap()), Address::v4(u32::from_ne_bytes([10, 0, 0, 1])));
        assert_eq!(address("::1".parse().unwrap()), Address::LOOPBACK_V6);
    }
}
