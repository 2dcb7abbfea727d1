//! The rule, route and address of policy routing, made and taken away as `ip` sees them.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use mesh_init::error::Class;
use mesh_init::sys::routing::{Entry, Found, PROTOCOL, add, addresses, list, remove};
use serde_json::Value;

use crate::harness::Case;
use crate::support::command::Run;
use crate::support::creds::Who;
use crate::support::netns::Netns;

pub(crate) fn cases() -> Vec<Case> {
    let list: [(&str, fn()); 12] = [
        ("round_trip", round_trip),
        ("twice", twice),
        ("foreign", foreign),
        ("other_rules", other_rules),
        ("other_routes", other_routes),
        ("priority_0", priority_0),
        ("many_routes", many_routes),
        ("without_ipv6", without_ipv6),
        ("lo_down", lo_down),
        ("unprivileged", unprivileged),
        ("addresses", machine_addresses),
        ("cost", cost),
    ];
    list.map(|(name, body)| Case::new(&format!("routing::{name}"), body)).into()
}

const MARK: u32 = 1337;
const TABLE: u32 = 133;

const fn rule(v6: bool) -> Entry {
    Entry::Rule { v6, mark: MARK, table: TABLE }
}

const fn route(v6: bool) -> Entry {
    Entry::Route { v6, table: TABLE }
}

/// Everything that TPROXY needs, in the order in which it is listed.
const ALL: [Entry; 5] = [rule(false), rule(true), route(false), route(true), Entry::Address];

#[track_caller]
fn add_all(netns: &Netns, entries: &[Entry]) {
    netns.run(|| entries.iter().for_each(|entry| add(entry).unwrap_or_else(|error| panic!("{error}"))));
}

#[track_caller]
fn listed(netns: &Netns) -> Vec<Found> {
    netns.run(|| list().expect("a list"))
}

#[track_caller]
fn remove_all(netns: &Netns, found: &[Found]) {
    netns.run(|| found.iter().for_each(|found| remove(found).unwrap_or_else(|error| panic!("{error}"))));
}

/// What is listed, and whether it is ours.
#[track_caller]
fn owned(netns: &Netns) -> Vec<(Entry, bool)> {
    listed(netns).iter().map(|found| (found.entry, found.ours)).collect()
}

/// The answer of `ip -j` to `line`.
#[track_caller]
fn ip(netns: &Netns, line: &str) -> Vec<Value> {
    let args: Vec<_> = ["-j", "-d"].into_iter().chain(line.split(' ')).collect();
    let said = Run::new(netns, "ip", &args);
    // A table that nobody ever wrote to does not exist.
    if said.stderr.contains("FIB table does not exist") {
        return Vec::new();
    }
    let list: Vec<Value> = serde_json::from_str(&said.ok()).expect("a JSON list");
    list.into_iter().filter(|item| item != &serde_json::json!({})).collect()
}

/// Runs `ip -6` with one command a line.
#[track_caller]
fn ip6(netns: &Netns, lines: &str) {
    Run::with_input(netns, "ip", &["-6", "-batch", "-"], lines).ok();
}

/// The rules that the kernel did not make.
fn rules(netns: &Netns, family: &str) -> Vec<Value> {
    let made = |rule: &Value| !matches!(rule["priority"].as_u64(), Some(0 | 32766 | 32767));
    ip(netns, &format!("{family} rule")).into_iter().filter(made).collect()
}

