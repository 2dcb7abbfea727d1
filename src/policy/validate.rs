//! The one constructor of [`CapturePolicy`]: [`Raw`] and [`Facts`] in, a policy or every fault out. Pure.

use std::path::PathBuf;
use std::time::Duration;

use super::at_sockets;
use super::layout::{self, Layout};
use super::settings::{Ebpf, NetnsRef, Output, Settings, Variant};
use super::values::{Listed, Values};
use super::{
    CapturePolicy, Cidr, Destinations, Dns, Facts, Family, Groups, Inbound, Interfaces, Ipv6, Mark, Mode,
    Outbound, Owners, Port, PortRange, PortSet, Proxy, Seal, Uid,
};
use crate::input::Origin::{Annotation, Config};
use crate::input::{Faults, Key, Raw, Sourced};

const fn port(number: u16) -> Port {
    match Port::of(number) {
        Some(port) => port,
        None => unreachable!(),
    }
}

/// The proxy's port (Istio's `ProxyListenPort`).
pub const PROXY_PORT: Port = port(15001);
/// The HBONE port.
pub const TUNNEL_PORT: Port = port(15008);
/// Where Istio's agent answers DNS.
pub const DNS_PORT: Port = port(15053);
/// The proxy's user.
pub const PROXY_UID: u32 = 1337;
/// TPROXY's packet mark.
pub const TPROXY_MARK: Mark = Mark(1337);
/// The mark of the proxy's calls to this host's own addresses, which inbound TPROXY takes.
pub const TPROXY_SELF_MARK: Mark = Mark(1338);
/// TPROXY's routing table.
pub const TPROXY_TABLE: u32 = 133;
/// Ports that a scoped `*` never captures: SSH, and the proxy's admin, metrics, health and merged-metrics
/// ports. Capturing them would lock the operator out of the host or the mesh out of the proxy.
pub const RESERVED_INBOUND: [Port; 5] = [port(22), port(15000), port(15020), port(15021), port(15090)];

/// A valid request to make rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What to capture.
    pub policy: CapturePolicy,
    /// Which chains to make.
    pub layout: Layout,
    /// How to work.
    pub settings: Settings,
    /// What was accepted but is worth saying.
    pub warnings: Vec<String>,
}

/// Validates everything that was given for making rules.
///
/// # Errors
/// Every fault there is.
pub fn request(raw: &Raw, facts: &Facts, mut faults: Faults) -> Result<Request, Faults> {
    let layout = layout::choose(raw, &mut faults);
    if let Some(layout) = layout {
        layout::check(layout, raw, &mut faults);
    }
    let letter = layout == Some(Layout::IstioIptables);
    let mut values = Values { raw, facts, faults: &mut faults, letter, warnings: Vec::new() };
    let policy = policy(&mut values, layout);
    let settings = settings_of(&mut values);
    if settings.ebpf.is_some() {
        at_sockets::check(&mut values, &policy);
    }
    let warnings = values.warnings;
    let layout = layout.unwrap_or(Layout::Classic);
    faults.into_result(Request { policy, layout, settings, warnings })
}

/// Validates what verbs take that make no rules.
///
/// # Errors
/// Every fault there is.
pub fn settings(raw: &Raw, mut faults: Faults) -> Result<Settings, Faults> {
    let facts = Facts::default();
    let faults_of = &mut faults;
    let mut values = Values { raw, facts: &facts, faults: faults_of, letter: false, warnings: Vec::new() };
    let settings = settings_of(&mut values);
    faults.into_result(settings)
}

/// What captures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Backend {
    Auto,
    Iptables,
    Nftables,
    Ebpf,
}

