//! What each verb does, and what it leaves alone.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

use super::runtime::{ALL, Answer, Call, conf, conf_after_add};
use crate::harness::Case;
use crate::namespace::{needs_the_host, of_the_runner};
use crate::support::command::{Run, mesh_init};
use crate::support::netns::Netns;
use crate::support::rules::{Family, Variant, assert_same, dump};
use crate::support::sbin::Sbin;
use crate::support::wire::settle;

pub(crate) fn cases() -> Vec<Case> {
    let list: [(&str, fn()); 41] = [
        ("netns::own_is_refused", own_is_refused),
        ("netns::that_of_process_1_is_refused", that_of_process_1_is_refused),
        ("netns::the_hosts_own_is_refused", the_hosts_own_is_refused),
        ("netns::no_override", no_override),
        ("netns::missing", || unfit(Path::new("/run/netns/gone"))),
        ("netns::a_plain_file", || unfit(Path::new("/etc/hostname"))),
        ("netns::a_folder", || unfit(Path::new("/run"))),
        ("netns::of_another_kind", || unfit(Path::new("/proc/self/ns/uts"))),
        ("netns::a_fifo", a_fifo),
        ("add::twice", twice),
        ("add::another_policy", another_policy),
        ("add::says_what_it_decided", says_what_it_decided),
        ("add::faulty_annotations", faulty_annotations),
        ("add::annotations_that_are_missing", annotations_that_are_missing),
        ("add::another_mesh_is_there", another_mesh_is_there),
        ("add::iptables_that_is_not_installed", iptables_that_is_not_installed),
        ("add::without_raw_sockets", without_raw_sockets),
        ("del::without_netns", without_netns),
        ("del::netns_gone", || del_of(Path::new("/run/netns/gone"))),
        ("del::netns_is_a_file", || del_of(Path::new("/etc/hostname"))),
        ("del::netns_is_of_another_kind", || del_of(Path::new("/proc/self/ns/uts"))),
        ("del::own_netns_is_left_alone", own_netns_is_left_alone),
        ("del::twice_and_before_add", del_twice),
        ("del::after_a_failed_add", after_a_failed_add),
        ("del::with_faulty_keys", with_faulty_keys),
        ("del::of_a_skipped_pod", of_a_skipped_pod),
        ("del::another_interface_is_left", another_interface_is_left),
        ("check::without_prev_result", without_prev_result),
        ("check::after_add", after_add),
        ("check::rules_gone", rules_gone),
        ("check::a_rule_changed", a_rule_changed),
        ("check::another_policy", check_another_policy),
        ("check::of_a_skipped_pod", check_of_a_skipped_pod),
        ("gc::keeps_what_is_there", keeps_what_is_there),
        ("gc::lists_that_are_none", lists_that_are_none),
        ("status::all_is_well", all_is_well),
        ("status::a_capability_is_missing", a_capability_is_missing),
        ("status::the_agent", the_agent),
        ("status::faults", faults),
        ("status::no_iptables", no_iptables),
        ("status::no_room_for_namespaces", no_room_for_namespaces),
    ];
    list.map(|(name, body)| Case::new(&format!("cni::{name}"), body)).into()
}

fn add(pod: &Netns) -> Call {
    Call::about("ADD", pod).conf(conf("1.1.0", ALL))
}

fn check(pod: &Netns) -> Call {
    Call::about("CHECK", pod).conf(conf_after_add("1.1.0", ALL))
}

fn del(pod: &Netns) -> Call {
    Call::about("DEL", pod).conf(conf_after_add("1.1.0", ALL))
}

/// What a pod with these annotations gives, chosen by our own.
fn annotated(annotations: &str) -> String {
    format!(
        r#","selection":"annotation","runtimeConfig":{{"io.kubernetes.cri.pod-annotations":{annotations}}}"#
    )
}

/// The rules of the case's own namespace, where the plugin runs.
fn node() -> String {
    let tables = ["iptables-legacy-save", "iptables-nft-save"];
    let run = |program: &str, args: &[&str]| {
        let output = crate::support::command::command(program, args).output().expect("a tool");
        String::from_utf8_lossy(&output.stdout)
            .lines()
            .filter(|line| !line.starts_with('#'))
            .collect::<Vec<_>>()
            .join("\n")
    };
    let native = run("nft", &["list", "ruleset"]);
    tables.iter().map(|tool| run(tool, &[])).chain([native]).collect()
}

