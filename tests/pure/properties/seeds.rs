//! The seeds of the fuzz targets, crashes that were found among them, are replayed here.

use std::path::Path;

use mesh_init::backend::iptables::parse;
use mesh_init::backend::nftables::decode;
use mesh_init::eval::Conn;
use mesh_init::policy::Family;
use mesh_init::rules::{RuleSet, Test, Verdict};

use super::fuzz::{self, grammar};

#[test]
fn no_target_fails_on_its_seeds() {
    for (name, target) in fuzz::TARGETS {
        let seeds = seeds(name);
        seeds.iter().for_each(|(_, bytes)| target(bytes));
        assert!(seeds.len() >= 3, "{name} has {} seeds", seeds.len());
    }
}

fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let entries = std::fs::read_dir(folder).expect("every target has seeds");
    let seed = |entry: std::fs::DirEntry| {
        (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap())
    };
    entries.map(|entry| seed(entry.unwrap())).collect()
}

/// How many rules there are, and how many of them hold something that is not understood.
fn rules(set: &RuleSet) -> (usize, usize) {
    let rules = || set.chains.iter().flat_map(|chain| &chain.rules);
    let opaque = |test: &Test| matches!(test, Test::Opaque(_));
    let unknown = rules().filter(|rule| {
        matches!(rule.verdict, Verdict::Opaque(_)) || rule.matches.iter().any(|of| opaque(&of.test))
    });
    (rules().count(), unknown.count())
}

/// A seed that a parser refuses at its first byte leads no fuzzer anywhere.
#[test]
fn seeds_are_read_for_what_they_are() {
    let mut dumps = 0;
    for (name, bytes) in seeds("nftables") {
        let (all, unknown) = rules(&decode(&bytes).rules);
        match name.split('_').next() {
            Some("ours") => assert!(all >= 7 && unknown == 0, "{name}: {unknown} of {all}"),
            Some("foreign" | "iptables") => assert!(all >= 7 && unknown < all, "{name}: {unknown} of {all}"),
            _ => continue,
        }
        dumps += 1;
    }
    assert!(dumps >= 8, "{dumps} dumps");
    // Crashes that were found stand beside them, and may be anything.
    const SAVED: [&str; 9] =
        ["classic", "docker", "firewalld", "istio", "kube", "linkerd", "lookalike", "scoped", "upstream"];
    let saved = seeds("iptables_save").into_iter().filter(|(name, _)| SAVED.contains(&name.as_str()));
    let saved: Vec<_> = saved.collect();
    assert_eq!(saved.len(), SAVED.len());
    for (name, bytes) in saved {
        let text = String::from_utf8(bytes).unwrap();
        let read = parse::parse(Family::V4, &text).unwrap_or_else(|error| panic!("{name}: {error:?}"));
        let (all, unknown) = rules(&read);
        assert!(all >= 4 && unknown < all, "{name}: {unknown} of {all}");
    }
    let conns = seeds("connection")
        .into_iter()
        .filter(|(_, bytes)| std::str::from_utf8(bytes).is_ok_and(|text| text.parse::<Conn>().is_ok()));
    assert!(conns.count() >= 10);
}

