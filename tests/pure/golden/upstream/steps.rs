//! The rules as a table: the steps in the order in which upstream records them, each with its rules.
//!
//! `{item}` is an item of the step's list and `{inner}` one of the row's; what else stands in braces is a
//! setting.

use super::settings::List::{self, *};
use super::settings::When::{self, *};

/// A step: all of its rows for each item of a list.
pub(super) struct Step {
    pub(super) each: List,
    pub(super) when: &'static [When],
    pub(super) rows: &'static [Row],
}

/// A rule, once for each item of a list of its own.
pub(super) struct Row {
    pub(super) table: &'static str,
    pub(super) rule: &'static str,
    pub(super) also: List,
    pub(super) when: &'static [When],
}

const fn step(each: List, when: &'static [When], rows: &'static [Row]) -> Step {
    Step { each, when, rows }
}

const fn nat(rule: &'static str) -> Row {
    Row { table: "nat", rule, also: Once, when: &[] }
}

const fn nat_if(when: &'static [When], rule: &'static str) -> Row {
    Row { table: "nat", rule, also: Once, when }
}

const fn nat_each(also: List, rule: &'static str) -> Row {
    Row { table: "nat", rule, also, when: &[] }
}

const fn mangle(rule: &'static str) -> Row {
    Row { table: "mangle", rule, also: Once, when: &[] }
}

const fn raw(rule: &'static str) -> Row {
    Row { table: "raw", rule, also: Once, when: &[] }
}

