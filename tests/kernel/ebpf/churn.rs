//! Connections that follow on each other by the same few ports.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};

use super::race::{destination, token};
use super::{POD, Pod, entries};
use crate::istio::{APP, PROXY};
use crate::support::serve::{Shared, listener, original};
use crate::telling::{Telling, Whole};

pub(super) const CHURN: Telling =
    Telling { name: "ebpf::churn", body: churn, within: Duration::from_secs(60) };

const SECONDS: Whole = Whole { number: 3, variable: "MESH_INIT_TEST_EBPF_CHURN" };
const CLIENTS: usize = 6;
/// Each port is used again some hundred times a second.
const PORTS: &str = "40000 40255";

/// How a connection ends, by its number: who closes first has the port wait for a minute, unless it is reset.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    Reset,
    ByProxy,
    ByClient,
    /// By a reset, before anybody has said a word.
    AtOnce,
}

impl Ending {
    fn of(number: usize) -> Self {
        match number % 16 {
            0 => Self::ByClient,
            1..4 => Self::ByProxy,
            4..7 => Self::AtOnce,
            _ => Self::Reset,
        }
    }
}

#[derive(Default)]
struct Tally {
    right: AtomicUsize,
    at_once: AtomicUsize,
    /// `EADDRNOTAVAIL`: all ports wait.
    without_port: AtomicUsize,
}

/// Every answer is right, and what cannot be made has no port.
fn churn() -> String {
    let pod = Pod::bare();
    pod.here.sysctl("net/ipv4/ip_local_port_range", PORTS);
    pod.apply(POD);
    for any in [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)] {
        for _ in 0..CLIENTS {
            let listener = pod.here.run_as(PROXY, || listener(SocketAddr::new(any, 15001), Shared::Port));
            pod.here.spawn(PROXY, move || tell_all(&listener));
        }
    }
    let seconds = SECONDS.part(SECONDS.number);
    let end = Instant::now() + Duration::from_secs(u64::try_from(seconds).expect("fewer"));
    let tally = Arc::new(Tally::default());
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let tally = Arc::clone(&tally);
            let calls = move || {
                let numbers = (0..).take_while(|_| Instant::now() < end);
                numbers.for_each(|number| tally.connect(client, number));
            };
            pod.here.spawn(APP, calls)
        })
        .collect();
    for client in clients {
        client.join().expect("no client panics");
    }
    let Tally { right, at_once, without_port } = &*tally;
    let [right, at_once, without_port] =
        [right, at_once, without_port].map(|count| count.load(Ordering::Relaxed));
    // 256 ports in two families.
    assert!(right > 512 * 2, "only {right} answers: no port was used again");
    // What was reset at once may be on its way to the proxy still.
    let settled = Instant::now() + Duration::from_secs(5);
    while entries("PAIRS") > 0 {
        assert!(Instant::now() < settled, "{} pairs are left", entries("PAIRS"));
        std::thread::sleep(Duration::from_millis(10));
    }
    format!(
        "{right} answers in {seconds} s, all right; {at_once} given up at once, {without_port} without a port"
    )
}

/// Tells each client whom it is told that the client called, and closes as the client asks for.
fn tell_all(listener: &TcpListener) {
    for stream in listener.incoming() {
        let mut stream = stream.expect("accepting");
        // One that is gone already.
        let Ok(local) = stream.local_addr() else { continue };
        let told = original(&stream, local).map_or([0; 18], token);
        if stream.write_all(&told).is_ok() {
            let mut word = [0];
            // `q`: quit. Else the client ends it.
            while matches!(stream.read(&mut word), Ok(1)) && word != *b"q" {}
        }
    }
}

impl Tally {
    fn connect(&self, client: usize, number: usize) {
        let to = destination(client, number);
        let mut stream = match TcpStream::connect(to) {
            Ok(stream) => stream,
            Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => {
                self.without_port.fetch_add(1, Ordering::Relaxed);
                std::thread::yield_now();
                return;
            }
            Err(error) => panic!("connection {number} of client {client}, to {to}: {error}"),
        };
        let reset = || {
            let now = libc::linger { l_onoff: 1, l_linger: 0 };
            setsockopt(&stream, sockopt::Linger, &now).expect("an option");
        };
        let ending = Ending::of(number);
        if ending == Ending::AtOnce {
            reset();
            self.at_once.fetch_add(1, Ordering::Relaxed);
            return;
        }
        if ending == Ending::Reset {
            reset();
        }
        let mut told = [0; 18];
        let heard = stream.read_exact(&mut told);
        heard.unwrap_or_else(|error| panic!("connection {number} of client {client}, to {to}: {error}"));
        assert_eq!(told, token(to), "connection {number} of client {client}, to {to}");
        if ending == Ending::ByProxy {
            drop(stream.write_all(b"q"));
            drop(stream.read(&mut [0]));
        }
        self.right.fetch_add(1, Ordering::Relaxed);
    }
}
