//! Namespaces that are not the policy's, control groups that are not, and namespaces with a policy each.

use std::net::SocketAddr;
use std::path::Path;

use super::{KEPT, Named, POD, Pod, entries, serve_apps, serve_proxy};
use crate::istio::{APP, PROXY};
use crate::support::clients::{Clients, Route};
use crate::support::command::mesh_init;
use crate::support::creds::Who;
use crate::support::dial::{Source, dial, dial_from};
use crate::support::netns::Netns;
use crate::support::rules::Family;
use crate::support::serve::Service;
use crate::support::wire::{Addresses, HERE, HERE_FAR, THERE, THERE_FAR, two_hosts};

pub(super) const CASES: &[Named] = &[
    ("elsewhere::namespace_in_the_control_group", namespace_in_the_control_group),
    ("elsewhere::process_outside_the_control_group", process_outside_the_control_group),
    ("elsewhere::every_control_group", every_control_group),
    ("elsewhere::two_policies", two_policies),
    ("elsewhere::two_policies_with_the_same_ports", two_policies_with_the_same_ports),
    ("elsewhere::namespace_that_goes", namespace_that_goes),
    ("elsewhere::many_that_are_gone", many_that_are_gone),
];

/// A namespace inside the pod, as container builds in it have: its sockets are in the same control group.
fn namespace_in_the_control_group() {
    let pod = Pod::new(POD);
    let (nested, outside) = two_hosts();
    serve_apps(&nested, &outside);
    for family in Family::BOTH {
        for who in [APP, PROXY] {
            dial(&nested, who, THERE.port(family, 80)).untouched_to("there");
            dial(&nested, who, HERE.port(family, 80)).untouched_to("here");
        }
        dial(&outside, APP, HERE.port(family, 80)).untouched_to("here");
        dial(&pod.here, APP, THERE.port(family, 80)).captured_by("outbound");
    }
}

/// It is captured by its control group: who is in the namespace alone goes past it, and still cannot be called past the
/// proxy.
fn process_outside_the_control_group() {
    let pod = Pod::new(POD);
    pod.cgroup.outside(|| {
        for family in Family::BOTH {
            dial(&pod.here, APP, THERE.port(family, 80)).untouched_to("there");
        }
        Service::tcp(&pod.here, APP, "outsider", &[7070]);
    });
    for family in Family::BOTH {
        dial(&pod.there, APP, HERE.port(family, 7070)).captured_by("inbound");
        dial(&pod.here, APP, THERE.port(family, 80)).captured_by("outbound");
    }
}

/// Without a control group it is everybody in the namespace, wherever they are.
fn every_control_group() {
    let pod = Pod::bare();
    serve_apps(&pod.here, &pod.there);
    let flags = POD.split(' ').chain(["--backend", "ebpf"]);
    mesh_init(&pod.here, &["apply"].into_iter().chain(flags).collect::<Vec<_>>()).ok();
    serve_proxy(&pod.here);
    let all = || {
        for family in Family::BOTH {
            dial(&pod.here, APP, THERE.port(family, 80)).captured_by("outbound");
            dial(&pod.there, APP, THERE_FAR.port(family, 80)).untouched_to("there");
        }
    };
    all();
    pod.cgroup.outside(all);
    pod.clean();
}

/// A second pod in the same control group, with a policy and a proxy of its own.
fn second_of(pod: &Pod, flags: &str) -> (Netns, Netns) {
    let (here, there) = pod.second(flags);
    serve_apps(&here, &there);
    Service::tcp(&here, Who::user(1000), "second", &[15001, 15006]);
    (here, there)
}

/// A run looks at some of those that may be gone; after a few nothing is left of any.
fn many_that_are_gone() {
    let pod = Pod::new(POD);
    let folder = Path::new(KEPT).join("netns");
    let kept = || std::fs::read_dir(&folder).expect("a folder").count();
    let applied = |name| {
        let netns = Netns::new(name);
        mesh_init(&netns, &pod.words(POD)).ok();
        netns
    };
    // These stay, and come before the others: more than a run looks at.
    let mut live: Vec<_> = (0..20).map(|_| applied("stays")).collect();
    let going: Vec<_> = (0..40).map(|_| applied("goes")).collect();
    assert_eq!(kept(), 61);
    going.into_iter().for_each(|netns| netns.forget());
    while kept() > 1 + live.len() {
        assert!(live.len() < 60, "{} of 40 are left after 40 runs", kept() - 1 - live.len());
        live.push(applied("next"));
    }
    assert_eq!(entries("NAMESPACES"), 1 + live.len());
    for family in Family::BOTH {
        dial(&pod.here, APP, THERE.port(family, 80)).captured_by("outbound");
    }
}

