//! A connection to ask about, and the text that people type for one.
//!
//! ```text
//! out tcp uid=1000 10.1.2.3:9080
//! out tcp uid=1000 [fd00::9]:80
//! in tcp eth0 192.0.2.7 -> 10.0.0.5:8001
//! ```
//!
//! Words in any order after the first two: `KEY=VALUE`, an interface, `SOURCE ->`, and the destination. What is not
//! said has the default of an ordinary connection's first packet, which [`Conn`]'s `Display` does not repeat.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use super::probing::Direction;
use crate::policy::{Family, IfName};
use crate::rules::{ConnState, Protocol};

/// An ordinary user: the first that useradd(8) makes.
const USER: u32 = 1000;
/// An ordinary client's port (ip-sysctl.rst, `ip_local_port_range`).
const CLIENT: u16 = 40_000;
/// Hosts of no one in particular: RFC 5737 section 3, RFC 3849.
const V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 5);
const V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 5);

/// Who sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sender {
    /// The socket's user.
    pub uid: u32,
    /// The socket's group.
    pub gid: u32,
    /// Other groups of the process, which `--gid-owner` alone does not look at (iptables-extensions(8), owner).
    pub groups: Vec<u32>,
}

/// A packet of a connection, as it sets out here or arrives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conn {
    /// Begun here or elsewhere.
    pub direction: Direction,
    /// Its protocol.
    pub protocol: Protocol,
    /// Where from. Ports are 0 where the protocol has none.
    pub source: SocketAddr,
    /// Where to.
    pub destination: SocketAddr,
    /// Whose socket sends; of what arrives nobody's here.
    pub sender: Option<Sender>,
    /// Where it arrives, or leaves as far as routing says before anything is changed.
    pub interface: IfName,
    /// The destination is one of this host's addresses; else an inbound packet passes through.
    pub local: bool,
    /// The packet's mark as it sets out or arrives.
    pub mark: u32,
    /// The mark of its connection.
    pub connmark: u32,
    /// The packet opens the connection: a TCP SYN.
    pub first: bool,
    /// What conntrack knows of the connection.
    pub state: ConnState,
}

impl Conn {
    /// Its family.
    #[must_use]
    pub fn family(&self) -> Family {
        if self.destination.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// A first packet of an ordinary user's connection to `destination`.
    #[must_use]
    pub fn out(protocol: Protocol, destination: SocketAddr) -> Conn {
        Builder::new(Direction::Outbound, protocol).build(destination)
    }

    /// A first packet that arrives for this host.
    #[must_use]
    pub fn into(protocol: Protocol, destination: SocketAddr) -> Conn {
        Builder::new(Direction::Inbound, protocol).build(destination)
    }
}

#[derive(Clone)]
struct Builder {
    /// The keys that were said.
    said: Vec<String>,
    direction: Direction,
    protocol: Protocol,
    source: Option<SocketAddr>,
    destination: Option<SocketAddr>,
    uid: Option<u32>,
    gid: Option<u32>,
    groups: Vec<u32>,
    interface: Option<IfName>,
    local: Option<bool>,
    mark: u32,
    connmark: u32,
    first: Option<bool>,
    state: Option<ConnState>,
}

impl Builder {
    fn new(direction: Direction, protocol: Protocol) -> Builder {
        Builder {
            said: Vec::new(),
            direction,
            protocol,
            source: None,
            destination: None,
            uid: None,
            gid: None,
            groups: Vec::new(),
            interface: None,
            local: None,
            mark: 0,
            connmark: 0,
            first: None,
            state: None,
        }
    }

    fn build(self, destination: SocketAddr) -> Conn {
        let outbound = self.direction == Direction::Outbound;
        let loopback = destination.ip().is_loopback();
        let over_lo = self.interface == Some(IfName::lo());
        let local = self.local.unwrap_or(!outbound || loopback || over_lo);
        let source = self.source.unwrap_or_else(|| {
            // The kernel sends to an own address from that very address, but the route of 127.0.0.0/8 has a source of
            // its own (net/ipv4/route.c, `fib_prefsrc`; measured).
            let address = match (outbound && local, destination.ip()) {
                (true, IpAddr::V4(own)) if own.is_loopback() => Ipv4Addr::LOCALHOST.into(),
                (true, own) => own,
                (false, IpAddr::V4(_)) => V4.into(),
                (false, IpAddr::V6(_)) => V6.into(),
            };
            SocketAddr::new(address, if has_ports(&self.protocol) { CLIENT } else { 0 })
        });
        let uid = self.uid.unwrap_or(USER);
        let first = self.first.unwrap_or(!matches!(self.state, Some(ConnState::Established)));
        Conn {
            direction: self.direction,
            protocol: self.protocol,
            source,
            destination,
            sender: outbound.then(|| Sender { uid, gid: self.gid.unwrap_or(uid), groups: self.groups }),
            interface: self.interface.unwrap_or_else(|| match outbound && local {
                true => IfName::lo(),
                false => IfName::eth0(),
            }),
            local,
            mark: self.mark,
            connmark: self.connmark,
            first,
            state: self.state.unwrap_or(if first { ConnState::New } else { ConnState::Established }),
        }
    }

