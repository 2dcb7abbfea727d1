//! Clients that connect without a pause while something changes, and what became of every connection.

use std::io::{self, Read};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};

use super::creds::Who;
use super::netns::Netns;
use super::serve::Greeting;

const PATIENCE: Duration = Duration::from_secs(3);
/// How many of the connections that went astray are described.
const DESCRIBED: usize = 8;

/// Who dials what from where, one destination after the other.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    pub(crate) from: Netns,
    pub(crate) who: Who,
    pub(crate) to: Vec<SocketAddr>,
}

/// A thread for each route. All of their connections are meant to be captured.
#[derive(Debug)]
pub(crate) struct Clients {
    tally: Arc<Tally>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Tally {
    stop: AtomicBool,
    captured: AtomicUsize,
    astray: AtomicUsize,
    /// Those of them that somebody answered.
    misled: AtomicUsize,
    /// The first of those that went astray.
    described: Mutex<Vec<String>>,
}

impl Clients {
    /// Starts the threads and waits until each has been captured once by the listener called `proxy`.
    #[track_caller]
    pub(crate) fn start(routes: Vec<Route>, proxy: &'static str) -> Self {
        let threads = routes.len();
        let tally = Arc::new(Tally::default());
        let start = |route: Route| {
            let (tally, netns) = (Arc::clone(&tally), route.from.clone());
            netns.spawn(route.who, move || tally.connect_all_the_while(&route, proxy))
        };
        let clients = Self { threads: routes.into_iter().map(start).collect(), tally: Arc::clone(&tally) };
        let end = Instant::now() + PATIENCE;
        while clients.captured() < 10 * threads {
            assert!(Instant::now() < end, "the clients never got going: {}", clients.report());
            std::thread::sleep(Duration::from_millis(1));
        }
        clients
    }

    /// How many connections the proxy has answered so far.
    pub(crate) fn captured(&self) -> usize {
        self.tally.captured.load(Ordering::Relaxed)
    }

    /// How many connections somebody else answered, or nobody.
    pub(crate) fn astray(&self) -> usize {
        self.tally.astray.load(Ordering::Relaxed)
    }

    /// How many connections somebody else answered, or the proxy with a wrong original destination.
    pub(crate) fn misled(&self) -> usize {
        self.tally.misled.load(Ordering::Relaxed)
    }

    /// Fails if a connection went astray.
    #[track_caller]
    pub(crate) fn assert_all_captured(&self, what: &str) {
        assert!(self.astray() == 0, "{what}: expected every connection at the proxy, seen {}", self.report());
    }

    /// The counts, and what went astray.
    pub(crate) fn report(&self) -> String {
        let described = self.tally.described.lock().expect("no client panics").join("\n  ");
        format!("{} captured, {} uncaptured\n  {described}", self.captured(), self.astray())
    }

    /// Ends the threads, so that the counts are final.
    pub(crate) fn stop(&mut self) {
        self.tally.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("no client panics");
        }
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.tally.stop.store(true, Ordering::Relaxed);
    }
}

impl Tally {
    fn connect_all_the_while(&self, route: &Route, proxy: &str) {
        let Route { from, who, to } = route;
        for to in to.iter().cycle() {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let answer = ask(*to);
            let is_ours = |seen: &Greeting| seen.name == proxy && seen.original == Some(*to);
            if answer.as_ref().is_ok_and(is_ours) {
                self.captured.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            self.misled.fetch_add(usize::from(answer.is_ok()), Ordering::Relaxed);
            let seen = answer.map_or_else(|error| error.to_string(), |seen| seen.to_string());
            let mut described = self.described.lock().expect("no client panics");
            if described.len() < DESCRIBED {
                described.push(format!("{who} of `{}` to {to}: {seen}", from.name()));
            }
            self.astray.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Connects, hears who answers, and resets the connection: neither end keeps the port pair for a minute.
fn ask(to: SocketAddr) -> io::Result<Greeting> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    setsockopt(&stream, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut heard = Vec::new();
    let mut buffer = [0; 256];
    while !heard.ends_with(b"\n") {
        match stream.read(&mut buffer)? {
            0 => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed without a greeting")),
            read => heard.extend_from_slice(&buffer[..read]),
        }
    }
    String::from_utf8_lossy(&heard).parse().map_err(io::Error::other)
}
