//! `iptables -t nat -L -n -v`, read field by field, against a listing of a sidecar's pod of 2017.
//!
//! Versions differ in how they write the same thing: `0` or `all`, `6` or `tcp`, and how many blanks.

use crate::child::Verdict;
use crate::golden::capture;
use crate::harness::{Case, Check};
use crate::support::command::Run;
use crate::support::netns::Netns;
use crate::support::rules::{Family, Variant};

/// The chains that hold rules, with the counters of the time.
const LISTED_IN_2017: &str = "\
Chain PREROUTING (policy ACCEPT 0 packets, 0 bytes)
 pkts bytes target     prot opt in     out     source               destination
   16   960 ISTIO_REDIRECT  all  --  *      *       0.0.0.0/0            0.0.0.0/0            /* istio/install-istio-prerouting */

Chain OUTPUT (policy ACCEPT 84838 packets, 7963K bytes)
 pkts bytes target     prot opt in     out     source               destination
 1969  118K ISTIO_OUTPUT  tcp  --  *      *       0.0.0.0/0            0.0.0.0/0            /* istio/install-istio-output */

Chain ISTIO_OUTPUT (1 references)
 pkts bytes target     prot opt in     out     source               destination
    0     0 ISTIO_REDIRECT  all  --  *      lo      0.0.0.0/0           !127.0.0.1            /* istio/redirect-implicit-loopback */
 1969  118K RETURN     all  --  *      *       0.0.0.0/0            0.0.0.0/0            owner UID match 1337 /* istio/bypass-envoy */
    0     0 RETURN     all  --  *      *       0.0.0.0/0            127.0.0.1            /* istio/bypass-explicit-loopback */
    0     0 ISTIO_REDIRECT  all  --  *      *       0.0.0.0/0            0.0.0.0/0            /* istio/redirect-default-outbound */

Chain ISTIO_REDIRECT (3 references)
 pkts bytes target     prot opt in     out     source               destination
   16   960 REDIRECT   tcp  --  *      *       0.0.0.0/0            0.0.0.0/0            /* istio/redirect-to-envoy-port */ redir ports 15001
";

#[derive(Clone, Debug, PartialEq, Eq)]
struct Chain {
    name: String,
    /// `policy ACCEPT` or `3 references`.
    kind: String,
    rules: Vec<Rule>,
}

/// The fields of a rule after its counters: target, protocol, options, interfaces, addresses, and the rest.
type Rule = Vec<String>;

pub(crate) fn cases() -> Vec<Case> {
    Case::each_variant("listing::equals_2017", equals_2017).into()
}

pub(crate) fn checks() -> Vec<Check> {
    vec![
        Check { name: "listing::reads_alike", body: Box::new(reads_alike) },
        Check { name: "listing::tells_apart", body: Box::new(tells_apart) },
    ]
}

fn equals_2017(variant: Variant) {
    let netns = Netns::new("here");
    capture(&netns, variant);
    let listed = Run::new(&netns, &variant.program(Family::V4, ""), &["-t", "nat", "-L", "-n", "-v"]).ok();
    let mut seen = parse(&listed).unwrap_or_else(|error| panic!("{error} in\n{listed}"));
    let empty = ["INPUT", "POSTROUTING"];
    seen.retain(|chain| !(empty.contains(&chain.name.as_str()) && chain.rules.is_empty()));
    seen.sort_by_key(|chain| chain.name.clone());
    let mut expected = parse(LISTED_IN_2017).expect("the listing of 2017");
    expected.sort_by_key(|chain| chain.name.clone());
    assert_eq!(expected, seen, "expected the chains of\n{LISTED_IN_2017}\nseen\n{listed}");
}

/// Other blanks, other counters, other spellings of a protocol.
fn reads_alike() -> Verdict {
    let respelled = LISTED_IN_2017
        .replace(" all  --", " 0    --")
        .replace(" tcp  --", "   6   -- ")
        .replace("1969  118K", "    3   180")
        .replace("84838 packets, 7963K", "0 packets, 0");
    match (parse(LISTED_IN_2017), parse(&respelled)) {
        (Ok(one), Ok(other)) if one == other && one.len() == 4 => Verdict::Passed,
        (one, other) => Verdict::Failed(format!("expected four equal chains, seen\n{one:#?}\n{other:#?}")),
    }
}

/// Any other change of any field shows.
fn tells_apart() -> Verdict {
    let changes = [
        ("ISTIO_REDIRECT  all", "RETURN  all"),
        ("ISTIO_OUTPUT  tcp", "ISTIO_OUTPUT  udp"),
        ("*      lo ", "*      eth0 "),
        ("lo      0.0.0.0/0", "lo      10.0.0.0/8"),
        ("!127.0.0.1", "127.0.0.1"),
        ("match 1337", "match 1338"),
        ("istio/bypass-envoy", "istio/bypass"),
        ("ports 15001", "ports 15006"),
        ("(3 references)", "(2 references)"),
        ("policy ACCEPT 84838", "policy DROP 84838"),
        ("Chain ISTIO_REDIRECT", "Chain ISTIO_IN_REDIRECT"),
        (
            " 1969  118K RETURN     all  --  *      *       0.0.0.0/0            0.0.0.0/0            owner UID match 1337 /* istio/bypass-envoy */\n",
            "",
        ),
    ];
    let original = parse(LISTED_IN_2017);
    for (from, to) in changes {
        let changed = LISTED_IN_2017.replacen(from, to, 1);
        if changed == LISTED_IN_2017 || parse(&changed) == original {
            return Verdict::Failed(format!("expected `{from}` -> `{to}` to show"));
        }
    }
    match parse("Chain X (1 references)\n pkts bytes target\n    0     0 RETURN     all  --\n") {
        Err(_) => Verdict::Passed,
        Ok(chains) => Verdict::Failed(format!("expected a complaint about a short line, seen {chains:?}")),
    }
}

fn parse(listing: &str) -> Result<Vec<Chain>, String> {
    let mut chains: Vec<Chain> = Vec::new();
    for line in listing.lines().filter(|line| !line.is_empty() && !line.trim_start().starts_with("pkts")) {
        match (line.strip_prefix("Chain "), chains.last_mut()) {
            (Some(header), _) => chains.push(chain(header)?),
            (None, Some(chain)) => chain.rules.push(rule(line)?),
            (None, None) => return Err(format!("a rule before any chain: {line:?}")),
        }
    }
    Ok(chains)
}

fn chain(header: &str) -> Result<Chain, String> {
    let complaint = || format!("not a chain: {header:?}");
    let (name, rest) = header.split_once(" (").ok_or_else(complaint)?;
    let kind: Vec<_> = rest.trim_end_matches(')').split(' ').take(2).collect();
    Ok(Chain { name: name.to_owned(), kind: kind.join(" "), rules: Vec::new() })
}

fn rule(line: &str) -> Result<Rule, String> {
    let fields: Vec<_> = line.split_whitespace().skip(2).collect();
    if fields.len() < 7 {
        return Err(format!("too few fields: {line:?}"));
    }
    let spelled = |(at, field): (usize, &str)| match (at, field) {
        (1, "0") => "all".to_owned(),
        (1, "6") => "tcp".to_owned(),
        _ => field.to_owned(),
    };
    Ok(fields.into_iter().enumerate().map(spelled).collect())
}
