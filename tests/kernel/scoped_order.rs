//! The order of the scoped layout's OUTPUT rules, line by line: each line is tried with a connection that a
//! later line would have decided otherwise.

use crate::harness::Case;
use crate::scoped::{APP, OWNER, PROXY, VM, apply, captured, serve};
use crate::support::creds::Who;
use crate::support::dial::dial;
use crate::support::rules::{Family, Variant};
use crate::support::serve::Service;
use crate::support::wire::{
    BEHIND, FAR_NETS, HERE, HERE_FAR, HERE_INNER, LOOPBACK, THERE, THERE_FAR, three_hosts,
};

pub(crate) fn cases() -> Vec<Case> {
    Case::all_for_each_variant(&[
        ("scoped_order::excluded_ports", excluded_ports),
        ("scoped_order::excluded_networks", excluded_networks),
        ("scoped_order::excluded_interfaces", excluded_interfaces),
        ("scoped_order::proxy_uid", proxy_uid),
        ("scoped_order::proxy_gid", proxy_gid),
        ("scoped_order::local_capture_ports", local_capture_ports),
        ("scoped_order::dns_over_tcp", dns_over_tcp),
        ("scoped_order::only_these_networks", only_these_networks),
        ("scoped_order::only_these_ports", only_these_ports),
        ("scoped_order::networks_or_ports", networks_or_ports),
    ])
}

