//! Other ways into the kernel than the calls of libc: queues of io_uring, and programs of 32 bits.

use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::SockaddrStorage;

use super::{Named, POD, Pod, serve_apps};
use crate::child::skip;
use crate::istio::{APP, PROXY};
use crate::support::compat::{self, Low};
use crate::support::creds::Who;
use crate::support::dial::hear;
use crate::support::rules::Family;
use crate::support::serve::{Shared, listener, original};
use crate::support::uring::{By, Ring};
use crate::support::wire::THERE;

pub(super) const CASES: &[Named] = &[
    ("ways::sockets_connected_by_a_ring", sockets_connected_by_a_ring),
    ("ways::sockets_made_by_a_ring", sockets_made_by_a_ring),
    ("ways::ring_of_another_user", ring_of_another_user),
    ("ways::programs_of_32_bits", programs_of_32_bits),
    ("ways::original_destination_for_32_bits", original_destination_for_32_bits),
];

fn ring(by: By) -> Ring {
    Ring::new(by).unwrap_or_else(|error| match error.raw_os_error() {
        Some(libc::EPERM | libc::ENOSYS) => skip(&format!("the kernel gives no ring: {error}")),
        _ => panic!("a ring: {error}"),
    })
}

fn domain(family: Family) -> i32 {
    if family == Family::V4 { libc::AF_INET } else { libc::AF_INET6 }
}

/// Who answers, and what it was told.
fn greeted(socket: OwnedFd) -> (String, Option<SocketAddr>) {
    let seen = hear(TcpStream::from(socket)).expect("a greeting");
    (seen.name, seen.original)
}

fn plain(family: Family) -> OwnedFd {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    let domain = if family == Family::V4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
    socket(domain, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("a socket")
}

/// Each user's goes where its calls go, whichever thread of the kernel's does the work.
fn sockets_connected_by_a_ring() {
    with_rings(|family, _| plain(family));
}

/// A socket that the ring has made is of the ring's user.
fn sockets_made_by_a_ring() {
    with_rings(|family, ring| match ring.socket(domain(family)) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            skip("the kernel's rings make no sockets, which they do since Linux 5.19")
        }
        made => made.expect("a socket"),
    });
}

fn with_rings(make: fn(Family, &Ring) -> OwnedFd) {
    let pod = Pod::new(POD);
    for by in By::ALL {
        for (number, who) in [APP, PROXY, Who::ROOT].into_iter().enumerate() {
            pod.here.run_as(who, || {
                let ring = ring(by);
                for family in Family::BOTH {
                    // Each its own port: an answer for another would be seen.
                    let to = THERE.port(family, [80, 443, 9090][number]);
                    let socket = make(family, &ring);
                    ring.connect(&socket, &SockaddrStorage::from(to))
                        .unwrap_or_else(|error| panic!("{by:?} as {who} to {to}: {error}"));
                    let expected = match who == PROXY {
                        true => ("there".to_owned(), None),
                        false => ("outbound".to_owned(), Some(to)),
                    };
                    assert_eq!(greeted(socket), expected, "{by:?} as {who} to {to}");
                }
            });
        }
    }
}

/// A ring works as who has made it: the proxy's, handed to the application, connects sockets that the application has made. It
/// is who made the socket that counts.
fn ring_of_another_user() {
    let pod = Pod::new(POD);
    for by in By::ALL {
        for (maker, expected) in [(APP, "outbound"), (PROXY, "there")] {
            for family in Family::BOTH {
                let to = THERE.port(family, 80);
                let socket = pod.here.run_as(maker, || plain(family));
                let user = if maker == APP { PROXY } else { APP };
                pod.here.run_as(user, || {
                    ring(by).connect(&socket, &SockaddrStorage::from(to)).expect("it answers")
                });
                assert_eq!(greeted(socket).0, expected, "{by:?}: a socket of {maker}, connected as {user}");
            }
        }
    }
}

fn narrow() -> Low {
    if !compat::works() {
        skip("the kernel runs no programs of 32 bits");
    }
    Low::new()
}

fn programs_of_32_bits() {
    let pod = Pod::new(POD);
    for (who, expected) in [(APP, "outbound"), (PROXY, "there")] {
        pod.here.run_as(who, || {
            let low = narrow();
            for family in Family::BOTH {
                let to = THERE.port(family, 80);
                let socket = low.socket(to).expect("a socket");
                low.connect(&socket, to).unwrap_or_else(|error| panic!("as {who} to {to}: {error}"));
                let (name, original) = greeted(socket);
                assert_eq!(name, expected, "as {who} to {to}");
                assert!(who == PROXY || original == Some(to), "told {original:?} of {to}");
            }
        });
    }
}

/// The kernel asks no program for the options of theirs: such a proxy hears that there is nothing, and not something else.
fn original_destination_for_32_bits() {
    const IP6T_SO_ORIGINAL_DST: i32 = 80;
    let pod = Pod::bare();
    serve_apps(&pod.here, &pod.there);
    pod.apply(POD);
    for (family, any) in Family::BOTH.into_iter().zip(["0.0.0.0:15001", "[::]:15001"]) {
        let to = THERE.port(family, 80);
        let listening =
            pod.here.run_as(PROXY, || listener(any.parse().expect("an address"), Shared::Nothing));
        let _client = pod.here.run_as(APP, || TcpStream::connect(to)).expect("somebody listens");
        let (stream, _) = listening.accept().expect("a connection");
        let local = stream.local_addr().expect("connected");
        assert_eq!(original(&stream, local), Some(to), "as a program of 64 bits is told");
        let (level, name, length) = match family {
            Family::V4 => (libc::SOL_IP, libc::SO_ORIGINAL_DST, 16),
            Family::V6 => (libc::SOL_IPV6, IP6T_SO_ORIGINAL_DST, 28),
        };
        let seen = narrow().option(stream.as_raw_fd(), level, name, length);
        let error = seen.expect_err("nobody answers").raw_os_error();
        assert!(matches!(error, Some(libc::ENOENT | libc::ENOPROTOOPT)), "{error:?}");
        // What the kernel itself answers it does answer.
        let kind =
            narrow().option(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_TYPE, 4).expect("an option");
        assert_eq!(kind, libc::SOCK_STREAM.to_ne_bytes());
    }
}
