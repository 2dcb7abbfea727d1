//! Whose a socket is: users and groups as rules see them, and listeners that pretend to be the proxy's.

use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, socket};

use super::{Named, POD, Pod, serve_apps, serve_proxy};
use crate::istio::{APP, PROXY};
use crate::support::command::mesh_init;
use crate::support::creds::Who;
use crate::support::dial::{dial, hear};
use crate::support::netns::Netns;
use crate::support::rules::Family;
use crate::support::serve::{Ending, Service};
use crate::support::wire::{HERE, THERE};

pub(super) const CASES: &[Named] = &[
    ("owners::another_user_after_the_socket", another_user_after_the_socket),
    ("owners::handed_on", handed_on),
    ("owners::older_than_the_policy", older_than_the_policy),
    ("owners::effective_user", effective_user),
    ("owners::groups", groups),
    ("owners::listener_of_another", listener_of_another),
    ("owners::later_listener_of_another", later_listener_of_another),
    ("owners::listener_made_by_root", listener_made_by_root),
    ("owners::proxy_by_its_group_alone", proxy_by_its_group_alone),
    ("owners::listener_by_its_group_alone", listener_by_its_group_alone),
    ("owners::several_groups", several_groups),
    ("owners::proxy_by_its_control_group", proxy_by_its_control_group),
    ("owners::control_group_of_a_listener_that_is_there", control_group_of_a_listener_that_is_there),
];

const PORT: u16 = 80;

fn new_socket() -> OwnedFd {
    socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("a socket")
}

/// Who answers a socket that connects now.
fn answers(socket: OwnedFd) -> String {
    let to: SocketAddr = THERE.port(Family::V4, PORT);
    connect(socket.as_raw_fd(), &SockaddrStorage::from(to)).expect("somebody listens");
    hear(TcpStream::from(socket)).expect("a greeting").name
}

/// The same policy with rules and at the sockets.
struct Both {
    rules: (Netns, Netns),
    pod: Pod,
}

impl Both {
    fn new(flags: &str) -> Self {
        Self { rules: Pod::with_rules(flags), pod: Pod::new(flags) }
    }

    #[track_caller]
    fn are(&self, expected: [&str; 2], work: impl Fn(&Netns) -> String) {
        assert_eq!(work(&self.rules.0), expected[0], "with rules");
        assert_eq!(work(&self.pod.here), expected[1], "at the sockets");
    }
}

/// The owner is who made the socket, whoever that is by now.
fn another_user_after_the_socket() {
    Both::new(POD).are(["outbound"; 2], |here| {
        here.run(|| {
            let socket = new_socket();
            PROXY.assume().expect("root may");
            answers(socket)
        })
    });
}

/// As by SCM_RIGHTS: whoever connects.
fn handed_on() {
    let both = Both::new(POD);
    for (maker, user, expected) in
        [(PROXY, APP, "there"), (APP, PROXY, "outbound"), (Who::ROOT, PROXY, "outbound")]
    {
        both.are([expected; 2], |here| {
            let socket = here.run_as(maker, new_socket);
            here.run_as(user, || answers(socket))
        });
    }
}

/// Nobody has noted who made it: it is who connects that counts, and here rules know more.
fn older_than_the_policy() {
    let pod = Pod::bare();
    serve_apps(&pod.here, &pod.there);
    let [first, second] = [(); 2].map(|()| pod.here.run_as(PROXY, new_socket));
    pod.apply(POD);
    serve_proxy(&pod.here);
    assert_eq!(pod.here.run_as(APP, || answers(first)), "outbound");
    assert_eq!(pod.here.run_as(PROXY, || answers(second)), "there");
}

/// Rules go by the effective user, here it is the real one: no program can ask for the other.
fn effective_user() {
    let as_effective = |here: &Netns| {
        here.run(|| {
            Who::assume_effective(APP.uid, PROXY.uid).expect("root may");
            answers(new_socket())
        })
    };
    Both::new(POD).are(["there", "outbound"], as_effective);
}

/// The group of the process, and none of its supplementary ones.
fn groups() {
    let flags = "--layout istio -p 15001 -z 15006 -u 1337 -g 2337 -b * -i *";
    let both = Both::new(flags);
    for here in [&both.rules.0, &both.pod.here] {
        for family in Family::BOTH {
            let to = THERE.port(family, PORT);
            dial(here, APP.group(2337), to).untouched_to("there");
            dial(here, APP.group(1337), to).captured_by("outbound");
            dial(here, Who::user(2337).group(1000), to).captured_by("outbound");
        }
        let supplementary = here.run(|| {
            Who::assume_with_groups(APP, &[2337]).expect("root may");
            answers(new_socket())
        });
        assert_eq!(supplementary, "outbound");
    }
}

