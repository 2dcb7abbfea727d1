//! What narrows the istio layout: ports, networks, groups, interfaces, and packets that fit no connection.

use std::time::Duration;

use crate::harness::Case;
use crate::istio::{APP, POD, PROXY, Reading, TUNNEL, captured, serve};
use crate::support::creds::Who;
use crate::support::dial::{Open, dial, dial_udp};
use crate::support::netns::Netns;
use crate::support::rules::{Family, Variant, native_packets, packets};
use crate::support::segment::Tap;
use crate::support::serve::Service;
use crate::support::wire::{
    BEHIND, HERE, HERE_FAR, HERE_INNER, LOOPBACK, THERE, THERE_FAR, three_hosts, two_hosts,
};

pub(crate) fn cases() -> Vec<Case> {
    Case::all_for_each_carrier(&[
        ("istio::inbound_excluded", inbound_excluded),
        ("istio::inbound_listed", inbound_listed),
        ("istio::inbound_none", inbound_none),
        ("istio::outbound_listed", outbound_listed),
        ("istio::outbound_excluded", outbound_excluded),
        ("istio::outbound_ports", outbound_ports),
        ("istio::outbound_ports_excluded", outbound_ports_excluded),
        ("istio::outbound_none", outbound_none),
        ("istio::everything_at_once", everything_at_once),
        ("istio::groups_listed", groups_listed),
        ("istio::groups_excluded", groups_excluded),
        ("istio::groups_none", groups_none),
        ("istio::rerouted", rerouted),
        ("istio::rerouted_listed", rerouted_listed),
        ("istio::interface_excluded", interface_excluded),
        ("istio::stray_segments", stray_segments),
    ])
}

fn inbound_excluded(variant: Variant) {
    for reading in Reading::BOTH {
        let range = if reading == Reading::Own { "15020-15021" } else { "15020:15021" };
        let (here, there) = captured(reading, variant, &format!("{POD} -d 8080,{range}"));
        for family in Family::BOTH {
            for address in [HERE, HERE_FAR] {
                for port in [8080, 15020, 15021, TUNNEL] {
                    dial(&there, APP, address.port(family, port)).untouched_to("here");
                }
                for port in [22, 80, 9090, 15022] {
                    dial(&there, APP, address.port(family, port)).captured_by("inbound");
                }
            }
            // Outbound they are ports like any other.
            dial(&here, APP, THERE.port(family, 8080)).captured_by("outbound");
        }
    }
}

fn inbound_listed(variant: Variant) {
    for reading in Reading::BOTH {
        let (here, there) = captured(reading, variant, "-p 15001 -z 15006 -u 1337 -b 80,9090 -i *");
        for family in Family::BOTH {
            for address in [HERE, HERE_FAR] {
                for port in [80, 9090] {
                    dial(&there, APP, address.port(family, port)).captured_by("inbound");
                }
                for port in [22, 8080, TUNNEL] {
                    dial(&there, APP, address.port(family, port)).untouched_to("here");
                }
            }
            dial(&here, APP, THERE.port(family, 8080)).captured_by("outbound");
            // The proxy's calls to an own address are inbound whatever the port.
            dial(&here, PROXY, HERE.port(family, 8080)).captured_by("inbound");
        }
    }
}

fn inbound_none(variant: Variant) {
    for (reading, flags) in [
        (Reading::Own, "-p 15001 -z 15006 -u 1337 -b @ -i *"),
        (Reading::Letter, "-p 15001 -z 15006 -u 1337 -b @ -i *"),
        (Reading::Letter, "-u 1337 -i *"),
    ] {
        let (here, there) = captured(reading, variant, flags);
        for family in Family::BOTH {
            for port in [22, 80, 8080, TUNNEL] {
                dial(&there, APP, HERE.port(family, port)).untouched_to("here");
            }
            dial(&here, APP, THERE.port(family, 80)).captured_by("outbound");
            dial(&here, PROXY, HERE.port(family, 80)).captured_by("inbound");
        }
    }
}

