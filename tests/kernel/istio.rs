//! The chains of today's istio-iptables with real connections: who is captured by which port, and which calls
//! of this host to itself are.
//!
//! Both readings are tried: ours, and istio-iptables' own to the letter. Where they part, a case says so.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use crate::harness::Case;
use crate::support::call::Call;
use crate::support::command::{Run, mesh_init};
use crate::support::creds::Who;
use crate::support::dial::{Source, dial, dial_from, dial_udp};
use crate::support::netns::Netns;
use crate::support::rules::{Family, Variant};
use crate::support::serve::Service;
use crate::support::wire::{HERE, HERE_FAR, LOOPBACK, THERE, THERE_FAR, two_hosts};

pub(crate) const APP: Who = Who::user(1000);
pub(crate) const PROXY: Who = Who::user(1337);
/// As Istio runs its proxy where it needs a capability.
pub(crate) const ROOT_PROXY: Who = Who::ROOT.group(1337);
/// A pod as Istio's injector asks for it.
pub(crate) const POD: &str = "-p 15001 -z 15006 -u 1337 -b * -i *";
pub(crate) const TUNNEL: u16 = 15008;

pub(crate) fn cases() -> Vec<Case> {
    Case::all_for_each_carrier(&[
        ("istio::outbound", outbound),
        ("istio::inbound", inbound),
        ("istio::own_address", own_address),
        ("istio::several_users", several_users),
        ("istio::groups_of_the_proxy", groups_of_the_proxy),
        ("istio::loopback", loopback),
        ("istio::loopback_included", loopback_included),
        ("istio::loopback_cidr", loopback_cidr),
        ("istio::passthrough", passthrough),
        ("istio::passthrough_at_once", passthrough_at_once),
        ("istio::tunnel_port", tunnel_port),
        ("istio::udp", udp),
        ("istio::without_ipv6", without_ipv6),
    ])
}

/// How the chains are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// `mesh-init`
    Own,
    /// `mesh-init istio-iptables`
    Letter,
}

impl Reading {
    pub(crate) const BOTH: [Self; 2] = [Self::Own, Self::Letter];

    /// A run with `flags`, where `@` is an empty word.
    pub(crate) fn call(self, netns: &Netns, variant: Variant, flags: &str) -> Call {
        let given = flags.split(' ').map(|word| if word == "@" { "" } else { word });
        let words: Vec<_> = match self {
            Self::Own => given.chain(["--layout", "istio"]).chain(variant.flags()).collect(),
            Self::Letter => {
                let carrier = match variant {
                    Variant::Legacy | Variant::Nft => &["--force-iptables-binary", variant.name()][..],
                    Variant::Native => &["--native-nftables"],
                };
                let more = ["istio-iptables", "--dual-stack"].into_iter().chain(carrier.iter().copied());
                more.chain(given).collect()
            }
        };
        Call::mesh_init(netns, &words)
    }

    #[track_caller]
    pub(crate) fn apply(self, netns: &Netns, variant: Variant, flags: &str) -> Run {
        self.call(netns, variant, flags).run().code(0)
    }
}

/// Every listener that a connection could reach by mistake.
pub(crate) fn serve(here: &Netns, there: &Netns) {
    Service::tcp(here, PROXY, "outbound", &[15001]);
    Service::transparent(here, ROOT_PROXY, "inbound", &[15006]);
    Service::tcp(here, APP, "here", &[8080, 9090, TUNNEL, 15020, 15021]);
    Service::tcp(here, Who::ROOT, "here", &[22, 80]);
    Service::tcp(there, Who::ROOT, "there", &[22, 80, 443, 8080, 9090, TUNNEL]);
}

/// Two hosts with all listeners, `here` captured with `flags`.
pub(crate) fn captured(reading: Reading, variant: Variant, flags: &str) -> (Netns, Netns) {
    let (here, there) = two_hosts();
    serve(&here, &there);
    reading.apply(&here, variant, flags);
    (here, there)
}

pub(crate) fn neighbour(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), port))
}

fn outbound(variant: Variant) {
    for reading in Reading::BOTH {
        let (here, _there) = captured(reading, variant, POD);
        for family in Family::BOTH {
            for who in [APP, Who::ROOT, Who::user(1336)] {
                for address in [THERE, THERE_FAR] {
                    for port in [22, 80, TUNNEL, 65535] {
                        dial(&here, who, address.port(family, port)).captured_by("outbound");
                    }
                }
            }
            dial(&here, PROXY, THERE.port(family, 80)).untouched_to("there");
            dial(&here, PROXY.group(1000), THERE_FAR.port(family, TUNNEL)).untouched_to("there");
        }
    }
}

