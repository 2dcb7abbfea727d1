//! What `verify` says of capture at the sockets: that it holds, or which part of it does not.

use std::fs;

use serde_json::Value;

use super::{Named, POD, Pod, serve_apps, serve_proxy};
use crate::istio::{APP, PROXY};
use crate::support::bpf::{self, Kind, insn};
use crate::support::command::{Run, mesh_init};
use crate::support::dial::dial;
use crate::support::pins;
use crate::support::rules::{Family, Variant, native, restore, save};
use crate::support::serve::Service;
use crate::support::wire::{HERE, THERE};
use crate::verify::{NOT, PROBE, RULES, UNWANTED, judge, notes};

pub(super) const CASES: &[Named] = &[
    ("verifies::what_holds", what_holds),
    ("verifies::nothing_there", nothing_there),
    ("verifies::one_direction", one_direction),
    ("verifies::a_link_that_is_detached", || gone(bpf::detach)),
    ("verifies::a_link_that_is_removed", || gone(|path| fs::remove_file(path).expect("a link"))),
    ("verifies::another_program_by_a_link", another_program_by_a_link),
    ("verifies::another_policy", another_policy),
    ("verifies::another_control_group", another_control_group),
    ("verifies::an_address_that_came_later", an_address_that_came_later),
    ("verifies::nobody_listens", nobody_listens),
    ("verifies::somebody_else_listens", somebody_else_listens),
    ("verifies::rules_beside", rules_beside),
    ("verifies::another_program_by_its_pin", another_program_by_its_pin),
    ("verifies::rules_beside_are_a_fault", rules_beside_are_a_fault),
    ("verifies::proxy_outside_the_control_group", proxy_outside_the_control_group),
    ("verifies::port_that_is_bound", port_that_is_bound),
    ("verifies::without_a_route", without_a_route),
];

/// What `verify` answers, of the policy that is there and of `POD`: the same.
#[track_caller]
fn both(pod: &Pod, hows: crate::verify::Hows, code: i32) -> Value {
    judge(of_what_is_there(pod), hows, code);
    judge(of(pod, POD), hows, code)
}

fn of_what_is_there(pod: &Pod) -> Run {
    mesh_init(&pod.here, &["verify", "--output", "json"])
}

fn of(pod: &Pod, flags: &str) -> Run {
    mesh_init(&pod.here, &pod.words_of("verify", &format!("--output json {flags}")))
}

/// A pod with a way to everywhere, without which nothing is tried where nobody listens.
fn with_routes() -> Pod {
    let pod = Pod::bare();
    for family in Family::BOTH {
        pod.here.ip(&format!("route add default via {}", THERE.ip(family)));
    }
    pod
}

const HOLDS: crate::verify::Hows = [PROBE, RULES, PROBE, RULES];
const BROKEN: crate::verify::Hows = [NOT; 4];

/// The proxy takes what is tried, the application hears nothing of it, and a second look sees what the first has.
fn what_holds() {
    let pod = Pod::bare();
    serve_apps(&pod.here, &pod.there);
    pod.apply(POD);
    serve_proxy(&pod.here);
    for _ in 0..2 {
        let seen = both(&pod, HOLDS, 0);
        assert_eq!((notes(&seen).as_str(), &seen["wrong"]), ("", &serde_json::json!([])), "{seen:#}");
    }
    judge(of(&pod, &format!("{POD} --quick")), [RULES; 4], 0);
    // What arrives cannot be tried from here.
    of(&pod, &format!("{POD} --strict")).code(126);
    mesh_init(&pod.here, &["verify"]).code(0).says("captured (probe)");
    dial(&pod.here, APP, THERE.port(Family::V4, 80)).captured_by("outbound");
    dial(&pod.there, APP, HERE.port(Family::V6, 80)).captured_by("inbound");
}

fn nothing_there() {
    let pod = Pod::bare();
    mesh_init(&pod.here, &["verify"]).code(126).says("nothing of ours is here");
    judge(of(&pod, POD), BROKEN, 126);
    of(&pod, POD).code(126).says("nothing is captured at the sockets");
    pod.apply(POD);
    pod.clean();
    judge(of(&pod, POD), BROKEN, 126);
    // Another namespace's policy is not this one's.
    let (_here, _there) = pod.second(POD);
    judge(of(&pod, POD), BROKEN, 126);
    mesh_init(&pod.here, &["verify"]).code(126).says("nothing of ours is here");
}

