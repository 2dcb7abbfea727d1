//! What `verify` says, and that it leaves no trace: the right answer, known in the right way, for each direction of
//! each family.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::harness::Case;
use crate::scoped::PROXY;
use crate::status::split;
use crate::support::call::Call;
use crate::support::command::{Run, mesh_init};
use crate::support::creds::Who;
use crate::support::netns::Netns;
use crate::support::rules::{Family, Variant, assert_same, dump, restore, save};
use crate::support::serve::Service;
use crate::support::tap::{Packet, Tap};
use crate::support::wire::{HERE, HERE_FAR, THERE, settle, two_hosts};

pub(crate) const PROBE: &str = "probe";
pub(crate) const CONNTRACK: &str = "conntrack";
pub(crate) const RULES: &str = "rules";
pub(crate) const NOT: &str = "not captured";
pub(crate) const UNWANTED: &str = "not wanted";
pub(crate) const ALONE: &str = "left alone";

/// How it is known: outbound and inbound of IPv4, then of IPv6.
pub(crate) type Hows = [&'static str; 4];

pub(crate) const CLASSIC: &str = "-p 15001 -u 1337";
pub(crate) const SCOPED: &str = "--uid-owner 1338 --inbound 8001";
pub(crate) const ISTIO: &str = "--layout istio -p 15001 -z 15006 -u 1337";
pub(crate) const TPROXY: &str = "--layout istio -p 15001 -z 15006 -u 1337 -m TPROXY";
/// One of each kind.
pub(crate) const LAYOUTS: [&str; 5] =
    [CLASSIC, SCOPED, "--uid-owner 1338 --inbound * -p 15001 -z 15006", ISTIO, TPROXY];

/// An application that must never hear of a probe.
pub(crate) const APP: Who = Who::user(1000);

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Case::all_for_each_variant(&[
        ("verify::nothing", nothing),
        ("verify::free_ports", free_ports),
        ("verify::real_proxy", real_proxy),
        ("verify::proxy_on_one_port", proxy_on_one_port),
        ("verify::istio_iptables", istio_iptables),
        ("verify::wrong_user", wrong_user),
        ("verify::unknown_user", unknown_user),
        ("verify::app_on_the_port", app_on_the_port),
        ("verify::ipv6_gone", ipv6_gone),
        ("verify::another_policy", another_policy),
        ("verify::nothing_wanted", nothing_wanted),
        ("verify::no_owner", no_owner),
        ("verify::text", text),
    ]);
    cases.extend(Case::all_native(&[
        ("verify::nothing", nothing),
        ("verify::free_ports", free_ports),
        ("verify::real_proxy", real_proxy),
        ("verify::proxy_on_one_port", proxy_on_one_port),
        ("verify::wrong_user", wrong_user),
        ("verify::unknown_user", unknown_user),
        ("verify::app_on_the_port", app_on_the_port),
        ("verify::another_policy", another_policy),
        ("verify::nothing_wanted", nothing_wanted),
        ("verify::no_owner", no_owner),
    ]));
    let slow = Case::each_variant("verify::half_removed", half_removed);
    cases.extend(slow.map(|case| case.within(std::time::Duration::from_secs(150))));
    cases
}

/// A host with a way to everywhere, and the other end of that way, where packets are counted.
pub(crate) struct Hosts {
    pub(crate) here: Netns,
    _there: Netns,
    tap: Tap,
}

impl Hosts {
    pub(crate) fn new() -> Self {
        let (here, there) = two_hosts();
        for family in Family::BOTH {
            here.ip(&format!("route add default via {}", THERE.ip(family)));
        }
        let tap = Tap::new(&there);
        Self { here, _there: there, tap }
    }

    /// As `new`, with the policy of `flags` in force.
    pub(crate) fn captured(variant: Variant, flags: &'static str) -> Self {
        let hosts = Self::new();
        hosts.apply(variant, flags);
        hosts
    }

    pub(crate) fn apply(&self, variant: Variant, flags: &'static str) {
        crate::scoped::apply(&self.here, variant, &split(flags));
        // An address comes into use in the kernel's own time.
        settle(&[&self.here]);
    }

    /// What of TCP went over the wire from `here`.
    pub(crate) fn left(&self) -> Vec<Packet> {
        let ours = |packet: &Packet| {
            let is = |address: crate::support::wire::Addresses| {
                Family::BOTH.iter().any(|family| address.ip(*family) == packet.from.ip())
            };
            is(HERE) || is(HERE_FAR)
        };
        self.tap.heard().into_iter().filter(ours).collect()
    }

