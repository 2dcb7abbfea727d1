//! A proxy that does not keep up: connections that wait, come by cookies, or are given up on the way.

use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, connect, listen, setsockopt, socket, sockopt,
};

use super::race::{compare_all, connect as call};
use super::{Named, POD, Pod, entries};
use crate::istio::{APP, PROXY};
use crate::support::rules::Family;
use crate::support::serve::{Shared, listener};
use crate::support::wire::THERE;

pub(super) const CASES: &[Named] =
    &[("backlog::full", full), ("backlog::cookies", cookies), ("backlog::given_up", given_up)];

/// Listeners of both families that nobody accepts from yet, with room for so many.
fn slow(pod: &Pod, room: i32) -> [TcpListener; 2] {
    ["0.0.0.0:15001", "[::]:15001"].map(|address| {
        let listener =
            pod.here.run_as(PROXY, || listener(address.parse().expect("an address"), Shared::Nothing));
        listen(&listener, Backlog::new(room).expect("small")).expect("it listens already");
        listener
    })
}

/// Begins to accept; how many were told wrong.
fn accept(pod: &Pod, listeners: [TcpListener; 2]) -> Arc<AtomicUsize> {
    let wrong = Arc::new(AtomicUsize::new(0));
    for listener in listeners {
        let wrong = Arc::clone(&wrong);
        pod.here.spawn(PROXY, move || compare_all(&listener, &wrong));
    }
    wrong
}

fn callers(pod: &Pod, threads: usize, each: usize) -> Vec<std::thread::JoinHandle<()>> {
    let of = |thread| pod.here.spawn(APP, move || (0..each).for_each(|number| call(thread, number)));
    (0..threads).map(of).collect()
}

fn done(pod: &Pod, callers: Vec<std::thread::JoinHandle<()>>, wrong: &AtomicUsize) {
    for caller in callers {
        caller.join().expect("no client panics");
    }
    assert_eq!(wrong.load(Ordering::Relaxed), 0);
    assert_eq!(entries("PAIRS"), 0, "of {:?}", pod.here);
}

/// Their first packets are dropped, and come again.
fn full() {
    let pod = Pod::bare();
    pod.apply(POD);
    let listeners = slow(&pod, 10);
    let callers = callers(&pod, 30, 4);
    sleep(Duration::from_millis(300));
    assert!(entries("PAIRS") > 5, "{} wait", entries("PAIRS"));
    let wrong = accept(&pod, listeners);
    done(&pod, callers, &wrong);
}

/// The kernel keeps nothing of a connection before its handshake is done.
fn cookies() {
    let pod = Pod::bare();
    pod.here.sysctl("net/ipv4/tcp_syncookies", "2");
    pod.apply(POD);
    let wrong = accept(&pod, slow(&pod, 100));
    let callers = callers(&pod, 8, 400);
    done(&pod, callers, &wrong);
    let counters = pod.here.run(|| std::fs::read_to_string("/proc/thread-self/net/netstat")).expect("/proc");
    let mut lines = counters.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
    let received = names.split(' ').zip(values.split(' ')).find(|(name, _)| *name == "SyncookiesRecv");
    let received: u32 = received.expect("counted").1.parse().expect("a number");
    assert!(received > 1000, "only {received} came by cookies");
}

/// Callers that leave before anybody accepts, in order or by a reset: those after them, from the same ports, are told apart.
fn given_up() {
    let pod = Pod::bare();
    pod.here.sysctl("net/ipv4/ip_local_port_range", "40000 41999");
    pod.apply(POD);
    let listeners = slow(&pod, 20);
    pod.here.run_as(APP, || {
        for number in 0..300_u16 {
            for (family, domain) in Family::BOTH.into_iter().zip([AddressFamily::Inet, AddressFamily::Inet6])
            {
                let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
                let socket = socket(domain, SockType::Stream, flags, None).expect("a socket");
                let to = THERE.port(family, 1000 + number);
                let _begun = connect(socket.as_raw_fd(), &SockaddrStorage::from(to)).is_err();
                if number % 2 == 0 {
                    let reset = libc::linger { l_onoff: 1, l_linger: 0 };
                    setsockopt(&socket, sockopt::Linger, &reset).expect("an option");
                }
            }
        }
    });
    let left = entries("PAIRS");
    eprintln!("{left} pairs of 600 are left");
    let wrong = accept(&pod, listeners);
    let callers = callers(&pod, 8, 100);
    for caller in callers {
        caller.join().expect("no client panics");
    }
    assert_eq!(wrong.load(Ordering::Relaxed), 0);
    assert!(entries("PAIRS") <= left.min(100), "{} are left, {left} before", entries("PAIRS"));
}
