//! TPROXY with real connections: the proxy sees the client and the destination as they are, and the
//! application sees the client.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::harness::Case;
use crate::istio::{
    APP, POD, PROXY, ROOT_PROXY, Reading, TUNNEL, captured, neighbour, passthrough_source, serve,
};
use crate::istio_ports::interface_is_excluded;
use crate::support::command::{Run, mesh_init};
use crate::support::creds::Who;
use crate::support::dial::{Dialled, Open, Source, dial, dial_from};
use crate::support::netns::Netns;
use crate::support::rules::{Family, Variant, assert_differs, assert_same, counted, dump};
use crate::support::sbin::Sbin;
use crate::support::serve::Service;
use crate::support::wire::{HERE, HERE_FAR, LOOPBACK, THERE, two_hosts};

/// The proxy runs as the group; `-g` says to the one reading what the other takes from `-u`.
pub(crate) const TPROXY: &str = "-p 15001 -z 15006 -u 1337 -g 1337 -b * -i * -m TPROXY";

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Case::all_for_each_carrier(&[
        ("istio::tproxy::inbound", inbound),
        ("istio::tproxy::inbound_listed", inbound_listed),
        ("istio::tproxy::inbound_excluded", inbound_excluded),
        ("istio::tproxy::inbound_none", inbound_none),
        ("istio::tproxy::only_transparent_listeners", only_transparent_listeners),
        ("istio::tproxy::tunnel_port", tunnel_port),
        ("istio::tproxy::outbound", outbound),
        ("istio::tproxy::own_address", own_address),
        ("istio::tproxy::as_the_client", as_the_client),
        ("istio::tproxy::passthrough", passthrough),
        ("istio::tproxy::other_mark", other_mark),
        ("istio::tproxy::open_connections", open_connections),
        ("istio::tproxy::interface_excluded", interface_excluded),
        ("istio::tproxy::again", again),
        ("istio::tproxy::clean", clean),
    ]);
    cases.extend(Case::each_variant("istio::tproxy::failure_is_undone", failure_is_undone));
    cases
}

/// TPROXY leaves the addresses alone: the proxy's socket has the client's destination.
#[track_caller]
fn taken(dialled: &Dialled, to: SocketAddr) {
    dialled.captured_by("inbound");
    let local = dialled.answer.as_ref().map(|greeting| greeting.local);
    assert_eq!(local, Ok(to), "expected the destination as the socket's own address, seen {dialled}");
}

fn inbound(variant: Variant) {
    for reading in Reading::BOTH {
        let (_here, there) = captured(reading, variant, TPROXY);
        for family in Family::BOTH {
            for address in [HERE, HERE_FAR] {
                for port in [22, 80, 8080, 65535] {
                    let to = address.port(family, port);
                    taken(&dial(&there, APP, to), to);
                }
            }
        }
    }
}

fn inbound_listed(variant: Variant) {
    for reading in Reading::BOTH {
        let flags = "-p 15001 -z 15006 -u 1337 -g 1337 -b 80,9090 -i * -m TPROXY";
        let (_here, there) = captured(reading, variant, flags);
        for family in Family::BOTH {
            for port in [80, 9090] {
                let to = HERE_FAR.port(family, port);
                taken(&dial(&there, APP, to), to);
            }
            for port in [22, 8080, TUNNEL] {
                dial(&there, APP, HERE.port(family, port)).untouched_to("here");
            }
        }
    }
}

fn inbound_excluded(variant: Variant) {
    for reading in Reading::BOTH {
        let (_here, there) = captured(reading, variant, &format!("{TPROXY} -d 8080,9090"));
        for family in Family::BOTH {
            for port in [8080, 9090] {
                dial(&there, APP, HERE.port(family, port)).untouched_to("here");
            }
            let to = HERE.port(family, 80);
            taken(&dial(&there, APP, to), to);
        }
    }
}

fn inbound_none(variant: Variant) {
    for reading in Reading::BOTH {
        let flags = "-p 15001 -z 15006 -u 1337 -g 1337 -b @ -i * -m TPROXY";
        let (here, there) = captured(reading, variant, flags);
        assert_eq!(Routing::of(&here), Routing { rules: [0, 0], routes: [0, 0], address: true });
        for family in Family::BOTH {
            dial(&there, APP, HERE.port(family, 80)).untouched_to("here");
            dial(&here, APP, THERE.port(family, 80)).captured_by("outbound");
        }
    }
}

/// That a listener answers proves that it is transparent, so that the other cases prove TPROXY.
fn only_transparent_listeners(variant: Variant) {
    let (here, there) = two_hosts();
    Service::tcp(&here, ROOT_PROXY, "inbound", &[15006]);
    Service::tcp(&here, Who::ROOT, "here", &[80]);
    Reading::Own.apply(&here, variant, TPROXY);
    for family in Family::BOTH {
        let to = HERE.port(family, 80);
        let lost = there.run_as(APP, || TcpStream::connect_timeout(&to, Duration::from_millis(300)));
        let lost = lost.map_err(|error| error.kind());
        assert!(matches!(lost, Err(ErrorKind::TimedOut)), "expected no answer, seen {lost:?}");
    }
}

