//! `verify` on machines that are not as they should be: privileges, routes, links, firewalls, other meshes; and beside
//! other programs.

use std::collections::BTreeSet;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::foreign::{self, LINKERD};
use crate::harness::Case;
use crate::privilege::with_only;
use crate::replace::{hosts as busy_hosts, routes};
use crate::scoped::PROXY;
use crate::status::split;
use crate::support::clients::Clients;
use crate::support::command::{MESH_INIT, Run, mesh_init};
use crate::support::dial::dial;
use crate::support::netns::Netns;
use crate::support::rules::{Family, Variant, assert_same, dump, restore};
use crate::support::sbin::Sbin;
use crate::support::serve::Service;
use crate::support::victim::Victim;
use crate::support::wire::{THERE, two_hosts};
use crate::verify::{
    ALONE, APP, CLASSIC, CONNTRACK, Hosts, ISTIO, NOT, PROBE, RULES, SCOPED, TPROXY, UNWANTED, assert_noted,
    detail, judge, notes, remove, trace,
};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Case::all_for_each_variant(&[
        ("verify_machine::other_mesh", other_mesh),
        ("verify_machine::ambient", ambient),
        ("verify_machine::without_capabilities", without_capabilities),
        ("verify_machine::no_root", no_root),
        ("verify_machine::no_route", no_route),
        ("verify_machine::lo_down", lo_down),
        ("verify_machine::lo_down_beside_a_proxy", lo_down_beside_a_proxy),
        ("verify_machine::rule_ahead", rule_ahead),
        ("verify_machine::excluded_interface", excluded_interface),
        ("verify_machine::networks", networks),
        ("verify_machine::firewall", firewall),
        ("verify_machine::routing_gone", routing_gone),
        ("verify_machine::both_iptables", both_iptables),
        ("verify_machine::by_the_path", by_the_path),
        ("verify_machine::of_the_tools", of_the_tools),
    ]);
    let slow = Case::all_for_each_variant(&[
        ("verify_machine::beside_clients", beside_clients),
        ("verify_machine::many", many),
        ("verify_machine::killed", killed),
    ]);
    cases.extend(slow.into_iter().map(|case| case.within(Duration::from_secs(150))));
    cases
}

/// Linkerd's rules, alone and beside ours.
fn other_mesh(variant: Variant) {
    let hosts = Hosts::new();
    foreign::load(&hosts.here, variant, LINKERD);
    let run = mesh_init(&hosts.here, &["verify", "--output", "json"]).code(126);
    let seen: Value = serde_json::from_str(&run.stdout).expect("JSON");
    assert_noted(&seen, "PROXY_INIT_OUTPUT belongs to linkerd");
    assert_noted(&hosts.expect(CLASSIC, [NOT; 4]), "linkerd");
    let hosts = Hosts::captured(variant, CLASSIC);
    foreign::load(&hosts.here, variant, LINKERD);
    for flags in ["", CLASSIC] {
        assert_noted(&hosts.expect(flags, [PROBE; 4]), "linkerd");
    }
    // With a proxy of theirs it is theirs to capture, if their rules come first.
    let hosts = Hosts::new();
    foreign::load(&hosts.here, variant, LINKERD);
    for family in Family::BOTH {
        let text = "*nat\n:ISTIO_REDIRECT - [0:0]\n\
            -A ISTIO_REDIRECT -p tcp -m comment --comment \"istio/redirect-to-envoy-port\" -j REDIRECT --to-ports 15001\n\
            -A PREROUTING -m comment --comment \"istio/install-istio-prerouting\" -j ISTIO_REDIRECT\nCOMMIT\n";
        restore(&hosts.here, variant, family, text);
    }
    let seen = hosts.expect("-p 15001 -i @", [UNWANTED, NOT, UNWANTED, NOT]);
    assert_noted(&seen, "linkerd");
}

