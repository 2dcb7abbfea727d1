//! Clients: who dialled what, and who answered.

use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::creds::Who;
use super::netns::Netns;
use super::serve::Greeting;

/// How long a client waits for anything.
const PATIENCE: Duration = Duration::from_secs(3);

/// One attempt to reach `to`.
#[derive(Clone, Debug)]
pub(crate) struct Dialled {
    from: String,
    who: Who,
    to: SocketAddr,
    pub(crate) answer: Result<Greeting, String>,
}

/// Connects over TCP, hears the greeting, and has some bytes echoed.
pub(crate) fn dial(from: &Netns, who: Who, to: SocketAddr) -> Dialled {
    let answer = Open::try_new(from, who, to).and_then(|mut open| {
        open.try_echo("ping")?;
        Ok(open.greeting)
    });
    Dialled { from: from.name().to_owned(), who, to, answer }
}

/// Where a client sends from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source {
    pub(crate) address: SocketAddr,
    /// The mark of its packets; with one, the address may be another host's (`IP_TRANSPARENT`).
    pub(crate) mark: Option<u32>,
}

/// Like [`dial`], from `source`.
pub(crate) fn dial_from(from: &Netns, who: Who, source: Source, to: SocketAddr) -> Dialled {
    let answer = from.run_as(who, || source.connect(to)).map_err(|error| error.to_string());
    let answer = answer.and_then(|stream| {
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line).map_err(|error| error.to_string())?;
        let mut open = Open { stream, greeting: line.parse()? };
        open.try_echo("ping")?;
        Ok(open.greeting)
    });
    Dialled { from: from.name().to_owned(), who, to, answer }
}

/// Hears the greeting of whom a socket is connected with.
pub(crate) fn hear(stream: TcpStream) -> Result<Greeting, String> {
    stream.set_read_timeout(Some(PATIENCE)).map_err(|error| error.to_string())?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).map_err(|error| error.to_string())?;
    line.parse()
}

/// Sends one datagram from `port` and waits for the answer.
pub(crate) fn dial_udp_from(from: &Netns, who: Who, port: u16, to: SocketAddr) -> Dialled {
    let answer = from.run_as(who, || ask_from(port, to)).map_err(|error| error.to_string());
    let answer = answer.and_then(|line| line.parse());
    Dialled { from: from.name().to_owned(), who, to, answer }
}

impl Source {
    fn connect(self, to: SocketAddr) -> std::io::Result<TcpStream> {
        let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        if let Some(mark) = self.mark {
            // The IPv4 option holds for both families.
            setsockopt(&socket, sockopt::IpTransparent, &true)?;
            setsockopt(&socket, sockopt::Mark, &mark)?;
        }
        // It bounds the connecting as well.
        setsockopt(&socket, sockopt::SendTimeout, &TimeVal::seconds(3))?;
        bind(socket.as_raw_fd(), &SockaddrStorage::from(self.address))?;
        connect(socket.as_raw_fd(), &SockaddrStorage::from(to))?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    }
}

/// Sends one datagram and waits for the answer.
pub(crate) fn dial_udp(from: &Netns, who: Who, to: SocketAddr) -> Dialled {
    let answer = from.run_as(who, || ask(to)).map_err(|error| error.to_string());
    let answer = answer.and_then(|line| line.parse());
    Dialled { from: from.name().to_owned(), who, to, answer }
}

fn ask(to: SocketAddr) -> std::io::Result<String> {
    ask_from(0, to)
}

fn ask_from(port: u16, to: SocketAddr) -> std::io::Result<String> {
    let any = if to.is_ipv4() { "0.0.0.0" } else { "::" };
    let socket = UdpSocket::bind((any, port))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(b"ping")?;
    let mut buffer = [0; 2048];
    let read = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..read]).into_owned())
}

impl Dialled {
    /// Is this a connection that `proxy` got instead of `to`, and does the proxy know what `to` was?
    pub(crate) fn is_captured_by(&self, proxy: &str) -> bool {
        self.answer.as_ref().is_ok_and(|seen| {
            seen.name == proxy && seen.original.is_some_and(|original| is_same(original, self.to))
        })
    }

    /// Is this a connection that reached `server` at exactly the address it was sent to?
    pub(crate) fn is_untouched_to(&self, server: &str) -> bool {
        self.answer.as_ref().is_ok_and(|seen| {
            let is_there = seen.local.port() == self.to.port() && seen.local.ip().is_unspecified();
            seen.name == server
                && seen.original.is_none_or(|original| is_same(original, self.to))
                && (is_there || is_same(seen.local, self.to))
        })
    }

    #[track_caller]
    pub(crate) fn captured_by(&self, proxy: &str) {
        let to = self.to;
        assert!(
            self.is_captured_by(proxy),
            "expected capture by `{proxy}` with original destination {to}, seen {self}"
        );
    }

    #[track_caller]
    pub(crate) fn untouched_to(&self, server: &str) {
        let to = self.to;
        assert!(self.is_untouched_to(server), "expected an answer by `{server}` at {to} itself, seen {self}");
    }
}

/// The number of an interface beside an address means something on one host only, and an IPv4 address has a form in IPv6.
fn is_same(one: SocketAddr, other: SocketAddr) -> bool {
    (one.ip().to_canonical(), one.port()) == (other.ip().to_canonical(), other.port())
}

impl fmt::Display for Dialled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, who, to, answer } = self;
        match answer {
            Ok(greeting) => write!(f, "{who} of `{from}` to {to}: answered by {greeting}"),
            Err(error) => write!(f, "{who} of `{from}` to {to}: no answer, {error}"),
        }
    }
}

/// A connection that stays open.
#[derive(Debug)]
pub(crate) struct Open {
    stream: BufReader<TcpStream>,
    pub(crate) greeting: Greeting,
}

impl Open {
    #[track_caller]
    pub(crate) fn new(from: &Netns, who: Who, to: SocketAddr) -> Self {
        Self::try_new(from, who, to).unwrap_or_else(|error| {
            panic!("{who} of `{}` to {to}: expected a connection, seen {error}", from.name())
        })
    }

    fn try_new(from: &Netns, who: Who, to: SocketAddr) -> Result<Self, String> {
        let connect = || -> std::io::Result<(BufReader<TcpStream>, String)> {
            let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_nodelay(true)?;
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            stream.read_line(&mut line)?;
            Ok((stream, line))
        };
        let (stream, line) = from.run_as(who, connect).map_err(|error| error.to_string())?;
        Ok(Self { stream, greeting: line.parse()? })
    }

    /// Sends bytes and requires the very same back.
    #[track_caller]
    pub(crate) fn echo(&mut self, text: &str) {
        let greeting = &self.greeting;
        let what = format!("the connection with {greeting}: expected {text:?} back, seen");
        self.try_echo(text).unwrap_or_else(|error| panic!("{what} {error}"));
    }

    fn try_echo(&mut self, text: &str) -> Result<(), String> {
        self.stream.get_mut().write_all(text.as_bytes()).map_err(|error| format!("{error} while sending"))?;
        let mut back = vec![0; text.len()];
        self.stream.read_exact(&mut back).map_err(|error| format!("{error} while receiving"))?;
        if back == text.as_bytes() { Ok(()) } else { Err(format!("{:?}", String::from_utf8_lossy(&back))) }
    }
}