/// Upstream exempts the port in a table that these packets never get to.
fn tunnel_port(variant: Variant) {
    for reading in Reading::BOTH {
        let (here, there) = captured(reading, variant, TPROXY);
        for family in Family::BOTH {
            let to = HERE.port(family, TUNNEL);
            let tunnel = dial(&there, APP, to);
            let itself = dial(&here, PROXY, to);
            match reading {
                Reading::Own => [tunnel, itself].iter().for_each(|dialled| dialled.untouched_to("here")),
                Reading::Letter => [tunnel, itself].iter().for_each(|dialled| taken(dialled, to)),
            }
        }
    }
}

fn outbound(variant: Variant) {
    for reading in Reading::BOTH {
        let (here, _there) = captured(reading, variant, TPROXY);
        for family in Family::BOTH {
            for port in [22, 80, TUNNEL] {
                dial(&here, APP, THERE.port(family, port)).captured_by("outbound");
            }
            for who in [PROXY, ROOT_PROXY, APP.group(1337)] {
                dial(&here, who, THERE.port(family, 80)).untouched_to("there");
            }
        }
    }
}

fn own_address(variant: Variant) {
    for reading in Reading::BOTH {
        let (here, _there) = captured(reading, variant, TPROXY);
        for family in Family::BOTH {
            for address in [HERE, HERE_FAR] {
                for who in [APP, Who::ROOT] {
                    dial(&here, who, address.port(family, 80)).untouched_to("here");
                }
                for who in [PROXY, ROOT_PROXY, APP.group(1337)] {
                    dial(&here, who, address.port(family, 80)).captured_by("inbound");
                }
            }
            for who in [APP, PROXY, ROOT_PROXY] {
                dial(&here, who, LOOPBACK.port(family, 80)).untouched_to("here");
            }
        }
        dial(&here, APP, neighbour(80)).untouched_to("here");
        dial(&here, PROXY, neighbour(80)).captured_by("inbound");
    }
}

/// The proxy dials the application with the client's address, and the answers come back through it.
#[track_caller]
fn passes_on_as_the_client(here: &Netns, there: &Netns, mark: u32) {
    for family in Family::BOTH {
        let to = HERE.port(family, 80);
        let client = Open::new(there, APP, to);
        assert_eq!((client.greeting.name.as_str(), client.greeting.local), ("inbound", to));
        let source = Source { address: client.greeting.peer, mark: Some(mark) };
        let passed = dial_from(here, ROOT_PROXY, source, to);
        passed.untouched_to("here");
        let peer = passed.answer.as_ref().map(|greeting| greeting.peer);
        assert_eq!(peer, Ok(client.greeting.peer), "expected the client's address, seen {passed}");
    }
}

fn as_the_client(variant: Variant) {
    for reading in Reading::BOTH {
        let (here, there) = captured(reading, variant, TPROXY);
        passes_on_as_the_client(&here, &there, 1337);
    }
}

fn passthrough(variant: Variant) {
    for reading in Reading::BOTH {
        let (here, _there) = captured(reading, variant, TPROXY);
        for family in Family::BOTH {
            for who in [PROXY, ROOT_PROXY] {
                dial_from(&here, who, passthrough_source(family), HERE.port(family, 80)).untouched_to("here");
            }
            dial(&here, PROXY, HERE.port(family, 80)).captured_by("inbound");
        }
    }
}

fn other_mark(variant: Variant) {
    for reading in Reading::BOTH {
        let (here, there) = captured(reading, variant, &format!("{TPROXY} -t 77 -r 99"));
        let rules = Run::new(&here, "ip", &["rule"]).ok();
        assert!(rules.contains("fwmark 0x4d lookup 99"), "expected a rule for mark 77, seen {rules}");
        for family in Family::BOTH {
            let to = HERE.port(family, 80);
            taken(&dial(&there, APP, to), to);
        }
        passes_on_as_the_client(&here, &there, 77);
    }
}

/// What the proxy has taken goes on when REDIRECT's rules come, and when all rules go.
fn open_connections(variant: Variant) {
    for reading in Reading::BOTH {
        let (here, there) = captured(reading, variant, TPROXY);
        let mut taken = Family::BOTH.map(|family| Open::new(&there, APP, HERE.port(family, 80)));
        reading.apply(&here, variant, POD);
        let mut redirected = Family::BOTH.map(|family| Open::new(&there, APP, HERE.port(family, 80)));
        let mut go_on = |when: &str| {
            for open in taken.iter_mut().chain(&mut redirected) {
                assert_eq!(open.greeting.name, "inbound");
                open.echo(when);
            }
        };
        go_on("beside REDIRECT");
        reading.apply(&here, variant, TPROXY);
        go_on("beside TPROXY");
        mesh_init(&here, &["clean"]).code(0);
        taken.iter_mut().for_each(|open| open.echo("after clean"));
    }
}

fn interface_excluded(variant: Variant) {
    for reading in Reading::BOTH {
        interface_is_excluded(reading, variant, TPROXY);
    }
}

