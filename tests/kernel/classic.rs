//! The classic layout with real connections: who is captured, and what the proxy learns of it.

use std::net::{Ipv4Addr, SocketAddr};

use crate::harness::Case;
use crate::support::command::mesh_init;
use crate::support::creds::Who;
use crate::support::dial::{dial, dial_udp};
use crate::support::netns::Netns;
use crate::support::rules::{Family, Variant};
use crate::support::serve::Service;
use crate::support::wire::{FAR_NETS, HERE, HERE_FAR, LOOPBACK, THERE, THERE_FAR, two_hosts};

const APP: Who = Who::user(1000);
const PROXY: Who = Who::user(1337);

pub(crate) fn cases() -> Vec<Case> {
    Case::all_for_each_carrier(&[
        ("classic::outbound", outbound),
        ("classic::inbound", inbound),
        ("classic::proxy_uid", proxy_uid),
        ("classic::several_uids", several_uids),
        ("classic::proxy_gid", proxy_gid),
        ("classic::explicit_loopback", explicit_loopback),
        ("classic::own_address", own_address),
        ("classic::udp", udp),
        ("classic::only_these_networks", only_these_networks),
        ("classic::no_network", no_network),
        ("classic::without_ipv6", without_ipv6),
    ])
}

/// Two hosts with an application each, `here` captured with `flags` beside `-p 15001`.
fn captured(variant: Variant, flags: &[&str]) -> (Netns, Netns) {
    let (here, there) = two_hosts();
    Service::tcp(&here, PROXY, "proxy", &[15001]);
    Service::tcp(&here, Who::ROOT, "here", &[22, 80]);
    Service::tcp(&there, Who::ROOT, "there", &[22, 53, 80]);
    let words = [&["-p", "15001"], &variant.flags()[..], flags].concat();
    mesh_init(&here, &words).ok();
    (here, there)
}

fn outbound(variant: Variant) {
    let (here, _there) = captured(variant, &["-u", "1337"]);
    for family in Family::BOTH {
        for who in [APP, Who::ROOT] {
            for port in [22, 53, 80] {
                dial(&here, who, THERE.port(family, port)).captured_by("proxy");
            }
            dial(&here, who, THERE_FAR.port(family, 80)).captured_by("proxy");
            // Nobody listens there.
            dial(&here, who, THERE.port(family, 15001)).captured_by("proxy");
        }
    }
}

fn inbound(variant: Variant) {
    let (_here, there) = captured(variant, &["-u", "1337"]);
    for family in Family::BOTH {
        for port in [22, 80, 15000, 65535] {
            for address in [HERE, HERE_FAR] {
                dial(&there, APP, address.port(family, port)).captured_by("proxy");
            }
        }
    }
}

fn proxy_uid(variant: Variant) {
    let (here, _there) = captured(variant, &["-u", "1337"]);
    for family in Family::BOTH {
        dial(&here, PROXY, THERE.port(family, 80)).untouched_to("there");
        dial(&here, PROXY.group(1000), THERE_FAR.port(family, 22)).untouched_to("there");
        // It is the user that counts, not a group of the same number.
        dial(&here, APP.group(1337), THERE.port(family, 80)).captured_by("proxy");
    }
}

fn several_uids(variant: Variant) {
    let (here, _there) = captured(variant, &["-u", "1337,1338"]);
    for family in Family::BOTH {
        for uid in [1337, 1338] {
            dial(&here, Who::user(uid), THERE.port(family, 80)).untouched_to("there");
        }
        for uid in [0, 1336, 1339] {
            dial(&here, Who::user(uid), THERE.port(family, 80)).captured_by("proxy");
        }
    }
}

fn proxy_gid(variant: Variant) {
    let (here, _there) = captured(variant, &["-u", "1337", "-g", "4000"]);
    for family in Family::BOTH {
        dial(&here, APP.group(4000), THERE.port(family, 80)).untouched_to("there");
        dial(&here, Who::ROOT.group(4000), THERE.port(family, 80)).untouched_to("there");
        dial(&here, PROXY, THERE.port(family, 80)).untouched_to("there");
        dial(&here, APP.group(4001), THERE.port(family, 80)).captured_by("proxy");
        dial(&here, Who::user(4000).group(1000), THERE.port(family, 80)).captured_by("proxy");
    }
}

fn explicit_loopback(variant: Variant) {
    let (here, _there) = captured(variant, &["-u", "1337"]);
    for who in [APP, PROXY, Who::ROOT] {
        for family in Family::BOTH {
            dial(&here, who, LOOPBACK.port(family, 80)).untouched_to("here");
        }
        // Only 127.0.0.1 is explicit.
        let neighbour = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), 80));
        dial(&here, who, neighbour).captured_by("proxy");
    }
}

/// Over `lo`, everything but 127.0.0.1 goes to the proxy, also what the proxy itself dials.
fn own_address(variant: Variant) {
    let (here, _there) = captured(variant, &["-u", "1337"]);
    for family in Family::BOTH {
        for who in [APP, PROXY, Who::ROOT] {
            for address in [HERE, HERE_FAR] {
                dial(&here, who, address.port(family, 80)).captured_by("proxy");
            }
        }
    }
}

fn udp(variant: Variant) {
    let (here, there) = captured(variant, &["-u", "1337"]);
    let at_proxy = Service::udp(&here, PROXY, "proxy", 15001);
    Service::udp(&here, Who::ROOT, "here", 53);
    Service::udp(&there, Who::ROOT, "there", 53);
    for family in Family::BOTH {
        dial_udp(&here, APP, THERE.port(family, 53)).untouched_to("there");
        dial_udp(&there, APP, HERE.port(family, 53)).untouched_to("here");
        dial_udp(&here, APP, HERE.port(family, 53)).untouched_to("here");
        dial(&here, APP, THERE.port(family, 53)).captured_by("proxy");
    }
    let seen = at_proxy.accepted();
    assert!(seen.is_empty(), "expected no datagram at the proxy, seen {seen:?}");
}

fn only_these_networks(variant: Variant) {
    let (here, there) = captured(variant, &["-u", "1337", "-i", FAR_NETS]);
    for family in Family::BOTH {
        for who in [APP, Who::ROOT] {
            dial(&here, who, THERE_FAR.port(family, 80)).captured_by("proxy");
            dial(&here, who, THERE.port(family, 80)).untouched_to("there");
        }
        dial(&here, PROXY, THERE_FAR.port(family, 80)).untouched_to("there");
        dial(&there, APP, HERE.port(family, 80)).captured_by("proxy");
    }
}

fn no_network(variant: Variant) {
    let (here, there) = captured(variant, &["-u", "1337", "-i", ""]);
    for family in Family::BOTH {
        for address in [THERE, THERE_FAR] {
            dial(&here, APP, address.port(family, 80)).untouched_to("there");
        }
        dial(&here, APP, LOOPBACK.port(family, 80)).untouched_to("here");
        dial(&there, APP, HERE.port(family, 80)).captured_by("proxy");
    }
}

fn without_ipv6(variant: Variant) {
    let (here, there) = captured(variant, &["-u", "1337", "--ipv6", "off"]);
    dial(&here, APP, THERE.port(Family::V4, 80)).captured_by("proxy");
    dial(&there, APP, HERE.port(Family::V4, 80)).captured_by("proxy");
    dial(&here, APP, THERE.port(Family::V6, 80)).untouched_to("there");
    dial(&there, APP, HERE.port(Family::V6, 80)).untouched_to("here");
}
