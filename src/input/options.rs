//! Every option there is, as data: one table from which flags, variables, env files, config keys and help are
//! made, so that no source can know an option that another does not.

/// An option. The order is the order of help and of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "each key is documented by its row's help text")]
pub enum Key {
    ProxyPort,
    InboundCapturePort,
    InboundTunnelPort,
    ProxyUid,
    ProxyGid,
    Mode,
    Inbound,
    ExcludeInbound,
    OutboundCidr,
    ExcludeOutboundCidr,
    OutboundPort,
    ExcludeOutboundPort,
    LoopbackCidr,
    ExcludeInterface,
    RerouteInterface,
    TproxyMark,
    TproxyTable,
    UidOwner,
    GidOwner,
    OwnerGroup,
    ExcludeOwnerGroup,
    RedirectDns,
    CaptureAllDns,
    DnsPort,
    DnsServer,
    DropInvalid,
    Ipv6,
    Layout,
    Backend,
    Cgroup,
    ProxyCgroup,
    IptablesVariant,
    Netns,
    Host,
    ConfirmWithin,
    All,
    Wait,
    Output,
    EnvFile,
    Config,
}

/// What shape of text an option takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One value; given twice in one source is a fault.
    One,
    /// A comma-separated list; flags given several times are joined.
    List,
    /// `true` or `false`; a flag without a value means `true`.
    Switch,
}

/// Which part of the program an option speaks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// What is captured: the policy. Only for verbs that make rules.
    Policy,
    /// How rules are made and applied. Only for verbs that make rules.
    Making,
    /// Where and how to look and to answer. For every verb.
    Looking,
}

/// One row of the table.
#[derive(Debug)]
pub struct Opt {
    /// The option.
    pub key: Key,
    /// The flag's long name; `MESH_INIT_` and this name in capitals is the variable's.
    pub long: &'static str,
    /// The flag's short name, that of `proxy_init` or `istio-iptables`.
    pub short: Option<char>,
    /// Other long names that mean the same.
    pub aliases: &'static [&'static str],
    /// The variable's name in Istio's env files.
    pub istio: Option<&'static str>,
    /// The dotted path in a policy file, if the option is part of the policy.
    pub config: Option<&'static str>,
    /// The shape of its text.
    pub kind: Kind,
    /// Which verbs take it.
    pub part: Part,
    /// How help names the value.
    pub value: &'static str,
    /// One line of help.
    pub help: &'static str,
}

impl Opt {
    /// The name of the option's variable.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("MESH_INIT_{}", self.long.to_ascii_uppercase().replace('-', "_"))
    }
}

/// The row of `key`.
#[must_use]
pub fn option(key: Key) -> &'static Opt {
    // The test below proves that the table is in the order of the enum.
    #[expect(clippy::indexing_slicing, reason = "the table has a row for every key, in order: tested")]
    &OPTIONS[key as usize]
}

const fn row(key: Key, long: &'static str, kind: Kind, part: Part) -> Opt {
    Opt { key, long, short: None, aliases: &[], istio: None, config: None, kind, part, value: "", help: "" }
}