fn settings_of(values: &mut Values<'_>) -> Settings {
    let variant = values.word(
        Key::IptablesVariant,
        None,
        &[("auto", None), ("legacy", Some(Variant::Legacy)), ("nft", Some(Variant::Nft))],
    );
    let backend = values.word(
        Key::Backend,
        Backend::Auto,
        &[
            ("auto", Backend::Auto),
            ("iptables", Backend::Iptables),
            ("nftables", Backend::Nftables),
            ("ebpf", Backend::Ebpf),
        ],
    );
    let no_rules_of_iptables = matches!(backend, Backend::Nftables | Backend::Ebpf);
    if let (Some(_), true, Some(given)) =
        (variant, no_rules_of_iptables, values.raw.first(Key::IptablesVariant))
    {
        let by = if backend == Backend::Ebpf { "ebpf" } else { "nftables" };
        let problem = format!("has no meaning for --backend {by}");
        values.faults.option(given, problem, "leave one of the two out");
    }
    let [cgroup, proxy_cgroup] = [Key::Cgroup, Key::ProxyCgroup].map(|key| values.one(key));
    for given in [cgroup, proxy_cgroup].into_iter().flatten().filter(|_| backend != Backend::Ebpf) {
        values.faults.option(
            given,
            "has no effect without --backend ebpf",
            "leave it out, or give --backend ebpf",
        );
    }
    if let (Some(given), Backend::Ebpf) = (values.raw.first(Key::ConfirmWithin), backend) {
        let problem = "has no meaning for --backend ebpf, which touches no connection that is open";
        values.faults.option(given, problem, "leave it out; on a host give --host if all of it is meant");
    }
    values.one(Key::Layout);
    if let Some(second) = values.raw.get(Key::Config).and_then(|given| given.get(1)) {
        values.faults.option(second, "is a second policy file", "give --config once");
    }
    Settings {
        netns: values.one(Key::Netns).and_then(|given| netns(values, given)),
        host: values.switch(Key::Host),
        confirm_within: values.duration(Key::ConfirmWithin),
        all: values.switch(Key::All),
        wait: Duration::from_secs(u64::from(values.number(Key::Wait, 10, 3600))),
        output: values.word(Key::Output, Output::Text, &[("text", Output::Text), ("json", Output::Json)]),
        variant: if backend == Backend::Nftables { Some(Variant::Native) } else { variant },
        iptables: backend == Backend::Iptables,
        ebpf: (backend == Backend::Ebpf).then(|| Ebpf {
            cgroup: cgroup.map(|given| PathBuf::from(&given.text)),
            proxy_cgroup: proxy_cgroup.map(|given| PathBuf::from(&given.text)),
        }),
    }
}

fn netns(values: &mut Values<'_>, given: &Sourced) -> Option<NetnsRef> {
    if given.text.bytes().all(|byte| byte.is_ascii_digit()) {
        if let Some(pid) = given.text.parse().ok().filter(|pid| *pid != 0) {
            return Some(NetnsRef::Pid(pid));
        }
    } else if given.text.contains('/') && !given.text.contains('\0') {
        return Some(NetnsRef::Path(PathBuf::from(&given.text)));
    }
    let remedy = "give a process id or a path such as /run/netns/NAME";
    values.faults.value(given, &given.text, "is not a network namespace", remedy);
    None
}

/// The mark of TPROXY mode; never that of the proxy's calls to itself, which would then count as captured already.
fn mark(values: &mut Values<'_>) -> Mark {
    let mark = values.mark(Key::TproxyMark, TPROXY_MARK);
    if let (true, Some(given)) = (mark == TPROXY_SELF_MARK, values.raw.first(Key::TproxyMark)) {
        let problem =
            "is the mark of the proxy's calls to this host's own addresses, which are then not captured";
        values.nonsense(given, &given.text, problem, "give another mark, such as 1337");
    }
    mark
}

/// The routing table. Those that the kernel uses itself are refused: a local default route in one of them takes
/// the whole machine off the network (ip-route(8): 0 unspecified, 253 default, 254 main, 255 local).
fn table(values: &mut Values<'_>) -> u32 {
    let table = values.number(Key::TproxyTable, TPROXY_TABLE, u32::MAX - 1);
    if let (0 | 253..=255, Some(given)) = (table, values.raw.first(Key::TproxyTable)) {
        let problem = "is a routing table of the kernel's own";
        values.faults.value(given, &given.text, problem, "give another number, such as 133");
    }
    table
}

