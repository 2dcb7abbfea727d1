//! Other people's programs on the same hooks, as a network plugin's that translates the addresses of services.

use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::Path;

use super::{KEPT, Named, POD, Pod, serve_apps, serve_proxy};
use crate::istio::{APP, PROXY};
use crate::privilege::with_only;
use crate::support::bpf::{Kind, attach, insn};
use crate::support::command::mesh_init;
use crate::support::dial::dial;
use crate::support::rules::Family;
use crate::support::wire::{HERE, THERE};

pub(super) const CASES: &[Named] = &[
    ("beside::translator_of_the_parent", translator_of_the_parent),
    ("beside::translator_below", translator_below),
    ("beside::programs_that_pass", programs_that_pass),
    ("beside::another_of_ours", another_of_ours),
    ("beside::two_capabilities", two_capabilities),
];

const SERVICE: [u8; 4] = [10, 96, 0, 1];
const CONNECT4: Kind = Kind { program: 18, attach: 10 };
const GETSOCKOPT: Kind = Kind { program: 25, attach: 21 };
const SOCK_OPS: Kind = Kind { program: 13, attach: 3 };
const SK_LOOKUP: Kind = Kind { program: 30, attach: 36 };

const RETURN: u64 = insn(0x95, 0, 0, 0, 0);

const fn answer(value: i32) -> u64 {
    insn(0xb7, 0, 0, 0, value)
}

fn service() -> SocketAddr {
    SocketAddr::from((SERVICE, 80))
}

/// Turns calls of the service to the other host, as Cilium's socket load balancing does.
fn translator(group: &Path) -> OwnedFd {
    /// `user_ip4` of `struct bpf_sock_addr`.
    const ADDRESS: i16 = 4;
    let IpAddr::V4(there) = THERE.ip(Family::V4) else { panic!("IPv4") };
    let program = [
        insn(0x61, 2, 1, ADDRESS, 0),
        insn(0x55, 2, 0, 2, i32::from_ne_bytes(SERVICE)),
        insn(0xb7, 3, 0, 0, i32::from_ne_bytes(there.octets())),
        insn(0x63, 1, 3, ADDRESS, 0),
        answer(1),
        RETURN,
    ];
    attach(CONNECT4, &program, &File::open(group).expect("a control group"))
}

/// Ours is asked first, being nearer to the process: the proxy is told of the service, and its own call is translated.
fn translator_of_the_parent() {
    let pod = Pod::bare();
    serve_apps(&pod.here, &pod.there);
    serve_proxy(&pod.here);
    pod.here.ip(&format!("route add default via {}", THERE.ip(Family::V4)));
    let to_there = |who| {
        let seen = dial(&pod.here, who, service());
        let seen = seen.answer.unwrap_or_else(|error| panic!("{who}: {error}"));
        assert_eq!((seen.name.as_str(), seen.local), ("there", THERE.port(Family::V4, 80)));
    };
    let translator = translator(pod.cgroup.parent());
    to_there(APP);
    // It may come before or after us.
    for _ in 0..2 {
        pod.apply(POD);
        dial(&pod.here, APP, service()).captured_by("outbound");
        dial(&pod.here, APP, THERE.port(Family::V4, 80)).captured_by("outbound");
        to_there(PROXY);
        // What is not captured is translated as if we were not there.
        pod.apply(&format!("{POD} -x 10.96.0.0/16"));
        to_there(APP);
        pod.clean();
        to_there(APP);
    }
    pod.apply(POD);
    drop(translator);
    dial(&pod.here, APP, service()).captured_by("outbound");
    let _after = self::translator(pod.cgroup.parent());
    dial(&pod.here, APP, service()).captured_by("outbound");
    to_there(PROXY);
}

/// Where ours is the farther one, all processes' group, it is asked of what the other has made of it: the proxy is told of the
/// host behind the service.
fn translator_below() {
    let pod = Pod::bare();
    serve_apps(&pod.here, &pod.there);
    let _translator = translator(pod.cgroup.parent());
    let words = POD.split(' ').chain(["--backend", "ebpf"]);
    mesh_init(&pod.here, &["apply"].into_iter().chain(words).collect::<Vec<_>>()).ok();
    serve_proxy(&pod.here);
    let seen = dial(&pod.here, APP, service()).answer.expect("captured");
    assert_eq!((seen.name.as_str(), seen.original), ("outbound", Some(THERE.port(Family::V4, 80))), "{seen}");
    pod.clean();
}

/// Programs that say nothing, on every hook that can have several, before and after ours.
fn programs_that_pass() {
    let pod = Pod::bare();
    serve_apps(&pod.here, &pod.there);
    let parent = File::open(pod.cgroup.parent()).expect("a control group");
    let same = File::open(pod.cgroup.folder()).expect("a control group");
    let namespace = File::open(pod.here.path()).expect("a namespace");
    let pass = |kind, target: &File| attach(kind, &[answer(1), RETURN], target);
    let others = || {
        let groups =
            [CONNECT4, GETSOCKOPT, SOCK_OPS].map(|kind| [&parent, &same].map(|group| pass(kind, group)));
        (groups, pass(SK_LOOKUP, &namespace))
    };
    let all_captured = || {
        for family in Family::BOTH {
            dial(&pod.here, APP, THERE.port(family, 80)).captured_by("outbound");
            dial(&pod.there, APP, HERE.port(family, 80)).captured_by("inbound");
        }
    };
    let before = others();
    pod.apply(POD);
    serve_proxy(&pod.here);
    all_captured();
    let after = others();
    all_captured();
    drop(before);
    all_captured();
    drop(after);
    all_captured();
}

/// The programs of a pod's group and those of all groups are the same ones, and one after the other does what one does.
fn another_of_ours() {
    let pod = Pod::new(POD);
    let (second, there) = crate::support::wire::two_hosts();
    serve_apps(&second, &there);
    // This one's is the group of all.
    let words = POD.split(' ').chain(["--backend", "ebpf"]);
    mesh_init(&second, &["apply"].into_iter().chain(words).collect::<Vec<_>>()).ok();
    serve_proxy(&second);
    for (here, there) in [(&pod.here, &pod.there), (&second, &there)] {
        for family in Family::BOTH {
            dial(here, APP, THERE.port(family, 80)).captured_by("outbound");
            dial(there, APP, HERE.port(family, 80)).captured_by("inbound");
        }
    }
    mesh_init(&second, &["clean"]).ok();
    pod.clean();
}

/// Those that an agent is given: the verifier takes less from who has no more.
fn two_capabilities() {
    let pod = Pod::bare();
    serve_apps(&pod.here, &pod.there);
    with_only(&pod.here, &["bpf", "net_admin"], &pod.words(POD)).run().code(0);
    serve_proxy(&pod.here);
    dial(&pod.here, APP, THERE.port(Family::V4, 80)).captured_by("outbound");
    dial(&pod.there, APP, HERE.port(Family::V6, 80)).captured_by("inbound");
    with_only(&pod.here, &["bpf", "net_admin"], &["clean"]).run().code(0);
    assert!(!Path::new(KEPT).exists());
}