/// What is not to be captured is not asked for.
fn one_direction() {
    let pod = with_routes();
    let flags = "--layout istio -p 15001 -z 15006 -u 1337 -b  -i *";
    let words: Vec<_> = flags.split(' ').collect();
    let call = |verb| {
        let words: Vec<_> = pod.words_of(verb, "").into_iter().chain(words.iter().copied()).collect();
        mesh_init(&pod.here, &[&words[..], &["--output", "json"]].concat())
    };
    call("apply").code(0);
    // Nobody waits for what arrives, and nothing is to.
    let seen = judge(call("verify"), [PROBE, UNWANTED, PROBE, UNWANTED], 0);
    assert_eq!(notes(&seen), "");
    serve_proxy(&pod.here);
    let seen = judge(call("verify"), [PROBE, UNWANTED, PROBE, UNWANTED], 0);
    assert_eq!(notes(&seen), "");
}

/// Every program, by its name.
pub(super) const PROGRAMS: [(&str, u32, u32); 14] = [
    ("mesh_getsockopt", 25, 21),
    ("mesh_sockops", 13, 3),
    ("mesh_create", 9, 2),
    ("mesh_bind4", 9, 12),
    ("mesh_bind6", 9, 13),
    ("mesh_peername4", 18, 29),
    ("mesh_peername6", 18, 30),
    ("mesh_recvmsg4", 18, 19),
    ("mesh_recvmsg6", 18, 20),
    ("mesh_sendmsg4", 18, 14),
    ("mesh_sendmsg6", 18, 15),
    ("mesh_connect4", 18, 10),
    ("mesh_connect6", 18, 11),
    ("arrives", 30, 36),
];

/// How a program is called where it is told of.
fn told(name: &str) -> &str {
    if name == "arrives" { "mesh_arrives" } else { name }
}

/// Whichever it is: it is named, nothing counts as captured, and another run makes it whole.
fn gone(how: fn(&std::path::Path)) {
    let pod = Pod::bare();
    serve_apps(&pod.here, &pod.there);
    pod.apply(POD);
    serve_proxy(&pod.here);
    for (name, _, _) in PROGRAMS {
        how(&pins::link(name));
        is_named(&pod, told(name));
        pod.apply(POD);
        of(&pod, &format!("{POD} --quick")).code(0);
    }
    // As one run does both.
    how(&pins::link("mesh_connect4"));
    let run = of(&pod, &format!("{POD} --repair"));
    let seen = judge(run, HOLDS, 0);
    assert_eq!(seen["repaired"], serde_json::json!(["BPF programs and maps"]), "{seen:#}");
    dial(&pod.here, APP, THERE.port(Family::V4, 80)).captured_by("outbound");
}

#[track_caller]
fn is_named(pod: &Pod, name: &str) {
    let seen = both(pod, BROKEN, 126);
    let wrong = seen["wrong"].to_string();
    assert_eq!(wrong, format!("[\"the program {name}\"]"), "{seen:#}");
    mesh_init(&pod.here, &["verify"]).code(126).says(&format!("the program {name} not as it should be"));
    mesh_init(&pod.here, &["status"]).code(0).says(name);
}

/// A link that attaches somebody else's program in the place of ours.
fn another_program_by_a_link() {
    let pod = Pod::bare();
    serve_apps(&pod.here, &pod.there);
    pod.apply(POD);
    serve_proxy(&pod.here);
    let answers_one = [insn(0xb7, 0, 0, 0, 1), insn(0x95, 0, 0, 0, 0)];
    for (name, program, attach) in PROGRAMS {
        bpf::replace(&pins::link(name), Kind { program, attach }, &answers_one);
        is_named(&pod, told(name));
        pod.apply(POD);
        of(&pod, &format!("{POD} --quick")).code(0);
    }
    for family in Family::BOTH {
        dial(&pod.here, APP, THERE.port(family, 80)).captured_by("outbound");
        dial(&pod.there, APP, HERE.port(family, 80)).captured_by("inbound");
    }
}

