//! Connections that tell whether the kernel captures: towards addresses that are nobody's (RFC 5737, RFC 3849), and
//! from a neighbour of our own.
//!
//! Where the capture port is free, a listener of ours stands there for a moment and must be handed a random token.
//! Where a proxy listens, nothing is bound: one first packet is sent that no program ever sees, and connection
//! tracking is asked where it went.
//!
//! All of it happens in the network namespace of the calling thread. What is not captured goes one hop and no
//! further; what is captured never leaves.

mod conntrack;
mod link;
mod owner;
mod syn;
mod token;
mod validate;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use conntrack::{Conntrack, Entry, Tuple};
pub use link::NEIGHBOUR;
use nix::net::if_::InterfaceFlags;
use syn::{Form, Syn};
use token::{Attempt, Listener, Met, token};
pub use validate::validate;

/// How far an uncaptured packet goes.
const ONE_HOP: Option<u8> = Some(1);
/// After this an unanswered connection is looked up before it is waited for any longer.
const GLANCE: Duration = Duration::from_millis(100);
/// So long does connection tracking take at most to see a packet that has arrived, and TCP to answer it.
const SILENCE: Duration = Duration::from_millis(20);
/// TCP sends a first packet again after a second (`TCP_TIMEOUT_INIT`, include/net/tcp.h): never that long.
const ONE_PACKET: Duration = Duration::from_millis(900);

/// The wire to the neighbour: this end, and the other. The last of TEST-NET-2, where a lab is least likely to be.
const WIRE_V4: (Ipv4Addr, Ipv4Addr) = (Ipv4Addr::new(198, 51, 100, 253), Ipv4Addr::new(198, 51, 100, 254));
const WIRE_V6: (Ipv6Addr, Ipv6Addr) = (
    Ipv6Addr::new(0x2001, 0xdb8, 0x6d69, 0, 0, 0, 0, 1),
    Ipv6Addr::new(0x2001, 0xdb8, 0x6d69, 0, 0, 0, 0, 2),
);

/// What a probe has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Our listener on the capture port got the token, and was told the destination that the client had dialled.
    Token,
    /// Connection tracking shows that the kernel sent the probe to the capture port. Nobody accepted anything.
    Conntrack,
    /// It is not captured, or not as it should be; what was seen.
    Contradicts(String),
    /// It could not be tried: the capability that is missing by name, or another reason.
    Untried(String),
}

/// A connection from this namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outbound {
    /// Where to: an address of nobody, as 192.0.2.1 or 2001:db8::1. It says the family as well.
    pub destination: SocketAddr,
    /// Whose connection; ours if none.
    pub uid: Option<u32>,
    /// Which group's; ours if none.
    pub gid: Option<u32>,
    /// Where it must arrive.
    pub capture_port: u16,
    /// Whether somebody listens there.
    pub held: bool,
}

/// A connection from outside to this namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inbound {
    /// In IPv6.
    pub v6: bool,
    /// The port that is dialled.
    pub port: u16,
    /// Where it must arrive.
    pub capture_port: u16,
    /// Whether somebody listens there.
    pub held: bool,
    /// Whether it is captured by TPROXY.
    pub transparent: bool,
}

