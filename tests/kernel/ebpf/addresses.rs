//! Destinations in every form that a socket takes, and calls of the host to itself: as behind rules, or told apart here.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::{Named, POD, Pod, outcome};
use crate::istio::{APP, PROXY, neighbour};
use crate::support::creds::Who;
use crate::support::dial::{Source, dial, dial_from};
use crate::support::netns::Netns;
use crate::support::rules::Family;
use crate::support::wire::{HERE, HERE_FAR, LOOPBACK, THERE, THERE_FAR, link_local};

pub(super) const CASES: &[Named] = &[
    ("addresses::like_rules", || like_rules(POD)),
    ("addresses::like_rules_with_loopback", || {
        like_rules(
            "--layout istio -p 15001 -z 15006 -u 1337 -b * -i 127.0.0.0/8,10.0.0.0/24,::1/128,fd00::/64",
        );
    }),
    ("addresses::like_rules_with_exclusions", || {
        like_rules(
            "--layout istio -p 15001 -z 15006 -u 1337 -g 1337 -b 80,9090 -i * -x 10.9.0.0/24,fd00:9::/64 -o 443",
        );
    }),
    ("addresses::like_rules_for_a_vm", || {
        like_rules("--uid-owner 1000 -p 15001 -z 15006 -u 1337 --inbound 80,9090")
    }),
    ("addresses::like_rules_of_linkerd", || like_rules("--layout classic -p 15001 -u 1337")),
    ("addresses::mapped", mapped),
    ("addresses::link_local", of_a_link),
    ("addresses::without_a_route", without_a_route),
    ("addresses::without_ipv6", without_ipv6),
    ("addresses::self_calls", self_calls),
];

