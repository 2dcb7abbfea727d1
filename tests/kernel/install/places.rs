//! A host whose root is mounted somewhere, as in the DaemonSet: links are the host's, not the container's.

use std::fs;
use std::os::unix::fs::symlink;

use super::node::{Node, run};
use super::states::vendor;
use crate::harness::Case;

pub(crate) fn cases() -> Vec<Case> {
    vec![Case::new("install::root", root)]
}

fn root() {
    let list = vendor("10-flannel.conflist");
    let node = Node::new(&[("10-flannel.conflist", "->/var/lib/rancher/flannel.conflist")]);
    let host = node.root.to_str().unwrap();
    let real = node.root.join("var/lib/rancher/flannel.conflist");
    fs::create_dir_all(real.parent().unwrap()).unwrap();
    fs::write(&real, &list).unwrap();
    // The folder of plugins is a link of the host too.
    fs::create_dir_all(node.root.join("usr/lib/cni")).unwrap();
    fs::remove_dir(node.root.join("opt/cni/bin")).unwrap();
    symlink("/usr/lib/cni", node.root.join("opt/cni/bin")).unwrap();
    run(&["install", "--root", host]).ok();
    let text = fs::read_to_string(&real).unwrap();
    assert!(text.contains("mesh-init") && node.root.join("usr/lib/cni/mesh-init").exists());
    assert_eq!(
        node.seen()["10-flannel.conflist"].text,
        "->/var/lib/rancher/flannel.conflist",
        "a link stays one"
    );
    assert!(run(&["install", "--root", host]).ok().contains("nothing to do"));
    // Nothing of the machine's own was meant.
    run(&["uninstall", "--root", host]).ok();
    assert_eq!(fs::read_to_string(&real).unwrap(), list);
    assert!(!node.root.join("usr/lib/cni/mesh-init").exists());
    run(&["install", "--root", "/run/no-such-host"]).code(75).says("is not there");
}
