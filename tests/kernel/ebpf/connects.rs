//! Every way to connect, and to do it again with the same socket.

#![expect(unsafe_code, reason = "addresses of no family, and socket options that nix has not")]

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, SockaddrStorage, bind, connect, getpeername, getsockname,
    getsockopt, sendto, setsockopt, socket, sockopt,
};

use super::{Named, POD, Pod};
use crate::istio::APP;
use crate::support::dial::hear;
use crate::support::netns::Netns;
use crate::support::rules::Family;
use crate::support::serve::{Ending, Greeting};
use crate::support::wire::{HERE, HERE_FAR, LOOPBACK, THERE, THERE_FAR};

pub(super) const CASES: &[Named] = &[
    ("connects::without_waiting", without_waiting),
    ("connects::twice", twice),
    ("connects::undone", undone),
    ("connects::refused_and_again", refused_and_again),
    ("connects::of_the_other_family_again", of_the_other_family_again),
    ("connects::with_the_first_packet", with_the_first_packet),
    ("connects::over_one_interface", over_one_interface),
    ("connects::from_an_address", from_an_address),
    ("connects::over_many_paths", over_many_paths),
    ("connects::many_at_once", many_at_once),
];

const PORT: u16 = 80;

fn new(family: Family) -> OwnedFd {
    let domain = match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    };
    socket(domain, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("a socket")
}

fn call(socket: &OwnedFd, to: SocketAddr) -> nix::Result<()> {
    connect(socket.as_raw_fd(), &SockaddrStorage::from(to))
}

fn address(of: SockaddrStorage) -> SocketAddr {
    let v4 = of.as_sockaddr_in().map(|v4| SocketAddr::new(v4.ip().into(), v4.port()));
    v4.or_else(|| of.as_sockaddr_in6().map(|v6| SocketAddr::new(v6.ip().into(), v6.port())))
        .expect("an address")
}

fn peer(socket: &OwnedFd) -> SocketAddr {
    address(getpeername(socket.as_raw_fd()).expect("connected"))
}

fn own(socket: &OwnedFd) -> SocketAddr {
    address(getsockname(socket.as_raw_fd()).expect("a socket"))
}

fn greeting(socket: &OwnedFd) -> Greeting {
    hear(TcpStream::from(socket.try_clone().expect("a second descriptor"))).expect("a greeting")
}

/// The proxy answers, and knows who was called and from where.
#[track_caller]
fn is_captured(socket: &OwnedFd, to: SocketAddr) {
    is_captured_by(socket, to, &greeting(socket));
}

#[track_caller]
fn is_captured_by(socket: &OwnedFd, to: SocketAddr, seen: &Greeting) {
    assert_eq!((seen.name.as_str(), seen.original), ("outbound", Some(to)), "{seen}");
    assert_eq!(peer(socket), to, "getpeername");
    assert_eq!(own(socket).ip(), seen.peer.ip(), "getsockname");
    assert_eq!(seen.peer.ip().is_loopback(), to.is_ipv6(), "{seen}");
}

#[track_caller]
fn is_untouched(socket: &OwnedFd, to: SocketAddr, by: &str) -> Greeting {
    let seen = greeting(socket);
    assert_eq!((seen.name.as_str(), seen.local), (by, to), "{seen}");
    assert_eq!(peer(socket), to, "getpeername");
    seen
}

/// `connect` with no family ends what a socket is connected with.
fn undo(socket: &OwnedFd) {
    let nowhere = libc::sockaddr { sa_family: 0, sa_data: [0; 14] };
    let size = libc::socklen_t::try_from(size_of::<libc::sockaddr>()).expect("small");
    // SAFETY: an address of this length.
    let done = unsafe { libc::connect(socket.as_raw_fd(), &raw const nowhere, size) };
    Errno::result(done).expect("connected before");
}

fn as_app(here: &Netns, work: impl Fn(Family) + Send + Sync) {
    here.run_as(APP, || Family::BOTH.into_iter().for_each(&work));
}

fn without_waiting() {
    let pod = Pod::new(POD);
    as_app(&pod.here, |family| {
        let socket = new(family);
        let flags = nix::fcntl::OFlag::O_NONBLOCK;
        nix::fcntl::fcntl(&socket, nix::fcntl::FcntlArg::F_SETFL(flags)).expect("a flag");
        let to = THERE.port(family, PORT);
        let first = call(&socket, to);
        assert!(matches!(first, Ok(()) | Err(Errno::EINPROGRESS)), "{first:?}");
        let mut ready = [PollFd::new(std::os::fd::AsFd::as_fd(&socket), PollFlags::POLLOUT)];
        poll(&mut ready, PollTimeout::from(3000_u16)).expect("polling");
        nix::fcntl::fcntl(&socket, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::empty()))
            .expect("a flag");
        is_captured(&socket, to);
    });
}