/// The grammar would not be worth much if it took everything.
#[test]
fn the_grammar_refuses_what_is_not_ours() {
    let check = |line: &str| grammar::check(Family::V4, &format!("* nat\n{line}\nCOMMIT\n"));
    for line in [
        "-N ISTIO_OUTPUT",
        "-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -m comment --comment \"istio/x\" -j ISTIO_REDIRECT",
        "-I OUTPUT 1 -p tcp -j ISTIO_OUTPUT",
        "-I PREROUTING 2 -i eth0 -j RETURN",
        "-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001",
        "-A ISTIO_OUTPUT -p tcp -m tcp --dport 1:2 --tcp-flags FIN,SYN,RST,ACK SYN -j RETURN",
        "-A ISTIO_OUTPUT -o lo -p tcp -m multiport ! --dports 53,15008 -m owner --gid-owner 1 -j ISTIO_IN_REDIRECT",
        "-A ISTIO_OUTPUT -m owner ! --gid-owner 1 -m owner ! --gid-owner 2 -j RETURN",
    ] {
        assert_eq!(check(line), Ok(()), "{line}");
    }
    for line in [
        "",
        "-A ISTIO_OUTPUT -j ACCEPT",
        "-A ISTIO_OUTPUT -j RETURN -j ACCEPT",
        "-A ISTIO_OUTPUT -o eth0 -j ACCEPT -j RETURN",
        "-A INPUT -j RETURN",
        "-P OUTPUT DROP",
        "-I OUTPUT 0 -j RETURN",
        "-I ISTIO_OUTPUT 1 -j RETURN",
        "-A ISTIO_OUTPUT  -j RETURN",
        "-A ISTIO_OUTPUT -d fd00::/8 -j RETURN",
        "-A ISTIO_OUTPUT -o eth0\n-j RETURN",
        "-A ISTIO_OUTPUT -o \"eth0\" -j RETURN",
        "-A ISTIO_OUTPUT ! -o eth0 -j RETURN",
        "-A ISTIO_OUTPUT ! ! -d 10.0.0.0/8 -j RETURN",
        "-A ISTIO_OUTPUT -m comment --comment \"a b\" -j RETURN",
        "-A ISTIO_OUTPUT -m owner --uid-owner 4294967295 -j RETURN",
        "-A ISTIO_OUTPUT --uid-owner 5 -j RETURN",
        "-A ISTIO_OUTPUT -m owner --dport 80 -j RETURN",
        "-A ISTIO_OUTPUT -m tcp --dport 80 -j RETURN",
        "-A ISTIO_OUTPUT -p udp -m tcp --dport 80 -j RETURN",
        "-A ISTIO_OUTPUT -p tcp --dport 80 -j RETURN",
        "-A ISTIO_OUTPUT -p tcp -m tcp --dport 0 -j RETURN",
        "-A ISTIO_OUTPUT -p tcp -m tcp --dport 2:1 -j RETURN",
        "-A ISTIO_OUTPUT -p tcp -m multiport ! --dports 53,1:2 -j RETURN",
        "-A ISTIO_REDIRECT -j REDIRECT --to-ports 15001",
        "-A ISTIO_OUTPUT_DNS -p udp -m udp --dport 53 -j REDIRECT --to-port 15053",
        "-A ISTIO_OUTPUT -o",
        "COMMIT",
        // Chains and targets of other tables.
        "-N ISTIO_DIVERT",
        "-A ISTIO_INBOUND -j ISTIO_TPROXY",
        "-A OUTPUT -j MARK --set-xmark 0x1/0xffffffff",
        "-A ISTIO_OUTPUT_DNS -j CT --zone 1",
    ] {
        assert!(check(line).is_err(), "{line}");
    }
}