/// An application that listens where the proxy does gets what is sent there by name, and nothing that is captured.
fn listener_of_another() {
    let pod = Pod::bare();
    serve_apps(&pod.here, &pod.there);
    let before = Service::tcp(&pod.here, APP, "fake", &[15006]);
    pod.apply(POD);
    for family in Family::BOTH {
        for port in [80, 9090, 15006] {
            let seen = dial(&pod.there, APP, HERE.port(family, port));
            let refused = "Connection refused (os error 111)";
            assert_eq!(seen.answer.as_ref().err().map(String::as_str), Some(refused), "{seen}");
        }
    }
    assert_eq!(before.accepted(), []);
}

/// Nor does one that comes later, and it is in nobody's way but that of a proxy that wants the same port.
fn later_listener_of_another() {
    let pod = Pod::bare();
    serve_apps(&pod.here, &pod.there);
    pod.apply(POD);
    let after = Ending::tcp(&pod.here, APP, "fake", 15006);
    for family in Family::BOTH {
        assert!(dial(&pod.there, APP, HERE.port(family, 80)).answer.is_err());
    }
    assert_eq!(after.accepted(), []);
    drop(after);
    let _proxy = Ending::tcp(&pod.here, PROXY, "inbound", 15006);
    for family in Family::BOTH {
        dial(&pod.there, APP, HERE.port(family, 80)).captured_by("inbound");
    }
}

/// A launcher binds for the proxy and hands the listener on: by its maker it is nobody's that the policy names.
fn listener_made_by_root() {
    let pod = Pod::bare();
    serve_apps(&pod.here, &pod.there);
    pod.apply("--layout istio -p 15001 -z 15006 -u 1337 -g 1337 -b * -i *");
    let by_root = Ending::tcp(&pod.here, Who::ROOT, "inbound", 15006);
    assert!(dial(&pod.there, APP, HERE.port(Family::V4, 80)).answer.is_err());
    drop(by_root);
    // Its group is as good as its user.
    let _by_group = Ending::tcp(&pod.here, Who::ROOT.group(1337), "inbound", 15006);
    dial(&pod.there, APP, HERE.port(Family::V4, 80)).captured_by("inbound");
}

const GROUP: u32 = 2337;
/// No user is the proxy, whoever it runs as.
const BY_GROUP: &str = "--layout istio -p 15001 -z 15006 --proxy-uid= -g 2337 -b * -i *";

/// What the group calls goes its way, whatever its user; nobody else's does.
fn proxy_by_its_group_alone() {
    let both = Both::new(BY_GROUP);
    for here in [&both.rules.0, &both.pod.here] {
        for family in Family::BOTH {
            let to = THERE.port(family, PORT);
            for who in [APP, PROXY, Who::ROOT, Who::user(4242)] {
                dial(here, who.group(GROUP), to).untouched_to("there");
                dial(here, who.group(1000), to).captured_by("outbound");
            }
            dial(here, Who::user(GROUP).group(1000), to).captured_by("outbound");
            dial(here, Who::ROOT, to).captured_by("outbound");
        }
    }
}

/// It is the group that its maker has when it binds.
fn listener_by_its_group_alone() {
    let pod = Pod::bare();
    serve_apps(&pod.here, &pod.there);
    pod.apply(BY_GROUP);
    for who in [PROXY, Who::user(GROUP).group(1000), Who::ROOT, APP, APP.group(GROUP + 1)] {
        let other = Ending::tcp(&pod.here, who, "fake", 15006);
        for family in Family::BOTH {
            let seen = dial(&pod.there, APP, HERE.port(family, PORT));
            assert!(seen.answer.is_err(), "{who} listens: {seen}");
        }
        assert_eq!(other.accepted(), [], "{who}");
    }
    for who in [APP.group(GROUP), Who::ROOT.group(GROUP)] {
        let _proxy = Ending::tcp(&pod.here, who, "inbound", 15006);
        for family in Family::BOTH {
            dial(&pod.there, APP, HERE.port(family, PORT)).captured_by("inbound");
        }
    }
}

