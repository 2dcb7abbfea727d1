//! Who sends a packet, and on what: users, groups, interfaces, marks.

use std::fmt;
use std::str::FromStr;

macro_rules! id {
    ($name:ident, $what:literal) => {
        #[doc = concat!("A ", $what, " id; never 4294967295, which means \"no change\" to chown(2) and setreuid(2).")]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u32);

        impl $name {
            /// The number.
            #[must_use]
            pub const fn number(self) -> u32 {
                self.0
            }

            /// The id of `number`, unless it is the number that stands for no id.
            #[must_use]
            pub const fn of(number: u32) -> Option<Self> {
                if number == u32::MAX { None } else { Some($name(number)) }
            }

            #[doc = concat!("Reads a decimal ", $what, " id; `None` if `text` is none.")]
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
                    return None;
                }
                text.parse().ok().and_then(Self::of)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(Uid, "user");
id!(Gid, "group");

/// A packet mark (fwmark).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mark(pub u32);

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Mark {
    type Err = ();

    /// Decimal or `0x…`.
    fn from_str(text: &str) -> Result<Self, ()> {
        let (digits, radix) = match text.strip_prefix("0x") {
            Some(hex) => (hex, 16),
            None => (text, 10),
        };
        if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
            return Err(());
        }
        u32::from_str_radix(digits, radix).map(Mark).map_err(|_| ())
    }
}

/// An interface's name, or with a trailing `+` every name that begins so (iptables(8), `-i`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IfName(String);

impl IfName {
    /// The loopback interface.
    #[must_use]
    pub fn lo() -> IfName {
        IfName("lo".to_owned())
    }

    /// The first interface beside it, as runtimes call it in a pod.
    #[must_use]
    pub fn eth0() -> IfName {
        IfName("eth0".to_owned())
    }

    /// Whether the interface `name` is meant.
    #[must_use]
    pub fn covers(&self, name: &IfName) -> bool {
        match self.0.strip_suffix('+') {
            Some(beginning) => name.0.starts_with(beginning),
            None => *self == *name,
        }
    }

    /// The name as iptables takes it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for IfName {
    type Err = ();

    /// At most 15 bytes (`IFNAMSIZ` in linux/if.h, with its NUL). The kernel's `dev_valid_name` allows nearly
    /// any byte; what stands in a rule may only hold letters, digits and `_ . - @`, which every real name does.
    fn from_str(text: &str) -> Result<Self, ()> {
        let name = text.strip_suffix('+').unwrap_or(text);
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-' | b'@');
        let starts_well = name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
        if text.len() > 15 || !starts_well || !name.bytes().all(plain) {
            return Err(());
        }
        Ok(IfName(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_decimal_and_never_minus_one() {
        assert_eq!(Uid::parse("1337").map(Uid::number), Some(1337));
        assert_eq!(Uid::parse("0").map(Uid::number), Some(0));
        for text in ["", "-1", "+1", "4294967295", "4294967296", "istio-proxy", "1 2", "٣"] {
            assert_eq!(Uid::parse(text), None, "{text}");
        }
    }

    #[test]
    fn marks_are_decimal_or_hex() {
        assert_eq!("1337".parse(), Ok(Mark(1337)));
        assert_eq!("0x539".parse(), Ok(Mark(1337)));
        for text in ["", "0x", "-1", "4294967296", "0xg", "1/2"] {
            assert_eq!(text.parse::<Mark>(), Err(()), "{text}");
        }
    }

    #[test]
    fn interface_names_cannot_carry_rule_words() {
        for text in ["eth0", "eth0.100", "br-3f@if2", "tun+", "a"] {
            assert!(text.parse::<IfName>().is_ok(), "{text}");
        }
        for text in ["", "+", "-i", "eth0 -j", "eth0\n", "eth/0", "sixteen-letters-", ".", "..", "\"x\"", "é"]
        {
            assert!(text.parse::<IfName>().is_err(), "{text:?}");
        }
    }
}
