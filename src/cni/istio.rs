//! Istio's annotations, with exactly the parsing of its CNI plugin (`cni/pkg/plugin/sidecar_redirect.go`), which is
//! stricter here and looser there than that of its flags.

use std::collections::BTreeMap;

use serde_json::Value;

use super::annotations::{Given, origin};
use crate::input::fault::quote;
use crate::input::istio::{FLAGS, parse_bool};
use crate::input::{Key, Origin, Raw, Sourced, plain, yaml};
use crate::policy::Cidr;

/// The shape of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// `REDIRECT`, `TPROXY`, or the injector's `NONE`.
    Mode,
    /// Networks, and whether `*` may stand for all.
    Networks { star: bool },
    /// Ports, and whether `*` may stand for all. Upstream takes `*` everywhere, and for exclusions and outbound
    /// ports makes a rule of it that does not load.
    Ports { star: bool },
    /// Interfaces.
    Interfaces,
}

/// One annotation, and the option that it sets. A later row for the same option counts only if no earlier one is there.
struct Row {
    name: &'static str,
    key: Key,
    shape: Shape,
}

const fn row(name: &'static str, key: Key, shape: Shape) -> Row {
    Row { name, key, shape }
}

const TRAFFIC: &str = "traffic.sidecar.istio.io/";

#[rustfmt::skip]
const TABLE: [Row; 10] = [
    row("sidecar.istio.io/interceptionMode",               Key::Mode,                Shape::Mode),
    row("traffic.sidecar.istio.io/includeOutboundIPRanges", Key::OutboundCidr,        Shape::Networks { star: true }),
    row("traffic.sidecar.istio.io/excludeOutboundIPRanges", Key::ExcludeOutboundCidr, Shape::Networks { star: false }),
    row("traffic.sidecar.istio.io/includeInboundPorts",     Key::Inbound,             Shape::Ports { star: true }),
    row("traffic.sidecar.istio.io/excludeInboundPorts",     Key::ExcludeInbound,      Shape::Ports { star: false }),
    row("traffic.sidecar.istio.io/includeOutboundPorts",    Key::OutboundPort,        Shape::Ports { star: false }),
    row("traffic.sidecar.istio.io/excludeOutboundPorts",    Key::ExcludeOutboundPort, Shape::Ports { star: false }),
    row("traffic.sidecar.istio.io/excludeInterfaces",       Key::ExcludeInterface,    Shape::Interfaces),
    row("istio.io/reroute-virtual-interfaces",              Key::RerouteInterface,    Shape::Interfaces),
    row("traffic.sidecar.istio.io/kubevirtInterfaces",      Key::RerouteInterface,    Shape::Interfaces),
];

/// The injector's record of what it has put in.
pub(super) const STATUS: &str = "sidecar.istio.io/status";
/// A `ProxyConfig` in YAML, of which `proxyMetadata` (or `proxy_metadata`) becomes the proxy's environment.
const CONFIG: &str = "proxy.istio.io/config";

/// Always excluded, as upstream appends them: health, readiness and metrics, which kubelet and Prometheus ask for.
const ALWAYS_EXCLUDED: [&str; 3] = ["15020", "15021", "15090"];

/// What is wrong in one value beyond this many items is not looked at.
const TOLD: usize = 10;

/// Whether Istio has had its hands on the pod, so that its annotations and defaults count.
pub(super) fn speaks(all: &BTreeMap<String, String>) -> bool {
    all.contains_key(STATUS) || TABLE.iter().any(|row| all.contains_key(row.name))
}

/// Reads the annotations of the table and of `proxyMetadata`. The second value is what is worth saying.
pub(super) fn parse(given: &mut Given<'_>) -> (Raw, Vec<String>) {
    let mut raw = Raw::default();
    let mut warnings = Vec::new();
    for row in &TABLE {
        if raw.has(row.key) {
            continue;
        }
        let Some(value) = given.read(row.name) else { continue };
        let text = match row.shape {
            Shape::Mode => mode(given, &value),
            Shape::Networks { star } => list(given, &value, star, network),
            // Go trims the whole of a list of ports, and of no other.
            Shape::Ports { .. } if value.text.trim().is_empty() => Some(String::new()),
            Shape::Ports { star } => {
                list(given, &value, star, port).map(|text| without_zero(text, &value, &mut warnings))
            }
            Shape::Interfaces => list(given, &value, false, interface),
        };
        if let Some(text) = text {
            raw.push(row.key, text, value.origin);
        }
    }
    misspelt(given, &mut warnings);
    metadata(given, &mut raw, &mut warnings);
    (raw, warnings)
}