#[test]
fn the_grammar_knows_each_tables_own_words() {
    let check = |table: &str, line: &str| grammar::check(Family::V6, &format!("* {table}\n{line}\nCOMMIT\n"));
    for (table, line) in [
        ("mangle", "-A ISTIO_DROP -j DROP"),
        ("mangle", "-A ISTIO_DIVERT -j ACCEPT"),
        ("mangle", "-A ISTIO_DIVERT -j MARK --set-xmark 0x539/0xffffffff"),
        ("mangle", "-A ISTIO_INBOUND -p tcp -m conntrack --ctstate RELATED,ESTABLISHED -j ISTIO_DIVERT"),
        (
            "mangle",
            "-A ISTIO_TPROXY ! -d ::1/128 -p tcp -j TPROXY --on-port 1 --on-ip :: --tproxy-mark 0x1/0xffffffff",
        ),
        (
            "mangle",
            "-A OUTPUT -p tcp -m connmark --mark 0x539 -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff",
        ),
        ("raw", "-A ISTIO_INBOUND -s fd00::53/128 -p udp -m udp --sport 53 -j CT --zone 1"),
        ("raw", "-A PREROUTING -m comment --comment \"mesh-init:dns.hook\" -j ISTIO_INBOUND"),
    ] {
        assert_eq!(check(table, line), Ok(()), "{line}");
    }
    for (table, line) in [
        ("mangle", "-A ISTIO_INBOUND -j ACCEPT"),
        ("mangle", "-A OUTPUT -j DROP"),
        ("mangle", "-A ISTIO_INBOUND -m conntrack --ctstate NEW -j RETURN"),
        ("mangle", "-A ISTIO_DIVERT -j MARK --set-xmark 0x539/0xff"),
        ("mangle", "-A ISTIO_DIVERT -j MARK --set-xmark 0x0/0xffffffff"),
        ("mangle", "-A ISTIO_DIVERT -j MARK --set-mark 1337"),
        ("mangle", "-A ISTIO_INBOUND -p tcp -m mark --mark 1337 -j RETURN"),
        (
            "mangle",
            "-A ISTIO_TPROXY -p tcp -j TPROXY --on-port 1 --on-ip 0.0.0.0 --tproxy-mark 0x1/0xffffffff",
        ),
        ("mangle", "-A ISTIO_TPROXY -j TPROXY --on-port 1 --on-ip :: --tproxy-mark 0x1/0xffffffff"),
        ("mangle", "-A ISTIO_INBOUND -p tcp -j REDIRECT --to-ports 1"),
        ("raw", "-A ISTIO_OUTPUT_DNS -j CT --zone 3"),
        ("raw", "-A ISTIO_OUTPUT_DNS -j RETURN"),
        ("raw", "-N ISTIO_OUTPUT"),
        ("filter", "-A OUTPUT -j RETURN"),
    ] {
        assert!(check(table, line).is_err(), "{line}");
    }
}

#[test]
fn the_grammar_of_a_transcript_is_upstreams() {
    let nat = |line: &str| format!("* nat\n-N ISTIO_REDIRECT\n-N ISTIO_OUTPUT_DNS\n{line}\nCOMMIT\n");
    let text = |body: &str| format!("iptables-save\nip6tables-save\n{body}iptables-save\n");
    let (tcp, udp) = (
        "-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001",
        "-A ISTIO_OUTPUT_DNS -p udp --dport 53 -j REDIRECT --to-port 15053",
    );
    let mangle =
        "* mangle\n-N ISTIO_INBOUND\n-I ISTIO_INBOUND 1 -p tcp -m mark --mark 1337 -j RETURN\nCOMMIT\n";
    for body in [nat(tcp), nat(udp), format!("{mangle}{}", nat(tcp))] {
        assert_eq!(grammar::check_transcript(false, &text(&body)), Ok(()), "{body}");
    }
    assert!(grammar::check_transcript(true, &text(&nat(tcp))).is_err(), "IPv6 is missing");
    let both = format!("iptables-save\nip6tables-save\n{0}{0}iptables-save\nip6tables-save\n", nat(tcp));
    assert_eq!(grammar::check_transcript(true, &both), Ok(()), "{both}");
    for body in [
        String::new(),
        nat(tcp).repeat(2),
        format!("{}{mangle}", nat(tcp)),
        nat("-A ISTIO_OUTPUT -j RETURN"),
        nat("-A ISTIO_REDIRECT -p tcp -m tcp --dport 80 -j RETURN"),
        nat("-A ISTIO_REDIRECT --dport 80 -j RETURN"),
        nat("-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-port 15001"),
        nat("-A ISTIO_OUTPUT_DNS -p udp --dport 53 -j REDIRECT --to-ports 15053"),
        nat("-A ISTIO_REDIRECT -j RETURN\n-N ISTIO_OUTPUT"),
        nat("-N ISTIO_REDIRECT"),
        nat("-F ISTIO_REDIRECT"),
        nat(tcp).replace("COMMIT\n", ""),
        mangle.to_owned(),
    ] {
        assert!(grammar::check_transcript(false, &text(&body)).is_err(), "{body}");
    }
}