fn round_trip() {
    let netns = Netns::new("here");
    assert_eq!(owned(&netns), []);
    add_all(&netns, &ALL);
    for family in ["-4", "-6"] {
        let rules = rules(&netns, family);
        assert_eq!(rules.len(), 1, "{rules:?}");
        let rule = &rules[0];
        assert_eq!((&rule["fwmark"], &rule["table"]), (&"0x539".into(), &"133".into()), "{rule}");
        assert_eq!(
            (&rule["src"], &rule["fwmask"], &rule["protocol"]),
            (&"all".into(), &Value::Null, &PROTOCOL.to_string().into()),
            "{rule}"
        );
        let routes = ip(&netns, &format!("{family} route show table {TABLE}"));
        assert_eq!(routes.len(), 1, "{routes:?}");
        let route = &routes[0];
        for (key, value) in
            [("type", "local"), ("dst", "default"), ("dev", "lo"), ("protocol", &PROTOCOL.to_string())]
        {
            assert_eq!(route[key], value, "{route}");
        }
    }
    let lo = ip(&netns, "addr show dev lo");
    let address =
        lo[0]["addr_info"].as_array().expect("addresses").iter().find(|info| info["local"] == "::6");
    let address = address.unwrap_or_else(|| panic!("no ::6 in {lo:?}"));
    assert_eq!((&address["prefixlen"], &address["scope"]), (&128.into(), &"global".into()), "{address}");

    let found = listed(&netns);
    assert_eq!(found.iter().map(|found| found.entry).collect::<Vec<_>>(), ALL);
    assert!(found.iter().all(|found| found.ours), "{found:?}");
    assert_eq!(found[0].priority, Some(32765));
    assert_eq!(found[2].priority, None);
    // From behind, because the routes are found by their rules.
    for position in (0..ALL.len()).rev() {
        remove_all(&netns, &found[position..=position]);
        assert_eq!(listed(&netns), &found[..position]);
    }
    assert_eq!((rules(&netns, "-4"), rules(&netns, "-6")), (vec![], vec![]));
    for family in ["-4", "-6"] {
        assert_eq!(ip(&netns, &format!("{family} route show table {TABLE}")), Vec::<Value>::new());
    }
    // Gone already.
    remove_all(&netns, &found);
}

fn twice() {
    let netns = Netns::new("here");
    let addition = || add_all(&netns, &ALL);
    addition();
    let once = listed(&netns);
    addition();
    assert_eq!(listed(&netns), once);
    assert_eq!((rules(&netns, "-4").len(), rules(&netns, "-6").len()), (1, 1));
    // Another mark and another table are other entries.
    add_all(&netns, &[Entry::Rule { v6: false, mark: 1338, table: 4_000_000_000 }]);
    add_all(&netns, &[Entry::Route { v6: false, table: 4_000_000_000 }]);
    assert_eq!(listed(&netns).len(), once.len() + 2);
    assert_eq!(ip(&netns, "route show table 4000000000").len(), 1);
}

/// What others made is seen, counts as there, and goes only when it is named.
fn foreign() {
    let netns = Netns::new("here");
    let lines = "rule add fwmark 1337 lookup 133\nroute add local default dev lo table 133\n";
    netns.ip(lines);
    ip6(&netns, &format!("{lines}addr add ::6/128 dev lo\n"));
    let theirs = ALL.map(|entry| (entry, false));
    assert_eq!(owned(&netns), theirs);
    add_all(&netns, &ALL);
    assert_eq!(owned(&netns), theirs, "nothing is added to what is there");
    let found = listed(&netns);
    remove_all(&netns, &[Found { ours: true, ..found[0] }, Found { priority: Some(5), ..found[0] }]);
    assert_eq!(listed(&netns), found, "that is another one");

    // The same rule three times, by two owners.
    netns.ip("rule add fwmark 1337 lookup 133 priority 100 protocol 109\n\
         rule add fwmark 1337 lookup 133 priority 50\n");
    let all = listed(&netns);
    let priorities: Vec<_> = all[..3].iter().map(|rule| (rule.priority, rule.ours)).collect();
    assert_eq!(priorities, [(Some(50), false), (Some(100), true), (Some(32765), false)]);
    remove_all(&netns, &all[2..3]);
    assert_eq!(listed(&netns), [&all[..2], &all[3..]].concat());
    remove_all(&netns, &all[1..2]);
    assert_eq!(listed(&netns), [&all[..1], &all[3..]].concat());
    remove_all(&netns, &all[3..]);
    assert_eq!(listed(&netns), all[..1]);
    // One without any protocol, which is what vishvananda/netlink sends.
    netns.ip("rule add fwmark 1337 lookup 133 priority 60 protocol 0\n");
    let found = listed(&netns);
    assert_eq!((found[1].priority, found[1].ours), (Some(60), false));
    remove_all(&netns, &found[1..2]);
    assert_eq!(listed(&netns), all[..1]);
}

