//! A proxy that is not there, comes again, or has many listeners.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, Backlog, Shutdown, SockFlag, SockType, SockaddrStorage, bind, listen, shutdown, socket,
};

use super::connects::mptcp;
use super::{KEPT, Named, POD, Pod, entries, serve_apps};
use crate::istio::{APP, PROXY};
use crate::support::bpf;
use crate::support::clients::{Clients, Route};
use crate::support::command::mesh_init;
use crate::support::dial::dial;
use crate::support::rules::Family;
use crate::support::serve::{Ending, Shared, listener};
use crate::support::wire::{HERE, THERE, THERE_FAR};

pub(super) const CASES: &[Named] = &[
    ("proxy::down", down),
    ("proxy::restarts_under_load", restarts_under_load),
    ("proxy::workers", workers),
    ("proxy::more_workers_than_are_known", more_workers_than_are_known),
    ("proxy::one_listener_for_both_families", one_listener_for_both_families),
    ("proxy::listener_of_one_family", listener_of_one_family),
    ("proxy::there_first", there_first),
    ("proxy::listens_again", listens_again),
    ("proxy::listener_of_mptcp", listener_of_mptcp),
    ("proxy::hears_of_a_client_that_is_gone", hears_of_a_client_that_is_gone),
    ("proxy::listeners_of_others_are_forgotten", listeners_of_others_are_forgotten),
];

const REFUSED: &str = "Connection refused (os error 111)";

/// Nobody listens for the proxy: what is captured is refused at once, whichever way it goes.
#[track_caller]
fn all_refused(pod: &Pod) {
    for family in Family::BOTH {
        for (from, to) in [(&pod.here, THERE), (&pod.there, HERE)] {
            let begin = Instant::now();
            let dialled = dial(from, APP, to.port(family, 80));
            assert_eq!(dialled.answer.as_ref().err().map(String::as_str), Some(REFUSED), "{dialled}");
            assert!(begin.elapsed() < Duration::from_millis(500), "refused after {:?}", begin.elapsed());
        }
    }
}

#[track_caller]
fn all_captured(pod: &Pod) {
    for family in Family::BOTH {
        dial(&pod.here, APP, THERE.port(family, 80)).captured_by("outbound");
        dial(&pod.there, APP, HERE.port(family, 80)).captured_by("inbound");
    }
}

fn serve(pod: &Pod) -> [Ending; 2] {
    [Ending::tcp(&pod.here, PROXY, "outbound", 15001), Ending::tcp(&pod.here, PROXY, "inbound", 15006)]
}

fn down() {
    let pod = Pod::bare();
    serve_apps(&pod.here, &pod.there);
    pod.apply(POD);
    all_refused(&pod);
    let proxy = serve(&pod);
    all_captured(&pod);
    drop(proxy);
    assert_eq!(entries("LISTENERS"), 0);
    all_refused(&pod);
    assert_eq!(entries("PAIRS"), 0, "connections that came to nothing");
    // The proxy's own are not captured, and what it does not capture goes on.
    for family in Family::BOTH {
        dial(&pod.here, PROXY, THERE.port(family, 80)).untouched_to("there");
        dial(&pod.here, APP, HERE.port(family, 80)).untouched_to("here");
    }
    pod.clean();
    for family in Family::BOTH {
        dial(&pod.here, APP, THERE.port(family, 80)).untouched_to("there");
        dial(&pod.there, APP, HERE.port(family, 80)).untouched_to("here");
    }
}

