//! The classic and the scoped layout as tables: a row for each kind of rule, in the order in which a packet meets them.
//!
//! `{0}` and `{1}` stand for the items of the row's lists, `{loopback}`, `{port}` and `{inbound}` for what they say.
//! A row whose lists are empty has no lines; with two lists it has one for every pair.

/// A row.
pub(super) struct Row {
    pub(super) chain: &'static str,
    pub(super) when: When,
    pub(super) lists: &'static [List],
    pub(super) matches: &'static str,
    pub(super) comment: &'static str,
    pub(super) target: &'static str,
}

/// When a row counts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    Always,
    /// Something outbound is captured.
    Outbound,
    /// Outbound, whatever the destination.
    OutboundAll,
    /// Outbound, but to named networks only.
    OutboundSome,
    /// Something inbound is captured.
    Inbound,
    InboundAll,
    InboundSome,
    /// Captured inbound traffic goes to a port of its own.
    InboundOwnPort,
    /// Anything goes to the proxy's port.
    ProxyPort,
}

/// What a row has lines for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum List {
    ProxyUids,
    ProxyGids,
    OwnerUids,
    OwnerGids,
    Networks,
    Ports,
    ExcludedNetworks,
    ExcludedPorts,
    Interfaces,
    CapturePorts,
    InboundPorts,
    ReservedPorts,
    ExcludedInboundPorts,
}

const fn row(
    chain: &'static str,
    when: When,
    lists: &'static [List],
    matches: &'static str,
    comment: &'static str,
    target: &'static str,
) -> Row {
    Row { chain, when, lists, matches, comment, target }
}

const RETURN: &str = "RETURN";
const REDIRECT: &str = "ISTIO_REDIRECT";
const TO_PORT: &str = "REDIRECT --to-ports {port}";

/// `prepare_proxy.sh` of `proxy_init` 0.7.1, each rule with the comment it had.
#[rustfmt::skip]
pub(super) const CLASSIC: &[Row] = &[
    row("ISTIO_OUTPUT", When::Outbound, &[], "! -d {loopback} -o lo", "istio/redirect-implicit-loopback", REDIRECT),
    row("ISTIO_OUTPUT", When::Outbound, &[List::ProxyUids], "-m owner --uid-owner {0}", "istio/bypass-envoy", RETURN),
    row("ISTIO_OUTPUT", When::Outbound, &[List::ProxyGids], "-m owner --gid-owner {0}", "istio/bypass-envoy", RETURN),
    row("ISTIO_OUTPUT", When::Outbound, &[], "-d {loopback}", "istio/bypass-explicit-loopback", RETURN),
    row("ISTIO_OUTPUT", When::OutboundSome, &[List::Networks], "-d {0}", "istio/redirect-ip-range-{0}", REDIRECT),
    row("ISTIO_OUTPUT", When::OutboundSome, &[], "", "istio/bypass-default-outbound", RETURN),
    row("ISTIO_OUTPUT", When::OutboundAll, &[], "", "istio/redirect-default-outbound", REDIRECT),
    row("ISTIO_REDIRECT", When::Always, &[], "-p tcp", "istio/redirect-to-envoy-port", TO_PORT),
    row("OUTPUT", When::Outbound, &[], "-p tcp", "istio/install-istio-output", "ISTIO_OUTPUT"),
    row("PREROUTING", When::Always, &[], "", "istio/install-istio-prerouting", REDIRECT),
];

