//! What capture at the sockets does better than rules, where no connection of the matrix shows it; and that the matrix
//! needs every program.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use super::compare::{PATIENCE, SHORT};
use super::policies::Policy;
use super::sockets::{Difference, Tally, judge};
use super::world::World;
use crate::harness::Case;
use crate::istio::{APP, POD, PROXY};
use crate::support::command::{Run, mesh_init};
use crate::support::creds::Who;
use crate::support::dial::{Open, dial};
use crate::support::netns::Netns;
use crate::support::pins as bpf;
use crate::support::rules::{Family, assert_same, dump};
use crate::support::serve::Service;
use crate::support::wire::{HERE, THERE, two_hosts};

pub(super) fn cases() -> Vec<Case> {
    let case = |name: &str, body: fn()| Case::new(&format!("judge::{name}::ebpf"), body);
    vec![
        case("a_missing_program_is_noticed", a_missing_program_is_noticed).within(Duration::from_secs(60)),
        case("no_route_is_needed", no_route_is_needed),
        case("only_the_proxy_gets_what_arrives", only_the_proxy_gets_what_arrives),
        case("a_proxy_that_comes_later", a_proxy_that_comes_later),
        case("open_connections_go_on", open_connections_go_on),
        case("every_difference_is_listed", every_difference_is_listed),
        case("the_passthrough_address", the_passthrough_address),
    ]
}

fn apply(here: &Netns, backend: &str) {
    let words: Vec<_> = POD.split(' ').chain(["--layout", "istio", "--backend", backend]).collect();
    mesh_init(here, &words).ok();
}

/// How long a program may stay that is detached: the kernel does that when nobody is in it.
const DETACHED: Duration = Duration::from_secs(5);

/// Without one of them something else than what is said becomes of some connection. Left out are those that look at
/// sockets as they are made: here sockets belong to who made them, and the proxy listens before.
fn a_missing_program_is_noticed() {
    bpf::mount_own();
    let mut world = World::at_sockets();
    let policy =
        Policy::new("--layout istio -p 15001 -z 15006 -u 1337 -b * -i * --redirect-dns --capture-all-dns");
    for name in [
        "mesh_getsockopt",
        "mesh_sockops",
        "mesh_peername4",
        "mesh_peername6",
        "mesh_recvmsg4",
        "mesh_recvmsg6",
        "mesh_sendmsg4",
        "mesh_sendmsg6",
        "mesh_connect4",
        "mesh_connect6",
        "arrives",
    ] {
        policy.run_at_sockets(&world).code(0);
        fs::remove_file(bpf::link(name)).expect("a link");
        let end = Instant::now() + DETACHED;
        loop {
            let mut tally = Tally::default();
            judge(&mut world, &policy, SHORT, &mut tally);
            let (told, seen): (Vec<_>, Vec<_>) =
                tally.wrong.iter().partition(|what| what.contains("\n  status: "));
            assert!(told.iter().any(|what| what.contains("whole is false")), "without {name}: {told:?}");
            if !seen.is_empty() {
                break;
            }
            assert!(Instant::now() < end, "without {name} nothing is missing");
            thread::sleep(Duration::from_millis(50));
        }
        world.clean();
    }
    policy.run_at_sockets(&world).code(0);
    let mut tally = Tally::default();
    judge(&mut world, &policy, PATIENCE, &mut tally);
    assert_eq!(tally.wrong, [""; 0], "with all of them");
}

/// For whoever chooses between this and rules.
fn every_difference_is_listed() {
    let page = include_str!("../../../docs/ebpf.md");
    for difference in Difference::ALL {
        let listed = page.lines().any(|line| line.ends_with(&format!("| `{difference:?}` |")));
        assert!(listed, "docs/ebpf.md has no line for {difference:?}");
    }
}

/// Rules see packets, and there is none without a route.
fn no_route_is_needed() {
    bpf::mount_own();
    let nowhere = ["203.0.113.9:80", "[2001:db8::9]:80"].map(|text| text.parse().expect("an address"));
    let (here, _there) = two_hosts();
    Service::tcp(&here, PROXY, "outbound", &[15001]);
    apply(&here, "nftables");
    for to in nowhere {
        let lost = dial(&here, APP, to);
        let why = lost.answer.as_ref().err().unwrap_or_else(|| panic!("expected no route, seen {lost}"));
        assert!(why.contains("Network is unreachable"), "expected no route, seen {lost}");
    }
    apply(&here, "ebpf");
    for to in nowhere {
        dial(&here, APP, to).captured_by("outbound");
    }
}