    /// Asks, requires the exit code that belongs to `hows` and no trace: neither here nor, of what is captured, on the
    /// wire; of what is not, one packet that goes one hop.
    #[track_caller]
    pub(crate) fn expect(&self, flags: &str, hows: Hows) -> Value {
        let code = if hows.contains(&NOT) { 126 } else { 0 };
        self.expect_code(flags, hows, code)
    }

    /// As `expect`, where the rules besides differ from the policy's, which is told by `words`.
    #[track_caller]
    pub(crate) fn expect_wrong(&self, flags: &str, hows: Hows, words: &[&str]) -> Value {
        let seen = self.expect_code(flags, hows, 126);
        let wrong = seen["wrong"].to_string();
        for word in words {
            assert!(wrong.contains(word), "expected `{word}` to be wrong, seen {seen:#}");
        }
        seen
    }

    #[track_caller]
    pub(crate) fn expect_code(&self, flags: &str, hows: Hows, code: i32) -> Value {
        let args: Vec<_> = ["verify", "--output", "json"].into_iter().chain(words(flags)).collect();
        let before = trace(&self.here);
        drop(self.left());
        let mut run = mesh_init(&self.here, &args);
        // A machine that is too busy for a connection in time has only the packet to go by.
        if hows.contains(&PROBE) && !hows.contains(&CONNTRACK) && run.stdout.contains("\"conntrack\"") {
            run = mesh_init(&self.here, &args);
        }
        let left = self.left();
        assert_same(&format!("after {run}"), &before, &trace(&self.here));
        let seen = judge(run, hows, code);
        for (family, how) in [(Family::V4, hows[0]), (Family::V6, hows[2])] {
            let most = usize::from(how == NOT);
            let of_family = left
                .iter()
                .filter(|packet| packet.to.is_ipv4() == (family == Family::V4))
                .collect::<Vec<_>>();
            let harmless = of_family.iter().all(|packet| {
                packet.is_first() && packet.hops == 1 && is_nobodys(&packet.to.ip().to_string())
            });
            assert!(
                of_family.len() <= most && harmless,
                "{family:?} is {how}: expected at most {most} first packet to nobody, of one hop, seen {of_family:?}\n{seen:#}"
            );
        }
        seen
    }
}

fn words(flags: &str) -> impl Iterator<Item = &str> {
    flags.split(' ').filter(|word| !word.is_empty()).map(|word| if word == "@" { "" } else { word })
}

/// Requires that the answer of a run is JSON that says `hows`.
#[track_caller]
pub(crate) fn judge(run: Run, hows: Hows, code: i32) -> Value {
    let seen: Value = serde_json::from_str(&run.stdout)
        .unwrap_or_else(|error| panic!("{error}: expected JSON, seen {run}"));
    assert_eq!(seen["schema"], "mesh-init/verify/v1", "{run}");
    let column = |of: &Value, key: &str| of[key].as_str().unwrap_or_default().to_owned();
    let checked = seen["checked"].as_array().unwrap_or_else(|| panic!("expected a list, seen {run}"));
    let said: Vec<_> = checked
        .iter()
        .map(|of| [column(of, "family"), column(of, "direction"), column(of, "how")].join(" "))
        .collect();
    let places = ["IPv4 outbound", "IPv4 inbound", "IPv6 outbound", "IPv6 inbound"];
    let expected: Vec<_> = places.iter().zip(hows).map(|(place, how)| format!("{place} {how}")).collect();
    assert_eq!(said, expected, "{run}");
    assert_eq!(seen["captured"], code == 0, "{run}");
    run.code(code);
    seen
}

/// The detail of what was checked, by the place that it has in [`Hows`].
pub(crate) fn detail(seen: &Value, place: usize) -> &str {
    seen["checked"][place]["detail"].as_str().unwrap_or_default()
}

pub(crate) fn notes(seen: &Value) -> String {
    let notes = seen["notes"].as_array().cloned().unwrap_or_default();
    notes.iter().filter_map(Value::as_str).map(|note| format!("{note}\n")).collect()
}

#[track_caller]
pub(crate) fn assert_noted(seen: &Value, word: &str) {
    assert!(notes(seen).contains(word), "expected a note with `{word}`, seen {seen:#}");
}

