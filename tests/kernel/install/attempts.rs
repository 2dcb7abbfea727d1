//! What cannot be done is refused by name, and nothing is changed.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sys::stat::Mode;

use super::node::{Node, run};
use super::states::{CONF, vendor};
use crate::harness::Case;
use crate::support::command::Run;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("install::none_yet", none_yet),
        Case::new("install::invalid_first_file", invalid_first_file),
        Case::new("install::impossible", impossible),
        Case::new("install::unreadable_drop_in", unreadable_drop_in),
        Case::new("install::runtime_binary_that_is_none", runtime_binary_that_is_none),
        Case::new("install::read_only", read_only),
        Case::new("install::full_disk", full_disk),
        Case::new("install::locked", locked),
        Case::new("install::left_over", left_over),
        Case::new("install::pods_that_need_del", pods_that_need_del),
        Case::new("install::blocked", blocked),
    ]
}

/// Runs, and nothing is as it was not.
#[track_caller]
fn refused(node: &Node, verb: &str, args: &[&str], code: i32, says: &str) -> Run {
    let (before, programs) = (node.seen(), node.programs());
    let run = node.run(verb, args).code(code).says(says);
    assert_eq!((node.seen(), node.programs()), (before, programs));
    assert_eq!(run.stdout, "");
    run
}

fn none_yet() {
    let node = Node::new(&[]);
    refused(&node, "install", &[], 75, "there is no configuration that could be joined");
    let begin = Instant::now();
    refused(&node, "install", &["--wait", "1"], 75, "--wait");
    assert!(begin.elapsed() >= Duration::from_secs(1));
    // It comes while we wait, half-written first.
    let list = vendor("10-flannel.conflist");
    let begin = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(300));
            node.put("10-flannel.conflist", &list[..40]);
            thread::sleep(Duration::from_millis(500));
            node.put("10-flannel.conflist", &list);
        });
        node.run("install", &["--wait", "20"]).ok();
    });
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    assert_eq!(node.containerd().unwrap(), ["flannel", "portmap", "mesh-init"]);
    fs::remove_dir_all(node.net()).unwrap();
    node.run("install", &[]).code(75).says("net.d is not there");
    // Leaving a node that has nothing is no fault.
    node.run("uninstall", &[]).ok();
    fs::remove_dir_all(&node.root).unwrap();
    assert!(node.run("uninstall", &[]).ok().contains("nothing to do"));
}

fn invalid_first_file() {
    let list = vendor("10-flannel.conflist");
    for (bad, why) in [
        ("{", "line 1 column 2"),
        ("", "the text ends"),
        ("\u{feff}{\"name\":\"n\",\"plugins\":[{\"type\":\"a\"}]}", "byte order mark"),
        ("{\"name\":\"n\",\"plugins\":[{\"type\":\"a\"},]}", "a value is expected"),
        ("{\"name\":\"n\",\"plugins\":[]}", "empty list"),
        ("->/nowhere", "is a link that leads nowhere"),
    ] {
        let node = Node::new(&[("10-flannel.conflist", &list)]);
        node.put("05-bad.conflist", bad);
        let run = refused(
            &node,
            "install",
            &[],
            69,
            "05-bad.conflist is the runtime's choice and cannot be loaded",
        );
        run.says(why);
        // CRI-O passes over it.
        node.run("install", &["--runtime", "crio"]).ok();
        assert!(node.text("10-flannel.conflist").contains("mesh-init"));
        let run = node.run("uninstall", &[]);
        run.ok();
        assert_eq!(node.text("10-flannel.conflist"), list);
    }
}