/// How much of the routing is there, for IPv4 and IPv6, and the address that IPv6 needs.
#[derive(Debug, PartialEq, Eq)]
struct Routing {
    rules: [usize; 2],
    routes: [usize; 2],
    address: bool,
}

impl Routing {
    const WHOLE: Self = Self { rules: [1, 1], routes: [1, 1], address: true };

    fn of(netns: &Netns) -> Self {
        // A table that nobody ever wrote to does not exist, which is an error.
        let ip = |words: &[&str]| Run::new(netns, "ip", words).stdout;
        let count = |text: String, part: &str| text.lines().filter(|line| line.contains(part)).count();
        let families = ["-4", "-6"];
        Self {
            rules: families.map(|family| count(ip(&[family, "rule"]), "fwmark 0x539 lookup 133")),
            routes: families
                .map(|family| count(ip(&[family, "route", "show", "table", "133"]), "local default dev lo")),
            address: ip(&["-6", "addr", "show", "dev", "lo"]).contains(" ::6/128 "),
        }
    }
}

/// The counters of rules, once the last packets of closed connections have been counted. Those of built-in
/// chains count whatever the kernel sends by itself.
fn settled_counts(netns: &Netns) -> String {
    let counts = || -> String {
        let text = counted(netns);
        text.lines().filter(|line| !line.starts_with(':')).map(|line| format!("{line}\n")).collect()
    };
    let mut before = counts();
    loop {
        std::thread::sleep(Duration::from_millis(50));
        let now = counts();
        if now == before {
            return now;
        }
        before = now;
    }
}

fn again(variant: Variant) {
    for reading in Reading::BOTH {
        let (here, there) = captured(reading, variant, TPROXY);
        assert_eq!(Routing::of(&here), Routing::WHOLE, "{reading:?}");
        for family in Family::BOTH {
            dial(&there, APP, HERE.port(family, 80)).captured_by("inbound");
            dial(&here, PROXY, HERE.port(family, 80)).captured_by("inbound");
        }
        let (rules, state) = (settled_counts(&here), dump(&here));
        for _ in 0..2 {
            reading.apply(&here, variant, TPROXY).says("nothing to do");
        }
        assert_same(&format!("{reading:?}: rules and counters"), &rules, &settled_counts(&here));
        assert_same(&format!("{reading:?}: everything else"), &state, &dump(&here));
        // The routing alone is repaired as well.
        here.ip("rule del fwmark 1337 lookup 133\nroute flush table 133\n");
        assert_eq!(Routing::of(&here), Routing { rules: [0, 1], routes: [0, 1], address: true });
        reading.apply(&here, variant, TPROXY);
        assert_eq!(Routing::of(&here), Routing::WHOLE, "{reading:?}");
        assert_same(&format!("{reading:?}: the rules"), &state, &dump(&here));
    }
}

/// What others have, in the same places.
const OTHERS: &str = "\
rule add fwmark 77 lookup 77 priority 77
rule add fwmark 1338 lookup 133 priority 78
route add local default dev lo table 77
route add 10.77.0.0/16 via 10.0.0.2 dev eth0
addr add 127.0.0.6/32 dev lo
addr add ::7/128 dev lo nodad
";

fn clean(variant: Variant) {
    type Clean = fn(&Netns, Reading, Variant);
    let ways: [Clean; 3] = [
        |here, _, _| drop(mesh_init(here, &["clean"]).code(0)),
        |here, _, variant| {
            let call = Reading::Letter.call(here, variant, &format!("{TPROXY} --cleanup-only"));
            drop(call.run().code(0));
        },
        // Another mode needs the address, and no rules and routes.
        |here, reading, variant| {
            reading.apply(here, variant, POD);
            assert_eq!(Routing::of(here), Routing { rules: [0, 0], routes: [0, 0], address: true });
            drop(mesh_init(here, &["clean"]).code(0));
        },
    ];
    for reading in Reading::BOTH {
        for clean in ways {
            let (here, there) = two_hosts();
            serve(&here, &there);
            here.ip(OTHERS);
            let before = dump(&here);
            reading.apply(&here, variant, TPROXY);
            assert_differs("TPROXY", &before, &dump(&here));
            assert_eq!(Routing::of(&here), Routing::WHOLE, "{reading:?}");
            clean(&here, reading, variant);
            assert_same(&format!("{reading:?}: after clean"), &before, &dump(&here));
            for family in Family::BOTH {
                dial(&there, APP, HERE.port(family, 80)).untouched_to("here");
                dial(&here, APP, THERE.port(family, 80)).untouched_to("there");
            }
        }
    }
}

/// Routing is made before rules: when those are refused, it goes again.
fn failure_is_undone(variant: Variant) {
    for family in Family::BOTH {
        let (here, _there) = two_hosts();
        here.ip(OTHERS);
        let before = dump(&here);
        let sbin = Sbin::new().with(&variant.program(family, "restore"), "exit 1");
        let run = Reading::Own.call(&here, variant, TPROXY).run().code(1);
        drop(sbin);
        assert_same(&format!("after {run}"), &before, &dump(&here));
    }
}
