//! The text of a connection: read back as it was written, every fault told.

use mesh_init::eval::Conn;
use mesh_init::eval::probing::Direction;
use mesh_init::policy::{Family, IfName};
use mesh_init::rules::{ConnState, Protocol};
use proptest::prelude::*;

use super::connections::any_conn;
use crate::properties::cases;

proptest! {
    #![proptest_config(cases(4096))]

    #[test]
    fn a_connection_reads_back_as_itself(conn in any_conn()) {
        let text = conn.to_string();
        let again: Result<Conn, String> = text.parse();
        prop_assert_eq!(again.as_ref(), Ok(&conn), "{}", text);
        // And as short as before.
        prop_assert_eq!(again.map(|again| again.to_string()), Ok(text));
    }

    #[test]
    fn no_text_is_too_strange(text in "(out|in) (tcp|udp) .{0,60}", word in ".{0,20}") {
        for text in [&text, &word] {
            if let Ok(conn) = text.parse::<Conn>() {
                prop_assert_eq!(conn.to_string().parse(), Ok(conn));
            }
        }
    }
}

#[track_caller]
fn conn(text: &str) -> Conn {
    text.parse().unwrap_or_else(|why| panic!("{text}: {why}"))
}

#[test]
fn what_goes_without_saying_is_not_said() {
    for (said, short) in [
        ("outbound tcp 10.1.2.3:80", "out tcp uid=1000 gid=1000 10.1.2.3:80"),
        ("out tcp uid=7 gid=7 10.1.2.3:80", "out tcp uid=7 10.1.2.3:80"),
        ("out tcp eth0 10.1.2.3:80", "out tcp uid=1000 10.1.2.3:80"),
        ("out tcp 127.0.0.1:9 -> lo 127.0.0.1:80", "out tcp uid=1000 127.0.0.1:9 -> 127.0.0.1:80"),
        ("out tcp lo 10.0.0.5:80", "out tcp uid=1000 route=local 10.0.0.5:80"),
        ("out tcp route=local 10.0.0.5:80", "out tcp uid=1000 route=local 10.0.0.5:80"),
        ("out tcp eth1 route=local 10.0.0.5:80", "out tcp uid=1000 dev=eth1 route=local 10.0.0.5:80"),
        (
            "out udp groups=7,0x8 mark=1337 [fd00::9]:53",
            "out udp uid=1000 groups=7,8 mark=0x539 [fd00::9]:53",
        ),
        ("out icmp 10.1.2.3", "out icmp uid=1000 10.1.2.3"),
        ("out ICMPv6 fd00::9", "out ipv6-icmp uid=1000 fd00::9"),
        ("in TCP 10.0.0.5:80", "in tcp 10.0.0.5:80"),
        ("in tcp route=local 10.0.0.5:80", "in tcp 10.0.0.5:80"),
        ("inbound tcp eth1 route=forward 10.0.0.5:80", "in tcp dev=eth1 route=forward 10.0.0.5:80"),
        ("in tcp 192.0.2.7 -> 10.0.0.5:80", "in tcp 192.0.2.7:40000 -> 10.0.0.5:80"),
        ("in tcp [fd00::7] -> [fd00::5]:80", "in tcp [fd00::7]:40000 -> [fd00::5]:80"),
        ("in tcp src=[fd00::7]:8 [fd00::5]:80", "in tcp [fd00::7]:8 -> [fd00::5]:80"),
        ("in tcp state=ESTABLISHED 10.0.0.5:80", "in tcp state=established 10.0.0.5:80"),
        ("in tcp packet=later 10.0.0.5:80", "in tcp state=established 10.0.0.5:80"),
        ("in tcp packet=later state=new 10.0.0.5:80", "in tcp state=new packet=later 10.0.0.5:80"),
        (
            "in tcp packet=first state=established 10.0.0.5:80",
            "in tcp state=established packet=first 10.0.0.5:80",
        ),
        ("in tcp state=invalid connmark=0x1 10.0.0.5:80", "in tcp connmark=0x1 state=invalid 10.0.0.5:80"),
    ] {
        let short = short.replace(" gid=1000", "");
        assert_eq!(conn(said).to_string(), short, "{said}");
        assert_eq!(conn(&short), conn(said), "{said}");
    }
}

#[test]
fn an_ordinary_connection_is_the_default() {
    let given = conn("out tcp 10.1.2.3:80");
    assert_eq!((given.direction, given.family()), (Direction::Outbound, Family::V4));
    assert_eq!(given.sender.as_ref().map(|sender| (sender.uid, sender.gid)), Some((1000, 1000)));
    assert_eq!((given.first, given.state, given.local), (true, ConnState::New, false));
    assert_eq!((given.mark, given.connmark), (0, 0));
    assert_eq!(given.interface, IfName::eth0());
    assert_eq!(given.source, "192.0.2.5:40000".parse().unwrap());
    assert_eq!(given, Conn::out(Protocol::Tcp, given.destination));
    // This host is reached over lo, from the very address.
    let here = conn("out tcp 127.0.0.1:80");
    assert_eq!((here.local, here.interface), (true, IfName::lo()));
    assert_eq!(here.source, "127.0.0.1:40000".parse().unwrap());
    // All of 127.0.0.0/8 is reached from 127.0.0.1.
    assert_eq!(conn("out tcp 127.0.0.6:80").source, here.source);
    assert_eq!(conn("out tcp lo 10.0.0.5:80").source, "10.0.0.5:40000".parse().unwrap());
    // What arrives is for this host, and nobody's here.
    let arrives = conn("in tcp [fd00::5]:80");
    assert_eq!((arrives.local, arrives.sender.is_none(), arrives.family()), (true, true, Family::V6));
    assert_eq!(arrives, Conn::into(Protocol::Tcp, arrives.destination));
    assert_eq!(conn("in sctp 10.0.0.5").destination.port(), 0);
}

