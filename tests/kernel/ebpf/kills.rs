//! A run that is killed at any of its steps leaves what was there or what was to be, and the next one completes it.

use std::path::Path;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, umount2};

use super::{KEPT, Named, POD, Pod, entries, serve_apps, serve_proxy};
use crate::istio::{APP, PROXY};
use crate::support::call::Call;
use crate::support::command::mesh_init;
use crate::support::dial::{Dialled, dial};
use crate::support::rules::Family;
use crate::support::serve::Service;
use crate::support::traced::{Calls, Ended, stopped};
use crate::support::wire::{HERE, THERE, THERE_FAR};
use crate::telling::{Telling, Whole};

pub(super) const CASES: &[Named] = &[
    ("kills::again", again),
    ("kills::at_the_same_time", at_the_same_time),
    ("kills::file_system_gone", file_system_gone),
    ("kills::control_group_gone", control_group_gone),
    ("kills::link_gone", link_gone),
];

pub(super) const APPLY: Telling = telling("ebpf::kills::applying", applying);
pub(super) const CHANGE: Telling = telling("ebpf::kills::changing", changing);
pub(super) const CLEAN: Telling = telling("ebpf::kills::cleaning", cleaning);

const fn telling(name: &'static str, body: fn() -> String) -> Telling {
    Telling { name, body, within: Duration::from_secs(180) }
}

/// At every how manieth step: each of them in long runs.
pub(super) const STRIDE: Whole = Whole { number: 12, variable: "MESH_INIT_TEST_EBPF_STRIDE" };

/// The same where there are some twenty.
const FEW: usize = 4;

/// Another policy: other ports of the proxy's, and fewer networks.
pub(super) const OTHER: &str =
    "--layout istio -p 15011 -z 15016 -u 1337 -b 80 -i 10.9.0.0/24,fd00:9::/64 -o 443,8443";
/// And a third, which is not the other's.
const THIRD: &str =
    "--layout istio -p 15001 -z 15006 -u 1337 -b * -d 9090 -i 10.0.0.0/24,fd00::/64 -x 10.0.0.77/32";

pub(super) fn serve(pod: &Pod) {
    serve_apps(&pod.here, &pod.there);
    serve_proxy(&pod.here);
    Service::tcp(&pod.here, PROXY, "other_outbound", &[15011]);
    Service::tcp(&pod.here, PROXY, "other_inbound", &[15016]);
}

/// Who answers: a call out to each network, and one in to each port.
fn answers(pod: &Pod) -> Vec<String> {
    let of = |dialled: Dialled| dialled.answer.map_or_else(|error| error, |seen| seen.name);
    let family = |family| {
        [
            of(dial(&pod.here, APP, THERE.port(family, 80))),
            of(dial(&pod.here, APP, THERE_FAR.port(family, 80))),
            of(dial(&pod.there, APP, HERE.port(family, 80))),
            of(dial(&pod.there, APP, HERE.port(family, 9090))),
        ]
    };
    Family::BOTH.map(family).concat()
}

const NOBODY: [&str; 4] = ["there", "there", "here", "here"];
pub(super) const USUAL: [&str; 4] = ["outbound", "outbound", "inbound", "inbound"];
const OF_OTHER: [&str; 4] = ["there", "other_outbound", "other_inbound", "here"];
const OF_THIRD: [&str; 4] = ["outbound", "there", "inbound", "here"];

#[track_caller]
pub(super) fn is(pod: &Pod, expected: [&str; 4]) {
    assert_eq!(answers(pod), [expected, expected].concat());
}

/// Kills runs of `words`, each at another step, from what `before` makes. One of `whole` is left, and `after` completes it.
/// How many steps there were, and how often what was left was each of `whole`.
pub(super) fn at_every_step(
    pod: &Pod,
    words: &[&str],
    before: impl Fn(),
    whole: [[&str; 4]; 2],
    after: impl Fn(),
    stride: usize,
) -> String {
    let stride = STRIDE.part(stride).max(1);
    // Others in each run of the case.
    let first = usize::try_from(std::process::id()).expect("a process number") % stride;
    let (mut left, mut killed) = ([0, 0], 0);
    for stop in 0.. {
        if stop % stride != first {
            continue;
        }
        before();
        let ended = pod.here.run(|| stopped(words, Calls::OfBpf, stop, true, || ()));
        if let Ended::Early(code) = ended {
            assert_eq!(code, 0);
            assert!(stop > 10 && killed > 1, "{words:?} has no more than {stop} steps");
            return format!("{killed} kills in {stop} steps, {left:?} times old and new");
        }
        killed += 1;
        let answers = answers(pod);
        let is_whole = |whole: &[&str; 4]| answers == [*whole, *whole].concat();
        match whole.iter().position(is_whole) {
            Some(which) => left[which] += 1,
            None => panic!("killed at step {stop}: neither nor: {answers:?}"),
        }
        after();
    }
    unreachable!("a run has an end")
}

fn applying() -> String {
    let pod = Pod::bare();
    serve(&pod);
    let words = pod.words(POD);
    let after = || {
        pod.apply(THIRD);
        is(&pod, OF_THIRD);
        pod.clean();
    };
    let told = at_every_step(&pod, &words, || (), [NOBODY, USUAL], after, STRIDE.number);
    // The last run was not killed.
    is(&pod, USUAL);
    told
}

