//! States of `/etc/cni/net.d` as nodes have them: joined, joined again, left. Before and after, every byte, mode and
//! owner is the same; in between the runtime loads the same chain, and ours at its end.

use std::fs;

use super::node::Node;
use crate::harness::Case;

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/conflist");

/// A file of another vendor, as its installer writes it.
pub(super) fn vendor(name: &str) -> String {
    fs::read_to_string(format!("{EXAMPLES}/{name}")).unwrap()
}

pub(super) const CONF: &str =
    "{\n  \"cniVersion\": \"0.3.1\",\n  \"name\": \"lonely\",\n  \"type\": \"bridge\"\n}\n";
const MINIFIED: &str = r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"ptp","ipam":{"type":"host-local","ranges":[[{"subnet":"10.0.0.0/8"}]]}},{"type":"portmap"}]}"#;
const BARE: &str = "{ \"cniVersion\": \"1.1.0\", \"name\": \"bare\" }\n";

pub(crate) fn cases() -> Vec<Case> {
    let case = |name: &str, files: Vec<(&'static str, String)>, joined_in: &'static str| {
        Case::new(&format!("install::life::{name}"), move || {
            let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
            life(&files, joined_in);
        })
    };
    let text = str::to_owned;
    vec![
        case(
            "calico",
            vec![
                ("10-calico.conflist", vendor("10-calico.conflist")),
                ("calico-kubeconfig", text("no configuration")),
            ],
            "10-calico.conflist",
        ),
        case("kindnet", vec![("10-kindnet.conflist", vendor("10-kindnet.conflist"))], "10-kindnet.conflist"),
        case("k3s", vec![("10-flannel.conflist", vendor("10-k3s-flannel.conflist"))], "10-flannel.conflist"),
        case(
            "several",
            vec![
                ("87-podman-bridge.conflist", vendor("87-podman-bridge.conflist")),
                ("10-flannel.conflist", vendor("10-flannel.conflist")),
                ("99-loopback.conf", text(CONF)),
                ("00-notes.txt", text("{")),
            ],
            "10-flannel.conflist",
        ),
        case("conf_only", vec![("10-lonely.conf", text(CONF))], "10-lonely-mesh-init.conflist"),
        case(
            "json_only",
            vec![("net.json", text(CONF)), ("net2.conf", text(CONF))],
            "net-mesh-init.conflist",
        ),
        case(
            "conf_with_a_near_neighbour",
            vec![
                ("10-lonely.conf", text(CONF)),
                ("10-lonely-b.conflist.bak", text("x")),
                ("20.conflist", text(MINIFIED)),
            ],
            "10-lonely-mesh-init.conflist",
        ),
        case("crlf", vec![("10.conflist", vendor("crlf"))], "10.conflist"),
        case("minified", vec![("10.conflist", text(MINIFIED))], "10.conflist"),
        case(
            "link",
            vec![("elsewhere/real.txt", text(MINIFIED)), ("10.conflist", text("->elsewhere/real.txt"))],
            "elsewhere/real.txt",
        ),
        case(
            "absolute_link",
            vec![
                ("10.conflist", text("->/run/node/etc/cni/net.d/conflists/a")),
                ("conflists/a", text(MINIFIED)),
            ],
            "conflists/a",
        ),
        case(
            "drop_ins_of_others",
            vec![
                ("10-bare.conflist", text(BARE)),
                ("bare/10-bridge.conf", text(r#"{"type":"bridge"}"#)),
                ("bare/README", text("not read")),
            ],
            "bare/90-mesh-init.conf",
        ),
        case(
            "drop_ins_beside_plugins",
            vec![("10.conflist", text(MINIFIED)), ("n/50-tuning.conf", text(r#"{"type":"tuning"}"#))],
            "10.conflist",
        ),
        case(
            "cilium_exclusive",
            vec![
                ("05-cilium.conflist", vendor("05-cilium.conflist")),
                ("10-calico.conflist.cilium_bak", vendor("10-calico.conflist")),
            ],
            "05-cilium.conflist",
        ),
        Case::new("install::ours_among_others", ours_among_others),
        Case::new("install::taken_over_by_cilium", taken_over_by_cilium),
        Case::new("install::edits_of_others_stay", edits_of_others_stay),
        Case::new("install::wrapped_and_its_original", wrapped_and_its_original),
        Case::new("install::drop_in_and_back", drop_in_and_back),
    ]
}

fn life(files: &[(&str, &str)], joined_in: &str) {
    let node = Node::new(files);
    let (before, chain) = (node.seen(), node.newer().expect("the runtime loads it before"));
    let run = node.run("install", &[]);
    assert!(run.clone().ok().contains("wrote /run/node/opt/cni/bin/mesh-init"), "{run}");
    node.assert_program();
    let with_us: Vec<String> = chain.iter().cloned().chain(["mesh-init".to_owned()]).collect();
    if joined_in.ends_with(".conf") {
        assert_eq!(node.newer(), Ok(with_us));
    } else {
        // A drop-in of others comes behind ours, which is no drop-in.
        let mut kinds = node.newer().unwrap();
        let at = kinds.iter().position(|kind| kind == "mesh-init").expect("ours is loaded");
        kinds.remove(at);
        assert_eq!(kinds, chain);
        assert!(at > 0 && node.containerd().unwrap().last().is_some_and(|kind| kind == "mesh-init"));
    }
    let between = node.seen();
    for (name, seen) in &before {
        match name == joined_in {
            false => assert_eq!(between.get(name), Some(seen), "{name} is another's"),
            true => assert_eq!((between[name].mode, between[name].owner), (seen.mode, seen.owner), "{name}"),
        }
    }
    let new: Vec<&String> = between.keys().filter(|name| !before.contains_key(*name)).collect();
    let expected = if before.contains_key(joined_in) { vec![] } else { vec![joined_in] };
    assert_eq!(new, expected);
    // Others may read what they could read before, and nobody else.
    assert_eq!((between[joined_in].mode & 0o777, between[joined_in].owner), (0o640, (0, 42)));
    // Again: nothing is written, not even the same.
    let inode = |path: &std::path::Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
    let place = node.net().join(joined_in);
    let inodes = (inode(&place), inode(&node.program()));
    assert!(node.run("install", &[]).ok().contains("nothing to do"));
    assert_eq!((node.seen(), (inode(&place), inode(&node.program()))), (between, inodes));
    // Another version of ours is replaced, not added.
    node.run("install", &["--selection", "all", "--exclude-namespace", "kube-system,mesh"]).ok();
    assert_eq!(node.newer().unwrap().iter().filter(|kind| *kind == "mesh-init").count(), 1);
    assert!(node.text(joined_in).contains("kube-system"));
    node.run("uninstall", &[]).ok();
    assert_eq!(node.seen(), before, "every byte is as it was");
    assert_eq!(node.programs(), Vec::<String>::new());
    assert!(node.run("uninstall", &[]).ok().contains("nothing to do"));
    assert_eq!(node.newer(), Ok(chain));
}

/// Entries of ours that are older, twice, in front, or with another vendor's behind them.
fn ours_among_others() {
    let list = |kinds: &[&str]| {
        let items: Vec<String> = kinds.iter().map(|kind| format!("    {{ \"type\": \"{kind}\" }}")).collect();
        format!(
            "{{\n  \"cniVersion\": \"0.4.0\",\n  \"name\": \"n\",\n  \"plugins\": [\n{}\n  ]\n}}\n",
            items.join(",\n")
        )
    };
    for (before, after) in [
        (&["bridge", "mesh-init"][..], &["bridge", "mesh-init"][..]),
        (&["bridge", "mesh-init", "istio-cni"], &["bridge", "mesh-init", "istio-cni"]),
        (&["bridge", "mesh-init", "portmap", "mesh-init", "mesh-init"], &["bridge", "mesh-init", "portmap"]),
        (&["mesh-init", "bridge"], &["bridge", "mesh-init"]),
    ] {
        let node = Node::new(&[("10.conflist", &list(before))]);
        node.run("install", &[]).ok();
        assert_eq!(node.containerd().unwrap(), after, "{before:?}");
        assert!(node.text("10.conflist").contains("io.kubernetes.cri.pod-annotations"), "it is the new one");
        node.run("uninstall", &[]).ok();
        let foreign: Vec<&str> = before.iter().copied().filter(|kind| *kind != "mesh-init").collect();
        assert_eq!(node.text("10.conflist"), list(&foreign), "{before:?}");
    }
}

/// Cilium comes, sets what we joined aside, ours in it, and later brings it back.
fn taken_over_by_cilium() {
    let node = Node::new(&[("10-calico.conflist", &vendor("10-calico.conflist"))]);
    node.run("install", &[]).ok();
    let at = |name: &str| node.net().join(name);
    fs::rename(at("10-calico.conflist"), at("10-calico.conflist.cilium_bak")).unwrap();
    let run = node.run("install", &[]).code(75).says("Cilium set aside").says("cni.exclusive=false");
    assert_eq!(run.stdout, "");
    node.put("05-cilium.conflist", &vendor("05-cilium.conflist"));
    node.run("install", &[]).says("10-calico.conflist.cilium_bak, ours among them").ok();
    assert_eq!(node.containerd().unwrap(), ["cilium-cni", "mesh-init"]);
    // What it brings back must not name a program that is gone.
    node.run("uninstall", &[]).ok();
    assert_eq!(node.text("10-calico.conflist.cilium_bak"), vendor("10-calico.conflist"));
    assert_eq!(node.text("05-cilium.conflist"), vendor("05-cilium.conflist"));
}

fn edits_of_others_stay() {
    let (old, new) = (vendor("10-calico.conflist"), r#""log_level": "debug", "extra": {"a": [1,   2]}"#);
    let edit = |text: &str| text.replace(r#""log_level": "info""#, new);
    let node = Node::new(&[("10-calico.conflist", &old)]);
    node.run("install", &[]).ok();
    let theirs = edit(&node.text("10-calico.conflist"));
    // And a plugin of theirs behind ours.
    let end = theirs.rfind("\n  ]").unwrap();
    let theirs = format!("{},\n    {{\"type\":\"late\"}}{}", &theirs[..end], &theirs[end..]);
    node.put("10-calico.conflist", &theirs);
    assert!(node.run("install", &[]).ok().contains("nothing to do"));
    assert_eq!(node.text("10-calico.conflist"), theirs);
    node.run("uninstall", &[]).ok();
    let plain = edit(&old);
    let end = plain.rfind("\n  ]").unwrap();
    assert_eq!(
        node.text("10-calico.conflist"),
        format!("{},\n    {{\"type\":\"late\"}}{}", &plain[..end], &plain[end..])
    );
}

/// The list around a single plugin follows it; once it is another's chain too, it is theirs.
fn wrapped_and_its_original() {
    let wrapped = "10-a-mesh-init.conflist";
    let node = Node::new(&[("10-a.conf", CONF)]);
    node.run("install", &[]).ok();
    // Its owner changes it.
    let changed = CONF.replace("\"bridge\"", "\"bridge\",\n  \"mtu\": 1400");
    node.put("10-a.conf", &changed);
    node.run("install", &[]).says(&format!("changed {wrapped}")).ok();
    assert!(node.text(wrapped).contains("\"mtu\": 1400"), "{}", node.text(wrapped));
    assert_eq!(node.containerd().unwrap(), ["bridge", "mesh-init"]);
    // Its owner takes it away: ours would keep the network alive.
    fs::remove_file(node.net().join("10-a.conf")).unwrap();
    node.put("20-b.conflist", &vendor("10-flannel.conflist"));
    node.run("install", &[]).says(&format!("removed {wrapped}")).ok();
    assert_eq!(node.containerd().unwrap(), ["flannel", "portmap", "mesh-init"]);
    node.run("uninstall", &[]).ok();
    // Somebody adds a plugin to our list: leaving takes out ours alone.
    let node = Node::new(&[("10-a.conf", CONF)]);
    node.run("install", &[]).ok();
    let text = node.text(wrapped);
    let at = text.rfind("\n  ]").unwrap();
    node.put(wrapped, &format!("{}, {{\"type\":\"late\"}}{}", &text[..at], &text[at..]));
    node.run("install", &[]).ok();
    assert_eq!(node.containerd().unwrap(), ["bridge", "mesh-init", "late"]);
    node.run("uninstall", &[]).ok();
    assert_eq!(node.containerd().unwrap(), ["bridge", "late"]);
    assert_eq!(node.text("10-a.conf"), CONF);
}

/// A drop-in where the runtime is proved to read it, and an edit again where not.
fn drop_in_and_back() {
    let list = vendor("10-flannel.conflist");
    let node = Node::new(&[("10-flannel.conflist", &list)]);
    node.run("install", &[]).ok();
    let runtime = node.root.join("containerd");
    fs::write(&runtime, [&[0; 3 << 20][..], b"xloadOnlyInlinedPluginsx", &[1; 99]].concat()).unwrap();
    let proof = ["--runtime-binary", runtime.to_str().unwrap()];
    node.run("install", &proof).says("cbr0/90-mesh-init.conf").ok();
    assert_eq!(node.newer().unwrap(), ["flannel", "portmap", "mesh-init"]);
    assert_eq!(node.text("10-flannel.conflist"), list, "the vendor's file is theirs again");
    assert!(node.run("install", &proof).ok().contains("nothing to do"));
    // The runtime was replaced by an older one.
    fs::write(&runtime, [0; 3 << 20]).unwrap();
    node.run("install", &proof).says("nothing proves").ok();
    assert_eq!(node.containerd().unwrap(), ["flannel", "portmap", "mesh-init"]);
    assert!(!node.net().join("cbr0").exists(), "no folder of ours is left");
    node.run("install", &["--drop-in", "always", "--runtime-binary", runtime.to_str().unwrap()])
        .says("does not seem to read drop-ins")
        .ok();
    node.run("uninstall", &[]).ok();
    assert_eq!(node.text("10-flannel.conflist"), list);
    assert!(!node.net().join("cbr0").exists());
}