/// RFC 5737 and RFC 3849.
fn is_nobodys(text: &str) -> bool {
    ["192.0.2.", "198.51.100.", "203.0.113.", "2001:db8:", "2001:0db8:"].iter().any(|net| text.contains(net))
}

/// What a run could leave, as far as /proc knows it: addresses, routes, links, listeners, and what conntrack knows of
/// its probes. Rules are for `dump`.
pub(crate) fn trace(netns: &Netns) -> String {
    const TABLES: [&str; 10] =
        ["dev", "fib_trie", "if_inet6", "ipv6_route", "tcp", "tcp6", "raw", "raw6", "unix", "nf_conntrack"];
    netns.run(|| {
        let mut text = String::new();
        for table in TABLES {
            let path = format!("/proc/thread-self/net/{table}");
            let lines = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
            let lines: Vec<_> = lines.lines().filter_map(|line| worth(table, line)).collect();
            text += &format!("== {table}\n{}\n", lines.join("\n"));
        }
        text
    })
}

/// The part of a line of /proc that may not change.
fn worth(table: &str, line: &str) -> Option<String> {
    let words: Vec<_> = line.split_whitespace().collect();
    let kept = match table {
        // Beside counters.
        "dev" => words.first().map(|name| (*name).to_owned()),
        "ipv6_route" => Some([words.first()?, words.get(1)?, words.last()?].map(|word| *word).join(" ")),
        "tcp" | "tcp6" => (words.get(3) == Some(&"0A")).then(|| words[1].to_owned()),
        "raw" | "raw6" => words.get(1).map(|local| (*local).to_owned()),
        "unix" => line.contains("@mesh-init").then(|| words[words.len() - 1].to_owned()),
        "nf_conntrack" => is_nobodys(line).then(|| line.to_owned()),
        // How the tree branches is the kernel's own business.
        "fib_trie" => (!line.contains("+--")).then(|| words.join(" ")),
        _ => Some(line.to_owned()),
    };
    kept.filter(|kept| kept != "local_address")
}

fn nothing(_: Variant) {
    let hosts = Hosts::new();
    for more in ["", "--strict", "--quick"] {
        let args: Vec<_> = ["verify", "--output", "json"].into_iter().chain(words(more)).collect();
        let before = trace(&hosts.here);
        let run = mesh_init(&hosts.here, &args).code(126);
        let seen: Value = serde_json::from_str(&run.stdout).expect("JSON");
        assert_eq!((&seen["captured"], &seen["policy"]), (&false.into(), &Value::Null), "{run}");
        assert_eq!(seen["checked"], json!([]), "{run}");
        assert_same("after a question", &before, &trace(&hosts.here));
        assert_eq!(hosts.left(), [], "there is no policy to try");
    }
    mesh_init(&hosts.here, &["verify"]).code(126).says("not captured: nothing of ours is here");
    for flags in LAYOUTS {
        for more in ["", " --strict", " --quick"] {
            hosts.expect(&format!("{flags}{more}"), [NOT; 4]);
        }
    }
}

/// Nobody holds a port: a listener of our own gets a token, whether the policy is given or read.
fn free_ports(variant: Variant) {
    for flags in LAYOUTS {
        let hosts = Hosts::captured(variant, flags);
        let before = dump(&hosts.here);
        for asked in [flags, ""] {
            for more in ["", " --strict"] {
                let seen = hosts.expect(&format!("{asked}{more}"), [PROBE; 4]);
                assert_eq!((&seen["notes"], &seen["repaired"]), (&json!([]), &json!([])), "{seen:#}");
                assert!(detail(&seen, 0).contains("192.0.2.1:"), "{seen:#}");
                assert!(detail(&seen, 2).contains("[2001:db8::1]:"), "{seen:#}");
            }
            hosts.expect(&format!("{asked} --quick"), [RULES; 4]);
        }
        assert_same(flags, &before, &dump(&hosts.here));
    }
}

