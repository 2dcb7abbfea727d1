//! Listeners that say who they are, what the client dialled, and then echo.

use std::fmt;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::net::{
    IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, TcpListener, TcpStream, UdpSocket,
};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::str::FromStr;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, getsockopt, listen, setsockopt,
    socket, sockopt,
};

use super::creds::Who;
use super::netns::Netns;

/// What a listener says first: the connection as it looks from there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Greeting {
    pub(crate) name: String,
    /// `SO_ORIGINAL_DST`; none when conntrack knows nothing of the connection.
    pub(crate) original: Option<SocketAddr>,
    pub(crate) peer: SocketAddr,
    pub(crate) local: SocketAddr,
}

impl fmt::Display for Greeting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let original = self.original.map_or_else(|| "-".to_owned(), |address| address.to_string());
        write!(f, "{} original={original} peer={} local={}", self.name, self.peer, self.local)
    }
}

impl FromStr for Greeting {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let complaint = || format!("not a greeting: {line:?}");
        let mut words = line.trim_end().split(' ');
        let name = words.next().ok_or_else(complaint)?.to_owned();
        let mut field = |key: &str| {
            let word = words.next()?.strip_prefix(key)?.strip_prefix('=')?;
            Some(if word == "-" { None } else { Some(word.parse::<SocketAddr>().ok()?) })
        };
        let original = field("original").ok_or_else(complaint)?;
        let peer = field("peer").flatten().ok_or_else(complaint)?;
        let local = field("local").flatten().ok_or_else(complaint)?;
        Ok(Self { name, original, peer, local })
    }
}

/// A running listener. It ends with the case.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    accepted: Arc<Mutex<Vec<Greeting>>>,
}

impl Service {
    /// Listens on TCP `ports` of every address of `netns`, both families, on sockets that belong to `who`.
    pub(crate) fn tcp(netns: &Netns, who: Who, name: &str, ports: &[u16]) -> Self {
        let service = Self { accepted: Arc::default() };
        let (accepted, name, ports) = (Arc::clone(&service.accepted), name.to_owned(), ports.to_owned());
        let (ready, started) = mpsc::channel();
        netns.spawn(who, move || {
            let both = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
            let addresses = ports.iter().flat_map(|port| both.map(|ip| SocketAddr::new(ip, *port)));
            let listeners: Result<Vec<_>, String> = addresses.map(tcp_listener).collect();
            match listeners {
                Ok(listeners) => {
                    ready.send(Ok(())).expect("the starter waits");
                    accept_all(&name, &listeners, &accepted, None);
                }
                Err(error) => ready.send(Err(error)).expect("the starter waits"),
            }
        });
        started.recv().expect("the listening thread").unwrap_or_else(|error| panic!("{error}"));
        service
    }

    /// Like [`Service::tcp`], on sockets that take connections to addresses of other hosts as well
    /// (`IP_TRANSPARENT`). `who` needs `CAP_NET_ADMIN`.
    pub(crate) fn transparent(netns: &Netns, who: Who, name: &str, ports: &[u16]) -> Self {
        let service = Self { accepted: Arc::default() };
        let both = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        let addresses = ports.iter().flat_map(|port| both.map(|ip| SocketAddr::new(ip, *port)));
        let listeners: Vec<_> = netns.run_as(who, || {
            let transparent = |address| {
                let listener = tcp_listener(address)?;
                // The IPv4 option holds for both families.
                setsockopt(&listener, sockopt::IpTransparent, &true).map_err(|error| error.to_string())?;
                Ok(listener)
            };
            addresses
                .map(transparent)
                .collect::<Result<_, String>>()
                .unwrap_or_else(|error| panic!("{error}"))
        });
        let (accepted, name) = (Arc::clone(&service.accepted), name.to_owned());
        netns.spawn(who, move || accept_all(&name, &listeners, &accepted, None));
        service
    }

    /// Answers datagrams to `port` of every address of `netns`, both families.
    pub(crate) fn udp(netns: &Netns, who: Who, name: &str, port: u16) -> Self {
        let wildcards = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        Self::udp_at(netns, who, name, &wildcards.map(|wildcard| SocketAddr::new(wildcard, port)))
    }

    /// Answers datagrams to these addresses, from the very same.
    pub(crate) fn udp_at(netns: &Netns, who: Who, name: &str, addresses: &[SocketAddr]) -> Self {
        let service = Self { accepted: Arc::default() };
        for &address in addresses {
            let socket = netns.run_as(who, || udp_socket(address)).unwrap_or_else(|error| panic!("{error}"));
            let (accepted, name) = (Arc::clone(&service.accepted), name.to_owned());
            thread::spawn(move || answer_datagrams(&name, &socket, address, &accepted));
        }
        service
    }

    /// Everything that was accepted so far, in order.
    pub(crate) fn accepted(&self) -> Vec<Greeting> {
        self.accepted.lock().expect("no listener panics").clone()
    }
}