/// What is asked while nobody listens is refused; nothing is ever answered by another, or for another destination.
fn restarts_under_load() {
    let pod = Pod::bare();
    serve_apps(&pod.here, &pod.there);
    pod.apply(POD);
    let mut proxy = Some(serve(&pod));
    let route = |from: &_, to| Route { from: Clone::clone(from), who: APP, to };
    let both = |to: [_; 2]| {
        Family::BOTH.map(|family| to.map(|to: crate::support::wire::Addresses| to.port(family, 80)))
    };
    let outbound = both([THERE, THERE_FAR]).concat();
    let inbound = both([HERE, HERE]).concat();
    let mut out = Clients::start(vec![route(&pod.here, outbound)], "outbound");
    let mut inb = Clients::start(vec![route(&pod.there, inbound)], "inbound");
    for round in 0..20 {
        drop(proxy.take());
        settles("LISTENERS", round);
        proxy = Some(serve(&pod));
        assert_eq!(entries("LISTENERS"), 2, "round {round}");
        let (before, end) = ([out.captured(), inb.captured()], Instant::now() + Duration::from_secs(20));
        while out.captured() < before[0] + 20 || inb.captured() < before[1] + 20 {
            assert!(Instant::now() < end, "round {round}: {} {}", out.report(), inb.report());
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    out.stop();
    inb.stop();
    for (way, clients) in [("outbound", &out), ("inbound", &inb)] {
        assert_eq!(clients.misled(), 0, "{way}: {}", clients.report());
        assert!(clients.astray() > 0, "{way}: no connection met a proxy that was down: {}", clients.report());
    }
    settles("PAIRS", 20);
}

/// Sockets that are closed are gone in the kernel's own time, on a busy machine.
fn settles(map: &str, round: usize) {
    let end = Instant::now() + Duration::from_secs(5);
    while entries(map) > 0 {
        assert!(Instant::now() < end, "round {round}: {} are left in {map}", entries(map));
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn any(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    }
}

fn worker(pod: &Pod, port: u16, name: &str) -> Ending {
    let make =
        || Family::BOTH.map(|family| listener(SocketAddr::new(any(family), port), Shared::Port)).into();
    Ending::new(&pod.here, PROXY, name, make)
}

/// The kernel spreads connections over them all, and goes on with those that are left.
fn workers() {
    let pod = Pod::bare();
    pod.apply(POD);
    for (port, name, from, to) in
        [(15001, "outbound", &pod.here, THERE), (15006, "inbound", &pod.there, HERE)]
    {
        let mut workers: Vec<_> = (0..3).map(|_| worker(&pod, port, name)).collect();
        if port == 15006 {
            assert_eq!(entries("LISTENERS"), 6);
        }
        while !workers.is_empty() {
            for family in Family::BOTH {
                let before: Vec<_> = workers.iter().map(|worker| worker.accepted().len()).collect();
                for _ in 0..40 {
                    dial(from, APP, to.port(family, 80)).captured_by(name);
                }
                let after = workers.iter().map(|worker| worker.accepted().len());
                assert!(
                    after.zip(&before).all(|(after, before)| after > *before),
                    "{name}: a worker had nothing"
                );
            }
            workers.pop();
        }
    }
}

/// Each worker listens in both families, one worker after the other, and the last one of all in one.
fn more_workers_than_are_known() {
    let pod = Pod::bare();
    pod.apply(POD);
    let many: Vec<_> = (0..20).map(|_| worker(&pod, 15006, "inbound")).collect();
    let last = Ending::new(&pod.here, PROXY, "inbound", || {
        vec![listener(SocketAddr::new(any(Family::V4), 15006), Shared::Port)]
    });
    let all = |from: &str| {
        for family in Family::BOTH {
            for _ in 0..10 {
                dial(&pod.there, APP, HERE.port(family, 80)).captured_by(from);
            }
        }
    };
    all("inbound");
    // The next proxy comes while this one is there.
    let next: Vec<_> = (0..20).map(|_| worker(&pod, 15006, "next")).collect();
    drop((many, last));
    all("next");
    drop(next);
    assert_eq!(entries("LISTENERS"), 0);
}

fn one_listener_for_both_families() {
    let pod = Pod::bare();
    serve_apps(&pod.here, &pod.there);
    pod.apply(POD);
    let dual = |port| move || vec![listener(SocketAddr::new(any(Family::V6), port), Shared::Families)];
    let _proxy = [
        Ending::new(&pod.here, PROXY, "outbound", dual(15001)),
        Ending::new(&pod.here, PROXY, "inbound", dual(15006)),
    ];
    assert_eq!(entries("LISTENERS"), 1);
    all_captured(&pod);
}

/// What it does not take is refused, and does not reach the application.
fn listener_of_one_family() {
    let pod = Pod::bare();
    serve_apps(&pod.here, &pod.there);
    pod.apply(POD);
    for (one, other) in [(Family::V4, Family::V6), (Family::V6, Family::V4)] {
        let make = || vec![listener(SocketAddr::new(any(one), 15006), Shared::Nothing)];
        let _proxy = Ending::new(&pod.here, PROXY, "inbound", make);
        dial(&pod.there, APP, HERE.port(one, 80)).captured_by("inbound");
        let dialled = dial(&pod.there, APP, HERE.port(other, 80));
        assert_eq!(dialled.answer.as_ref().err().map(String::as_str), Some(REFUSED), "{dialled}");
    }
}

/// It listens before the policy comes.
fn there_first() {
    let pod = Pod::bare();
    serve_apps(&pod.here, &pod.there);
    let proxy = serve(&pod);
    pod.apply(POD);
    assert_eq!(entries("LISTENERS"), 2);
    all_captured(&pod);
    drop(proxy);
    all_refused(&pod);
    let _proxy = serve(&pod);
    all_captured(&pod);
}

/// A socket that stops listening and begins again is the proxy's still.
fn listens_again() {
    let pod = Pod::bare();
    serve_apps(&pod.here, &pod.there);
    pod.apply(POD);
    let socket =
        pod.here.run_as(PROXY, || listener(SocketAddr::new(any(Family::V4), 15006), Shared::Nothing));
    let again = socket.try_clone().expect("a second descriptor");
    let _proxy = Ending::new(&pod.here, PROXY, "inbound", || vec![socket]);
    let to = HERE.port(Family::V4, 80);
    dial(&pod.there, APP, to).captured_by("inbound");
    shutdown(again.as_raw_fd(), Shutdown::Both).expect("it listens");
    // The map may know it still; it takes nothing.
    let dialled = dial(&pod.there, APP, to);
    assert_eq!(dialled.answer.as_ref().err().map(String::as_str), Some(REFUSED), "{dialled}");
    listen(&again, Backlog::MAXCONN).expect("the same address");
    dial(&pod.there, APP, to).captured_by("inbound");
}

/// The kernel gives a socket of MPTCP no connections that way: what arrives is refused, and a policy for a proxy that has one is
/// not taken up.
fn listener_of_mptcp() {
    let pod = Pod::bare();
    serve_apps(&pod.here, &pod.there);
    pod.apply(POD);
    let listening = pod.here.run_as(PROXY, || {
        let socket = mptcp(Family::V4);
        let address = SockaddrStorage::from(SocketAddr::new(any(Family::V4), 15006));
        bind(socket.as_raw_fd(), &address).expect("a free port");
        listen(&socket, Backlog::MAXCONN).expect("bound");
        socket
    });
    assert_eq!(entries("LISTENERS"), 0);
    let dialled = dial(&pod.there, APP, HERE.port(Family::V4, 80));
    assert_eq!(dialled.answer.as_ref().err().map(String::as_str), Some(REFUSED), "{dialled}");
    mesh_init(&pod.here, &pod.words(&format!("{POD} -d 22"))).code(1).says("MPTCP");
    drop(listening);
    let _proxy = serve(&pod);
    all_captured(&pod);
}

/// A client that has closed while the proxy still has something to say: the proxy is told by a reset, as it is behind rules.
fn hears_of_a_client_that_is_gone() {
    use std::io::Write;
    let (ruled, _there) = crate::support::wire::two_hosts();
    for family in Family::BOTH {
        ruled.ip(&format!("route replace default via {}", THERE.ip(family)));
    }
    let words = ["apply"].into_iter().chain(POD.split(' ')).chain(["--backend", "nftables"]);
    mesh_init(&ruled, &words.collect::<Vec<_>>()).ok();
    let pod = Pod::bare();
    pod.apply(POD);
    let mut unheard = Vec::new();
    for (what, here) in [("rules", &ruled), ("sockets", &pod.here)] {
        for family in Family::BOTH {
            let make = || listener(SocketAddr::new(any(family), 15001), Shared::Nothing);
            let listening = here.run_as(PROXY, make);
            let client = here.run_as(APP, || TcpStream::connect(THERE.port(family, 80)).expect("captured"));
            let (mut accepted, _) = listening.accept().expect("a connection");
            drop(client);
            let begin = Instant::now();
            while accepted.write_all(b"more").is_ok() {
                if begin.elapsed() > Duration::from_secs(2) {
                    unheard.push((what, family));
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
    assert_eq!(unheard, [], "the proxy never heard of it");
}

/// Of a listener that is no proxy's nothing is remembered, so that what it accepts costs no memory.
fn listeners_of_others_are_forgotten() {
    let pod = Pod::bare();
    pod.apply(&format!("{POD} -d 7070"));
    let socks = Path::new(KEPT).join("maps/SOCKS");
    for (who, port, proxys) in [(APP, 7070, false), (PROXY, 15006, true)] {
        let any: SocketAddr = (Ipv4Addr::UNSPECIFIED, port).into();
        let make = || socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None);
        let unbound = pod.here.run_as(who, || make().expect("a socket"));
        assert!(bpf::knows(&socks, &unbound), "who made it is known");
        bind(unbound.as_raw_fd(), &SockaddrStorage::from(any)).expect("a free port");
        listen(&unbound, Backlog::new(4).expect("small")).expect("it is bound");
        assert_eq!(bpf::knows(&socks, &unbound), proxys, "port {port}");
        let listening = TcpListener::from(unbound);
        let _client = pod.there.run(|| TcpStream::connect(HERE.port(Family::V4, 7070 + u16::from(proxys))));
        let (accepted, _) = listening.accept().expect("a connection");
        assert_eq!(bpf::knows(&socks, &accepted), proxys, "port {port}");
    }
}