/// The proxy never hears of it.
fn real_proxy(variant: Variant) {
    for flags in LAYOUTS {
        let hosts = Hosts::captured(variant, flags);
        let proxy = Service::tcp(&hosts.here, PROXY, "proxy", &[15001, 15006]);
        let app = Service::tcp(&hosts.here, APP, "app", &[8001]);
        let tproxy = flags == TPROXY;
        let before = dump(&hosts.here);
        let hows = if tproxy { [CONNTRACK, RULES, CONNTRACK, RULES] } else { [CONNTRACK; 4] };
        for asked in [flags, ""] {
            let seen = hosts.expect(asked, hows);
            assert_eq!(seen["notes"], json!([]), "{seen:#}");
            hosts.expect_code(&format!("{asked} --strict"), hows, if tproxy { 126 } else { 0 });
            if tproxy {
                assert!(detail(&seen, 1).contains("TPROXY leaves no trace"), "{seen:#}");
            }
        }
        assert_eq!((proxy.accepted(), app.accepted()), (vec![], vec![]), "{flags}");
        assert_same(flags, &before, &dump(&hosts.here));
    }
}

fn proxy_on_one_port(variant: Variant) {
    for flags in [ISTIO, TPROXY] {
        let hosts = Hosts::captured(variant, flags);
        let proxy = Service::tcp(&hosts.here, PROXY, "proxy", &[15001]);
        hosts.expect(flags, [CONNTRACK, PROBE, CONNTRACK, PROBE]);
        assert_eq!(proxy.accepted(), vec![], "{flags}");
    }
}

/// Rules of upstream's own form.
fn istio_iptables(variant: Variant) {
    for flags in [
        "-p 15001 -z 15006 -u 1337 -g 1337 -b * -i * -d 15090,15021,15020",
        "-p 15001 -z 15006 -u 1337 -g 1337 -b * -i * -m TPROXY",
    ] {
        let hosts = Hosts::new();
        let args: Vec<_> = ["istio-iptables", "--dual-stack"].into_iter().chain(words(flags)).collect();
        Call::mesh_init(&hosts.here, &args).env("MESH_INIT_IPTABLES_VARIANT", variant.name()).run().code(0);
        settle(&[&hosts.here]);
        hosts.expect("", [PROBE; 4]);
        hosts.expect("--strict", [PROBE; 4]);
        remove(&hosts.here, variant, Family::V6, "nat", |rule| rule.starts_with("OUTPUT "));
        hosts.expect("", [PROBE, PROBE, NOT, PROBE]);
    }
}

/// Deletes the rules that `gone` picks, as `iptables -D` takes them; how many there were.
#[track_caller]
pub(crate) fn remove(
    netns: &Netns,
    variant: Variant,
    family: Family,
    table: &str,
    gone: impl Fn(&str) -> bool,
) -> usize {
    let saved = save(netns, variant, family, &["-t", table]);
    let rules: Vec<_> =
        saved.lines().filter_map(|line| line.strip_prefix("-A ")).filter(|rule| gone(rule)).collect();
    for rule in &rules {
        restore(netns, variant, family, &format!("*{table}\n-D {rule}\nCOMMIT\n"));
    }
    rules.len()
}

/// Sends whatever the chain redirects to another port.
#[track_caller]
fn misdirect(netns: &Netns, variant: Variant, family: Family, chain: &str) {
    let chain = format!("{chain} ");
    let saved = save(netns, variant, family, &["-t", "nat"]);
    let rules =
        saved.lines().filter_map(|line| line.strip_prefix("-A ")).filter(|rule| rule.starts_with(&chain));
    let mut text = "*nat\n".to_owned();
    for rule in rules {
        let (before, port) = rule.rsplit_once("--to-ports ").expect("a redirect");
        text += &format!("-D {before}--to-ports {port}\n-A {before}--to-ports 15999\n");
    }
    restore(netns, variant, family, &(text + "COMMIT\n"));
}

type Damage = fn(&Netns, Variant, Family);