fn refused(from: &Netns, port: u16) {
    for family in Family::BOTH {
        let dialled = dial(from, APP, HERE.port(family, port));
        let why = dialled.answer.as_ref().err();
        let why = why.unwrap_or_else(|| panic!("expected a refusal, seen {dialled}"));
        assert!(why.contains("Connection refused"), "expected a refusal, seen {dialled}");
    }
}

/// By rules whoever listens at the inbound port gets what arrives.
fn only_the_proxy_gets_what_arrives() {
    bpf::mount_own();
    let (here, there) = two_hosts();
    Service::tcp(&here, Who::ROOT, "here", &[80]);
    Service::tcp(&here, APP, "impostor", &[15006]);
    apply(&here, "nftables");
    for family in Family::BOTH {
        dial(&there, APP, HERE.port(family, 80)).captured_by("impostor");
    }
    apply(&here, "ebpf");
    // Nor does it go to the application, past the proxy.
    refused(&there, 80);
}

/// It is known by who binds the socket, before anything arrives.
fn a_proxy_that_comes_later() {
    bpf::mount_own();
    let (here, there) = two_hosts();
    Service::tcp(&here, Who::ROOT, "here", &[80]);
    apply(&here, "ebpf");
    refused(&there, 80);
    Service::tcp(&here, PROXY, "inbound", &[15006]);
    Service::tcp(&here, PROXY, "outbound", &[15001]);
    for family in Family::BOTH {
        let dialled = dial(&there, APP, HERE.port(family, 80));
        dialled.captured_by("inbound");
        let local = dialled.answer.as_ref().map(|greeting| greeting.local);
        assert_eq!(local, Ok(HERE.port(family, 80)), "the address that the client called");
        dial(&here, APP, THERE.port(family, 80)).captured_by("outbound");
    }
}

/// Connections that were there before are let alone, and those that were captured end where they began.
fn open_connections_go_on() {
    bpf::mount_own();
    let (here, there) = two_hosts();
    Service::tcp(&there, Who::ROOT, "there", &[80]);
    Service::tcp(&here, PROXY, "outbound", &[15001]);
    let families = Family::BOTH;
    let mut before = families.map(|family| Open::new(&here, APP, THERE.port(family, 80)));
    apply(&here, "ebpf");
    let mut captured = families.map(|family| Open::new(&here, APP, THERE.port(family, 80)));
    let mut echo = |text: &str| before.iter_mut().chain(&mut captured).for_each(|open| open.echo(text));
    echo("captured");
    // With another policy.
    mesh_init(
        &here,
        &["--layout", "istio", "-p", "15001", "-u", "1337", "-x", "10.0.0.0/8", "--backend", "ebpf"],
    )
    .ok();
    echo("changed");
    mesh_init(&here, &["clean"]).ok();
    echo("cleaned");
    for (open, name) in before.iter().zip(["there"; 2]).chain(captured.iter().zip(["outbound"; 2])) {
        assert_eq!(open.greeting.name, name);
    }
    for family in families {
        dial(&here, APP, THERE.port(family, 80)).untouched_to("there");
    }
}

/// What the proxy passes IPv6 on from is there as long as a policy needs it, whatever holds the policy.
fn the_passthrough_address() {
    bpf::mount_own();
    let (here, _there) = two_hosts();
    let before = dump(&here);
    let is_there =
        || Run::new(&here, "ip", &["-6", "-o", "addr", "show", "dev", "lo"]).ok().contains(" ::6/128 ");
    for (backend, other) in [("ebpf", "nftables"), ("nftables", "ebpf")] {
        apply(&here, backend);
        assert!(is_there(), "with {backend}");
        apply(&here, other);
        assert!(is_there(), "from {backend} to {other}");
        mesh_init(&here, &["-p", "15001", "-u", "1337", "--backend", other]).ok();
        assert!(!is_there(), "with {other}, and a policy that has no use for it");
        apply(&here, other);
        assert!(is_there(), "with {other} again");
        mesh_init(&here, &["clean"]).ok();
        assert_same("after clean", &before, &dump(&here));
    }
    assert!(bpf::kept().is_empty(), "{:?} is kept", bpf::kept());
}