/// Takes out Istio's exclusions where only some inbound ports are captured: the injector writes both, so this is no
/// fault here.
pub(super) fn without_moot(raw: &mut Raw) -> Option<String> {
    let excluded =
        raw.first(Key::ExcludeInbound).filter(|given| is_traffic(&given.origin) && !takes_all(raw))?;
    let warning = format!("{}: has no effect unless all inbound ports are captured", excluded.origin);
    raw.remove(Key::ExcludeInbound);
    Some(warning)
}

/// Adds what Istio's plugin takes where nothing is given: ports, exclusions and the layout.
pub(super) fn complete(raw: &mut Raw) {
    let mut default = |key: Key, text: &str| {
        if !raw.has(key) {
            raw.set(key, text, Origin::Default);
        }
    };
    default(Key::Layout, "istio");
    default(Key::InboundCapturePort, "15006");
    default(Key::ExcludeOutboundPort, "15020");
    // Beside ports that are not Istio's to give, everything is not the default.
    let ports = raw.first(Key::OutboundPort);
    if !raw.has(Key::OutboundCidr) && ports.is_none_or(|given| is_traffic(&given.origin)) {
        raw.set(Key::OutboundCidr, "*", Origin::Default);
    }
    if takes_all(raw) {
        let given = raw.get(Key::ExcludeInbound).unwrap_or_default();
        let has = |port: &str| given.iter().any(|given| given.text.split(',').any(|of| of.trim() == port));
        let missing: Vec<&str> = ALWAYS_EXCLUDED.into_iter().filter(|port| !has(port)).collect();
        for port in missing {
            raw.push(Key::ExcludeInbound, port, Origin::Default);
        }
    }
}

/// Whether every inbound port is captured.
pub(super) fn takes_all(raw: &Raw) -> bool {
    raw.get(Key::Inbound).is_none_or(|given| given.iter().any(|given| given.text.trim() == "*"))
}

fn is_traffic(origin: &Origin) -> bool {
    matches!(origin, Origin::Annotation { name, .. } if name.starts_with(TRAFFIC))
}

fn mode(given: &mut Given<'_>, value: &Sourced) -> Option<String> {
    if matches!(value.text.as_str(), "REDIRECT" | "TPROXY" | "NONE") {
        return Some(value.text.clone());
    }
    given.faults.option(value, "is not an interception mode", "give REDIRECT, TPROXY or NONE, in capitals");
    None
}

/// The items of a list, each as `item` reads it; nothing is none.
fn list(
    given: &mut Given<'_>,
    value: &Sourced,
    star: bool,
    item: impl Fn(&str) -> Result<&str, (&'static str, &'static str)>,
) -> Option<String> {
    if value.text.is_empty() {
        return Some(String::new());
    }
    if star && value.text == "*" {
        return Some("*".to_owned());
    }
    let mut items = Vec::new();
    let mut wrong = 0;
    for text in value.text.split(',') {
        match item(text) {
            Ok(item) => items.push(item),
            Err((problem, remedy)) => {
                given.faults.value(value, text, problem, remedy);
                wrong += 1;
                if wrong == TOLD {
                    break;
                }
            }
        }
    }
    (wrong == 0).then(|| items.join(","))
}

/// Go's `strconv.ParseUint` of what `strings.TrimSpace` leaves.
fn port(text: &str) -> Result<&str, (&'static str, &'static str)> {
    let item = text.trim();
    let plain = !item.is_empty() && item.bytes().all(|byte| byte.is_ascii_digit());
    match plain && item.parse::<u16>().is_ok() {
        true => Ok(item),
        false if item == "*" => Err(("cannot stand for all ports here", "name the ports")),
        false => Err(("is not a port", "give numbers from 0 to 65535, with commas between them")),
    }
}

/// Port 0 is in no packet, so that a rule for it says nothing.
fn without_zero(text: String, value: &Sourced, warnings: &mut Vec<String>) -> String {
    let is_zero = |item: &&str| item.bytes().all(|byte| byte == b'0') && !item.is_empty();
    if !text.split(',').any(|item| is_zero(&item)) {
        return text;
    }
    warnings.push(format!("{}: port 0 is in no packet and is left out", value.origin));
    text.split(',').filter(|item| !is_zero(item)).collect::<Vec<_>>().join(",")
}