fn impossible() {
    let list = |version: &str, more: &str| {
        format!(r#"{{"cniVersion":"{version}","name":"n"{more},"plugins":[{{"type":"bridge"}}]}}"#)
    };
    let node = |file: &str, text: &str| Node::new(&[(file, text)]);
    let old = list("0.2.0", "");
    refused(&node("1.conflist", &old), "install", &[], 69, "is of CNI version 0.2.0");
    refused(&node("1.conflist", &list("2.0.0", "")), "install", &[], 69, "is of CNI version 2.0.0");
    refused(
        &node("1.conf", r#"{"name":"n","type":"bridge"}"#),
        "install",
        &[],
        69,
        "is of CNI version 0.1.0",
    );
    let only = list("1.1.0", r#","loadOnlyInlinedPlugins":true"#);
    refused(&node("1.conflist", &only), "install", &["--drop-in", "always"], 69, "no drop-in is read");
    refused(&node("1.conf", CONF), "install", &["--drop-in", "always"], 69, "is a single plugin");
    refused(&node("1.conflist", &list("1.0.0", "")), "install", &["--chain", "other"], 69, "give one of: n");
    let ours = r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"mesh-init"}]}"#;
    refused(&node("1.conflist", ours), "install", &[], 69, "has no plugin but mesh-init");
    let bare = Node::new(&[
        ("1.conflist", r#"{"cniVersion":"1.1.0","name":"n"}"#),
        ("n/1.conf", r#"{"type":"bridge"}"#),
    ]);
    refused(&bare, "install", &["--drop-in", "never"], 69, "has no plugins of its own");
    let near = Node::new(&[("a.cone~z.conf", CONF), ("a.conf", &CONF.replace("lonely", "b"))]);
    refused(&near, "install", &["--chain", "b"], 69, "rename one of the two");
    // All faults of the command line at once.
    let node = node("1.conflist", &list("1.0.0", ""));
    let words = [
        "--chain",
        "../x",
        "--drop-in",
        "maybe",
        "--selection",
        "some",
        "--exclude-namespace",
        "A,b_",
        "--wait",
        "-1",
    ];
    let run = refused(&node, "install", &words, 64, "--chain");
    for flag in ["--drop-in", "--selection", "--exclude-namespace: \"A\"", "\"b_\"", "--wait"] {
        run.clone().says(flag);
    }
    assert_eq!(run.stderr.lines().count(), 6, "{run}");
}

/// Waiting mends none of these.
fn unreadable_drop_in() {
    let list = vendor("10-flannel.conflist");
    let node = Node::new(&[("10-flannel.conflist", &list)]);
    let own = node.net().join("cbr0/90-mesh-init.conf");
    fs::create_dir(own.parent().unwrap()).unwrap();
    type Make = fn(&Path);
    let ways: [(&str, Make); 3] = [
        ("is not UTF-8", |own| fs::write(own, b"\xff").unwrap()),
        ("it is no plain file", |own| nix::unistd::mkfifo(own, Mode::S_IRWXU).unwrap()),
        ("leads nowhere", |own| std::os::unix::fs::symlink("nothing", own).unwrap()),
    ];
    for (why, make) in ways {
        make(&own);
        for drop_in in ["always", "never"] {
            let run = node.run("install", &["--drop-in", drop_in]).code(69);
            run.says("cbr0/90-mesh-init.conf").says(why).says("take it away");
            assert_eq!(node.text("10-flannel.conflist"), list);
        }
        fs::remove_file(&own).unwrap();
        node.run("install", &["--drop-in", "always"]).ok();
        node.run("uninstall", &[]).ok();
        fs::create_dir_all(own.parent().unwrap()).unwrap();
    }
}

/// A program is a plain file, and nothing else is waited for.
fn runtime_binary_that_is_none() {
    let node = Node::new(&[("10-flannel.conflist", &vendor("10-flannel.conflist"))]);
    let fifo = node.root.join("fifo");
    nix::unistd::mkfifo(&fifo, Mode::S_IRWXU).unwrap();
    for path in [fifo.to_str().unwrap(), "/dev/zero", "/run"] {
        let run = refused(&node, "install", &["--runtime-binary", path], 64, "it is no plain file");
        run.says(path);
    }
}

/// Read-only as some systems have `/opt` and `/etc`; an unprivileged user.
fn read_only() {
    let none = None::<&str>;
    for (folder, first) in [("etc/cni/net.d", "net.d"), ("opt/cni/bin", "opt/cni/bin")] {
        let node = Node::new(&[("10-flannel.conflist", &vendor("10-flannel.conflist"))]);
        let path = node.root.join(folder);
        mount(Some(&path), &path, none, MsFlags::MS_BIND, none).unwrap();
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(none, &path, none, flags, none).unwrap();
        let before = node.seen();
        node.run("install", &[]).code(69).says("Read-only file system").says(first);
        assert_eq!(node.seen(), before);
        nix::mount::umount(&path).unwrap();
        node.run("install", &[]).ok();
    }
    let node = Node::new(&[("10-flannel.conflist", &vendor("10-flannel.conflist"))]);
    fs::set_permissions(
        node.net().join("10-flannel.conflist"),
        std::os::unix::fs::PermissionsExt::from_mode(0o644),
    )
    .unwrap();
    let before = node.seen();
    let mut words = vec![
        "--reuid=65534".to_owned(),
        "--clear-groups".to_owned(),
        crate::support::command::MESH_INIT.to_owned(),
    ];
    words.extend(node.words("install", &[]));
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let output = crate::support::command::command("setpriv", &words).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(77), "{said}");
    assert!(said.contains("Permission denied") && said.contains("run as root"), "{said}");
    assert_eq!((node.seen(), node.programs()), (before, vec![]));
}

fn full_disk() {
    let node = Node::new(&[]);
    let net = node.net();
    mount(Some("tmpfs"), &net, Some("tmpfs"), MsFlags::empty(), Some("size=16k")).unwrap();
    let list = vendor("10-flannel.conflist");
    node.put("10-flannel.conflist", &list);
    let filler = net.join("filler");
    // Writes until nothing fits any more.
    let filled = fs::write(&filler, vec![b'x'; 64 << 10]);
    assert!(filled.is_err(), "the disk is full");
    let before = node.seen();
    node.run("install", &[]).code(1).says("No space left on device").says("make room");
    assert_eq!(node.seen(), before, "and nothing half-written is left");
    fs::remove_file(&filler).unwrap();
    node.run("install", &[]).ok();
    nix::mount::umount(&net).unwrap();
}

fn locked() {
    let node = Node::new(&[("10-flannel.conflist", &vendor("10-flannel.conflist"))]);
    let folder = fs::File::open(node.net()).unwrap();
    let lock = nix::fcntl::Flock::lock(folder, nix::fcntl::FlockArg::LockExclusive).unwrap();
    let begin = Instant::now();
    refused(&node, "install", &[], 75, "another run works on");
    assert!(begin.elapsed() >= Duration::from_secs(9));
    // Many at once, each whole.
    drop(lock);
    thread::scope(|scope| {
        for n in 0..12 {
            let node = &node;
            scope.spawn(move || {
                let selection = ["istio", "annotation", "all"][n % 3];
                node.run("install", &["--selection", selection]).ok();
            });
        }
    });
    assert_eq!(node.containerd().unwrap(), ["flannel", "portmap", "mesh-init"]);
    node.run("uninstall", &[]).ok();
    assert_eq!(node.text("10-flannel.conflist"), vendor("10-flannel.conflist"));
}

/// What a killed run left goes; what only looks like it stays.
fn left_over() {
    let node = Node::new(&[("10-flannel.conflist", &vendor("10-flannel.conflist"))]);
    for name in [".mesh-init-123.tmp", ".mesh-init-.tmp", ".mesh-init-12a.tmp", ".mesh-init-1.conf.tmp"] {
        node.put(name, "{");
        fs::write(node.root.join("opt/cni/bin").join(name), "x").unwrap();
    }
    node.run("install", &[]).ok();
    let stays = [".mesh-init-.tmp", ".mesh-init-1.conf.tmp", ".mesh-init-12a.tmp"];
    let seen = node.seen();
    let names: Vec<&str> = seen.keys().map(String::as_str).filter(|name| name.starts_with('.')).collect();
    assert_eq!(names, stays);
    assert_eq!(node.programs(), [&stays[..], &["mesh-init"]].concat());
}

/// libcni's cache as CRI-O has it: DEL goes by it.
fn pods_that_need_del() {
    let node = Node::new(&[("10-flannel.conflist", &vendor("10-flannel.conflist"))]);
    node.run("install", &[]).ok();
    let entry = |name: &str, config: &str| {
        // By another encoder than the one whose decoder is tried.
        let mut base64 = String::new();
        let alphabet: Vec<char> = ('A'..='Z').chain('a'..='z').chain('0'..='9').chain(['+', '/']).collect();
        for chunk in config.as_bytes().chunks(3) {
            let bits: String = chunk.iter().map(|byte| format!("{byte:08b}")).collect();
            for six in 0..4 {
                let part: String = bits.chars().skip(six * 6).take(6).collect();
                match part.is_empty() {
                    true => base64.push('='),
                    false => base64.push(alphabet[usize::from_str_radix(&format!("{part:0<6}"), 2).unwrap()]),
                }
            }
        }
        let text = format!(
            r#"{{"kind":"cniCacheV1","containerId":"{name}","config":"{base64}","ifName":"eth0","networkName":"cbr0","result":{{}}}}"#
        );
        let path = node.root.join("var/lib/cni/results").join(format!("cbr0-{name}-eth0"));
        fs::write(&path, text).unwrap();
        path
    };
    let ours = entry("pod1", &node.text("10-flannel.conflist"));
    entry("pod0", &vendor("10-flannel.conflist"));
    let begin = Instant::now();
    let run = node
        .run("uninstall", &["--wait-for-pods", "3"])
        .code(75)
        .says("container pod1 (network cbr0, eth0) still needs it");
    assert!(begin.elapsed() >= Duration::from_secs(3), "{run}");
    assert_eq!(
        node.text("10-flannel.conflist"),
        vendor("10-flannel.conflist"),
        "the configuration goes first"
    );
    node.assert_program();
    // The pod goes while we wait.
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(600));
            node.assert_program();
            fs::remove_file(&ours).unwrap();
        });
        node.run("uninstall", &["--wait-for-pods", "20"]).says("removed").ok();
    });
    assert_eq!(node.programs(), Vec::<String>::new());
    // Without waiting it is said.
    node.run("install", &[]).ok();
    entry("pod2", &node.text("10-flannel.conflist"));
    node.run("uninstall", &[]).says("1 attachment in the runtime's cache").ok();
    assert_eq!(node.programs(), Vec::<String>::new());
}

/// The program stays as long as a file may name it.
fn blocked() {
    let node = Node::new(&[("10-flannel.conflist", &vendor("10-flannel.conflist"))]);
    node.run("install", &[]).ok();
    for (name, text, why) in [
        ("20-x.conflist", "{ \"type\": \"mesh-init\" ", "cannot be loaded"),
        ("20-x.conf", r#"{"type":"mesh-init"}"#, "is a network of mesh-init alone"),
        ("20-x.conflist", r#"{"name":"x","plugins":[{"type":"mesh-init"}]}"#, "may not be empty"),
        ("cbr0/10.conf", r#"{"type":"mesh-init"}"#, "is no file that install makes"),
    ] {
        node.put(name, text);
        node.run("uninstall", &[]).code(1).says("the program stays").says(why);
        assert_eq!(
            (node.text(name).as_str(), node.text("10-flannel.conflist")),
            (text, vendor("10-flannel.conflist"))
        );
        node.assert_program();
        fs::remove_file(node.net().join(name)).unwrap();
    }
    node.run("uninstall", &[]).ok();
    assert_eq!(node.programs(), Vec::<String>::new());
    run(&["uninstall", "--bin-dir", "/x", "--net-dir", "/x"]).code(64).says("same folder");
}
