//! Which packets to look at: the text form of a connection ([`super::Conn`]) with parts left out, which then may be
//! anything.
//!
//! ```text
//! out tcp uid=1000 10.1.2.3:9080
//! in tcp eth0 :8001
//! udp :53
//! ```
//!
//! A filter is asked before anything else has seen the packet: what only conntrack knows, or only a process, cannot
//! be part of it.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use super::conn::{has_ports, is_no, number};
use super::probing::Direction;
use crate::policy::{Cidr, Family, Gid, IfName, Mark, Port, PortRange, Uid};
use crate::rules::{Match, Protocol, Test};

/// Which packets to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Only what sets out here, or only what arrives; both if `None`.
    pub direction: Option<Direction>,
    /// Only of this family; both if `None`.
    pub family: Option<Family>,
    text: String,
    interface: Option<IfName>,
    matches: Vec<Match>,
}

impl Filter {
    /// The conditions on a packet that goes in `direction`, of the filter's family; `None` if none is looked for there.
    #[must_use]
    pub fn matches(&self, direction: Direction) -> Option<Vec<Match>> {
        if self.direction.is_some_and(|only| only != direction) {
            return None;
        }
        let interface = self.interface.clone().map(|name| match direction {
            Direction::Outbound => Match::is(Test::OutInterface(vec![name])),
            Direction::Inbound => Match::is(Test::InInterface(vec![name])),
        });
        Some(self.matches.iter().cloned().chain(interface).collect())
    }
}

/// An end of a connection: `ADDRESS`, `ADDRESS:PORT`, `[ADDRESS]:PORT` or `:PORT`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct End {
    address: Option<IpAddr>,
    port: Option<Port>,
}