#[test]
fn every_fault_is_told() {
    for (text, why) in [
        ("", "nothing given; write such as: out tcp uid=1000 10.1.2.3:9080"),
        ("tcp 10.1.2.3:80", "tcp: begin with out or in"),
        ("out", "the second word is the protocol by its name: tcp, udp, icmp"),
        ("out 6 10.1.2.3:80", "the second word is the protocol by its name: tcp, udp, icmp"),
        ("out 10.1.2.3:80", "the second word is the protocol by its name: tcp, udp, icmp"),
        ("out tcp", "no destination; write ADDRESS:PORT, IPv6 as [ADDRESS]:PORT"),
        (
            "out tcp 10.1.2.3",
            "10.1.2.3: which port? write ADDRESS:PORT, IPv6 as [ADDRESS]:PORT; no destination; write ADDRESS:PORT, IPv6 as [ADDRESS]:PORT",
        ),
        ("in tcp uid=7 10.1.2.3:80", "uid=, gid= and groups= are known of outbound connections only"),
        ("in tcp gid=7 10.1.2.3:80", "uid=, gid= and groups= are known of outbound connections only"),
        ("in tcp groups=7 10.1.2.3:80", "uid=, gid= and groups= are known of outbound connections only"),
        ("out tcp [fd00::7] -> 10.1.2.3:80", "source and destination are of two families"),
        ("out tcp 10.1.2.3:80 10.1.2.4:80", "10.1.2.4:80: one address too many"),
        ("out tcp 10.1.2.3 -> 10.1.2.4 -> 10.1.2.5:80", "10.1.2.4: one address too many"),
        ("out tcp eth0 eth1 10.1.2.3:80", "eth1: one interface too many"),
        ("out tcp eth0 -> 10.1.2.3:80", "eth0: not an address; write ADDRESS:PORT, IPv6 as [ADDRESS]:PORT"),
        ("out tcp uid=7 -> 10.1.2.3:80", "uid=7: not an address; write ADDRESS:PORT, IPv6 as [ADDRESS]:PORT"),
        ("out tcp -> 10.1.2.3:80", "->: not an interface name or address"),
        ("out tcp eth/0 10.1.2.3:80", "eth/0: not an interface name or address"),
        ("out tcp dev=eth/0 10.1.2.3:80", "eth/0: not an interface name"),
        ("out tcp uid=x 10.1.2.3:80", "uid=x: not a number below 2^32"),
        ("out tcp gid=4294967296 10.1.2.3:80", "gid=4294967296: not a number below 2^32"),
        ("out tcp groups=1,,2 10.1.2.3:80", "groups=: not a number below 2^32"),
        ("out tcp mark=0xg 10.1.2.3:80", "mark=0xg: not a number below 2^32"),
        ("out tcp connmark=-1 10.1.2.3:80", "connmark=-1: not a number below 2^32"),
        ("out tcp src=x 10.1.2.3:80", "x: not an address; write ADDRESS:PORT, IPv6 as [ADDRESS]:PORT"),
        ("out tcp state=old 10.1.2.3:80", "state=old: new, related, established or invalid"),
        ("out tcp packet=2 10.1.2.3:80", "packet=2: first or later"),
        ("out tcp route=x 10.1.2.3:80", "route=x: local, away or forward"),
        (
            "out tcp user=7 10.1.2.3:80",
            "user=: no such word; there are uid, gid, groups, mark, connmark, dev, src, state, packet, route",
        ),
        ("out tcp uid=7 uid=8 10.1.2.3:80", "uid=8: uid= is said twice"),
        (
            "out icmp 10.1.2.3:80",
            "10.1.2.3:80: ports are known of tcp and udp only; no destination; write ADDRESS:PORT, IPv6 as [ADDRESS]:PORT",
        ),
        (
            "out tcp 10.1.2:80",
            "10.1.2:80: not an address; write ADDRESS:PORT, IPv6 as [ADDRESS]:PORT; no destination; write ADDRESS:PORT, IPv6 as [ADDRESS]:PORT",
        ),
        ("\u{1b}[31m", "\\u{1b}[31m: begin with out or in"),
        ("out tcp dev=\u{7}\u{9b} 10.1.2.3:80", "\\u{7}\\u{9b}: not an interface name"),
        // Whatever comes together is told together.
        (
            "in tcp uid=7 mark=z eth0 eth1 [fd00::7] -> 10.1.2.3:80 nonsense=1",
            "mark=z: not a number below 2^32; eth1: one interface too many; nonsense=: no such word; there are uid, gid, groups, mark, connmark, dev, src, state, packet, route; uid=, gid= and groups= are known of outbound connections only; source and destination are of two families",
        ),
    ] {
        assert_eq!(text.parse::<Conn>(), Err(why.to_owned()), "{text}");
    }
    // However much is wrong.
    let wrong: String = (0..1000).map(|number| format!(" x{number}={}", "y".repeat(1000))).collect();
    let why = format!("out tcp{wrong} {}", "z".repeat(10_000)).parse::<Conn>().expect_err("no connection");
    assert!(why.len() < 4000 && why.contains("x0=: no such word"), "{why}");
}
