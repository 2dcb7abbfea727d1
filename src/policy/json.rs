//! The canonical JSON form of a policy: what `plan --output json` shows, what `--config` and an annotation
//! take, and what a digest is made of. `docs/json.md` describes it.

use serde_json::{Map, Value, json};

use super::validate::{TPROXY_MARK, TPROXY_TABLE, TUNNEL_PORT};
use super::{
    CapturePolicy, Cidr, Destinations, Dns, Family, Groups, Inbound, Mode, Outbound, Owners, PortRange, Proxy,
};
use crate::input::config::SCHEMA;

/// A policy's digest: 16 hexadecimal digits, the same wherever the policy is (FNV-1a of 64 bits over the canonical form).
#[must_use]
pub fn digest(policy: &CapturePolicy) -> String {
    let bytes = to_json(policy).to_string().into_bytes();
    let step = |digest: u64, byte: u8| (digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    format!("{:016x}", bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, step))
}

/// The canonical form: the proxy's identity and the destinations always, every other key only where it says
/// something other than the default, so that a policy reads back as itself under its layout.
#[must_use]
pub fn to_json(policy: &CapturePolicy) -> Value {
    let mut tree = Tree(Map::new());
    tree.set("", "schema", json!(SCHEMA));
    if policy.mode != Mode::Redirect {
        tree.set("", "mode", json!(policy.mode.to_string()));
    }
    proxy(&mut tree, policy);
    outbound(&mut tree, policy);
    inbound(&mut tree, policy);
    tree.list("interfaces", "exclude", policy.interfaces.exclude.iter().map(|name| json!(name.as_str())));
    tree.list("interfaces", "reroute", policy.interfaces.reroute.iter().map(|name| json!(name.as_str())));
    dns(&mut tree, policy);
    if policy.mode == Mode::Tproxy || policy.tproxy_mark != TPROXY_MARK {
        tree.set("tproxy", "mark", json!(policy.tproxy_mark.0));
    }
    if policy.mode == Mode::Tproxy || policy.tproxy_table != TPROXY_TABLE {
        tree.set("tproxy", "table", json!(policy.tproxy_table));
    }
    tree.set("", "ipv6", json!(policy.ipv6.to_string()));
    if policy.drop_invalid {
        tree.set("", "dropInvalid", json!(true));
    }
    Value::Object(tree.0)
}

struct Tree(Map<String, Value>);

impl Tree {
    fn set(&mut self, section: &str, key: &str, value: Value) {
        if section.is_empty() {
            self.0.insert(key.to_owned(), value);
        } else if let Value::Object(members) = self.0.entry(section).or_insert_with(|| json!({})) {
            members.insert(key.to_owned(), value);
        }
    }

    fn list(&mut self, section: &str, key: &str, items: impl Iterator<Item = Value>) {
        let items: Vec<Value> = items.collect();
        if !items.is_empty() {
            self.set(section, key, Value::Array(items));
        }
    }
}

fn proxy(tree: &mut Tree, policy: &CapturePolicy) {
    let Proxy { port, inbound_port, tunnel_port, uids, gids } = &policy.proxy;
    tree.set("proxy", "port", json!(port.number()));
    if inbound_port != port {
        tree.set("proxy", "inboundPort", json!(inbound_port.number()));
    }
    if *tunnel_port != TUNNEL_PORT {
        tree.set("proxy", "tunnelPort", json!(tunnel_port.number()));
    }
    tree.set("proxy", "uids", uids.iter().map(|uid| json!(uid.number())).collect());
    tree.set("proxy", "gids", gids.iter().map(|gid| json!(gid.number())).collect());
}

fn outbound(tree: &mut Tree, policy: &CapturePolicy) {
    let Outbound { owners, destinations, exclude_cidrs, exclude_ports, groups } = &policy.outbound;
    match destinations {
        Destinations::All { ports } => {
            tree.set("outbound", "cidrs", json!("*"));
            tree.list("outbound", "ports", ports.ranges().iter().map(port));
        }
        Destinations::Some { cidrs, ports } => {
            tree.set("outbound", "cidrs", cidrs.iter().map(cidr).collect());
            tree.list("outbound", "ports", ports.ranges().iter().map(port));
        }
    }
    tree.list("outbound", "excludeCidrs", exclude_cidrs.iter().map(cidr));
    if policy.loopback != Family::V4.loopback() {
        tree.set("outbound", "loopbackCidr", cidr(&policy.loopback));
    }
    tree.list("outbound", "excludePorts", exclude_ports.ranges().iter().map(port));
    if let Owners::Only { uids, gids } = owners {
        let uids: Value = uids.iter().map(|uid| json!(uid.number())).collect();
        let gids: Value = gids.iter().map(|gid| json!(gid.number())).collect();
        tree.set("outbound", "owners", json!({ "uids": uids, "gids": gids }));
    }
    match groups {
        Groups::AllExcept(gids) => {
            tree.list("outbound", "excludeGroups", gids.iter().map(|gid| json!(gid.number())))
        }
        Groups::Only(gids) => {
            tree.set("outbound", "groups", gids.iter().map(|gid| json!(gid.number())).collect())
        }
    }
}

fn inbound(tree: &mut Tree, policy: &CapturePolicy) {
    // The default: everything for a pod, nothing for a VM host. Where nothing outbound is captured, it may be either.
    let nothing = matches!(&policy.outbound.destinations,
        Destinations::Some { cidrs, ports } if cidrs.is_empty() && ports.is_empty());
    let pod = policy.outbound.owners == Owners::Everyone && !nothing;
    match &policy.inbound {
        Inbound::AllExcept(excluded) => {
            if !pod || !excluded.is_empty() {
                tree.set("inbound", "ports", json!("*"));
            }
            tree.list("inbound", "excludePorts", excluded.ranges().iter().map(port));
        }
        Inbound::Only(ports) if ports.is_empty() && policy.outbound.owners != Owners::Everyone => {}
        Inbound::Only(ports) => tree.set("inbound", "ports", ports.ranges().iter().map(port).collect()),
    }
}

fn dns(tree: &mut Tree, policy: &CapturePolicy) {
    let port = match &policy.dns {
        Dns::Off => return,
        Dns::All { port } | Dns::Servers { port, .. } => port,
    };
    tree.set("dns", "redirect", json!(true));
    if let Dns::Servers { servers, .. } = &policy.dns {
        tree.set("dns", "servers", servers.iter().map(|server| json!(server.to_string())).collect());
    } else {
        tree.set("dns", "all", json!(true));
    }
    tree.set("dns", "port", json!(port.number()));
}

fn port(range: &PortRange) -> Value {
    if range.first == range.last { json!(range.first.number()) } else { json!(range.to_string()) }
}

fn cidr(cidr: &Cidr) -> Value {
    json!(cidr.to_string())
}
