//! What nftables does in another way than iptables: connections that are open go on in every layout, and other people's
//! tables are beside ours, not around our rules.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use crate::again::CLASSIC;
use crate::docker_dns;
use crate::harness::Case;
use crate::istio::{POD, ROOT_PROXY};
use crate::istio_tproxy::TPROXY;
use crate::scoped::{APP, PROXY, VM, apply, says};
use crate::support::call::Call;
use crate::support::command::{Run, mesh_init};
use crate::support::creds::Who;
use crate::support::dial::{Open, dial};
use crate::support::netns::Netns;
use crate::support::rules::{Family, Variant, assert_same, dump, native, restore};
use crate::support::serve::Service;
use crate::support::wire::{Addresses, HERE, THERE, two_hosts};

pub(crate) fn cases() -> Vec<Case> {
    let list: [(&str, fn()); 8] = [
        ("docker_before_and_after", docker_before_and_after),
        ("open_connections", open_connections),
        ("open_connections_that_are_silent", open_connections_that_are_silent),
        ("open_connections_during_a_move", open_connections_during_a_move),
        ("families", families),
        ("tables_of_like_names", tables_of_like_names),
        ("others_change_rules_too", others_change_rules_too),
        ("other_owners_of_the_name", other_owners_of_the_name),
    ];
    list.into_iter()
        .map(|(name, body)| Case::new(&format!("native::{name}"), body).within(Duration::from_secs(60)))
        .collect()
}

/// Docker's chains may come first or last, in either iptables or in a table of nftables.
fn docker_before_and_after() {
    for theirs in Variant::ALL {
        for flags in [&CLASSIC, &VM, &split(POD)[..], &split(TPROXY)] {
            docker_dns::beside(theirs, flags);
        }
    }
}

