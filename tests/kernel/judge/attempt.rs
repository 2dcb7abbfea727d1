//! Connections: all that the world has, and making one.

use std::fmt;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::istio::{APP, PROXY, ROOT_PROXY, neighbour};
use crate::support::creds::Who;
use crate::support::netns::Netns;
use crate::support::rules::Family;
use crate::support::serve::Greeting;
use crate::support::wire::{Addresses, BEHIND, HERE, HERE_FAR, HERE_INNER, LOOPBACK, THERE, THERE_FAR};

/// Nobody listens there.
const CLOSED: u16 = 4321;
const TCP: [u16; 12] = [22, 53, 80, 443, 8001, 8080, 9090, 15001, 15006, 15008, 15021, CLOSED];
const UDP: [u16; 3] = [53, 80, CLOSED];

/// Whose connection it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Here,
    There,
    Behind,
}

/// Where it says that it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sends {
    /// Whatever the kernel chooses.
    Plainly,
    /// From the address by which a proxy passes traffic on.
    Passthrough,
    /// From the client's address with this mark, as a proxy behind TPROXY does.
    AsTheClient(u32),
}

/// How its socket is used. To rules, which see packets, that is all one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// It is bound to a port before.
    Bound,
    /// The kernel chooses the port.
    Free,
    /// An IPv6 socket, that speaks to an IPv4 address in IPv6's form.
    Mapped,
    /// UDP: the address is given with what is sent.
    Unconnected,
    /// Both.
    MappedUnconnected,
}

impl Manner {
    fn is_mapped(self) -> bool {
        matches!(self, Self::Mapped | Self::MappedUnconnected)
    }

    pub(super) fn is_connected(self) -> bool {
        !matches!(self, Self::Unconnected | Self::MappedUnconnected)
    }
}

/// A connection that can be made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt {
    pub(super) from: Origin,
    pub(super) who: Who,
    pub(super) sends: Sends,
    pub(super) udp: bool,
    pub(super) to: SocketAddr,
}

/// What became of one.
#[derive(Clone, Debug)]
pub(super) enum Seen {
    Answered {
        by: Greeting,
        ends: Ends,
    },
    /// The host it went to has nobody who listens.
    Refused,
    Lost(String),
}

/// The ends of a connection, as the client has them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends {
    /// `getsockname`
    pub(super) from: SocketAddr,
    /// `getpeername`, or where an answer says that it comes from.
    pub(super) peer: SocketAddr,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Seen::Answered { by, ends: Ends { from, peer } } => {
                write!(f, "from {from} to {peer}, answered by {by}")
            }
            Seen::Refused => f.write_str("refused"),
            Seen::Lost(why) => write!(f, "lost: {why}"),
        }
    }
}

impl Attempt {
    pub(super) fn family(&self) -> Family {
        if self.to.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// Makes it; `source` is the port that it is bound to, and the address if the client says where it comes from.
    pub(super) fn make(&self, netns: &Netns, manner: Manner, source: SocketAddr, patience: Duration) -> Seen {
        let made = netns.run_as(self.who, || self.reach(manner, source, patience));
        match made {
            Ok((line, ends)) => match line.parse() {
                Ok(by) => Seen::Answered { by, ends },
                Err(why) => Seen::Lost(why),
            },
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => Seen::Refused,
            Err(error) => Seen::Lost(error.to_string()),
        }
    }

    fn reach(&self, manner: Manner, source: SocketAddr, patience: Duration) -> io::Result<(String, Ends)> {
        let v4 = self.to.is_ipv4() && !manner.is_mapped();
        let family = if v4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let kind = if self.udp { SockType::Datagram } else { SockType::Stream };
        let socket: OwnedFd = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
        if let Sends::AsTheClient(mark) = self.sends {
            // The IPv4 option holds for both families.
            setsockopt(&socket, sockopt::IpTransparent, &true)?;
            setsockopt(&socket, sockopt::Mark, &mark)?;
        }
        let time = TimeVal::milliseconds(patience.as_millis().try_into().expect("a short time"));
        // It bounds the connecting as well.
        setsockopt(&socket, sockopt::SendTimeout, &time)?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &time)?;
        if manner == Manner::Bound {
            let mut own = source;
            if self.sends == Sends::Plainly {
                own.set_ip(if own.is_ipv4() { [0; 4].into() } else { [0; 16].into() });
            }
            bind(socket.as_raw_fd(), &SockaddrStorage::from(own))?;
        }
        let to = match self.to {
            SocketAddr::V4(v4) if manner.is_mapped() => (v4.ip().to_ipv6_mapped(), v4.port()).into(),
            SocketAddr::V4(_) | SocketAddr::V6(_) => self.to,
        };
        if manner.is_connected() {
            connect(socket.as_raw_fd(), &SockaddrStorage::from(to)).map_err(|error| {
                let overdue = error == Errno::EINPROGRESS;
                if overdue { ErrorKind::TimedOut.into() } else { io::Error::from(error) }
            })?;
        }
        let (line, Ends { from, peer }) = match self.udp {
            true if manner.is_connected() => ask(&UdpSocket::from(socket))?,
            true => ask_at(&UdpSocket::from(socket), to)?,
            false => greet(TcpStream::from(socket))?,
        };
        // Whoever asked by an address in IPv6's form is told one.
        if from.is_ipv4() != v4 || peer.is_ipv4() != v4 || is_mapped(peer) != manner.is_mapped() {
            return Err(io::Error::other(format!("from {from} to {peer} is of another family")));
        }
        Ok((line, Ends { from: canonical(from), peer: canonical(peer) }))
    }
}

