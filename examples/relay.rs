//! A sidecar in miniature, for the demonstration and the tests: a TCP relay that asks the kernel where a
//! captured connection was going, and takes it there without touching a byte.
//!
//! It plays three parts, so that nothing else has to be installed: the sidecar, the application behind it
//! (`--app`), and that application's client (`--get`). Sidecar and client print a line per connection with
//! the addresses of its ends, and the application answers with the one that it saw, so a reader can follow a
//! connection through all of them by its port numbers alone.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, Scope};
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, SockaddrIn6, sockopt};

/// How long a dial may take before the client is told that nobody answers.
const DIAL: Duration = Duration::from_secs(3);

/// How long the application and its client wait for the other side to say something.
const PATIENCE: Duration = Duration::from_secs(10);

/// More connections than this at once are refused. A relay whose own dials are captured again (it runs as the
/// wrong user, say) feeds itself; the limit ends that quickly instead of taking the machine's last port.
const MOST_CONNECTIONS: usize = 1024;

/// Bytes moved at a time.
const BUFFER: usize = 64 * 1024;

/// The longest request head or answer that is read.
const LONGEST_MESSAGE: u64 = 64 * 1024;

fn main() -> ExitCode {
    let given = match command().try_get_matches() {
        Ok(given) => given,
        Err(fault) => {
            // There is nobody left to tell when the terminal is gone.
            fault.print().ok();
            return ExitCode::from(if fault.use_stderr() { 64 } else { 0 });
        }
    };
    match run(&given) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            note(&fault);
            ExitCode::FAILURE
        }
    }
}

fn command() -> Command {
    let port = || value_parser!(u16).range(1..);
    Command::new("relay")
        .about("A transparent TCP relay, an application behind it, and a client")
        .arg(
            Arg::new("listen")
                .long("listen")
                .value_name("PORT")
                .value_parser(port())
                .default_value("15001")
                .help("Relay what arrives at this port to where it was going"),
        )
        .arg(
            Arg::new("route")
                .long("route")
                .value_name("FROM=TO")
                .value_parser(value_parser!(Route))
                .action(ArgAction::Append)
                .conflicts_with_all(["app", "get"])
                .help("Take connections to the address FROM to TO, e.g. 127.0.0.1:8001=192.0.2.7:8001"),
        )
        .arg(
            Arg::new("name")
                .long("name")
                .value_name("NAME")
                .conflicts_with("get")
                .help("Begin each line with NAME; as an application: answer in this name"),
        )
        .arg(
            Arg::new("app")
                .long("app")
                .value_name("PORT")
                .value_parser(port())
                .conflicts_with_all(["listen", "get"])
                .help("Be the application: answer HTTP at this port with one line"),
        )
        .arg(
            Arg::new("get")
                .long("get")
                .value_name("ADDRESS:PORT")
                .value_parser(value_parser!(SocketAddr))
                .conflicts_with("listen")
                .help("Be the client: ask the application there and print its line"),
        )
}

fn run(given: &ArgMatches) -> io::Result<()> {
    if let Some(&address) = given.get_one::<SocketAddr>("get") {
        return get(address);
    }
    let name = given.get_one::<String>("name").cloned();
    if let Some(&port) = given.get_one::<u16>("app") {
        let name = name.unwrap_or_else(|| "app".to_owned());
        return serve(port, &|client| answer(client, &name));
    }
    let port = given.get_one::<u16>("listen").copied().unwrap_or(15001);
    let routes = given.get_many::<Route>("route").into_iter().flatten().map(|route| (route.from, route.to));
    let relay =
        Relay { port, routes: routes.collect(), prefix: name.map_or_else(String::new, |name| name + " ") };
    serve(port, &|client| relay.take(client))
}

// === The relay ===

/// One `--route`: connections that were going to `from` are taken to `to`, as a proxy's cluster would.
#[derive(Debug, Clone, Copy)]
struct Route {
    from: SocketAddr,
    to: SocketAddr,
}

/// What the relay knows.
struct Relay {
    port: u16,
    routes: HashMap<SocketAddr, SocketAddr>,
    prefix: String,
}

/// Where a connection goes next, seen from this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Inbound,
    Outbound,
}

impl FromStr for Route {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (from, to) = text.split_once('=').ok_or("expected FROM=TO")?;
        let address = |part: &str| part.parse().map_err(|_| format!("'{part}' is not ADDRESS:PORT"));
        Ok(Self { from: address(from)?, to: address(to)? })
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        })
    }
}