fn other_rules() {
    let netns = Netns::new("here");
    let selectors = [
        "from 10.0.0.0/8 fwmark 1337",
        "to 10.0.0.0/8 fwmark 1337",
        "not fwmark 1337",
        "fwmark 1337/0xffff",
        "fwmark 1337/0xfffffffe",
        "fwmark 0/0xffffffff",
        "fwmark 1337 iif lo",
        "fwmark 1337 oif lo",
        "fwmark 1337 uidrange 0-5",
        "fwmark 1337 ipproto tcp",
        "fwmark 1337 sport 80",
        "fwmark 1337 dport 80-90",
        "fwmark 1337 tos 8",
        "iif lo",
        "fwmark 1337 suppress_prefixlength 0",
    ];
    for selector in selectors {
        netns.ip(&format!("rule add {selector} lookup 133\n"));
    }
    netns.ip("rule add fwmark 1337 prohibit\nrule add fwmark 1337 goto 32766\n");
    assert_eq!(rules(&netns, "-4").len(), selectors.len() + 2);
    assert_eq!(owned(&netns), []);
    add_all(&netns, &[rule(false)]);
    assert_eq!(owned(&netns), [(rule(false), true)]);
    remove_all(&netns, &listed(&netns));
    assert_eq!(rules(&netns, "-4").len(), selectors.len() + 2);
}

fn other_routes() {
    let netns = Netns::new("here");
    add_all(&netns, &[rule(false), rule(true)]);
    netns.ip(
        "route add local 10.0.0.0/8 dev lo table 133\nroute add local default dev lo table 133 metric 5\n",
    );
    ip6(
        &netns,
        "route add local 2001:db8::/32 dev lo table 133\nroute add local default dev lo table 133 metric 5\n",
    );
    assert_eq!(owned(&netns), [(rule(false), true), (rule(true), true)]);
    netns.ip("route add blackhole default table 133\n");
    ip6(&netns, "route add unreachable default table 133\n");
    assert_eq!(owned(&netns), [(rule(false), true), (rule(true), true)]);
    for v6 in [false, true] {
        let error = netns.run(|| add(&route(v6))).expect_err("a conflict");
        assert_eq!(error.class, Class::Refused);
        assert!(error.problem.contains("table 133`: something else"), "{error}");
    }
    netns.ip("addr add ::6/64 dev lo\n");
    let error = netns.run(|| add(&Entry::Address)).expect_err("a conflict");
    assert!(error.problem.contains("something else"), "{error}");
}

fn priority_0() {
    let netns = Netns::new("here");
    netns.ip("rule add fwmark 1337 lookup 133 priority 5\nrule add fwmark 1337 lookup 133 priority 0\n");
    let found = listed(&netns);
    assert_eq!(found.iter().map(|rule| rule.priority).collect::<Vec<_>>(), [Some(0), Some(5)]);
    remove_all(&netns, &found[..1]);
    assert_eq!(listed(&netns), found[1..]);
}

/// The shortest of some calls.
fn shortest<T>(calls: usize, call: impl Fn() -> T) -> Duration {
    let time = |_| {
        let started = Instant::now();
        call();
        started.elapsed()
    };
    (0..calls).map(time).min().expect("a call")
}

fn cost() {
    let netns = Netns::new("here");
    let list = || netns.run(|| shortest(200, || list().expect("a list")));
    eprintln!(
        "the first list(): {:?}",
        netns.run(|| shortest(1, || mesh_init::sys::routing::list().expect("a list")))
    );
    eprintln!("list() of nothing: {:?}", list());
    add_all(&netns, &ALL);
    eprintln!("list() of all five: {:?}", list());
    eprintln!("addresses(): {:?}", netns.run(|| shortest(200, || addresses().expect("addresses"))));
    eprintln!("add() of what is there: {:?}", netns.run(|| shortest(200, || add(&rule(true)))));
}