fn inbound(variant: Variant) {
    for reading in Reading::BOTH {
        let (_here, there) = captured(reading, variant, POD);
        for family in Family::BOTH {
            // The second address tells a redirect from none: that would go to the interface's first.
            for address in [HERE, HERE_FAR] {
                for who in [APP, PROXY] {
                    for port in [22, 80, 8080, 65535] {
                        dial(&there, who, address.port(family, port)).captured_by("inbound");
                    }
                }
                dial(&there, APP, address.port(family, TUNNEL)).untouched_to("here");
            }
        }
    }
}

/// What the application sends to an own address goes there; what the proxy sends goes to its inbound side.
fn own_address(variant: Variant) {
    for reading in Reading::BOTH {
        let (here, _there) = captured(reading, variant, POD);
        for family in Family::BOTH {
            for address in [HERE, HERE_FAR] {
                for who in [APP, Who::ROOT, APP.group(2000)] {
                    dial(&here, who, address.port(family, 80)).untouched_to("here");
                }
                for port in [80, 8080] {
                    dial(&here, PROXY, address.port(family, port)).captured_by("inbound");
                }
                dial(&here, PROXY, address.port(family, TUNNEL)).untouched_to("here");
            }
        }
    }
}

/// Upstream's rules for the first user hide those for the others: what these send to an own address goes there.
fn several_users(variant: Variant) {
    const FLAGS: &str = "-p 15001 -z 15006 -u 1337,1338,1339 -b * -i *";
    for reading in Reading::BOTH {
        let (here, _there) = captured(reading, variant, FLAGS);
        for family in Family::BOTH {
            for uid in [1337, 1338, 1339] {
                dial(&here, Who::user(uid), THERE.port(family, 80)).untouched_to("there");
                let itself = dial(&here, Who::user(uid), HERE.port(family, 80));
                if reading == Reading::Own || uid == 1337 {
                    itself.captured_by("inbound");
                } else {
                    itself.untouched_to("here");
                }
            }
            dial(&here, Who::user(1340), THERE.port(family, 80)).captured_by("outbound");
            dial(&here, Who::user(1340), HERE.port(family, 80)).untouched_to("here");
        }
    }
}

/// The same holds between users and groups.
fn groups_of_the_proxy(variant: Variant) {
    for reading in Reading::BOTH {
        let (here, _there) = captured(reading, variant, "-p 15001 -z 15006 -u 1337 -g 4000,4001 -b * -i *");
        for family in Family::BOTH {
            for gid in [4000, 4001] {
                dial(&here, APP.group(gid), THERE.port(family, 80)).untouched_to("there");
                let itself = dial(&here, APP.group(gid), HERE.port(family, 80));
                match reading {
                    Reading::Own => itself.captured_by("inbound"),
                    Reading::Letter => itself.untouched_to("here"),
                }
            }
            // A user of that number is nobody, and so is a group of the user's.
            dial(&here, Who::user(4000).group(1000), THERE.port(family, 80)).captured_by("outbound");
            dial(&here, APP.group(1337), THERE.port(family, 80)).captured_by("outbound");
            dial(&here, PROXY.group(4000), HERE.port(family, 80)).captured_by("inbound");
        }
        // Without -g, upstream's groups are the numbers of its users.
        let (here, _there) = captured(reading, variant, POD);
        for family in Family::BOTH {
            let group = dial(&here, APP.group(1337), THERE.port(family, 80));
            match reading {
                Reading::Own => group.captured_by("outbound"),
                Reading::Letter => group.untouched_to("there"),
            }
        }
    }
}

fn loopback(variant: Variant) {
    for reading in Reading::BOTH {
        let (here, _there) = captured(reading, variant, POD);
        for family in Family::BOTH {
            for who in [APP, PROXY, Who::ROOT] {
                dial(&here, who, LOOPBACK.port(family, 80)).untouched_to("here");
            }
        }
        // Only 127.0.0.1 is loopback to the proxy; an application reaches all of lo.
        dial(&here, APP, neighbour(80)).untouched_to("here");
        dial(&here, PROXY, neighbour(80)).captured_by("inbound");
    }
}

/// A loopback network to capture ends the exemption of everything that an application sends over lo.
fn loopback_included(variant: Variant) {
    const FLAGS: &str = "-p 15001 -z 15006 -u 1337 -b * -i 127.0.0.0/8,10.9.0.0/24,fd00:9::/64";
    for reading in Reading::BOTH {
        let (here, _there) = captured(reading, variant, FLAGS);
        dial(&here, APP, neighbour(80)).captured_by("outbound");
        dial(&here, PROXY, neighbour(80)).captured_by("inbound");
        for family in Family::BOTH {
            dial(&here, APP, LOOPBACK.port(family, 80)).untouched_to("here");
            dial(&here, APP, HERE.port(family, 80)).untouched_to("here");
            dial(&here, APP, HERE_FAR.port(family, 80)).captured_by("outbound");
            dial(&here, PROXY, HERE_FAR.port(family, 80)).captured_by("inbound");
        }
    }
}

