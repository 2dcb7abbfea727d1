//! What is said of nftables: the text of `plan` is what `apply` makes, and `status` and `verify` miss every rule.

use mesh_init::backend::nftables::{TABLE, decode, normal};
use mesh_init::rules::RuleSet;
use mesh_init::sys::nftables::Nftables;

use crate::again;
use crate::foreign;
use crate::harness::Case;
use crate::istio::POD;
use crate::istio_replace::{ALL_DNS, LISTS, TPROXY_DNS};
use crate::istio_tproxy::TPROXY;
use crate::scoped::{APP, VM, apply, serve};
use crate::status::{assert_whole, json_of, packets, status};
use crate::support::command::{Run, mesh_init};
use crate::support::dial::dial;
use crate::support::netns::Netns;
use crate::support::resolv::resolvers;
use crate::support::rules::{Family, Variant, assert_same, dump, native};
use crate::support::wire::{HERE, THERE, two_hosts};
use crate::verify::{CLASSIC, Hosts, ISTIO, NOT, PROBE, SCOPED};

pub(crate) fn cases() -> Vec<Case> {
    let list: [(&str, fn()); 7] = [
        ("planned_is_made", planned_is_made),
        ("planned_live", planned_live),
        ("every_rule_is_missed", every_rule_is_missed),
        ("maps", maps),
        ("verify_and_repair", verify_and_repair),
        ("upstreams", upstreams),
        ("explained", explained),
    ];
    list.into_iter()
        .map(|(name, body)| {
            Case::new(&format!("native::text::{name}"), body).within(std::time::Duration::from_secs(60))
        })
        .collect()
}

const POLICIES: [&str; 15] = [
    SIDECAR,
    MAPPED,
    MAPPED_SCOPED,
    "-p 15001 -u 1337",
    "-p 15001 -u 1337,1338 -g 1340,1341 -i 10.0.0.0/8,172.16.0.0/12,fd00::/8",
    "--uid-owner 1338 --inbound 8001",
    "--uid-owner 1338,1400,1401 --gid-owner 5,6 -b * -d 9090 -o 22,25 -x 10.0.0.0/8,fd00::/8 -q 80 -i 1.2.3.0/24",
    POD,
    LISTS,
    ALL_DNS,
    "-p 15001 -z 15006 -u 1337 -b 80,81,82,83,90-99,100,102,104,106 -c eth1,eth2 -k eth3 --drop-invalid",
    "-p 15001 -z 15006 -u 1337 -b * -i * --owner-group 1000,1001,1002",
    "-p 15001 -z 15006 -u 1337 -b * -i * --exclude-owner-group 1000",
    TPROXY,
    TPROXY_DNS,
];

/// What Istio's injector asks for: the tunnel port and those of `-d` are one look-up.
const SIDECAR: &str = "-p 15001 -z 15006 -u 1337 -g 1337 -b * -i * -d 15090,15021,15020";
/// Maps of ports and of networks.
const MAPPED: &str = "-p 15001 -z 15006 -u 1337 -b 80,8080-8090 -i 10.0.0.0/24,172.16.0.0/12,fd00::/64,fd01::/64 \
    -x 192.168.0.0/16,198.18.0.0/15,fd77::/32,fd79::/32 -o 443,9443";
const MAPPED_SCOPED: &str = "--uid-owner 1338 -b * -d 9090,9100 -o 22,25";