/// The second call is refused, and leaves what the first has made.
fn twice() {
    let pod = Pod::new(POD);
    as_app(&pod.here, |family| {
        let socket = new(family);
        let to = THERE.port(family, PORT);
        call(&socket, to).expect("captured");
        for other in [THERE_FAR.port(family, PORT), LOOPBACK.port(family, PORT), to] {
            assert_eq!(call(&socket, other), Err(Errno::EISCONN));
        }
        is_captured(&socket, to);
    });
}

/// A socket that is used again, for what is captured and what is not, by turns.
fn undone() {
    let pod = Pod::new(&format!("{POD} -o 443"));
    as_app(&pod.here, |family| {
        let socket = new(family);
        let captured = |to: SocketAddr| {
            call(&socket, to).unwrap_or_else(|error| panic!("{to}: {error}"));
            is_captured(&socket, to);
            undo(&socket);
        };
        captured(THERE.port(family, PORT));
        // Not captured, over another address of the host's own: nothing of before is left.
        for (to, from, by) in [
            (THERE_FAR.port(family, 443), HERE_FAR, "there"),
            (LOOPBACK.port(family, PORT), LOOPBACK, "here"),
            (HERE_FAR.port(family, PORT), HERE_FAR, "here"),
            (THERE.port(family, 443), HERE, "there"),
        ] {
            call(&socket, to).unwrap_or_else(|error| panic!("{to}: {error}"));
            let seen = is_untouched(&socket, to, by);
            assert_eq!(seen.peer.ip(), from.ip(family), "the source of a call to {to}");
            undo(&socket);
            captured(THERE_FAR.port(family, PORT));
        }
    });
}

fn refused_and_again() {
    let pod = Pod::bare();
    super::serve_apps(&pod.here, &pod.there);
    pod.apply(&format!("{POD} -o 443"));
    let to = |family| THERE.port(family, PORT);
    let sockets = Family::BOTH.map(|family| (family, pod.here.run_as(APP, || new(family))));
    let call = |socket: &OwnedFd, to| pod.here.run_as(APP, || call(socket, to));
    for (family, socket) in &sockets {
        assert_eq!(call(socket, to(*family)), Err(Errno::ECONNREFUSED));
        assert_eq!(call(socket, to(*family)), Err(Errno::ECONNREFUSED));
    }
    let _proxy = Ending::tcp(&pod.here, crate::istio::PROXY, "outbound", 15001);
    for (family, socket) in &sockets {
        // The application asks for the same again, and not for where it was sent.
        call(socket, to(*family)).expect("the proxy is there");
        is_captured(socket, to(*family));
    }
    // One that is refused goes elsewhere.
    drop(_proxy);
    for family in Family::BOTH {
        let socket = pod.here.run_as(APP, || new(family));
        assert_eq!(call(&socket, to(family)), Err(Errno::ECONNREFUSED));
        call(&socket, THERE.port(family, 443)).expect("not captured");
        is_untouched(&socket, THERE.port(family, 443), "there");
    }
}

/// An IPv6 socket takes IPv4 destinations, too, whatever it has called before. The other way round no kernel can, without any of
/// this.
fn of_the_other_family_again() {
    let pod = Pod::new(POD);
    let mapped = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    };
    pod.here.run_as(APP, || {
        let [first, second] = [(); 2].map(|()| new(Family::V6));
        for (socket, family) in [
            (&first, Family::V4),
            (&first, Family::V4),
            (&second, Family::V6),
            (&second, Family::V6),
            (&second, Family::V4),
        ] {
            let to = mapped(THERE.port(family, PORT));
            call(socket, to).unwrap_or_else(|error| panic!("{to}: {error}"));
            let seen = greeting(socket);
            let original = seen.original.map(|original| original.ip().to_canonical());
            assert_eq!((seen.name.as_str(), original), ("outbound", Some(THERE.ip(family))), "{seen}");
            assert_eq!(peer(socket), to);
            undo(socket);
        }
    });
}

/// TCP Fast Open, whose connection may be accepted before `connect` is done.
fn with_the_first_packet() {
    let pod = Pod::bare();
    super::serve_apps(&pod.here, &pod.there);
    pod.here.sysctl("net/ipv4/tcp_fastopen", "1027");
    pod.apply(POD);
    super::serve_proxy(&pod.here);
    as_app(&pod.here, |family| {
        // The first brings the cookie, the others have it.
        for number in 0..20_u16 {
            let socket = new(family);
            let to = THERE.port(family, PORT + number);
            let sent = sendto(
                socket.as_raw_fd(),
                b"token",
                &SockaddrStorage::from(to),
                MsgFlags::from_bits_retain(libc::MSG_FASTOPEN),
            );
            assert_eq!(sent, Ok(5));
            let mut stream = TcpStream::from(socket.try_clone().expect("a second descriptor"));
            stream.write_all(b"more").expect("connected");
            let (mut heard, mut buffer) = (Vec::new(), [0; 256]);
            while !heard.ends_with(b"tokenmore") {
                let read = stream.read(&mut buffer).expect("the same back");
                assert!(read > 0, "{}", String::from_utf8_lossy(&heard));
                heard.extend_from_slice(&buffer[..read]);
            }
            let line = String::from_utf8_lossy(&heard).lines().next().map(str::to_owned).expect("a greeting");
            is_captured_by(&socket, to, &line.parse().expect("a greeting"));
        }
    });
    let counters = pod.here.run(|| std::fs::read_to_string("/proc/thread-self/net/netstat")).expect("/proc");
    let mut lines = counters.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
    let passive = names.split(' ').zip(values.split(' ')).find(|(name, _)| *name == "TCPFastOpenPassive");
    let passive: u32 = passive.expect("counted").1.parse().expect("a number");
    assert!(passive > 10, "only {passive} were fast");
}

