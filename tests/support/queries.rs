//! A client that asks without a pause over UDP, and who answered.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::creds::Who;
use super::netns::Netns;
use super::serve::Greeting;

/// An answer that has not come by then does not come.
const PATIENCE: Duration = Duration::from_millis(200);
/// What is counted as lost.
const NOBODY: &str = "nobody";

/// A thread that asks one server after the other, until it is dropped.
#[derive(Debug)]
pub(crate) struct Queries {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    answers: Mutex<Answers>,
}

/// How many queries each answered.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answers(BTreeMap<String, usize>);

impl Queries {
    /// Each query from another port.
    pub(crate) fn start(from: &Netns, who: Who, to: Vec<SocketAddr>) -> Self {
        Self::of(from, who, None, to)
    }

    /// All queries from sockets that stay open, with this port and those after it, one for each server.
    pub(crate) fn from_port(from: &Netns, who: Who, port: u16, to: Vec<SocketAddr>) -> Self {
        Self::of(from, who, Some(port), to)
    }

    fn of(from: &Netns, who: Who, port: Option<u16>, to: Vec<SocketAddr>) -> Self {
        let shared = Arc::new(Shared::default());
        let asking = Arc::clone(&shared);
        let thread = from.spawn(who, move || asking.ask_all_the_while(port, &to));
        Self { shared, thread: Some(thread) }
    }

    /// What was answered since it was last forgotten.
    pub(crate) fn seen(&self) -> Answers {
        self.shared.answers.lock().expect("no client panics").clone()
    }

    /// Begins to count anew, once the query that is under way has had its answer.
    pub(crate) fn forget(&self) {
        std::thread::sleep(Duration::from_millis(5));
        let mut answers = self.shared.answers.lock().expect("no client panics");
        *answers = Answers::default();
    }

    /// Ends it, so that the counts are final.
    pub(crate) fn stop(mut self) -> Answers {
        self.end();
        self.seen()
    }

    fn end(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("no client panics");
        }
    }
}

impl Drop for Queries {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

impl Answers {
    pub(crate) fn of(&self, name: &str) -> usize {
        self.0.get(name).copied().unwrap_or_default()
    }
}

impl fmt::Display for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts: Vec<_> = self.0.iter().map(|(name, count)| format!("{count} by {name}")).collect();
        f.write_str(&counts.join(", "))
    }
}

impl Shared {
    fn ask_all_the_while(&self, port: Option<u16>, to: &[SocketAddr]) {
        let ports = (0..).map(|number| port.map_or(0, |port| port + number));
        let mut sockets: Vec<_> = to.iter().zip(ports).map(|(to, port)| socket(port, *to)).collect();
        for number in (0_u64..).take_while(|_| !self.stop.load(Ordering::Relaxed)) {
            for (socket_of, to) in sockets.iter_mut().zip(to) {
                if port.is_none() {
                    *socket_of = socket(0, *to);
                }
                let name = ask(socket_of, number).unwrap_or_else(|| NOBODY.to_owned());
                *self.answers.lock().expect("no client panics").0.entry(name).or_default() += 1;
            }
        }
    }
}

fn socket(port: u16, to: SocketAddr) -> UdpSocket {
    let any = if to.is_ipv4() { "0.0.0.0" } else { "::" };
    let socket = UdpSocket::bind((any, port)).expect("a free port");
    socket.connect(to).expect("a route");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout above zero");
    socket
}

/// Who answers.
fn ask(socket: &UdpSocket, number: u64) -> Option<String> {
    socket.send(&number.to_be_bytes()).ok()?;
    let mut buffer = [0; 2048];
    let read = socket.recv(&mut buffer).ok()?;
    let greeting: Greeting = String::from_utf8_lossy(&buffer[..read]).parse().ok()?;
    Some(greeting.name)
}