/// A full routing table is not read, unless a rule for a mark names it; and then the kernel filters it.
fn many_routes() {
    let netns = Netns::new("here");
    netns.ip("link add one type veth peer two\nlink set one up\naddr add 10.1.0.1/16 dev one\n");
    let routes = |table| -> String {
        let lines = (0..20_000_u32)
            .map(|n| format!("route add 44.{}.{}.0/24 via 10.1.0.2 table {table}\n", n / 256, n % 256));
        lines.collect()
    };
    netns.ip(&routes("main"));
    add_all(&netns, &ALL);
    let list = || netns.run(|| shortest(20, || assert_eq!(list().expect("a list").len(), 5)));
    eprintln!("20000 routes in main: {:?}", list());
    netns.ip(&routes("133"));
    eprintln!("20000 routes in table 133 as well: {:?}", list());
}

fn without_ipv6() {
    for key in ["all", "lo"] {
        let netns = Netns::new("here");
        netns.sysctl(&format!("net/ipv6/conf/{key}/disable_ipv6"), "1");
        assert_eq!(owned(&netns), []);
        add_all(&netns, &[rule(false), route(false)]);
        for entry in [route(true), Entry::Address] {
            let error = netns.run(|| add(&entry)).expect_err("no IPv6");
            eprintln!("{error}");
            assert_eq!(error.class, Class::Host, "{error}");
            assert!(error.problem.contains("IPv6 is switched off on lo"), "{error}");
        }
        assert_eq!(owned(&netns), [(rule(false), true), (route(false), true)]);
        remove_all(&netns, &listed(&netns));
        assert_eq!(owned(&netns), []);
    }
}

fn lo_down() {
    let netns = Netns::new("here");
    netns.ip("link set lo down\n");
    assert_eq!(owned(&netns), []);
    add_all(&netns, &[rule(false), rule(true)]);
    for entry in [route(false), route(true), Entry::Address] {
        match netns.run(|| add(&entry)) {
            Ok(()) => eprintln!("`{entry}` can be made while lo is down"),
            Err(error) => {
                eprintln!("{error}");
                assert_eq!(error.class, Class::Host, "{error}");
                assert!(error.to_string().contains("bring lo up first"), "{error}");
            }
        }
    }
    let before = owned(&netns);
    netns.ip("link set lo up\n");
    eprintln!("down: {before:?}\nup: {:?}", owned(&netns));
    add_all(&netns, &ALL);
    assert_eq!(owned(&netns), ALL.map(|entry| (entry, true)));
    netns.ip("link set lo down\n");
    eprintln!("down again: {:?}", owned(&netns));
}

fn unprivileged() {
    let netns = Netns::new("here");
    add_all(&netns, &ALL);
    let found = listed(&netns);
    netns.run_as(Who::user(1000), || {
        assert_eq!(list().expect("a list"), found);
        assert_eq!(addresses().expect("addresses").len(), 1);
        for error in found.iter().map(|found| remove(found).expect_err("no privilege")) {
            assert_eq!(error.class, Class::Privilege, "{error}");
            assert!(error.problem.contains("CAP_NET_ADMIN"), "{error}");
        }
        let other = Entry::Rule { v6: false, mark: 5, table: 5 };
        for entry in [other, Entry::Route { v6: true, table: 5 }] {
            assert_eq!(add(&entry).expect_err("no privilege").class, Class::Privilege);
        }
    });
    assert_eq!(listed(&netns), found);
}

fn machine_addresses() {
    let netns = Netns::new("here");
    assert_eq!(netns.run(|| addresses().expect("addresses")), Vec::<IpAddr>::new());
    netns.ip("link add one type veth peer two\nlink set one up\nlink set two up\n\
         addr add 10.0.0.1/24 dev two\naddr add 169.254.7.7/16 dev one\n\
         addr add 10.0.0.5 peer 10.0.0.6 dev one\naddr add 127.0.0.5/8 dev two\n\
         addr add 192.0.2.1/32 dev lo\n");
    ip6(
        &netns,
        "addr add 2001:db8::1/64 dev one nodad\naddr add ::ffff:10.0.0.9/128 dev two nodad\n\
         addr add fe80::77/64 dev two nodad\n",
    );
    // The peer, `two`, is the older one.
    let machine: Vec<_> =
        netns.run(|| addresses().expect("addresses")).iter().map(ToString::to_string).collect();
    assert_eq!(machine, ["192.0.2.1", "10.0.0.1", "10.0.0.5", "10.0.0.9", "2001:db8::1"]);
}
