//! Random command lines: valid ones, from which policies are made as they are everywhere else.

use mesh_init::cli::{self, Parsed};
use mesh_init::input::{Faults, Raw};
use mesh_init::policy::validate::{self, Request};
use mesh_init::policy::{Facts, Layout};
use proptest::prelude::*;
use proptest::{collection, option, sample};

pub(crate) type Args = Vec<String>;

/// The flags of a command line.
pub(crate) fn flags(args: &[String]) -> Raw {
    let words = std::iter::once("mesh-init".to_owned()).chain(args.iter().cloned());
    match cli::parse(words.map(Into::into)) {
        Parsed::Call { flags, .. } => flags,
        Parsed::Istio(_)
        | Parsed::Explain { .. }
        | Parsed::Trace { .. }
        | Parsed::Install(_)
        | Parsed::Uninstall(_)
        | Parsed::Cni => {
            panic!("{args:?} makes no rules")
        }
        Parsed::Answer(text) | Parsed::Misuse(text) => panic!("{args:?}: {text}"),
    }
}

#[track_caller]
pub(crate) fn request(args: &[String]) -> Request {
    let request = validate::request(&flags(args), &Facts::default(), Faults::default());
    request.unwrap_or_else(|faults| panic!("{args:?}: {faults}"))
}

/// `flag` with a comma-separated list of one to `most` items, or not at all.
///
/// Boxed, for dozens of them in one value are more than a test's stack holds.
fn list(
    flag: &'static str,
    item: impl Strategy<Value = String> + 'static,
    most: usize,
) -> BoxedStrategy<Args> {
    let items = option::of(collection::vec(item, 1..=most));
    items
        .prop_map(move |items| match items {
            Some(items) => vec![flag.to_owned(), items.join(",")],
            None => vec![],
        })
        .boxed()
}

fn one(flag: &'static str, value: impl Strategy<Value = String> + 'static) -> BoxedStrategy<Args> {
    option::of(value)
        .prop_map(move |value| value.map_or(vec![], |value| vec![flag.to_owned(), value]))
        .boxed()
}

fn number(range: std::ops::Range<u32>) -> impl Strategy<Value = String> {
    range.prop_map(|number| number.to_string())
}

/// An application's port or a range of them: none of the proxy's.
fn ports() -> impl Strategy<Value = String> {
    let range = (1u16..15000, 0u16..100);
    range.prop_map(|(first, more)| match first + more {
        last if last == first || last >= 15000 => first.to_string(),
        last => format!("{first}-{last}"),
    })
}

fn network() -> impl Strategy<Value = String> {
    let ipv4 = (any::<[u8; 4]>(), 0u8..=32).prop_map(|(address, length)| (address.into(), length));
    // A network of IPv4 written as IPv6 is refused.
    let ipv6 = (0xfc00u16.., any::<[u16; 7]>(), 0u8..=128).prop_map(|(first, rest, length)| {
        let [b, c, d, e, f, g, h] = rest;
        ([first, b, c, d, e, f, g, h].into(), length)
    });
    prop_oneof![ipv4, ipv6]
        .prop_map(|(address, length): (std::net::IpAddr, u8)| format!("{address}/{length}"))
}

fn networks(flag: &'static str) -> impl Strategy<Value = Args> {
    prop_oneof![
        4 => list(flag, network(), 4),
        1 => Just(vec![flag.to_owned(), "*".to_owned()]),
        1 => Just(vec![flag.to_owned(), String::new()]),
    ]
}

fn interface() -> impl Strategy<Value = String> {
    "[a-z][a-z0-9_.@-]{0,10}[0-9+]"
}

/// Users, groups and port of the proxy, which are never those of anything else here.
fn proxy() -> impl Strategy<Value = Args> {
    let id = || number(1000..1010);
    let ids = prop_oneof![
        4 => (list("-u", id(), 3), list("-g", id(), 3)).prop_map(|(uids, gids)| [uids, gids].concat()),
        1 => list("--proxy-gid", id(), 3).prop_map(|gids| match gids.is_empty() {
            true => gids,
            false => [gids, vec!["--proxy-uid=".to_owned()]].concat(),
        }),
    ];
    (one("-p", number(15100..15200)), ids).prop_map(|(port, ids)| [port, ids].concat())
}

fn ipv6() -> impl Strategy<Value = Args> {
    one("--ipv6", sample::select(vec!["auto", "on"]).prop_map(str::to_owned))
}

pub(crate) fn classic() -> impl Strategy<Value = Args> {
    (proxy(), networks("-i"), ipv6()).prop_map(|(proxy, networks, ipv6)| [proxy, networks, ipv6].concat())
}

pub(crate) fn scoped() -> BoxedStrategy<Args> {
    let id = || number(2000..2010);
    let owners = (list("--uid-owner", id(), 3), list("--gid-owner", id(), 2)).prop_map(|(uids, gids)| {
        let owners = [uids, gids].concat();
        if owners.is_empty() { vec!["--uid-owner".to_owned(), "0".to_owned()] } else { owners }
    });
    let star = list("-d", ports(), 3).prop_map(|excluded| [vec!["-b".into(), "*".into()], excluded].concat());
    let inbound = prop_oneof![list("-b", ports(), 4), star];
    let outbound = (
        networks("-i"),
        list("-x", network(), 3),
        prop_oneof![4 => list("-q", ports(), 3), 1 => Just(vec!["-q".to_owned(), String::new()])],
        list("-o", ports(), 20),
    );
    let rest = (list("-c", interface(), 3), one("-z", number(15200..15300)), ipv6());
    (proxy(), owners, inbound, outbound, rest)
        .prop_map(|(proxy, owners, inbound, outbound, rest)| {
            [proxy, owners, inbound, outbound.0, outbound.1, outbound.2, outbound.3, rest.0, rest.1, rest.2]
                .concat()
        })
        .boxed()
}

