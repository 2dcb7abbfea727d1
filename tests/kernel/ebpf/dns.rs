//! DNS queries, whose answers have to come from where the query went.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::{Named, POD, Pod};
use crate::istio::{APP, PROXY};
use crate::istio_dns::serve_dns;
use crate::support::creds::Who;
use crate::support::dial::{dial, dial_udp};
use crate::support::resolv::resolvers;
use crate::support::rules::Family;
use crate::support::serve::Greeting;
use crate::support::wire::{HERE, LOOPBACK, THERE, THERE_FAR};

pub(super) const CASES: &[Named] = &[
    ("dns::connected", connected),
    ("dns::unconnected", unconnected),
    ("dns::in_the_form_of_ipv6", in_the_form_of_ipv6),
    ("dns::two_servers_of_one_socket", two_servers_of_one_socket),
    ("dns::over_tcp", over_tcp),
    ("dns::other_datagrams", other_datagrams),
    ("dns::agent_down", agent_down),
];

const DNS: u16 = 53;

/// Both of the machine's resolvers are on the other host.
fn pod(flags: &str) -> Pod {
    resolvers(&Family::BOTH.map(|family| THERE.ip(family)));
    let pod = Pod::new(&format!("{POD} --redirect-dns {flags}"));
    serve_dns(&pod.here, &pod.there);
    pod
}

fn client(text: &str) -> UdpSocket {
    let socket = UdpSocket::bind(text).expect("a free port");
    socket.set_read_timeout(Some(Duration::from_secs(2))).expect("a time");
    socket
}

/// A socket that has no port yet.
fn unbound(family: Family) -> UdpSocket {
    let domain = match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    };
    let socket = socket(domain, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
    let socket = UdpSocket::from(socket);
    socket.set_read_timeout(Some(Duration::from_secs(2))).expect("a time");
    socket
}

fn any(family: Family) -> &'static str {
    match family {
        Family::V4 => "0.0.0.0:0",
        Family::V6 => "[::]:0",
    }
}

/// An answer, and where it says that it comes from.
fn receive(socket: &UdpSocket) -> io::Result<(Greeting, SocketAddr)> {
    let mut buffer = [0; 2048];
    let (read, from) = socket.recv_from(&mut buffer)?;
    let line = String::from_utf8_lossy(&buffer[..read]).into_owned();
    Ok((line.parse().map_err(io::Error::other)?, from))
}

fn connected() {
    let pod = pod("");
    for family in Family::BOTH {
        pod.here.run_as(APP, || {
            let to = THERE.port(family, DNS);
            let socket = client(any(family));
            socket.connect(to).expect("a route");
            assert_eq!(socket.peer_addr().expect("connected"), to);
            for _ in 0..3 {
                socket.send(b"query").expect("connected");
                let (seen, from) = receive(&socket).expect("an answer");
                assert_eq!((seen.name.as_str(), from), ("agent", to), "{seen}");
            }
            // Another one, by the same socket: one that had chosen its port is on the loopback interface by now, and cannot leave
            // it.
            let other = socket.connect(THERE_FAR.port(family, DNS));
            assert_eq!(other.is_err(), family == Family::V4, "{other:?}");
            let socket = unbound(family);
            for (to, by) in [(to, "agent"), (THERE_FAR.port(family, DNS), "resolver"), (to, "agent")] {
                socket.connect(to).expect("a route");
                socket.send(b"query").expect("connected");
                let (seen, from) = receive(&socket).expect("an answer");
                assert_eq!((seen.name.as_str(), from), (by, to), "{seen}");
            }
        });
        dial_udp(&pod.here, PROXY, THERE.port(family, DNS)).untouched_to("resolver");
    }
}

fn unconnected() {
    let pod = pod("");
    for family in Family::BOTH {
        pod.here.run_as(APP, || {
            let socket = client(any(family));
            for _ in 0..3 {
                for (to, by) in [
                    (THERE.port(family, DNS), "agent"),
                    (THERE_FAR.port(family, DNS), "resolver"),
                    (HERE.port(family, DNS), "stub"),
                ] {
                    socket.send_to(b"query", to).expect("a route");
                    let (seen, from) = receive(&socket).expect("an answer");
                    assert_eq!((seen.name.as_str(), from), (by, to), "{seen}");
                }
            }
        });
    }
}

/// A socket of IPv6 that asks a server of IPv4.
fn in_the_form_of_ipv6() {
    let pod = pod("");
    pod.here.run_as(APP, || {
        let IpAddr::V4(ip) = THERE.ip(Family::V4) else { panic!("IPv4") };
        let to = SocketAddr::new(ip.to_ipv6_mapped().into(), DNS);
        let socket = client("[::]:0");
        socket.send_to(b"query", to).expect("a route");
        let (seen, from) = receive(&socket).expect("an answer");
        assert_eq!((seen.name.as_str(), from), ("agent", to), "{seen}");
        let socket = client("[::]:0");
        socket.connect(to).expect("a route");
        socket.send(b"query").expect("connected");
        let (seen, from) = receive(&socket).expect("an answer");
        assert_eq!((seen.name.as_str(), from), ("agent", to), "{seen}");
    });
}

/// As musl does it, which takes an answer from any of the servers that it asked: what comes late has the name of the one that
/// was asked last.
fn two_servers_of_one_socket() {
    let pod = pod("--capture-all-dns");
    for family in Family::BOTH {
        pod.here.run_as(APP, || {
            let socket = client(any(family));
            let servers = [THERE, THERE_FAR].map(|host| host.port(family, DNS));
            for to in servers {
                socket.send_to(b"query", to).expect("a route");
            }
            for _ in servers {
                let (seen, from) = receive(&socket).expect("an answer");
                assert_eq!(seen.name, "agent");
                assert!(servers.contains(&from), "{from}");
            }
        });
    }
}

fn over_tcp() {
    let pod = pod("");
    for family in Family::BOTH {
        for who in [APP, Who::ROOT] {
            dial(&pod.here, who, THERE.port(family, DNS)).captured_by("agent");
        }
        dial(&pod.here, PROXY, THERE.port(family, DNS)).untouched_to("resolver");
        dial(&pod.here, APP, THERE_FAR.port(family, DNS)).captured_by("outbound");
        dial(&pod.here, APP, LOOPBACK.port(family, DNS)).untouched_to("stub");
    }
}

/// Nothing of UDP but DNS is anybody's business here.
fn other_datagrams() {
    let pod = pod("--capture-all-dns");
    for family in Family::BOTH {
        let host = THERE.port(family, 5353);
        crate::support::serve::Service::udp_at(&pod.there, Who::ROOT, "other", &[host]);
        dial_udp(&pod.here, APP, host).untouched_to("other");
        // From outside, to the host's own server.
        dial_udp(&pod.there, APP, HERE.port(family, DNS)).untouched_to("stub");
    }
}

/// The agent is not there: the query is refused, and does not go past it.
fn agent_down() {
    resolvers(&Family::BOTH.map(|family| THERE.ip(family)));
    let pod = Pod::new(&format!("{POD} --redirect-dns"));
    for family in Family::BOTH {
        let to = THERE.port(family, DNS);
        let resolver = crate::support::serve::Service::udp_at(&pod.there, Who::ROOT, "resolver", &[to]);
        let seen = dial_udp(&pod.here, APP, to);
        assert_eq!(
            seen.answer.as_ref().err().map(String::as_str),
            Some("Connection refused (os error 111)"),
            "{seen}"
        );
        assert!(dial(&pod.here, APP, to).answer.is_err());
        assert_eq!(resolver.accepted(), []);
    }
}
