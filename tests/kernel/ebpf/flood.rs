//! More connections on their way to the proxy than the programs keep in mind: what is forgotten is learnt again, and not made up.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, connect, listen, setsockopt, socket, sockopt,
};

use super::race::token;
use super::{Named, POD, Pod, entries, serve_apps, serve_proxy};
use crate::child::skip;
use crate::istio::{APP, PROXY};
use crate::support::clients::{Clients, Route};
use crate::support::netns::Netns;
use crate::support::rules::Family;
use crate::support::serve::{Shared, listener, original};
use crate::support::wire::{THERE, THERE_FAR};

pub(super) const CASES: &[Named] =
    &[("flood::of_one_pod", of_one_pod), ("flood::beside_another_pod", beside_another_pod)];

/// As many as `PAIRS` keeps, in `ebpf/src/maps.rs`.
const KEPT_AT_MOST: usize = 16384;
const MANY: usize = KEPT_AT_MOST + 2000;

/// A pod with room for as many sockets and ports, and a proxy there that takes no connections yet.
fn pod() -> (Pod, TcpListener) {
    let needed = u64::try_from(MANY + 1000).expect("fewer");
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    if most < needed {
        skip(&format!("a process may have {most} files, and {needed} are needed"));
    }
    setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("what is allowed");
    let pod = Pod::bare();
    pod.here.sysctl("net/ipv4/ip_local_port_range", "1024 65000");
    pod.apply(POD);
    let waits = pod.here.run_as(PROXY, || listener("0.0.0.0:15001".parse().expect("one"), Shared::Nothing));
    listen(&waits, Backlog::new(1).expect("small")).expect("it listens already");
    (pod, waits)
}

fn destination(number: usize) -> SocketAddr {
    let [_, high, middle, low] = u32::try_from(number).expect("fewer").to_be_bytes();
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 64_u8 + high, middle, low)), 1000 + u16::from(low))
}

/// Begins a connection whose handshake nobody ends.
fn begin(number: usize) -> OwnedFd {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Inet, SockType::Stream, flags, None).expect("a socket");
    let begun = connect(socket.as_raw_fd(), &SockaddrStorage::from(destination(number)));
    assert!(matches!(begun, Ok(()) | Err(Errno::EINPROGRESS)), "{begun:?} of {number}");
    socket
}

const NOBODY: [u8; 18] = [0; 18];

/// Tells each client whom it is told that the client called.
fn tell_all(listener: &TcpListener) {
    for stream in listener.incoming() {
        let mut stream = stream.expect("accepting");
        let told = stream.local_addr().ok().and_then(|local| original(&stream, local)).map_or(NOBODY, token);
        drop(stream.write_all(&told));
    }
}

fn told(mut stream: TcpStream) -> std::io::Result<[u8; 18]> {
    let mut told = NOBODY;
    stream.read_exact(&mut told)?;
    setsockopt(&stream, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?;
    Ok(told)
}

/// More than are kept are told apart, for who waits is entered again; of none a wrong thing is told, and all that come later
/// are told apart.
fn of_one_pod() {
    let (pod, waits) = pod();
    let sockets: Vec<OwnedFd> = pod.here.run_as(APP, || (0..MANY).map(begin).collect());
    let kept = entries("PAIRS");
    assert!(kept > KEPT_AT_MOST / 2 && kept <= KEPT_AT_MOST, "{kept} pairs of {MANY} are kept");
    listen(&waits, Backlog::MAXCONN).expect("it listens already");
    pod.here.spawn(PROXY, move || tell_all(&waits));
    let (mut right, mut nothing, mut failed) = (0, 0, 0);
    for (number, socket) in sockets.into_iter().enumerate() {
        fcntl(&socket, FcntlArg::F_SETFL(OFlag::empty())).expect("a flag");
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a time");
        match told(stream) {
            Ok(NOBODY) => nothing += 1,
            Ok(told) => {
                assert_eq!(told, token(destination(number)), "connection {number}");
                right += 1;
            }
            Err(_) => failed += 1,
        }
    }
    eprintln!("{kept} were kept; {right} told apart, of {nothing} nothing was told, {failed} were refused");
    // Whoever gave way was entered again, when nobody had taken its first packet.
    assert!(right > MANY - MANY / 100, "{right} of {MANY}, of which {kept} were kept");
    for number in 0..2000 {
        let to = destination(number);
        let seen = pod.here.run_as(APP, || TcpStream::connect(to).and_then(told));
        assert_eq!(seen.expect("an answer"), token(to), "a connection that came later, {number}");
    }
    assert_eq!(entries("PAIRS"), 0);
}

/// The map is all pods': a pod that fills it does not make the proxy of another one blind.
fn beside_another_pod() {
    let (pod, _waits) = pod();
    let (here, there) = pod.second(POD);
    serve_apps(&here, &there);
    serve_proxy(&here);
    let to = Family::BOTH.map(|family| [THERE, THERE_FAR].map(|host| host.port(family, 80))).concat();
    let route = |from: &Netns| Route { from: from.clone(), who: APP, to: to.clone() };
    let mut clients = Clients::start(vec![route(&here), route(&here)], "outbound");
    let (stop, begun) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let flood = {
        let (stop, begun) = (Arc::clone(&stop), Arc::clone(&begun));
        pod.here.spawn(APP, move || {
            let mut sockets: Vec<OwnedFd> = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let number = begun.fetch_add(1, Ordering::Relaxed) % MANY;
                // One that is given up makes room for a port, when there are as many as can be.
                if sockets.len() <= number {
                    sockets.push(begin(number));
                } else {
                    sockets[number] = begin(number);
                }
            }
        })
    };
    let before = clients.captured();
    std::thread::sleep(Duration::from_secs(4));
    stop.store(true, Ordering::Relaxed);
    flood.join().expect("it floods");
    clients.stop();
    let begun = begun.load(Ordering::Relaxed);
    assert!(begun > MANY, "only {begun} were begun");
    assert!(clients.captured() > before + 100, "{}", clients.report());
    clients.assert_all_captured("a flood beside");
}
