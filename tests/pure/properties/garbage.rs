//! Texts that nobody would write: no parser panics, and what validates all the same has only rules of ours.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStringExt;

use mesh_init::backend::iptables::{parse, render};
use mesh_init::cli;
use mesh_init::eval::sockets;
use mesh_init::input::istio::FLAGS;
use mesh_init::input::{Faults, Key, OPTIONS, Origin, Raw, env};
use mesh_init::policy::facts::{parse_ids, parse_resolvers};
use mesh_init::policy::{Cidr, Family, Gid, IfName, Mark, Port, PortRange, Uid};
use mesh_init::rules::{Test, Verdict};
use proptest::prelude::*;
use proptest::{collection, option, sample};

use super::{cases, fuzz};

/// What a text may be made of, so that some of it goes a long way into the parsers.
const PIECES: [&str; 48] = [
    "\n",
    "\r\n",
    " ",
    "\t",
    "=",
    "'",
    "\"",
    "\\",
    "#",
    "$",
    "`",
    ",",
    "*",
    "-",
    ":",
    "/",
    "!",
    "{",
    "}",
    "[",
    "]",
    "\0",
    "é",
    "\u{202e}",
    "0",
    "1",
    "80",
    "65536",
    "10.0.0.0/8",
    "fd00::/8",
    "127.0.0.1",
    "eth0",
    "+",
    "root",
    "-A OUTPUT -j ACCEPT",
    "-j",
    "-m",
    "--comment",
    "*nat",
    "COMMIT",
    ":OUTPUT ACCEPT [0:0]",
    "-A OUTPUT",
    "ISTIO_REDIRECT",
    "-p tcp",
    "--dport",
    "MESH_INIT_PROXY_PORT",
    "ISTIO_SERVICE_CIDR",
    "export ",
];

fn text() -> impl Strategy<Value = String> {
    let pieces = collection::vec(sample::select(PIECES.to_vec()), 0..40).prop_map(|pieces| pieces.concat());
    prop_oneof![any::<String>(), "[ -~\n\t]{0,200}", pieces]
}

/// An item of a list: good, or as good as one with something behind, before or inside it.
fn item() -> impl Strategy<Value = String> {
    let good = sample::select(vec![
        "80",
        "8000-8080",
        "10.0.0.0/8",
        "fd00::/8",
        "eth0",
        "veth+",
        "1338",
        "root",
        "*",
        "",
    ]);
    let evil = sample::select(vec![
        "",
        "",
        "",
        "",
        "\n-j ACCEPT",
        " -j ACCEPT",
        "\n",
        "\t",
        "\"",
        ",",
        "\0",
        "\u{a0}",
        ";id",
    ]);
    (evil.clone(), good, evil).prop_map(|(before, good, after)| format!("{before}{good}{after}"))
}

/// Values for options of a policy, from a flag, right or wrong.
fn raw() -> impl Strategy<Value = Raw> {
    let key = sample::select(OPTIONS.iter().map(|opt| opt.key).collect::<Vec<Key>>());
    let value = collection::vec(item(), 0..3).prop_map(|items| items.join(","));
    collection::vec((key, value), 0..6).prop_map(|given| {
        let mut raw = Raw::default();
        for (key, value) in given {
            raw.set(key, value, Origin::Flag("some-flag"));
        }
        raw
    })
}

/// Variables of istio-iptables that decide which rules there are.
const VARIABLES: [&str; 12] = [
    "INBOUND_CAPTURE_PORT",
    "PROXY_UID",
    "PROXY_GID",
    "ISTIO_INBOUND_INTERCEPTION_MODE",
    "ISTIO_INBOUND_PORTS",
    "ISTIO_SERVICE_CIDR",
    "ISTIO_META_DNS_CAPTURE",
    "ISTIO_OUTBOUND_OWNER_GROUPS",
    "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE",
    "ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR",
    "ENVOY_USER",
    "DROP_INVALID",
];

/// A value that some option of istio-iptables takes, a list of such, or nonsense.
fn istio_value() -> impl Strategy<Value = String> {
    let good = sample::select(vec![
        "*",
        "",
        "80",
        "8000:8080",
        "15008",
        "53",
        "TPROXY",
        "true",
        "false",
        "1",
        "0",
        "1337",
        "root",
        "eth0",
        "veth+",
        "10.0.0.0/8",
        "10.1.2.3/8",
        "fd00::/8",
        "0.0.0.0/0",
        "127.0.0.0/8",
        "::1/128",
        "5s",
    ]);
    let list = collection::vec(good.clone().prop_map(str::to_owned), 1..4).prop_map(|items| items.join(","));
    prop_oneof![4 => good.prop_map(str::to_owned), 2 => list, 1 => item(), 1 => text()]
}

