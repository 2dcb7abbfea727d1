//! `--every`: what others undo comes back, and SIGTERM leaves it as it is.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::node::Node;
use super::states::vendor;
use crate::harness::Case;
use crate::support::command::{MESH_INIT, command};

pub(crate) fn cases() -> Vec<Case> {
    vec![Case::new("install::every", every)]
}

fn every() {
    let list = vendor("05-cilium.conflist");
    let node = Node::new(&[]);
    let words = node.words("install", &["--every", "1", "--output", "json"]);
    // The first process of a PID namespace, as in a container.
    let mut all = vec!["--pid", "--fork", "--kill-child", MESH_INIT];
    all.extend(words.iter().map(String::as_str));
    let mut child = command("unshare", &all).spawn().unwrap();
    let mut answers = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<serde_json::Value>(&answers.next().unwrap().unwrap()).unwrap();
    thread::sleep(Duration::from_millis(300));
    node.put("05-cilium.conflist", &list);
    let first = next();
    assert_eq!((&first["schema"], &first["programWritten"]), (&"mesh-init/install/v1".into(), &true.into()));
    // Its owner writes it anew.
    node.put("05-cilium.conflist", &list);
    assert_eq!(next()["changed"][0]["file"], "05-cilium.conflist");
    assert_eq!(node.containerd().unwrap(), ["cilium-cni", "mesh-init"]);
    // The program is gone.
    fs::remove_file(node.program()).unwrap();
    assert_eq!(next()["programWritten"], true);
    node.assert_program();
    let inner = fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id())).unwrap();
    let begin = Instant::now();
    kill(Pid::from_raw(inner.trim().parse().unwrap()), Signal::SIGTERM).unwrap();
    let status = child.wait().unwrap();
    assert!(
        status.success() && begin.elapsed() < Duration::from_secs(1),
        "{status} after {:?}",
        begin.elapsed()
    );
    assert!(answers.next().is_none(), "an answer for each change, and no other");
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said.matches("there is no configuration").count(), 1, "an error is told once: {said}");
    assert!(said.contains("somebody else undoes this"), "{said}");
    assert_eq!(node.containerd().unwrap(), ["cilium-cni", "mesh-init"]);
    node.assert_program();
}