/// Without a layout, which is a fault that has been told, only what does not depend on it is judged.
fn policy(values: &mut Values<'_>, layout: Option<Layout>) -> CapturePolicy {
    let modes = [("REDIRECT", Mode::Redirect), ("TPROXY", Mode::Tproxy), ("NONE", Mode::None)];
    let mode = values.word(Key::Mode, Mode::Redirect, &modes);
    let proxy_port = values.port(Key::ProxyPort, PROXY_PORT);
    let ipv6 =
        values.word(Key::Ipv6, Ipv6::Auto, &[("auto", Ipv6::Auto), ("on", Ipv6::On), ("off", Ipv6::Off)]);
    let policy = CapturePolicy {
        mode,
        tproxy_mark: mark(values),
        tproxy_table: table(values),
        proxy: Proxy {
            port: proxy_port,
            inbound_port: values.port(Key::InboundCapturePort, proxy_port),
            tunnel_port: values.port(Key::InboundTunnelPort, TUNNEL_PORT),
            uids: values.uids(Key::ProxyUid).unwrap_or_else(|| Uid::of(PROXY_UID).into_iter().collect()),
            gids: values.gids(Key::ProxyGid).unwrap_or_default(),
        },
        outbound: outbound(values, ipv6),
        loopback: values.loopback(),
        inbound: inbound(values, layout.unwrap_or(Layout::Classic)),
        interfaces: Interfaces {
            exclude: values.interfaces(Key::ExcludeInterface),
            reroute: values.interfaces(Key::RerouteInterface),
        },
        dns: dns(values),
        ipv6,
        drop_invalid: values.switch(Key::DropInvalid),
        seal: Seal,
    };
    if let Some(Layout::Istio | Layout::IstioIptables) = layout {
        few_owners(values, &policy);
    }
    if let (Mode::Tproxy, Some(layout @ (Layout::Classic | Layout::Scoped))) = (mode, layout) {
        refuse_tproxy(values, layout);
    }
    if mode != Mode::None {
        identities(values, &policy, layout);
        capture_ports(values, &policy, layout);
    }
    policy
}

fn outbound(values: &mut Values<'_>, ipv6: Ipv6) -> Outbound {
    let cidrs = values.cidr_list(Key::OutboundCidr, true);
    if let (Listed::These(cidrs), Ipv6::Off, false) = (&cidrs, ipv6, values.letter) {
        let of_v6 = cidrs.iter().find(|cidr| cidr.family() == Family::V6);
        if let (Some(cidr), Some(given)) = (of_v6, values.raw.first(Key::OutboundCidr)) {
            let remedy = "take the network out, or do not give --ipv6 off";
            values.faults.value(
                given,
                &cidr.to_string(),
                "is IPv6, which --ipv6 off leaves uncaptured",
                remedy,
            );
        }
    }
    let ports = values.ports(Key::OutboundPort);
    let destinations = match cidrs {
        Listed::All => Destinations::All { ports: if values.letter { ports } else { PortSet::default() } },
        // Ports alone narrow: naming some would say nothing if the default were still everything.
        Listed::Absent if values.raw.has(Key::OutboundPort) => {
            Destinations::Some { cidrs: Vec::new(), ports }
        }
        Listed::Absent => Destinations::All { ports: PortSet::default() },
        Listed::These(cidrs) if !values.letter && Family::both().all(|family| covers(&cidrs, family)) => {
            Destinations::All { ports: PortSet::default() }
        }
        Listed::These(cidrs) => Destinations::Some { cidrs, ports },
    };
    let owners = match (values.uids(Key::UidOwner), values.gids(Key::GidOwner)) {
        (None, None) => Owners::Everyone,
        (uids, gids) => Owners::Only { uids: uids.unwrap_or_default(), gids: gids.unwrap_or_default() },
    };
    Outbound {
        owners,
        destinations,
        exclude_cidrs: match values.cidr_list(Key::ExcludeOutboundCidr, false) {
            Listed::These(cidrs) => cidrs,
            Listed::All | Listed::Absent => Vec::new(),
        },
        exclude_ports: values.ports(Key::ExcludeOutboundPort),
        groups: groups(values),
    }
}

fn covers(cidrs: &[Cidr], family: Family) -> bool {
    cidrs.iter().any(|cidr| cidr.family() == family && cidr.is_everything())
}