/// The VM host. Outbound: excluded interfaces, ports and networks; the proxy's users and groups; the proxy's own
/// ports here; DNS; then the owners, beside `-q` and `-i` if given. Inbound: only first packets to this host.
#[rustfmt::skip]
pub(super) const SCOPED: &[Row] = &[
    row("ISTIO_INBOUND", When::Inbound, &[List::Interfaces], "-i {0}", "inbound.exclude-interface", RETURN),
    row("ISTIO_INBOUND", When::InboundAll, &[List::ReservedPorts], "-p tcp -m tcp --dport {0}", "inbound.reserved", RETURN),
    row("ISTIO_INBOUND", When::InboundAll, &[List::ExcludedInboundPorts], "-p tcp -m tcp --dport {0}", "inbound.exclude-port", RETURN),
    row("ISTIO_INBOUND", When::InboundAll, &[], "-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -m addrtype --dst-type LOCAL", "inbound.all", "{inbound}"),
    row("ISTIO_INBOUND", When::InboundSome, &[List::InboundPorts], "-p tcp -m tcp --dport {0} --tcp-flags FIN,SYN,RST,ACK SYN -m addrtype --dst-type LOCAL", "inbound.port", "{inbound}"),
    row("ISTIO_IN_REDIRECT", When::InboundOwnPort, &[], "-p tcp", "redirect.inbound", "REDIRECT --to-ports {inbound port}"),
    row("ISTIO_OUTPUT", When::Outbound, &[List::Interfaces], "-o {0}", "outbound.exclude-interface", RETURN),
    row("ISTIO_OUTPUT", When::Outbound, &[List::ExcludedPorts], "-p tcp -m tcp --dport {0}", "outbound.exclude-port", RETURN),
    row("ISTIO_OUTPUT", When::Outbound, &[List::ExcludedNetworks], "-d {0}", "outbound.exclude-cidr", RETURN),
    row("ISTIO_OUTPUT", When::Outbound, &[List::ProxyUids], "-m owner --uid-owner {0}", "proxy.uid", RETURN),
    row("ISTIO_OUTPUT", When::Outbound, &[List::ProxyGids], "-m owner --gid-owner {0}", "proxy.gid", RETURN),
    row("ISTIO_OUTPUT", When::Outbound, &[List::CapturePorts], "-p tcp -m tcp --dport {0} -m addrtype --dst-type LOCAL", "outbound.capture-port", RETURN),
    row("ISTIO_OUTPUT", When::Outbound, &[], "-p tcp -m tcp --dport 53", "outbound.dns", RETURN),
    row("ISTIO_OUTPUT", When::OutboundAll, &[List::OwnerUids], "-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -m owner --uid-owner {0}", "outbound.all", REDIRECT),
    row("ISTIO_OUTPUT", When::OutboundSome, &[List::OwnerUids, List::Ports], "-p tcp -m tcp --dport {1} --tcp-flags FIN,SYN,RST,ACK SYN -m owner --uid-owner {0}", "outbound.port", REDIRECT),
    row("ISTIO_OUTPUT", When::OutboundSome, &[List::OwnerUids, List::Networks], "-d {1} -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -m owner --uid-owner {0}", "outbound.cidr", REDIRECT),
    row("ISTIO_OUTPUT", When::OutboundAll, &[List::OwnerGids], "-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -m owner --gid-owner {0}", "outbound.all", REDIRECT),
    row("ISTIO_OUTPUT", When::OutboundSome, &[List::OwnerGids, List::Ports], "-p tcp -m tcp --dport {1} --tcp-flags FIN,SYN,RST,ACK SYN -m owner --gid-owner {0}", "outbound.port", REDIRECT),
    row("ISTIO_OUTPUT", When::OutboundSome, &[List::OwnerGids, List::Networks], "-d {1} -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -m owner --gid-owner {0}", "outbound.cidr", REDIRECT),
    row("ISTIO_REDIRECT", When::ProxyPort, &[], "-p tcp", "redirect.outbound", TO_PORT),
    row("OUTPUT", When::Outbound, &[], "-p tcp", "outbound.hook", "ISTIO_OUTPUT"),
    row("PREROUTING", When::Inbound, &[], "-p tcp", "inbound.hook", "ISTIO_INBOUND"),
];

/// Every spelling that the cases use, and the name that the generator knows it by.
#[rustfmt::skip]
pub(super) const NAMES: &[(&str, &str)] = &[
    ("--proxy-port", "-p"), ("--envoy-port", "-p"), ("--inbound-capture-port", "-z"), ("--proxy-uid", "-u"),
    ("--proxy-gid", "-g"), ("--mode", "-m"), ("--inbound", "-b"), ("--inbound-ports", "-b"),
    ("--istio-inbound-ports", "-b"), ("--exclude-inbound", "-d"), ("--outbound-cidr", "-i"),
    ("--exclude-outbound-cidr", "-x"), ("--outbound-port", "-q"), ("--exclude-outbound-port", "-o"),
    ("--exclude-interface", "-c"), ("--inbound-tunnel-port", "-e"), ("--reroute-interface", "-k"),
    ("--tproxy-mark", "-t"), ("--tproxy-table", "-r"),
];