/// What somebody breaks, and which directions no longer hold.
fn damages(flags: &str) -> Vec<(&'static str, Damage, [bool; 2])> {
    let output: Damage = |netns, variant, family| {
        assert_eq!(remove(netns, variant, family, "nat", |rule| rule.starts_with("OUTPUT ")), 1);
    };
    let prerouting: Damage = |netns, variant, family| {
        let gone = |rule: &str| rule.starts_with("PREROUTING ");
        let of = |table| remove(netns, variant, family, table, gone);
        // With TPROXY it is in the other table.
        assert!(of("nat") + of("mangle") > 0);
    };
    let redirect: Damage = |netns, variant, family| misdirect(netns, variant, family, "ISTIO_REDIRECT");
    let in_redirect: Damage = |netns, variant, family| misdirect(netns, variant, family, "ISTIO_IN_REDIRECT");
    let on_port: Damage = |netns, variant, family| {
        let saved = save(netns, variant, family, &["-t", "mangle"]);
        let line = saved.lines().find(|line| line.contains("--on-port 15006")).expect("a TPROXY rule");
        let rule = line.strip_prefix("-A ").expect("a rule");
        let other = rule.replace("--on-port 15006", "--on-port 15999");
        restore(netns, variant, family, &format!("*mangle\n-D {rule}\n-A {other}\nCOMMIT\n"));
    };
    let all = [true, true];
    let mut damages =
        vec![("no OUTPUT hook", output, [true, false]), ("no PREROUTING hook", prerouting, [false, true])];
    match flags {
        CLASSIC | SCOPED => damages.push(("another port", redirect, all)),
        TPROXY => {
            damages.push(("another port", redirect, [true, false]));
            damages.push(("another TPROXY port", on_port, [false, true]));
        }
        _ => {
            damages.push(("another port", redirect, [true, false]));
            damages.push(("another inbound port", in_redirect, [false, true]));
        }
    }
    damages
}

/// One family in one direction is broken by hand; the other ones hold.
fn half_removed(variant: Variant) {
    for flags in LAYOUTS {
        for held in [false, true] {
            let hosts = Hosts::captured(variant, flags);
            let app = Service::tcp(&hosts.here, APP, "app", &[8001]);
            let proxy = held.then(|| Service::tcp(&hosts.here, PROXY, "proxy", &[15001, 15006]));
            let whole = match (held, flags) {
                (false, _) => [PROBE; 4],
                (true, TPROXY) => [CONNTRACK, RULES, CONNTRACK, RULES],
                (true, _) => [CONNTRACK; 4],
            };
            for (what, damage, broken) in damages(flags) {
                for (at, family) in [(0, Family::V4), (2, Family::V6)] {
                    damage(&hosts.here, variant, family);
                    let mut hows = whole;
                    for (direction, broken) in broken.into_iter().enumerate() {
                        if broken || hows[at + direction] == RULES {
                            // What can only be read is as wrong as what was read.
                            hows[at + direction] = NOT;
                        }
                    }
                    // A policy that is read from rules that say another port is another one.
                    let by_rules = !what.contains("port");
                    for asked in [Some(flags), by_rules.then_some("")].into_iter().flatten() {
                        let before = asked.is_empty().then(|| dump(&hosts.here));
                        eprintln!("== {flags}, held {held}, {what} of {family:?}, asked `{asked}`");
                        let seen = hosts.expect(asked, hows);
                        if let Some(before) = before {
                            assert_same(what, &before, &dump(&hosts.here));
                        }
                        let wrong = seen["wrong"].as_array().cloned().unwrap_or_default();
                        let table = if family == Family::V4 { "IPv4: table " } else { "IPv6: table " };
                        let of_family =
                            |what: &Value| what.as_str().is_some_and(|what| what.starts_with(table));
                        assert!(!wrong.is_empty() && wrong.iter().all(of_family), "{seen:#}");
                    }
                    hosts.apply(variant, flags);
                }
            }
            hosts.expect(flags, whole);
            let heard = proxy.map_or(vec![], |proxy| proxy.accepted());
            assert_eq!((app.accepted(), heard), (vec![], vec![]), "{flags}, held {held}");
        }
    }
}

/// Whoever listens there and is captured himself would get his own connections back.
fn wrong_user(variant: Variant) {
    const STRANGER: Who = Who::user(1500);
    const NOTE: &str = "held by uid 1500";
    for flags in [CLASSIC, ISTIO] {
        let hosts = Hosts::captured(variant, flags);
        let stranger = Service::tcp(&hosts.here, STRANGER, "stranger", &[15001, 15006]);
        for asked in [flags, ""] {
            let seen = hosts.expect(asked, [CONNTRACK; 4]);
            assert_noted(&seen, &format!("port 15001 is {NOTE}"));
        }
        assert_eq!(stranger.accepted(), vec![]);
    }
    // The owner himself.
    let hosts = Hosts::captured(variant, "--uid-owner 1500 --inbound 8001");
    let stranger = Service::tcp(&hosts.here, STRANGER, "stranger", &[15001]);
    assert_noted(&hosts.expect("", [CONNTRACK; 4]), NOTE);
    assert_eq!(stranger.accepted(), vec![]);
}

