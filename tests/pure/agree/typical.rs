//! The connections that stand for a policy's kinds: each kind once, and one that is of it.

use mesh_init::eval::typical::typical;
use mesh_init::policy::Families;

use super::policies::Subject;

/// The kinds and their connections, as a person reads them.
fn kinds(args: &[&str], families: Families) -> Vec<(String, String)> {
    let subject = Subject::new(args, families);
    typical(&subject.policy, families).into_iter().map(|of| (of.kind, of.conn.to_string())).collect()
}

#[track_caller]
fn assert_are(seen: &[(String, String)], expected: &[(&str, &str)]) {
    let seen: Vec<(&str, &str)> = seen.iter().map(|(kind, conn)| (kind.as_str(), conn.as_str())).collect();
    for (seen, expected) in seen.iter().zip(expected) {
        assert_eq!(seen, expected);
    }
    assert_eq!(seen.len(), expected.len(), "{seen:#?}");
}

/// Everything that a pod's policy can say.
#[rustfmt::skip]
const POD: &[&str] = &[
    "-u", "1337", "-g", "1338", "-i", "10.0.0.0/8,fd00::/8", "-q", "7000,7001", "-x", "10.9.0.0/16,fd00:9::/32",
    "-o", "25,26", "-c", "eth7,eth8", "-k", "tap0", "--exclude-owner-group", "77,78", "-d", "15090,15021",
    "--redirect-dns", "--dns-server", "fd00::53,10.0.0.53",
];

#[test]
#[rustfmt::skip]
fn a_pod_of_ipv4() {
    assert_are(&kinds(POD, Families::V4), &[
        ("application to another host", "out tcp uid=1000 198.51.100.1:80"),
        ("application to an included network", "out tcp uid=1000 10.0.0.0:48291"),
        ("application to an included port", "out tcp uid=1000 198.51.100.1:7000"),
        ("application to an excluded network", "out tcp uid=1000 10.9.0.0:80"),
        ("application to an excluded port", "out tcp uid=1000 198.51.100.1:25"),
        ("application by an excluded interface", "out tcp uid=1000 dev=eth7 198.51.100.1:80"),
        ("application of an excluded group", "out tcp uid=1000 gid=77 198.51.100.1:80"),
        ("application to loopback", "out tcp uid=1000 127.0.0.1:48291"),
        ("application to an address of this host", "out tcp uid=1000 route=local 192.0.2.9:48291"),
        ("application to another host, UDP", "out udp uid=1000 198.51.100.1:48291"),
        ("a later packet of an old connection", "out tcp uid=1000 state=established 198.51.100.1:80"),
        ("proxy, uid 1337, to another host", "out tcp uid=1337 198.51.100.1:80"),
        ("proxy, uid 1337, to an address of this host", "out tcp uid=1337 route=local 192.0.2.9:48291"),
        ("proxy, gid 1338, to another host", "out tcp uid=1000 gid=1338 198.51.100.1:80"),
        ("proxy, gid 1338, to an address of this host", "out tcp uid=1000 gid=1338 route=local 192.0.2.9:48291"),
        (
            "what the proxy passes through to the application",
            "out tcp uid=1337 gid=1338 route=local 127.0.0.6:40000 -> 192.0.2.9:48291",
        ),
        ("DNS over UDP to a listed server", "out udp uid=1000 10.0.0.53:53"),
        ("DNS over UDP", "out udp uid=1000 198.51.100.1:53"),
        ("DNS over TCP to a listed server", "out tcp uid=1000 10.0.0.53:53"),
        ("DNS over TCP", "out tcp uid=1000 198.51.100.1:53"),
        ("inbound: a port of the application", "in tcp 192.0.2.9:48291"),
        ("inbound: excluded port 15090", "in tcp 192.0.2.9:15090"),
        ("inbound: the tunnel port 15008", "in tcp 192.0.2.9:15008"),
        ("inbound: SSH", "in tcp 192.0.2.9:22"),
        ("inbound: by an excluded interface", "in tcp dev=eth7 192.0.2.9:48291"),
        (
            "inbound: from a rerouted interface, to another host",
            "in tcp dev=tap0 route=forward 198.51.100.1:80",
        ),
        ("inbound: passing through this host", "in tcp route=forward 198.51.100.1:80"),
    ]);
}

#[test]
fn a_pod_of_both_families() {
    let both = kinds(POD, Families::Both);
    let ipv4 = kinds(POD, Families::V4);
    assert_eq!(both[..ipv4.len()], ipv4);
    let ipv6 = &both[ipv4.len()..];
    assert_eq!(ipv6.len(), ipv4.len());
    // The same kinds, with IPv6's addresses in IPv4's place.
    for ((kind, conn), (of_v4, like)) in ipv6.iter().zip(&ipv4) {
        let mut like = like.clone();
        for (one, other) in [
            ("198.51.100.1:", "[2001:db8::1]:"),
            ("192.0.2.9:", "[2001:db8::9]:"),
            ("127.0.0.1:", "[::1]:"),
            ("127.0.0.6:", "[::6]:"),
            ("10.0.0.53:", "[fd00::53]:"),
            ("10.0.0.0:", "[fd00::]:"),
            ("10.9.0.0:", "[fd00:9::]:"),
        ] {
            like = like.replace(one, other);
        }
        assert_eq!((kind, conn), (of_v4, &like));
    }
}

#[test]
fn whose_traffic_is_captured_is_the_sender() {
    let of = |args: &[&str], kind: &str| -> Vec<String> {
        let kinds = kinds(args, Families::V4).into_iter();
        kinds.filter(|(of, _)| of == kind).map(|(_, conn)| conn).collect()
    };
    let (web, else_) = ("application to another host", "somebody else to another host");
    for (args, sender, somebody_else) in [
        (&["--uid-owner", "1338,1339", "--gid-owner", "44"][..], "uid=1338", true),
        (&["--gid-owner", "44,45"], "uid=1000 gid=44", true),
        (&["--owner-group", "7,8"], "uid=1000 gid=7", true),
        (&[], "uid=1000", false),
    ] {
        assert_eq!(of(args, web), [format!("out tcp {sender} 198.51.100.1:80")], "{args:?}");
        let expected = if somebody_else { vec!["out tcp uid=1000 198.51.100.1:80"] } else { vec![] };
        assert_eq!(of(args, else_), expected, "{args:?}");
    }
    // A name with a `+` at its end stands for the first interface of the kind.
    let by = of(&["-c", "tun+"], "application by an excluded interface");
    assert_eq!(by, ["out tcp uid=1000 dev=tun0 198.51.100.1:80"]);
    assert_eq!(of(&["-b", "8080,8081"], "inbound: included port 8080"), ["in tcp 192.0.2.9:8080"]);
}

/// What a policy says nothing about is no kind of it.
#[test]
fn a_plain_policy_has_few_kinds() {
    let seen = kinds(&["-u", "1337"], Families::V4);
    let kinds: Vec<&str> = seen.iter().map(|(kind, _)| kind.as_str()).collect();
    let expected = [
        "application to another host",
        "application to loopback",
        "application to an address of this host",
        "application to another host, UDP",
        "a later packet of an old connection",
        "proxy, uid 1337, to another host",
        "proxy, uid 1337, to an address of this host",
        "what the proxy passes through to the application",
        "DNS over UDP",
        "DNS over TCP",
        "inbound: a port of the application",
        "inbound: the tunnel port 15008",
        "inbound: SSH",
        "inbound: passing through this host",
    ];
    assert_eq!(kinds, expected);
}
