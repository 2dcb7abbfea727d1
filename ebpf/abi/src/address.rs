//! Addresses of both families in one form: IPv4's as IPv6 writes them, `::ffff:a.b.c.d` (RFC 4291 section 2.5.5.2).

/// Bits 64 to 95 of an IPv4 address in IPv6's form.
const MAPPED: u32 = 0xffff_u32.to_be();

/// An address as the socket hooks have it: four words, each in network byte order (`user_ip6` of `struct bpf_sock_addr`,
/// include/uapi/linux/bpf.h).
#[repr(transparent)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address(pub [u32; 4]);

impl Address {
    /// No address: `::`.
    pub const NONE: Address = Address([0; 4]);
    /// 127.0.0.1.
    pub const LOOPBACK_V4: Address = Address([0, 0, MAPPED, 0x7f00_0001_u32.to_be()]);
    /// `::1`.
    pub const LOOPBACK_V6: Address = Address([0, 0, 0, 1_u32.to_be()]);

    /// The IPv4 address of `word`, which is in network byte order.
    #[inline(always)]
    #[must_use]
    pub const fn v4(word: u32) -> Address {
        Address([0, 0, MAPPED, word])
    }

    /// Where a connection to this address of the family goes: Linux takes the unspecified address for the loopback one
    /// (`connect` of 0.0.0.0 in `ip_route_output_key_hash_rcu`, net/ipv4/route.c; of `::` in `tcp_v6_connect`,
    /// net/ipv6/tcp_ipv6.c). The family is known where a program is compiled.
    #[inline(always)]
    #[must_use]
    pub fn destination(self, ipv6: bool) -> Address {
        let Address([_, _, _, word]) = self;
        match (ipv6, self == Address::NONE, word == 0) {
            (true, true, _) => Address::LOOPBACK_V6,
            (false, _, true) => Address::LOOPBACK_V4,
            (true, false, _) | (false, _, false) => self,
        }
    }

    // Each of these is one comparison, whatever it looks at: the verifier follows both ways of every one.

    /// Whether it is of IPv4.
    #[inline(always)]
    #[must_use]
    pub const fn is_v4(self) -> bool {
        let [a, b, c, _] = self.0;
        a | b | (c ^ MAPPED) == 0
    }

    /// Whether both are the same.
    #[inline(always)]
    #[must_use]
    pub const fn is(self, other: Address) -> bool {
        let (Address([a, b, c, d]), Address([e, f, g, h])) = (self, other);
        (a ^ e) | (b ^ f) | (c ^ g) | (d ^ h) == 0
    }

    /// Whether it is 0.0.0.0 or `::`.
    #[inline(always)]
    #[must_use]
    pub const fn is_unspecified(self) -> bool {
        let [a, b, c, d] = self.0;
        a | b | d == 0 && (c == 0 || c == MAPPED)
    }

    /// Whether every host has it for itself: 127.0.0.0/8 (RFC 1122 section 3.2.1.3) or `::1`.
    #[inline(always)]
    #[must_use]
    pub const fn is_loopback(self) -> bool {
        const NET: u32 = 0x7f00_0000_u32.to_be();
        const MASK: u32 = 0xff00_0000_u32.to_be();
        let [a, b, c, d] = self.0;
        a | b | (c ^ MAPPED) | ((d ^ NET) & MASK) == 0 || a | b | c | (d ^ 1_u32.to_be()) == 0
    }

    /// Whether Istio's proxy sends what it passes through from here: 127.0.0.6 or `::6`.
    #[inline(always)]
    #[must_use]
    pub const fn is_passthrough(self) -> bool {
        const V4: u32 = 0x7f00_0006_u32.to_be();
        const V6: u32 = 6_u32.to_be();
        let [a, b, c, d] = self.0;
        a | b | (c ^ MAPPED) | (d ^ V4) == 0 || a | b | c | (d ^ V6) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::IpAddr;

    fn of(text: &str) -> Address {
        let octets = match text.parse::<IpAddr>().expect("an address") {
            IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
            IpAddr::V6(address) => address.octets(),
        };
        let (words, _) = octets.as_chunks::<4>();
        let [a, b, c, d] = words else { panic!("four words") };
        Address([*a, *b, *c, *d].map(u32::from_ne_bytes))
    }

    #[test]
    fn every_host_has_its_own_addresses() {
        for (text, v4, loopback, passthrough) in [
            ("127.0.0.1", true, true, false),
            ("127.255.0.3", true, true, false),
            ("127.0.0.6", true, true, true),
            ("::ffff:127.0.0.6", true, true, true),
            ("128.0.0.1", true, false, false),
            ("126.0.0.1", true, false, false),
            ("0.0.0.6", true, false, false),
            ("::1", false, true, false),
            ("::6", false, false, true),
            ("::127.0.0.1", false, false, false),
            ("1::1", false, false, false),
            ("fd00::6", false, false, false),
        ] {
            let address = of(text);
            assert_eq!(address.is_v4(), v4, "{text}");
            assert_eq!(address.is_loopback(), loopback, "{text}");
            assert_eq!(address.is_passthrough(), passthrough, "{text}");
        }
    }

    #[test]
    fn the_unspecified_address_means_this_host() {
        assert_eq!(of("0.0.0.0").destination(false), of("127.0.0.1"));
        assert_eq!(of("::ffff:0.0.0.0").destination(false), of("127.0.0.1"));
        assert_eq!(of("::").destination(true), of("::1"));
        for (text, ipv6) in [("0.0.0.1", false), ("::2", true), ("10.0.0.0", false), ("1::", true)] {
            assert_eq!(of(text).destination(ipv6), of(text), "{text}");
        }
        assert_eq!(Address::v4(u32::from_ne_bytes([10, 1, 2, 3])), of("10.1.2.3"));
        assert_eq!(of("::ffff:10.1.2.3"), of("10.1.2.3"));
    }
}