/// Only one user is captured, and that is somebody else.
fn unknown_user(variant: Variant) {
    let hosts = Hosts::captured(variant, SCOPED);
    let _proxy = Service::tcp(&hosts.here, Who::user(1500), "proxy", &[15001]);
    let seen = hosts.expect("", [CONNTRACK; 4]);
    assert_eq!(notes(&seen), "", "nothing that uid 1500 sends is captured: {seen:#}");
}

/// An application has the ports that would be tried, and one has the proxy's.
fn app_on_the_port(variant: Variant) {
    let tried = [48_291, 41_873, 36_517, 29_153, 8001];
    for flags in LAYOUTS {
        let hosts = Hosts::captured(variant, flags);
        let app = Service::tcp(&hosts.here, APP, "app", &tried);
        let seen = hosts.expect_code(
            flags,
            if flags == SCOPED { [PROBE; 4] } else { [PROBE, RULES, PROBE, RULES] },
            0,
        );
        if flags != SCOPED {
            assert!(detail(&seen, 1).contains("no port is left to try"), "{seen:#}");
        }
        let taken = Service::tcp(&hosts.here, APP, "taken", &[15001, 15006]);
        let seen = mesh_init(&hosts.here, &["verify"]).code(0);
        if !flags.contains("--uid-owner") {
            seen.says("port 15001 is held by uid 1000");
        }
        mesh_init(&hosts.here, &["clean"]).ok();
        hosts.expect(flags, [NOT; 4]);
        assert_eq!((app.accepted(), taken.accepted()), (vec![], vec![]), "{flags}");
    }
}

/// Nothing of ours is left in IPv6: rules that are gone do not say that they were meant; the flags do.
fn ipv6_gone(variant: Variant) {
    for flags in LAYOUTS {
        let hosts = Hosts::captured(variant, flags);
        for table in ["nat", "mangle"] {
            let saved = save(&hosts.here, variant, Family::V6, &["-t", table]);
            let (rules, chains): (Vec<_>, Vec<_>) = (
                saved
                    .lines()
                    .filter_map(|line| line.strip_prefix("-A "))
                    .map(|rule| format!("-D {rule}\n"))
                    .collect(),
                saved
                    .lines()
                    .filter_map(|line| line.strip_prefix(":ISTIO")?.split(' ').next())
                    .map(|chain| format!("-X ISTIO{chain}\n"))
                    .collect(),
            );
            if !rules.is_empty() {
                let (rules, chains) = (rules.concat(), chains.concat());
                restore(&hosts.here, variant, Family::V6, &format!("*{table}\n{rules}{chains}COMMIT\n"));
            }
        }
        for line in [
            "-6 addr del ::6/128 dev lo",
            "-6 rule del fwmark 1337",
            "-6 route del local default dev lo table 133",
        ] {
            // Only some layouts have them.
            drop(Run::new(&hosts.here, "ip", &line.split(' ').collect::<Vec<_>>()));
        }
        let left = [PROBE, PROBE, ALONE, ALONE];
        hosts.expect("", left);
        hosts.expect_code("--strict", left, 126);
        hosts.expect_code("--quick", [RULES, RULES, ALONE, ALONE], 0);
        hosts.expect(flags, [PROBE, PROBE, NOT, NOT]);
        hosts.expect(&format!("{flags} --quick"), [RULES, RULES, NOT, NOT]);
    }
    // Meant so.
    let hosts = Hosts::captured(variant, "-p 15001 -u 1337 --ipv6 off");
    for flags in ["", "-p 15001 -u 1337 --ipv6 off"] {
        hosts.expect(flags, [PROBE, PROBE, ALONE, ALONE]);
        hosts.expect_code(&format!("{flags} --strict"), [PROBE, PROBE, ALONE, ALONE], 126);
    }
    hosts.expect(CLASSIC, [PROBE, PROBE, NOT, NOT]);
    // A stack without any address may have one tomorrow.
    let hosts = Hosts::new();
    for key in ["all", "default", "lo"] {
        hosts.here.sysctl(&format!("net/ipv6/conf/{key}/disable_ipv6"), "1");
    }
    crate::scoped::apply(&hosts.here, variant, &split(CLASSIC));
    hosts.expect("", [PROBE, PROBE, RULES, RULES]);
    hosts.expect_code("--strict", [PROBE, PROBE, RULES, RULES], 126);
}

