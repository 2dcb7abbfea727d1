//! Other people's programs on the same hooks, as a network plugin's that translates the addresses of services.

use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{KEPT, Named, POD, Pod, serve_apps, serve_proxy};
use crate::istio::{APP, PROXY};
use crate::privilege::with_only;
use crate::support::bpf::{ALLOW_MULTI, ALLOW_OVERRIDE, Kind, PREORDER, attach, attach_for_good, insn};
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
    ("beside::translator_in_the_same_group", translator_in_the_same_group),
    ("beside::translator_before_those_of_groups_inside", translator_before_those_of_groups_inside),
    ("beside::program_that_allows_to_be_replaced", program_that_allows_to_be_replaced),
    ("beside::program_that_allows_no_other", program_that_allows_no_other),
    ("beside::program_that_refuses", program_that_refuses),
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
    attach(CONNECT4, &translation(), &File::open(group).expect("a control group"))
}

fn translation() -> [u64; 6] {
    /// `user_ip4` of `struct bpf_sock_addr`.
    const ADDRESS: i16 = 4;
    let IpAddr::V4(there) = THERE.ip(Family::V4) else { panic!("IPv4") };
    [
        insn(0x61, 2, 1, ADDRESS, 0),
        insn(0x55, 2, 0, 2, i32::from_ne_bytes(SERVICE)),
        insn(0xb7, 3, 0, 0, i32::from_ne_bytes(there.octets())),
        insn(0x63, 1, 3, ADDRESS, 0),
        answer(1),
        RETURN,
    ]
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

/// Whom the proxy is told of, when the service is called.
#[track_caller]
fn told(pod: &Pod, expected: SocketAddr) {
    let seen = dial(&pod.here, APP, service()).answer.expect("captured");
    assert_eq!((seen.name.as_str(), seen.original), ("outbound", Some(expected)), "{seen}");
}

#[track_caller]
fn is_translated(pod: &Pod, who: crate::support::creds::Who) {
    let seen = dial(&pod.here, who, service()).answer.unwrap_or_else(|error| panic!("{who}: {error}"));
    assert_eq!((seen.name.as_str(), seen.local), ("there", THERE.port(Family::V4, 80)), "{seen}");
}

/// They are asked in the order in which they came, whether by links or without: the proxy is told of what those before ours
/// have made of a call, and those behind see the proxy.
fn translator_in_the_same_group() {
    let group = |pod: &Pod| File::open(pod.cgroup.folder()).expect("a control group");
    for with_link in [true, false] {
        for before in [true, false] {
            let pod = Pod::bare();
            serve_apps(&pod.here, &pod.there);
            pod.here.ip(&format!("route add default via {}", THERE.ip(Family::V4)));
            let come = || match with_link {
                true => Some(attach(CONNECT4, &translation(), &group(&pod))),
                false => {
                    attach_for_good(CONNECT4, &translation(), &group(&pod), ALLOW_MULTI)
                        .expect("another one");
                    None
                }
            };
            let first = before.then(come);
            pod.apply(POD);
            serve_proxy(&pod.here);
            let second = (!before).then(come);
            told(&pod, if before { THERE.port(Family::V4, 80) } else { service() });
            dial(&pod.here, APP, THERE.port(Family::V4, 80)).captured_by("outbound");
            is_translated(&pod, PROXY);
            pod.clean();
            is_translated(&pod, APP);
            drop((first, second));
        }
    }
}

/// Since Linux 6.15 one of the parent can be asked before those of the groups inside it, whenever it came.
fn translator_before_those_of_groups_inside() {
    let pod = Pod::bare();
    serve_apps(&pod.here, &pod.there);
    pod.here.ip(&format!("route add default via {}", THERE.ip(Family::V4)));
    pod.apply(POD);
    serve_proxy(&pod.here);
    told(&pod, service());
    let parent = File::open(pod.cgroup.parent()).expect("a control group");
    match attach_for_good(CONNECT4, &translation(), &parent, ALLOW_MULTI | PREORDER) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => crate::child::skip(
            "the kernel has no programs that come before others, which it has since Linux 6.15",
        ),
        attached => attached.expect("a program of the parent's"),
    }
    told(&pod, THERE.port(Family::V4, 80));
    dial(&pod.here, APP, THERE.port(Family::V4, 80)).captured_by("outbound");
    is_translated(&pod, PROXY);
    // Ours come again, and behind it.
    pod.clean();
    is_translated(&pod, APP);
    pod.apply(POD);
    told(&pod, THERE.port(Family::V4, 80));
    for family in Family::BOTH {
        dial(&pod.there, APP, HERE.port(family, 80)).captured_by("inbound");
    }
    mesh_init(&pod.here, &["verify"]).code(0);
}

/// As older programs are attached to a parent: a group inside has its own, and this one is not asked there.
fn program_that_allows_to_be_replaced() {
    let pod = Pod::bare();
    serve_apps(&pod.here, &pod.there);
    let parent = File::open(pod.cgroup.parent()).expect("a control group");
    attach_for_good(CONNECT4, &translation(), &parent, ALLOW_OVERRIDE).expect("the first one");
    pod.here.ip(&format!("route add default via {}", THERE.ip(Family::V4)));
    is_translated(&pod, APP);
    pod.apply(POD);
    serve_proxy(&pod.here);
    told(&pod, service());
    dial(&pod.here, APP, THERE.port(Family::V4, 80)).captured_by("outbound");
    pod.clean();
    // The programs go some time after their links, and until then the parent's is not asked.
    let end = Instant::now() + Duration::from_secs(10);
    while dial(&pod.here, APP, service()).answer.is_err() && Instant::now() < end {}
    is_translated(&pod, APP);
}

/// The kernel attaches nothing beside it: that is said, and nothing is left of the attempt.
fn program_that_allows_no_other() {
    for parent in [true, false] {
        let pod = Pod::bare();
        serve_apps(&pod.here, &pod.there);
        let group = if parent { pod.cgroup.parent() } else { Path::new(pod.cgroup.folder()) };
        let group = File::open(group).expect("a control group");
        attach_for_good(CONNECT4, &translation(), &group, 0).expect("the first one");
        let run = mesh_init(&pod.here, &pod.words(POD));
        assert!(run.code.is_some_and(|code| code != 0), "{run}");
        run.says("mesh_connect4");
        assert!(!Path::new(KEPT).exists(), "kept of a policy that does not hold");
        for family in Family::BOTH {
            dial(&pod.here, APP, THERE.port(family, 80)).untouched_to("there");
            dial(&pod.there, APP, HERE.port(family, 80)).untouched_to("here");
        }
    }
}

/// One that allows nothing to be called holds for what is captured, too, whichever is asked first.
fn program_that_refuses() {
    let pod = Pod::new(POD);
    let refuses = [answer(0), RETURN];
    for group in [pod.cgroup.parent(), Path::new(pod.cgroup.folder())] {
        let group = File::open(group).expect("a control group");
        let refusing = attach(CONNECT4, &refuses, &group);
        let seen = dial(&pod.here, APP, THERE.port(Family::V4, 80));
        let said = seen.answer.as_ref().err().map(String::as_str);
        assert_eq!(said, Some("Operation not permitted (os error 1)"), "{seen}");
        dial(&pod.here, APP, THERE.port(Family::V6, 80)).captured_by("outbound");
        drop(refusing);
        dial(&pod.here, APP, THERE.port(Family::V4, 80)).captured_by("outbound");
        // What it refused has left nothing that a later one could be taken for.
        assert_eq!(super::entries("PAIRS"), 0);
    }
}