    fn key(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "uid" => self.uid = Some(number(key, value)?),
            "gid" => self.gid = Some(number(key, value)?),
            "groups" => {
                self.groups = value.split(',').map(|group| number(key, group)).collect::<Result<_, _>>()?;
            }
            "mark" => self.mark = number(key, value)?,
            "connmark" => self.connmark = number(key, value)?,
            "dev" => self.interface = Some(value.parse().map_err(|_| is_no(value, "interface name"))?),
            "src" => self.source = Some(address(value, &self.protocol, true)?),
            "state" => {
                let states = ConnState::ALL.into_iter();
                let state = states.into_iter().find(|state| state.as_str().eq_ignore_ascii_case(value));
                self.state =
                    Some(state.ok_or_else(|| {
                        format!("state={}: new, related, established or invalid", told(value))
                    })?);
            }
            "packet" => {
                self.first = Some(match value {
                    "first" => true,
                    "later" => false,
                    _ => return Err(format!("packet={}: first or later", told(value))),
                });
            }
            "route" => {
                self.local = Some(match value {
                    "local" => true,
                    "forward" | "away" => false,
                    _ => return Err(format!("route={}: local, away or forward", told(value))),
                });
            }
            _ => {
                let keys = "uid, gid, groups, mark, connmark, dev, src, state, packet, route";
                return Err(format!("{}=: no such word; there are {keys}", told(key)));
            }
        }
        Ok(())
    }

    fn word(&mut self, word: &str, before_arrow: bool) -> Result<(), String> {
        if let Some((key, value)) = word.split_once('=').filter(|_| !before_arrow) {
            if self.said.iter().any(|said| said == key) {
                return Err(format!("{}: {}= is said twice", told(word), told(key)));
            }
            self.said.push(key.to_owned());
            return self.key(key, value);
        }
        match address(word, &self.protocol, before_arrow) {
            Ok(address) if before_arrow && self.source.is_none() => self.source = Some(address),
            Ok(address) if !before_arrow && self.destination.is_none() => self.destination = Some(address),
            Ok(_) => return Err(format!("{}: one address too many", told(word))),
            // What begins like an address, or points at another, is one that is wrong.
            Err(why) if before_arrow || word.contains([':', '[', '.']) => return Err(why),
            Err(_) if self.interface.is_some() => {
                return Err(format!("{}: one interface too many", told(word)));
            }
            Err(_) => {
                self.interface = Some(word.parse().map_err(|_| is_no(word, "interface name or address"))?)
            }
        }
        Ok(())
    }
}

pub(super) fn has_ports(protocol: &Protocol) -> bool {
    matches!(protocol, Protocol::Tcp | Protocol::Udp)
}

pub(super) fn is_no(text: &str, what: &str) -> String {
    format!("{}: not an {what}", told(text))
}

/// A word as an error may show it: its beginning, and nothing that is not printable.
fn told(word: &str) -> String {
    const SHOWN: usize = 64;
    let mut shown: String = word.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    if word.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

/// The protocol of a name, spelled as rules spell it (/etc/protocols).
fn protocol(name: &str) -> Option<Protocol> {
    let name = name.to_ascii_lowercase();
    let plain = |name: &str| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    match name.as_str() {
        "tcp" => Some(Protocol::Tcp),
        "udp" => Some(Protocol::Udp),
        "icmpv6" | "icmp6" => Some(Protocol::Other("ipv6-icmp".to_owned())),
        // No name is longer, and a number would not be found in rules.
        _ => (name.starts_with(|c: char| c.is_ascii_lowercase()) && name.len() <= 32 && plain(&name))
            .then_some(Protocol::Other(name)),
    }
}

/// Decimal, or hexadecimal after `0x`.
pub(super) fn number(key: &str, text: &str) -> Result<u32, String> {
    let number = match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    };
    number.map_err(|_| format!("{key}={}: not a number below 2^32", told(text)))
}

/// An address; its port may be left out for a source, and for protocols without ports.
fn address(text: &str, protocol: &Protocol, source: bool) -> Result<SocketAddr, String> {
    const FORM: &str = "write ADDRESS:PORT, IPv6 as [ADDRESS]:PORT";
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    match (text.parse::<SocketAddr>(), bare.parse::<IpAddr>()) {
        (Ok(_), _) if !has_ports(protocol) => Err(format!("{text}: ports are known of tcp and udp only")),
        (Ok(address), _) => Ok(address),
        (_, Ok(address)) if !has_ports(protocol) => Ok(SocketAddr::new(address, 0)),
        (_, Ok(address)) if source => Ok(SocketAddr::new(address, CLIENT)),
        (_, Ok(_)) => Err(format!("{text}: which port? {FORM}")),
        (_, Err(_)) => Err(format!("{}: not an address; {FORM}", told(text))),
    }
}

