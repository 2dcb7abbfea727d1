//! Connections of pods that the plugin captured.

use std::path::Path;
use std::process::Command;

use super::runtime::{ALL, Call, conf, conf_after_add};
use crate::harness::Case;
use crate::scoped::{APP, PROXY};
use crate::support::creds::Who;
use crate::support::dial::dial;
use crate::support::rules::{Family, Variant, assert_same, dump};
use crate::support::serve::Service;
use crate::support::wire::{HERE, THERE, two_hosts};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Case::all_for_each_carrier(&[
        ("cni::capture::of_everything", of_everything),
        ("cni::capture::of_an_istio_pod", of_an_istio_pod),
    ]);
    cases.push(Case::new("cni::capture::host_users_false", host_users_false));
    cases
}

/// The keys that choose what carries the rules.
fn backend(variant: Variant) -> String {
    match variant {
        Variant::Native => r#","backend":"nftables""#.to_owned(),
        Variant::Legacy | Variant::Nft => {
            format!(r#","backend":"iptables","iptablesVariant":"{}""#, variant.name())
        }
    }
}

/// Both directions, both families, and nothing after DEL.
fn of_everything(variant: Variant) {
    let (here, there) = two_hosts();
    Service::tcp(&here, PROXY, "proxy", &[15001]);
    Service::tcp(&here, Who::ROOT, "here", &[80]);
    Service::tcp(&there, Who::ROOT, "there", &[80]);
    let before = dump(&here);
    let text = conf_after_add("1.0.0", &format!("{ALL}{}", backend(variant)));
    let answer = Call::about("ADD", &here).conf(text.clone()).run();
    answer.ok();
    assert_eq!(answer.log()["backend"], variant.full_name());
    for family in Family::BOTH {
        dial(&here, APP, THERE.port(family, 80)).captured_by("proxy");
        dial(&there, APP, HERE.port(family, 80)).captured_by("proxy");
        dial(&here, PROXY, THERE.port(family, 80)).untouched_to("there");
    }
    Call::about("CHECK", &here).conf(text.clone()).run().silent();
    Call::about("DEL", &here).conf(text).run().silent();
    assert_same("after DEL", &before, &dump(&here));
    for family in Family::BOTH {
        dial(&here, APP, THERE.port(family, 80)).untouched_to("there");
        dial(&there, APP, HERE.port(family, 80)).untouched_to("here");
    }
}

/// As the injector writes its annotations and containerd passes them on.
fn of_an_istio_pod(variant: Variant) {
    let annotations = r#"{"sidecar.istio.io/status":"{\"initContainers\":[\"istio-validation\"],\"containers\":[\"istio-proxy\"]}","traffic.sidecar.istio.io/excludeOutboundPorts":"81","traffic.sidecar.istio.io/includeInboundPorts":"80,15001,15006"}"#;
    let (here, there) = two_hosts();
    Service::tcp(&here, PROXY, "outbound", &[15001]);
    Service::tcp(&here, PROXY, "inbound", &[15006]);
    Service::tcp(&here, Who::ROOT, "here", &[80, 81]);
    Service::tcp(&there, Who::ROOT, "there", &[80, 81]);
    let more = format!(
        r#"{},"runtimeConfig":{{"io.kubernetes.cri.pod-annotations":{annotations}}}"#,
        backend(variant)
    );
    Call::about("ADD", &here).conf(conf("1.0.0", &more)).run().ok();
    for family in Family::BOTH {
        dial(&here, APP, THERE.port(family, 80)).captured_by("outbound");
        dial(&here, APP, THERE.port(family, 81)).untouched_to("there");
        dial(&there, APP, HERE.port(family, 80)).captured_by("inbound");
        dial(&there, APP, HERE.port(family, 81)).untouched_to("here");
        // The proxy's own ports, as Istio takes them: one connection, which does not come back.
        for own in [15001, 15006] {
            dial(&there, APP, HERE.port(family, own)).captured_by("inbound");
        }
    }
}

/// A namespace that another user namespace owns: nftables works from outside, the owner match of iptables does not.
fn host_users_false() {
    let mut holder = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "sh", "-c", "ip link set lo up; echo; exec sleep 60"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("unshare");
    let mut line = [0];
    std::io::Read::read_exact(holder.stdout.as_mut().expect("a pipe"), &mut line)
        .expect("its namespace is there");
    let path = format!("/proc/{}/ns/net", holder.id());
    let list = || {
        let target = holder.id().to_string();
        let output = Command::new("nsenter").args(["-t", &target, "-n", "nft", "list", "ruleset"]).output();
        String::from_utf8(output.expect("nsenter").stdout).expect("text")
    };
    let call = |verb, more: &str| {
        let text = conf_after_add("1.1.0", &format!("{ALL}{more}"));
        Call::at(verb, Path::new(&path)).conf(text).run()
    };
    for variant in Variant::BOTH {
        call("ADD", &backend(variant)).fails(105).says("hostUsers");
    }
    assert_eq!(list(), "", "nothing was done");
    let answer = call("ADD", r#","backend":"auto""#);
    answer.ok();
    assert_eq!(
        answer.log()["backend"],
        "nftables",
        "what decides by itself decides for what works: {answer}"
    );
    for family in Family::BOTH {
        assert!(list().contains(&format!("table {} mesh_init", family.of_nft())), "{answer}");
    }
    assert!(list().contains("skuid 1337"));
    let changed = call("ADD", "");
    assert_eq!(changed.log()["changed"], serde_json::json!([]), "{changed}");
    call("CHECK", "").silent();
    call("DEL", "").silent();
    assert_eq!(list(), "");
    holder.kill().expect("it sleeps");
    holder.wait().expect("a child of ours");
    // Its namespace has gone with it.
    call("ADD", "").fails(8);
    call("DEL", "").silent();
}
