//! Which open connections count as older than the capture.

use mesh_init::eval::sockets::{ESTABLISHED, LISTEN, Open, Socket, any_in_use, older, parse};
use mesh_init::input::{Faults, Key, Origin, Raw};
use mesh_init::policy::{CapturePolicy, Facts, validate};

fn policy(flags: &[(Key, &str)]) -> CapturePolicy {
    let mut raw = Raw::default();
    for (key, text) in flags {
        raw.push(*key, *text, Origin::Default);
    }
    validate::request(&raw, &Facts::default(), Faults::default()).unwrap().policy
}

fn socket(local: &str, remote: &str, state: u8, uid: u32) -> Socket {
    Socket { local: local.parse().unwrap(), remote: remote.parse().unwrap(), state, uid }
}

#[test]
fn what_the_proxy_holds_and_what_is_left_alone_is_not_older() {
    let vm = policy(&[(Key::UidOwner, "1338"), (Key::Inbound, "*"), (Key::ExcludeOutboundPort, "99")]);
    let count = |sockets: &[Socket]| {
        let open = older(sockets, &vm);
        (open.outbound, open.inbound)
    };
    let out = |remote: &str, uid| socket("10.0.0.1:40000", remote, ESTABLISHED, uid);
    assert_eq!(count(&[out("10.0.0.2:80", 1338)]), (1, 0));
    for remote in ["10.0.0.2:53", "10.0.0.2:99", "10.0.0.2:15001"] {
        assert_eq!(count(&[out(remote, 1338)]), (0, 0), "{remote}");
    }
    assert_eq!(count(&[out("10.0.0.2:80", 1000)]), (0, 0));
    // Captured: the proxy's end of it is there too.
    let twin = socket("127.0.0.1:15001", "10.0.0.1:40000", ESTABLISHED, 1337);
    assert_eq!(count(&[out("10.0.0.2:80", 1338), twin]), (0, 0));
    let inbound = |port: u16, remote: &str| {
        let local = format!("10.0.0.1:{port}");
        [socket(&local, "0.0.0.0:0", LISTEN, 0), socket(&local, remote, ESTABLISHED, 0)]
    };
    assert_eq!(count(&inbound(8001, "10.0.0.9:5000")), (0, 1));
    assert_eq!(count(&inbound(8001, "10.0.0.1:5000")), (0, 0));
    assert_eq!(count(&inbound(22, "10.0.0.9:5000")), (0, 0));
}

/// How many of each direction are older, with these flags.
#[track_caller]
fn count(flags: &[(Key, &str)], sockets: &[Socket]) -> (usize, usize) {
    let open = older(sockets, &policy(flags));
    assert_eq!(open.total(), open.outbound + open.inbound);
    (open.outbound, open.inbound)
}

#[test]
fn a_pods_connections_are_everyones_but_the_proxys() {
    let out = |remote: &str, uid| [socket("10.0.0.1:40000", remote, ESTABLISHED, uid)];
    for (flags, remote, uid, outbound) in [
        (&[][..], "10.0.0.2:80", 1000, 1),
        (&[], "10.0.0.2:80", 1337, 0),
        (&[], "[fd00::2]:80", 1000, 1),
        (&[(Key::Ipv6, "off")], "[fd00::2]:80", 1000, 0),
        (&[(Key::Ipv6, "off")], "10.0.0.2:80", 1000, 1),
        (&[], "10.0.0.2:0", 1000, 0),
        (&[(Key::Mode, "NONE")], "10.0.0.2:80", 1000, 0),
        // A pod captures DNS over TCP like any TCP, and nothing over loopback.
        (&[], "10.0.0.2:53", 1000, 1),
        (&[], "127.0.0.9:80", 1000, 0),
        (&[], "10.0.0.2:15001", 1000, 0),
        (&[(Key::InboundCapturePort, "15006")], "10.0.0.2:15006", 1000, 0),
        (&[(Key::OutboundCidr, "10.0.0.0/8")], "10.0.0.2:80", 1000, 1),
        (&[(Key::OutboundCidr, "10.0.0.0/8")], "11.0.0.2:80", 1000, 0),
        (&[(Key::OutboundPort, "80")], "11.0.0.2:80", 1000, 1),
        (&[(Key::OutboundPort, "80")], "11.0.0.2:81", 1000, 0),
        (&[(Key::ExcludeOutboundCidr, "10.0.0.0/8")], "10.0.0.2:80", 1000, 0),
        (&[(Key::ExcludeOutboundCidr, "10.0.0.0/8")], "11.0.0.2:80", 1000, 1),
        (&[(Key::ExcludeOutboundPort, "80")], "10.0.0.2:80", 1000, 0),
        (&[(Key::ExcludeOutboundPort, "80")], "10.0.0.2:81", 1000, 1),
    ] {
        assert_eq!(count(flags, &out(remote, uid)), (outbound, 0), "{flags:?} {remote} {uid}");
    }
    // Only what is established is open.
    assert_eq!(count(&[], &[socket("10.0.0.1:40000", "10.0.0.2:80", 0x06, 1000)]), (0, 0));
    let two = [out("10.0.0.2:80", 1000), out("10.0.0.3:80", 1000)].concat();
    assert_eq!(count(&[], &two), (2, 0));
    // A host's captured users are captured over loopback too.
    let vm = [(Key::UidOwner, "1338"), (Key::ProxyUid, "1337")];
    assert_eq!(count(&vm, &out("127.0.0.9:80", 1338)), (1, 0));
}