/// Conditions as `iptables-save` prints them, in its order; some are but nearly those that are modelled.
const CONDITIONS: [&[&str]; 8] = [
    &["-s 10.0.0.0/8", "! -s 10.0.0.0/8", "-s 10.0.0.0/255.0.255.0"],
    &["-d 127.0.0.1/32", "! -d 127.0.0.1/32"],
    &["-i eth0", "! -i eth+", "-o lo", "-i eth0 -o eth1"],
    &[
        "-p tcp",
        "! -p tcp",
        "-p udp",
        "-p udp -m udp --dport 53",
        "-p tcp -m tcp --dport 80",
        "-p tcp -m tcp ! --dport 8000:8080",
        "-p tcp -m tcp --sport 1:2 --dport 80 --tcp-flags FIN,SYN,RST,ACK SYN",
        "-p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN",
        "-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK FIN",
        "-p tcp -m tcp --tcp-flags SYN SYN",
        "-p tcp -m tcp --tcp-option 5",
        "-p tcp -m multiport --dports 80,443",
        "-p tcp -m multiport ! --dports 53,15008",
        "-p tcp -m multiport ! --dports 53,1:2",
        "-p tcp -m multiport ! --ports 53,15008",
        "-p sctp -m sctp --dport 80",
        "-p icmp -m icmp --icmp-type 8",
    ],
    &[
        "-m owner --uid-owner 1337",
        "-m owner ! --uid-owner 1337",
        "-m owner --uid-owner 1-2",
        "-m owner --uid-owner 1 --gid-owner 2",
        "-m owner --gid-owner 7 --suppl-groups",
        "-m owner --socket-exists",
    ],
    &[
        "-m addrtype --dst-type LOCAL",
        "-m addrtype ! --dst-type LOCAL",
        "-m addrtype --dst-type BROADCAST",
        "-m addrtype --src-type LOCAL",
        "-m addrtype --dst-type LOCAL --limit-iface-in",
    ],
    &[
        "-m mark --mark 0x1/0xff",
        "-m mark --mark 0x539",
        "-m mark ! --mark 0x53a",
        "-m connmark --mark 0x539",
        "-m connmark --mark 0x539/0xfff",
        "-m conntrack --ctstate NEW",
        "-m conntrack ! --ctstate INVALID",
        "-m conntrack --ctstate RELATED,ESTABLISHED",
        "-m conntrack --ctstate ESTABLISHED,UNTRACKED",
        "-m conntrack --ctstate DNAT",
        "-m conntrack --ctstate NEW --ctdir ORIGINAL",
        "-m state --state NEW",
    ],
    &[
        "-m comment --comment word",
        "-m comment --comment \"two words\"",
        "-m comment --comment \"a \\\"b\\\" c\"",
    ],
];

const TARGETS: [&str; 24] = [
    "",
    "-j ACCEPT",
    "-j RETURN",
    "-j DROP",
    "-j REJECT --reject-with icmp-port-unreachable",
    "-j CHAIN",
    "-g CHAIN",
    "-j REDIRECT --to-ports 15001",
    "-j REDIRECT --to-ports 1-2",
    "-j REDIRECT --to-ports 15001 --random",
    "-j DNAT --to-destination 10.0.0.1:80",
    "-j MARK --set-xmark 0x1/0xffffffff",
    "-j MARK --set-xmark 0x1/0xff",
    "-j TPROXY --on-port 15006 --on-ip 0.0.0.0 --tproxy-mark 0x539/0xffffffff",
    "-j TPROXY --on-port 15006 --on-ip 127.0.0.1 --tproxy-mark 0x539/0xffffffff",
    "-j TPROXY --on-port 15006 --on-ip 0.0.0.0 --tproxy-mark 0x539/0xff",
    "-j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff",
    "-j CONNMARK --save-mark --nfmask 0xff --ctmask 0xff",
    "-j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff",
    "-j CONNMARK --set-xmark 0x1/0xffffffff",
    "-j CT --zone 1",
    "-j CT --zone-orig 1",
    "-j CT --notrack",
    "-j CT --zone mark",
];

/// A rule as `iptables-save` prints it.
fn printed() -> impl Strategy<Value = String> {
    let conditions = CONDITIONS.map(|choices| option::of(sample::select(choices.to_vec())));
    (conditions, sample::select(TARGETS.to_vec())).prop_map(|(conditions, target)| {
        let words = conditions.into_iter().flatten().chain([target]).filter(|words| !words.is_empty());
        words.collect::<Vec<_>>().join(" ")
    })
}

/// The words of a line, each once: `-m owner` may be said once for two conditions.
fn words(line: &str) -> BTreeSet<&str> {
    line.split(' ').collect()
}

