//! Pods that the plugin captures at their sockets: what ADD makes outside the pod's network namespace, and who takes it away.

use std::fs;
use std::path::Path;

use serde_json::json;

use super::runtime::{ALL, Answer, Call, conf, conf_after_add};
use crate::harness::Case;
use crate::scoped::{APP, PROXY};
use crate::support::bpf;
use crate::support::cgroup::Cgroup;
use crate::support::command::mesh_init;
use crate::support::creds::Who;
use crate::support::dial::dial;
use crate::support::netns::Netns;
use crate::support::pins;
use crate::support::rules::Family;
use crate::support::serve::Service;
use crate::support::users::Users;
use crate::support::wire::{self, HERE, THERE, settle, two_hosts};

pub(crate) fn cases() -> Vec<Case> {
    let list: [(&str, fn()); 17] = [
        ("until_del", until_del),
        ("of_an_istio_pod", of_an_istio_pod),
        ("of_a_pod_with_users_of_its_own", of_a_pod_with_users_of_its_own),
        ("check_tells_what_is_gone", check_tells_what_is_gone),
        ("check_tells_another_policy", check_tells_another_policy),
        ("del_when_the_namespace_is_gone", del_when_the_namespace_is_gone),
        ("del_before_add_and_twice", del_before_add_and_twice),
        ("gc_takes_what_is_not_named", gc_takes_what_is_not_named),
        ("gc_of_namespaces_that_are_gone", gc_of_namespaces_that_are_gone),
        ("two_interfaces_of_a_pod", two_interfaces_of_a_pod),
        ("two_interfaces_of_a_pod_that_is_gone", two_interfaces_of_a_pod_that_is_gone),
        ("control_group_of_the_capability", control_group_of_the_capability),
        ("control_group_of_the_configuration", control_group_of_the_configuration),
        ("control_group_that_is_not_there", control_group_that_is_not_there),
        ("interface_that_goes", interface_that_goes),
        ("upgrade_of_the_plugin", upgrade_of_the_plugin),
        ("status_tries_what_is_needed", status_tries_what_is_needed),
    ];
    list.map(|(name, body)| Case::new(&format!("cni::sockets::{name}"), body)).into()
}

const BACKEND: &str = r#","backend":"ebpf""#;

/// A node whose BPF file system and control group are the case's own.
fn node() -> Cgroup {
    pins::mount_own();
    Cgroup::enter()
}

/// The group's path from the root of the hierarchy, as the capability has it.
fn path(group: &Path) -> String {
    let parts: Vec<_> = group.iter().rev().take(2).collect();
    format!("/{}/{}", parts[1].display(), parts[0].display())
}

