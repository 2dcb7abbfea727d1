//! Programs of another build that are there already: those of this one take their place while connections are made.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::kills::{OTHER, STRIDE, USUAL, at_every_step, is, serve};
use super::{KEPT, Named, POD, Pod, serve_apps, serve_proxy};
use crate::istio::APP;
use crate::support::clients::{Clients, Route};
use crate::support::command::{MESH_INIT, Run, mesh_init};
use crate::support::dial::{Open, dial};
use crate::support::netns::Netns;
use crate::support::rules::Family;
use crate::support::wire::{HERE, THERE, THERE_FAR};
use crate::telling::Telling;

pub(super) const CASES: &[Named] = &[
    ("upgrade::takes_the_place", takes_the_place),
    ("upgrade::to_another_policy", to_another_policy),
    ("upgrade::under_load", under_load),
    ("upgrade::of_a_namespace_beside", of_a_namespace_beside),
    ("upgrade::control_group_that_is_gone", control_group_that_is_gone),
    ("upgrade::clean_of_another_build", clean_of_another_build),
];

pub(super) const KILLED: Telling =
    Telling { name: "ebpf::upgrade::killed", body: killed, within: Duration::from_secs(180) };

/// Another build: this one with another word in its objects, which the kernel takes as well
/// (`license_is_gpl_compatible`, include/linux/license.h), so that neither their digests nor their programs are the same.
struct Older(PathBuf);

impl Older {
    fn new() -> Self {
        const SAME_LENGTH: [&[u8; 13]; 2] = [b"Dual MIT/GPL\0", b"Dual BSD/GPL\0"];
        let mut program = fs::read(MESH_INIT).expect("the program under test");
        let places: Vec<usize> =
            (0..program.len() - 13).filter(|at| program[*at..].starts_with(SAME_LENGTH[0])).collect();
        assert!(places.len() >= 2, "an object for control groups and one for namespaces");
        for at in places {
            program[at..at + 13].copy_from_slice(SAME_LENGTH[1]);
        }
        let path = PathBuf::from("/run/mesh-init");
        fs::write(&path, program).expect("a file system of ours");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a file of ours");
        Self(path)
    }

    fn run(&self, netns: &Netns, words: &[&str]) -> Run {
        Run::new(netns, self.0.to_str().expect("text"), words)
    }

    #[track_caller]
    fn apply(&self, pod: &Pod, flags: &str) {
        self.run(&pod.here, &pod.words(flags)).ok();
    }
}