impl Relay {
    /// Takes one connection where it was going. The line is printed before the first byte is moved, so
    /// whoever has an answer in hand finds it in the log.
    fn take(&self, client: TcpStream) -> io::Result<()> {
        let peer = client.peer_addr()?;
        let original = original_destination(&client, peer)?;
        let Some((direction, to)) = self.decide(original) else {
            say(&format!(
                "{}refused peer={peer} original={original} (made to the relay itself)",
                self.prefix
            ));
            return reset(&client);
        };
        let line = format!("{}{direction} peer={peer} original={original} to={to}", self.prefix);
        match TcpStream::connect_timeout(&to, DIAL) {
            Ok(upstream) => {
                say(&format!("{line} from={}", upstream.local_addr()?));
                pump(client, upstream)
            }
            Err(fault) => {
                say(&format!("{line} failed: {fault}"));
                reset(&client)
            }
        }
    }

    /// Where a connection to `original` goes, or `None` when following it would lead back here.
    fn decide(&self, original: SocketAddr) -> Option<(Direction, SocketAddr)> {
        let own = is_own(original);
        if own && original.port() == self.port {
            return None;
        }
        if let Some(&to) = self.routes.get(&original) {
            return Some((if is_own(to) { Direction::Inbound } else { Direction::Outbound }, to));
        }
        if !own {
            return Some((Direction::Outbound, original));
        }
        // A dial to the host's own address would be captured again, whoever makes it. Explicit loopback is
        // not.
        let loopback = match original.ip() {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        };
        Some((Direction::Inbound, SocketAddr::new(loopback, original.port())))
    }
}

/// Where the client was going before the kernel redirected it.
///
/// A connection that was not redirected, or that conntrack has no entry for, was going where it arrived.
fn original_destination(client: &TcpStream, peer: SocketAddr) -> io::Result<SocketAddr> {
    let arrived = client.local_addr()?;
    let asked = match arrived {
        SocketAddr::V4(_) => socket::getsockopt(client, sockopt::OriginalDst)
            .map(|address| SocketAddr::V4(SocketAddrV4::from(SockaddrIn::from(address)))),
        SocketAddr::V6(_) => socket::getsockopt(client, sockopt::Ip6tOriginalDst)
            .map(|address| SocketAddr::V6(with_scope(SocketAddrV6::from(SockaddrIn6::from(address)), peer))),
    };
    match asked {
        Err(Errno::ENOENT | Errno::ENOPROTOOPT) => Ok(arrived),
        answer => Ok(answer?),
    }
}

/// A link-local destination means nothing without its interface, which the kernel leaves out of the original
/// destination; it is the one that the peer's own link-local address names.
fn with_scope(mut original: SocketAddrV6, peer: SocketAddr) -> SocketAddrV6 {
    if let SocketAddr::V6(peer) = peer
        && original.ip().is_unicast_link_local()
        && original.scope_id() == 0
    {
        original.set_scope_id(peer.scope_id());
    }
    original
}

/// Whether `address` belongs to this host. The kernel is asked, by binding a socket to it, because a list of
/// the interfaces' addresses would leave out most of 127.0.0.0/8 and every local route.
fn is_own(mut address: SocketAddr) -> bool {
    address.set_port(0);
    UdpSocket::bind(address).is_ok()
}

/// Copies both ways until both sides have finished. An end of one direction is passed on alone (half-close),
/// a reset as a reset.
fn pump(client: TcpStream, upstream: TcpStream) -> io::Result<()> {
    client.set_nodelay(true)?;
    upstream.set_nodelay(true)?;
    let broken = AtomicBool::new(false);
    thread::scope(|scope| {
        thread::Builder::new().spawn_scoped(scope, || copy(&client, &upstream, &broken))?;
        copy(&upstream, &client, &broken);
        Ok::<(), io::Error>(())
    })?;
    if broken.into_inner() {
        reset(&client)?;
        reset(&upstream)?;
    }
    Ok(())
}

fn copy(from: &TcpStream, to: &TcpStream, broken: &AtomicBool) {
    let copied = io::copy(&mut BufReader::with_capacity(BUFFER, from), &mut &*to);
    if copied.is_err() {
        broken.store(true, Ordering::SeqCst);
    }
    // Either call fails only when its socket has already ended that way.
    if broken.load(Ordering::SeqCst) {
        from.shutdown(Shutdown::Read).ok();
        to.shutdown(Shutdown::Read).ok();
    } else {
        to.shutdown(Shutdown::Write).ok();
    }
}