/// What is asked for is another policy than the one that is there: it is told in what.
fn another_policy() {
    let pod = Pod::bare();
    pod.apply(POD);
    serve_proxy(&pod.here);
    for (flags, what) in [
        ("--layout istio -p 15011 -z 15006 -u 1337 -b * -i *", "the policy"),
        ("--layout istio -p 15001 -z 15016 -u 1337 -b * -i *", "the policy"),
        ("--layout istio -p 15001 -z 15006 -u 1337 -b * -i * -d 8081", "the ports"),
        ("--layout istio -p 15001 -z 15006 -u 1337 -b * -i * -o 443", "the ports"),
        ("--layout istio -p 15001 -z 15006 -u 1337 -b * -i * -x 10.9.0.0/24", "the networks"),
        ("--layout istio -p 15001 -z 15006 -u 1338 -b * -i *", "the users and groups"),
        ("--layout istio -p 15001 -z 15006 -u 1337 -g 1338 -b * -i *", "the users and groups"),
    ] {
        let run = of(&pod, flags);
        let seen: Value = serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}: {run}"));
        assert!(seen["wrong"].as_array().is_some_and(|wrong| wrong.contains(&what.into())), "{flags}: {run}");
        assert_eq!(seen["captured"], false, "{flags}: {run}");
        run.code(126);
    }
    both(&pod, HOLDS, 0);
}

fn another_control_group() {
    let pod = Pod::bare();
    pod.apply(POD);
    let other = pod.cgroup.beside("other");
    let folder = other.to_str().expect("a path of ours");
    let words: Vec<_> = ["verify", "--backend", "ebpf", "--cgroup", folder].into_iter().collect();
    let words: Vec<_> = words.into_iter().chain(POD.split(' ')).collect();
    mesh_init(&pod.here, &words).code(126).says("the control group not as it should be");
    // Without one it is all of them that are asked for.
    let words: Vec<_> = ["verify", "--backend", "ebpf"].into_iter().chain(POD.split(' ')).collect();
    mesh_init(&pod.here, &words).code(126).says("the control group not as it should be");
    fs::remove_dir(&other).expect("nobody is in it");
}

fn an_address_that_came_later() {
    let pod = Pod::bare();
    pod.apply(POD);
    serve_proxy(&pod.here);
    both(&pod, HOLDS, 0);
    pod.here.ip("addr add 10.0.0.77/24 dev eth0");
    of(&pod, POD).code(126).says("the host's addresses not as it should be");
    pod.apply(POD);
    both(&pod, HOLDS, 0);
}

/// Until the proxy listens nothing that arrives is answered: that is said, and is no fault of what was made.
fn nobody_listens() {
    let pod = with_routes();
    pod.apply(POD);
    let said = |seen: &Value| notes(seen).contains("no listener of the proxy's is known at port 15006");
    let seen = both(&pod, HOLDS, 0);
    assert!(said(&seen), "{seen:#}");
    // A proxy that is not in the control group is none.
    let _outside = pod.cgroup.outside(|| Service::tcp(&pod.here, PROXY, "outside", &[15006]));
    assert!(dial(&pod.there, APP, HERE.port(Family::V4, 80)).answer.is_err());
    let run = of(&pod, POD);
    run.says("no listener of the proxy's is known at port 15006");
}

/// An application has the proxy's ports.
fn somebody_else_listens() {
    let pod = Pod::bare();
    pod.apply(POD);
    Service::tcp(&pod.here, APP, "fake", &[15001, 15006]);
    for run in [of_what_is_there(&pod), of(&pod, POD)] {
        let run = run.says("no listener of the proxy's is known at port 15006");
        for port in [15001, 15006] {
            assert!(run.stdout.contains(&format!("port {port} is held by uid 1000")), "{run}");
        }
    }
}