/// A layout, by the flags that choose it, and who answers what is captured out and in.
type Captured<'a> = (&'a str, [&'static str; 2]);

/// Every layout in which connections of everybody are captured.
const WHOLE: [Captured<'static>; 4] = [
    ("-p 15001 -u 1337", ["outbound", "outbound"]),
    (POD, ["outbound", "inbound"]),
    (TPROXY, ["outbound", "inbound"]),
    ("-p 15001 -z 15006 -u 1337 -b 80,8001 -i 10.0.0.0/24,fd00::/64", ["outbound", "inbound"]),
];

fn split(flags: &str) -> Vec<&str> {
    flags.split(' ').collect()
}

fn serve(here: &Netns, there: &Netns) {
    Service::tcp(here, PROXY, "outbound", &[15001]);
    Service::transparent(here, ROOT_PROXY, "inbound", &[15006]);
    Service::tcp(here, Who::ROOT, "here", &[80]);
    Service::tcp(there, Who::ROOT, "there", &[80]);
}

/// conntrack takes them up as if they were new; they go on, and the next ones are captured.
fn open_connections() {
    for (flags, captured) in WHOLE {
        let (here, there) = two_hosts();
        serve(&here, &there);
        let pairs: [(&Netns, Addresses, &str, &str); 2] =
            [(&here, THERE, "there", captured[0]), (&there, HERE, "here", captured[1])];
        let mut open = Vec::new();
        for family in Family::BOTH {
            for (from, address, server, proxy) in pairs {
                let mut one = Open::new(from, APP, address.port(family, 80));
                assert_eq!(one.greeting.name, server, "expected a server before the capture");
                one.echo("before");
                open.push((one, from, address.port(family, 80), proxy));
            }
        }
        apply(&here, Variant::Native, &split(flags));
        for (one, from, to, proxy) in &mut open {
            for round in 0..3 {
                one.echo(&format!("after {round}"));
            }
            dial(from, APP, *to).captured_by(proxy);
            one.echo("beside a captured one");
        }
        // Another policy, and none: they still go on.
        apply(&here, Variant::Native, &split("-p 15001 -u 1400"));
        open.iter_mut().for_each(|(one, ..)| one.echo("under another policy"));
        mesh_init(&here, &["clean"]).code(0);
        open.iter_mut().for_each(|(one, ..)| one.echo("after clean"));
    }
}

/// The first packet that conntrack sees of them may be the server's, in either direction.
fn open_connections_that_are_silent() {
    for (flags, _) in WHOLE {
        for family in Family::BOTH {
            let (here, there) = two_hosts();
            serve(&here, &there);
            let pair = |server: &Netns, client: &Netns, address: Addresses| {
                let to = address.port(family, 8003);
                let listener = server.run_as(APP, || TcpListener::bind(to)).expect("a free port");
                let from = client.run_as(APP, || TcpStream::connect(to)).expect("a listener");
                let (at, _) = server.run_as(APP, || listener.accept()).expect("a client");
                (at, from)
            };
            let mut pairs = [pair(&here, &there, HERE), pair(&there, &here, THERE)];
            apply(&here, Variant::Native, &split(flags));
            for (server, client) in &mut pairs {
                says(server, client, "server to client");
                says(client, server, "client to server");
            }
        }
    }
}

/// From iptables to nftables and back: what was open before everything goes on, and so does what is captured.
fn open_connections_during_a_move() {
    for variant in Variant::BOTH {
        for family in Family::BOTH {
            let (here, there) = two_hosts();
            serve(&here, &there);
            apply(&here, variant, &split(POD));
            let mut out = Open::new(&here, APP, THERE.port(family, 80));
            let mut into = Open::new(&there, APP, HERE.port(family, 80));
            assert_eq!((out.greeting.name.as_str(), into.greeting.name.as_str()), ("outbound", "inbound"));
            for to in [Variant::Native, variant, Variant::Native, variant.other()] {
                apply(&here, to, &split(POD));
                for open in [&mut out, &mut into] {
                    open.echo("after a move");
                    open.echo("and again");
                }
                dial(&here, APP, THERE.port(family, 80)).captured_by("outbound");
                dial(&there, APP, HERE.port(family, 80)).captured_by("inbound");
            }
        }
    }
}

/// There is a table for each family that is captured, and none for the other.
fn families() {
    for flags in ["-p 15001 -u 1337", "--uid-owner 1338 --inbound 8001", POD, TPROXY] {
        let (here, _there) = two_hosts();
        for (ipv6, expected) in [("off", [true, false]), ("on", [true; 2]), ("off", [true, false])] {
            apply(&here, Variant::Native, &[&split(flags)[..], &["--ipv6", ipv6]].concat());
            let seen = Family::BOTH.map(|family| !native(&here, family, &[]).is_empty());
            assert_eq!(seen, expected, "{flags} --ipv6 {ipv6}");
            let all = Run::new(&here, "nft", &["list", "ruleset"]).ok();
            assert_eq!(all.contains("table ip6 "), expected[1], "{flags} --ipv6 {ipv6}: seen\n{all}");
        }
        let again = [&["-p", "15002", "--ipv6", "off"], &Variant::Native.flags()[..]].concat();
        mesh_init(&here, &again).code(0).says("\nchanged ");
    }
}

/// Tables that others have, of names that are almost ours.
const LIKE_OURS: &str = "\
table ip mesh_init2 {
	set nets-0000000000000000 {
		type ipv4_addr
		flags interval
		elements = { 10.55.0.0/16 }
	}
	chain nat_output {
		type nat hook output priority 10; policy accept;
		meta skuid 4242 counter return comment \"mesh-init:proxy.uid: theirs\"
	}
	chain nat_outbound {
		ip daddr @nets-0000000000000000 counter accept
	}
}
table inet mesh_init {
	chain nat_prerouting {
		type filter hook prerouting priority -99; policy accept;
		tcp dport 4242 counter accept
	}
	chain nat_redirect {
	}
}
table ip6 mesh_ini {
	chain nat_redirect {
		counter accept
	}
}
table arp mesh_init {
	chain input {
		type filter hook input priority 0; policy accept;
	}
}
table bridge mesh_init {
	chain nat_output {
	}
}
";

