//! What a runtime passes on of a pod: the network configuration, and annotations.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use mesh_init::cni::decide::{Capture, Decision, decide, needs_annotations};
use mesh_init::cni::netconf::{NetConf, Selection, Standard};
use mesh_init::cni::pod::{Annotations, PodFacts};
use mesh_init::input::Origin;
use mesh_init::policy::validate::{DNS_PORT, PROXY_PORT, TPROXY_MARK, TPROXY_TABLE, TUNNEL_PORT};
use mesh_init::policy::{
    CapturePolicy, Cidr, Destinations, Dns, Family, Groups, Inbound, Mark, Owners, Port, PortRange,
};
use serde_json::Value;
use serde_json::value::RawValue;

use super::{holds, told};

/// The network configuration, as a runtime writes it to stdin, or somebody in its place.
pub fn netconf(data: &[u8]) {
    let conf = match NetConf::parse(data) {
        Ok(conf) => conf,
        Err(faults) => {
            told(&faults);
            if let Err(faults) = Standard::parse(data) {
                told(&faults);
            }
            return;
        }
    };
    let text = std::str::from_utf8(data).expect("what was read is UTF-8");
    let standard = Standard::parse(data).expect("a part of what was read");
    assert_eq!(standard.cni_version, conf.standard.cni_version, "read twice");
    if let Some(prev) = &conf.standard.prev_result {
        assert!(text.contains(prev.text.get()), "the previous result is as it came");
        // Its values stay text: a number may be larger than any that can be held.
        let with = prev.with_version("1.0.0");
        let said: BTreeMap<String, &RawValue> = serde_json::from_str(&with).expect("still a JSON object");
        assert!(said.keys().any(|key| key.eq_ignore_ascii_case("cniVersion")), "an answer has a version");
    }
    for namespace in [None, Some("shop".to_owned()), Some("kube-system".to_owned())] {
        let annotations = conf.annotations.clone();
        let pod = PodFacts { namespace, name: Some("cart".to_owned()), uid: None, annotations };
        judge(&pod, &conf);
    }
}

/// The names of annotations that are read, by letter; and one that is not.
const NAMES: [&str; 18] = [
    "sidecar.istio.io/status",
    "sidecar.istio.io/interceptionMode",
    "traffic.sidecar.istio.io/includeOutboundIPRanges",
    "traffic.sidecar.istio.io/excludeOutboundIPRanges",
    "traffic.sidecar.istio.io/includeInboundPorts",
    "traffic.sidecar.istio.io/excludeInboundPorts",
    "traffic.sidecar.istio.io/includeOutboundPorts",
    "traffic.sidecar.istio.io/excludeOutboundPorts",
    "traffic.sidecar.istio.io/excludeInterfaces",
    "istio.io/reroute-virtual-interfaces",
    "traffic.sidecar.istio.io/kubevirtInterfaces",
    "proxy.istio.io/config",
    "mesh-init.io/policy",
    "mesh-init.io/proxy-uid",
    "mesh-init.io/proxy-gid",
    "mesh-init.io/capture",
    "sidecar.istio.io/inject",
    "inject.istio.io/templates",
];

/// Annotations, each a letter for its name and then its value, with a record separator (0x1e) between them.
pub fn annotations(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut all = BTreeMap::new();
    for record in text.split('\u{1e}') {
        let mut chars = record.chars();
        let Some(letter) = chars.next() else { continue };
        let index = (letter as usize).wrapping_sub('a' as usize);
        let name =
            NAMES.get(index).map_or_else(|| format!("mesh-init.io/{letter}"), |name| (*name).to_owned());
        all.insert(name, chars.as_str().to_owned());
    }
    let mut pod = PodFacts {
        namespace: Some("shop".to_owned()),
        name: Some("cart".to_owned()),
        uid: None,
        annotations: Annotations::Delivered(all.clone()),
    };
    for conf in &*SELECTING {
        if conf.selection == Selection::Istio {
            let mut all = all.clone();
            all.entry(NAMES[0].to_owned()).or_insert_with(|| "{}".to_owned());
            pod.annotations = Annotations::Delivered(all);
        }
        judge(&pod, conf);
    }
}

