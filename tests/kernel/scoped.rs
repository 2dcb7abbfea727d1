//! The scoped layout with real connections: one user's outbound, some inbound ports, and nothing else.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use crate::harness::Case;
use crate::support::command::mesh_init;
use crate::support::creds::Who;
use crate::support::dial::{Open, dial, dial_udp};
use crate::support::netns::Netns;
use crate::support::rules::{Family, Variant, assert_same, dump, restore};
use crate::support::serve::Service;
use crate::support::wire::{
    Addresses, BEHIND, HERE, HERE_FAR, HERE_INNER, LOOPBACK, THERE, THERE_FAR, three_hosts, two_hosts,
};

pub(crate) const OWNER: Who = Who::user(1338);
pub(crate) const APP: Who = Who::user(1000);
pub(crate) const PROXY: Who = Who::user(1337);
/// What the VM of the story is started with.
pub(crate) const VM: [&str; 4] = ["--uid-owner", "1338", "--inbound", "8001"];

pub(crate) fn cases() -> Vec<Case> {
    Case::all_for_each_carrier(&[
        ("scoped::owner", owner),
        ("scoped::other_users", other_users),
        ("scoped::inbound", inbound),
        ("scoped::inbound_all", inbound_all),
        ("scoped::routed_through", routed_through),
        ("scoped::open_connections", open_connections),
        ("scoped::open_connection_to_the_owner", open_connection_to_the_owner),
        ("scoped::before_others", before_others),
        ("scoped::udp", udp),
        ("scoped::proxy_that_is_the_owner", proxy_that_is_the_owner),
    ])
}

/// Every listener that a connection could reach by mistake.
pub(crate) fn serve(here: &Netns, there: &Netns) {
    Service::tcp(here, PROXY, "proxy", &[15001]);
    Service::tcp(here, PROXY, "inbound", &[15006]);
    Service::tcp(here, Who::ROOT, "here", &[22, 80, 8001, 8002, 9090, 15000, 15020, 15021, 15090]);
    Service::tcp(there, Who::ROOT, "there", &[22, 53, 80, 8001, 9000, 9001, 15001, 15006]);
}

pub(crate) fn apply(netns: &Netns, variant: Variant, flags: &[&str]) {
    let words: Vec<_> = flags.iter().copied().chain(variant.flags()).collect();
    mesh_init(netns, &words).ok();
}

/// Two hosts with all listeners, `here` captured with `flags`.
pub(crate) fn captured(variant: Variant, flags: &[&str]) -> (Netns, Netns) {
    let (here, there) = two_hosts();
    serve(&here, &there);
    apply(&here, variant, flags);
    (here, there)
}

fn owner(variant: Variant) {
    let (here, _there) = captured(variant, &VM);
    for family in Family::BOTH {
        for address in [LOOPBACK, HERE, HERE_FAR, THERE, THERE_FAR] {
            for port in [80, 8001] {
                dial(&here, OWNER, address.port(family, port)).captured_by("proxy");
            }
        }
        // It is the user that counts, whatever the group.
        dial(&here, OWNER.group(0), LOOPBACK.port(family, 8001)).captured_by("proxy");
    }
}

fn other_users(variant: Variant) {
    let (here, _there) = captured(variant, &VM);
    for family in Family::BOTH {
        for who in [APP, APP.group(1338), Who::user(1336), Who::user(1339), Who::ROOT, PROXY] {
            for port in [22, 80, 8001] {
                dial(&here, who, THERE.port(family, port)).untouched_to("there");
                // Its own addresses as well: inbound means from outside.
                dial(&here, who, LOOPBACK.port(family, port)).untouched_to("here");
                dial(&here, who, HERE.port(family, port)).untouched_to("here");
            }
        }
    }
}

fn inbound(variant: Variant) {
    let (_here, there) = captured(variant, &VM);
    for family in Family::BOTH {
        for address in [HERE, HERE_FAR] {
            for who in [APP, OWNER, PROXY] {
                dial(&there, who, address.port(family, 8001)).captured_by("proxy");
            }
            for port in [22, 80, 8002] {
                dial(&there, APP, address.port(family, port)).untouched_to("here");
            }
        }
    }
}

/// `*` never takes away the way in, nor the proxy's own ports.
fn inbound_all(variant: Variant) {
    let flags = ["--uid-owner", "1338", "-b", "*", "-d", "9090", "-z", "15006"];
    let (_here, there) = captured(variant, &flags);
    for family in Family::BOTH {
        // The second address tells a redirect from none: that would go to the interface's first.
        for address in [HERE, HERE_FAR] {
            for port in [80, 8001, 34567] {
                dial(&there, APP, address.port(family, port)).captured_by("inbound");
            }
            for port in [22, 9090, 15000, 15020, 15021, 15090] {
                dial(&there, APP, address.port(family, port)).untouched_to("here");
            }
            dial(&there, APP, address.port(family, 15001)).untouched_to("proxy");
            dial(&there, APP, address.port(family, 15006)).untouched_to("inbound");
        }
    }
}