/// By flags or a file: another port is not captured, and rules that happen to do are not those.
fn another_policy(variant: Variant) {
    const FILE: &str = "/run/policy.json";
    let hosts = Hosts::captured(variant, CLASSIC);
    hosts.expect("-p 15002 -u 1337", [NOT; 4]);
    hosts.expect("-p 15001 -u 1337 -z 15006 --layout istio", [PROBE, NOT, PROBE, NOT]);
    hosts.expect(&format!("{CLASSIC} --quick"), [RULES; 4]);
    let wrong = match variant {
        Variant::Legacy | Variant::Nft => ["IPv4: table nat", "IPv6: table nat"],
        Variant::Native => ["IPv4: table mesh_init of nftables", "IPv6: table mesh_init of nftables"],
    };
    for flags in [SCOPED, "-p 15001 -u 1338", "-p 15001 -u 1337 -g 1337"] {
        hosts.expect_wrong(flags, [PROBE; 4], &wrong);
        hosts.expect_wrong(&format!("{flags} --quick"), [NOT; 4], &wrong);
    }
    let policy = |proxy: &str, uid: u32| {
        let text = format!(
            r#"{{"schema": "mesh-init/policy/v1", "proxy": {{"port": {proxy}, "uids": [1337]}},
                "outbound": {{"owners": {{"uids": [{uid}]}}}}, "inbound": {{"ports": [8001]}}}}"#
        );
        fs::write(FILE, text).expect("a file");
    };
    hosts.apply(variant, SCOPED);
    let config = format!("--config {FILE}");
    policy("15001", 1338);
    hosts.expect(&config, [PROBE; 4]);
    hosts.expect(&format!("{config} --quick"), [RULES; 4]);
    policy("15001", 1400);
    hosts.expect(&config, [NOT, PROBE, NOT, PROBE]);
    policy("15003", 1338);
    hosts.expect(&config, [NOT; 4]);
    assert!(Path::new(FILE).exists());
}

fn nothing_wanted(variant: Variant) {
    let hosts = Hosts::captured(variant, "--uid-owner 1338");
    for asked in ["", "--uid-owner 1338", "--uid-owner 1338 --strict"] {
        hosts.expect(asked, [PROBE, UNWANTED, PROBE, UNWANTED]);
    }
    for (flags, hows) in [
        ("-p 15001 -u 1337 -i @", [UNWANTED, PROBE, UNWANTED, PROBE]),
        ("--uid-owner 1338 -i 192.0.2.0/24", [PROBE, UNWANTED, UNWANTED, UNWANTED]),
    ] {
        hosts.apply(variant, flags);
        hosts.expect(flags, hows);
        hosts.expect(&format!("{flags} --strict"), hows);
    }
}

/// Owners are given, and they are none: nobody's connections are wanted.
fn no_owner(variant: Variant) {
    let flags = "--uid-owner @ --inbound 8001";
    let hosts = Hosts::captured(variant, flags);
    for asked in [flags, ""] {
        hosts.expect(asked, [UNWANTED, PROBE, UNWANTED, PROBE]);
    }
}

/// For people, the same.
fn text(variant: Variant) {
    let hosts = Hosts::captured(variant, SCOPED);
    let run = mesh_init(&hosts.here, &["verify"]).code(0);
    let expected = "outbound IPv4: captured (probe): tried 192.0.2.1:48291 as uid 1338\n\
        inbound IPv4: captured (probe): tried port 8001\n\
        outbound IPv6: captured (probe): tried [2001:db8::1]:48291 as uid 1338\n\
        inbound IPv6: captured (probe): tried port 8001\n";
    assert_eq!((run.stdout.as_str(), run.stderr.as_str()), (expected, ""), "{run}");
    assert_eq!(remove(&hosts.here, variant, Family::V6, "nat", |rule| rule.starts_with("OUTPUT ")), 1);
    let run = mesh_init(&hosts.here, &["verify"]).code(126);
    assert_eq!(run.stdout.lines().nth(1), expected.lines().nth(1), "{run}");
    run.says("outbound IPv6: NOT CAPTURED: tried [2001:db8::1]:48291 as uid 1338")
        .says("NOT WHOLE: IPv6: table nat of iptables-");
    mesh_init(&hosts.here, &["clean"]).ok();
    let run = mesh_init(&hosts.here, &["verify", "--uid-owner", "1338"]).code(126);
    run.says("outbound IPv4: NOT CAPTURED: there are no rules").says("inbound IPv4: not to be captured");
}
