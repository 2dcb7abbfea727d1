//! A run stopped at every system call it makes: killed there, or overtaken there by somebody else's edit.

use std::collections::BTreeMap;
use std::fs;

use super::node::Node;
use super::states::{CONF, vendor};
use crate::harness::Case;
use crate::support::command::MESH_INIT;
use crate::support::traced::{Calls, Ended, stopped};
use std::time::Duration;

pub(crate) fn cases() -> Vec<Case> {
    [
        Case::new("install::killed_while_joining", killed_while_joining),
        Case::new("install::killed_while_leaving", killed_while_leaving),
        Case::new("install::killed_while_wrapping", killed_while_wrapping),
        Case::new("install::killed_while_dropping_in", killed_while_dropping_in),
        Case::new("install::overtaken", overtaken),
    ]
    .map(|case| case.within(Duration::from_secs(120)))
    .into()
}

/// The configuration without what is of no consequence: half-written files that no runtime reads.
fn texts(node: &Node) -> BTreeMap<String, String> {
    let seen = node.seen().into_iter().filter(|(name, _)| !name.ends_with(".tmp"));
    seen.map(|(name, seen)| (name, seen.text)).collect()
}

/// Kills a run of `verb` at every place. What is left is `whole` each time, and the next run ends as `done` says, with
/// nothing half-written.
fn at_every_place(
    verb: &str,
    args: &[&str],
    node: impl Fn() -> Node,
    whole: impl Fn(&Node),
    done: impl Fn(&Node),
) {
    let mut half_written = 0;
    let mut states = std::collections::BTreeSet::new();
    for stop in 0.. {
        let node = node();
        if let Ended::Early(code) = stopped(&node.words(verb, args), Calls::Lasting, stop, true, || ()) {
            assert_eq!(code, 0);
            done(&node);
            eprintln!("{stop} places, {} states, {half_written} times something half-written", states.len());
            assert!(
                stop > 50 && states.len() > 1 && half_written > 0,
                "the places are not those that were meant"
            );
            return;
        }
        let names = node.seen().into_keys().chain(node.programs());
        half_written += usize::from(names.filter(|name| name.ends_with(".tmp")).count() > 0);
        states.insert(format!("{:?}{:?}", texts(&node), node.program().exists()));
        whole(&node);
        node.run(verb, args).ok();
        done(&node);
        assert!(node.seen().keys().all(|name| !name.ends_with(".tmp")), "swept: {:?}", node.seen());
    }
}

/// Wherever ours stands, the program is there.
#[track_caller]
fn program_before_configuration(node: &Node, kinds: &[String]) {
    if kinds.iter().any(|kind| kind == "mesh-init") {
        node.assert_program();
    }
}

fn killed_while_joining() {
    let old = vendor("10-calico.conflist");
    let reference = Node::new(&[("10-calico.conflist", &old)]);
    reference.run("install", &[]).ok();
    let new = reference.text("10-calico.conflist");
    at_every_place(
        "install",
        &[],
        || Node::new(&[("10-calico.conflist", &old)]),
        |node| {
            let text = node.text("10-calico.conflist");
            assert!(text == old || text == new, "{text}");
            program_before_configuration(node, &node.containerd().unwrap());
        },
        |node| {
            assert_eq!(node.text("10-calico.conflist"), new);
            assert_eq!(node.programs(), ["mesh-init"]);
            node.assert_program();
        },
    );
}

fn killed_while_leaving() {
    let old = vendor("10-calico.conflist");
    at_every_place(
        "uninstall",
        &[],
        || {
            let node = Node::new(&[("10-calico.conflist", &old)]);
            node.run("install", &[]).ok();
            node
        },
        |node| program_before_configuration(node, &node.containerd().unwrap()),
        |node| {
            assert_eq!(texts(node), [("10-calico.conflist".to_owned(), old.clone())].into());
            assert_eq!(node.programs(), Vec::<String>::new());
        },
    );
}

fn killed_while_wrapping() {
    at_every_place(
        "install",
        &["--selection", "all"],
        || Node::new(&[("10-a.conf", CONF)]),
        |node| {
            assert_eq!(node.text("10-a.conf"), CONF);
            program_before_configuration(node, &node.containerd().unwrap());
        },
        |node| assert_eq!(node.containerd().unwrap(), ["bridge", "mesh-init"]),
    );
}

/// From an entry in the list to a drop-in: at no time is there none, and at no time does the list not load.
fn killed_while_dropping_in() {
    let old = vendor("10-flannel.conflist");
    at_every_place(
        "install",
        &["--drop-in", "always"],
        || {
            let node = Node::new(&[("10-flannel.conflist", &old)]);
            node.run("install", &[]).ok();
            node
        },
        |node| {
            assert!(node.newer().unwrap().contains(&"mesh-init".to_owned()), "{:?}", node.seen());
            node.containerd().unwrap();
        },
        |node| assert_eq!(node.newer().unwrap(), ["flannel", "portmap", "mesh-init"]),
    );
}

/// Somebody else replaces the list at every place of a run, as installers do: by a rename. Their text is never lost; if it
/// came too late for this run, the next one joins it.
fn overtaken() {
    let old = vendor("10-calico.conflist");
    let theirs = old.replace("\"info\"", "\"debug\"").replace("\"mtu\": 0", "\"mtu\": 9000");
    let (mut joined, mut late, mut lost) = (0, 0, Vec::new());
    for stop in 0.. {
        let node = Node::new(&[("10-calico.conflist", &old)]);
        // The program is there already: its copying is not the matter here.
        fs::copy(MESH_INIT, node.program()).unwrap();
        let edit = || {
            let new = node.net().join("new.tmp");
            fs::write(&new, &theirs).unwrap();
            fs::rename(&new, node.net().join("10-calico.conflist")).unwrap();
        };
        if let Ended::Early(code) = stopped(&node.words("install", &[]), Calls::Every, stop, false, edit) {
            assert_eq!(code, 0);
            break;
        }
        let text = node.text("10-calico.conflist");
        if !text.contains("9000") {
            lost.push(stop);
            continue;
        }
        match text == theirs {
            true => late += 1,
            false => joined += 1,
        }
        node.run("install", &[]).ok();
        node.run("uninstall", &[]).ok();
        assert_eq!(node.text("10-calico.conflist"), theirs, "at {stop}");
    }
    eprintln!("joined {joined}, came late {late}, lost at {lost:?}");
    assert!(joined > 20 && late > 5, "joined {joined}, late {late}");
    // At the rename itself, behind the last look at the name.
    assert!(lost.len() <= 1, "lost at {lost:?}");
}