/// Tries an outbound connection; an answer takes no longer than `deadline` and a little.
///
/// A process-wide effect: where a uid or gid is given, the kernel makes the process undumpable (`commit_creds`).
#[must_use]
pub fn outbound(probe: &Outbound, deadline: Duration) -> Answer {
    let loopback: IpAddr = match probe.destination {
        SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    let attempt = || {
        let listener = listener(probe.held, SocketAddr::new(loopback, probe.capture_port), false)?;
        // Both are opened with our own credentials.
        let (conntrack, token) = (Conntrack::open(), token()?);
        owner::with(probe.uid, probe.gid, || match listener {
            Some(listener) => connect_out(probe, &listener, conntrack.ok(), token, deadline),
            None => trace_out(probe, &mut conntrack?, token),
        })
    };
    attempt().unwrap_or_else(Answer::Untried)
}

/// Tries an inbound connection; an answer takes no longer than `deadline` and the making of a link.
#[must_use]
pub fn inbound(probe: &Inbound, deadline: Duration) -> Answer {
    let (ours, theirs): (IpAddr, IpAddr) =
        if probe.v6 { (WIRE_V6.0.into(), WIRE_V6.1.into()) } else { (WIRE_V4.0.into(), WIRE_V4.1.into()) };
    let attempt = || {
        // On the wire's own address: no connection of anybody else can arrive there. Both REDIRECT and TPROXY
        // send to the address of the interface on which a connection comes in.
        let listener = listener(probe.held, SocketAddr::new(ours, probe.capture_port), probe.transparent)?;
        if listener.is_none() && probe.transparent {
            return Err("a proxy holds the port, and TPROXY leaves no trace in conntrack".to_owned());
        }
        let (conntrack, token) = (Conntrack::open(), token()?);
        let destination = SocketAddr::new(ours, probe.port);
        link::beside(ours, theirs, move || {
            come_in(probe, destination, listener.as_ref(), conntrack, token, deadline)
        })
    };
    attempt().unwrap_or_else(Answer::Untried)
}

/// Begins a connection to `destination` as the user and group, and gives it up. A packet that goes out ends at the first
/// router. It counts where sockets are looked at.
///
/// # Errors
/// A phrase that says why it cannot be begun.
pub fn begin(destination: SocketAddr, uid: Option<u32>, gid: Option<u32>) -> Result<(), String> {
    owner::with(uid, gid, || token::begin(destination))
}

/// Whether what is redirected gets over lo: it is up, and has the family's loopback address.
#[must_use]
pub fn loopback_is_up(v6: bool) -> bool {
    let Ok(mut interfaces) = nix::ifaddrs::getifaddrs() else { return true };
    // The route to 127.0.0.1 stays while lo is down, the one to ::1 goes; and without IPv6 on lo it is not there.
    let flags = InterfaceFlags::IFF_UP | InterfaceFlags::IFF_LOOPBACK;
    let up = interfaces.any(|interface| interface.flags.contains(flags));
    up && leads_to_loopback(v6)
}

fn leads_to_loopback(v6: bool) -> bool {
    let loopback: IpAddr = if v6 { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() };
    let any: IpAddr = if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    // Connecting a datagram socket only looks the way up (ip(7)).
    let way = std::net::UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect((loopback, 9))?;
        socket.local_addr()
    });
    // Without lo, a default route leads there too, from another address.
    way.is_ok_and(|from| from.ip().is_loopback())
}

/// Our listener; `None` if the port is held.
fn listener(held: bool, at: SocketAddr, transparent: bool) -> Result<Option<Listener>, String> {
    if held { Ok(None) } else { Listener::bind(at, transparent) }
}

fn connect_out(
    probe: &Outbound,
    listener: &Listener,
    mut conntrack: Option<Conntrack>,
    token: token::Token,
    deadline: Duration,
) -> Result<Answer, String> {
    let end = Instant::now() + deadline.min(ONE_PACKET);
    let mut attempt = Attempt::start(probe.destination, ONE_HOP, token)?;
    let tuple = attempt.tuple;
    let mut met = attempt.wait(listener, GLANCE.min(deadline));
    let entry = match &met {
        Some(Met::Token(_)) => None,
        _ => conntrack.as_mut().and_then(|conntrack| conntrack.look(&tuple).ok().flatten()),
    };
    let arrives = |entry: &Entry| is_capture(entry, &tuple, probe.capture_port);
    if met.is_none() && entry.as_ref().is_none_or(arrives) {
        met = attempt.wait(listener, end.saturating_duration_since(Instant::now()));
    }
    drop(attempt);
    if let Some(conntrack) = &mut conntrack {
        conntrack.forget(&tuple);
    }
    Ok(match (met, entry) {
        (Some(Met::Token(original)), _) => arrived(original, probe.destination),
        // What connection tracking knows is more than what a client sees.
        (_, Some(entry)) if !arrives(&entry) => elsewhere(&entry, probe.destination),
        (met, Some(entry)) => {
            let seen = met.map_or_else(|| "and did not arrive there".to_owned(), describe);
            Answer::Contradicts(format!("it was redirected to {}, {seen}", entry.answers))
        }
        (Some(met), None) => Answer::Contradicts(describe(met)),
        (None, None) => {
            Answer::Contradicts(format!("it did not arrive at port {}, nobody answered", probe.capture_port))
        }
    })
}

/// Sends one packet that nobody takes, and asks where it went.
fn trace_out(probe: &Outbound, conntrack: &mut Conntrack, token: token::Token) -> Result<Answer, String> {
    let syn = Syn::new(probe.destination, ONE_HOP, number(token))?;
    // What cannot be asked is not worth a packet.
    conntrack.look(&syn.tuple)?;
    syn.send(Form::Spoilt)?;
    let entry = conntrack.look(&syn.tuple)?;
    conntrack.forget(&syn.tuple);
    Ok(match entry {
        Some(entry) if is_capture(&entry, &syn.tuple, probe.capture_port) => Answer::Conntrack,
        Some(entry) => elsewhere(&entry, probe.destination),
        None => Answer::Contradicts("it went out, and conntrack does not know it".to_owned()),
    })
}