fn outbound_listed(variant: Variant) {
    const FLAGS: &str = "-p 15001 -z 15006 -u 1337 -b * -i 10.9.0.0/24,fd00:9::/64";
    for reading in Reading::BOTH {
        let (here, there) = captured(reading, variant, FLAGS);
        for family in Family::BOTH {
            for port in [22, 80] {
                dial(&here, APP, THERE_FAR.port(family, port)).captured_by("outbound");
                dial(&here, APP, THERE.port(family, port)).untouched_to("there");
            }
            dial(&here, PROXY, THERE_FAR.port(family, 80)).untouched_to("there");
            dial(&here, APP, HERE_FAR.port(family, 80)).untouched_to("here");
            dial(&there, APP, HERE.port(family, 80)).captured_by("inbound");
        }
    }
}

fn outbound_excluded(variant: Variant) {
    for reading in Reading::BOTH {
        // Also where the list to capture names more.
        for included in ["*", "10.0.0.0/8,fd00::/16"] {
            let flags = format!("-u 1337 -p 15001 -z 15006 -i {included} -x 10.9.0.0/24,fd00:9::/64");
            let (here, _there) = captured(reading, variant, &flags);
            for family in Family::BOTH {
                for port in [22, 80] {
                    dial(&here, APP, THERE_FAR.port(family, port)).untouched_to("there");
                    dial(&here, APP, THERE.port(family, port)).captured_by("outbound");
                }
            }
        }
    }
}

/// Ports to capture are captured whatever the address, except excluded networks.
fn outbound_ports(variant: Variant) {
    for reading in Reading::BOTH {
        let (here, _there) = captured(reading, variant, "-u 1337 -p 15001 -z 15006 -q 80,443");
        for family in Family::BOTH {
            for port in [80, 443] {
                dial(&here, APP, THERE.port(family, port)).captured_by("outbound");
                dial(&here, PROXY, THERE.port(family, port)).untouched_to("there");
            }
            for port in [22, 8080] {
                dial(&here, APP, THERE.port(family, port)).untouched_to("there");
            }
            dial(&here, APP, LOOPBACK.port(family, 80)).untouched_to("here");
            dial(&here, APP, HERE.port(family, 80)).untouched_to("here");
        }
        let flags = "-u 1337 -p 15001 -z 15006 -q 80 -i 10.9.0.0/24,fd00:9::/64 -x 10.0.0.0/24,fd00::/64";
        let (here, _there) = captured(reading, variant, flags);
        for family in Family::BOTH {
            dial(&here, APP, THERE_FAR.port(family, 80)).captured_by("outbound");
            dial(&here, APP, THERE_FAR.port(family, 22)).captured_by("outbound");
            dial(&here, APP, THERE.port(family, 80)).untouched_to("there");
        }
    }
}

fn outbound_ports_excluded(variant: Variant) {
    for reading in Reading::BOTH {
        let (here, there) = captured(reading, variant, &format!("{POD} -o 80,8080"));
        Service::udp(&there, Who::ROOT, "there", 80);
        for family in Family::BOTH {
            for port in [80, 8080] {
                dial(&here, APP, THERE.port(family, port)).untouched_to("there");
                // An exclusion comes before everything else.
                dial(&here, PROXY, HERE.port(family, port)).untouched_to("here");
                dial(&there, APP, HERE.port(family, port)).captured_by("inbound");
            }
            dial(&here, APP, THERE.port(family, 443)).captured_by("outbound");
            dial_udp(&here, APP, THERE.port(family, 80)).untouched_to("there");
        }
    }
}

fn outbound_none(variant: Variant) {
    for (reading, flags) in [
        (Reading::Own, "-p 15001 -z 15006 -u 1337 -b * -i @"),
        (Reading::Letter, "-p 15001 -z 15006 -u 1337 -b * -i @"),
        (Reading::Letter, "-u 1337 -b *"),
    ] {
        let (here, there) = captured(reading, variant, flags);
        for family in Family::BOTH {
            for address in [THERE, THERE_FAR] {
                dial(&here, APP, address.port(family, 80)).untouched_to("there");
            }
            dial(&here, PROXY, HERE.port(family, 80)).captured_by("inbound");
            dial(&there, APP, HERE.port(family, 80)).captured_by("inbound");
        }
    }
}

