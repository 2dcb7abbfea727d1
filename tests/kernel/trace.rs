//! `watch --trace`: the kernel's own account of a packet's way, beside what `explain` says of the same packet.

use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::harness::{Case, PerVariant};
use crate::istio::{APP, POD, PROXY, ROOT_PROXY};
use crate::istio_tproxy::TPROXY;
use crate::scoped::apply;
use crate::support::command::{MESH_INIT, Run, command, mesh_init};
use crate::support::creds::Who;
use crate::support::dial::{dial, dial_udp};
use crate::support::netns::Netns;
use crate::support::rules::{Family, Variant, assert_same, dump, restore};
use crate::support::serve::Service;
use crate::support::wire::{Addresses, HERE, LOOPBACK, THERE, two_hosts};

pub(crate) fn cases() -> Vec<Case> {
    let per_variant: [(&str, PerVariant); 3] = [
        ("ways", ways),
        ("ways_beside_others", ways_beside_others),
        ("changes_meanwhile", changes_meanwhile),
    ];
    let of_nf_tables = [Variant::Nft, Variant::Native];
    let each = per_variant.iter().flat_map(|(name, body)| {
        of_nf_tables.map(|variant| {
            let body = *body;
            Case::new(&format!("trace::{name}::{}", variant.name()), move || body(variant))
                .within(Duration::from_secs(60))
        })
    });
    let once: [(&str, fn()); 5] = [
        ("text", text),
        ("ends_when_asked", ends_when_asked),
        ("killed", killed),
        ("left_by_an_older_kernel", left_by_an_older_kernel),
        ("refusals", refusals),
    ];
    let once = once.map(|(name, body)| Case::new(&format!("trace::{name}"), body));
    each.chain(once).collect()
}

const TABLE: &str = "mesh_init_trace";

fn is_marked(netns: &Netns) -> bool {
    Run::new(netns, "nft", &["list", "tables"]).ok().contains(TABLE)
}

#[track_caller]
fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < end, "{what}: not within 10 s");
        thread::sleep(Duration::from_millis(10));
    }
}

/// A trace that goes on.
struct Trace(Child);

impl Trace {
    fn begin(netns: &Netns, args: &[&str]) -> Trace {
        let args = [&["watch", "--trace"], args].concat();
        eprintln!("+ mesh-init {}", args.join(" "));
        let mut command = command(MESH_INIT, &args);
        command.stdin(Stdio::null());
        let mut child = netns.run(|| command.spawn()).expect("a program that starts");
        let end = Instant::now() + Duration::from_secs(10);
        while !is_marked(netns) {
            let ended = child.try_wait().expect("a child of ours");
            assert!(ended.is_none() && Instant::now() < end, "the trace never began: {ended:?}");
            thread::sleep(Duration::from_millis(10));
        }
        Trace(child)
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.0.id()).expect("a pid");
        kill(Pid::from_raw(pid), signal).expect("a child of ours");
    }

    /// What it has printed when it has ended.
    fn printed(self) -> String {
        let output = self.0.wait_with_output().expect("a child of ours");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{}: {said}", output.status);
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    fn packets(self) -> Vec<Value> {
        let printed = self.printed();
        printed.lines().map(|line| serde_json::from_str(line).expect("a JSON object a line")).collect()
    }
}

/// One step of either account: called chains, rules that were hit, policies, the way back over lo.
fn steps(trail: &Value) -> Vec<String> {
    let steps = trail.as_array().expect("a trail").iter();
    steps
        .filter_map(|step| {
            let word = |key: &str| step[key].as_str().unwrap_or_default();
            Some(match word("step") {
                "chain" => format!("{} at {}", word("chain"), step["priority"]),
                "rule" if step["hit"] == false => return None,
                "rule" => {
                    let place = format!("{} {} at depth {}", word("chain"), step["number"], step["depth"]);
                    format!("{place} for {}", word("clause"))
                }
                "policy" => format!("end of {}: {}", word("chain"), step["accepts"]),
                "way" if word("to").starts_with("out over lo") => "back".to_owned(),
                "way" | "notCalled" => return None,
                other => panic!("{other}: no such step"),
            })
        })
        .collect()
}

