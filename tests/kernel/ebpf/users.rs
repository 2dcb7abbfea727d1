//! A pod with users of its own (`hostUsers: false`): the policy names them as the pod does, and programs see them as the host.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, connect, listen, setsockopt, socket,
    sockopt,
};

use super::{Named, POD, Pod, serve_apps};
use crate::istio::{APP, PROXY};
use crate::support::cgroup::Cgroup;
use crate::support::command::mesh_init;
use crate::support::creds::Who;
use crate::support::dial::{dial, hear};
use crate::support::netns::Netns;
use crate::support::pins;
use crate::support::rules::Family;
use crate::support::serve::Ending;
use crate::support::users::Users;
use crate::support::wire::{self, HERE, HERE_FAR, THERE, THERE_FAR, settle};
use crate::verify::{PROBE, RULES, judge};

pub(super) const CASES: &[Named] = &[
    ("users::of_the_pod_are_translated", of_the_pod_are_translated),
    ("users::groups_of_the_pod_are_translated", groups_of_the_pod_are_translated),
    ("users::that_nobody_there_can_be", that_nobody_there_can_be),
    ("users::policy_is_told_as_the_host_sees_it", policy_is_told_as_the_host_sees_it),
];

/// Where the pod's users are for the host.
const FIRST: Who = Who { uid: 100_000, gid: 300_000 };

const fn outside(who: Who) -> Who {
    Who { uid: who.uid + FIRST.uid, gid: who.gid + FIRST.gid }
}

/// As [`Pod::bare`], with a namespace that another user namespace owns.
fn bare(count: u32) -> (Users, Pod) {
    pins::mount_own();
    // Who holds the users is not in the control group.
    let users = Users::new("here", FIRST, count);
    let cgroup = Cgroup::enter();
    let (here, there) = (users.netns.clone(), Netns::new("there"));
    wire::connect(&here, "eth0", &there, "eth0");
    wire::address(&here, "eth0", &[HERE, HERE_FAR]);
    wire::address(&there, "eth0", &[THERE, THERE_FAR]);
    settle(&[&here, &there]);
    serve_apps(&here, &there);
    (users, Pod { here, there, cgroup })
}

fn domain(of: SocketAddr) -> AddressFamily {
    if of.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

/// Who answers a process of the pod's.
fn answers(users: &Users, who: Who, to: SocketAddr) -> String {
    let socket = users.make(who, || {
        let socket = socket(domain(to), SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        connect(socket.as_raw_fd(), &SockaddrStorage::from(to))?;
        Ok(socket)
    });
    let seen = hear(TcpStream::from(socket)).expect("a greeting");
    if seen.name == "outbound" {
        assert_eq!(seen.original, Some(to), "{seen}");
    }
    seen.name
}

/// Listens as a process of the pod's, in both families.
fn listens(users: &Users, who: Who, name: &str, port: u16) -> Ending {
    let both = ["0.0.0.0", "::"].map(|any| SocketAddr::new(any.parse().expect("an address"), port));
    let listeners = both.map(|address| {
        let made = users.make(who, || -> nix::Result<OwnedFd> {
            let socket = socket(domain(address), SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
            setsockopt(&socket, sockopt::ReuseAddr, &true)?;
            if address.is_ipv6() {
                setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
            }
            bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
            listen(&socket, Backlog::MAXCONN)?;
            Ok(socket)
        });
        TcpListener::from(made)
    });
    Ending::new(&users.netns, outside(who), name, || listeners.into())
}

#[track_caller]
fn refused(pod: &Pod) {
    for family in Family::BOTH {
        let seen = dial(&pod.there, APP, HERE.port(family, 80));
        let said = seen.answer.as_ref().err().map(String::as_str);
        assert_eq!(said, Some("Connection refused (os error 111)"), "{seen}");
    }
}

/// 1337 is whom the pod knows by that number, and nobody else.
fn of_the_pod_are_translated() {
    let (users, pod) = bare(65536);
    pod.apply(POD);
    let _outbound = listens(&users, PROXY, "outbound", 15001);
    for (who, name) in [(APP, "fake"), (Who::ROOT, "fake")] {
        let fake = listens(&users, who, name, 15006);
        refused(&pod);
        assert_eq!(fake.accepted(), [], "of {who}");
    }
    {
        // The host's user of the number is somebody else.
        let _fake = Ending::tcp(&pod.here, PROXY, "fake", 15006);
        refused(&pod);
    }
    let _inbound = listens(&users, PROXY, "inbound", 15006);
    for family in Family::BOTH {
        let to = THERE.port(family, 80);
        assert_eq!(answers(&users, PROXY, to), "there");
        for who in [APP, Who::ROOT, PROXY.group(1000), Who::user(1338)] {
            let expected = if who.uid == PROXY.uid { "there" } else { "outbound" };
            assert_eq!(answers(&users, who, to), expected, "{who}");
        }
        // As seen from the host.
        dial(&pod.here, outside(PROXY), to).untouched_to("there");
        for who in [outside(APP), PROXY, APP, Who::ROOT] {
            dial(&pod.here, who, to).captured_by("outbound");
        }
        dial(&pod.there, APP, HERE.port(family, 80)).captured_by("inbound");
    }
    pod.apply(POD);
    judge(
        mesh_init(&pod.here, &pod.words_of("verify", &format!("{POD} --output json"))),
        [PROBE, RULES, PROBE, RULES],
        0,
    );
    pod.clean();
}

fn groups_of_the_pod_are_translated() {
    const GROUP: u32 = 2337;
    let (users, pod) = bare(65536);
    pod.apply("--layout istio -p 15001 -z 15006 -u 1337 -g 2337 -b * -i *");
    let _outbound = listens(&users, PROXY, "outbound", 15001);
    {
        let _fake = listens(&users, Who::user(GROUP).group(1000), "fake", 15006);
        refused(&pod);
    }
    let _inbound = listens(&users, APP.group(GROUP), "inbound", 15006);
    for family in Family::BOTH {
        let to = THERE.port(family, 80);
        assert_eq!(answers(&users, APP.group(GROUP), to), "there");
        assert_eq!(answers(&users, Who::user(GROUP).group(1000), to), "outbound");
        dial(&pod.here, APP.group(GROUP), to).captured_by("outbound");
        dial(&pod.there, APP, HERE.port(family, 80)).captured_by("inbound");
    }
}

/// The pod has too few users: nobody is the proxy, least of all whoever has the number outside.
fn that_nobody_there_can_be() {
    let (users, pod) = bare(1000);
    pod.apply(POD);
    let _outbound = listens(&users, Who::user(999), "outbound", 15001);
    refused(&pod);
    for family in Family::BOTH {
        let to = THERE.port(family, 80);
        for who in [PROXY, outside(PROXY), APP] {
            dial(&pod.here, who, to).captured_by("outbound");
        }
        assert_eq!(answers(&users, Who::user(999), to), "outbound");
    }
}

/// Nobody but a process of the pod's knows it by the other number.
fn policy_is_told_as_the_host_sees_it() {
    let (_users, pod) = bare(65536);
    pod.apply(POD);
    eprintln!("{}", mesh_init(&pod.here, &["status"]));
    mesh_init(&pod.here, &["status"]).code(0).says("101337");
    mesh_init(&pod.here, &["verify"]).code(0);
}