fn groups(values: &mut Values<'_>) -> Groups {
    let excluded = values.gids(Key::ExcludeOwnerGroup);
    match values.gid_list(Key::OwnerGroup, true) {
        None | Some(Listed::All | Listed::Absent) => Groups::AllExcept(excluded.unwrap_or_default()),
        Some(Listed::These(only)) => {
            if let Some(given) = values.raw.first(Key::ExcludeOwnerGroup) {
                let remedy = "give --owner-group or --exclude-owner-group";
                values.nonsense(
                    given,
                    &given.text,
                    "has no effect beside a list of groups to capture",
                    remedy,
                );
            }
            Groups::Only(only)
        }
    }
}

fn inbound(values: &mut Values<'_>, layout: Layout) -> Inbound {
    let included = values.port_list(Key::Inbound, true);
    let excluded = values.ports(Key::ExcludeInbound);
    let everything = match (&included, layout) {
        (Listed::All, _) | (Listed::Absent, Layout::Classic | Layout::Istio | Layout::IstioIptables) => true,
        (Listed::These(_), _) | (Listed::Absent, Layout::Scoped) => false,
    };
    if everything {
        return Inbound::AllExcept(excluded);
    }
    if let Some(given) = values.raw.first(Key::ExcludeInbound) {
        let remedy = "give --inbound '*', or leave the exclusion out";
        values.nonsense(given, &given.text, "has no effect unless all inbound ports are captured", remedy);
    }
    Inbound::Only(match included {
        Listed::These(ranges) => values.port_set(ranges),
        Listed::All | Listed::Absent => PortSet::default(),
    })
}

fn dns(values: &mut Values<'_>) -> Dns {
    let redirect = values.switch(Key::RedirectDns);
    let all = values.switch(Key::CaptureAllDns);
    let port = values.port(Key::DnsPort, DNS_PORT);
    let servers = values.addresses(Key::DnsServer);
    let idle: &[Key] = match (redirect, all) {
        (false, _) => &[Key::CaptureAllDns, Key::DnsPort, Key::DnsServer],
        (true, true) => &[Key::DnsServer],
        (true, false) => &[],
    };
    for key in idle {
        let Some(given) = values.raw.first(*key) else { continue };
        if matches!(given.text.to_ascii_lowercase().as_str(), "false" | "0" | "f") {
            continue;
        }
        let (problem, remedy) = match redirect {
            true => ("has no effect beside --capture-all-dns", "leave one of the two out"),
            false => ("has no effect without --redirect-dns", "give --redirect-dns too"),
        };
        values.nonsense(given, &given.text, problem, remedy);
    }
    match (redirect, all) {
        (false, _) => Dns::Off,
        (true, true) => Dns::All { port },
        (true, false) => {
            let servers = servers.unwrap_or_else(|| values.facts.resolvers.clone());
            if !servers.is_empty() {
                return Dns::Servers { port, servers };
            }
            if let Some(given) = values.raw.first(Key::RedirectDns) {
                let problem = "captures nothing: no DNS server is given, and /etc/resolv.conf names none";
                values.nonsense(given, &given.text, problem, "give --dns-server or --capture-all-dns");
            }
            Dns::Off
        }
    }
}

fn refuse_tproxy(values: &mut Values<'_>, layout: Layout) {
    if let Some(given) = values.raw.first(Key::Mode) {
        let problem = format!("cannot be expressed by the {layout} layout");
        values.faults.value(given, &given.text, problem, "give REDIRECT, or leave it out");
    }
}

/// "None of these" is one rule, and iptables takes at most 255 words in one: five for each (`-m owner ! --gid-owner N`).
fn few_owners(values: &mut Values<'_>, policy: &CapturePolicy) {
    let groups = match &policy.outbound.groups {
        Groups::Only(gids) => gids.len(),
        Groups::AllExcept(_) => 0,
    };
    let proxies = match values.letter {
        true => 0,
        false => policy.proxy.uids.len() + policy.proxy.gids.len(),
    };
    for (count, most, key) in [(groups, 49, Key::OwnerGroup), (proxies, 45, Key::ProxyUid)] {
        if let (true, Some(given)) = (count > most, values.raw.first(key)) {
            let problem = format!("is a list of {count}, of which iptables takes {most} in one rule");
            values.faults.source(given.origin.clone(), problem, "name fewer");
        }
    }
}