/// The form that an IPv6 socket takes of an IPv4 address.
fn mapped_form(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

fn destinations() -> Vec<SocketAddr> {
    let hosts = [LOOPBACK, HERE, HERE_FAR, THERE, THERE_FAR];
    let ports = [80, 443, 9090, 15001, 15006];
    let known =
        hosts.iter().flat_map(|host| ports.map(|port| Family::BOTH.map(|family| host.port(family, port))));
    let any = ["0.0.0.0:80", "[::]:80", "0.0.0.0:443", "127.255.0.3:9090"]
        .map(|text| text.parse().expect("an address"));
    let all: Vec<SocketAddr> = known.flatten().chain(any).chain([neighbour(80)]).collect();
    let mapped = all.iter().map(|address| mapped_form(*address)).filter(|address| !all.contains(address));
    let mapped: Vec<_> = mapped.collect();
    [all, mapped].concat()
}

/// Who answers what, whom the proxy is told, and whom it sees.
fn outcomes(here: &Netns, there: &Netns) -> Vec<String> {
    let mut told = Vec::new();
    for to in destinations() {
        for who in [APP, PROXY, Who::ROOT, APP.group(1337)] {
            told.push(format!("{who} to {to}: {}", outcome(&dial(here, who, to))));
        }
    }
    for family in Family::BOTH {
        for port in [22, 80, 443, 8080, 9090, 15001, 15006, 15008] {
            for host in [HERE, HERE_FAR] {
                let to = host.port(family, port);
                told.push(format!("from there to {to}: {}", outcome(&dial(there, APP, to))));
            }
        }
    }
    told
}

#[track_caller]
fn like_rules(flags: &str) {
    let (here, there) = Pod::with_rules(flags);
    let rules = outcomes(&here, &there);
    let pod = Pod::new(flags);
    let sockets = outcomes(&pod.here, &pod.there);
    let differ: Vec<_> = rules.iter().zip(&sockets).filter(|(rules, sockets)| rules != sockets).collect();
    let told: String =
        differ.iter().map(|(rules, sockets)| format!("rules    {rules}\nsockets  {sockets}\n")).collect();
    assert!(differ.is_empty(), "{} of {} differ:\n{told}", differ.len(), rules.len());
    for proxy in ["outbound", "there", "here"] {
        assert!(sockets.iter().any(|told| told.contains(&format!(": {proxy}"))), "nothing at `{proxy}`");
    }
}

/// What an application sees of a captured connection is what it asked for.
fn mapped() {
    let pod = Pod::new(POD);
    for to in
        [THERE.port(Family::V4, 80), mapped_form(THERE.port(Family::V4, 80)), THERE.port(Family::V6, 80)]
    {
        let (peer, own) = pod.here.run_as(APP, || {
            let stream = std::net::TcpStream::connect(to).expect("captured");
            (stream.peer_addr().expect("connected"), stream.local_addr().expect("connected"))
        });
        assert_eq!(peer, to, "getpeername");
        let host = if to.ip().to_canonical().is_ipv4() { Family::V4 } else { Family::V6 };
        let expected = if host == Family::V4 { vec![HERE, HERE_FAR] } else { vec![LOOPBACK] };
        assert!(
            expected.iter().any(|expected| expected.ip(host) == own.ip().to_canonical()),
            "getsockname is {own}"
        );
        assert_eq!(own.is_ipv4(), to.is_ipv4(), "{own}");
    }
}

/// A redirect cannot turn such a connection from its interface; here it is captured.
fn of_a_link() {
    let pod = Pod::new(POD);
    dial(&pod.here, APP, link_local(&pod.there, &pod.here, 80)).captured_by("outbound");
    dial(&pod.here, PROXY, link_local(&pod.there, &pod.here, 80)).untouched_to("there");
    dial(&pod.there, APP, link_local(&pod.here, &pod.there, 80)).captured_by("inbound");
    // Its own.
    dial(&pod.here, APP, link_local(&pod.here, &pod.here, 80)).untouched_to("here");
}

/// Rules see only what has a route; here the proxy is asked.
fn without_a_route() {
    let (here, _there) = Pod::with_rules(POD);
    let pod = Pod::new(POD);
    for to in ["192.0.2.1:80", "[2001:db8::1]:80"].map(|text| text.parse().expect("an address")) {
        let seen = dial(&here, APP, to);
        assert_eq!(
            seen.answer.as_ref().err().map(String::as_str),
            Some("Network is unreachable (os error 101)"),
            "{seen}"
        );
        dial(&pod.here, APP, to).captured_by("outbound");
    }
}

fn without_ipv6() {
    let pod = Pod::bare();
    super::serve_apps(&pod.here, &pod.there);
    pod.here.sysctl("net/ipv6/conf/all/disable_ipv6", "1");
    pod.apply(POD);
    super::serve_proxy(&pod.here);
    dial(&pod.here, APP, THERE.port(Family::V4, 80)).captured_by("outbound");
    dial(&pod.here, APP, mapped_form(THERE.port(Family::V4, 80))).captured_by("outbound");
    dial(&pod.there, APP, HERE.port(Family::V4, 80)).captured_by("inbound");
    let seen = dial(&pod.here, APP, THERE.port(Family::V6, 80));
    assert!(seen.answer.is_err(), "{seen}");
}

fn self_calls() {
    let pod = Pod::new(POD);
    let passthrough = |family, port| Source {
        address: match family {
            Family::V4 => SocketAddr::from((Ipv4Addr::new(127, 0, 0, 6), port)),
            Family::V6 => "[::6]:0".parse().expect("an address"),
        },
        mark: None,
    };
    // As Istio's agent does it, where the proxy serves IPv6.
    for family in Family::BOTH {
        for host in [HERE, HERE_FAR] {
            let to = host.port(family, 80);
            // The application by its own address, past the proxy; the proxy by the application's, through the inbound side.
            dial(&pod.here, APP, to).untouched_to("here");
            dial(&pod.here, PROXY, to).captured_by("inbound");
            dial_from(&pod.here, PROXY, passthrough(family, 0), to).untouched_to("here");
        }
        for who in [APP, PROXY] {
            dial(&pod.here, who, LOOPBACK.port(family, 80)).untouched_to("here");
        }
    }
}
