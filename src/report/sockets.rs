//! What `status` says of capture at the sockets.

use mesh_init_abi::{Clause, NetFlags, OwnerFlags, OwnerKind, PolicyFlags, PortFlags};
use serde_json::{Value, json};

use super::plural;
use crate::backend::ebpf::lower::Lowered;
use crate::backend::ebpf::rule_id;
use crate::backend::ebpf::text::{layout, network, ports};

/// What is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AtSockets {
    /// What the maps say.
    pub lowered: Lowered,
    /// How often each clause decided.
    pub counters: Vec<(Clause, u64)>,
    /// How many listeners of the proxy's get what arrives.
    pub listeners: usize,
    /// What is not attached that should be.
    pub detached: Vec<String>,
    /// The number of the control group that the programs are attached to.
    pub cgroup: Option<String>,
}

impl AtSockets {
    /// For people.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let policy = &self.lowered.policy;
        let has = |flag| policy.flags.has(flag);
        let families = if has(PolicyFlags::IPV6) { "IPv4 and IPv6" } else { "IPv4" };
        let state = if self.detached.is_empty() { "" } else { "; NOT WHOLE: apply again" };
        let mut lines = vec![
            format!(
                "captured at the sockets: outbound -> {}, inbound -> {}",
                policy.outbound_port, policy.inbound_port
            ),
            format!("layout {} on ebpf, {families}{state}", layout(policy)),
        ];
        if has(PolicyFlags::DNS) {
            lines.push(format!("DNS -> {}", policy.dns_port));
        }
        let mut listed = |what: &str, of: Vec<String>| {
            if !of.is_empty() {
                lines.push(format!("{what}: {}", of.join(",")));
            }
        };
        listed("the proxy's users", self.ids(OwnerKind::USER, OwnerFlags::PROXY));
        listed("the proxy's groups", self.ids(OwnerKind::GROUP, OwnerFlags::PROXY));
        listed("captured users", self.ids(OwnerKind::USER, OwnerFlags::OWNER));
        listed("captured groups", self.ids(OwnerKind::GROUP, OwnerFlags::OWNER));
        listed("excluded networks", self.networks(NetFlags::EXCLUDED));
        listed("included networks", self.networks(NetFlags::INCLUDED));
        listed("DNS servers", self.networks(NetFlags::DNS_SERVER));
        listed("excluded outbound ports", self.ports(PortFlags::OUT_EXCLUDED));
        listed("included outbound ports", self.ports(PortFlags::OUT_INCLUDED));
        let all = has(PolicyFlags::INBOUND_ALL);
        listed(
            if all { "inbound ports left alone" } else { "inbound ports" },
            self.ports(PortFlags::IN_NAMED),
        );
        lines.extend(self.detached.iter().map(|name| format!("not attached: {name}")));
        lines.push(format!("{} of the proxy's known", plural(self.listeners, "inbound listener")));
        lines.push(String::new());
        lines.push(format!("{:<28} {:>12}", "rule", "connections"));
        let counted = self.counters.iter().filter_map(|(clause, count)| Some((rule_id(*clause)?, count)));
        lines.extend(
            counted
                .filter(|(_, count)| **count > 0)
                .map(|(id, count)| format!("{:<28} {count:>12}", id.as_str())),
        );
        lines
    }

    /// For programs.
    #[must_use]
    pub fn json(&self, schema: &str, notes: &[String]) -> Value {
        let policy = &self.lowered.policy;
        let all = policy.flags.has(PolicyFlags::INBOUND_ALL);
        let counter = |(clause, count): &(Clause, u64)| {
            Some(json!({ "id": rule_id(*clause)?.as_str(), "connections": count }))
        };
        json!({
            "schema": schema,
            "captured": true,
            "whole": self.detached.is_empty(),
            "layout": layout(policy),
            "variant": "ebpf",
            "families": if policy.flags.has(PolicyFlags::IPV6) { vec!["IPv4", "IPv6"] } else { vec!["IPv4"] },
            "outboundPort": policy.outbound_port,
            "inboundPort": policy.inbound_port,
            "dnsPort": policy.flags.has(PolicyFlags::DNS).then_some(policy.dns_port),
            "proxyUids": self.ids(OwnerKind::USER, OwnerFlags::PROXY),
            "proxyGids": self.ids(OwnerKind::GROUP, OwnerFlags::PROXY),
            "excludedNetworks": self.networks(NetFlags::EXCLUDED),
            "includedNetworks": self.networks(NetFlags::INCLUDED),
            "inboundAll": all,
            "inboundPorts": self.ports(PortFlags::IN_NAMED),
            "listeners": self.listeners,
            "detached": self.detached,
            "cgroup": self.cgroup,
            "rules": self.counters.iter().filter_map(counter).collect::<Vec<_>>(),
            "notes": notes,
        })
    }

    fn ids(&self, kind: OwnerKind, flag: OwnerFlags) -> Vec<String> {
        let of = self.lowered.owners.iter().filter(|(key, flags)| key.kind == kind && flags.has(flag));
        of.map(|(key, _)| key.id.to_string()).collect()
    }

    fn networks(&self, flag: NetFlags) -> Vec<String> {
        self.lowered
            .networks
            .iter()
            .filter(|(_, flags)| flags.has(flag))
            .map(|(key, _)| network(key))
            .collect()
    }

    fn ports(&self, flag: PortFlags) -> Vec<String> {
        self.lowered.ports.iter().filter(|(_, flags)| flags.has(flag)).map(|(key, _)| ports(key)).collect()
    }
}