#[test]
fn inbound_ones_are_those_of_a_listening_port() {
    let to = |port: u16, remote: &str| {
        let local = format!("10.0.0.1:{port}");
        [socket(&local, "0.0.0.0:0", LISTEN, 0), socket(&local, remote, ESTABLISHED, 0)]
    };
    for (flags, port, remote, inbound) in [
        (&[][..], 8001, "10.0.0.9:5000", 1),
        // A pod leaves no port alone by itself.
        (&[], 22, "10.0.0.9:5000", 1),
        (&[], 15_001, "10.0.0.9:5000", 0),
        (&[(Key::InboundCapturePort, "15006")], 15_006, "10.0.0.9:5000", 0),
        // From this host itself.
        (&[], 8001, "10.0.0.1:5000", 0),
        (&[], 8001, "127.0.0.1:5000", 0),
        (&[(Key::ExcludeInbound, "8001")], 8001, "10.0.0.9:5000", 0),
        (&[(Key::ExcludeInbound, "8002")], 8001, "10.0.0.9:5000", 1),
        (&[(Key::Inbound, "8001")], 8001, "10.0.0.9:5000", 1),
        (&[(Key::Inbound, "8002")], 8001, "10.0.0.9:5000", 0),
        (
            &[(Key::UidOwner, "1338"), (Key::Inbound, "*"), (Key::ExcludeInbound, "8001")],
            8001,
            "10.0.0.9:5000",
            0,
        ),
    ] {
        assert_eq!(count(flags, &to(port, remote)), (0, inbound), "{flags:?} {port} {remote}");
    }
    // Captured: the proxy has the client at the other end.
    let twin = socket("10.0.0.1:15001", "10.0.0.9:5000", ESTABLISHED, 1337);
    let [listening, _] = to(8001, "10.0.0.9:5000");
    assert_eq!(count(&[], &[listening, twin]), (0, 0));
    let both = Open { outbound: 2, inbound: 3 };
    assert_eq!(both.total(), 5);
}

#[test]
fn counters_tell_whether_there_is_tcp() {
    for (counters, any) in [
        ("sockets: used 5\nTCP: inuse 0 orphan 0 tw 0 alloc 0 mem 0\nUDP: inuse 2 mem 0\n", false),
        ("sockets: used 5\nTCP: inuse 1 orphan 0 tw 0 alloc 1 mem 0\n", true),
        ("sockets: used 5\nTCP: inuse 10 orphan 0 tw 0 alloc 1 mem 0\n", true),
        ("TCP6: inuse 0\nUDP6: inuse 1\n", false),
        ("TCP6: inuse 3\n", true),
        ("TCP6: inuse 01\n", true),
        // In doubt.
        ("", true),
    ] {
        assert_eq!(any_in_use(counters), any, "{counters}");
    }
}

#[test]
fn lines_that_say_no_socket_are_headings() {
    let line = |local: &str, remote: &str, state: &str, uid: &str| {
        format!("   0: {local} {remote} {state} 0:0 0:0 0 {uid} 0 9\n")
    };
    let (local, remote) = ("0100007F:1F90", "0200000A:C350");
    let seen = parse(&line(local, remote, "0A", "7"));
    assert_eq!(seen, [socket("127.0.0.1:8080", "10.0.0.2:50000", LISTEN, 7)]);
    assert!(seen[0].is_listening());
    assert!(!parse(&line(local, remote, "01", "7"))[0].is_listening());
    let own = "B80D0120000000000000000001000000:0050";
    assert_eq!(
        parse(&line(own, own, "01", "7")),
        [socket("[2001:db8::1]:80", "[2001:db8::1]:80", ESTABLISHED, 7)]
    );
    for (local, remote, state, uid) in [
        ("0100007F", remote, "01", "7"),
        ("0100007F:", remote, "01", "7"),
        ("0100007:1F90", remote, "01", "7"),
        ("0100007F0100007F:1F90", remote, "01", "7"),
        ("x100007F:1F90", remote, "01", "7"),
        (local, "rem_address", "01", "7"),
        (local, remote, "st", "7"),
        (local, remote, "01", "uid"),
    ] {
        assert_eq!(parse(&line(local, remote, state, uid)), [], "{local} {remote} {state} {uid}");
    }
    assert_eq!(parse("   0: 0100007F:1F90 0200000A:C350 01 0:0 0:0\n"), []);
}
