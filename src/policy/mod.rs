//! The domain: one value that says which connections are captured, correct by construction.
//!
//! [`CapturePolicy`] is made by [`validate::request`] alone. Every role and every source of text ends here, and
//! every layout and back end starts here, so they cannot drift apart.

mod at_sockets;
pub mod cause;
pub mod facts;
pub mod istio;
pub mod json;
pub mod layout;
pub mod nets;
pub mod owner;
pub mod ports;
pub mod rule_id;
pub mod settings;
pub mod validate;
mod values;

use std::fmt;

pub use at_sockets::Unable;
pub use facts::Facts;
pub use layout::Layout;
pub use nets::{Cidr, Families, Family};
pub use owner::{Gid, IfName, Mark, Uid};
pub use ports::{Port, PortRange, PortSet};
pub use rule_id::RuleId;
pub use settings::Settings;

/// How captured inbound connections reach the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// NAT: the proxy sees its own address and asks for the original destination.
    #[default]
    Redirect,
    /// The proxy sees the original addresses on the socket itself.
    Tproxy,
    /// Nothing is captured.
    None,
}

/// The proxy: where captured traffic goes, and whose traffic is never captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    /// Where captured outbound traffic goes.
    pub port: Port,
    /// Where captured inbound traffic goes.
    pub inbound_port: Port,
    /// The HBONE port, never captured inbound.
    pub tunnel_port: Port,
    /// Users whose traffic is never captured.
    pub uids: Vec<Uid>,
    /// Groups whose traffic is never captured.
    pub gids: Vec<Gid>,
}

/// Whose outbound traffic is captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owners {
    /// Everyone's but the proxy's: a pod.
    Everyone,
    /// Only these users' and groups': a VM host.
    Only {
        /// The users.
        uids: Vec<Uid>,
        /// The groups (a process's effective group; supplementary groups do not count).
        gids: Vec<Gid>,
    },
}

/// Which outbound destinations are captured, before exclusions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destinations {
    /// All of them.
    All {
        /// Ports named beside it, which say no more; istio-iptables makes rules for them all the same.
        ports: PortSet,
    },
    /// Those inside one of the networks or on one of the ports; both empty is none.
    Some {
        /// Destination networks.
        cidrs: Vec<Cidr>,
        /// Destination ports, whatever the address.
        ports: PortSet,
    },
}

/// Groups of a pod's processes whose outbound traffic is captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Groups {
    /// Everyone but these.
    AllExcept(Vec<Gid>),
    /// Only these.
    Only(Vec<Gid>),
}

/// What is captured of the traffic that local processes start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outbound {
    /// Whose.
    pub owners: Owners,
    /// Where to.
    pub destinations: Destinations,
    /// Networks never captured.
    pub exclude_cidrs: Vec<Cidr>,
    /// Ports never captured.
    pub exclude_ports: PortSet,
    /// Groups of a pod's processes.
    pub groups: Groups,
}

/// What is captured of the traffic that arrives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inbound {
    /// Every port but these.
    AllExcept(PortSet),
    /// Only these ports; none if empty.
    Only(PortSet),
}

/// What is captured of DNS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dns {
    /// Nothing.
    Off,
    /// Queries to these servers.
    Servers {
        /// Where captured queries go.
        port: Port,
        /// The servers.
        servers: Vec<std::net::IpAddr>,
    },
    /// Queries to every server.
    All {
        /// Where captured queries go.
        port: Port,
    },
}

/// Interfaces with a meaning of their own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Interfaces {
    /// Captured in neither direction.
    pub exclude: Vec<IfName>,
    /// Their inbound traffic is treated as outbound.
    pub reroute: Vec<IfName>,
}

/// Whether IPv6 is captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ipv6 {
    /// Wherever the namespace has an IPv6 stack, whatever addresses it has now: later ones arrive by SLAAC.
    #[default]
    Auto,
    /// Always; a namespace without IPv6 is an error.
    On,
    /// Never, said on purpose.
    Off,
}

