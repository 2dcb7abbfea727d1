//! A host whose root is mounted somewhere, as in the DaemonSet: links are the host's, not the container's.

use std::fs;
use std::os::unix::fs::symlink;

use super::node::{Node, run};
use super::states::vendor;
use crate::harness::Case;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("install::root", root),
        Case::new("install::root_with_a_linked_drop_in_folder", linked_drop_in_folder),
    ]
}

/// The folder of a network's drop-ins is a link of the host, which leads nowhere here.
fn linked_drop_in_folder() {
    let list = vendor("10-flannel.conflist");
    let node = Node::new(&[("10-flannel.conflist", &list), ("cbr0", "->/var/lib/drop-ins")]);
    let host = node.root.to_str().unwrap();
    let real = node.root.join("var/lib/drop-ins");
    for others in [false, true] {
        fs::create_dir_all(&real).unwrap();
        if others {
            fs::write(real.join("10-other.conf"), r#"{"type":"tuning"}"#).unwrap();
        }
        run(&["install", "--root", host, "--drop-in", "always"]).says("cbr0/90-mesh-init.conf").ok();
        assert!(fs::read_to_string(real.join("90-mesh-init.conf")).unwrap().contains("\"mesh-init\""));
        assert_eq!(fs::read_to_string(node.net().join("10-flannel.conflist")).unwrap(), list);
        assert!(
            !std::path::Path::new("/var/lib/drop-ins").exists(),
            "nothing of the machine's own was meant"
        );
        let again = run(&["install", "--root", host, "--drop-in", "always"]);
        assert!(again.clone().ok().contains("nothing to do"), "{again}");
        run(&["uninstall", "--root", host]).ok();
        let left: Vec<_> = fs::read_dir(&real).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, if others { vec!["10-other.conf"] } else { vec![] }, "a link's folder stays");
        assert_eq!(node.seen()["cbr0"].text, "->/var/lib/drop-ins");
    }
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