/// Zero to two DNS servers beside the switch, or every server.
fn dns() -> impl Strategy<Value = Args> {
    let address = prop_oneof![
        (1u8..=254).prop_map(|last| format!("10.0.0.{last}")),
        (1u16..=999).prop_map(|last| format!("fd00::{last}")),
        Just("127.0.0.53".to_owned()),
    ];
    let port = || one("--dns-port", number(15300..15400));
    prop_oneof![
        3 => Just(vec![]),
        2 => (collection::vec(address, 1..4), port()).prop_map(|(servers, port)| {
            [vec!["--redirect-dns".to_owned(), "--dns-server".to_owned(), servers.join(",")], port].concat()
        }),
        2 => port().prop_map(|port| [vec!["--redirect-dns=true".into(), "--capture-all-dns".into()], port].concat()),
    ]
}

fn groups() -> impl Strategy<Value = Args> {
    let id = || number(3000..3010);
    prop_oneof![
        list("--exclude-owner-group", id(), 3),
        list("--owner-group", id(), 3),
        // None at all, which is another thing than all of them.
        Just(vec!["--owner-group=".to_owned()]),
    ]
}

fn interception() -> impl Strategy<Value = Args> {
    // 1338 is the mark of the proxy's own calls.
    let tproxy = (one("-t", number(1..1000)), one("-r", number(1..200)))
        .prop_map(|(mark, table)| [vec!["-m".to_owned(), "TPROXY".to_owned()], mark, table].concat());
    prop_oneof![Just(vec![]), Just(vec!["-m".to_owned(), "REDIRECT".to_owned()]), tproxy]
}

/// What today's istio-iptables knows beside the proxy; `-b` is all unless told otherwise.
fn today() -> BoxedStrategy<Args> {
    let star = list("-d", ports(), 3).prop_map(|excluded| [vec!["-b".into(), "*".into()], excluded].concat());
    let inbound = prop_oneof![list("-b", ports(), 4), star, Just(vec!["-b".to_owned(), String::new()])];
    let loopback =
        sample::select(vec!["127.0.0.0/8", "127.0.0.1/32", "127.7.0.0/16"]).prop_map(str::to_owned);
    // Loopback networks among the others change more than their own rule.
    let outbound =
        prop_oneof![4 => networks("-i"), 1 => Just(vec!["-i".into(), "127.0.0.0/8,::1/128".into()])];
    let outbound = (
        outbound,
        list("-x", network(), 3),
        list("-q", ports(), 3),
        list("-o", ports(), 4),
        one("--loopback-cidr", loopback),
    );
    let outbound = outbound.prop_map(|(include, exclude, ports, others, loopback)| {
        [include, exclude, ports, others, loopback].concat()
    });
    let dropped = prop_oneof![Just(vec![]), Just(vec!["--drop-invalid".to_owned()])];
    let interfaces = (list("-c", interface(), 3), list("-k", interface(), 3));
    let rest =
        (interfaces, one("-z", number(15200..15300)), one("-e", number(15400..15500)), ipv6(), dropped);
    let rest = rest.prop_map(|((excluded, rerouted), port, tunnel, ipv6, dropped)| {
        [excluded, rerouted, port, tunnel, ipv6, dropped].concat()
    });
    (inbound, outbound, interception(), groups(), dns(), rest)
        .prop_map(|(inbound, outbound, mode, groups, dns, rest)| {
            [inbound, outbound, mode, groups, dns, rest].concat()
        })
        .boxed()
}

/// Our reading of the istio layout, said by name or by an option that no other layout has.
pub(crate) fn istio() -> impl Strategy<Value = Args> {
    let by = prop_oneof![
        Just(vec!["--layout".to_owned(), "istio".to_owned()]),
        // A list is joined, so it adds to others.
        Just(vec!["-c".to_owned(), "cni0".to_owned()]),
    ];
    (proxy(), today(), by).prop_map(|(proxy, today, by)| [proxy, today, by].concat())
}

/// istio-iptables to the letter.
pub(crate) fn letter() -> impl Strategy<Value = Args> {
    let by = vec!["--layout".to_owned(), "istio-iptables".to_owned()];
    (proxy(), today()).prop_map(move |(proxy, today)| [proxy, today, by.clone()].concat())
}

/// A command line of each layout that is ours to shape.
pub(crate) fn ours() -> impl Strategy<Value = (Layout, Args)> {
    prop_oneof![
        classic().prop_map(|args| (Layout::Classic, args)),
        scoped().prop_map(|args| (Layout::Scoped, args)),
        istio().prop_map(|args| (Layout::Istio, args)),
    ]
}

/// The same, and upstream's letter.
pub(crate) fn every() -> impl Strategy<Value = (Layout, Args)> {
    prop_oneof![
        3 => ours(),
        1 => letter().prop_map(|args| (Layout::IstioIptables, args)),
    ]
}
