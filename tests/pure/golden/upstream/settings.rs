//! What a call comes to: the lists, conditions and values that the table of rules speaks of.

use std::collections::HashMap;
use std::net::IpAddr;

use super::flags::{Flags, variable};
use super::host::Host;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

/// What a rule is made for each of.
#[derive(Clone, Copy)]
pub(super) enum List {
    /// One item, which the rule does not name.
    Once,
    ExcludedInterfaces,
    ReroutedInterfaces,
    /// None where all or nothing inbound is captured.
    InboundPorts,
    ExcludedInboundPorts,
    OutboundPorts,
    ExcludedOutboundPorts,
    Uids,
    Gids,
    ExcludedGroups,
    /// The family's; none where everything outbound is captured.
    Networks,
    ExcludedNetworks,
    /// The family's resolvers as networks; none where all name resolution is captured, or none.
    Servers,
}

/// When a rule is made.
#[derive(Clone, Copy)]
pub(super) enum When {
    Tproxy,
    Redirect,
    Inbound,
    InboundAll,
    OutboundAll,
    DropInvalid,
    Dns,
    NoDns,
    /// Name resolution is captured whichever server is asked.
    DnsAll,
    /// Name resolution of this family is captured.
    DnsOfFamily,
    GroupsAll,
    GroupsSome,
    /// No network to capture begins at a loopback address.
    LoopbackLeftOut,
}

#[derive(PartialEq, Eq)]
enum Dns {
    Off,
    All,
    Listed,
}

struct Network {
    family: Family,
    text: String,
    /// The address given was a loopback address.
    loopback: bool,
}

pub(super) struct Settings {
    pub(super) ipv6: bool,
    flags: Flags,
    loopback: String,
    dns: Dns,
    servers: Vec<Network>,
    networks: Vec<Network>,
    excluded_networks: Vec<Network>,
    uids: Vec<String>,
    gids: Vec<String>,
    /// None: those of any group.
    groups: Option<Vec<String>>,
    excluded_groups: Vec<String>,
}

impl Settings {
    pub(super) fn of(args: &[String], env: &[(String, String)], host: &str) -> Self {
        let flags = Flags::read(args, env);
        let host = Host::read(host);
        let uid = match flags.text("proxy-uid") {
            "" => {
                let user = variable(env, "ENVOY_USER").unwrap_or("istio-proxy");
                host.users.get(user).map_or("1337".to_owned(), u32::to_string)
            }
            uid => uid.to_owned(),
        };
        // The text is taken over, so that a user's name is then a group's.
        let gid = match flags.text("proxy-gid") {
            "" => uid.clone(),
            gid => gid.to_owned(),
        };
        let groups = variable(env, "ISTIO_OUTBOUND_OWNER_GROUPS").unwrap_or("*");
        let excluded_groups = variable(env, "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE").unwrap_or("");
        let loopback = variable(env, "ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR").unwrap_or("127.0.0.1/32");
        let servers: Vec<Network> = host.nameservers.iter().map(|server| whole(*server)).collect();
        let dns = match (flags.on("redirect-dns"), flags.on("capture-all-dns")) {
            (false, _) => Dns::Off,
            (true, true) => Dns::All,
            (true, false) if servers.is_empty() => Dns::Off,
            (true, false) => Dns::Listed,
        };
        Self {
            ipv6: host.ipv6(flags.on("dual-stack")),
            loopback: network(loopback).text,
            dns,
            servers,
            networks: match flags.text("istio-service-cidr") {
                "*" => Vec::new(),
                list => items(list).map(network).collect(),
            },
            excluded_networks: items(flags.text("istio-service-exclude-cidr")).map(network).collect(),
            uids: items(&uid).map(|uid| number(uid, &host.users)).collect(),
            gids: items(&gid).map(|gid| number(gid, &host.groups)).collect(),
            groups: (groups != "*").then(|| items(groups).map(|group| number(group, &host.groups)).collect()),
            excluded_groups: items(excluded_groups).map(|group| number(group, &host.groups)).collect(),
            flags,
        }
    }