fn own_is_refused() {
    let before = node();
    for path in ["/proc/self/ns/net", "/proc/thread-self/ns/net"] {
        for verb in ["ADD", "CHECK"] {
            Call::at(verb, path.as_ref()).conf(conf_after_add("1.1.0", ALL)).run().fails(8).says(path);
        }
    }
    assert_same("the runtime's own namespace", &before, &node());
}

fn that_of_process_1_is_refused() {
    // Process 1 of a namespace of processes is the shell here, and the plugin is called in another network.
    let words = ["unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", "unshare --net \"$0\"; exit $?"];
    let before = node();
    for verb in ["ADD", "CHECK"] {
        let call = Call::at(verb, "/proc/1/ns/net".as_ref()).conf(conf_after_add("1.1.0", ALL));
        call.through(&words).run().fails(8).says("process 1");
    }
    let call = Call::at("DEL", "/proc/1/ns/net".as_ref()).conf(conf_after_add("1.1.0", ALL));
    call.through(&words).run().silent();
    assert_same("the network of process 1", &before, &node());
}

/// Inside a container process 1 is the container's: that it is the host's network shows only there. CHECK, which changes
/// nothing whatever happens.
fn the_hosts_own_is_refused() {
    needs_the_host();
    let path = "/run/host-netns";
    fs::write(path, "").expect("a file");
    let none = None::<&str>;
    mount(Some(of_the_runner().as_str()), path, none, MsFlags::MS_BIND, none).expect("a bind mount");
    let words = ["unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", "unshare --net \"$0\"; exit $?"];
    let call = Call::at("CHECK", path.as_ref()).conf(conf_after_add("1.1.0", ALL));
    call.through(&words).run().fails(8).says("the host's own");
}

/// The Go library can be told to go on all the same.
fn no_override() {
    let before = node();
    let call = Call::at("ADD", "/proc/self/ns/net".as_ref()).env("CNI_NETNS_OVERRIDE", "TRUE");
    call.conf(conf("1.1.0", ALL)).run().fails(8);
    assert_same("the runtime's own namespace", &before, &node());
}

fn unfit(path: &Path) {
    for verb in ["ADD", "CHECK"] {
        let answer = Call::at(verb, path).conf(conf_after_add("1.1.0", ALL)).run();
        answer.fails(8).says(&path.display().to_string());
    }
}

fn a_fifo() {
    let path = Path::new("/run/fifo");
    nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).expect("a fifo");
    unfit(path);
    del_of(path);
}

fn twice() {
    for backend in [
        "",
        r#","backend":"iptables","iptablesVariant":"legacy""#,
        r#","backend":"iptables","iptablesVariant":"nft""#,
    ] {
        let pod = Netns::new("pod");
        let text = conf("1.1.0", &format!("{ALL}{backend}"));
        add(&pod).conf(text.clone()).run().ok();
        let first = dump(&pod);
        let answer = add(&pod).conf(text).run();
        answer.ok();
        assert_eq!(answer.log()["changed"], serde_json::json!([]), "{answer}");
        assert_same("after a second ADD", &first, &dump(&pod));
    }
}