fn end(text: &str) -> Result<End, String> {
    let bare = |text: &str| -> Option<IpAddr> {
        let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
        inner.unwrap_or(text).parse().ok()
    };
    if let Some(address) = bare(text) {
        return Ok(End { address: Some(address), port: None });
    }
    let wrong =
        || format!("{text}: not an address; write ADDRESS, ADDRESS:PORT, :PORT, IPv6 as [ADDRESS]:PORT");
    let (address, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port = port.parse::<Port>().map_err(|_| format!("{text}: not a port"))?;
    // An IPv6 address needs its brackets: what stands behind its last colon may be part of it.
    let address = match address {
        "" => None,
        _ if address.contains(':') && !address.starts_with('[') => return Err(wrong()),
        _ => Some(bare(address).ok_or_else(wrong)?),
    };
    Ok(End { address, port: Some(port) })
}

#[derive(Default)]
struct Builder {
    said: Vec<String>,
    direction: Option<Direction>,
    protocol: Option<Protocol>,
    source: Option<End>,
    destination: Option<End>,
    interface: Option<IfName>,
    others: Vec<Match>,
}

impl Builder {
    fn word(&mut self, word: &str, before_arrow: bool) -> Result<(), String> {
        if before_arrow {
            return match self.source.replace(end(word)?) {
                None => Ok(()),
                Some(_) => Err(format!("{word}: one address too many")),
            };
        }
        if let Some((key, value)) = word.split_once('=') {
            if self.said.iter().any(|said| said == key) {
                return Err(format!("{word}: {key}= is said twice"));
            }
            self.said.push(key.to_owned());
            return self.key(key, value);
        }
        if word.contains([':', '[', '.']) {
            return match self.destination.replace(end(word)?) {
                None => Ok(()),
                Some(_) => Err(format!("{word}: one address too many")),
            };
        }
        self.interface(word)
    }

    fn interface(&mut self, name: &str) -> Result<(), String> {
        let name = name.parse().map_err(|_| is_no(name, "interface name or address"))?;
        match self.interface.replace(name) {
            None => Ok(()),
            Some(first) => Err(format!("{first}: one interface too many")),
        }
    }

    fn key(&mut self, key: &str, value: &str) -> Result<(), String> {
        let nobody = || format!("{key}={value}: the number that stands for no id");
        let wanted = match key {
            "uid" => Match::is(Test::OwnerUid(vec![Uid::of(number(key, value)?).ok_or_else(nobody)?])),
            "gid" => Match::is(Test::OwnerGid(vec![Gid::of(number(key, value)?).ok_or_else(nobody)?])),
            "mark" => Match::is(Test::Mark(Mark(number(key, value)?))),
            "dev" => return self.interface(value),
            "src" if self.source.is_some() => return Err(format!("src={value}: one address too many")),
            "src" => {
                self.source = Some(end(value)?);
                return Ok(());
            }
            "route" => match value {
                "local" => Match::is(Test::DestinationIsLocal),
                "away" | "forward" => Match::not(Test::DestinationIsLocal),
                _ => return Err(format!("route={value}: local, away or forward")),
            },
            "packet" => match value {
                "first" => Match::is(Test::FirstPacket),
                "later" => Match::not(Test::FirstPacket),
                _ => return Err(format!("packet={value}: first or later")),
            },
            "state" | "connmark" => {
                return Err(format!("{key}=: conntrack has not seen the packet yet where it is looked for"));
            }
            "groups" => return Err("groups=: no rule can ask for supplementary groups".into()),
            _ => {
                let keys = "uid, gid, mark, dev, src, packet, route";
                return Err(format!("{key}=: no such word; there are {keys}"));
            }
        };
        self.others.push(wanted);
        Ok(())
    }

    /// Everything that does not fit together.
    fn faults(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let says = |key: &str| self.said.iter().any(|said| said == key);
        if self.direction != Some(Direction::Outbound) && (says("uid") || says("gid")) {
            wrong.push("uid= and gid= are known of outbound connections only: begin with out".to_owned());
        }
        if says("packet") && self.protocol != Some(Protocol::Tcp) {
            wrong.push("packet= is known of tcp only".to_owned());
        }
        let ends = [self.source, self.destination];
        let ports = ends.iter().flatten().any(|end| end.port.is_some());
        if ports && !self.protocol.as_ref().is_some_and(has_ports) {
            wrong.push("a port needs a protocol that has ports: tcp or udp".to_owned());
        }
        let mut addresses = ends.iter().flatten().filter_map(|end| end.address);
        if let (Some(one), Some(other)) = (addresses.next(), addresses.next())
            && one.is_ipv4() != other.is_ipv4()
        {
            wrong.push("source and destination are of two families".to_owned());
        }
        wrong
    }
}

impl FromStr for Filter {
    type Err = String;

    /// Tells everything that is wrong, separated by `; `.
    fn from_str(text: &str) -> Result<Filter, String> {
        let mut words = text.split_whitespace().peekable();
        let direction = match words.peek() {
            Some(&("out" | "outbound")) => Some(Direction::Outbound),
            Some(&("in" | "inbound")) => Some(Direction::Inbound),
            Some(_) | None => None,
        };
        let mut builder = Builder { direction, ..Builder::default() };
        if direction.is_some() {
            words.next();
        }
        builder.protocol = match words.peek() {
            Some(&"tcp") => Some(Protocol::Tcp),
            Some(&"udp") => Some(Protocol::Udp),
            Some(name) if OTHERS.contains(name) => Some(Protocol::Other((*name).to_owned())),
            Some(_) | None => None,
        };
        if builder.protocol.is_some() {
            words.next();
        }
        let mut wrong = Vec::new();
        while let Some(word) = words.next() {
            let before_arrow = words.next_if_eq(&"->").is_some();
            wrong.extend(builder.word(word, before_arrow).err());
        }
        wrong.extend(builder.faults());
        if !wrong.is_empty() {
            return Err(wrong.join("; "));
        }
        let Builder { direction, protocol, source, destination, interface, others, .. } = builder;
        let (source, destination) = (source.unwrap_or_default(), destination.unwrap_or_default());
        let family = source.address.or(destination.address).map(|address| match address {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        });
        let host = |address: IpAddr| vec![Cidr::from(address)];
        let port = |port: Port| vec![PortRange { first: port, last: port }];
        let matches = [
            protocol.map(Test::Protocol),
            source.address.map(|address| Test::Source(host(address))),
            destination.address.map(|address| Test::Destination(host(address))),
            source.port.map(|of| Test::SourcePort(port(of))),
            destination.port.map(|of| Test::DestinationPort(port(of))),
        ];
        let matches = matches.into_iter().flatten().map(Match::is).chain(others).collect();
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        Ok(Filter { direction, family, text, interface, matches })
    }
}

/// Protocols beside TCP and UDP; any other word is an interface.
const OTHERS: [&str; 5] = ["icmp", "icmpv6", "ipv6-icmp", "sctp", "udplite"];

impl fmt::Display for Filter {
    /// As it was typed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.text.is_empty() { "everything" } else { &self.text })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tests(text: &str, direction: Direction) -> Option<Vec<Match>> {
        text.parse::<Filter>().unwrap_or_else(|why| panic!("{text}: {why}")).matches(direction)
    }

    #[test]
    fn what_is_left_out_may_be_anything() {
        for text in ["", "  "] {
            for direction in [Direction::Outbound, Direction::Inbound] {
                assert_eq!(tests(text, direction), Some(vec![]));
            }
        }
        assert_eq!(tests("out", Direction::Outbound), Some(vec![]));
        assert_eq!(tests("out", Direction::Inbound), None);
        assert_eq!(tests("in udp", Direction::Outbound), None);
        let filter: Filter = "tcp :80 eth1".parse().unwrap();
        assert_eq!(
            (filter.direction, filter.family, filter.to_string()),
            (None, None, "tcp :80 eth1".into())
        );
        let one = |direction| filter.matches(direction).unwrap();
        let port = || Match::is(Test::DestinationPort(vec!["80".parse().unwrap()]));
        let name = || vec!["eth1".parse().unwrap()];
        let tcp = || Match::is(Test::Protocol(Protocol::Tcp));
        let wanted = [tcp(), port(), Match::is(Test::OutInterface(name()))];
        assert_eq!(one(Direction::Outbound), wanted);
        assert_eq!(one(Direction::Inbound), [tcp(), port(), Match::is(Test::InInterface(name()))]);
    }

    #[test]
    fn every_word_is_a_condition() {
        let text = "out tcp uid=1000 gid=5 mark=0x7 packet=later route=away dev=lo 10.0.0.1:9 -> 10.1.2.3";
        let filter: Filter = text.parse().unwrap();
        assert_eq!(filter.family, Some(Family::V4));
        let said: Vec<Match> = filter.matches(Direction::Outbound).unwrap();
        let wanted = [
            Match::is(Test::Protocol(Protocol::Tcp)),
            Match::is(Test::Source(vec!["10.0.0.1/32".parse().unwrap()])),
            Match::is(Test::Destination(vec!["10.1.2.3/32".parse().unwrap()])),
            Match::is(Test::SourcePort(vec!["9".parse().unwrap()])),
            Match::is(Test::OwnerUid(vec![Uid::of(1000).unwrap()])),
            Match::is(Test::OwnerGid(vec![Gid::of(5).unwrap()])),
            Match::is(Test::Mark(Mark(7))),
            Match::not(Test::FirstPacket),
            Match::not(Test::DestinationIsLocal),
            Match::is(Test::OutInterface(vec![IfName::lo()])),
        ];
        assert_eq!(said, wanted);
        for text in ["out udp src=[fd00::1]:5 [fd00::9]:80", "in icmpv6 fd00::9"] {
            assert_eq!(text.parse::<Filter>().unwrap().family, Some(Family::V6), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_asked_for_is_a_fault() {
        for (text, word) in [
            ("in tcp uid=5 :80", "outbound connections only"),
            ("uid=5", "begin with out"),
            ("out uid=4294967295", "stands for no id"),
            ("out uid=x", "not a number"),
            ("out :80", "a port needs a protocol"),
            ("out icmp 10.0.0.1:80", "a port needs a protocol"),
            ("out udp packet=first", "tcp only"),
            ("out tcp packet=second", "first or later"),
            ("out tcp state=new", "conntrack"),
            ("out tcp connmark=1", "conntrack"),
            ("out tcp groups=5", "supplementary"),
            ("out tcp route=there", "local, away or forward"),
            ("out tcp color=red", "no such word"),
            ("out tcp mark=1 mark=2", "said twice"),
            ("out tcp eth0 eth1", "one interface too many"),
            ("out tcp 10.0.0.1 10.0.0.2", "one address too many"),
            ("out tcp src=10.0.0.1 10.0.0.3 -> 10.0.0.2", "one address too many"),
            ("out tcp 10.0.0.1 -> [fd00::1]:80", "two families"),
            ("out tcp fd00::1:99999", "not a port"),
            ("out tcp fd00:::80", "not an address"),
            ("out tcp 10.0.0.1:0", "not a port"),
            ("out tcp 10.0.0.300", "not an address"),
            ("out tcp tcp/80", "interface"),
        ] {
            let said = text.parse::<Filter>().expect_err(text);
            assert!(said.contains(word), "{text}: {said}");
        }
        let said = "in tcp uid=5 state=new 10.0.0.300".parse::<Filter>().expect_err("faults");
        assert_eq!(said.split("; ").count(), 4, "{said}");
    }
}