fn is_mapped(address: SocketAddr) -> bool {
    matches!(address, SocketAddr::V6(v6) if v6.ip().to_ipv4_mapped().is_some())
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn ask(socket: &UdpSocket) -> io::Result<(String, Ends)> {
    socket.send(b"ping")?;
    let mut buffer = [0; 2048];
    let read = socket.recv(&mut buffer)?;
    let ends = Ends { from: socket.local_addr()?, peer: socket.peer_addr()? };
    Ok((String::from_utf8_lossy(&buffer[..read]).into_owned(), ends))
}

/// An unconnected socket has a port of its own, and no address.
fn ask_at(socket: &UdpSocket, to: SocketAddr) -> io::Result<(String, Ends)> {
    socket.send_to(b"ping", to)?;
    let mut buffer = [0; 2048];
    let (read, peer) = socket.recv_from(&mut buffer)?;
    Ok((String::from_utf8_lossy(&buffer[..read]).into_owned(), Ends { from: socket.local_addr()?, peer }))
}

/// Hears the greeting and has some bytes echoed.
fn greet(stream: TcpStream) -> io::Result<(String, Ends)> {
    let ends = Ends { from: stream.local_addr()?, peer: stream.peer_addr()? };
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line)?;
    stream.get_mut().write_all(b"ping")?;
    let mut back = [0; 4];
    stream.read_exact(&mut back)?;
    if back != *b"ping" {
        return Err(io::Error::other(format!("{:?} came back", String::from_utf8_lossy(&back))));
    }
    Ok((line, ends))
}

/// Users and groups of `here` that policies tell apart.
const WHO: [Who; 10] = [
    APP,
    Who::ROOT,
    PROXY,
    ROOT_PROXY,
    Who::user(1338),
    Who::user(1339).group(1000),
    APP.group(2000),
    PROXY.group(2000),
    APP.group(4000),
    Who::user(1338).group(4001),
];

/// Every connection of both families that can be made; `mark` is that of TPROXY, and `passthrough` says whether IPv6
/// has the address for it.
pub(super) fn all(mark: Option<u32>, passthrough: bool) -> Vec<Attempt> {
    let mut all = Vec::new();
    for family in Family::BOTH {
        let at = |addresses: &[Addresses]| -> Vec<_> {
            addresses.iter().map(|address| address.ip(family)).collect()
        };
        let mut out = at(&[LOOPBACK, HERE, HERE_FAR, HERE_INNER, THERE, THERE_FAR, BEHIND]);
        out.extend((family == Family::V4).then(|| neighbour(0).ip()));
        let own = at(&[HERE, HERE_FAR, HERE_INNER]);
        let from_there = [own.clone(), at(&[BEHIND])].concat();
        let from_behind = [own.clone(), at(&[THERE, THERE_FAR])].concat();
        let mut add = |from, who: &[Who], sends, ips: &[_]| {
            for (who, ip) in who.iter().flat_map(|who| ips.iter().map(move |ip| (*who, *ip))) {
                let tcp = TCP.iter().map(|port| (false, *port));
                let udp = UDP.iter().map(|port| (true, *port));
                all.extend(tcp.chain(udp).map(|(udp, port)| {
                    let to = SocketAddr::new(ip, port);
                    Attempt { from, who, sends, udp, to }
                }));
            }
        };
        add(Origin::Here, &WHO, Sends::Plainly, &out);
        add(Origin::There, &[APP], Sends::Plainly, &from_there);
        add(Origin::Behind, &[PROXY], Sends::Plainly, &from_behind);
        if family == Family::V4 || passthrough {
            add(Origin::Here, &[PROXY, ROOT_PROXY, APP], Sends::Passthrough, &own);
        }
        if let Some(mark) = mark {
            add(Origin::Here, &[ROOT_PROXY], Sends::AsTheClient(mark), &at(&[HERE]));
        }
    }
    // Its answers come back by what TPROXY does for TCP alone.
    all.retain(|attempt| !(attempt.udp && matches!(attempt.sends, Sends::AsTheClient(_))));
    all
}