/// Ordinary policies have maps; status tells each clause of one with its counter, and so does explain.
fn maps() {
    for (flags, number) in [(SIDECAR, 1), (MAPPED, 2), (MAPPED_SCOPED, 1), ("-p 15001 -u 1337", 0)] {
        let netns = foreign::namespace();
        apply(&netns, Variant::Native, &split(flags));
        for family in Family::BOTH {
            let listed = native(&netns, family, &[]);
            for word in ["\tmap map_", " vmap @map_"] {
                assert_eq!(listed.matches(word).count(), number, "{flags}: `{word}` in\n{listed}");
            }
        }
        let plan = mesh_init(&netns, &[&["plan"], &split(flags)[..], &Variant::Native.flags()].concat()).ok();
        assert_eq!(plan.matches("\tmap map_").count(), 2 * number, "{flags}:\n{plan}");
    }
    let (here, there) = two_hosts();
    serve(&here, &there);
    apply(&here, Variant::Native, &split(SIDECAR));
    for family in Family::BOTH {
        for (port, times) in [(15021, 2), (15020, 1), (8001, 3)] {
            for _ in 0..times {
                let dialled = dial(&there, APP, HERE.port(family, port));
                let captured = dialled.is_captured_by("inbound");
                assert_eq!(captured, port == 8001, "{dialled}");
            }
        }
        let seen = status(&here);
        let clauses = ["inbound.tunnel", "inbound.exclude-port", "inbound.all", "redirect.inbound"];
        assert_eq!(clauses.map(|clause| packets(&seen, clause, family)), [0, 3, 3, 3], "{seen:#}");
    }
    let asked = |line: &str| mesh_init(&here, &[&["explain", "--live"], &split(line)[..]].concat()).code(0);
    asked("in tcp 10.0.0.1:15021").says("inbound.exclude-port").says("not captured");
    asked("in tcp 10.0.0.1:15008").says("inbound.tunnel").says("not captured");
    asked("in tcp 10.0.0.1:80").says("inbound.all").says("captured");
}

fn split(flags: &str) -> Vec<&str> {
    flags.split_whitespace().collect()
}

/// Our rules as the kernel has them, however they are spelled.
fn decoded(netns: &Netns) -> RuleSet {
    let snapshot = netns.run(|| Nftables::open().and_then(|nft| nft.tables(TABLE)).expect("a snapshot"));
    let mut rules = normal(&decode(&snapshot.messages).rules);
    for rule in rules.chains.iter_mut().flat_map(|chain| &mut chain.rules) {
        rule.seen = None;
    }
    rules.chains.sort_by(|one, other| (one.family, &one.name).cmp(&(other.family, &other.name)));
    rules
}

/// Loaded by nft, it is the same to us and to `apply`, which changes nothing.
fn planned_is_made() {
    resolvers(&Family::BOTH.map(|family| THERE.ip(family)));
    for flags in POLICIES {
        let (loaded, made) = (foreign::namespace(), foreign::namespace());
        let words = [split(flags), Variant::Native.flags().to_vec()].concat();
        let text = mesh_init(&loaded, &[&["plan"], &words[..]].concat()).ok();
        Run::with_input(&loaded, "nft", &["-c", "-f", "-"], &text).ok();
        assert_eq!(native(&loaded, Family::V4, &[]), "", "{flags}: expected no change by -c");
        Run::with_input(&loaded, "nft", &["-f", "-"], &text).ok();
        mesh_init(&made, &words).code(0);
        assert_eq!(decoded(&loaded), decoded(&made), "{flags}");
        let run = mesh_init(&loaded, &words).code(0);
        let tables: Vec<_> = run.stdout.lines().filter(|line| line.contains("table mesh_init")).collect();
        assert_eq!(tables, [""; 0], "{flags}: expected no change of the rules, seen {run}");
        let seen = status(&loaded);
        assert_whole(flags, &seen, true);
        assert_eq!(seen["variant"], "nftables", "{flags}");
        mesh_init(&loaded, &["clean"]).code(0).says("removed");
        assert_eq!(Run::new(&loaded, "nft", &["list", "ruleset"]).ok(), "", "{flags}");
    }
}

