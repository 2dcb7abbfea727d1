//! Random command lines: valid ones, from which policies are made as they are everywhere else.

use mesh_init::cli::{self, Parsed};
use mesh_init::input::{Faults, Raw};
use mesh_init::policy::validate::{self, Request};
use mesh_init::policy::{Facts, Layout};
use proptest::prelude::*;
use proptest::{collection, option, sample};

pub(super) type Args = Vec<String>;

/// The flags of a command line.
pub(super) fn flags(args: &[String]) -> Raw {
    let words = std::iter::once("mesh-init".to_owned()).chain(args.iter().cloned());
    match cli::parse(words.map(Into::into)) {
        Parsed::Call { flags, .. } => flags,
        Parsed::Istio(_) => panic!("{args:?} is istio-iptables"),
        Parsed::Answer(text) | Parsed::Misuse(text) => panic!("{args:?}: {text}"),
    }
}

#[track_caller]
pub(super) fn request(args: &[String]) -> Request {
    let request = validate::request(&flags(args), &Facts::default(), Faults::default());
    request.unwrap_or_else(|faults| panic!("{args:?}: {faults}"))
}

/// `flag` with a comma-separated list of one to `most` items, or not at all.
fn list(flag: &'static str, item: impl Strategy<Value = String>, most: usize) -> impl Strategy<Value = Args> {
    option::of(collection::vec(item, 1..=most)).prop_map(move |items| match items {
        Some(items) => vec![flag.to_owned(), items.join(",")],
        None => vec![],
    })
}

fn one(flag: &'static str, value: impl Strategy<Value = String>) -> impl Strategy<Value = Args> {
    option::of(value).prop_map(move |value| value.map_or(vec![], |value| vec![flag.to_owned(), value]))
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

pub(super) fn classic() -> impl Strategy<Value = Args> {
    (proxy(), networks("-i"), ipv6()).prop_map(|(proxy, networks, ipv6)| [proxy, networks, ipv6].concat())
}

pub(super) fn scoped() -> impl Strategy<Value = Args> {
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
    (proxy(), owners, inbound, outbound, rest).prop_map(|(proxy, owners, inbound, outbound, rest)| {
        [proxy, owners, inbound, outbound.0, outbound.1, outbound.2, outbound.3, rest.0, rest.1, rest.2]
            .concat()
    })
}

pub(super) fn either() -> impl Strategy<Value = (Layout, Args)> {
    prop_oneof![
        classic().prop_map(|args| (Layout::Classic, args)),
        scoped().prop_map(|args| (Layout::Scoped, args)),
    ]
}