/// The steps of each base chain by themselves, without chains that did nothing and that the other account leaves out:
/// the model has no chains that let everything through, and none that change sources.
fn without_idle(steps: &[String], other: &[String]) -> Vec<String> {
    let is_rule = |step: &String| step.contains(" at depth ");
    let enters = |step: &String| step.contains(" at ") && !is_rule(step);
    let chains = steps.chunk_by(|_, next| !enters(next) && next != "back");
    let said = |chain: &&[String]| {
        chain.iter().any(is_rule) || chain == &["back"] || chain.iter().all(|step| other.contains(step))
    };
    chains.filter(said).flatten().cloned().collect()
}

/// Whose packet goes where, and how it is dialled.
#[derive(Clone, Copy)]
struct Call<'a> {
    from: &'a Netns,
    who: Who,
    to: SocketAddr,
    udp: bool,
    /// It arrives here.
    inbound: bool,
}

impl Call<'_> {
    /// The filter that only its first packet fits.
    fn filter(&self) -> String {
        let Call { who, to, .. } = self;
        let protocol = if self.udp { "udp" } else { "tcp packet=first" };
        match self.inbound {
            true => format!("in {protocol} eth0 {to}"),
            false => format!("out {protocol} uid={} gid={} {to}", who.uid, who.gid),
        }
    }

    fn dial(&self) {
        let dialled = match self.udp {
            true => dial_udp(self.from, self.who, self.to),
            false => dial(self.from, self.who, self.to),
        };
        eprintln!("{dialled}");
    }
}

/// Traces the call's first packet and asks `explain` about that very packet: both tell the same way.
#[track_caller]
fn same_way(here: &Netns, call: Call<'_>) -> Value {
    let filter = call.filter();
    let before = dump(here);
    let trace = Trace::begin(here, &[&filter, "--count", "1", "--output", "json"]);
    call.dial();
    let packets = trace.packets();
    let [traced] = packets.as_slice() else { panic!("{filter}: {packets:#?}") };
    assert!(!is_marked(here), "{filter}: marks are left");
    assert_same("after a trace", &before, &dump(here));
    let packet =
        |key: &str| traced["packet"][key].as_str().unwrap_or_else(|| panic!("{traced:#}")).to_owned();
    assert_eq!(packet("destination"), call.to.to_string(), "{traced:#}");
    let (direction, interface) = (packet("direction"), packet("interface"));
    let owner = match call.inbound {
        true => String::new(),
        false => format!("uid={} gid={}", call.who.uid, call.who.gid),
    };
    let (source, to) = (packet("source"), packet("destination"));
    let protocol = packet("protocol");
    let connection = format!("{direction} {protocol} {owner} dev={interface} {source} -> {to}");
    let run = mesh_init(here, &["explain", "--live", &connection, "--output", "json"]).ok();
    let explained: Value = serde_json::from_str(&run).expect("JSON");
    let answer = &explained["answers"][0];
    let wanted = steps(&answer["trail"]);
    let seen = without_idle(&steps(&traced["trail"]), &wanted);
    assert_eq!(seen, wanted, "{connection}: traced {traced:#}\nexplained {answer:#}");
    assert_eq!(traced["incomplete"], false, "{traced:#}");
    // Where the kernel has brought it, and where explain says that it goes.
    let outcome = &answer["outcome"];
    let end = &traced["end"];
    let arrived = end["destination"].as_str().unwrap_or_default();
    match outcome["verdict"].as_str() {
        Some("captured") if outcome["by"] == "TPROXY" => {
            assert_eq!((arrived, &end["verdict"]), (to.as_str(), &Value::from("delivered")), "{traced:#}");
        }
        Some("captured") => {
            let port = format!(":{}", outcome["port"]);
            assert!(end["verdict"] == "delivered" && arrived.ends_with(&port), "{traced:#} {outcome}");
        }
        Some("not captured") => assert_eq!(arrived, to, "{traced:#}"),
        other => panic!("{other:?}: {answer:#}"),
    }
    traced.clone()
}