/// The table.
pub const OPTIONS: &[Opt] = &[
    Opt {
        short: Some('p'),
        aliases: &["envoy-port"],
        istio: Some("ENVOY_PORT"),
        config: Some("proxy.port"),
        value: "PORT",
        help: "the proxy's port; captured outbound traffic goes there [default: 15001]",
        ..row(Key::ProxyPort, "proxy-port", Kind::One, Part::Policy)
    },
    Opt {
        short: Some('z'),
        istio: Some("INBOUND_CAPTURE_PORT"),
        config: Some("proxy.inboundPort"),
        value: "PORT",
        help: "where captured inbound traffic goes [default: the proxy port]",
        ..row(Key::InboundCapturePort, "inbound-capture-port", Kind::One, Part::Policy)
    },
    Opt {
        short: Some('e'),
        istio: Some("INBOUND_TUNNEL_PORT"),
        config: Some("proxy.tunnelPort"),
        value: "PORT",
        help: "the HBONE tunnel port, never captured inbound [default: 15008]",
        ..row(Key::InboundTunnelPort, "inbound-tunnel-port", Kind::One, Part::Policy)
    },
    Opt {
        short: Some('u'),
        istio: Some("PROXY_UID"),
        config: Some("proxy.uids"),
        value: "UID,…",
        help: "users whose traffic is never captured: the proxy's [default: 1337]",
        ..row(Key::ProxyUid, "proxy-uid", Kind::List, Part::Policy)
    },
    Opt {
        short: Some('g'),
        istio: Some("PROXY_GID"),
        config: Some("proxy.gids"),
        value: "GID,…",
        help: "groups whose traffic is never captured [default: none]",
        ..row(Key::ProxyGid, "proxy-gid", Kind::List, Part::Policy)
    },
    Opt {
        short: Some('m'),
        aliases: &["istio-inbound-interception-mode"],
        istio: Some("ISTIO_INBOUND_INTERCEPTION_MODE"),
        config: Some("mode"),
        value: "MODE",
        help: "REDIRECT, TPROXY or NONE (capture nothing) [default: REDIRECT]",
        ..row(Key::Mode, "mode", Kind::One, Part::Policy)
    },
    Opt {
        short: Some('b'),
        aliases: &["inbound-ports", "istio-inbound-ports"],
        istio: Some("ISTIO_INBOUND_PORTS"),
        config: Some("inbound.ports"),
        value: "PORTS",
        help: "inbound ports to capture: '*' or a list [default: '*'; with an owner: none]",
        ..row(Key::Inbound, "inbound", Kind::List, Part::Policy)
    },
    Opt {
        short: Some('d'),
        aliases: &["istio-local-exclude-ports"],
        istio: Some("ISTIO_LOCAL_EXCLUDE_PORTS"),
        config: Some("inbound.excludePorts"),
        value: "PORTS",
        help: "inbound ports that '*' does not capture",
        ..row(Key::ExcludeInbound, "exclude-inbound", Kind::List, Part::Policy)
    },
    Opt {
        short: Some('i'),
        aliases: &["istio-service-cidr"],
        istio: Some("ISTIO_SERVICE_CIDR"),
        config: Some("outbound.cidrs"),
        value: "CIDRS",
        help: "outbound destinations to capture: '*' or a list; '' is none [default: '*', or none beside -q]",
        ..row(Key::OutboundCidr, "outbound-cidr", Kind::List, Part::Policy)
    },
    Opt {
        short: Some('x'),
        aliases: &["istio-service-exclude-cidr"],
        istio: Some("ISTIO_SERVICE_EXCLUDE_CIDR"),
        config: Some("outbound.excludeCidrs"),
        value: "CIDRS",
        help: "outbound destinations never captured",
        ..row(Key::ExcludeOutboundCidr, "exclude-outbound-cidr", Kind::List, Part::Policy)
    },
    Opt {
        short: Some('q'),
        aliases: &["istio-outbound-ports"],
        istio: Some("ISTIO_OUTBOUND_PORTS"),
        config: Some("outbound.ports"),
        value: "PORTS",
        help: "outbound ports captured whatever the address",
        ..row(Key::OutboundPort, "outbound-port", Kind::List, Part::Policy)
    },
    Opt {
        short: Some('o'),
        aliases: &["istio-local-outbound-ports-exclude"],
        istio: Some("ISTIO_LOCAL_OUTBOUND_PORTS_EXCLUDE"),
        config: Some("outbound.excludePorts"),
        value: "PORTS",
        help: "outbound ports never captured",
        ..row(Key::ExcludeOutboundPort, "exclude-outbound-port", Kind::List, Part::Policy)
    },
    Opt {
        istio: Some("ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR"),
        config: Some("outbound.loopbackCidr"),
        value: "CIDR",
        help: "what counts as IPv4's loopback destination, never captured [default: 127.0.0.1/32]",
        ..row(Key::LoopbackCidr, "loopback-cidr", Kind::One, Part::Policy)
    },
    Opt {
        short: Some('c'),
        aliases: &["istio-exclude-interfaces"],
        istio: Some("ISTIO_EXCLUDE_INTERFACES"),
        config: Some("interfaces.exclude"),
        value: "NAMES",
        help: "interfaces captured in neither direction",
        ..row(Key::ExcludeInterface, "exclude-interface", Kind::List, Part::Policy)
    },
    Opt {
        short: Some('k'),
        aliases: &["kube-virt-interfaces"],
        istio: Some("KUBE_VIRT_INTERFACES"),
        config: Some("interfaces.reroute"),
        value: "NAMES",
        help: "interfaces whose inbound traffic is treated as outbound",
        ..row(Key::RerouteInterface, "reroute-interface", Kind::List, Part::Policy)
    },
    Opt {
        short: Some('t'),
        aliases: &["istio-inbound-tproxy-mark"],
        istio: Some("ISTIO_INBOUND_TPROXY_MARK"),
        config: Some("tproxy.mark"),
        value: "MARK",
        help: "the packet mark of TPROXY mode [default: 1337]",
        ..row(Key::TproxyMark, "tproxy-mark", Kind::One, Part::Policy)
    },
    Opt {
        short: Some('r'),
        aliases: &["istio-inbound-tproxy-route-table"],
        istio: Some("ISTIO_INBOUND_TPROXY_ROUTE_TABLE"),
        config: Some("tproxy.table"),
        value: "TABLE",
        help: "the routing table of TPROXY mode [default: 133]",
        ..row(Key::TproxyTable, "tproxy-table", Kind::One, Part::Policy)
    },
    Opt {
        config: Some("outbound.owners.uids"),
        value: "UID,…",
        help: "capture only these users' outbound traffic (VM host)",
        ..row(Key::UidOwner, "uid-owner", Kind::List, Part::Policy)
    },
    Opt {
        config: Some("outbound.owners.gids"),
        value: "GID,…",
        help: "capture only these groups' outbound traffic (VM host)",
        ..row(Key::GidOwner, "gid-owner", Kind::List, Part::Policy)
    },
    Opt {
        istio: Some("ISTIO_OUTBOUND_OWNER_GROUPS"),
        config: Some("outbound.groups"),
        value: "GID,…",
        help: "pods: capture only these groups' outbound traffic [default: '*']",
        ..row(Key::OwnerGroup, "owner-group", Kind::List, Part::Policy)
    },
    Opt {
        istio: Some("ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE"),
        config: Some("outbound.excludeGroups"),
        value: "GID,…",
        help: "pods: groups whose outbound traffic is not captured",
        ..row(Key::ExcludeOwnerGroup, "exclude-owner-group", Kind::List, Part::Policy)
    },
    Opt {
        istio: Some("ISTIO_META_DNS_CAPTURE"),
        config: Some("dns.redirect"),
        help: "capture DNS to the DNS port",
        ..row(Key::RedirectDns, "redirect-dns", Kind::Switch, Part::Policy)
    },
    Opt {
        istio: Some("CAPTURE_ALL_DNS"),
        config: Some("dns.all"),
        help: "capture DNS to every server, not only to the known ones",
        ..row(Key::CaptureAllDns, "capture-all-dns", Kind::Switch, Part::Policy)
    },
    Opt {
        config: Some("dns.port"),
        value: "PORT",
        help: "where captured DNS goes [default: 15053]",
        ..row(Key::DnsPort, "dns-port", Kind::One, Part::Policy)
    },
    Opt {
        config: Some("dns.servers"),
        value: "ADDRESS,…",
        help: "the DNS servers to capture [default: those of /etc/resolv.conf]",
        ..row(Key::DnsServer, "dns-server", Kind::List, Part::Policy)
    },
    Opt {
        istio: Some("INVALID_DROP"),
        config: Some("dropInvalid"),
        help: "drop packets that conntrack calls INVALID",
        ..row(Key::DropInvalid, "drop-invalid", Kind::Switch, Part::Policy)
    },
    Opt {
        config: Some("ipv6"),
        value: "auto|on|off",
        help: "capture IPv6; auto: wherever the namespace has an IPv6 stack [default: auto]",
        ..row(Key::Ipv6, "ipv6", Kind::One, Part::Policy)
    },
    Opt {
        value: "auto|classic|scoped|istio",
        help: "which chains to make [default: auto]",
        ..row(Key::Layout, "layout", Kind::One, Part::Making)
    },
    Opt {
        value: "auto|iptables|nftables|ebpf",
        help: "what captures [default: auto: iptables if it is installed, else nftables]",
        ..row(Key::Backend, "backend", Kind::One, Part::Making)
    },
    Opt {
        value: "PATH",
        help: "with --backend ebpf: capture the processes of this control group only [default: all]",
        ..row(Key::Cgroup, "cgroup", Kind::One, Part::Making)
    },
    Opt {
        value: "PATH",
        help: "with --backend ebpf: the proxy is also who runs in this control group [default: users and groups alone]",
        ..row(Key::ProxyCgroup, "proxy-cgroup", Kind::One, Part::Making)
    },
    Opt {
        value: "auto|legacy|nft",
        help: "which iptables [default: auto: the one in use]",
        ..row(Key::IptablesVariant, "iptables-variant", Kind::One, Part::Looking)
    },
    Opt {
        aliases: &["network-namespace"],
        value: "PATH|PID",
        help: "work in this network namespace instead of the caller's",
        ..row(Key::Netns, "netns", Kind::One, Part::Looking)
    },
    Opt {
        help: "really capture the whole of the host's own network namespace",
        ..row(Key::Host, "host", Kind::Switch, Part::Making)
    },
    Opt {
        value: "TIME",
        help: "bring the rules before back unless mesh-init confirm is run within TIME, such as 60s",
        ..row(Key::ConfirmWithin, "confirm-within", Kind::One, Part::Making)
    },
    Opt {
        help: "bare rules that Istio's tools may have left before ours (excluded interfaces) are ours to remove",
        ..row(Key::All, "all", Kind::Switch, Part::Looking)
    },
    Opt {
        value: "SECONDS",
        help: "how long to wait for locks [default: 10]",
        ..row(Key::Wait, "wait", Kind::One, Part::Looking)
    },
    Opt {
        value: "text|json",
        help: "how to answer [default: text]",
        ..row(Key::Output, "output", Kind::One, Part::Looking)
    },
    Opt {
        value: "FILE",
        help: "read variables from FILE, Istio's names too; a later file wins",
        ..row(Key::EnvFile, "env-file", Kind::List, Part::Making)
    },
    Opt {
        value: "FILE",
        help: "read the policy from FILE (JSON, or TOML by its name)",
        ..row(Key::Config, "config", Kind::One, Part::Making)
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn rows_stand_in_the_order_of_the_keys() {
        for (index, opt) in OPTIONS.iter().enumerate() {
            assert_eq!(opt.key as usize, index, "{}", opt.long);
        }
        assert_eq!(OPTIONS.len(), Key::Config as usize + 1);
    }

    #[test]
    fn no_name_twice_and_every_row_has_help() {
        let mut seen = BTreeSet::new();
        for opt in OPTIONS {
            assert!(!opt.help.is_empty(), "{}", opt.long);
            assert_eq!(opt.kind == Kind::Switch, opt.value.is_empty(), "{}", opt.long);
            assert_eq!(opt.part == Part::Policy, opt.config.is_some(), "{}", opt.long);
            let short = opt.short.map(String::from);
            let names = std::iter::once(opt.long.to_owned())
                .chain(short)
                .chain(opt.aliases.iter().map(ToString::to_string))
                .chain(opt.istio.map(str::to_owned))
                .chain(opt.config.map(|path| format!("config {path}")));
            for name in names {
                assert!(seen.insert(name.clone()), "{name} twice");
            }
        }
    }
}
