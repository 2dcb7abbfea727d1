//! TCP ports and sets of them.

use std::collections::BTreeSet;
use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

/// A port; never 0, which a packet may not carry (RFC 6335 section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port(NonZeroU16);

impl Port {
    /// The number.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0.get()
    }

    /// The port of a number that is known not to be 0.
    #[must_use]
    pub const fn of(number: u16) -> Option<Port> {
        match NonZeroU16::new(number) {
            Some(number) => Some(Port(number)),
            None => None,
        }
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What is wrong with a text that should be a port or a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotAPort {
    /// It is no number from 1 to 65535.
    Number,
    /// The range ends before it begins.
    Backwards,
}

impl FromStr for Port {
    type Err = NotAPort;

    fn from_str(text: &str) -> Result<Self, NotAPort> {
        if text.is_empty() || !text.chars().all(|c| c.is_ascii_digit()) {
            return Err(NotAPort::Number);
        }
        text.parse().map(Port).map_err(|_| NotAPort::Number)
    }
}

/// Ports from `first` to `last`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    /// The lowest.
    pub first: Port,
    /// The highest.
    pub last: Port,
}

impl PortRange {
    /// Whether `port` is one of them.
    #[must_use]
    pub fn contains(&self, port: Port) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl From<Port> for PortRange {
    fn from(port: Port) -> Self {
        PortRange { first: port, last: port }
    }
}

impl FromStr for PortRange {
    type Err = NotAPort;

    /// `80` or `8000-8080`.
    fn from_str(text: &str) -> Result<Self, NotAPort> {
        let (first, last) = match text.split_once('-') {
            Some((first, last)) => (first.trim().parse()?, last.trim().parse()?),
            None => (text.parse()?, text.parse()?),
        };
        if first <= last { Ok(PortRange { first, last }) } else { Err(NotAPort::Backwards) }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            return self.first.fmt(f);
        }
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// Ports and ranges in the order given, which is the order of the rules made from them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PortSet(Vec<PortRange>);

impl PortSet {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `port` is among them.
    #[must_use]
    pub fn contains(&self, port: Port) -> bool {
        self.0.iter().any(|range| range.contains(port))
    }

    /// The ranges as they stand, repetitions included.
    #[must_use]
    pub fn with_repetitions(ranges: Vec<PortRange>) -> PortSet {
        PortSet(ranges)
    }

    /// The ranges.
    #[must_use]
    pub fn ranges(&self) -> &[PortRange] {
        &self.0
    }
}

impl<T: Into<PortRange>> FromIterator<T> for PortSet {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        let mut seen = BTreeSet::new();
        PortSet(items.into_iter().map(Into::into).filter(|range| seen.insert(*range)).collect())
    }
}

impl fmt::Display for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&super::list(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_plain_numbers() {
        assert_eq!("15001".parse::<Port>().unwrap().number(), 15001);
        for text in ["", "0", "65536", "-1", "+1", " 1", "1 ", "http", "１", "1e3", "0x50", "80\n"] {
            assert_eq!(text.parse::<Port>(), Err(NotAPort::Number), "{text:?}");
        }
    }

    #[test]
    fn ranges_hold_both_ends() {
        let range: PortRange = "8000-8080".parse().unwrap();
        assert_eq!(range.to_string(), "8000-8080");
        for (port, inside) in [("7999", false), ("8000", true), ("8080", true), ("8081", false)] {
            assert_eq!(range.contains(port.parse().unwrap()), inside, "{port}");
        }
        assert_eq!("80-80".parse::<PortRange>().unwrap().to_string(), "80");
        assert_eq!("81-80".parse::<PortRange>(), Err(NotAPort::Backwards));
        for text in ["-", "1-", "-1", "1-2-3", "0-1"] {
            assert_eq!(text.parse::<PortRange>(), Err(NotAPort::Number), "{text}");
        }
    }
}