fn serve(here: &Netns, there: &Netns) {
    Service::tcp(here, PROXY, "outbound", &[15001]);
    Service::transparent(here, ROOT_PROXY, "inbound", &[15006]);
    Service::tcp(here, Who::ROOT, "here", &[80, 8001, 15090, 22]);
    Service::tcp(there, Who::ROOT, "there", &[80]);
    Service::udp(there, Who::ROOT, "there", 53);
}

fn calls<'a>(here: &'a Netns, there: &'a Netns, family: Family) -> Vec<Call<'a>> {
    let call = |from: &'a Netns, who, address: Addresses, port, udp, inbound| {
        let to = address.port(family, port);
        Call { from, who, to, udp, inbound }
    };
    vec![
        call(here, APP, THERE, 80, false, false),
        call(here, PROXY, THERE, 80, false, false),
        call(here, APP, HERE, 80, false, false),
        call(here, APP, LOOPBACK, 80, false, false),
        call(here, APP, THERE, 53, true, false),
        call(there, APP, HERE, 80, false, true),
        call(there, APP, HERE, 15090, false, true),
        call(there, APP, HERE, 22, false, true),
    ]
}

/// Enough ports for a look-up in their place.
const MANY: &str = "-p 15001 -z 15006 -u 1337 -b * -i 10.0.0.0/24,fd00::/64 \
    -d 22,1000,2000,3000,4000,5000,6000,7000,8000,15090 -o 53,5432";
const VM: &str = "--uid-owner 1000 --inbound 80,8001 -x 10.9.0.0/24,fd00:9::/64";

fn ways(variant: Variant) {
    let mut clauses = std::collections::BTreeSet::new();
    for flags in ["-p 15001 -u 1337", POD, MANY, VM, TPROXY] {
        let (here, there) = two_hosts();
        serve(&here, &there);
        apply(&here, variant, &flags.split_whitespace().collect::<Vec<_>>());
        for family in Family::BOTH {
            for call in calls(&here, &there, family) {
                let traced = same_way(&here, call);
                let trail = traced["trail"].as_array().expect("a trail");
                for step in trail.iter().filter(|step| step["step"] == "rule") {
                    assert!(step["rule"].is_string() && step["clause"].is_string(), "{traced:#}");
                    clauses.extend(step["clause"].as_str().map(str::to_owned));
                }
            }
        }
    }
    // That both accounts agree says little unless rules were met.
    for clause in ["outbound.hook", "outbound.all", "proxy.uid", "inbound.hook", "inbound.exclude-port"] {
        assert!(clauses.contains(clause), "{clause} was never met: {clauses:?}");
    }
}