fn another_policy() {
    let pod = Netns::new("pod");
    add(&pod).run().ok();
    let other = conf("1.1.0", &format!(r#"{ALL},"policy":{{"proxy":{{"port":15101,"uids":[4242]}}}}"#));
    add(&pod).conf(other).run().ok();
    let (seen, alone) = (dump(&pod), Netns::new("alone"));
    mesh_init(&alone, &["--backend", "nftables", "-p", "15101", "-u", "4242", "-g", "1337"]).ok();
    assert_same("by CNI and by hand", &dump(&alone), &seen);
}

/// The line says pod, decision, reason, digest, back end and what each step took.
fn says_what_it_decided() {
    let pod = Netns::new("pod");
    let answer = add(&pod).run();
    answer.ok();
    let line = answer.log();
    for (key, value) in [
        ("schema", "mesh-init/cni-log/v1"),
        ("level", "info"),
        ("verb", "ADD"),
        ("containerId", "0123456789abcdef"),
        ("ifname", "eth0"),
        ("namespace", "demo"),
        ("pod", "web"),
        ("uid", "u-1"),
        ("decision", "capture"),
        ("reason", "selection all"),
        ("backend", "nftables"),
    ] {
        assert_eq!(line[key], value, "{key} in {answer}");
    }
    assert_eq!(line["policyDigest"].as_str().map(str::len), Some(16), "{answer}");
    let steps = line["stepsMs"].as_object().expect("steps");
    let sum: f64 = steps.values().map(|took| took.as_f64().expect("a number")).sum();
    let total = line["totalMs"].as_f64().expect("a number");
    assert!(["read", "decide", "enter", "apply"].iter().all(|step| steps.contains_key(*step)), "{answer}");
    assert!((sum - total).abs() < 1.0 && total < answer.took.as_secs_f64() * 1e3, "{answer}");
    // The same policy has the same digest, another one another.
    let again = add(&Netns::new("again")).run();
    assert_eq!(again.log()["policyDigest"], line["policyDigest"]);
    let other = conf("1.1.0", &format!(r#"{ALL},"policy":{{"proxy":{{"port":15101}}}}"#));
    assert_ne!(add(&pod).conf(other).run().log()["policyDigest"], line["policyDigest"]);
    // A level above leaves it out.
    let quiet = conf("1.1.0", &format!(r#"{ALL},"logLevel":"warn""#));
    let answer = add(&pod).conf(quiet).run();
    answer.ok();
    assert_eq!(answer.stderr, "");
}

fn faulty_annotations() {
    let pod = Netns::new("pod");
    let before = dump(&pod);
    let hostile = [
        r#"{"mesh-init.io/capture":"enabled","mesh-init.io/proxy-uid":"1337\n-j ACCEPT"}"#,
        r#"{"mesh-init.io/capture":"yes"}"#,
        r#"{"mesh-init.io/policy":"{\"proxy\":{\"port\":\"15001; reboot\"}}"}"#,
    ];
    for annotations in hostile {
        let answer = add(&pod).conf(conf("1.1.0", &annotated(annotations))).run();
        answer.fails(7).says("demo/web").says("mesh-init.io/");
        assert_eq!(answer.log()["decision"], "reject");
    }
    assert_same("after refusals", &before, &dump(&pod));
}

/// Neither delivered nor to be had: try again, and what to declare.
fn annotations_that_are_missing() {
    let pod = Netns::new("pod");
    let before = dump(&pod);
    let answer = add(&pod).conf(conf("1.1.0", "")).run();
    answer.fails(11).says("io.kubernetes.cri.pod-annotations");
    assert_eq!(answer.log()["decision"], "unknown");
    let answer = add(&pod).conf(conf("1.1.0", r#","onMissingAnnotations":"skip""#)).run();
    answer.ok();
    assert_eq!(answer.log()["decision"], "skip");
    // Delivered is the key, whatever it holds.
    for nothing in ["{}", "null"] {
        add(&pod).conf(conf("1.1.0", &annotated(nothing))).run().ok();
    }
    let own = conf("1.1.0", "");
    add(&pod).env("CNI_ARGS", "K8S_POD_NAMESPACE=kube-system;K8S_POD_NAME=agent").conf(own).run().ok();
    assert_same("no rule for anybody", &before, &dump(&pod));
}

fn another_mesh_is_there() {
    let pod = Netns::new("pod");
    let text = "*nat\n:PROXY_INIT_REDIRECT - [0:0]\n:PROXY_INIT_OUTPUT - [0:0]\n-A PROXY_INIT_OUTPUT -p tcp -j RETURN\n-A OUTPUT -j PROXY_INIT_OUTPUT\nCOMMIT\n";
    crate::support::rules::restore(&pod, Variant::Nft, Family::V4, text);
    let before = dump(&pod);
    add(&pod).run().fails(105).says("linkerd");
    assert_same("another mesh's rules", &before, &dump(&pod));
}

fn iptables_that_is_not_installed() {
    let pod = Netns::new("pod");
    let before = dump(&pod);
    let text = conf("1.1.0", &format!(r#"{ALL},"backend":"iptables""#));
    let none: Vec<String> = ["iptables", "ip6tables"]
        .iter()
        .flat_map(|family| ["", "-legacy", "-nft"].map(|kind| format!("{family}{kind}")))
        .flat_map(|name| ["-restore", "-save"].map(|verb| format!("{name}{verb}")))
        .collect();
    let sbin = Sbin::new().without(&none);
    let answer = add(&pod).conf(text).env("PATH", "/usr/sbin").run();
    // nftables needs none.
    add(&Netns::new("other")).env("PATH", "/usr/sbin").run().ok();
    drop(sbin);
    answer.fails(105).says("iptables");
    assert_same("after a refusal", &before, &dump(&pod));
}

fn without_netns() {
    let pod = Netns::new("pod");
    del(&pod).without("CNI_NETNS").run().silent();
    del(&pod).env("CNI_NETNS", "").run().silent();
}

fn del_of(path: &Path) {
    Call::at("DEL", path).conf(conf_after_add("1.1.0", ALL)).run().silent();
}

/// A pod whose ADD was refused for that gets a DEL all the same.
fn own_netns_is_left_alone() {
    let nft = |args: &[&str]| crate::support::command::command("nft", args).status().expect("nft");
    assert!(nft(&["add", "table", "ip", "mesh_init"]).success());
    let before = node();
    for path in ["/proc/self/ns/net", "/proc/1/ns/net"] {
        del_of(Path::new(path));
    }
    assert!(before.contains("mesh_init"));
    assert_same("the runtime's own namespace", &before, &node());
}

fn del_twice() {
    for backend in [
        "",
        r#","backend":"iptables","iptablesVariant":"legacy""#,
        r#","backend":"iptables","iptablesVariant":"nft""#,
    ] {
        let pod = Netns::new("pod");
        let before = dump(&pod);
        let text = conf_after_add("1.1.0", &format!("{ALL}{backend}"));
        del(&pod).conf(text.clone()).run().silent();
        add(&pod).conf(text.clone()).run().ok();
        assert!(dump(&pod) != before);
        let answer = del(&pod).conf(text.clone()).run();
        answer.silent();
        assert!(answer.log()["removed"].as_array().is_some_and(|removed| !removed.is_empty()), "{answer}");
        assert_same("after DEL", &before, &dump(&pod));
        del(&pod).conf(text).run().silent();
    }
}

fn after_a_failed_add() {
    let pod = Netns::new("pod");
    let before = dump(&pod);
    let text = conf_after_add("1.1.0", &annotated(r#"{"mesh-init.io/capture":"perhaps"}"#));
    add(&pod).conf(text.clone()).run().fails(7);
    del(&pod).conf(text).run().silent();
    let text = conf_after_add("1.1.0", "");
    add(&pod).conf(text.clone()).run().fails(11);
    del(&pod).conf(text).run().silent();
    assert_same("after both", &before, &dump(&pod));
}

/// What was right at ADD may have been edited since.
fn with_faulty_keys() {
    for more in [
        r#","selection":"nonsense""#,
        r#","typo":1"#,
        r#","prevResult":[]"#,
        r#","runtimeConfig":7"#,
        r#","policy":{"x":1}"#,
    ] {
        let pod = Netns::new("pod");
        let before = dump(&pod);
        add(&pod).run().ok();
        let answer = del(&pod).conf(conf("1.1.0", more)).run();
        answer.silent();
        assert_eq!(answer.log()["level"], "warn", "{answer}");
        assert_same(more, &before, &dump(&pod));
    }
}

/// Rules that are there were made by somebody else: an init container, a person.
fn of_a_skipped_pod() {
    let pod = Netns::new("pod");
    mesh_init(&pod, &["--backend", "nftables", "-p", "15001", "-u", "1337"]).ok();
    let before = dump(&pod);
    del(&pod).conf(conf_after_add("1.1.0", &annotated("{}"))).run().silent();
    assert_same("a skipped pod's rules", &before, &dump(&pod));
}

/// A container leaves one of its two networks: what the other carries stays captured.
fn another_interface_is_left() {
    let pod = Netns::new("pod");
    pod.ip("link add eth0 type veth peer name far0\nlink set eth0 up\nlink set far0 up\naddr add 10.0.0.1/24 dev eth0");
    settle(&[&pod]);
    let before = dump(&pod);
    pod.ip("link add eth1 type veth peer name far1\nlink set eth1 up\nlink set far1 up\naddr add 10.1.0.1/24 dev eth1");
    settle(&[&pod]);
    add(&pod).run().ok();
    add(&pod).env("CNI_IFNAME", "eth1").run().ok();
    let captured = dump(&pod);
    del(&pod).env("CNI_IFNAME", "eth1").run().silent();
    assert_same("eth0 is left", &captured, &dump(&pod));
    pod.ip("link del eth1");
    del(&pod).run().silent();
    assert_same("nothing is left", &before, &dump(&pod));
}

fn without_prev_result() {
    let pod = Netns::new("pod");
    add(&pod).run().ok();
    check(&pod).conf(conf("1.1.0", ALL)).run().fails(7).says("prevResult");
}

fn after_add() {
    for backend in [
        "",
        r#","backend":"iptables","iptablesVariant":"legacy""#,
        r#","backend":"iptables","iptablesVariant":"nft""#,
    ] {
        let pod = Netns::new("pod");
        let text = conf_after_add("1.1.0", &format!("{ALL}{backend}"));
        check(&pod).conf(text.clone()).run().fails(110);
        add(&pod).conf(text.clone()).run().ok();
        let before = dump(&pod);
        check(&pod).conf(text.clone()).run().silent();
        assert_same("CHECK changes nothing", &before, &dump(&pod));
        // Rules of later plugins are theirs.
        Run::new(&pod, "nft", &["add", "table", "ip", "later"]).ok();
        check(&pod).conf(text).run().silent();
    }
}

fn rules_gone() {
    for (family, name) in [("ip", "IPv4"), ("ip6", "IPv6")] {
        let pod = Netns::new("pod");
        add(&pod).run().ok();
        Run::new(&pod, "nft", &["delete", "table", family, "mesh_init"]).ok();
        let answer = check(&pod).run();
        answer.fails(110).says(name).says("mesh_init");
        assert_eq!(answer.log()["level"], "error", "{answer}");
        add(&pod).run().ok();
        check(&pod).run().silent();
    }
}

fn a_rule_changed() {
    let ways: [(&[&str], &str); 3] = [
        (
            &["flush", "chain", "ip6", "mesh_init", "nat_outbound"],
            "IPv6: table mesh_init of nftables: chain nat_outbound rule 1 is missing",
        ),
        (&["insert", "rule", "ip", "mesh_init", "nat_output", "accept"], "chain nat_output rule 1 is"),
        (&["add", "chain", "ip", "mesh_init", "more"], "chain more is one too many"),
    ];
    for (way, named) in ways {
        let pod = Netns::new("pod");
        add(&pod).run().ok();
        Run::new(&pod, "nft", way).ok();
        check(&pod).run().fails(110).says(named);
    }
}

fn check_another_policy() {
    let pod = Netns::new("pod");
    add(&pod).run().ok();
    let other = format!(r#"{ALL},"policy":{{"proxy":{{"port":15101}}}}"#);
    check(&pod).conf(conf_after_add("1.1.0", &other)).run().fails(110);
}

fn check_of_a_skipped_pod() {
    let pod = Netns::new("pod");
    check(&pod).conf(conf_after_add("1.1.0", &annotated("{}"))).run().silent();
    check(&pod).conf(conf_after_add("1.1.0", "")).run().fails(11);
}

fn keeps_what_is_there() {
    let pod = Netns::new("pod");
    add(&pod).run().ok();
    let before = dump(&pod);
    let entry = r#"{"containerID":"0123456789abcdef","ifname":"eth0"}"#;
    let lists = [
        String::new(),
        r#","cni.dev/valid-attachments":null"#.to_owned(),
        r#","cni.dev/valid-attachments":[]"#.to_owned(),
        format!(r#","cni.dev/valid-attachments":[{entry}]"#),
        format!(r#","cni.dev/attachments":[{entry}]"#),
        format!(r#","cni.dev/valid-attachments":[{entry}],"cni.dev/attachments":[{entry}]"#),
    ];
    for (list, said) in lists.iter().zip([None, None, Some(0), Some(1), Some(1), Some(1)]) {
        let answer = Call::bare("GC").env("CNI_PATH", "/opt/cni/bin").conf(conf("1.1.0", list)).run();
        answer.silent();
        assert_eq!(answer.log()["validAttachments"].as_u64(), said, "{list}: {answer}");
        assert_same(list, &before, &dump(&pod));
    }
    check(&pod).run().silent();
}

fn lists_that_are_none() {
    for list in
        ["1", "{}", "[1]", "[{}]", r#"[{"containerID":"a"}]"#, r#"[{"containerID":1,"ifname":"eth0"}]"#]
    {
        for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
            let text = conf("1.1.0", &format!(r#","{key}":{list}"#));
            Call::bare("GC").conf(text).run().fails(7).says(key);
        }
    }
}

/// Not a word on either stream, some milliseconds of work, and nothing happens to the runtime's namespace.
fn all_is_well() {
    const CALLS: i64 = 40;
    let before = node();
    let begin = worked();
    for _ in 0..CALLS {
        let answer = Call::bare("STATUS").conf(conf("1.1.0", ALL)).run();
        answer.silent();
        assert_eq!(answer.stderr, "");
    }
    // The processor's time: how long the test waits for it is the machine's business.
    let each = (worked() - begin) / CALLS;
    let most = if cfg!(debug_assertions) { 15_000 } else { 8_000 };
    assert!(each < most, "a call works for {each} us");
    assert_same("the runtime's own namespace", &before, &node());
}

/// What all children so far have worked, in microseconds (getrusage(2)).
fn worked() -> i64 {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("getrusage");
    (usage.user_time() + usage.system_time()).num_microseconds()
}

/// `call` by a runtime that has all capabilities but one.
fn lacking(name: &str, call: Call) -> Answer {
    let bound = format!("-{name}");
    call.through(&["setpriv", "--bounding-set", &bound, "--inh-caps", &bound]).run()
}

fn a_capability_is_missing() {
    for backend in ["nftables", "iptables", "auto"] {
        let status = || Call::bare("STATUS").conf(conf("1.1.0", &with_backend(backend)));
        for name in ["net_admin", "sys_admin"] {
            lacking(name, status()).fails(50).says(&format!("CAP_{}", name.to_uppercase()));
        }
        match backend {
            "nftables" => drop(lacking("net_raw", status()).silent().took),
            _ => drop(lacking("net_raw", status()).fails(50).says("CAP_NET_RAW").says("set backend").took),
        }
    }
}

fn with_backend(backend: &str) -> String {
    format!(r#"{ALL},"backend":"{backend}""#)
}

/// Only iptables opens raw sockets.
fn without_raw_sockets() {
    let pod = Netns::new("pod");
    let before = dump(&pod);
    let call = |verb, backend| {
        lacking("net_raw", Call::about(verb, &pod).conf(conf_after_add("1.1.0", &with_backend(backend))))
    };
    call("ADD", "iptables").fails(106).says("CAP_NET_RAW").says("set backend to nftables");
    assert_same("nothing was done", &before, &dump(&pod));
    call("ADD", "nftables").ok();
    assert!(dump(&pod).contains("mesh_init"));
    call("CHECK", "nftables").silent();
    let answer = call("DEL", "nftables");
    answer.silent();
    assert!(answer.log().get("error").is_none(), "{answer}");
    assert_same("after DEL", &before, &dump(&pod));
}

fn the_agent() {
    let with = |more: &str| {
        Call::bare("STATUS").conf(conf("1.1.0", &format!(r#","agentSocket":"/run/agent.sock"{more}"#)))
    };
    with("").run().fails(50).says("/run/agent.sock");
    // Pods can be judged without it.
    with(r#","onMissingAnnotations":"skip""#).run().silent();
    with(ALL).run().silent();
    let listener = UnixListener::bind("/run/agent.sock").expect("a socket");
    with("").run().silent();
    drop(listener);
    // A name that nobody answers to any more.
    with("").run().fails(50);
    fs::remove_file("/run/agent.sock").expect("its name");
    fs::write("/run/agent.sock", "").expect("a file");
    with("").run().fails(50);
}

fn faults() {
    Call::bare("STATUS").conf(conf("1.1.0", r#","selection":"x""#)).run().fails(7);
    Call::bare("STATUS").conf(conf("1.1.0", r#","policy":{"proxy":{"port":0}}"#)).run().fails(7);
    Call::bare("STATUS").conf(conf("1.1.0", r#","policy":{"mode":"NONE"}"#)).run().silent();
}

fn no_iptables() {
    let text = conf("1.1.0", &format!(r#"{ALL},"backend":"iptables","iptablesVariant":"legacy""#));
    // What captures nothing by itself may be asked for it by a pod.
    let none = text.replace(ALL, r#","policy":{"mode":"none"}"#);
    for text in [text, none] {
        Call::bare("STATUS").conf(text.clone()).run().silent();
        let sbin = Sbin::new().without(&["iptables-legacy-restore".to_owned()]);
        let answer = Call::bare("STATUS").conf(text).env("PATH", "/usr/sbin").run();
        drop(sbin);
        answer.fails(50).says("iptables-legacy");
    }
}

/// What the kernel lacks is found out in a namespace of its own; here not even that can be had.
fn no_room_for_namespaces() {
    let words = ["unshare", "--user", "--map-root-user", "sh", "-c"];
    let script = "echo 0 > /proc/sys/user/max_net_namespaces; exec \"$0\"";
    let call = Call::bare("STATUS").conf(conf("1.1.0", ALL));
    call.clone().through(&[&words[..], &["exec \"$0\""]].concat()).run().silent();
    call.through(&[&words[..], &[script]].concat()).run().fails(50).says("namespace");
}