/// Rules of the same policy that came back: they are named, and another run takes them away.
fn rules_beside() {
    let pod = Pod::bare();
    serve_apps(&pod.here, &pod.there);
    for variant in [Variant::Native, Variant::Nft, Variant::Legacy] {
        let words = ["apply"].into_iter().chain(POD.split(' ')).chain(variant.flags());
        mesh_init(&pod.here, &words.collect::<Vec<_>>()).ok();
        let saved = Family::BOTH.map(|family| match variant {
            Variant::Native => native(&pod.here, family, &[]),
            Variant::Nft | Variant::Legacy => save(&pod.here, variant, family, &[]),
        });
        mesh_init(&pod.here, &["clean"]).ok();
        pod.apply(POD);
        for (family, text) in Family::BOTH.into_iter().zip(&saved) {
            match variant {
                Variant::Native => drop(Run::with_input(&pod.here, "nft", &["-f", "-"], text).ok()),
                Variant::Nft | Variant::Legacy => restore(&pod.here, variant, family, text),
            }
        }
        for run in [of_what_is_there(&pod), of(&pod, POD)] {
            let run = run.code(126);
            for family in ["IPv4", "IPv6"] {
                let named = |line: &str| line.contains(family) && line.contains(variant.full_name());
                let said = run.stdout.lines().any(|line| named(line) && line.contains("a second time"));
                assert!(said, "{family} rules of {}: {run}", variant.full_name());
            }
        }
        pod.apply(POD);
        of(&pod, POD).code(0);
        pod.clean();
    }
}

/// A program that was put in the place of ours among those that are kept, and attached.
fn another_program_by_its_pin() {
    let pod = Pod::bare();
    serve_apps(&pod.here, &pod.there);
    pod.apply(POD);
    serve_proxy(&pod.here);
    let programs = fs::read_dir(std::path::Path::new(super::KEPT).join("programs")).expect("kept");
    let kept = programs.flatten().next().expect("a build").path().join("mesh_connect4");
    fs::remove_file(&kept).expect("a program");
    let kind = Kind { program: 18, attach: 10 };
    let passes = [insn(0xb7, 0, 0, 0, 1), insn(0x95, 0, 0, 0, 0)];
    bpf::replace_and_keep(&pins::link("mesh_connect4"), kind, &passes, &kept);
    dial(&pod.here, APP, THERE.port(Family::V4, 80)).untouched_to("there");
    judge(of(&pod, &format!("{POD} --quick")), BROKEN, 126);
}

/// Both capture: what arrives is redirected to the proxy's port before its listener is looked up, and the proxy is told that one.
fn rules_beside_are_a_fault() {
    let pod = Pod::bare();
    serve_apps(&pod.here, &pod.there);
    let words = ["apply"].into_iter().chain(POD.split(' ')).chain(Variant::Native.flags());
    mesh_init(&pod.here, &words.collect::<Vec<_>>()).ok();
    let saved = Family::BOTH.map(|family| native(&pod.here, family, &[]));
    mesh_init(&pod.here, &["clean"]).ok();
    pod.apply(POD);
    saved.iter().for_each(|text| drop(Run::with_input(&pod.here, "nft", &["-f", "-"], text).ok()));
    serve_proxy(&pod.here);
    let seen = dial(&pod.there, APP, HERE.port(Family::V4, 80)).answer.expect("the proxy");
    assert_eq!(seen.original, Some(HERE.port(Family::V4, 15006)), "the proxy's own port: {seen}");
    of(&pod, POD).code(126).says("which captures a second time");
}

/// It gets what is sent out without being told for whom that is meant, and nothing that arrives.
fn proxy_outside_the_control_group() {
    let pod = Pod::bare();
    serve_apps(&pod.here, &pod.there);
    pod.apply(POD);
    pod.cgroup.outside(|| serve_proxy(&pod.here));
    let seen = dial(&pod.here, APP, THERE.port(Family::V4, 80)).answer.expect("the proxy");
    assert_eq!((seen.name.as_str(), seen.original), ("outbound", None), "{seen}");
    assert!(dial(&pod.there, APP, HERE.port(Family::V4, 80)).answer.is_err());
    of(&pod, POD).code(126).says("control group");
}

/// Somebody has the proxy's port and does not listen yet, as a proxy that is starting, or one that has just ended.
fn port_that_is_bound() {
    let pod = with_routes();
    pod.apply(POD);
    let _bound = pod.here.run_as(PROXY, || {
        use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, socket};
        use std::os::fd::AsRawFd;
        let socket =
            socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("one");
        let at: std::net::SocketAddr = "0.0.0.0:15001".parse().expect("an address");
        bind(socket.as_raw_fd(), &SockaddrStorage::from(at)).expect("a free port");
        socket
    });
    of(&pod, POD).code(0);
}

/// No route is needed for what is captured, and none to try it.
fn without_a_route() {
    let pod = Pod::bare();
    pod.apply(POD);
    judge(of(&pod, POD), HOLDS, 0);
}