/// A socket that is tied to an interface is not turned away from it: it fails, as behind rules, and is no way around.
fn over_one_interface() {
    let (here, _there) = Pod::with_rules(POD);
    let pod = Pod::new(POD);
    for here in [&here, &pod.here] {
        here.run(|| {
            for family in Family::BOTH {
                let socket = new(family);
                setsockopt(&socket, sockopt::BindToDevice, &"eth0".into()).expect("root may");
                setsockopt(&socket, sockopt::SendTimeout, &nix::sys::time::TimeVal::new(1, 0))
                    .expect("a time");
                let called = call(&socket, THERE.port(family, PORT));
                let answered = called.map(|()| greeting(&socket).name);
                assert!(answered.is_err(), "{family:?}: {answered:?}");
            }
        });
    }
}

/// An address and port that the application has chosen are kept.
fn from_an_address() {
    let pod = Pod::new(POD);
    as_app(&pod.here, |family| {
        for (from, port) in [(HERE, 0), (HERE_FAR, 0), (HERE, 40123), (HERE_FAR, 40124)] {
            let socket = new(family);
            setsockopt(&socket, sockopt::ReuseAddr, &true).expect("an option");
            bind(socket.as_raw_fd(), &SockaddrStorage::from(from.port(family, port)))
                .expect("an own address");
            let to = THERE.port(family, PORT);
            call(&socket, to).expect("captured");
            let seen = greeting(&socket);
            assert_eq!(
                (seen.name.as_str(), seen.original, seen.peer.ip()),
                ("outbound", Some(to), from.ip(family))
            );
            assert!(port == 0 || seen.peer.port() == port, "{seen}");
            // Its address stays its own when it calls again.
            if port == 0 {
                undo(&socket);
                call(&socket, LOOPBACK.port(family, PORT)).map_or_else(
                    |error| assert_eq!(error, Errno::EINVAL),
                    |()| assert_eq!(own(&socket).ip(), from.ip(family)),
                );
            }
        }
    });
}

/// A socket of MPTCP.
pub(super) fn mptcp(family: Family) -> OwnedFd {
    const IPPROTO_MPTCP: i32 = 262;
    let domain = if family == Family::V4 { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: three integers.
    let fd = unsafe { libc::socket(domain, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, IPPROTO_MPTCP) };
    if fd < 0 {
        assert!(matches!(Errno::last(), Errno::EPROTONOSUPPORT | Errno::ENOPROTOOPT), "{}", Errno::last());
        crate::child::skip("the kernel has no MPTCP");
    }
    // SAFETY: the kernel has just made it for us, and nobody else has it.
    unsafe { std::os::fd::FromRawFd::from_raw_fd(fd) }
}

/// MPTCP: the subflow is captured and told apart; its name of the peer is where it was sent.
fn over_many_paths() {
    let pod = Pod::new(POD);
    as_app(&pod.here, |family| {
        let socket = mptcp(family);
        let to = THERE.port(family, PORT);
        call(&socket, to).expect("captured");
        let seen = greeting(&socket);
        assert_eq!((seen.name.as_str(), seen.original), ("outbound", Some(to)), "{seen}");
        assert_eq!(peer(&socket), LOOPBACK.port(family, 15001), "getpeername is told where it was sent");
    });
}

/// As many connections at once as there are ports is the limit, for all destinations together.
fn many_at_once() {
    let pod = Pod::new(POD);
    pod.here.sysctl("net/ipv4/ip_local_port_range", "40000 40999");
    as_app(&pod.here, |family| {
        let mut open = Vec::new();
        let refused = loop {
            let socket = new(family);
            let number = u16::try_from(open.len()).expect("fewer");
            match call(&socket, THERE.port(family, 1000 + number)) {
                Ok(()) => open.push(socket),
                Err(error) => break error,
            }
            assert!(open.len() <= 1000, "more connections than ports");
        };
        assert_eq!(refused, Errno::EADDRNOTAVAIL);
        assert!(open.len() > 990, "{} of 1000", open.len());
        assert_eq!(getsockopt(&open[0], sockopt::SocketError), Ok(0));
        // What closes is free at once.
        for _ in 0..100 {
            let closed = open.pop().expect("many");
            setsockopt(&closed, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })
                .expect("an option");
        }
        for number in 0..100 {
            let socket = new(family);
            call(&socket, THERE_FAR.port(family, 2000 + number)).expect("a free port");
            open.push(socket);
        }
    });
}