fn with(more: &[&'static str]) -> Vec<&'static str> {
    VM.into_iter().chain(more.iter().copied()).collect()
}

fn excluded_ports(variant: Variant) {
    let (here, there) = captured(variant, &with(&["-o", "9000,8002-8100"]));
    for family in Family::BOTH {
        dial(&here, OWNER, THERE.port(family, 9000)).untouched_to("there");
        dial(&here, OWNER, LOOPBACK.port(family, 8002)).untouched_to("here");
        for port in [80, 8001, 9001] {
            dial(&here, OWNER, THERE.port(family, port)).captured_by("proxy");
        }
        // Outbound only.
        dial(&there, APP, HERE.port(family, 8001)).captured_by("proxy");
    }
}

fn excluded_networks(variant: Variant) {
    let (here, _there) = captured(variant, &with(&["-x", FAR_NETS]));
    for family in Family::BOTH {
        dial(&here, OWNER, THERE_FAR.port(family, 80)).untouched_to("there");
        dial(&here, OWNER, HERE_FAR.port(family, 80)).untouched_to("here");
        dial(&here, OWNER, THERE.port(family, 80)).captured_by("proxy");
        dial(&here, OWNER, LOOPBACK.port(family, 8001)).captured_by("proxy");
    }
}

fn excluded_interfaces(variant: Variant) {
    let (here, there, behind) = three_hosts();
    serve(&here, &there);
    Service::tcp(&behind, Who::ROOT, "behind", &[80]);
    apply(&here, variant, &with(&["-c", "eth1"]));
    for family in Family::BOTH {
        dial(&here, OWNER, BEHIND.port(family, 80)).untouched_to("behind");
        dial(&behind, APP, HERE_INNER.port(family, 8001)).untouched_to("here");
        dial(&here, OWNER, THERE.port(family, 80)).captured_by("proxy");
        dial(&there, APP, HERE.port(family, 8001)).captured_by("proxy");
    }
}

/// A proxy's own connections pass even when the group captures.
fn proxy_uid(variant: Variant) {
    let (here, _there) = captured(variant, &["--gid-owner", "5000", "--inbound", "8001", "-u", "1337,1400"]);
    for family in Family::BOTH {
        for uid in [1337, 1400] {
            dial(&here, Who::user(uid).group(5000), THERE.port(family, 80)).untouched_to("there");
            dial(&here, Who::user(uid).group(5000), LOOPBACK.port(family, 8001)).untouched_to("here");
        }
        for uid in [0, 1000, 1338] {
            dial(&here, Who::user(uid).group(5000), THERE.port(family, 80)).captured_by("proxy");
        }
        dial(&here, OWNER, THERE.port(family, 80)).untouched_to("there");
    }
}

fn proxy_gid(variant: Variant) {
    let (here, _there) = captured(variant, &with(&["-g", "4000,4001"]));
    for family in Family::BOTH {
        for gid in [4000, 4001] {
            dial(&here, OWNER.group(gid), THERE.port(family, 80)).untouched_to("there");
            dial(&here, OWNER.group(gid), LOOPBACK.port(family, 8001)).untouched_to("here");
        }
        dial(&here, OWNER.group(1337), THERE.port(family, 80)).captured_by("proxy");
    }
}

/// The owner reaches the proxy's ports as they are; elsewhere the same numbers mean nothing.
fn local_capture_ports(variant: Variant) {
    let (here, _there) = captured(variant, &with(&["-z", "15006"]));
    for family in Family::BOTH {
        // A redirect would arrive at the loopback address.
        for address in [LOOPBACK, HERE, HERE_FAR] {
            dial(&here, OWNER, address.port(family, 15001)).untouched_to("proxy");
            dial(&here, OWNER, address.port(family, 15006)).untouched_to("inbound");
        }
        for port in [15001, 15006] {
            dial(&here, OWNER, THERE.port(family, port)).captured_by("proxy");
        }
    }
}

fn dns_over_tcp(variant: Variant) {
    let (here, _there) = captured(variant, &VM);
    for family in Family::BOTH {
        dial(&here, OWNER, THERE.port(family, 53)).untouched_to("there");
        dial(&here, OWNER, THERE.port(family, 80)).captured_by("proxy");
    }
}

fn only_these_networks(variant: Variant) {
    let (here, _there) = captured(variant, &with(&["-i", FAR_NETS, "-x", "10.9.0.1/32,fd00:9::1/128"]));
    for family in Family::BOTH {
        dial(&here, OWNER, THERE_FAR.port(family, 80)).captured_by("proxy");
        dial(&here, OWNER, THERE.port(family, 80)).untouched_to("there");
        dial(&here, OWNER, LOOPBACK.port(family, 8001)).untouched_to("here");
        dial(&here, OWNER, HERE_FAR.port(family, 80)).untouched_to("here");
        dial(&here, APP, THERE_FAR.port(family, 80)).untouched_to("there");
    }
}

/// Ports alone narrow the capture as networks do, whether the networks are absent or none.
fn only_these_ports(variant: Variant) {
    for flags in [&["-q", "8001,9000-9001"][..], &["-i", "", "-q", "8001,9000-9001"]] {
        let (here, _there) = captured(variant, &with(flags));
        for family in Family::BOTH {
            for port in [8001, 9000, 9001] {
                dial(&here, OWNER, THERE.port(family, port)).captured_by("proxy");
                dial(&here, APP, THERE.port(family, port)).untouched_to("there");
            }
            dial(&here, OWNER, LOOPBACK.port(family, 8001)).captured_by("proxy");
            dial(&here, OWNER, THERE.port(family, 80)).untouched_to("there");
        }
    }
}

/// Either is enough.
fn networks_or_ports(variant: Variant) {
    let (here, _there) = captured(variant, &with(&["-i", FAR_NETS, "-q", "9001"]));
    for family in Family::BOTH {
        dial(&here, OWNER, THERE_FAR.port(family, 80)).captured_by("proxy");
        dial(&here, OWNER, THERE.port(family, 9001)).captured_by("proxy");
        dial(&here, OWNER, THERE_FAR.port(family, 9001)).captured_by("proxy");
        dial(&here, OWNER, THERE.port(family, 80)).untouched_to("there");
        for who in [APP, PROXY, Who::ROOT] {
            dial(&here, who, THERE_FAR.port(family, 9001)).untouched_to("there");
        }
    }
}