/// Listeners that end when this is dropped: their sockets are closed then.
#[derive(Debug)]
pub(crate) struct Ending {
    service: Service,
    end: Option<PipeWriter>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Ending {
    /// Serves what `make` makes, as `who`.
    pub(crate) fn new(
        netns: &Netns,
        who: Who,
        name: &str,
        make: impl FnOnce() -> Vec<TcpListener> + Send,
    ) -> Self {
        let service = Service { accepted: Arc::default() };
        let listeners = netns.run_as(who, make);
        let (accepted, name) = (Arc::clone(&service.accepted), name.to_owned());
        let (reader, writer) = io::pipe().expect("a pipe");
        let serve = move || accept_all(&name, &listeners, &accepted, Some(&reader));
        Self { service, end: Some(writer), thread: Some(netns.spawn(who, serve)) }
    }

    /// On `port` of every address, both families apart.
    pub(crate) fn tcp(netns: &Netns, who: Who, name: &str, port: u16) -> Self {
        let both = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        let one = |ip| listener(SocketAddr::new(ip, port), Shared::Nothing);
        Self::new(netns, who, name, || both.map(one).into())
    }

    /// Everything that was accepted so far, in order.
    pub(crate) fn accepted(&self) -> Vec<Greeting> {
        self.service.accepted()
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        drop(self.end.take());
        self.thread.take().expect("dropped once").join().expect("no listener panics");
    }
}

/// What a listener shares with others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shared {
    Nothing,
    /// Its port, with other listeners.
    Port,
    /// The other family.
    Families,
}

/// A listener.
#[track_caller]
pub(crate) fn listener(address: SocketAddr, shared: Shared) -> TcpListener {
    let fd = bound(address, SockType::Stream, shared).unwrap_or_else(|error| panic!("{error}"));
    listen(&fd, Backlog::MAXCONN).unwrap_or_else(|error| panic!("listening on {address}: {error}"));
    TcpListener::from(fd)
}

fn tcp_listener(address: SocketAddr) -> Result<TcpListener, String> {
    let fd = bound(address, SockType::Stream, Shared::Nothing)?;
    let backlog = Backlog::new(512).map_err(|error| error.to_string())?;
    listen(&fd, backlog).map_err(|error| format!("listening on {address}: {error}"))?;
    Ok(TcpListener::from(fd))
}

fn udp_socket(address: SocketAddr) -> Result<UdpSocket, String> {
    bound(address, SockType::Datagram, Shared::Nothing).map(UdpSocket::from)
}

/// IPv6 sockets take IPv6 only, so that both families stay apart, unless they share them.
fn bound(address: SocketAddr, kind: SockType, shared: Shared) -> Result<OwnedFd, String> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let attempt = || -> nix::Result<_> {
        let fd = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
        setsockopt(&fd, sockopt::ReuseAddr, &true)?;
        if address.is_ipv6() {
            setsockopt(&fd, sockopt::Ipv6V6Only, &(shared != Shared::Families))?;
        }
        if shared == Shared::Port {
            setsockopt(&fd, sockopt::ReusePort, &true)?;
        }
        bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
        Ok(fd)
    };
    attempt().map_err(|error| format!("binding {address}: {error}"))
}

fn accept_all(
    name: &str,
    listeners: &[TcpListener],
    accepted: &Arc<Mutex<Vec<Greeting>>>,
    end: Option<&PipeReader>,
) {
    loop {
        let mut waiting: Vec<_> =
            listeners.iter().map(|listener| PollFd::new(listener.as_fd(), PollFlags::POLLIN)).collect();
        waiting.extend(end.map(|end| PollFd::new(end.as_fd(), PollFlags::POLLIN)));
        poll(&mut waiting, PollTimeout::NONE).expect("polling listeners");
        if end.is_some() && waiting.last().and_then(PollFd::any).unwrap_or(true) {
            return;
        }
        let ready = listeners.iter().zip(&waiting).filter(|(_, poll)| poll.any().unwrap_or(true));
        for (listener, _) in ready {
            // A client that is gone already is not worth a word.
            let Ok((stream, peer)) = listener.accept() else { continue };
            let Ok(local) = stream.local_addr() else { continue };
            let greeting =
                Greeting { name: name.to_owned(), original: original(&stream, local), peer, local };
            accepted.lock().expect("no listener panics").push(greeting.clone());
            thread::spawn(move || greet_and_echo(stream, &greeting));
        }
    }
}

/// The client notices when the connection breaks; the listener has nobody to tell.
fn greet_and_echo(mut stream: TcpStream, greeting: &Greeting) -> Option<()> {
    stream.write_all(format!("{greeting}\n").as_bytes()).ok()?;
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer).ok()? {
            0 => return Some(()),
            read => stream.write_all(buffer.get(..read)?).ok()?,
        }
    }
}

fn answer_datagrams(name: &str, socket: &UdpSocket, local: SocketAddr, accepted: &Mutex<Vec<Greeting>>) {
    let mut buffer = [0; 2048];
    while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
        let greeting = Greeting { name: name.to_owned(), original: None, peer, local };
        accepted.lock().expect("no listener panics").push(greeting.clone());
        let sent: io::Result<usize> = socket.send_to(format!("{greeting}\n").as_bytes(), peer);
        drop(sent);
    }
}

/// `SO_ORIGINAL_DST` of the family that the connection has, whatever its socket's is.
pub(crate) fn original(stream: &TcpStream, local: SocketAddr) -> Option<SocketAddr> {
    if local.ip().to_canonical().is_ipv4() {
        let raw = getsockopt(stream, sockopt::OriginalDst).ok()?;
        let ip = Ipv4Addr::from(u32::from_be(raw.sin_addr.s_addr));
        Some(SocketAddrV4::new(ip, u16::from_be(raw.sin_port)).into())
    } else {
        let raw = getsockopt(stream, sockopt::Ip6tOriginalDst).ok()?;
        let ip = Ipv6Addr::from(raw.sin6_addr.s6_addr);
        Some(SocketAddrV6::new(ip, u16::from_be(raw.sin6_port), 0, 0).into())
    }
}