/// The names of what is kept in a folder.
fn names(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(Path::new(KEPT).join(folder)).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The one in a folder.
#[track_caller]
fn only(folder: &str) -> String {
    let names = names(folder);
    assert_eq!(names.len(), 1, "{folder}: {names:?}");
    names.into_iter().next().expect("one")
}

/// Which build's programs are there: those of control groups, and the namespace's own.
#[track_caller]
fn builds() -> [String; 2] {
    let own = names(&format!("netns/{}", only("netns"))).into_iter();
    let own: Vec<_> = own.filter(|name| name != "cgroup" && name != "arrives").collect();
    assert_eq!(own.len(), 1, "{own:?}");
    [only("programs"), own.concat()]
}

#[track_caller]
fn all_captured(here: &Netns, there: &Netns) {
    for family in Family::BOTH {
        dial(here, APP, THERE.port(family, 80)).captured_by("outbound");
        dial(there, APP, HERE.port(family, 80)).captured_by("inbound");
    }
}

/// What was open goes on, and the application is told whom it called by the new programs as by the old ones.
fn takes_the_place() {
    let older = Older::new();
    let pod = Pod::bare();
    serve_apps(&pod.here, &pod.there);
    older.apply(&pod, POD);
    serve_proxy(&pod.here);
    all_captured(&pod.here, &pod.there);
    let before = builds();
    let mut open: Vec<Open> = Family::BOTH
        .iter()
        .flat_map(|family| {
            [
                Open::new(&pod.here, APP, THERE.port(*family, 80)),
                Open::new(&pod.there, APP, HERE.port(*family, 80)),
            ]
        })
        .collect();
    // They are not what this build would make, and that is told; they capture all the same.
    mesh_init(&pod.here, &["verify"]).code(0).says("BPF programs of another build of mesh-init");
    let run = mesh_init(&pod.here, &pod.words(POD)).code(0);
    assert!(run.stdout.contains("changed BPF"), "{run}");
    let after = builds();
    assert!(before[0] != after[0] && before[1] != after[1], "{before:?} before, {after:?} after");
    open.iter_mut().for_each(|open| open.echo("still there"));
    all_captured(&pod.here, &pod.there);
    let run = mesh_init(&pod.here, &["verify"]).code(0);
    assert!(!run.stdout.contains("of another build"), "{run}");
    let run = mesh_init(&pod.here, &pod.words(POD)).code(0);
    assert!(!run.stdout.contains("changed BPF"), "{run}");
    // And back again.
    older.apply(&pod, POD);
    assert_eq!(builds(), before);
    open.iter_mut().for_each(|open| open.echo("still there"));
    all_captured(&pod.here, &pod.there);
    pod.clean();
}

fn to_another_policy() {
    let older = Older::new();
    let pod = Pod::bare();
    serve(&pod);
    older.apply(&pod, OTHER);
    pod.apply(POD);
    is(&pod, USUAL);
    mesh_init(&pod.here, &["verify"]).code(0);
}

/// No connection fails, and none gets past the proxy, however often.
fn under_load() {
    let older = Older::new();
    let pod = Pod::new(POD);
    let to = |hosts: [crate::support::wire::Addresses; 2]| {
        Family::BOTH.map(|family| hosts.map(|host| host.port(family, 80))).concat()
    };
    let route = |from: &Netns, to| Route { from: from.clone(), who: APP, to };
    let out = to([THERE, THERE_FAR]);
    let mut out = Clients::start(vec![route(&pod.here, out.clone()), route(&pod.here, out)], "outbound");
    let mut inb = Clients::start(vec![route(&pod.there, to([HERE, HERE]))], "inbound");
    for _ in 0..8 {
        older.apply(&pod, POD);
        pod.apply(POD);
    }
    for clients in [&mut out, &mut inb] {
        clients.stop();
        clients.assert_all_captured("sixteen builds");
        assert!(clients.captured() > 100, "{}", clients.report());
    }
}

/// The programs for control groups are every namespace's; one of its own each keeps until it is applied again, and captures.
fn of_a_namespace_beside() {
    let older = Older::new();
    let pod = Pod::bare();
    let (here, there) = crate::support::wire::two_hosts();
    serve_apps(&pod.here, &pod.there);
    serve_apps(&here, &there);
    older.apply(&pod, POD);
    // The processes of this one are all that there are.
    let of_all: Vec<_> = ["apply", "--backend", "ebpf"].into_iter().chain(POD.split(' ')).collect();
    older.run(&here, &of_all).ok();
    serve_proxy(&pod.here);
    serve_proxy(&here);
    pod.apply(POD);
    assert_eq!((names("programs").len(), names("cgroups").len()), (1, 2));
    all_captured(&pod.here, &pod.there);
    all_captured(&here, &there);
    mesh_init(&pod.here, &["verify"]).code(0);
    mesh_init(&here, &["verify"]).code(0).says("BPF programs of another build of mesh-init");
    mesh_init(&here, &of_all).code(0).says("changed BPF");
    mesh_init(&here, &["verify"]).code(0);
    all_captured(&here, &there);
    mesh_init(&here, &["clean"]).ok();
    pod.clean();
}

/// A link that leads nowhere any more is in nobody's way.
fn control_group_that_is_gone() {
    let older = Older::new();
    let pod = Pod::bare();
    serve_apps(&pod.here, &pod.there);
    let group = pod.cgroup.beside("gone");
    let folder = group.to_str().expect("a path of ours").to_owned();
    let (other, _there) = crate::support::wire::two_hosts();
    let words = ["apply", "--backend", "ebpf", "--cgroup", &folder];
    let words: Vec<_> = words.into_iter().chain(POD.split(' ')).collect();
    older.run(&other, &words).ok();
    fs::remove_dir(&group).expect("nobody is in it");
    pod.apply(POD);
    serve_proxy(&pod.here);
    all_captured(&pod.here, &pod.there);
    assert_eq!(names("programs").len(), 1);
    mesh_init(&other, &["clean"]).ok();
    pod.clean();
}

fn clean_of_another_build() {
    let older = Older::new();
    let pod = Pod::bare();
    serve_apps(&pod.here, &pod.there);
    older.apply(&pod, POD);
    serve_proxy(&pod.here);
    pod.clean();
    for family in Family::BOTH {
        dial(&pod.here, APP, THERE.port(family, 80)).untouched_to("there");
        dial(&pod.there, APP, HERE.port(family, 80)).untouched_to("here");
    }
}

/// At whichever step an upgrade is killed, all is captured, and the next run completes it.
fn killed() -> String {
    let older = Older::new();
    let pod = Pod::bare();
    serve(&pod);
    let words = pod.words(POD);
    let before = || {
        older.apply(&pod, POD);
        is(&pod, USUAL);
    };
    let after = || {
        pod.apply(POD);
        is(&pod, USUAL);
        mesh_init(&pod.here, &["verify"]).code(0);
        builds();
    };
    let told = at_every_step(&pod, &words, before, [USUAL, USUAL], after, STRIDE.number);
    pod.clean();
    told
}