proptest! {
    #![proptest_config(cases(2048))]

    /// What is read as understood says all that was printed: a condition that is nearly ours is not ours.
    #[test]
    fn a_printed_rule_is_understood_whole_or_opaque(line in printed()) {
        let text = format!("*nat\n:CHAIN - [0:0]\n:HERE - [0:0]\n-A HERE {line}\nCOMMIT\n");
        let rules = parse::parse(Family::V4, &text).map_err(|bad| TestCaseError::fail(bad.text))?;
        let rule = &rules.chains[1].rules[0];
        let opaque = matches!(rule.verdict, Verdict::Opaque(_))
            || rule.matches.iter().any(|condition| matches!(condition.test, Test::Opaque(_)));
        // A word is quoted where it need not be, which is the same word.
        let rendered = render::specs(rule, Family::V4).join("\n").replace("\"word\"", "word");
        prop_assert!(opaque || words(&rendered) == words(&line), "{line}\nrendered {rendered}\nread {rule:?}");
    }

    #[test]
    fn files_and_tables(text in text()) {
        fuzz::iptables_save(text.as_bytes());
        fuzz::env_file(text.as_bytes());
        let lines = text.lines().count();
        let read = [sockets::parse(&text).len(), parse_ids(&text).len(), parse_resolvers(&text).len()];
        prop_assert!(read.iter().all(|read| *read <= lines), "{:?} out of {} lines", read, lines);
    }

    #[test]
    fn values(text in text()) {
        // What is taken must print as something that is taken as the same.
        if let Ok(cidr) = text.parse::<Cidr>() {
            prop_assert_eq!(cidr.to_string().parse(), Ok(cidr));
        }
        if let Ok(range) = text.parse::<PortRange>() {
            prop_assert_eq!(range.to_string().parse(), Ok(range));
        }
        if let Ok(port) = text.parse::<Port>() {
            prop_assert_eq!(port.to_string().parse(), Ok(port));
        }
        if let Ok(name) = text.parse::<IfName>() {
            prop_assert_eq!(name.as_str(), &text);
            prop_assert!(!text.contains(|c: char| c.is_whitespace() || c.is_control() || "\"'\\!,".contains(c)));
        }
        if let Ok(mark) = text.parse::<Mark>() {
            prop_assert_eq!(mark.to_string().parse(), Ok(mark));
        }
        prop_assert!(!Cidr::was_truncated(&text) || text.parse::<Cidr>().is_ok());
        if let Some(uid) = Uid::parse(&text) {
            prop_assert_eq!(Uid::parse(&uid.to_string()), Some(uid));
        }
        if let Some(gid) = Gid::parse(&text) {
            prop_assert_eq!(Gid::parse(&gid.to_string()), Some(gid));
        }
    }

    #[test]
    fn values_of_every_option(raw in raw()) {
        fuzz::judge(&raw, Faults::default());
    }

    #[test]
    fn command_lines(words in collection::vec(text(), 0..6), flags in collection::vec(sample::select(OPTIONS.iter().map(|opt| opt.long).collect::<Vec<_>>()), 0..6)) {
        let flags = flags.iter().map(|long| format!("--{long}"));
        // Flags and values by turns, as far as they go.
        let mut line = Vec::new();
        let mut words = words.into_iter();
        for flag in flags {
            line.push(flag);
            line.extend(words.next());
        }
        line.extend(words);
        fuzz::flags(line.join("\0").as_bytes());
    }

    #[test]
    fn command_lines_of_istio_iptables(
        variables in collection::vec((sample::select(VARIABLES.to_vec()), istio_value()), 0..4),
        flags in collection::vec((sample::select(FLAGS.iter().map(|flag| flag.long).collect::<Vec<_>>()), istio_value()), 0..6),
    ) {
        let variables = variables.into_iter().map(|(name, value)| format!("{name}={value}"));
        let flags = flags.into_iter().filter(|(long, _)| !long.is_empty()).map(|(long, value)| format!("--{long}={value}"));
        let words: Vec<String> = variables.chain(flags).map(|word| word.replace('\0', "")).collect();
        fuzz::istio_iptables(words.join("\0").as_bytes());
    }

    #[test]
    fn the_environment(name in prop_oneof![text(), text().prop_map(|text| format!("MESH_INIT_{text}"))], value in collection::vec(any::<u8>(), 0..20)) {
        let variables = [(name.into(), std::ffi::OsString::from_vec(value))];
        let mut faults = Faults::default();
        let (raw, unknown) = env::parse(&variables, cli::Verb::Apply.parts(), &mut faults);
        prop_assert!(raw.keys().count() + unknown.len() + faults.list().len() <= 1);
    }
}

proptest! {
    #![proptest_config(cases(512))]

    /// The seeds of config files with something changed.
    #[test]
    fn config_files(at in any::<sample::Index>(), cut in 0usize..20, put in prop_oneof![Just(String::new()), item()]) {
        let seed = include_str!("../../../fuzz/seeds/config/scoped.json");
        let at = at.index(seed.len());
        let end = (at + cut).min(seed.len());
        let put: String = put.chars().filter(|c| !c.is_control()).collect();
        fuzz::config(format!("{}{put}{}", &seed[..at], &seed[end..]).as_bytes());
    }
}
