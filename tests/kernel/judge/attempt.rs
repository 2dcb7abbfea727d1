//! Connections: all that the world has, and making one.

use std::fmt;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
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
        /// The client's own end.
        from: SocketAddr,
    },
    /// The host it went to has nobody who listens.
    Refused,
    Lost(String),
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Seen::Answered { by, from } => write!(f, "from {from}, answered by {by}"),
            Seen::Refused => f.write_str("refused"),
            Seen::Lost(why) => write!(f, "lost: {why}"),
        }
    }
}

impl Attempt {
    pub(super) fn family(&self) -> Family {
        if self.to.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// Makes it, from a source port, if the client says where it comes from with that address.
    pub(super) fn make(&self, netns: &Netns, source: SocketAddr, patience: Duration) -> Seen {
        let made = netns.run_as(self.who, || self.reach(source, patience));
        match made {
            Ok((line, from)) => match line.parse() {
                Ok(by) => Seen::Answered { by, from },
                Err(why) => Seen::Lost(why),
            },
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => Seen::Refused,
            Err(error) => Seen::Lost(error.to_string()),
        }
    }

    fn reach(&self, source: SocketAddr, patience: Duration) -> std::io::Result<(String, SocketAddr)> {
        let family = if self.to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
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
        let mut own = source;
        if self.sends == Sends::Plainly {
            own.set_ip(if own.is_ipv4() { [0; 4].into() } else { [0; 16].into() });
        }
        bind(socket.as_raw_fd(), &SockaddrStorage::from(own))?;
        connect(socket.as_raw_fd(), &SockaddrStorage::from(self.to)).map_err(|error| {
            let overdue = error == Errno::EINPROGRESS;
            if overdue { ErrorKind::TimedOut.into() } else { std::io::Error::from(error) }
        })?;
        if self.udp { ask(&UdpSocket::from(socket)) } else { greet(TcpStream::from(socket)) }
    }
}

fn ask(socket: &UdpSocket) -> std::io::Result<(String, SocketAddr)> {
    socket.send(b"ping")?;
    let mut buffer = [0; 2048];
    let read = socket.recv(&mut buffer)?;
    Ok((String::from_utf8_lossy(&buffer[..read]).into_owned(), socket.local_addr()?))
}

/// Hears the greeting and has some bytes echoed.
fn greet(stream: TcpStream) -> std::io::Result<(String, SocketAddr)> {
    let from = stream.local_addr()?;
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line)?;
    stream.get_mut().write_all(b"ping")?;
    let mut back = [0; 4];
    stream.read_exact(&mut back)?;
    if back != *b"ping" {
        return Err(std::io::Error::other(format!("{:?} came back", String::from_utf8_lossy(&back))));
    }
    Ok((line, from))
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
