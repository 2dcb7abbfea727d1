//! Runtimes that keep a pod's network to themselves are refused by name.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use super::{KEPT, Named, POD, Pod};
use crate::support::command::{Run, mesh_init};
use crate::support::creds::Who;
use crate::support::tap::Tap;

pub(super) const CASES: &[Named] = &[
    ("sandboxes::kata", kata),
    ("sandboxes::gvisor", gvisor),
    ("sandboxes::that_come_later", that_come_later),
    ("sandboxes::a_host_without_addresses", a_host_without_addresses),
];

/// Nothing is made, and what is said names the runtime and the sign of it.
#[track_caller]
fn refused(pod: &Pod, words: &[&str]) {
    let mut run = mesh_init(&pod.here, &pod.words(POD)).code(64);
    for word in words {
        run = run.says(word);
    }
    assert!(!std::path::Path::new(KEPT).exists(), "kept after it was refused");
    // Where nothing is to be captured nothing is refused.
    mesh_init(&pod.here, &pod.words("-m NONE")).ok();
}

fn kata() {
    let pod = Pod::bare();
    Run::new(&pod.here, "ip", &["tuntap", "add", "tap0_kata", "mode", "tap"]).ok();
    refused(&pod, &["Kata", "tap0_kata"]);
    Run::new(&pod.here, "ip", &["link", "del", "tap0_kata"]).ok();
    pod.apply(POD);
    pod.clean();
}

/// Ends with the case.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// A process of gVisor's name in the pod's namespace.
fn runsc(pod: &Pod) -> Process {
    let start = || Command::new("sleep").arg0("/usr/bin/runsc-sandbox").arg("60").spawn();
    Process(pod.here.run_as(Who::ROOT, start).expect("it starts"))
}

/// Takes the addresses away, and reads packets, as gVisor does.
fn take_over(pod: &Pod) -> Tap {
    pod.here.ip("address flush dev eth0");
    pod.here.ip("address flush dev lo");
    Tap::new(&pod.here)
}

fn gvisor() {
    let pod = Pod::bare();
    let _process = runsc(&pod);
    // With addresses it is a pod like any other: the process may be somebody else's.
    pod.apply(POD);
    pod.clean();
    let _packets = take_over(&pod);
    refused(&pod, &["gVisor", "runsc-sandbox"]);
}

/// What was applied before the runtime came, as the CNI plugin does, captures nothing.
fn that_come_later() {
    let pod = Pod::bare();
    pod.apply(POD);
    Run::new(&pod.here, "ip", &["tuntap", "add", "tap0_kata", "mode", "tap"]).ok();
    mesh_init(&pod.here, &["verify", "--quick"]).code(126).says("Kata").says("tap0_kata");
    pod.clean();
}

/// A machine that waits for its addresses, and asks for them, is none.
fn a_host_without_addresses() {
    let pod = Pod::bare();
    let _packets = take_over(&pod);
    pod.apply(POD);
    pod.clean();
}