/// Keys that capture at the sockets in `cgroup`, by the capability.
fn keys(cgroup: &Cgroup) -> String {
    let path = path(Path::new(cgroup.folder()));
    format!(r#"{ALL}{BACKEND},"runtimeConfig":{{"cgroupPath":"{path}"}}"#)
}

fn call(verb: &str, pod: &Netns, container: &str, keys: &str) -> Call {
    Call::about(verb, pod).env("CNI_CONTAINERID", container).conf(conf_after_add("1.1.0", keys))
}

/// A pod that has no network but a proxy: what it calls is captured all the same.
fn pod(name: &str) -> Netns {
    let pod = Netns::new(name);
    Service::tcp(&pod, PROXY, "proxy", &[15001]);
    pod
}

fn is_captured(pod: &Netns) -> bool {
    Family::BOTH.iter().all(|family| {
        let seen = dial(pod, APP, THERE.port(*family, 80));
        let captured = seen.is_captured_by("proxy");
        assert!(captured || seen.answer.is_err(), "{seen}");
        captured
    })
}

/// What is kept by that name, of folders as well.
fn kept(part: &str) -> Vec<String> {
    let folder = Path::new("/sys/fs/bpf/mesh-init/v1").join(part);
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[track_caller]
fn nothing_is_kept() {
    assert!(pins::kept().is_empty(), "{:?}", pins::kept());
}

fn removed(answer: &Answer) -> serde_json::Value {
    answer.log()["removed"].clone()
}

/// Both directions, both families, and nothing after DEL.
fn until_del() {
    let cgroup = node();
    let (here, there) = two_hosts();
    Service::tcp(&here, PROXY, "proxy", &[15001]);
    Service::tcp(&here, Who::ROOT, "here", &[80]);
    Service::tcp(&there, Who::ROOT, "there", &[80]);
    let keys = keys(&cgroup);
    let answer = call("ADD", &here, "c1", &keys).run();
    answer.ok();
    assert_eq!(answer.log()["backend"], "ebpf", "{answer}");
    assert_ne!(answer.log()["changed"], json!([]), "{answer}");
    let captured = || {
        for family in Family::BOTH {
            dial(&here, APP, THERE.port(family, 80)).captured_by("proxy");
            dial(&there, APP, HERE.port(family, 80)).captured_by("proxy");
            dial(&here, PROXY, THERE.port(family, 80)).untouched_to("there");
        }
    };
    captured();
    call("CHECK", &here, "c1", &keys).run().silent();
    let again = call("ADD", &here, "c1", &keys).run();
    assert_eq!(again.log()["changed"], json!([]), "{again}");
    assert_eq!(kept("attachments"), ["c1@eth0"]);
    captured();
    // The runtime's own namespace has nothing of it.
    mesh_init(&there, &["verify"]).code(126);
    call("DEL", &here, "c1", &keys).run().silent();
    nothing_is_kept();
    for family in Family::BOTH {
        dial(&here, APP, THERE.port(family, 80)).untouched_to("there");
        dial(&there, APP, HERE.port(family, 80)).untouched_to("here");
    }
}

/// As the injector writes its annotations and containerd passes them on.
fn of_an_istio_pod() {
    let cgroup = node();
    let annotations = r#"{"sidecar.istio.io/status":"{\"initContainers\":[\"istio-validation\"],\"containers\":[\"istio-proxy\"]}","traffic.sidecar.istio.io/excludeOutboundPorts":"81","traffic.sidecar.istio.io/includeInboundPorts":"80"}"#;
    let (here, there) = two_hosts();
    Service::tcp(&here, Who::ROOT, "here", &[80, 81]);
    Service::tcp(&there, Who::ROOT, "there", &[80, 81]);
    let path = path(Path::new(cgroup.folder()));
    let more = format!(
        r#"{BACKEND},"runtimeConfig":{{"cgroupPath":"{path}","io.kubernetes.cri.pod-annotations":{annotations}}}"#
    );
    Call::about("ADD", &here).conf(conf("1.0.0", &more)).run().ok();
    Service::tcp(&here, PROXY, "outbound", &[15001]);
    Service::tcp(&here, PROXY, "inbound", &[15006]);
    for family in Family::BOTH {
        dial(&here, APP, THERE.port(family, 80)).captured_by("outbound");
        dial(&here, APP, THERE.port(family, 81)).untouched_to("there");
        dial(&there, APP, HERE.port(family, 80)).captured_by("inbound");
        dial(&there, APP, HERE.port(family, 81)).untouched_to("here");
    }
    Call::about("CHECK", &here).conf(conf_after_add("1.0.0", &more)).run().silent();
    Call::about("DEL", &here).conf(conf("1.0.0", &more)).run().silent();
    nothing_is_kept();
}

/// `hostUsers: false`: the plugin enters the namespace from outside, and the proxy's user is one of the pod's.
fn of_a_pod_with_users_of_its_own() {
    let users = Users::new("pod", Who::user(100_000), 65536);
    let cgroup = node();
    let keys = keys(&cgroup);
    Service::tcp(&users.netns, Who::user(101_337), "proxy", &[15001]);
    call("ADD", &users.netns, "c1", &keys).run().ok();
    assert!(is_captured(&users.netns));
    // Of the proxy's own there is no way out, for the pod has no network.
    let own = dial(&users.netns, Who::user(101_337), THERE.port(Family::V4, 80));
    assert_eq!(own.answer.as_ref().err().map(String::as_str), Some("Network is unreachable (os error 101)"));
    dial(&users.netns, Who::user(1337), THERE.port(Family::V4, 80)).captured_by("proxy");
    call("CHECK", &users.netns, "c1", &keys).run().silent();
    call("DEL", &users.netns, "c1", &keys).run().silent();
    nothing_is_kept();
    assert!(!is_captured(&users.netns));
}

/// How a link is lost.
type Way = fn(&Path);

fn check_tells_what_is_gone() {
    let cgroup = node();
    let pod = pod("pod");
    let keys = keys(&cgroup);
    let check = || call("CHECK", &pod, "c1", &keys).run();
    let add = || call("ADD", &pod, "c1", &keys).run().ok().len();
    check().fails(110).says("nothing is captured at the sockets");
    add();
    check().silent();
    let unlink = |path: &Path| fs::remove_file(path).expect("a link");
    let ways = [(bpf::detach as Way, "detached"), (unlink, "removed")];
    for (name, told) in [
        ("mesh_connect4", "mesh_connect4"),
        ("mesh_sockops", "mesh_sockops"),
        ("mesh_getsockopt", "mesh_getsockopt"),
        ("arrives", "mesh_arrives"),
    ] {
        for (how, what) in ways {
            how(&pins::link(name));
            let answer = check();
            answer.fails(110).says(told);
            assert_eq!(answer.log()["level"], "error", "{what}: {answer}");
            add();
            check().silent();
            assert!(is_captured(&pod), "{name} was {what}");
        }
    }
    mesh_init(&pod, &["clean"]).ok();
    check().fails(110).says("nothing is captured at the sockets");
    add();
    check().silent();
}

fn check_tells_another_policy() {
    let cgroup = node();
    let pod = pod("pod");
    let keys = keys(&cgroup);
    call("ADD", &pod, "c1", &keys).run().ok();
    let other = format!(r#"{keys},"policy":{{"proxy":{{"port":15101}}}}"#);
    call("CHECK", &pod, "c1", &other).run().fails(110).says("the policy");
    let group = cgroup.beside("other");
    let other = keys.replace(&path(Path::new(cgroup.folder())), &path(&group));
    call("CHECK", &pod, "c1", &other).run().fails(110).says("the control group");
    call("CHECK", &pod, "c1", &keys).run().silent();
    fs::remove_dir(group).expect("nobody is in it");
}

/// The runtime may say that it is gone, or not say anything.
fn del_when_the_namespace_is_gone() {
    let cgroup = node();
    let keys = keys(&cgroup);
    let stays = pod("stays");
    call("ADD", &stays, "stays", &keys).run().ok();
    for named in [true, false] {
        let goes = Netns::new("goes");
        call("ADD", &goes, "goes", &keys).run().ok();
        assert_eq!(kept("attachments"), ["goes@eth0", "stays@eth0"]);
        assert_eq!(kept("netns").len(), 2);
        let del = call("DEL", &goes, "goes", &keys);
        goes.forget();
        drop(goes);
        let del = if named { del } else { del.without("CNI_NETNS") };
        let answer = del.run();
        answer.silent();
        assert_eq!(answer.log()["detached"], true, "{answer}");
        assert_eq!(kept("attachments"), ["stays@eth0"]);
        assert_eq!((kept("netns").len(), kept("cgroups").len()), (1, 1));
        call("CHECK", &stays, "stays", &keys).run().silent();
        assert!(is_captured(&stays));
    }
    let del = call("DEL", &stays, "stays", &keys);
    stays.forget();
    drop(stays);
    del.run().silent();
    nothing_is_kept();
}

fn del_before_add_and_twice() {
    let cgroup = node();
    let keys = keys(&cgroup);
    let pod = pod("pod");
    call("DEL", &pod, "c1", &keys).run().silent();
    call("ADD", &pod, "c1", &keys).run().ok();
    // Another container's end is none of this one's.
    call("DEL", &pod, "c2", &keys).without("CNI_NETNS").run().silent();
    assert!(is_captured(&pod));
    for _ in 0..2 {
        call("DEL", &pod, "c1", &keys).run().silent();
        nothing_is_kept();
        assert!(!is_captured(&pod));
    }
    call("ADD", &pod, "c1", &keys).run().ok();
    assert!(is_captured(&pod));
}

fn gc(keys: &str, valid: &str) -> Answer {
    let text = conf("1.1.0", &format!(r#"{keys},"cni.dev/valid-attachments":[{valid}]"#));
    Call::bare("GC").env("CNI_PATH", "/opt/cni/bin").conf(text).run()
}

fn entry(container: &str, interface: &str) -> String {
    format!(r#"{{"containerID":"{container}","ifname":"{interface}"}}"#)
}

fn gc_takes_what_is_not_named() {
    let cgroup = node();
    let keys = keys(&cgroup);
    let pods = ["c1", "c2", "c3.d-e_f"].map(|name| (name, pod("pod")));
    for (name, pod) in &pods {
        call("ADD", pod, name, &keys).run().ok();
    }
    let captured = || pods.each_ref().map(|(_, pod)| is_captured(pod));
    let all = pods.each_ref().map(|(name, _)| entry(name, "eth0")).join(",");
    let answer = gc(&keys, &all);
    answer.silent();
    assert_eq!((removed(&answer), captured()), (json!(0), [true; 3]), "{answer}");
    // Without a list nobody is named, and nobody is not.
    Call::bare("GC").env("CNI_PATH", "/opt/cni/bin").conf(conf("1.1.0", &keys)).run().silent();
    assert_eq!(captured(), [true; 3]);
    let two = [entry("c1", "eth0"), entry("c3.d-e_f", "eth0"), entry("c9", "eth0")].join(",");
    let answer = gc(&keys, &two);
    answer.silent();
    assert_eq!((removed(&answer), captured()), (json!(1), [true, false, true]), "{answer}");
    call("CHECK", &pods[0].1, "c1", &keys).run().silent();
    call("CHECK", &pods[1].1, "c2", &keys).run().fails(110);
    assert_eq!(kept("attachments").len(), 2);
    // The name of another interface is another attachment.
    let answer = gc(&keys, &[entry("c1", "eth0"), entry("c3.d-e_f", "eth1")].join(","));
    answer.silent();
    assert_eq!((removed(&answer), captured()), (json!(1), [true, false, false]), "{answer}");
    let answer = gc(&keys, "");
    answer.silent();
    assert_eq!((removed(&answer), captured()), (json!(1), [false; 3]), "{answer}");
    nothing_is_kept();
}

fn gc_of_namespaces_that_are_gone() {
    let cgroup = node();
    let keys = keys(&cgroup);
    let stays = pod("stays");
    call("ADD", &stays, "stays", &keys).run().ok();
    for name in ["c1", "c2"] {
        let goes = Netns::new("goes");
        call("ADD", &goes, name, &keys).run().ok();
        goes.forget();
    }
    gc(&keys, &entry("stays", "eth0")).silent();
    assert_eq!(kept("attachments"), ["stays@eth0"]);
    assert_eq!(kept("netns").len(), 1, "{:?}", kept("netns"));
    assert!(is_captured(&stays));
    gc(&keys, "").silent();
    nothing_is_kept();
}

/// Each is an attachment of its own, and the pod is captured until the last one goes.
fn two_interfaces_of_a_pod() {
    let cgroup = node();
    let keys = keys(&cgroup);
    let network = Netns::new("network");
    for order in [["eth0", "net1"], ["net1", "eth0"]] {
        let pod = pod("pod");
        let at = |verb, interface: &str| call(verb, &pod, "c1", &keys).env("CNI_IFNAME", interface);
        // What comes after ADD is the host's own from the next one on.
        for (interface, address) in [("eth0", "10.0.0.1/24"), ("net1", "10.1.0.1/24")] {
            wire::connect(&pod, interface, &network, &format!("{interface}-{}", pod.name()));
            pod.ip(&format!("addr add {address} dev {interface}"));
        }
        settle(&[&pod]);
        for interface in ["eth0", "net1"] {
            at("ADD", interface).run().ok();
        }
        assert_eq!(kept("attachments"), ["c1@eth0", "c1@net1"]);
        for interface in ["eth0", "net1"] {
            at("CHECK", interface).run().silent();
        }
        // One that is not named goes, and the other captures.
        gc(&keys, &entry("c1", order[1])).silent();
        assert!(is_captured(&pod), "{} is left", order[1]);
        at("ADD", order[0]).run().ok();
        at("DEL", order[0]).run().silent();
        assert!(is_captured(&pod), "{} is left", order[1]);
        assert_eq!(kept("attachments"), [format!("c1@{}", order[1])]);
        pod.ip(&format!("link del {}", order[0]));
        at("CHECK", order[1]).run().silent();
        at("DEL", order[1]).run().silent();
        assert!(!is_captured(&pod));
        nothing_is_kept();
    }
}

fn two_interfaces_of_a_pod_that_is_gone() {
    let cgroup = node();
    let keys = keys(&cgroup);
    let stays = pod("stays");
    call("ADD", &stays, "stays", &keys).run().ok();
    let goes = Netns::new("goes");
    let at = |verb, interface: &str| call(verb, &goes, "c1", &keys).env("CNI_IFNAME", interface);
    let [first, second] = ["eth0", "net1"].map(|interface| {
        at("ADD", interface).run().ok();
        at("DEL", interface)
    });
    goes.forget();
    drop(goes);
    first.run().silent();
    assert_eq!(kept("attachments"), ["c1@net1", "stays@eth0"]);
    second.run().silent();
    assert_eq!((kept("attachments"), kept("netns").len()), (vec!["stays@eth0".to_owned()], 1));
    assert!(is_captured(&stays));
}

/// Only processes in it are captured.
fn control_group_of_the_capability() {
    let cgroup = node();
    let pod = pod("pod");
    call("ADD", &pod, "c1", &keys(&cgroup)).run().ok();
    assert!(is_captured(&pod));
    assert!(!cgroup.outside(|| is_captured(&pod)));
    assert_eq!(kept("cgroups"), [number(Path::new(cgroup.folder()))]);
}

/// The number of a control group, as it is kept by.
fn number(group: &Path) -> String {
    use std::os::unix::fs::MetadataExt;
    format!("{:016x}", fs::metadata(group).expect("a group").ino())
}

/// What is configured comes before what the runtime says.
fn control_group_of_the_configuration() {
    let cgroup = node();
    let other = cgroup.beside("other");
    let keys = |configured: &str, said: &Path| {
        let said = path(said);
        format!(r#"{ALL}{BACKEND},"cgroup":"{configured}","runtimeConfig":{{"cgroupPath":"{said}"}}"#)
    };
    let pod = pod("pod");
    let own = keys(cgroup.folder(), &other);
    call("ADD", &pod, "c1", &own).run().ok();
    assert!(is_captured(&pod));
    assert!(!cgroup.outside(|| is_captured(&pod)));
    assert_eq!(kept("cgroups"), [number(Path::new(cgroup.folder()))]);
    call("CHECK", &pod, "c1", &own).run().silent();
    // The next configuration moves it.
    let moved = keys(other.to_str().expect("a path of ours"), Path::new(cgroup.folder()));
    call("CHECK", &pod, "c1", &moved).run().fails(110).says("the control group");
    call("ADD", &pod, "c1", &moved).run().ok();
    assert!(!is_captured(&pod));
    assert_eq!(kept("cgroups"), [number(&other)]);
    call("DEL", &pod, "c1", &moved).run().silent();
    nothing_is_kept();
    fs::remove_dir(other).expect("nobody is in it");
}

/// Who says it, says whether that matters: a runtime knows the pod's group under another hierarchy, perhaps; a configuration is
/// wrong.
fn control_group_that_is_not_there() {
    let cgroup = node();
    let pod = pod("pod");
    for said in ["/nowhere/pod", "/../../etc", ""] {
        let keys = format!(r#"{ALL}{BACKEND},"runtimeConfig":{{"cgroupPath":"{said}"}}"#);
        call("ADD", &pod, "c1", &keys).run().ok();
        assert!(is_captured(&pod), "{said}");
        assert!(cgroup.outside(|| is_captured(&pod)), "{said}: the root has all processes");
        call("CHECK", &pod, "c1", &keys).run().silent();
        call("DEL", &pod, "c1", &keys).run().silent();
        nothing_is_kept();
    }
    for configured in ["/nowhere/pod", "/etc"] {
        let keys = format!(r#"{ALL}{BACKEND},"cgroup":"{configured}""#);
        let answer = call("ADD", &pod, "c1", &keys).run();
        answer.fails(7).says(configured);
        nothing_is_kept();
        assert!(!is_captured(&pod));
    }
}

/// It says nothing where all is well, and leaves nothing.
fn status_tries_what_is_needed() {
    let _cgroup = node();
    let answer = Call::bare("STATUS").conf(conf("1.1.0", &format!("{ALL}{BACKEND}"))).run();
    answer.silent();
    nothing_is_kept();
    let bounding = ["setpriv", "--bounding-set", "-bpf", "--inh-caps", "-bpf"];
    for lack in ["bpf", "net_admin"] {
        let words: Vec<_> = bounding.iter().map(|word| word.replace("bpf", lack)).collect();
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        let call = Call::bare("STATUS").conf(conf("1.1.0", &format!("{ALL}{BACKEND}"))).through(&words);
        let answer = call.run();
        answer.fails(50).says(&format!("CAP_{}", lack.to_uppercase()));
    }
}

/// The pod loses its second network: what is left of it is as it should be.
fn interface_that_goes() {
    let cgroup = node();
    let keys = keys(&cgroup);
    let network = Netns::new("network");
    let pod = pod("pod");
    let at = |verb, interface: &str| call(verb, &pod, "c1", &keys).env("CNI_IFNAME", interface);
    for (interface, address) in [("eth0", "10.0.0.1/24"), ("net1", "10.1.0.1/24")] {
        wire::connect(&pod, interface, &network, interface);
        pod.ip(&format!("addr add {address} dev {interface}"));
        settle(&[&pod]);
        at("ADD", interface).run().ok();
    }
    at("DEL", "net1").run().silent();
    pod.ip("link del net1");
    at("CHECK", "eth0").run().silent();
}

/// A pod that runs is captured by the plugin's older build; another one comes by the newer.
fn upgrade_of_the_plugin() {
    use std::os::unix::fs::PermissionsExt;
    let cgroup = node();
    let keys = keys(&cgroup);
    let mut program = fs::read(crate::support::command::MESH_INIT).expect("the program under test");
    for at in 0..program.len() - 13 {
        if program[at..].starts_with(b"Dual MIT/GPL\0") {
            program[at..at + 13].copy_from_slice(b"Dual BSD/GPL\0");
        }
    }
    fs::write("/run/mesh-init", program).expect("ours");
    fs::set_permissions("/run/mesh-init", fs::Permissions::from_mode(0o755)).expect("ours");
    let (first, second) = (pod("first"), pod("second"));
    call("ADD", &first, "c1", &keys).through(&["sh", "-c", "exec /run/mesh-init"]).run().ok();
    call("ADD", &second, "c2", &keys).run().ok();
    assert!(is_captured(&first) && is_captured(&second));
    call("CHECK", &first, "c1", &keys).run().silent();
}
