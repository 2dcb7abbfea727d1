//! Policies that follow on each other while connections are made, and large ones.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use super::{Named, POD, Pod, entries, serve_apps};
use crate::istio::{APP, PROXY};
use crate::support::clients::{Clients, Route};
use crate::support::dial::dial;
use crate::support::rules::Family;
use crate::support::serve::Service;
use crate::support::wire::{HERE, THERE, THERE_FAR};

pub(super) const CASES: &[Named] = &[
    ("flips::under_load", under_load),
    ("flips::of_ports", of_ports),
    ("flips::ten_thousand_networks", ten_thousand_networks),
];

/// Both capture what the clients call; what they do not have in common changes each time.
const POLICIES: [&str; 3] = [
    POD,
    "--layout istio -p 15001 -z 15006 -u 1337 -b 80,81 -i 10.0.0.0/8,fd00::/16 -o 443,9443",
    "--layout istio -p 15001 -z 15006 -u 1337 -g 1338 -b * -d 22,9090 -i * -x 10.77.0.0/16,fd77::/32",
];

fn routes(pod: &Pod) -> [Route; 2] {
    let all = |host: [crate::support::wire::Addresses; 2]| {
        Family::BOTH.map(|family| host.map(|host| host.port(family, 80))).concat()
    };
    let route = |from: &crate::support::netns::Netns, to| Route { from: from.clone(), who: APP, to };
    [route(&pod.here, all([THERE, THERE_FAR])), route(&pod.there, all([HERE, HERE]))]
}

/// No connection fails, and none gets past the proxy.
fn under_load() {
    let pod = Pod::new(POD);
    let [out, inb] = routes(&pod);
    let mut out = Clients::start(vec![out.clone(), out], "outbound");
    let mut inb = Clients::start(vec![inb], "inbound");
    for round in 1..=30 {
        pod.apply(POLICIES[round % POLICIES.len()]);
    }
    for clients in [&mut out, &mut inb] {
        clients.stop();
        clients.assert_all_captured("thirty policies");
        assert!(clients.captured() > 300, "{}", clients.report());
    }
    // Of thirty policies one is kept.
    let before = ["NETWORKS", "PORTS", "OWNERS", "COUNTERS"].map(entries);
    pod.apply(POLICIES[1]);
    pod.apply(POLICIES[0]);
    assert_eq!(["NETWORKS", "PORTS", "OWNERS", "COUNTERS"].map(entries), before);
}

/// A new policy with other ports of the proxy's, which it listens on already: each connection is at one of the two, and is
/// told whom it was meant for.
fn of_ports() {
    let other = "--layout istio -p 15011 -z 15016 -u 1337 -b * -i *";
    let pod = Pod::bare();
    serve_apps(&pod.here, &pod.there);
    // Both by the same names, and each on its own.
    let services = [(15001, "outbound"), (15011, "outbound"), (15006, "inbound"), (15016, "inbound")]
        .map(|(port, name)| Service::tcp(&pod.here, PROXY, name, &[port]));
    pod.apply(POD);
    let [out, inb] = routes(&pod);
    let mut out = Clients::start(vec![out], "outbound");
    let mut inb = Clients::start(vec![inb], "inbound");
    for _ in 0..10 {
        for flags in [other, POD] {
            let counts = || services.each_ref().map(|service| service.accepted().len());
            pod.apply(flags);
            // Those that were on their way.
            std::thread::sleep(Duration::from_millis(20));
            let before = counts();
            std::thread::sleep(Duration::from_millis(40));
            let more: Vec<_> = counts().iter().zip(before).map(|(after, before)| *after > before).collect();
            let expected = if flags == POD { [true, false, true, false] } else { [false, true, false, true] };
            assert_eq!(more, expected, "{flags}");
        }
    }
    for clients in [&mut out, &mut inb] {
        clients.stop();
        clients.assert_all_captured("twenty policies");
    }
}

/// As many as nobody has: each is looked up right, at its edges too, and the time of a connection is what it was.
fn ten_thousand_networks() {
    const NUMBER: u32 = 10_000;
    let pod = Pod::new(POD);
    let timed = |to: SocketAddr, name: &str| {
        let begin = Instant::now();
        for _ in 0..100 {
            dial(&pod.here, APP, to).captured_by(name);
        }
        begin.elapsed()
    };
    let to = THERE.port(Family::V4, 80);
    let before = timed(to, "outbound");
    // Every second /30 of 10.64.0.0 and on; of IPv6 every second /64.
    let v4 = |number: u32| Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 64, 0, 0)) + number * 8);
    let v6 = |number: u32| Ipv6Addr::from(0xfd64_u128 << 112 | u128::from(number * 2) << 64);
    let networks: Vec<String> = (0..NUMBER)
        .map(
            |number| {
                if number % 4 == 3 { format!("{}/64", v6(number)) } else { format!("{}/30", v4(number)) }
            },
        )
        .collect();
    // A single word has a limit of its own.
    let excluded: String = networks.chunks(2000).map(|some| format!(" -x {}", some.join(","))).collect();
    let flags = format!("{POD}{excluded}");
    let begin = Instant::now();
    pod.apply(&flags);
    let applied = begin.elapsed();
    assert!(entries("NETWORKS") >= NUMBER as usize, "{}", entries("NETWORKS"));
    // Nothing is there: who is not captured is sent on its way, which is a dead end.
    pod.here.ip("route add unreachable 10.64.0.0/10\nroute add unreachable fd64::/16");
    for number in [0, 1, 2, 3, 7, 4999, 5000, 5003, NUMBER - 2, NUMBER - 1] {
        let (inside, outside): ([IpAddr; 2], [IpAddr; 2]) = match number % 4 {
            3 => {
                let first = u128::from(v6(number));
                let behind = first + (1 << 64);
                (
                    [first, behind - 1].map(|ip| Ipv6Addr::from(ip).into()),
                    [first - 1, behind].map(|ip| Ipv6Addr::from(ip).into()),
                )
            }
            _ => {
                let first = u32::from(v4(number));
                (
                    [first, first + 3].map(|ip| Ipv4Addr::from(ip).into()),
                    [first - 1, first + 4].map(|ip| Ipv4Addr::from(ip).into()),
                )
            }
        };
        for ip in inside {
            let seen = dial(&pod.here, APP, SocketAddr::new(ip, 80));
            assert!(seen.answer.is_err(), "{number}: {seen}");
        }
        for ip in outside {
            dial(&pod.here, APP, SocketAddr::new(ip, 80)).captured_by("outbound");
        }
    }
    let after = timed(to, "outbound");
    assert!(after < before * 4 + Duration::from_millis(200), "{before:?} before, {after:?} after");
    assert!(applied < Duration::from_secs(10), "applied in {applied:?}");
    pod.apply(POD);
    assert!(entries("NETWORKS") < 10, "{}", entries("NETWORKS"));
}