fn tables_of_like_names() {
    for before in [true, false] {
        let (alone, here) = (two_hosts().0, two_hosts().0);
        let load = |netns: &Netns| drop(Run::with_input(netns, "nft", &["-f", "-"], LIKE_OURS).ok());
        load(&alone);
        if before {
            load(&here);
        }
        for flags in [&CLASSIC[..], &VM, &split(TPROXY)] {
            apply(&here, Variant::Native, flags);
        }
        if !before {
            load(&here);
        }
        let theirs = |netns: &Netns| -> String {
            let tables =
                ["ip mesh_init2", "inet mesh_init", "ip6 mesh_ini", "arp mesh_init", "bridge mesh_init"];
            let list =
                |table: &str| Run::new(netns, "nft", &[&["list", "table"], &split(table)[..]].concat());
            tables.iter().map(|table| list(table).ok()).collect()
        };
        assert_same("tables of others", &theirs(&alone), &theirs(&here));
        mesh_init(&here, &["status"]).code(0).says("captured: ").says("nftables");
        mesh_init(&here, &split(&format!("{TPROXY} --backend nftables"))).code(0).says("nothing to do");
        mesh_init(&here, &["clean"]).code(0).says("removed");
        assert_same("tables of others after clean", &theirs(&alone), &theirs(&here));
        mesh_init(&here, &["clean"]).code(0).says("nothing to do");
    }
}

/// Every change of rules makes a new generation, also that of others: the plan is made again.
fn others_change_rules_too() {
    let (here, there) = two_hosts();
    serve(&here, &there);
    Run::with_input(&here, "nft", &["-f", "-"], "table ip theirs {\n\tchain x {\n\t}\n}\n").ok();
    let script =
        "while [ ! -e /run/stop ]; do nft add rule ip theirs x counter; nft flush chain ip theirs x; done";
    let mut busy = Call::of(&here, "sh", &["-c", script]).start();
    for round in 0..20 {
        let flags = if round % 2 == 0 { "-p 15001 -u 1337" } else { POD };
        apply(&here, Variant::Native, &split(flags));
    }
    assert!(busy.still_runs(), "expected the other one busy until the end");
    fs::write("/run/stop", "").expect("a file in /run");
    busy.finish().code(0);
    dial(&here, APP, THERE.port(Family::V4, 80)).captured_by("outbound");
    mesh_init(&here, &["clean"]).code(0);
}

/// What somebody adds to our tables goes with the next run, and with `clean`; theirs beside it stays.
fn other_owners_of_the_name() {
    let (here, _there) = two_hosts();
    restore(&here, Variant::Nft, Family::V4, "*nat\n-A OUTPUT -p udp -j ACCEPT\nCOMMIT\n");
    let bare = dump(&here);
    apply(&here, Variant::Native, &CLASSIC);
    let whole = dump(&here);
    for fault in [
        "add rule ip mesh_init nat_output counter accept",
        "insert rule ip6 mesh_init nat_outbound counter return",
        "add chain ip mesh_init theirs",
        "add chain ip mesh_init theirs { type nat hook output priority -150; }",
        "flush chain ip mesh_init nat_output",
        "flush chain ip6 mesh_init nat_redirect",
        "delete table ip6 mesh_init",
        "flush table ip mesh_init",
        "flush ruleset",
    ] {
        Run::new(&here, "nft", &split(fault)).ok();
        if fault == "flush ruleset" {
            restore(&here, Variant::Nft, Family::V4, "*nat\n-A OUTPUT -p udp -j ACCEPT\nCOMMIT\n");
        }
        let run = mesh_init(&here, &[&CLASSIC[..], &Variant::Native.flags()].concat()).code(0);
        assert!(run.stdout.contains("\nchanged "), "{fault}: expected a change, seen {run}");
        assert_same(fault, &whole, &dump(&here));
    }
    Run::new(&here, "nft", &["add", "chain", "ip", "mesh_init", "theirs"]).ok();
    mesh_init(&here, &["clean"]).code(0).says("removed");
    assert_same("after clean", &bare, &dump(&here));
}