/// It says what `apply` would do, and nothing is done.
fn planned_live() {
    for pair in [&POLICIES[..2], &POLICIES[2..4], &POLICIES[4..6], &POLICIES[5..7], &POLICIES[9..11]] {
        let netns = foreign::namespace();
        for flags in pair {
            let words = [split(flags), Variant::Native.flags().to_vec()].concat();
            let before = dump(&netns);
            let live = [&["plan", "--live"], &words[..]].concat();
            let run = mesh_init(&netns, &live).code(0).says("table mesh_init of nftables");
            assert_same(flags, &before, &dump(&netns));
            let fresh = foreign::namespace();
            Run::with_input(&fresh, "nft", &["-f", "-"], &run.stdout).ok();
            mesh_init(&netns, &words).code(0).says("\nchanged ");
            assert_eq!(decoded(&fresh), decoded(&netns), "{flags}");
            mesh_init(&netns, &live).code(0).says("nothing to do");
        }
        // Without IPv6 its table goes.
        let words = [&split("-p 15001 -u 1337 --ipv6 off")[..], &Variant::Native.flags()].concat();
        let run = mesh_init(&netns, &[&["plan", "--live"], &words[..]].concat()).code(0);
        run.says("delete table ip6 mesh_init");
        // Another carrier: the tables go and rules of iptables come.
        let words = [&split(pair[1])[..], &Variant::Nft.flags()].concat();
        let run = mesh_init(&netns, &[&["plan", "--live"], &words[..]].concat()).code(0);
        run.says("delete table ip mesh_init").says("delete table ip6 mesh_init").says("of iptables-nft");
    }
}

/// The rules of our tables, each with its chain and the words that delete it.
fn handles(netns: &Netns, family: Family) -> Vec<[String; 2]> {
    let listed = native(netns, family, &["-a"]);
    let mut chain = String::new();
    let mut rules = Vec::new();
    for line in listed.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("chain ") {
            chain = rest.split(' ').next().unwrap_or_default().to_owned();
        } else if let (true, Some((rule, handle))) =
            (line.contains("counter") || line.contains(" vmap @"), line.split_once(" # handle "))
        {
            let words = format!("delete rule {} mesh_init {chain} handle {handle}", family.of_nft());
            rules.push([format!("{chain}: {rule}"), words]);
        }
    }
    rules
}

/// Whichever rule somebody deletes, it is told, and the next run puts it back.
fn every_rule_is_missed() {
    for flags in
        ["-p 15001 -u 1337 -g 1340", "--uid-owner 1338 --inbound 8001 -z 15006 -o 22,25", LISTS, MAPPED]
    {
        let netns = foreign::namespace();
        let words = split(flags);
        apply(&netns, Variant::Native, &words);
        let whole = dump(&netns);
        for family in Family::BOTH {
            let number = handles(&netns, family).len();
            assert!(number >= 5, "expected some rules, seen\n{whole}");
            for at in 0..number {
                let [rule, delete] = handles(&netns, family).swap_remove(at);
                Run::new(&netns, "nft", &split(&delete)).ok();
                let what = format!("{flags}, {family:?} without {rule}");
                // Without one of its clauses it may be another policy's whole.
                if flags != LISTS && flags != MAPPED {
                    let seen = json_of(mesh_init(&netns, &["status", "--output", "json"]));
                    assert_ne!(seen["whole"], true, "{what}: expected a fault, seen {seen:#}");
                }
                let verified = mesh_init(&netns, &[&["verify", "--quick"], &words[..]].concat());
                assert_eq!(verified.code, Some(126), "{what}: seen {verified}");
                apply(&netns, Variant::Native, &words);
                assert_same(&what, &whole, &dump(&netns));
                assert_whole(&what, &status(&netns), true);
            }
        }
    }
}