/// What only passes through the host is none of the host's business.
fn routed_through(variant: Variant) {
    for inbound in ["8001", "*"] {
        let (here, there, behind) = three_hosts();
        serve(&here, &there);
        Service::tcp(&behind, Who::ROOT, "behind", &[8001]);
        apply(&here, variant, &["--uid-owner", "1338", "--inbound", inbound]);
        for family in Family::BOTH {
            for who in [APP, OWNER] {
                dial(&behind, who, THERE.port(family, 8001)).untouched_to("there");
                dial(&there, who, BEHIND.port(family, 8001)).untouched_to("behind");
                for own in [HERE_INNER, HERE, HERE_FAR] {
                    dial(&behind, who, own.port(family, 8001)).captured_by("proxy");
                }
            }
            dial(&here, OWNER, BEHIND.port(family, 8001)).captured_by("proxy");
            dial(&here, APP, BEHIND.port(family, 8001)).untouched_to("behind");
        }
    }
}

/// Connections that were there before go on, uncaptured; the next ones are captured.
fn open_connections(variant: Variant) {
    let (here, there) = two_hosts();
    serve(&here, &there);
    let pairs: Vec<(&Netns, Who, Addresses, u16, &str)> = vec![
        (&there, APP, HERE, 8001, "here"),
        (&here, OWNER, THERE, 80, "there"),
        (&here, OWNER, LOOPBACK, 8001, "here"),
        (&here, OWNER, HERE, 8001, "here"),
    ];
    let open = |family: Family| {
        let open = |(from, who, address, port, _): &(&Netns, Who, Addresses, u16, &str)| {
            let mut open = Open::new(from, *who, address.port(family, *port));
            open.echo("before");
            open
        };
        pairs.iter().map(open).collect::<Vec<_>>()
    };
    let mut before = Family::BOTH.map(open);
    apply(&here, variant, &VM);
    for (family, open) in Family::BOTH.into_iter().zip(&mut before) {
        for (open, (from, who, address, port, name)) in open.iter_mut().zip(&pairs) {
            assert_eq!(open.greeting.name, *name, "expected a server before the capture");
            for round in 0..3 {
                open.echo(&format!("after {round}"));
            }
            dial(from, *who, address.port(family, *port)).captured_by("proxy");
            open.echo("beside a captured one");
        }
    }
}

/// After the capture the server speaks first, as the owner: its packets look like the start of a connection
/// to conntrack, which did not see the real one.
fn open_connection_to_the_owner(variant: Variant) {
    for family in Family::BOTH {
        let (here, there) = two_hosts();
        serve(&here, &there);
        let to = HERE.port(family, 8003);
        let listener = here.run_as(OWNER, || TcpListener::bind(to)).expect("a free port");
        let mut client = there.run_as(APP, || TcpStream::connect(to)).expect("a listener");
        let (mut server, _) = here.run_as(OWNER, || listener.accept()).expect("a client");
        apply(&here, variant, &["--uid-owner", "1338", "--inbound", "8003"]);
        says(&mut server, &mut client, "server to client");
        says(&mut client, &mut server, "client to server");
        dial(&there, APP, to).captured_by("proxy");
    }
}

pub(crate) fn says(from: &mut TcpStream, to: &mut TcpStream, what: &str) {
    let mut heard = [0; 5];
    to.set_read_timeout(Some(Duration::from_secs(3))).expect("a timeout above zero");
    let outcome = from.write_all(b"hello").and_then(|()| to.read_exact(&mut heard));
    assert!(
        outcome.is_ok() && heard == *b"hello",
        "{what}: expected `hello`, seen {heard:?} and {outcome:?}"
    );
}

/// Ours come first: rules that others have for the same connections would have taken them elsewhere.
fn before_others(variant: Variant) {
    let (here, there) = two_hosts();
    serve(&here, &there);
    let others = "*nat\n\
        -A OUTPUT -p tcp -m tcp --dport 80 -j ACCEPT\n\
        -A PREROUTING -p tcp -m tcp --dport 8001 -j REDIRECT --to-ports 8002\nCOMMIT\n";
    for family in Family::BOTH {
        restore(&here, variant.iptables(), family, others);
    }
    apply(&here, variant, &VM);
    for family in Family::BOTH {
        dial(&here, OWNER, THERE.port(family, 80)).captured_by("proxy");
        dial(&there, APP, HERE.port(family, 8001)).captured_by("proxy");
        dial(&here, APP, THERE.port(family, 80)).untouched_to("there");
    }
}

fn udp(variant: Variant) {
    let (here, there) = captured(variant, &["--uid-owner", "1338", "--inbound", "*"]);
    let at_proxy = Service::udp(&here, PROXY, "proxy", 15001);
    Service::udp(&here, Who::ROOT, "here", 8001);
    Service::udp(&there, Who::ROOT, "there", 53);
    for family in Family::BOTH {
        dial_udp(&here, OWNER, THERE.port(family, 53)).untouched_to("there");
        dial_udp(&here, OWNER, LOOPBACK.port(family, 8001)).untouched_to("here");
        dial_udp(&there, APP, HERE.port(family, 8001)).untouched_to("here");
    }
    let seen = at_proxy.accepted();
    assert!(seen.is_empty(), "expected no datagram at the proxy, seen {seen:?}");
}

/// A proxy that runs as the captured user would be sent its own connections.
fn proxy_that_is_the_owner(variant: Variant) {
    let netns = Netns::new("here");
    Service::tcp(&netns, OWNER, "proxy", &[15001]);
    let before = dump(&netns);
    let words: Vec<_> = VM.into_iter().chain(variant.flags()).collect();
    let run = mesh_init(&netns, &words);
    assert!(run.code.is_some_and(|code| code > 0), "expected a refusal, seen {run}");
    run.says("15001").says("1338");
    assert_same("after the refusal", &before, &dump(&netns));
}