/// What ztunnel's side puts into a pod.
const AMBIENT: &str = "\
*mangle
:ISTIO_OUTPUT - [0:0]
:ISTIO_PRERT - [0:0]
-A PREROUTING -j ISTIO_PRERT
-A OUTPUT -j ISTIO_OUTPUT
COMMIT
*nat
:ISTIO_OUTPUT - [0:0]
:ISTIO_PRERT - [0:0]
-A PREROUTING -j ISTIO_PRERT
-A OUTPUT -j ISTIO_OUTPUT
-A ISTIO_OUTPUT -p tcp -m mark --mark 0x111/0xfff -j ACCEPT
-A ISTIO_OUTPUT ! -d @LOOPBACK@ -p tcp -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports 15001
-A ISTIO_PRERT ! -d @LOOPBACK@ -p tcp -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports 15006
COMMIT
";

fn ambient(variant: Variant) {
    let hosts = Hosts::new();
    foreign::load(&hosts.here, variant, AMBIENT);
    let before = trace(&hosts.here);
    for flags in ["", "--quick", "--strict", "-p 15001 -u 1337", "-p 15001 -u 1337 --quick"] {
        let args: Vec<_> =
            ["verify"].into_iter().chain(flags.split(' ').filter(|word| !word.is_empty())).collect();
        mesh_init(&hosts.here, &args).code(126).says("ISTIO_PRERT belongs to Istio's ambient agent");
        assert_same(flags, &before, &trace(&hosts.here));
    }
}

/// Without the capabilities for it, what the rules say is what can be said; which one is missing is told.
fn without_capabilities(variant: Variant) {
    const BASE: [&str; 2] = ["net_admin", "net_raw"];
    let ask = |hosts: &Hosts, more: &[&str], flags: &str, strict: bool| {
        let capabilities = [&BASE[..], more].concat();
        let strict = strict.then_some("--strict");
        let args: Vec<_> = ["verify", "--output", "json"]
            .into_iter()
            .chain(flags.split(' ').filter(|word| !word.is_empty()))
            .chain(strict)
            .collect();
        let before = trace(&hosts.here);
        let run = with_only(&hosts.here, &capabilities, &args).run();
        assert_same(&format!("after {run}"), &before, &trace(&hosts.here));
        run
    };
    let names = |seen: &Value, places: &[usize], name: &str| {
        for place in places {
            assert!(detail(seen, *place).contains(name), "expected {name} to be named, seen {seen:#}");
        }
    };
    let hosts = Hosts::captured(variant, SCOPED);
    for flags in ["", SCOPED] {
        for (more, hows, outbound, inbound) in [
            (&[][..], [RULES; 4], Some("CAP_SETUID"), Some("CAP_SYS_ADMIN")),
            (&["setuid"], [PROBE, RULES, PROBE, RULES], None, Some("CAP_SYS_ADMIN")),
            (&["sys_admin"], [RULES, PROBE, RULES, PROBE], Some("CAP_SETUID"), None),
            (&["sys_admin", "setuid"], [PROBE; 4], None, None),
        ] {
            let seen = judge(ask(&hosts, more, flags, false), hows, 0);
            let code = if hows == [PROBE; 4] { 0 } else { 126 };
            judge(ask(&hosts, more, flags, true), hows, code);
            names(&seen, &[0, 2], outbound.unwrap_or_default());
            names(&seen, &[1, 3], inbound.unwrap_or_default());
        }
    }
    // Whoever is captured himself needs to be nobody else.
    hosts.apply(variant, CLASSIC);
    judge(ask(&hosts, &[], "", false), [PROBE, RULES, PROBE, RULES], 0);
    hosts.apply(variant, "--gid-owner 1500 --inbound 8001");
    names(
        &judge(ask(&hosts, &["sys_admin"], "", false), [RULES, PROBE, RULES, PROBE], 0),
        &[0, 2],
        "CAP_SETGID",
    );
    judge(ask(&hosts, &["sys_admin", "setgid"], "", false), [PROBE; 4], 0);
    // With a proxy nothing is listened on, the rest is the same.
    hosts.apply(variant, SCOPED);
    let proxy = Service::tcp(&hosts.here, PROXY, "proxy", &[15001]);
    judge(ask(&hosts, &["setuid"], "", false), [CONNTRACK, RULES, CONNTRACK, RULES], 0);
    // Rules that are wrong are wrong all the same.
    assert_eq!(remove(&hosts.here, variant, Family::V4, "nat", |rule| rule.starts_with("OUTPUT ")), 1);
    let seen = judge(ask(&hosts, &[], SCOPED, false), [NOT, NOT, RULES, RULES], 126);
    names(&seen, &[0], "CAP_SETUID");
    assert_eq!(proxy.accepted(), vec![]);
    // Without these, nothing can be said.
    with_only(&hosts.here, &["net_raw", "sys_admin", "setuid"], &["verify"])
        .run()
        .code(77)
        .says("CAP_NET_ADMIN");
    // Without raw sockets iptables-legacy cannot be read, and nothing be sent that a proxy does not get.
    let code = if variant == Variant::Legacy { 77 } else { 126 };
    let run = with_only(&hosts.here, &["net_admin", "sys_admin", "setuid"], &["verify"]).run();
    run.code(code).says("CAP_NET_RAW");
}