/// Makes the close that follows a reset, which a client cannot mistake for an orderly end.
fn reset(stream: &TcpStream) -> io::Result<()> {
    Ok(socket::setsockopt(stream, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?)
}

// === The application and its client ===

/// Answers one request with a line that says who asked, as this host sees it.
fn answer(mut client: TcpStream, name: &str) -> io::Result<()> {
    let peer = client.peer_addr()?;
    client.set_read_timeout(Some(PATIENCE))?;
    read_head(&client)?;
    let line = format!("hello from {name}, you are {peer}\n");
    let length = line.len();
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nconnection: close";
    client.write_all(format!("{head}\r\ncontent-length: {length}\r\n\r\n{line}").as_bytes())
}

/// Reads up to the blank line: a close with unread bytes would reset the connection and lose the answer.
fn read_head(client: &TcpStream) -> io::Result<()> {
    let mut tail = [0; 4];
    for byte in BufReader::new(client).take(LONGEST_MESSAGE).bytes() {
        tail.rotate_left(1);
        if let Some(last) = tail.last_mut() {
            *last = byte?;
        }
        if tail == *b"\r\n\r\n" {
            return Ok(());
        }
    }
    Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the request ended before its blank line"))
}

/// Asks for one line and prints it behind the two addresses of the connection that brought it.
fn get(address: SocketAddr) -> io::Result<()> {
    let context = |fault: io::Error| io::Error::new(fault.kind(), format!("{address}: {fault}"));
    let mut server = TcpStream::connect_timeout(&address, DIAL).map_err(context)?;
    let local = server.local_addr()?;
    server.set_read_timeout(Some(PATIENCE))?;
    let request = format!("GET / HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    server.write_all(request.as_bytes()).map_err(context)?;
    let mut answer = String::new();
    server.take(LONGEST_MESSAGE).read_to_string(&mut answer).map_err(context)?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200 ") => {
            say(&format!("{local} -> {address}: {}", body.trim_end()));
            Ok(())
        }
        _ => Err(context(io::Error::other(format!(
            "no answer, but '{}'",
            answer.lines().next().unwrap_or("")
        )))),
    }
}

// === What both servers share ===

/// What is done with a connection.
type Handler<'a> = dyn Fn(TcpStream) -> io::Result<()> + Sync + 'a;

/// Listens on every address of both families and gives each connection a thread of its own.
///
/// Two sockets, because one for both families would show IPv4 peers as IPv6 ones, and the kernel tells the
/// original destination only to a socket of the right family.
fn serve(port: u16, handle: &Handler<'_>) -> io::Result<()> {
    let context =
        |fault: io::Error| io::Error::new(fault.kind(), format!("cannot listen on port {port}: {fault}"));
    let mut listeners = vec![listen(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).map_err(context)?];
    match listen(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))) {
        Ok(listener) => listeners.push(listener),
        // A kernel without IPv6 has none to serve.
        Err(fault) if fault.raw_os_error() == Some(libc::EAFNOSUPPORT) => {}
        Err(fault) => return Err(context(fault)),
    }
    let addresses: Vec<String> =
        listeners.iter().map(|listener| Ok(listener.local_addr()?.to_string())).collect::<io::Result<_>>()?;
    say(&format!("listening {}", addresses.join(" ")));

    let open = AtomicUsize::new(0);
    thread::scope(|scope| {
        for listener in &listeners {
            let open = &open;
            thread::Builder::new().spawn_scoped(scope, move || accept(scope, listener, handle, open))?;
        }
        Ok(())
    })
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket::socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    socket::setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    if address.is_ipv6() {
        socket::setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
    }
    socket::bind(socket.as_raw_fd(), &socket::SockaddrStorage::from(address))?;
    socket::listen(&socket, Backlog::MAXCONN)?;
    Ok(TcpListener::from(socket))
}

/// Hands out the connections that arrive, for ever.
fn accept<'scope>(
    scope: &'scope Scope<'scope, '_>,
    listener: &TcpListener,
    handle: &'scope Handler<'_>,
    open: &'scope AtomicUsize,
) {
    for client in listener.incoming() {
        let started = client.and_then(|client| {
            let place = Place::take(open)?;
            thread::Builder::new().spawn_scoped(scope, move || {
                if let Err(fault) = handle(client) {
                    note(&fault);
                }
                drop(place);
            })
        });
        if let Err(fault) = started {
            note(&fault);
            // Out of threads or descriptors: asking again at once would only burn the processor.
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// One of the places for open connections, given back when dropped.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(open: &'a AtomicUsize) -> io::Result<Self> {
        let place = Self(open);
        if open.fetch_add(1, Ordering::SeqCst) < MOST_CONNECTIONS {
            Ok(place)
        } else {
            Err(io::Error::other("too many open connections, one refused"))
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Prints a line of the answer at once, for readers that wait for it. One write, so lines of several threads
/// do not mix; a reader that has gone does not stop the relay.
fn say(line: &str) {
    let mut out = io::stdout().lock();
    out.write_all(format!("{line}\n").as_bytes()).and_then(|()| out.flush()).ok();
}

/// Tells a person what went wrong.
fn note(fault: &io::Error) {
    io::stderr().lock().write_all(format!("relay: {fault}\n").as_bytes()).ok();
}