fn two_policies() {
    let pod = Pod::new(POD);
    let (here, there) =
        second_of(&pod, "--layout istio -p 15001 -z 15006 -u 1000 -b 9090 -i 10.9.0.0/24,fd00:9::/64");
    for family in Family::BOTH {
        // The first says all, and its proxy is another user.
        dial(&pod.here, APP, THERE.port(family, 80)).captured_by("outbound");
        dial(&pod.here, PROXY, THERE_FAR.port(family, 80)).untouched_to("there");
        dial(&pod.there, APP, HERE.port(family, 80)).captured_by("inbound");
        dial(&here, PROXY, THERE.port(family, 80)).untouched_to("there");
        dial(&here, PROXY, THERE_FAR.port(family, 80)).captured_by("second");
        dial(&here, APP, THERE_FAR.port(family, 80)).untouched_to("there");
        dial(&there, APP, HERE.port(family, 80)).untouched_to("here");
        dial(&there, APP, HERE.port(family, 9090)).captured_by("second");
    }
    mesh_init(&here, &["clean"]).ok();
    for family in Family::BOTH {
        dial(&here, PROXY, THERE_FAR.port(family, 80)).untouched_to("there");
        dial(&there, APP, HERE.port(family, 9090)).untouched_to("here");
        dial(&pod.here, APP, THERE.port(family, 80)).captured_by("outbound");
        dial(&pod.there, APP, HERE.port(family, 80)).captured_by("inbound");
    }
    pod.clean();
}

/// The same addresses and ports at both ends, at the same time.
fn two_policies_with_the_same_ports() {
    let pod = Pod::new(POD);
    let (here, there) = second_of(&pod, "--layout istio -p 15001 -z 15006 -u 1000 -b * -i *");
    for number in 0..200_u16 {
        let from = |host: Addresses| Source { address: host.port(Family::V4, 40000 + number), mark: None };
        let to = [THERE, THERE_FAR][usize::from(number % 2)].port(Family::V4, 80 + number);
        let own = [HERE, HERE_FAR][usize::from(number % 2)];
        dial_from(&pod.here, APP, from(own), to).captured_by("outbound");
        dial_from(&here, PROXY, from(own), to).captured_by("second");
    }
    let to = |host: Addresses| -> Vec<SocketAddr> {
        (80..90).flat_map(|port| Family::BOTH.map(|family| host.port(family, port))).collect()
    };
    let route = |from: &Netns, who, host| Route { from: from.clone(), who, to: to(host) };
    let mut first = Clients::start(vec![route(&pod.here, APP, THERE)], "outbound");
    let mut first_in = Clients::start(vec![route(&pod.there, APP, HERE)], "inbound");
    let mut second = Clients::start(vec![route(&here, PROXY, THERE), route(&there, APP, HERE)], "second");
    std::thread::sleep(std::time::Duration::from_millis(700));
    for clients in [&mut first, &mut first_in, &mut second] {
        clients.stop();
        clients.assert_all_captured("two policies at once");
    }
    assert_eq!(entries("PAIRS"), 0);
    assert_eq!(entries("NAMESPACES"), 2);
}

/// What it had is taken away by the next run of another namespace.
fn namespace_that_goes() {
    let pod = Pod::new(POD);
    let (here, there) = pod.second("--layout istio -p 15001 -z 15006 -u 1337 -b * -i *");
    dial(&here, APP, THERE.port(Family::V4, 80)).answer.expect_err("nobody listens");
    assert_eq!(entries("NAMESPACES"), 2);
    here.forget();
    drop((here, there));
    let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while entries("NAMESPACES") > 1 {
        assert!(std::time::Instant::now() < end, "never taken away");
        std::thread::sleep(std::time::Duration::from_millis(100));
        // Another policy, so that it does something.
        pod.apply(POD);
    }
    dial(&pod.here, APP, THERE.port(Family::V4, 80)).captured_by("outbound");
}