pub(super) const STEPS: &[Step] = &[
    // Interfaces that are left alone, and those whose packets count as outbound.
    step(
        ExcludedInterfaces,
        &[],
        &[nat("-A PREROUTING -i {item} -j RETURN"), nat("-A OUTPUT -o {item} -j RETURN")],
    ),
    step(
        ExcludedInterfaces,
        &[Tproxy],
        &[mangle("-A PREROUTING -i {item} -j RETURN"), mangle("-A OUTPUT -o {item} -j RETURN")],
    ),
    step(ReroutedInterfaces, &[], &[nat("-I PREROUTING 1 -i {item} -j RETURN")]),
    step(
        Once,
        &[DropInvalid],
        &[
            mangle("-A PREROUTING -m conntrack --ctstate INVALID -j ISTIO_DROP"),
            mangle("-A ISTIO_DROP -j DROP"),
        ],
    ),
    step(
        Once,
        &[],
        &[
            nat("-A ISTIO_INBOUND -p tcp --dport {tunnel} -j RETURN"),
            nat("-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports {port}"),
            nat("-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports {capture}"),
        ],
    ),
    // Inbound, by redirection.
    step(Once, &[Redirect, Inbound], &[nat("-A PREROUTING -p tcp -j ISTIO_INBOUND")]),
    step(
        ExcludedInboundPorts,
        &[Redirect, InboundAll],
        &[nat("-A ISTIO_INBOUND -p tcp --dport {item} -j RETURN")],
    ),
    step(Once, &[Redirect, InboundAll], &[nat("-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT")]),
    step(InboundPorts, &[Redirect], &[nat("-A ISTIO_INBOUND -p tcp --dport {item} -j ISTIO_IN_REDIRECT")]),
    // Inbound, by transparent proxying.
    step(
        Once,
        &[Tproxy, Inbound],
        &[
            mangle("-A ISTIO_DIVERT -j MARK --set-mark {mark}"),
            mangle("-A ISTIO_DIVERT -j ACCEPT"),
            mangle(
                "-A ISTIO_TPROXY ! -d {loopback} -p tcp \
             -j TPROXY --tproxy-mark {mark}/0xffffffff --on-port {capture}",
            ),
            mangle("-A PREROUTING -p tcp -j ISTIO_INBOUND"),
        ],
    ),
    step(
        ExcludedInboundPorts,
        &[Tproxy, InboundAll],
        &[mangle("-A ISTIO_INBOUND -p tcp --dport {item} -j RETURN")],
    ),
    step(
        Once,
        &[Tproxy, InboundAll],
        &[
            mangle("-A ISTIO_INBOUND -p tcp -m conntrack --ctstate RELATED,ESTABLISHED -j ISTIO_DIVERT"),
            mangle("-A ISTIO_INBOUND -p tcp -j ISTIO_TPROXY"),
        ],
    ),
    step(
        InboundPorts,
        &[Tproxy],
        &[
            mangle(
                "-A ISTIO_INBOUND -p tcp --dport {item} \
             -m conntrack --ctstate RELATED,ESTABLISHED -j ISTIO_DIVERT",
            ),
            mangle("-A ISTIO_INBOUND -p tcp --dport {item} -j ISTIO_TPROXY"),
        ],
    ),
    // Outbound: what is let through before it is asked whose it is.
    step(Once, &[], &[nat("-A OUTPUT -j ISTIO_OUTPUT")]),
    step(
        ExcludedOutboundPorts,
        &[],
        &[
            nat("-A ISTIO_OUTPUT -p tcp --dport {item} -j RETURN"),
            nat("-A ISTIO_OUTPUT -p udp --dport {item} -j RETURN"),
        ],
    ),
    step(Once, &[], &[nat("-A ISTIO_OUTPUT -o lo -s {passthrough} -j RETURN")]),
    // The proxy and its calls of itself.
    step(
        Uids,
        &[],
        &[
            nat_if(
                &[NoDns],
                "-A ISTIO_OUTPUT -o lo ! -d {loopback} -p tcp ! --dport {tunnel} \
             -m owner --uid-owner {item} -j ISTIO_IN_REDIRECT",
            ),
            nat_if(
                &[Dns],
                "-A ISTIO_OUTPUT -o lo ! -d {loopback} -p tcp -m multiport ! --dports 53,{tunnel} \
             -m owner --uid-owner {item} -j ISTIO_IN_REDIRECT",
            ),
            nat_if(
                &[NoDns, LoopbackLeftOut],
                "-A ISTIO_OUTPUT -o lo -m owner ! --uid-owner {item} -j RETURN",
            ),
            nat_if(
                &[Dns, LoopbackLeftOut],
                "-A ISTIO_OUTPUT -o lo -p tcp ! --dport 53 -m owner ! --uid-owner {item} -j RETURN",
            ),
            nat("-A ISTIO_OUTPUT -m owner --uid-owner {item} -j RETURN"),
        ],
    ),
    // For groups the first rule does not spare port 53.
    step(
        Gids,
        &[],
        &[
            nat("-A ISTIO_OUTPUT -o lo ! -d {loopback} -p tcp ! --dport {tunnel} \
             -m owner --gid-owner {item} -j ISTIO_IN_REDIRECT"),
            nat_if(
                &[NoDns, LoopbackLeftOut],
                "-A ISTIO_OUTPUT -o lo -m owner ! --gid-owner {item} -j RETURN",
            ),
            nat_if(
                &[Dns, LoopbackLeftOut],
                "-A ISTIO_OUTPUT -o lo -p tcp ! --dport 53 -m owner ! --gid-owner {item} -j RETURN",
            ),
            nat("-A ISTIO_OUTPUT -m owner --gid-owner {item} -j RETURN"),
        ],
    ),
    // Whose traffic it is.
    step(ExcludedGroups, &[GroupsAll], &[nat("-A ISTIO_OUTPUT -m owner --gid-owner {item} -j RETURN")]),
    step(Once, &[GroupsSome], &[nat("-A ISTIO_OUTPUT{groups} -j RETURN")]),
    // Name resolution: the agent has port 15053, and the singular `--to-port` is upstream's.
    step(Once, &[Dns], &[raw("-A OUTPUT -j ISTIO_OUTPUT_DNS")]),
    step(Once, &[DnsOfFamily], &[nat("-A ISTIO_OUTPUT -j ISTIO_OUTPUT_DNS")]),
    step(Once, &[DnsAll], &[nat("-A ISTIO_OUTPUT_DNS -p tcp --dport 53 -j REDIRECT --to-ports 15053")]),
    step(
        Servers,
        &[],
        &[nat("-A ISTIO_OUTPUT_DNS -p tcp --dport 53 -d {item} -j REDIRECT --to-ports 15053")],
    ),
    step(Once, &[DnsAll], &[nat("-A ISTIO_OUTPUT_DNS -p udp --dport 53 -j REDIRECT --to-port 15053")]),
    step(Servers, &[], &[nat("-A ISTIO_OUTPUT_DNS -p udp --dport 53 -d {item} -j REDIRECT --to-port 15053")]),
    step(
        Uids,
        &[Dns],
        &[
            raw("-A ISTIO_OUTPUT_DNS -p udp --dport 53 -m owner --uid-owner {item} -j CT --zone 1"),
            raw("-A ISTIO_OUTPUT_DNS -p udp --sport 15053 -m owner --uid-owner {item} -j CT --zone 2"),
        ],
    ),
    step(
        Gids,
        &[Dns],
        &[
            raw("-A ISTIO_OUTPUT_DNS -p udp --dport 53 -m owner --gid-owner {item} -j CT --zone 1"),
            raw("-A ISTIO_OUTPUT_DNS -p udp --sport 15053 -m owner --gid-owner {item} -j CT --zone 2"),
        ],
    ),
    step(Once, &[DnsOfFamily], &[raw("-A PREROUTING -j ISTIO_INBOUND")]),
    step(
        Once,
        &[DnsAll],
        &[
            raw("-A ISTIO_OUTPUT_DNS -p udp --dport 53 -j CT --zone 2"),
            raw("-A ISTIO_INBOUND -p udp --sport 53 -j CT --zone 1"),
        ],
    ),
    step(
        Servers,
        &[],
        &[
            raw("-A ISTIO_OUTPUT_DNS -p udp --dport 53 -d {item} -j CT --zone 2"),
            raw("-A ISTIO_INBOUND -p udp --sport 53 -s {item} -j CT --zone 1"),
        ],
    ),
    // Where it goes.
    step(Once, &[], &[nat("-A ISTIO_OUTPUT -d {loopback} -j RETURN")]),
    step(ExcludedNetworks, &[], &[nat("-A ISTIO_OUTPUT -d {item} -j RETURN")]),
    step(OutboundPorts, &[], &[nat("-A ISTIO_OUTPUT -p tcp --dport {item} -j ISTIO_REDIRECT")]),
    step(
        Once,
        &[OutboundAll],
        &[
            nat("-A ISTIO_OUTPUT -j ISTIO_REDIRECT"),
            nat_each(ReroutedInterfaces, "-I PREROUTING 1 -i {inner} -j ISTIO_REDIRECT"),
        ],
    ),
    step(
        Networks,
        &[],
        &[
            nat_each(ReroutedInterfaces, "-I PREROUTING 1 -i {inner} -d {item} -j ISTIO_REDIRECT"),
            nat("-A ISTIO_OUTPUT -d {item} -j ISTIO_REDIRECT"),
        ],
    ),
    // What transparent proxying needs besides, even where nothing inbound is captured.
    step(
        Once,
        &[Tproxy],
        &[
            mangle("-A PREROUTING -p tcp -m mark --mark {mark} -j CONNMARK --save-mark"),
            mangle("-A OUTPUT -p tcp -o lo -m mark --mark {mark} -j RETURN"),
        ],
    ),
    step(
        Uids,
        &[Tproxy],
        &[mangle(
            "-A OUTPUT ! -d {loopback} -p tcp -o lo -m owner --uid-owner {item} -j MARK --set-mark 1338",
        )],
    ),
    step(
        Gids,
        &[Tproxy],
        &[mangle(
            "-A OUTPUT ! -d {loopback} -p tcp -o lo -m owner --gid-owner {item} -j MARK --set-mark 1338",
        )],
    ),
    step(
        Once,
        &[Tproxy],
        &[
            mangle("-A OUTPUT -p tcp -m connmark --mark {mark} -j CONNMARK --restore-mark"),
            mangle("-I ISTIO_INBOUND 1 -p tcp -m mark --mark {mark} -j RETURN"),
            mangle("-I ISTIO_INBOUND 2 -p tcp -s {passthrough} -i lo -j RETURN"),
            mangle("-I ISTIO_INBOUND 3 -p tcp -i lo -m mark ! --mark 1338 -j RETURN"),
        ],
    ),
];