/// A configuration for each selection: what is under test is what pods say.
static SELECTING: LazyLock<[NetConf; 3]> = LazyLock::new(|| {
    ["istio", "annotation", "all"].map(|selection| {
        let text =
            format!(r#"{{"cniVersion":"1.0.0","name":"n","type":"mesh-init","selection":"{selection}"}}"#);
        NetConf::parse(text.as_bytes()).expect("a configuration")
    })
});

fn judge(pod: &PodFacts, conf: &NetConf) {
    let decision = decide(pod, conf);
    assert_eq!(decision, decide(pod, conf), "decided twice");
    match &decision {
        Decision::Capture(capture) => {
            holds(&capture.request);
            asked_for(capture, pod, conf);
            let said = capture.request.warnings.iter();
            assert!(
                said.clone().all(|line| !line.contains(char::is_control)),
                "{:?}",
                capture.request.warnings
            );
            assert!(said.map(String::len).sum::<usize>() <= super::TOLD, "a lot is said of one pod");
        }
        Decision::Skip(reason) => {
            let line = reason.to_string();
            assert!(!line.is_empty() && !line.contains(char::is_control), "{line:?}");
        }
        Decision::Reject(faults) => told(faults),
        Decision::Unknown(faults) => {
            told(faults);
            assert!(needs_annotations(pod, conf), "only what nobody has told can be unknown");
        }
    }
}

/// What annotations say, item by item, read by nothing that the decision reads them with but JSON's own parser.
fn words(pod: &PodFacts) -> BTreeSet<String> {
    let mut words = BTreeSet::new();
    let Annotations::Delivered(all) = &pod.annotations else { return words };
    let mut take = |text: &str| words.extend(text.split(',').map(|item| item.trim().to_owned()));
    for (name, text) in all {
        take(text);
        if name == "mesh-init.io/policy"
            && let Ok(tree) = serde_json::from_str::<Value>(text)
        {
            let mut open = vec![tree];
            while let Some(node) = open.pop() {
                match node {
                    Value::String(text) => take(&text),
                    Value::Number(number) => take(&number.to_string()),
                    Value::Array(items) => open.extend(items),
                    Value::Object(members) => open.extend(members.into_iter().map(|(_, value)| value)),
                    Value::Null | Value::Bool(_) => {}
                }
            }
        }
    }
    words
}

/// Whatever a policy names is in the annotations, or is a default. (What the configuration gives is not judged.)
fn asked_for(capture: &Capture, pod: &PodFacts, conf: &NetConf) {
    if !conf.defaults.is_empty() {
        return;
    }
    for key in capture.given.keys() {
        for given in capture.given.get(key).into_iter().flatten() {
            let known = match &given.origin {
                Origin::Annotation { name, .. } => pod.annotations.get(name).is_some(),
                Origin::Default => true,
                Origin::Flag(_) | Origin::Variable(_) | Origin::EnvFile { .. } | Origin::Config { .. } => {
                    false
                }
            };
            assert!(known, "{key:?} comes from {}", given.origin);
        }
    }
    let words = words(pod);
    let says = |is: &dyn Fn(&str) -> bool| words.iter().any(|word| is(word));
    let port = |port: Port, defaults: &[u16]| {
        let asked = defaults.contains(&port.number()) || says(&|word| word.parse() == Ok(port));
        assert!(asked, "nobody asked for port {port}");
    };
    let ranges = |ranges: &[PortRange], defaults: &[u16]| {
        for range in ranges {
            let default = range.first == range.last && defaults.contains(&range.first.number());
            assert!(default || says(&|word| word.parse() == Ok(*range)), "nobody asked for ports {range}");
        }
    };
    let networks = |cidrs: &[Cidr]| {
        for cidr in cidrs {
            assert!(says(&|word| word.parse() == Ok(*cidr)), "nobody asked for {cidr}");
        }
    };
    let id =
        |id: u32| assert!(id == 1337 || says(&|word| word.parse() == Ok(id)), "nobody asked for id {id}");
    let CapturePolicy { proxy, outbound, inbound, interfaces, dns, .. } = &capture.request.policy;
    port(proxy.port, &[PROXY_PORT.number()]);
    let own = proxy.port.number();
    port(proxy.inbound_port, &[own, 15006]);
    port(proxy.tunnel_port, &[TUNNEL_PORT.number()]);
    proxy.uids.iter().for_each(|uid| id(uid.number()));
    proxy.gids.iter().for_each(|gid| id(gid.number()));
    if let Owners::Only { uids, gids } = &outbound.owners {
        uids.iter().for_each(|uid| id(uid.number()));
        gids.iter().for_each(|gid| id(gid.number()));
    }
    let (Groups::AllExcept(groups) | Groups::Only(groups)) = &outbound.groups;
    groups.iter().for_each(|gid| id(gid.number()));
    match &outbound.destinations {
        Destinations::All { ports } => ranges(ports.ranges(), &[]),
        Destinations::Some { cidrs, ports } => {
            networks(cidrs);
            ranges(ports.ranges(), &[]);
        }
    }
    networks(&outbound.exclude_cidrs);
    ranges(outbound.exclude_ports.ranges(), &[15020]);
    match inbound {
        Inbound::AllExcept(ports) => ranges(ports.ranges(), &[15020, 15021, 15090]),
        Inbound::Only(ports) => ranges(ports.ranges(), &[]),
    }
    for name in interfaces.exclude.iter().chain(&interfaces.reroute) {
        assert!(says(&|word| word == name.as_str()), "nobody asked for {name}");
    }
    match dns {
        Dns::Off => {}
        Dns::All { port: to } => port(*to, &[DNS_PORT.number()]),
        Dns::Servers { port: to, servers } => {
            port(*to, &[DNS_PORT.number()]);
            for server in servers {
                assert!(says(&|word| word.parse() == Ok(*server)), "nobody asked for {server}");
            }
        }
    }
    let policy = &capture.request.policy;
    if policy.loopback != Family::V4.loopback() {
        networks(&[policy.loopback]);
    }
    let mark = policy.tproxy_mark;
    assert!(
        mark == TPROXY_MARK || says(&|word| word.parse::<Mark>() == Ok(mark)),
        "nobody asked for mark {mark}"
    );
    let table = policy.tproxy_table;
    assert!(
        table == TPROXY_TABLE || says(&|word| word.parse() == Ok(table)),
        "nobody asked for table {table}"
    );
}