fn no_root(variant: Variant) {
    let hosts = Hosts::captured(variant, CLASSIC);
    let before = trace(&hosts.here);
    for verb in
        ["verify", "verify --quick", "verify -p 15001 --repair --quick", "verify --strict --output json"]
    {
        let args: Vec<_> = verb.split(' ').collect();
        let run = Run::as_user(&hosts.here, APP, MESH_INIT, &args, "").code(77);
        run.says("CAP_NET_ADMIN").says("CAP_NET_RAW");
        assert_same(verb, &before, &trace(&hosts.here));
    }
}

/// A host that has no way to the addresses that are nobody's.
fn no_route(variant: Variant) {
    for held in [false, true] {
        let (here, _there) = two_hosts();
        crate::scoped::apply(&here, variant, &split(SCOPED));
        let proxy = held.then(|| Service::tcp(&here, PROXY, "proxy", &[15001]));
        let inbound = if held { CONNTRACK } else { PROBE };
        let hows = [RULES, inbound, RULES, inbound];
        let before = trace(&here);
        let ask = |more: &[&str]| mesh_init(&here, &[&["verify", "--output", "json"], more].concat());
        let seen = judge(ask(&[]), hows, 0);
        assert!(detail(&seen, 0).contains("no route to 192.0.2.1"), "{seen:#}");
        assert!(detail(&seen, 2).contains("no route to 2001:db8::1"), "{seen:#}");
        judge(ask(&["--strict"]), hows, 126);
        assert_same("after questions", &before, &trace(&here));
        // One family has a way.
        here.ip("route add default via 10.0.0.2");
        let outbound = if held { CONNTRACK } else { PROBE };
        judge(ask(&[]), [outbound, inbound, RULES, inbound], 0);
        // A way that ends at once.
        here.ip("route add default via fd00::2\nroute add unreachable 192.0.2.0/24\nroute add blackhole 2001:db8::/32");
        judge(ask(&[]), hows, 0);
        assert_eq!(proxy.map_or(vec![], |proxy| proxy.accepted()), vec![]);
    }
}

/// What is redirected goes over lo: while that is down, nobody's connections reach the proxy.
fn lo_down(variant: Variant) {
    let hosts = Hosts::captured(variant, CLASSIC);
    without_lo(&hosts, [NOT, PROBE, NOT, PROBE]);
}

fn lo_down_beside_a_proxy(variant: Variant) {
    let hosts = Hosts::captured(variant, CLASSIC);
    let proxy = Service::tcp(&hosts.here, PROXY, "proxy", &[15001]);
    hosts.here.ip("link set lo down");
    for family in Family::BOTH {
        let dialled = dial(&hosts.here, APP, THERE.port(family, 80));
        assert!(!dialled.is_captured_by("proxy"), "expected that it cannot be, seen {dialled}");
    }
    without_lo(&hosts, [NOT, CONNTRACK, NOT, CONNTRACK]);
    assert_eq!(proxy.accepted(), vec![]);
}