/// Which connections are captured. Made only by [`validate::request`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CapturePolicy {
    /// How inbound connections reach the proxy.
    pub mode: Mode,
    /// The packet mark of TPROXY mode.
    pub tproxy_mark: Mark,
    /// The routing table of TPROXY mode.
    pub tproxy_table: u32,
    /// The proxy.
    pub proxy: Proxy,
    /// What is captured of outbound traffic.
    pub outbound: Outbound,
    /// What counts as IPv4's explicit loopback destination, which is not captured.
    pub loopback: Cidr,
    /// What is captured of inbound traffic.
    pub inbound: Inbound,
    /// Interfaces with a meaning of their own.
    pub interfaces: Interfaces,
    /// What is captured of DNS.
    pub dns: Dns,
    /// Whether IPv6 is captured.
    pub ipv6: Ipv6,
    /// Whether packets that conntrack calls INVALID are dropped.
    pub drop_invalid: bool,
    seal: Seal,
}

/// Keeps construction inside this module: a policy that exists has been validated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seal;

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Redirect => "REDIRECT",
            Mode::Tproxy => "TPROXY",
            Mode::None => "NONE",
        })
    }
}

impl fmt::Display for Ipv6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Ipv6::Auto => "auto",
            Ipv6::On => "on",
            Ipv6::Off => "off",
        })
    }
}

/// `items` separated by `,`; `none` if there are none.
pub fn list<T: fmt::Display>(items: impl IntoIterator<Item = T>) -> String {
    let text = items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(",");
    if text.is_empty() { "none".into() } else { text }
}

/// One line that a person can read: what is captured, from whom, to where.
impl fmt::Display for CapturePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.mode == Mode::None {
            return f.write_str("capture nothing");
        }
        let Outbound { owners, destinations, exclude_cidrs, exclude_ports, groups } = &self.outbound;
        match owners {
            Owners::Everyone => f.write_str("outbound TCP of everyone")?,
            Owners::Only { uids, gids } => {
                write!(f, "outbound TCP of uid {}", list(uids))?;
                if !gids.is_empty() {
                    write!(f, " or gid {}", list(gids))?;
                }
            }
        }
        write!(f, " but uid {}", list(&self.proxy.uids))?;
        if !self.proxy.gids.is_empty() {
            write!(f, " and gid {}", list(&self.proxy.gids))?;
        }
        match groups {
            Groups::AllExcept(gids) if gids.is_empty() => {}
            Groups::AllExcept(gids) => write!(f, ", not group {}", list(gids))?,
            Groups::Only(gids) => write!(f, ", only group {}", list(gids))?,
        }
        match destinations {
            Destinations::All { .. } => f.write_str(" to anywhere")?,
            Destinations::Some { cidrs, ports } if ports.is_empty() => write!(f, " to {}", list(cidrs))?,
            Destinations::Some { cidrs, ports } if cidrs.is_empty() => write!(f, " to port {ports}")?,
            Destinations::Some { cidrs, ports } => write!(f, " to {} or port {ports}", list(cidrs))?,
        }
        if !exclude_cidrs.is_empty() {
            write!(f, " except {}", list(exclude_cidrs))?;
        }
        if !exclude_ports.is_empty() {
            write!(f, " except port {exclude_ports}")?;
        }
        if !self.interfaces.exclude.is_empty() {
            write!(f, " except by {}", list(&self.interfaces.exclude))?;
        }
        write!(f, " -> {}; ", self.proxy.port)?;
        match &self.dns {
            Dns::Off => {}
            Dns::All { port } => write!(f, "DNS -> {port}; ")?,
            Dns::Servers { port, servers } => write!(f, "DNS to {} -> {port}; ", list(servers))?,
        }
        f.write_str("inbound ")?;
        match &self.inbound {
            Inbound::AllExcept(ports) => {
                f.write_str("all ports")?;
                if self.outbound.owners != Owners::Everyone {
                    f.write_str(" but 22 and the proxy's own")?;
                }
                if !ports.is_empty() {
                    write!(f, " except {ports}")?;
                }
            }
            Inbound::Only(ports) if ports.is_empty() => return f.write_str("none"),
            Inbound::Only(ports) => write!(f, "port {ports}")?,
        }
        if self.mode == Mode::Tproxy {
            f.write_str(" by TPROXY")?;
        }
        write!(f, " -> {}", self.proxy.inbound_port)
    }
}