impl FromStr for Conn {
    type Err = String;

    /// Tells everything that is wrong, separated by `; `, up to a few.
    fn from_str(text: &str) -> Result<Conn, String> {
        const MOST: usize = 10;
        let mut words = text.split_whitespace().peekable();
        let direction = match words.next() {
            Some("out" | "outbound") => Direction::Outbound,
            Some("in" | "inbound") => Direction::Inbound,
            Some(other) => return Err(format!("{}: begin with out or in", told(other))),
            None => return Err("nothing given; write such as: out tcp uid=1000 10.1.2.3:9080".into()),
        };
        let Some(protocol) = words.next().and_then(protocol) else {
            return Err("the second word is the protocol by its name: tcp, udp, icmp".into());
        };
        let mut builder = Builder::new(direction, protocol);
        let mut wrong = Vec::new();
        while let Some(word) = words.next() {
            let before_arrow = words.peek() == Some(&"->");
            if before_arrow {
                words.next();
            }
            wrong.extend(builder.word(word, before_arrow).err());
            if wrong.len() == MOST {
                break;
            }
        }
        let inbound = direction == Direction::Inbound;
        if inbound && (builder.uid.is_some() || builder.gid.is_some() || !builder.groups.is_empty()) {
            wrong.push("uid=, gid= and groups= are known of outbound connections only".into());
        }
        if wrong.len() == MOST {
            return Err(wrong.join("; "));
        }
        let Some(destination) = builder.destination else {
            wrong.push("no destination; write ADDRESS:PORT, IPv6 as [ADDRESS]:PORT".into());
            return Err(wrong.join("; "));
        };
        if builder.source.is_some_and(|source| source.is_ipv4() != destination.is_ipv4()) {
            wrong.push("source and destination are of two families".into());
        }
        if wrong.is_empty() { Ok(builder.build(destination)) } else { Err(wrong.join("; ")) }
    }
}

impl Builder {
    /// What makes `conn` again, with nothing said that goes without saying, but for the user.
    fn of(conn: &Conn) -> Builder {
        let sender = conn.sender.clone();
        let mut builder = Builder {
            source: Some(conn.source),
            uid: sender.as_ref().map(|sender| sender.uid),
            gid: sender.as_ref().map(|sender| sender.gid),
            groups: sender.map(|sender| sender.groups).unwrap_or_default(),
            interface: Some(conn.interface.clone()),
            local: Some(conn.local),
            mark: conn.mark,
            connmark: conn.connmark,
            first: Some(conn.first),
            state: Some(conn.state),
            ..Builder::new(conn.direction, conn.protocol.clone())
        };
        let leave_out: [fn(&mut Builder); 6] = [
            |builder| builder.source = None,
            |builder| builder.gid = None,
            |builder| builder.interface = None,
            |builder| builder.local = None,
            |builder| builder.first = None,
            |builder| builder.state = None,
        ];
        for leave_out in leave_out {
            let mut shorter = builder.clone();
            leave_out(&mut shorter);
            if shorter.clone().build(conn.destination) == *conn {
                builder = shorter;
            }
        }
        builder
    }
}

impl fmt::Display for Conn {
    /// What [`FromStr`] reads back; defaults are left out, but for the user.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said = Builder::of(self);
        let word = if self.direction == Direction::Outbound { "out" } else { "in" };
        write!(f, "{word} {}", self.protocol)?;
        for (key, number) in [("uid", said.uid), ("gid", said.gid)] {
            if let Some(number) = number {
                write!(f, " {key}={number}")?;
            }
        }
        if !said.groups.is_empty() {
            let groups: Vec<String> = said.groups.iter().map(ToString::to_string).collect();
            write!(f, " groups={}", groups.join(","))?;
        }
        if let Some(interface) = &said.interface {
            write!(f, " dev={interface}")?;
        }
        if let Some(local) = said.local {
            let away = if self.sender.is_some() { "away" } else { "forward" };
            write!(f, " route={}", if local { "local" } else { away })?;
        }
        for (key, mark) in [("mark", said.mark), ("connmark", said.connmark)] {
            if mark != 0 {
                write!(f, " {key}={mark:#x}")?;
            }
        }
        if let Some(state) = said.state {
            write!(f, " state={}", state.as_str().to_ascii_lowercase())?;
        }
        if let Some(first) = said.first {
            write!(f, " packet={}", if first { "first" } else { "later" })?;
        }
        let end = |address: SocketAddr| match has_ports(&self.protocol) {
            true => address.to_string(),
            false => address.ip().to_string(),
        };
        if let Some(source) = said.source {
            write!(f, " {} ->", end(source))?;
        }
        write!(f, " {}", end(self.destination))
    }
}