fn loopback_cidr(variant: Variant) {
    for reading in Reading::BOTH {
        let (here, there) = two_hosts();
        serve(&here, &there);
        match reading {
            Reading::Own => reading.apply(&here, variant, &format!("{POD} --loopback-cidr 127.0.0.0/8")),
            Reading::Letter => {
                let call = reading.call(&here, variant, POD);
                call.env("ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR", "127.0.0.0/8").run().code(0)
            }
        };
        for who in [APP, PROXY, Who::ROOT] {
            dial(&here, who, neighbour(80)).untouched_to("here");
            dial(&here, who, LOOPBACK.port(Family::V6, 80)).untouched_to("here");
        }
        dial(&here, PROXY, HERE.port(Family::V4, 80)).captured_by("inbound");
    }
}

/// The address from which the proxy passes inbound traffic on.
pub(crate) fn passthrough_source(family: Family) -> Source {
    let ip = match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::new(127, 0, 0, 6)),
        Family::V6 => IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6)),
    };
    Source { address: SocketAddr::new(ip, 0), mark: None }
}

/// The proxy's way to the application: from that source it reaches an own address.
fn passthrough(variant: Variant) {
    for reading in Reading::BOTH {
        let (here, _there) = captured(reading, variant, POD);
        for family in Family::BOTH {
            let source = passthrough_source(family);
            for address in [HERE, HERE_FAR] {
                let passed = dial_from(&here, PROXY, source, address.port(family, 80));
                passed.untouched_to("here");
                let peer = passed.answer.as_ref().map(|greeting| greeting.peer.ip());
                assert_eq!(peer, Ok(source.address.ip()), "the source, seen {passed}");
                dial(&here, PROXY, address.port(family, 80)).captured_by("inbound");
            }
        }
    }
}

/// The address is in use when the run ends: the kernel does not look for duplicates first.
fn passthrough_at_once(variant: Variant) {
    let here = Netns::new("here");
    let source = passthrough_source(Family::V6).address;
    for round in 0..20 {
        Reading::Own.apply(&here, variant, POD);
        let bound = here.run(|| UdpSocket::bind(source)).map(drop);
        assert!(bound.is_ok(), "round {round}: expected {source} in use, seen {bound:?}");
        mesh_init(&here, &["clean"]).code(0);
    }
}

fn tunnel_port(variant: Variant) {
    for reading in Reading::BOTH {
        let (here, there) = captured(reading, variant, &format!("{POD} -e 9090"));
        for family in Family::BOTH {
            dial(&there, APP, HERE.port(family, 9090)).untouched_to("here");
            dial(&here, PROXY, HERE.port(family, 9090)).untouched_to("here");
            dial(&there, APP, HERE.port(family, TUNNEL)).captured_by("inbound");
            dial(&here, PROXY, HERE.port(family, TUNNEL)).captured_by("inbound");
        }
    }
}

fn udp(variant: Variant) {
    for reading in Reading::BOTH {
        let (here, there) = captured(reading, variant, POD);
        let captures = [15001, 15006].map(|port| Service::udp(&here, PROXY, "proxy", port));
        Service::udp(&here, Who::ROOT, "here", 80);
        Service::udp(&there, Who::ROOT, "there", 80);
        for family in Family::BOTH {
            for who in [APP, PROXY] {
                dial_udp(&here, who, THERE.port(family, 80)).untouched_to("there");
                dial_udp(&here, who, HERE.port(family, 80)).untouched_to("here");
                dial_udp(&there, who, HERE.port(family, 80)).untouched_to("here");
            }
        }
        for at_proxy in captures {
            let seen = at_proxy.accepted();
            assert!(seen.is_empty(), "expected no datagram at the proxy, seen {seen:?}");
        }
    }
}

/// Upstream captures IPv6 only if the first address is one, or with `--dual-stack`.
fn without_ipv6(variant: Variant) {
    let runs: [fn(&Netns, Variant); 2] = [
        |here, variant| drop(Reading::Own.apply(here, variant, &format!("{POD} --ipv6 off"))),
        |here, variant| {
            let call = Reading::Letter.call(here, variant, &format!("{POD} --dual-stack=false"));
            drop(call.run().code(0));
        },
    ];
    for run in runs {
        let (here, there) = two_hosts();
        serve(&here, &there);
        run(&here, variant);
        dial(&here, APP, THERE.port(Family::V4, 80)).captured_by("outbound");
        dial(&there, APP, HERE.port(Family::V4, 80)).captured_by("inbound");
        dial(&here, APP, THERE.port(Family::V6, 80)).untouched_to("there");
        dial(&there, APP, HERE.port(Family::V6, 80)).untouched_to("here");
    }
}
