//! Lists longer than one rule of iptables takes: nothing is cut off.

use crate::harness::Case;
use crate::scoped::{APP, OWNER, PROXY, apply};
use crate::support::creds::Who;
use crate::support::dial::dial;
use crate::support::netns::Netns;
use crate::support::rules::{Family, Variant};
use crate::support::serve::Service;
use crate::support::wire::{HERE, THERE, THERE_FAR, two_hosts};

pub(crate) fn cases() -> Vec<Case> {
    Case::all_for_each_variant(&[
        ("wide::inbound_ports", inbound_ports),
        ("wide::excluded_ports", excluded_ports),
        ("wide::excluded_inbound_ports", excluded_inbound_ports),
        ("wide::owners", owners),
        ("wide::networks", networks),
    ])
}

/// Forty ports that are no neighbours, with ranges among them.
fn ports() -> Vec<u16> {
    (0..40).map(|step| 20_000 + 10 * step).collect()
}

const fn starts_a_range(port: u16) -> bool {
    port.is_multiple_of(40)
}

fn list(ports: &[u16]) -> String {
    let word = |port: &u16| match starts_a_range(*port) {
        true => format!("{port}-{}", port + 3),
        false => port.to_string(),
    };
    ports.iter().map(word).collect::<Vec<_>>().join(",")
}

fn captured(variant: Variant, flags: &[&str]) -> (Netns, Netns) {
    let (here, there) = two_hosts();
    let every: Vec<_> = ports().iter().flat_map(|port| [port - 1, *port, port + 3, port + 4]).collect();
    Service::tcp(&here, PROXY, "proxy", &[15001]);
    Service::tcp(&here, Who::ROOT, "here", &every);
    Service::tcp(&there, Who::ROOT, "there", &every);
    apply(&here, variant, flags);
    (here, there)
}

/// For each port of the list: the port itself, the end of its range if it starts one, and what is just outside.
fn edges() -> Vec<(u16, bool)> {
    let edges =
        |port: u16| [(port - 1, false), (port, true), (port + 3, starts_a_range(port)), (port + 4, false)];
    ports().into_iter().flat_map(edges).collect()
}

fn inbound_ports(variant: Variant) {
    let (_here, there) = captured(variant, &["--uid-owner", "1338", "--inbound", &list(&ports())]);
    for family in Family::BOTH {
        for (port, is_listed) in edges() {
            let dialled = dial(&there, APP, HERE.port(family, port));
            if is_listed { dialled.captured_by("proxy") } else { dialled.untouched_to("here") }
        }
    }
}

fn excluded_ports(variant: Variant) {
    let (here, _there) = captured(variant, &["--uid-owner", "1338", "-o", &list(&ports())]);
    for family in Family::BOTH {
        for (port, is_listed) in edges() {
            let dialled = dial(&here, OWNER, THERE.port(family, port));
            if is_listed { dialled.untouched_to("there") } else { dialled.captured_by("proxy") }
        }
    }
}

fn excluded_inbound_ports(variant: Variant) {
    let (_here, there) = captured(variant, &["--uid-owner", "1338", "-b", "*", "-d", &list(&ports())]);
    for family in Family::BOTH {
        for (port, is_listed) in edges() {
            let dialled = dial(&there, APP, HERE.port(family, port));
            if is_listed { dialled.untouched_to("here") } else { dialled.captured_by("proxy") }
        }
    }
}

fn owners(variant: Variant) {
    let uids: Vec<u32> = (0..20).map(|step| 3000 + 2 * step).collect();
    let listed = uids.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let (here, _there) = captured(variant, &["--uid-owner", &listed, "--gid-owner", "5000,5002"]);
    for family in Family::BOTH {
        for uid in &uids {
            dial(&here, Who::user(*uid), THERE.port(family, 20_000)).captured_by("proxy");
            dial(&here, Who::user(uid + 1), THERE.port(family, 20_000)).untouched_to("there");
        }
        for (gid, is_owner) in [(4999, false), (5000, true), (5001, false), (5002, true)] {
            let dialled = dial(&here, APP.group(gid), THERE.port(family, 20_000));
            if is_owner { dialled.captured_by("proxy") } else { dialled.untouched_to("there") }
        }
    }
}

fn networks(variant: Variant) {
    let others = (0..40).flat_map(|net| [format!("172.16.{net}.0/24"), format!("fd16:{net}::/32")]);
    let mut nets: Vec<_> = others.collect();
    nets.extend(["10.9.0.2".to_owned() + "/32", "fd00:9::2/128".to_owned()]);
    let (here, _there) = captured(variant, &["--uid-owner", "1338", "-x", &nets.join(",")]);
    for family in Family::BOTH {
        dial(&here, OWNER, THERE_FAR.port(family, 20_000)).untouched_to("there");
        dial(&here, OWNER, THERE.port(family, 20_000)).captured_by("proxy");
    }
}
