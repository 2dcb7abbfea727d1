//! Whether the proxy is always told whom a connection was meant for, however many come at once.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};

use super::{POD, Pod, entries};
use crate::istio::{APP, PROXY};
use crate::support::serve::{Shared, listener, original};
use crate::telling::{Telling, Whole};

pub(super) const RACE: Telling = Telling { name: "ebpf::race", body: race, within: Duration::from_secs(180) };

const THREADS: usize = 64;
/// Of all threads together.
const CONNECTIONS: Whole = Whole { number: THREADS * 2000, variable: "MESH_INIT_TEST_EBPF_CONNECTIONS" };
/// How many threads of the proxy's take them.
const WORKERS: u32 = 8;
const RIGHT: u8 = b'r';

/// Every map that connections could make grow.
const MAPS: [&str; 6] = ["PAIRS", "LISTENERS", "NAMESPACES", "NETWORKS", "ADDRESSES", "COUNTERS"];

/// Each connection carries where it was meant to go, and the proxy compares. Half are closed in order, so that their ports
/// wait; half are reset.
fn race() -> String {
    let pod = Pod::bare();
    pod.apply(POD);
    let wrong = Arc::new(AtomicUsize::new(0));
    for address in [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)] {
        for _ in 0..WORKERS {
            let wrong = Arc::clone(&wrong);
            let listener = pod.here.run_as(PROXY, || listener(SocketAddr::new(address, 15001), Shared::Port));
            pod.here.spawn(PROXY, move || compare_all(&listener, &wrong));
        }
    }
    let each = CONNECTIONS.part(THREADS * 2000) / THREADS;
    let sizes = || MAPS.map(entries);
    let before = sizes();
    let started = Instant::now();
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| pod.here.spawn(APP, move || (0..each).for_each(|number| connect(thread, number))))
        .collect();
    for thread in threads {
        thread.join().expect("no client panics");
    }
    let took = started.elapsed();
    assert_eq!(
        wrong.load(Ordering::Relaxed),
        0,
        "connections of which the proxy was told another destination"
    );
    assert_eq!(sizes(), before, "entries of {MAPS:?} after and before {} connections", each * THREADS);
    format!("{} connections in {:.1} s, all told apart", each * THREADS, took.as_secs_f64())
}

/// Three of four are to IPv4, one of these by IPv6's form of the address.
pub(super) fn destination(thread: usize, number: usize) -> SocketAddr {
    let [_, high, middle, low] = u32::try_from(number).expect("fewer").to_be_bytes();
    let thread = u8::try_from(64 + thread).expect("fewer");
    // The third octet of so many is not enough.
    let port = 1 + u16::from(high) * 16 + u16::try_from(number % 13).expect("below");
    let v4 = Ipv4Addr::new(10, thread, middle, low);
    let ip = match number % 4 {
        0 | 1 => IpAddr::V4(v4),
        2 => IpAddr::V6(v4.to_ipv6_mapped()),
        _ => {
            IpAddr::V6(Ipv6Addr::new(0xfd11, thread.into(), 0, 0, 0, 0, 0, u16::from_be_bytes([middle, low])))
        }
    };
    SocketAddr::new(ip, port)
}

pub(super) fn token(address: SocketAddr) -> [u8; 18] {
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let mut token = [0; 18];
    token[..16].copy_from_slice(&ip.octets());
    token[16..].copy_from_slice(&address.port().to_be_bytes());
    token
}

pub(super) fn connect(thread: usize, number: usize) {
    let to = destination(thread, number);
    let attempt = || -> std::io::Result<u8> {
        let mut stream = TcpStream::connect(to)?;
        stream.write_all(&token(to))?;
        let mut verdict = [0];
        stream.read_exact(&mut verdict)?;
        if (number / 4).is_multiple_of(2) {
            setsockopt(&stream, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?;
        }
        Ok(verdict[0])
    };
    let verdict =
        attempt().unwrap_or_else(|error| panic!("connection {number} of thread {thread}, to {to}: {error}"));
    assert_eq!(verdict, RIGHT, "connection {number} of thread {thread}, to {to}");
}

pub(super) fn compare_all(listener: &TcpListener, wrong: &AtomicUsize) {
    for stream in listener.incoming() {
        let mut stream = stream.expect("accepting");
        let told = stream.local_addr().ok().and_then(|local| original(&stream, local)).map(token);
        let mut meant = [0; 18];
        // The client says what broke.
        if stream.read_exact(&mut meant).is_err() {
            continue;
        }
        let right = told == Some(meant);
        if !right {
            eprintln!("told {told:?}, meant {meant:?}");
            wrong.fetch_add(1, Ordering::Relaxed);
        }
        drop(stream.write_all(&[if right { RIGHT } else { b'w' }]));
        thread::yield_now();
    }
}