/// Go's `netip.ParsePrefix`: no bare address, no blanks, no leading zeros.
fn network(text: &str) -> Result<&str, (&'static str, &'static str)> {
    let prefix = text.split_once('/').map_or("", |(_, prefix)| prefix);
    let leading = prefix.len() > 1 && prefix.starts_with('0');
    match text.parse::<Cidr>() {
        Ok(_) if !prefix.is_empty() && !leading => Ok(text),
        Ok(_) | Err(_) => {
            Err(("is not a network", "give an address/prefix such as 10.0.0.0/8, without blanks"))
        }
    }
}

/// What upstream's plugin takes for an interface's name: `^[a-zA-Z][a-zA-Z0-9_.\-]*$`, at most 15 long.
fn interface(text: &str) -> Result<&str, (&'static str, &'static str)> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    let starts_well = text.starts_with(|c: char| c.is_ascii_alphabetic());
    match text.len() <= 15 && starts_well && text.bytes().all(plain) {
        true => Ok(text),
        false => Err((
            "is not an interface's name",
            "give a letter and then at most 14 letters, digits and _ . -, without blanks",
        )),
    }
}

/// Upstream passes over what it does not know; so do we, but not in silence.
fn misspelt(given: &Given<'_>, warnings: &mut Vec<String>) {
    let under = given.all.range(TRAFFIC.to_owned()..).map(|(name, _)| name);
    let unknown = under
        .take_while(|name| name.starts_with(TRAFFIC))
        .filter(|name| !TABLE.iter().any(|row| row.name == name.as_str()));
    warnings.extend(
        unknown.map(|name| format!("annotation {} is none of Istio's and has no effect", plain(name))),
    );
}

/// `proxyMetadata` of a `ProxyConfig`, name by name.
fn variables(given: &mut Given<'_>) -> Vec<(String, Value)> {
    let Some(config) = given.read(CONFIG) else { return Vec::new() };
    let documents = match yaml::parse(&config.text) {
        Ok(documents) => documents,
        Err(why) => {
            given.faults.source(origin(CONFIG), why, "give a ProxyConfig in YAML");
            return Vec::new();
        }
    };
    let metadata = match documents.as_slice() {
        [] | [Value::Null] => None,
        // Istio reads it by protobuf's JSON mapping, which takes a field's own name as well.
        [Value::Object(tree)] => match (tree.get("proxyMetadata"), tree.get("proxy_metadata")) {
            (Some(_), Some(_)) => {
                let problem = "has proxyMetadata twice, once as proxy_metadata";
                given.faults.source(origin(CONFIG), problem, "leave one of the two out");
                None
            }
            (one, other) => one.or(other),
        },
        _ => {
            given.faults.source(origin(CONFIG), "is not one mapping", "give a ProxyConfig in YAML");
            None
        }
    };
    match metadata {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Object(all)) => all.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
        Some(Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_)) => {
            let origin = Origin::Annotation { name: CONFIG.to_owned(), key: "proxyMetadata".to_owned() };
            given.faults.source(origin, "is not a mapping", "give names and values");
            Vec::new()
        }
    }
}

/// The switches of `proxyMetadata` that upstream's plugin reads from the proxy's environment.
fn metadata(given: &mut Given<'_>, raw: &mut Raw, warnings: &mut Vec<String>) {
    for (name, value) in variables(given) {
        let at = || Origin::Annotation { name: CONFIG.to_owned(), key: format!("proxyMetadata.{name}") };
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        match (name.as_str(), parse_bool(&text)) {
            ("INVALID_DROP", Some(on)) => raw.set(Key::DropInvalid, on.to_string(), at()),
            // The servers that the node's resolv.conf names are not the pod's: all of them, or none.
            ("ISTIO_META_DNS_CAPTURE", Some(on)) => {
                raw.set(Key::RedirectDns, on.to_string(), at());
                raw.set(Key::CaptureAllDns, on.to_string(), at());
            }
            ("ISTIO_DUAL_STACK", Some(true)) => raw.set(Key::Ipv6, "auto", at()),
            // IPv6 is captured wherever there is any; upstream's `false` would leave a way around.
            ("ISTIO_DUAL_STACK", Some(false)) => {}
            ("INVALID_DROP" | "ISTIO_META_DNS_CAPTURE" | "ISTIO_DUAL_STACK", None) => {
                warnings.push(format!("{}: {} is not true or false and is ignored", at(), quote(&text)));
            }
            (other, _) if FLAGS.iter().any(|flag| flag.variables.contains(&other)) => {
                warnings.push(format!("{}: has no effect on a CNI plugin; see docs/annotations.md", at()));
            }
            (_, _) => {}
        }
    }
}