    pub(super) fn items(&self, list: List, family: Family) -> Vec<String> {
        let listed = |flag| items(self.flags.text(flag)).map(str::to_owned).collect();
        let of_family = |networks: &[Network]| {
            networks
                .iter()
                .filter(|network| network.family == family)
                .map(|network| network.text.clone())
                .collect()
        };
        match list {
            List::Once => vec![String::new()],
            List::ExcludedInterfaces => listed("istio-exclude-interfaces"),
            List::ReroutedInterfaces => listed("kube-virt-interfaces"),
            List::InboundPorts if self.holds(When::InboundAll, family) => Vec::new(),
            List::InboundPorts => listed("istio-inbound-ports"),
            List::ExcludedInboundPorts => listed("istio-local-exclude-ports"),
            List::OutboundPorts => listed("istio-outbound-ports"),
            List::ExcludedOutboundPorts => listed("istio-local-outbound-ports-exclude"),
            List::Uids => self.uids.clone(),
            List::Gids => self.gids.clone(),
            List::ExcludedGroups => self.excluded_groups.clone(),
            List::Networks => of_family(&self.networks),
            List::ExcludedNetworks => of_family(&self.excluded_networks),
            List::Servers if self.dns == Dns::Listed => of_family(&self.servers),
            List::Servers => Vec::new(),
        }
    }

    pub(super) fn holds(&self, when: When, family: Family) -> bool {
        let tproxy = self.flags.text("istio-inbound-interception-mode") == "TPROXY";
        match when {
            When::Tproxy => tproxy,
            When::Redirect => !tproxy,
            When::Inbound => !self.flags.text("istio-inbound-ports").is_empty(),
            When::InboundAll => self.flags.text("istio-inbound-ports") == "*",
            When::OutboundAll => self.flags.text("istio-service-cidr") == "*",
            When::DropInvalid => self.flags.on("drop-invalid"),
            When::Dns => self.dns != Dns::Off,
            When::NoDns => self.dns == Dns::Off,
            When::DnsAll => self.dns == Dns::All,
            When::DnsOfFamily => self.dns == Dns::All || !self.items(List::Servers, family).is_empty(),
            When::GroupsAll => self.groups.is_none(),
            When::GroupsSome => self.groups.is_some(),
            When::LoopbackLeftOut => !self.networks.iter().any(|network| network.loopback),
        }
    }

    /// A rule with its settings in place.
    pub(super) fn filled(&self, rule: &str, family: Family) -> String {
        let (loopback, passthrough) = match family {
            Family::V4 => (self.loopback.as_str(), "127.0.0.6/32"),
            Family::V6 => ("::1/128", "::6/128"),
        };
        let groups = self.groups.iter().flatten();
        let groups: String = groups.map(|group| format!(" -m owner ! --gid-owner {group}")).collect();
        rule.replace("{loopback}", loopback)
            .replace("{passthrough}", passthrough)
            .replace("{groups}", &groups)
            .replace("{port}", self.flags.text("envoy-port"))
            .replace("{capture}", self.flags.text("inbound-capture-port"))
            .replace("{tunnel}", self.flags.text("inbound-tunnel-port"))
            .replace("{mark}", self.flags.text("istio-inbound-tproxy-mark"))
    }
}

/// A list's items. Upstream keeps the blanks around them, which the restore tool skips.
fn items(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|item| !item.is_empty())
}

/// The number of a user or group. Upstream leaves a name to the restore tool.
fn number(text: &str, names: &HashMap<String, u32>) -> String {
    match text.parse::<u32>() {
        Ok(_) => text.to_owned(),
        Err(_) => names.get(text).unwrap_or_else(|| panic!("nobody is called {text}")).to_string(),
    }
}

/// A network with a mask, its host bits cleared. Upstream leaves those to the restore tool.
fn network(text: &str) -> Network {
    let (address, bits) = text.split_once('/').unwrap_or_else(|| panic!("{text} has no mask"));
    let (address, bits): (IpAddr, u32) = (address.parse().unwrap(), bits.parse().unwrap());
    let (family, base) = match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            (Family::V4, IpAddr::V4((address.to_bits() & mask).into()))
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            (Family::V6, IpAddr::V6((address.to_bits() & mask).into()))
        }
    };
    Network { family, text: format!("{base}/{bits}"), loopback: address.is_loopback() }
}

fn whole(address: IpAddr) -> Network {
    network(&format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 }))
}