/// What happens in the neighbour's namespace.
fn come_in(
    probe: &Inbound,
    destination: SocketAddr,
    listener: Option<&Listener>,
    mut conntrack: Result<Conntrack, String>,
    token: token::Token,
    deadline: Duration,
) -> Result<Answer, String> {
    let mut traced = Err("TPROXY leaves no trace in conntrack".to_owned());
    if !probe.transparent {
        // First without a connection: where nothing captures it, that would be somebody's.
        traced = conntrack
            .as_mut()
            .map_err(|why| why.clone())
            .and_then(|conntrack| trace_in(probe, destination, conntrack, token, deadline));
    }
    let Some(listener) = listener else { return traced };
    if let Ok(Answer::Contradicts(_)) = traced {
        return traced;
    }
    let mut attempt = Attempt::start(destination, None, token)?;
    let tuple = attempt.tuple;
    let met = attempt.wait(listener, deadline.min(ONE_PACKET));
    drop(attempt);
    if let Ok(conntrack) = &mut conntrack {
        conntrack.forget(&tuple);
    }
    match (met, traced) {
        (Some(Met::Token(original)), _) => Ok(arrived(original, destination)),
        // A filter may drop what comes in on an interface that it does not know; the redirect is there.
        (_, Ok(answer)) => Ok(answer),
        (Some(met), Err(_)) => Ok(Answer::Contradicts(describe(met))),
        (None, Err(_)) => Err(dropped(destination)),
    }
}

fn trace_in(
    probe: &Inbound,
    destination: SocketAddr,
    conntrack: &mut Conntrack,
    token: token::Token,
    deadline: Duration,
) -> Result<Answer, String> {
    let syn = Syn::new(destination, None, number(token))?;
    conntrack.look(&syn.tuple)?;
    let mut answered = false;
    // Connection tracking shows where the first goes. If there is none, the second is answered by whoever gets it.
    for (form, patience) in [(Form::Signed, SILENCE.min(deadline)), (Form::Plain, deadline.min(ONE_PACKET))] {
        syn.send(form)?;
        let end = Instant::now() + patience;
        while !answered && Instant::now() < end {
            let entry = conntrack.look(&syn.tuple)?;
            answered |= syn.is_answered();
            if let Some(entry) = entry {
                // The answer to a packet that is answered needs its entry to find the way, and so does the reset.
                std::thread::sleep(SILENCE);
                conntrack.forget(&syn.tuple);
                if is_capture(&entry, &syn.tuple, probe.capture_port) {
                    return Ok(Answer::Conntrack);
                }
                return Ok(elsewhere(&entry, destination));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    if answered {
        return Ok(Answer::Contradicts(format!("{destination} answered, and conntrack does not know it")));
    }
    Err(dropped(destination))
}

/// REDIRECT sends what goes out to loopback, and what comes in to the interface's own address
/// (net/netfilter/nf_nat_redirect.c).
fn is_capture(entry: &Entry, tuple: &Tuple, capture_port: u16) -> bool {
    let Entry { answers } = entry;
    let is_here = answers.ip().is_loopback() || answers.ip() == tuple.destination.ip();
    is_here && answers.port() == capture_port && *answers != tuple.destination
}

/// Does `work` on a thread of its own, which takes with it what cannot be undone.
fn on_a_thread<T: Send>(work: impl FnOnce() -> Result<T, String> + Send) -> Result<T, String> {
    std::thread::scope(|scope| match std::thread::Builder::new().spawn_scoped(scope, work) {
        Ok(thread) => thread.join().unwrap_or_else(|_| Err("its thread panicked".to_owned())),
        Err(error) => Err(format!("no thread to be had: {error}")),
    })
}

/// A sequence number that nobody guesses.
fn number(token: token::Token) -> u32 {
    token.iter().take(4).fold(0, |number, byte| number << 8 | u32::from(*byte))
}

fn arrived(original: SocketAddr, destination: SocketAddr) -> Answer {
    if (original.ip(), original.port()) == (destination.ip(), destination.port()) {
        return Answer::Token;
    }
    Answer::Contradicts(format!("it arrived with the original destination {original}, not {destination}"))
}

fn elsewhere(entry: &Entry, destination: SocketAddr) -> Answer {
    if entry.answers == destination {
        return Answer::Contradicts(format!("conntrack shows that it went to {destination} itself"));
    }
    Answer::Contradicts(format!("conntrack shows that it was sent to {}", entry.answers))
}

fn describe(met: Met) -> String {
    match met {
        Met::Token(original) => format!("the token arrived, meant for {original}"),
        Met::NoToken => "the connection arrived, and not the token".to_owned(),
        Met::Stranger => "somebody else accepted it".to_owned(),
        Met::Failed(error) => format!("the connection failed: {}", error.desc()),
    }
}

fn dropped(destination: SocketAddr) -> String {
    format!("nothing answered at {destination}: this host drops what comes in on a new interface")
}