/// A try finds out what the rules do not say, and `--repair` puts it right.
fn verify_and_repair() {
    for (flags, chains) in [
        (CLASSIC, ["nat_output", "nat_prerouting"]),
        (SCOPED, ["nat_outbound", "nat_inbound"]),
        (ISTIO, ["nat_outbound", "nat_inbound"]),
    ] {
        for (place, chain) in chains.iter().enumerate() {
            for (family, first) in [(Family::V4, 0), (Family::V6, 2)] {
                let hosts = Hosts::captured(Variant::Native, flags);
                let whole = dump(&hosts.here);
                hosts.expect(flags, [PROBE; 4]);
                Run::new(&hosts.here, "nft", &["flush", "chain", family.of_nft(), "mesh_init", chain]).ok();
                let mut hows = [PROBE; 4];
                hows[first + place] = NOT;
                hosts.expect(flags, hows);
                let repair = format!("verify --repair {flags} --backend nftables");
                mesh_init(&hosts.here, &split(&repair)).code(0).says("captured (probe)");
                assert_same("after the repair", &whole, &dump(&hosts.here));
                hosts.expect(flags, [PROBE; 4]);
            }
        }
    }
    // Rules of others before ours are found by trying, too.
    let hosts = Hosts::captured(Variant::Native, CLASSIC);
    let theirs = "table ip theirs {\n\tchain out {\n\t\ttype nat hook output priority -110; policy accept;\n\
        \t\tmeta l4proto tcp redirect to :4242\n\t}\n}\n";
    Run::with_input(&hosts.here, "nft", &["-f", "-"], theirs).ok();
    let run = mesh_init(&hosts.here, &split("verify -p 15001 -u 1337")).code(126);
    run.says("outbound IPv4: NOT CAPTURED").says("inbound IPv4: captured (probe)");
}

/// `istio-iptables --native-nftables`: upstream's meaning, its cleanup, and the way back.
fn upstreams() {
    for flags in [
        "-p 15001 -z 15006 -u 1337 -g 1337 -b * -i * -d 15090,15021,15020",
        "-p 15001 -z 15006 -u 1337 -g 1337 -b * -i * -m TPROXY",
    ] {
        let hosts = Hosts::new();
        let before = dump(&hosts.here);
        let words = [&["istio-iptables", "--dual-stack"], &split(flags)[..]].concat();
        let native = [&words[..], &["--native-nftables"]].concat();
        mesh_init(&hosts.here, &native).code(0).says("nftables");
        crate::support::wire::settle(&[&hosts.here]);
        hosts.expect("", [PROBE; 4]);
        hosts.expect("--strict", [PROBE; 4]);
        let seen = status(&hosts.here);
        assert_whole(flags, &seen, true);
        assert_eq!(seen["variant"], "nftables", "{seen:#}");
        mesh_init(&hosts.here, &native).code(0).says("nothing to do");
        // What holds the rules is kept; asked for, it is iptables again, and nothing is left of the tables.
        mesh_init(&hosts.here, &words).code(0).says("nothing to do");
        let iptables = [&words[..], &["--force-iptables-binary", "nft"]].concat();
        mesh_init(&hosts.here, &iptables).code(0).says("iptables-nft");
        assert_eq!(Family::BOTH.map(|family| self::native(&hosts.here, family, &[])), ["", ""], "{flags}");
        mesh_init(&hosts.here, &native).code(0).says("nftables");
        mesh_init(&hosts.here, &[&native[..], &["--cleanup-only"]].concat()).code(0);
        assert_same("after the cleanup", &before, &dump(&hosts.here));
    }
}

/// `explain --live` goes by our tables, and by those of others before and after them.
fn explained() {
    let netns = foreign::namespace();
    let asked = |line: &str| mesh_init(&netns, &[&["explain", "--live"], &split(line)[..]].concat()).code(0);
    apply(&netns, Variant::Native, &VM);
    asked("out tcp uid=1338 10.1.2.3:80").says("captured -> 15001: out").says("mesh_init");
    asked("out tcp uid=1000 10.1.2.3:80").says("not captured: out");
    apply(&netns, Variant::Native, &again::CLASSIC);
    asked("out tcp uid=1000 10.1.2.3:80").says("captured -> 15001: out").says("  outbound.all: ");
    asked("out tcp uid=1337 10.1.2.3:80").says("not captured: out").says("  proxy.uid: ");
    let theirs = "table ip theirs {\n\tchain out {\n\t\ttype nat hook output priority -110; policy accept;\n\
        \t\ttcp dport 80 redirect to :4242\n\t}\n}\n";
    Run::with_input(&netns, "nft", &["-f", "-"], theirs).ok();
    asked("out tcp uid=1000 10.1.2.3:80").says("captured -> 4242: out").says("  by theirs out rule 1: ");
}