fn everything_at_once(variant: Variant) {
    const FLAGS: &str = "-p 15001 -z 15006 -u 1337 -g 1337 -b 80,9090 -i 10.9.0.0/24,fd00:9::/64 \
        -x 10.9.0.7/32,fd00:9::7/128 -q 443 -o 8080 --drop-invalid";
    for reading in Reading::BOTH {
        let (here, there) = captured(reading, variant, FLAGS);
        for family in Family::BOTH {
            dial(&here, APP, THERE_FAR.port(family, 80)).captured_by("outbound");
            dial(&here, APP, THERE_FAR.port(family, 443)).captured_by("outbound");
            dial(&here, APP, THERE.port(family, 443)).captured_by("outbound");
            dial(&here, APP, THERE_FAR.port(family, 8080)).untouched_to("there");
            dial(&here, APP, THERE.port(family, 80)).untouched_to("there");
            dial(&here, APP.group(1337), THERE_FAR.port(family, 443)).untouched_to("there");
            dial(&there, APP, HERE.port(family, 9090)).captured_by("inbound");
            dial(&there, APP, HERE.port(family, 8080)).untouched_to("here");
            dial(&here, PROXY, HERE.port(family, 22)).captured_by("inbound");
            dial(&here, APP, HERE.port(family, 22)).untouched_to("here");
        }
    }
}

/// `here` captured as a pod, with groups named by variables as Istio's are, or by flags.
fn with_groups(reading: Reading, variant: Variant, only: bool, groups: &str) -> (Netns, Netns) {
    let (here, there) = two_hosts();
    serve(&here, &there);
    match (reading, only) {
        (Reading::Own, true) => reading.apply(&here, variant, &format!("{POD} --owner-group {groups}")),
        (Reading::Own, false) => {
            reading.apply(&here, variant, &format!("{POD} --exclude-owner-group {groups}"))
        }
        (Reading::Letter, _) => {
            let name =
                if only { "ISTIO_OUTBOUND_OWNER_GROUPS" } else { "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE" };
            let groups = groups.replace('@', "");
            reading.call(&here, variant, POD).env(name, groups).run().code(0)
        }
    };
    (here, there)
}

fn groups_listed(variant: Variant) {
    for reading in Reading::BOTH {
        let (here, there) = with_groups(reading, variant, true, "2000,2001");
        for family in Family::BOTH {
            for gid in [2000, 2001] {
                dial(&here, APP.group(gid), THERE.port(family, 80)).captured_by("outbound");
                dial(&here, Who::ROOT.group(gid), THERE.port(family, 80)).captured_by("outbound");
                dial(&here, PROXY.group(gid), THERE.port(family, 80)).untouched_to("there");
            }
            for who in [APP, Who::ROOT, Who::user(2000).group(1000)] {
                dial(&here, who, THERE.port(family, 80)).untouched_to("there");
            }
            dial(&here, PROXY, HERE.port(family, 80)).captured_by("inbound");
            dial(&there, APP, HERE.port(family, 80)).captured_by("inbound");
        }
    }
}

fn groups_excluded(variant: Variant) {
    for reading in Reading::BOTH {
        let (here, there) = with_groups(reading, variant, false, "2000,2001");
        for family in Family::BOTH {
            for gid in [2000, 2001] {
                dial(&here, APP.group(gid), THERE.port(family, 80)).untouched_to("there");
            }
            for who in [APP, Who::ROOT, Who::user(2000).group(1000)] {
                dial(&here, who, THERE.port(family, 80)).captured_by("outbound");
            }
            dial(&there, APP, HERE.port(family, 80)).captured_by("inbound");
        }
    }
}

fn groups_none(variant: Variant) {
    for reading in Reading::BOTH {
        let (here, there) = with_groups(reading, variant, true, "@");
        for family in Family::BOTH {
            for who in [APP, Who::ROOT, APP.group(2000)] {
                dial(&here, who, THERE.port(family, 80)).untouched_to("there");
            }
            dial(&here, PROXY, HERE.port(family, 80)).captured_by("inbound");
            dial(&there, APP, HERE.port(family, 80)).captured_by("inbound");
        }
    }
}

/// `here` captured with `flags` between two hosts, one of which is a machine behind it.
fn captured_router(reading: Reading, variant: Variant, flags: &str) -> (Netns, Netns, Netns) {
    let (here, there, behind) = three_hosts();
    serve(&here, &there);
    Service::tcp(&behind, Who::ROOT, "behind", &[80]);
    reading.apply(&here, variant, flags);
    (here, there, behind)
}