/// Each of them is the proxy, beside a user that is.
fn several_groups() {
    let pod = Pod::bare();
    serve_apps(&pod.here, &pod.there);
    pod.apply("--layout istio -p 15001 -z 15006 -u 1337 -g 2337,2339 -b * -i *");
    for (who, is_proxy) in [
        (PROXY.group(1000), true),
        (APP.group(GROUP), true),
        (APP.group(GROUP + 2), true),
        (APP.group(GROUP + 1), false),
    ] {
        let _outbound = Ending::tcp(&pod.here, PROXY, "outbound", 15001);
        let _inbound = Ending::tcp(&pod.here, who, "inbound", 15006);
        for family in Family::BOTH {
            let (out, back) = (dial(&pod.here, who, THERE.port(family, PORT)), HERE.port(family, PORT));
            let arrives = dial(&pod.there, APP, back);
            if is_proxy {
                out.untouched_to("there");
                arrives.captured_by("inbound");
            } else {
                out.captured_by("outbound");
                assert!(arrives.answer.is_err(), "{who} listens: {arrives}");
            }
        }
    }
}

/// A pod whose proxy is known by the control group `proxy` in the pod's, and by nothing else.
fn by_control_group(pod: &Pod) {
    let group = pod.cgroup.inner("proxy");
    pod.apply(&format!(
        "--layout istio -p 15001 -z 15006 --proxy-uid= --proxy-cgroup {} -b * -i *",
        group.display()
    ));
}

/// Whoever makes a socket there is the proxy, and nobody else is, whatever his user.
fn proxy_by_its_control_group() {
    let pod = Pod::bare();
    serve_apps(&pod.here, &pod.there);
    by_control_group(&pod);
    let _fake = Ending::tcp(&pod.here, PROXY, "fake", 15006);
    for family in Family::BOTH {
        assert!(dial(&pod.there, APP, HERE.port(family, PORT)).answer.is_err(), "it is nobody's");
    }
    drop(_fake);
    for group in ["proxy", "proxy/worker"] {
        let _proxy = pod.cgroup.inside(group, || {
            [("outbound", 15001), ("inbound", 15006)]
                .map(|(name, port)| Ending::tcp(&pod.here, APP, name, port))
        });
        for family in Family::BOTH {
            dial(&pod.there, APP, HERE.port(family, PORT)).captured_by("inbound");
            let to = THERE.port(family, PORT);
            for who in [APP, PROXY, Who::ROOT] {
                dial(&pod.here, who, to).captured_by("outbound");
                pod.cgroup.inside(group, || dial(&pod.here, who, to)).untouched_to("there");
            }
        }
    }
    let status = mesh_init(&pod.here, &["status", "--output", "json"]).ok();
    assert!(!status.contains("\"proxyCgroup\": null"), "{status}");
    let to = THERE.port(Family::V4, PORT);
    mesh_init(&pod.here, &["explain", "--live", &format!("out tcp {to}")])
        .says("are the proxy's, whoever made them");
    let group = pod.cgroup.inner("goes");
    pod.apply(&format!("{POD} --proxy-cgroup {}", group.display()));
    mesh_init(&pod.here, &["verify"]).code(0);
    std::fs::remove_dir(&group).expect("nobody is in it");
    mesh_init(&pod.here, &["verify"]).code(126).says("the proxy's control group, which is gone");
    // Without it nobody is the proxy any more.
    let words = format!("{POD} --proxy-cgroup {}/gone", pod.cgroup.folder());
    mesh_init(&pod.here, &pod.words(&words)).code(64).says("/gone cannot be opened");
    pod.apply(POD);
    let _proxy = Ending::tcp(&pod.here, PROXY, "outbound", 15001);
    let to = THERE.port(Family::V4, PORT);
    pod.cgroup.inside("proxy", || dial(&pod.here, APP, to)).captured_by("outbound");
}

/// It is taken up by the group that its socket was made in.
fn control_group_of_a_listener_that_is_there() {
    let pod = Pod::bare();
    serve_apps(&pod.here, &pod.there);
    let _proxy = pod.cgroup.inside("proxy", || Ending::tcp(&pod.here, APP, "inbound", 15006));
    by_control_group(&pod);
    for family in Family::BOTH {
        dial(&pod.there, APP, HERE.port(family, PORT)).captured_by("inbound");
    }
}