/// Rules of others, in both forms that nf_tables has them in, that drop and mark.
fn ways_beside_others(variant: Variant) {
    let (here, there) = two_hosts();
    serve(&here, &there);
    apply(&here, variant, &["-p", "15001", "-u", "1337"]);
    restore(
        &here,
        Variant::Nft,
        Family::V4,
        "*mangle\n-A OUTPUT -p tcp -m tcp --dport 80 -j MARK --set-mark 0x7\nCOMMIT\n",
    );
    let theirs = "table inet theirs {
        chain first { type filter hook output priority -5; tcp dport 81 jump refuse; }
        chain refuse { tcp dport 81 drop; }
    }";
    Run::with_input(&here, "nft", &["-f", "-"], theirs).ok();
    let call = Call { from: &here, who: APP, to: THERE.port(Family::V4, 80), udp: false, inbound: false };
    let traced = same_way(&here, call);
    let marked = |step: &&Value| step["chain"] == "mangle OUTPUT" && step["step"] == "rule";
    let rule = traced["trail"].as_array().and_then(|trail| trail.iter().find(marked)).cloned();
    let rule = rule.unwrap_or_else(|| panic!("{traced:#}"));
    assert_eq!((&rule["mark"], &rule["verdict"]), (&Value::from(7), &Value::from("continue")), "{rule:#}");
    assert!(rule["rule"].as_str().is_some_and(|text| text.contains("MARK")), "{rule:#}");
    assert_eq!(traced["end"]["mark"], 7, "{traced:#}");
    // What is dropped.
    for family in Family::BOTH {
        let to = THERE.port(family, 81);
        let trace = Trace::begin(&here, &[&format!("out tcp {to}"), "--count", "1", "--output", "json"]);
        let call = Call { from: &here, who: PROXY, to, udp: false, inbound: false };
        call.dial();
        let packets = trace.packets();
        assert_eq!(packets[0]["end"]["verdict"], "dropped", "{packets:#?}");
        let last = packets[0]["trail"].as_array().and_then(|trail| trail.last()).expect("a step");
        let said = (&last["chain"], &last["verdict"], &last["depth"]);
        let wanted = (&Value::from("inet theirs refuse"), &Value::from("drop"), &Value::from(1));
        assert_eq!(said, wanted, "{packets:#?}");
    }
}

/// Rules that are made while packets are followed are known by the time that one meets them.
fn changes_meanwhile(variant: Variant) {
    let (here, there) = two_hosts();
    serve(&here, &there);
    let to = THERE.port(Family::V4, 80);
    let filter = format!("out tcp packet=first {to}");
    let trace = Trace::begin(&here, &[&filter, "--count", "2", "--output", "json"]);
    dial(&here, APP, to).untouched_to("there");
    apply(&here, variant, &["-p", "15001", "-u", "1337"]);
    dial(&here, APP, to).captured_by("outbound");
    let packets = trace.packets();
    let clauses = |packet: &Value| {
        let trail = packet["trail"].as_array().expect("a trail");
        trail.iter().filter_map(|step| step["clause"].as_str().map(str::to_owned)).collect::<Vec<_>>()
    };
    assert_eq!(clauses(&packets[0]), Vec::<String>::new(), "{packets:#?}");
    let wanted = ["outbound.hook", "outbound.all", "redirect.outbound"];
    assert!(clauses(&packets[1]).ends_with(&wanted.map(str::to_owned)), "{packets:#?}");
}

fn text() {
    let (here, there) = two_hosts();
    serve(&here, &there);
    apply(&here, Variant::Native, &["-p", "15001", "-u", "1337"]);
    let trace = Trace::begin(&here, &["out", "tcp", ":80", "packet=first", "uid=1000", "--count", "1"]);
    // Neither of these is asked for.
    dial(&here, PROXY, THERE.port(Family::V4, 80)).untouched_to("there");
    dial(&there, APP, HERE.port(Family::V4, 80)).captured_by("outbound");
    dial(&here, APP, THERE.port(Family::V4, 80)).captured_by("outbound");
    let printed = trace.printed();
    let lines: Vec<&str> = printed.lines().collect();
    assert!(
        lines[0].starts_with("out tcp 10.0.0.1:") && lines[0].ends_with(" -> 10.0.0.2:80 by eth0"),
        "{printed}"
    );
    for wanted in [
        "  mesh_init nat_output (priority -99)",
        "      outbound.hook: jump nat_outbound",
        "  -> out over lo, and back in",
        "  -> to a socket of this host: 127.0.0.1:15001 from lo",
    ] {
        assert!(lines.contains(&wanted), "expected {wanted:?}, seen {printed}");
    }
}