fn changing() -> String {
    let pod = Pod::bare();
    serve(&pod);
    let words = pod.words(OTHER);
    let before = || {
        pod.apply(POD);
        is(&pod, USUAL);
    };
    let after = || {
        pod.apply(THIRD);
        is(&pod, OF_THIRD);
        // Of the policies before nothing is left.
        assert_eq!(entries("NAMESPACES"), 1);
    };
    let told = at_every_step(&pod, &words, before, [USUAL, OF_OTHER], after, FEW);
    is(&pod, OF_OTHER);
    pod.clean();
    told
}

fn cleaning() -> String {
    let pod = Pod::bare();
    serve(&pod);
    let before = || pod.apply(POD);
    let after = || {
        pod.clean();
        is(&pod, NOBODY);
    };
    let told = at_every_step(&pod, &["clean"], before, [USUAL, NOBODY], after, STRIDE.number);
    assert!(!Path::new(KEPT).exists());
    told
}

/// The same again changes nothing, and says so.
fn again() {
    let pod = Pod::new(POD);
    let run = mesh_init(&pod.here, &pod.words(POD)).code(0);
    assert!(!run.stdout.contains("changed BPF"), "{run}");
    let run = mesh_init(&pod.here, &pod.words(THIRD)).code(0);
    assert!(run.stdout.contains("changed BPF"), "{run}");
    pod.clean();
    let run = mesh_init(&pod.here, &["clean"]).code(0);
    assert!(!run.stdout.contains("BPF"), "{run}");
}

/// Many runs at once, of two policies and two namespaces: each succeeds, and one policy of each namespace holds as a whole.
fn at_the_same_time() {
    let pod = Pod::bare();
    serve(&pod);
    let (second, _there) = pod.second(POD);
    for round in 0..3 {
        let start = |here, flags| Call::mesh_init(here, &pod.words(flags)).start();
        let runs = [POD, OTHER, POD, OTHER].map(|flags| start(&pod.here, flags));
        let others = [POD, OTHER].map(|flags| start(&second, flags));
        for run in runs.into_iter().chain(others) {
            run.finish().code(0);
        }
        let seen = answers(&pod);
        assert!(
            [USUAL, OF_OTHER].iter().any(|whole| seen == [*whole, *whole].concat()),
            "round {round}: {seen:?}"
        );
        assert_eq!(entries("NAMESPACES"), 2);
    }
}

/// Somebody unmounts it: nothing is captured from then on, and the next run makes it all again.
fn file_system_gone() {
    let pod = Pod::new(POD);
    umount2("/sys/fs/bpf", MntFlags::empty()).expect("a mount of ours");
    // The kernel detaches what nobody keeps in its own time.
    let end = Instant::now() + Duration::from_secs(5);
    while answers(&pod) != [NOBODY, NOBODY].concat() {
        assert!(Instant::now() < end, "{:?}", answers(&pod));
    }
    pod.apply(POD);
    for family in Family::BOTH {
        dial(&pod.here, APP, THERE.port(family, 80)).captured_by("outbound");
        dial(&pod.there, APP, HERE.port(family, 80)).captured_by("inbound");
    }
}

/// A group that went and came again, as of a pod that is made anew.
fn control_group_gone() {
    let pod = Pod::new(POD);
    let group = pod.cgroup.beside("gone");
    let folder = group.to_str().expect("a path of ours").to_owned();
    let words = ["apply", "--backend", "ebpf", "--cgroup", &folder];
    let words: Vec<_> = words.into_iter().chain(POD.split(' ')).collect();
    mesh_init(&pod.here, &words).ok();
    // The processes are in the other group.
    dial(&pod.here, APP, THERE.port(Family::V4, 80)).untouched_to("there");
    std::fs::remove_dir(&group).expect("nobody is in it");
    mesh_init(&pod.here, &["status"]).ok();
    pod.apply(POD);
    dial(&pod.here, APP, THERE.port(Family::V4, 80)).captured_by("outbound");
    pod.clean();
}

/// Somebody removed a link: it is told, and made again.
fn link_gone() {
    let pod = Pod::new(POD);
    let groups = std::fs::read_dir(Path::new(KEPT).join("cgroups")).expect("kept");
    let [group] = groups.flatten().collect::<Vec<_>>().try_into().expect("one group");
    std::fs::remove_file(group.path().join("mesh_connect4")).expect("a link");
    // The kernel detaches what nobody keeps in its own time.
    let end = Instant::now() + Duration::from_secs(5);
    let mut seen = dial(&pod.here, APP, THERE.port(Family::V4, 80));
    while !seen.is_untouched_to("there") && Instant::now() < end {
        seen = dial(&pod.here, APP, THERE.port(Family::V4, 80));
    }
    seen.untouched_to("there");
    mesh_init(&pod.here, &["status"]).code(0).says("mesh_connect4");
    pod.apply(POD);
    dial(&pod.here, APP, THERE.port(Family::V4, 80)).captured_by("outbound");
}