/// What a virtual machine behind the interface sends is the pod's outbound traffic.
fn rerouted(variant: Variant) {
    for reading in Reading::BOTH {
        let (here, there, behind) = captured_router(reading, variant, &format!("{POD} -k eth1"));
        for family in Family::BOTH {
            for port in [22, 80, TUNNEL] {
                dial(&behind, APP, THERE.port(family, port)).captured_by("outbound");
                dial(&behind, PROXY, THERE_FAR.port(family, port)).captured_by("outbound");
            }
            dial(&there, APP, HERE.port(family, 80)).captured_by("inbound");
            dial(&here, APP, BEHIND.port(family, 80)).captured_by("outbound");
            dial(&here, PROXY, BEHIND.port(family, 80)).untouched_to("behind");
        }
        // Without the option it is inbound traffic like any other.
        let (_here, _there, behind) = captured_router(reading, variant, POD);
        for family in Family::BOTH {
            dial(&behind, APP, THERE.port(family, 80)).captured_by("inbound");
        }
    }
}

fn rerouted_listed(variant: Variant) {
    const FLAGS: &str = "-p 15001 -z 15006 -u 1337 -b * -i 10.9.0.0/24,fd00:9::/64 -k eth1";
    for reading in Reading::BOTH {
        let (here, there, behind) = captured_router(reading, variant, FLAGS);
        for family in Family::BOTH {
            dial(&behind, APP, THERE_FAR.port(family, 80)).captured_by("outbound");
            dial(&behind, APP, THERE.port(family, 80)).untouched_to("there");
            dial(&behind, APP, HERE_INNER.port(family, 80)).untouched_to("here");
            dial(&there, APP, HERE.port(family, 80)).captured_by("inbound");
            dial(&here, APP, THERE.port(family, 80)).untouched_to("there");
        }
    }
}

/// Neither direction of an excluded interface is captured, both of the others are.
pub(crate) fn interface_is_excluded(reading: Reading, variant: Variant, flags: &str) {
    let (here, there, behind) = captured_router(reading, variant, &format!("{flags} -c eth1"));
    for family in Family::BOTH {
        for own in [HERE_INNER, HERE] {
            dial(&behind, APP, own.port(family, 80)).untouched_to("here");
        }
        for who in [APP, PROXY] {
            dial(&here, who, BEHIND.port(family, 80)).untouched_to("behind");
        }
        dial(&there, APP, HERE.port(family, 80)).captured_by("inbound");
        dial(&here, APP, THERE.port(family, 80)).captured_by("outbound");
        dial(&here, PROXY, HERE_INNER.port(family, 80)).captured_by("inbound");
    }
}

fn interface_excluded(variant: Variant) {
    for reading in Reading::BOTH {
        interface_is_excluded(reading, variant, POD);
        let (_here, _there, behind) = captured_router(reading, variant, &format!("{POD} -c eth1"));
        for family in Family::BOTH {
            dial(&behind, APP, THERE.port(family, 80)).untouched_to("there");
        }
    }
}

/// A segment that fits no connection is not redirected: the host itself answers it with a reset, which ends a
/// connection that the proxy has. `--drop-invalid` keeps it from the host.
fn stray_segments(variant: Variant) {
    for reading in Reading::BOTH {
        for drops in [false, true] {
            let flags = if drops { format!("{POD} --drop-invalid") } else { POD.to_owned() };
            let (here, there) = captured(reading, variant, &flags);
            for family in Family::BOTH {
                let to = HERE.port(family, 80);
                let tap = Tap::new(&there, family);
                let mut open = Open::new(&there, APP, to);
                open.echo("before");
                let last = tap.last(to, open.greeting.peer);
                let dropped = || match variant {
                    Variant::Legacy | Variant::Nft => {
                        packets(&here, variant, family, "mangle", "-A ISTIO_DROP ")
                    }
                    Variant::Native => native_packets(&here, family, "mangle_drop_invalid", ""),
                };
                let before = dropped();
                tap.send_beside(&last);
                let reset = tap.sees_reset(to, open.greeting.peer, Duration::from_millis(200));
                assert_eq!(reset, !drops, "{reading:?} {family:?}, {flags}: a reset by the host");
                if drops {
                    open.echo("after");
                    assert_eq!(dropped(), before.map(|count| count + 1), "{flags}: packets dropped");
                } else {
                    assert_eq!(before, None, "{flags}: no such chain");
                }
            }
        }
    }
}