fn ends_when_asked() {
    let (here, _there) = two_hosts();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // The kernel's own packets, of neighbour and group discovery, come when they like.
        let trace = Trace::begin(&here, &["out", "tcp"]);
        trace.signal(signal);
        assert_eq!(trace.printed(), "", "{signal}");
        assert!(!is_marked(&here), "{signal}: marks are left");
    }
    // A reader that goes away.
    let mut trace = Trace::begin(&here, &["out", "tcp"]);
    drop(trace.0.stdout.take());
    dial(&here, APP, HERE.port(Family::V4, 9)).answer.expect_err("nobody listens");
    assert_eq!(trace.printed(), "");
    assert!(!is_marked(&here), "marks are left");
}

/// The kernel takes away what a killed trace had, and nobody else can meanwhile (`NFT_TABLE_F_OWNER`).
fn killed() {
    let (here, _there) = two_hosts();
    let mut trace = Trace::begin(&here, &["out", "tcp"]);
    mesh_init(&here, &["watch", "--trace", "in", "--count", "1"]).code(75).says("another trace goes on");
    mesh_init(&here, &["clean"]).code(0).says("a trace goes on");
    assert!(is_marked(&here), "clean has taken a trace away that goes on");
    trace.signal(Signal::SIGKILL);
    trace.0.wait().expect("a child of ours");
    wait_until("the kernel takes the tables of a dead socket away", || !is_marked(&here));
    mesh_init(&here, &["clean"]).code(0);
}

/// Without owners a killed trace leaves its tables: the next one takes them away, and so does `clean`.
fn left_by_an_older_kernel() {
    const LEFT: &str = "table ip mesh_init_trace {
        chain output { type filter hook output priority -2147483648; meta nftrace set 1; }
    }
    table ip6 mesh_init_trace { }";
    let (here, there) = two_hosts();
    serve(&here, &there);
    let leave = || Run::with_input(&here, "nft", &["-f", "-"], LEFT).ok();
    leave();
    let cleaned = mesh_init(&here, &["clean"]).ok();
    assert!(cleaned.contains("table mesh_init_trace of nftables (ip, ip6)"), "{cleaned}");
    assert!(!is_marked(&here));
    leave();
    let to = THERE.port(Family::V4, 80);
    let printed = here.run(|| {
        let trace = {
            let args = [&format!("out tcp packet=first {to}"), "--count", "1", "--output", "json"];
            let mut command = command(MESH_INIT, &[&["watch", "--trace"], &args[..]].concat());
            Trace(command.stdin(Stdio::null()).spawn().expect("a program that starts"))
        };
        // Its own has an owner, which the old one has not.
        wait_until("the trace begins", || {
            Run::new(&here, "nft", &["-j", "list", "tables"]).ok().contains("owner")
                || Run::new(&here, "nft", &["list", "table", "ip", TABLE]).ok().contains("postrouting")
        });
        dial(&here, APP, to).untouched_to("there");
        trace.printed()
    });
    assert_eq!(printed.lines().count(), 1, "{printed}");
    assert!(!is_marked(&here), "marks are left");
}

fn refusals() {
    let (here, _there) = two_hosts();
    let before = dump(&here);
    for (filter, word) in [
        ("in tcp uid=1000 :80", "outbound connections only"),
        ("out :80", "a port needs a protocol"),
        ("out tcp state=new :80", "conntrack has not seen"),
        ("out udp packet=first :80", "known of tcp only"),
        ("out tcp 10.0.0.1 -> [fd00::1]:80", "two families"),
    ] {
        mesh_init(&here, &["watch", "--trace", filter]).code(64).says(word);
    }
    mesh_init(&here, &["watch", "--trace", "out", "--interval", "2"]).code(64);
    assert_same("after refusals", &before, &dump(&here));
    apply(&here, Variant::Legacy, &["-p", "15001", "-u", "1337"]);
    let before = dump(&here);
    mesh_init(&here, &["watch", "--trace", "out", "tcp"])
        .code(69)
        .says("iptables-legacy has rules here (IPv4: table nat")
        .says("explain --live");
    assert!(!is_marked(&here));
    assert_same("after a refusal", &before, &dump(&here));
}