fn without_lo(hosts: &Hosts, hows: [&'static str; 4]) {
    hosts.here.ip("link set lo down");
    for flags in ["", CLASSIC] {
        let args: Vec<_> =
            ["verify", "--output", "json"].into_iter().chain(flags.split_whitespace()).collect();
        let before = trace(&hosts.here);
        judge(mesh_init(&hosts.here, &args), hows, 126);
        assert_same(flags, &before, &trace(&hosts.here));
    }
}

fn rule_ahead(variant: Variant) {
    const NOTE: &str = "a rule before ours lets traffic past";
    for held in [false, true] {
        let hosts = Hosts::captured(variant, CLASSIC);
        let proxy = held.then(|| Service::tcp(&hosts.here, PROXY, "proxy", &[15001]));
        let how = if held { CONNTRACK } else { PROBE };
        for (at, family, chain, rule, hows) in [
            (0, Family::V4, "OUTPUT", "-p tcp -j ACCEPT", [NOT, how, how, how]),
            (2, Family::V6, "OUTPUT", "-m owner --uid-owner 0 -j RETURN", [how, how, NOT, how]),
            (1, Family::V4, "PREROUTING", "-j ACCEPT", [how, NOT, how, how]),
            (3, Family::V6, "PREROUTING", "-p tcp -m tcp --dport 1024:65535 -j RETURN", [how, how, how, NOT]),
            // Others than those that are tried.
            (0, Family::V4, "OUTPUT", "-d 10.0.0.0/8 -j RETURN", [how; 4]),
            (3, Family::V6, "PREROUTING", "-p tcp -m tcp --dport 22 -j ACCEPT", [how; 4]),
        ] {
            restore(&hosts.here, variant, family, &format!("*nat\n-I {chain} {rule}\nCOMMIT\n"));
            for flags in ["", CLASSIC] {
                let seen = hosts.expect(flags, hows);
                assert_noted(&seen, NOTE);
                if hows[at] == NOT && held && chain == "OUTPUT" {
                    assert!(detail(&seen, at).contains("conntrack shows that it went to"), "{seen:#}");
                }
            }
            restore(&hosts.here, variant, family, &format!("*nat\n-D {chain} {rule}\nCOMMIT\n"));
        }
        let seen = hosts.expect("", [how; 4]);
        assert_eq!(notes(&seen), "", "{seen:#}");
        assert_eq!(proxy.map_or(vec![], |proxy| proxy.accepted()), vec![]);
    }
}

fn excluded_interface(variant: Variant) {
    for flags in ["--uid-owner 1338 --inbound 8001 -c eth9", "--layout istio -p 15001 -z 15006 -c eth9,eth8"]
    {
        let hosts = Hosts::captured(variant, flags);
        let hows = [RULES, PROBE, RULES, PROBE];
        // Bare rules of the istio layout tell nobody's policy.
        let seen = hosts.expect(flags, hows);
        assert!(detail(&seen, 0).contains("an interface is excluded"), "{seen:#}");
        hosts.expect_code(&format!("{flags} --strict"), hows, 126);
        assert_eq!(
            remove(&hosts.here, variant, Family::V4, "nat", |rule| {
                rule.starts_with("OUTPUT ") && rule.ends_with("-j ISTIO_OUTPUT")
            }),
            1
        );
        hosts.expect(flags, [NOT, PROBE, RULES, PROBE]);
    }
}

fn networks(variant: Variant) {
    let hosts = Hosts::new();
    for (flags, hows, tried) in [
        ("--uid-owner 1338 -i 10.0.0.0/8,fd00::/8", [RULES, UNWANTED, RULES, UNWANTED], "TEST-NET"),
        ("-p 15001 -u 1337 -i 10.0.0.0/8,fd00::/8", [RULES, PROBE, RULES, PROBE], "TEST-NET"),
        ("--uid-owner 1338 -i 10.0.0.0/8", [RULES, UNWANTED, UNWANTED, UNWANTED], "TEST-NET"),
        ("--uid-owner 1338 -i 10.0.0.0/8,fd00::/8 -q 80", [PROBE, UNWANTED, PROBE, UNWANTED], "192.0.2.1:80"),
        ("--uid-owner 1338 -q 53,8080-8090", [PROBE, UNWANTED, PROBE, UNWANTED], "192.0.2.1:8080"),
        (
            "--uid-owner 1338 -x 192.0.2.0/24,198.51.100.0/24",
            [PROBE, UNWANTED, PROBE, UNWANTED],
            "203.0.113.1:",
        ),
        ("--uid-owner 1338 -o 48291", [PROBE, UNWANTED, PROBE, UNWANTED], "192.0.2.1:41873"),
        (
            "--uid-owner 1338 -i 198.51.100.0/24,2001:db8::/32",
            [PROBE, UNWANTED, PROBE, UNWANTED],
            "198.51.100.1:",
        ),
        (
            "--uid-owner 1338 -x 192.0.2.0/24,198.51.100.0/24,203.0.113.0/24",
            [RULES, UNWANTED, PROBE, UNWANTED],
            "TEST-NET",
        ),
        ("--uid-owner 1338 --inbound * -d 48291", [PROBE; 4], "192.0.2.1:48291"),
        ("--gid-owner 1500 --inbound 8001-8005,22", [PROBE; 4], "as gid 1500"),
        ("-p 15001 -u 0,1337", [PROBE; 4], "as uid 65534"),
        ("-p 15001 -u 1337 -g 0", [PROBE; 4], "as gid 65534"),
    ] {
        hosts.apply(variant, flags);
        for asked in [flags, ""] {
            let mut hows = hows;
            if asked.is_empty() && hows[2..] == [UNWANTED; 2] {
                // Rules that were never made do not say whether they were wanted.
                hows[2..].copy_from_slice(&[ALONE; 2]);
            }
            let seen = hosts.expect(asked, hows);
            assert!(detail(&seen, 0).contains(tried), "{flags}: expected {tried}, seen {seen:#}");
            let strict = if hows.contains(&RULES) || hows.contains(&ALONE) { 126 } else { 0 };
            hosts.expect_code(&format!("{asked} --strict"), hows, strict);
        }
    }
}

/// A firewall that lets nothing in but over the wires that it knows, and one that lets nothing out.
fn firewall(variant: Variant) {
    for held in [false, true] {
        let hosts = Hosts::captured(variant, CLASSIC);
        let proxy = held.then(|| Service::tcp(&hosts.here, PROXY, "proxy", &[15001]));
        let how = if held { CONNTRACK } else { PROBE };
        for family in Family::BOTH {
            let text = "*filter\n-A INPUT -i eth0 -j ACCEPT\n-A INPUT -i lo -j ACCEPT\n-A INPUT -p tcp -j DROP\nCOMMIT\n";
            restore(&hosts.here, variant, family, text);
        }
        let seen = hosts.expect("", [how, RULES, how, RULES]);
        assert!(detail(&seen, 1).contains("drops"), "{seen:#}");
        hosts.expect_code("--strict", [how, RULES, how, RULES], 126);
        for family in Family::BOTH {
            let nobody = if family == Family::V4 { "192.0.2.0/24" } else { "2001:db8::/64" };
            restore(
                &hosts.here,
                variant,
                family,
                &format!("*filter\n-F INPUT\n-A OUTPUT -d {nobody} -j DROP\nCOMMIT\n"),
            );
        }
        // What is captured stays here.
        hosts.expect("", [how; 4]);
        assert_eq!(remove(&hosts.here, variant, Family::V4, "nat", |rule| rule.starts_with("OUTPUT ")), 1);
        hosts.expect(CLASSIC, [NOT, how, how, how]);
        assert_eq!(proxy.map_or(vec![], |proxy| proxy.accepted()), vec![]);
    }
}

/// The rule and the route of TPROXY's packets are read, and their lack is told.
fn routing_gone(variant: Variant) {
    for (line, v6) in [
        ("rule del fwmark 1337", false),
        ("route del local default table 133", false),
        ("-6 rule del fwmark 1337", true),
        ("-6 route del local default dev lo table 133", true),
    ] {
        let hosts = Hosts::captured(variant, TPROXY);
        let ask = |held: bool| {
            let mut hows = if held { [CONNTRACK, RULES, CONNTRACK, RULES] } else { [PROBE; 4] };
            if held {
                hows[usize::from(v6) * 2 + 1] = NOT;
            }
            let wrong = [
                if v6 { "IPv6: " } else { "IPv4: " },
                if line.contains("rule") { "routing rule" } else { "route" },
            ];
            for flags in ["", TPROXY] {
                hosts.expect_wrong(flags, hows, &wrong);
            }
            let quick = if v6 { [RULES, RULES, NOT, NOT] } else { [NOT, NOT, RULES, RULES] };
            hosts.expect_wrong("--quick", quick, &wrong);
        };
        let args: Vec<_> = line.split(' ').collect();
        Run::new(&hosts.here, "ip", &args).ok();
        ask(false);
        let proxy = Service::tcp(&hosts.here, PROXY, "proxy", &[15001, 15006]);
        ask(true);
        assert_eq!(proxy.accepted(), vec![]);
    }
}

/// A move that was interrupted: rules in both.
fn both_iptables(variant: Variant) {
    let hosts = Hosts::captured(variant, SCOPED);
    let (one, other) = (dump(&hosts.here), Hosts::captured(variant.other(), SCOPED));
    let saved = Family::BOTH.map(|family| {
        let table = crate::support::rules::save(&other.here, variant.other(), family, &["-t", "nat"]);
        restore(&hosts.here, variant.other(), family, &table);
    });
    assert_eq!(saved.len(), 2);
    assert_ne!(one, dump(&hosts.here));
    for flags in ["", SCOPED] {
        hosts.expect_wrong(flags, [PROBE; 4], &["IPv4: table nat of", "IPv6: table nat of"]);
    }
    for one in Variant::BOTH {
        let flags = format!("{SCOPED} --iptables-variant {}", one.name());
        let surplus = format!("table nat of iptables-{}", one.other().name());
        hosts.expect_wrong(&flags, [PROBE; 4], &[&surplus]);
    }
}

/// From another namespace.
fn by_the_path(variant: Variant) {
    let hosts = Hosts::captured(variant, SCOPED);
    let caller = Netns::new("caller");
    let (empty, before) = (trace(&caller), trace(&hosts.here));
    let path = hosts.here.path().display().to_string();
    let ask = |more: &[&str]| {
        mesh_init(&caller, &[&["verify", "--output", "json", "--netns", &path], more].concat())
    };
    judge(ask(&[]), [PROBE; 4], 0);
    judge(ask(&split("--uid-owner 1400 --inbound 8001")), [NOT, PROBE, NOT, PROBE], 126);
    assert_eq!(remove(&hosts.here, variant, Family::V6, "nat", |rule| rule.starts_with("PREROUTING ")), 1);
    judge(ask(&[]), [PROBE, PROBE, PROBE, NOT], 126);
    hosts.apply(variant, SCOPED);
    assert_same("the caller's namespace", &empty, &trace(&caller));
    assert_same("the other namespace", &before, &trace(&hosts.here));
    mesh_init(&caller, &["verify"]).code(126);
}

/// They get what is needed to read and write rules, and nothing of what it takes to try a connection.
fn of_the_tools(variant: Variant) {
    const NET_ADMIN_AND_RAW: u64 = 1 << 12 | 1 << 13;
    const SYS_MODULE: u64 = 1 << 16;
    const NOTE: &str = "grep -E '^Cap(Prm|Eff|Inh|Amb):' /proc/$$/status >> /run/told\nexec $real \"$@\"";
    let hosts = Hosts::captured(variant, CLASSIC);
    for line in ["verify", "verify --quick", "verify --quick --repair -p 15002 -u 1337"] {
        let tools = ["restore", "save"].map(|verb| Family::BOTH.map(|family| variant.program(family, verb)));
        let sbin = tools.as_flattened().iter().fold(Sbin::new(), |sbin, name| sbin.with(name, NOTE));
        drop(fs::remove_file("/run/told"));
        let args: Vec<_> = line.split(' ').collect();
        mesh_init(&hosts.here, &args).code(0);
        drop(sbin);
        let told = fs::read_to_string("/run/told").expect("the tools ran");
        let given = told.lines().filter_map(|line| line.split_once(":\t"));
        let too_much: BTreeSet<_> = given
            .filter(|(_, set)| {
                u64::from_str_radix(set, 16).expect("a set") & !(NET_ADMIN_AND_RAW | SYS_MODULE) != 0
            })
            .collect();
        assert!(
            too_much.is_empty(),
            "{line}: expected CAP_NET_ADMIN and CAP_NET_RAW at most, seen {too_much:?}"
        );
    }
}

/// Clients of a real proxy do not notice.
fn beside_clients(variant: Variant) {
    let (here, there) = busy_hosts();
    here.ip("route add default via 10.0.0.2\nroute add default via fd00::2");
    for flags in ["--uid-owner 1000 --inbound 8001", "-p 15001 -u 1337"] {
        crate::scoped::apply(&here, variant, &split(flags));
        let before = dump(&here);
        let mut clients = Clients::start(routes(&here, &there, &Family::BOTH), "proxy");
        for round in 0..15 {
            let more: &[&str] = if round % 3 == 2 { &["--quick"] } else { &["--strict"] };
            mesh_init(&here, &[&["verify"], more].concat()).code(0);
        }
        clients.stop();
        clients.assert_all_captured(flags);
        assert_same("after all of them", &before, &dump(&here));
    }
}

/// Several at once in one namespace take turns.
fn many(variant: Variant) {
    let hosts = Hosts::captured(variant, SCOPED);
    let before = trace(&hosts.here);
    let call = || {
        crate::support::call::Call::mesh_init(&hosts.here, &["verify", "--output", "json", "--wait", "60"])
    };
    let runs: Vec<_> = (0..8).map(|_| call().start()).collect();
    for run in runs {
        judge(run.finish(), [PROBE; 4], 0);
    }
    assert_same("after all of them", &before, &trace(&hosts.here));
}

/// Killed at any instant, it leaves no link, no address and no listener.
fn killed(variant: Variant) {
    Victim::adopt_orphans();
    for held in [false, true] {
        let hosts = Hosts::captured(variant, ISTIO);
        let proxy = held.then(|| Service::tcp(&hosts.here, PROXY, "proxy", &[15001, 15006]));
        let before = dump(&hosts.here);
        let took = Victim::start(&hosts.here, MESH_INIT, &["verify"]).succeed();
        for number in 0..20 {
            let at = took.mul_f64(f64::from(number) / 18.0);
            Victim::start(&hosts.here, MESH_INIT, &["verify"]).kill(at, number % 2 == 0);
            // The kernel takes the other namespace away in its own time.
            let end = Instant::now() + Duration::from_secs(30);
            while dump(&hosts.here) != before && Instant::now() < end {
                thread::sleep(Duration::from_millis(10));
            }
            assert_same(&format!("killed after {at:?}"), &before, &dump(&hosts.here));
        }
        mesh_init(&hosts.here, &["verify", "--strict"]).code(0);
        assert_eq!(proxy.map_or(vec![], |proxy| proxy.accepted()), vec![]);
    }
}