/// The proxy must be told apart from those it serves, else its own connections come back to it.
fn identities(values: &mut Values<'_>, policy: &CapturePolicy, layout: Option<Layout>) {
    let Proxy { uids, gids, .. } = &policy.proxy;
    let none_named = !values.raw.has(Key::ProxyGid) || values.given_empty(Key::ProxyGid);
    if values.given_empty(Key::ProxyUid) && none_named && !values.raw.has(Key::ProxyCgroup) {
        let remedy = "give the user (-u) or the group (-g) that the proxy runs as";
        values.faults.whole("no proxy user or group is left, so the proxy would capture itself", remedy);
    }
    match &policy.outbound.owners {
        Owners::Everyone => {
            let captures = match &policy.outbound.destinations {
                Destinations::All { .. } => true,
                Destinations::Some { cidrs, ports } => !cidrs.is_empty() || !ports.is_empty(),
            };
            if layout == Some(Layout::Scoped) && captures {
                let remedy = "give --uid-owner or --gid-owner, or -i '' to capture inbound traffic alone";
                values.faults.whole(
                    "the scoped layout captures the traffic of named owners, and none is named",
                    remedy,
                );
            }
        }
        Owners::Only { uids: owner_uids, gids: owner_gids } => {
            both(values, Key::UidOwner, "user", owner_uids.iter().filter(|uid| uids.contains(uid)));
            both(values, Key::GidOwner, "group", owner_gids.iter().filter(|gid| gids.contains(gid)));
        }
    }
}

fn both<T: std::fmt::Display>(values: &mut Values<'_>, key: Key, what: &str, ids: impl Iterator<Item = T>) {
    let Some(given) = values.raw.first(key) else { return };
    for id in ids {
        let problem = format!("is the proxy's own {what}, whose traffic is never captured");
        values.faults.value(
            given,
            &id.to_string(),
            problem,
            "run the proxy as a user of its own and give it with -u",
        );
    }
}

fn capture_ports(values: &mut Values<'_>, policy: &CapturePolicy, layout: Option<Layout>) {
    let Proxy { port, inbound_port, tunnel_port, .. } = policy.proxy;
    let tunnel = [Key::InboundTunnelPort, Key::InboundCapturePort, Key::ProxyPort];
    if [port, inbound_port].contains(&tunnel_port)
        && let Some(given) = tunnel.iter().find_map(|key| values.raw.first(*key))
    {
        let remedy = "give the tunnel and the capture ports different numbers";
        values.nonsense(
            given,
            &tunnel_port.to_string(),
            "is both the tunnel port and a capture port",
            remedy,
        );
    }
    // Istio takes its own ports of an annotation, and so must the file that such a policy is written to. They are then
    // captured as they are with all ports: the proxy, whose connections are not, hears of calls to itself.
    if let (Inbound::Only(ports), Some(given)) = (&policy.inbound, values.raw.first(Key::Inbound)) {
        for own in [port, inbound_port] {
            if ports.contains(own) {
                let problem = "is where captured traffic goes";
                if layout == Some(Layout::Istio) && matches!(given.origin, Annotation { .. } | Config { .. })
                {
                    values.warnings.push(format!("{}: {own} {problem}", given.origin));
                } else {
                    let remedy = "name the application's ports, not the proxy's";
                    values.nonsense(given, &own.to_string(), problem, remedy);
                }
            }
            if port == inbound_port {
                break;
            }
        }
        if let Some(ssh) = Port::of(22).filter(|ssh| ports.contains(*ssh)) {
            values
                .warnings
                .push(format!("{}: new SSH connections (port {ssh}) will go to the proxy", given.origin));
        }
    }
    if let Dns::Servers { port: dns, .. } | Dns::All { port: dns } = policy.dns
        && [port, inbound_port].contains(&dns)
        && !values.letter
    {
        let problem = format!("port {dns} is both the DNS port and a capture port");
        values.faults.whole(problem, "give --dns-port another number");
    }
}

/// What a scoped `*` leaves alone beside the exclusions: the reserved ports and the proxy's own.
#[must_use]
pub fn reserved_inbound(proxy: &Proxy) -> PortSet {
    RESERVED_INBOUND.into_iter().chain([proxy.port, proxy.inbound_port]).map(PortRange::from).collect()
}
