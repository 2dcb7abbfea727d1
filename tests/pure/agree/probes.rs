//! What `verify` tries, and what it counts: each as the rules would have it.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use mesh_init::eval::probing::{Direction, Probe, inbound, outbound, strangers};
use mesh_init::eval::sockets::{ESTABLISHED, LISTEN, Socket};
use mesh_init::eval::{Capture, Conn, Outcome, evaluate};
use mesh_init::policy::{CapturePolicy, Families, Family, Mode};
use mesh_init::rules::Protocol;
use mesh_init::rules::compile::compile;
use proptest::prelude::*;

use super::policies::{self, Subject};
use crate::properties::cases;

/// This host's addresses, and the beginning of the name of the interface by which a probe comes.
const HERE: [&str; 2] = ["192.0.2.9", "2001:db8::9"];
const WIRE: &str = "mi-probe";

fn sent(probe: &Probe, own: (u32, u32)) -> Option<Conn> {
    let Probe::Outbound { destination, uid, gid } = probe else { return None };
    let mut conn = Conn::out(Protocol::Tcp, *destination);
    let sender = conn.sender.as_mut()?;
    (sender.uid, sender.gid) = (uid.map_or(own.0, |uid| uid.number()), gid.map_or(own.1, |gid| gid.number()));
    Some(conn)
}

fn is_captured(subject: &Subject, conn: &Conn, port: mesh_init::policy::Port) -> bool {
    let rules = compile(&subject.policy, subject.layout, Families::Both);
    matches!(evaluate(&[&rules], conn).outcome, Outcome::Captured { port: seen, .. } if seen == port)
}

/// A probe that is not captured would fault a policy that holds.
fn tried(subject: &Subject, own: (u32, u32)) -> Result<(), TestCaseError> {
    for family in Family::both() {
        let Ok(probe) = outbound(&subject.policy, family, own) else { continue };
        let Some(probe) = probe else {
            let plain = Conn::out(Protocol::Tcp, SocketAddr::new(there(family), 80));
            let captured = is_captured(subject, &plain, subject.policy.proxy.port);
            prop_assert!(!captured, "{subject}\n{family}: {plain} is captured, and not tried");
            continue;
        };
        let conn = sent(&probe, own).ok_or_else(|| TestCaseError::fail(format!("{probe:?} goes out")))?;
        prop_assert_eq!(conn.family(), family);
        prop_assert!(is_captured(subject, &conn, subject.policy.proxy.port), "{}\n{}", subject, conn);
    }
    if let Ok(probe) = inbound(&subject.policy, &BTreeSet::new(), WIRE) {
        for here in HERE {
            let at = |port| SocketAddr::new(here.parse().expect("an address"), port);
            let port = match probe {
                Some(Probe::Inbound { port }) => port.number(),
                Some(Probe::Outbound { .. }) => return Err(TestCaseError::fail("it comes in")),
                // What a rerouted interface brings is captured as outbound.
                None if !subject.policy.interfaces.reroute.is_empty() => continue,
                None => 48_291,
            };
            let mut conn = Conn::into(Protocol::Tcp, at(port));
            conn.interface = format!("{WIRE}7").parse().expect("an interface");
            let (policy, set) = (&subject.policy, compile(&subject.policy, subject.layout, Families::Both));
            let expected = match (&probe, policy.mode) {
                (None, _) | (_, Mode::None) => Outcome::Passed,
                (_, Mode::Tproxy) => {
                    Outcome::Captured { port: policy.proxy.inbound_port, by: Capture::Tproxy }
                }
                (_, Mode::Redirect) => {
                    Outcome::Captured { port: policy.proxy.inbound_port, by: Capture::Redirect }
                }
            };
            prop_assert_eq!(evaluate(&[&set], &conn).outcome, expected, "{}\n{}", subject, conn);
        }
    }
    Ok(())
}

fn there(family: Family) -> std::net::IpAddr {
    let text = if family == Family::V4 { "203.0.113.77" } else { "2001:db8::77" };
    text.parse().expect("an address")
}

proptest! {
    #![proptest_config(cases(512))]

    #[test]
    fn what_is_tried_is_captured(
        classic in policies::classic(),
        scoped in policies::scoped(),
        istio in policies::istio(),
        letter in policies::letter(),
        own in (prop::sample::select(vec![0, 1000, 1337]), prop::sample::select(vec![0, 1000, 1001])),
    ) {
        for subject in [classic, scoped, istio, letter] {
            tried(&subject, own)?;
        }
    }
}

fn policy(args: &[&str]) -> CapturePolicy {
    Subject::new(args, Families::Both).policy
}

const ROOT: (u32, u32) = (0, 0);

/// Where to, and as whom if not as ourselves.
#[track_caller]
fn goes(args: &[&str], family: Family, own: (u32, u32)) -> Option<(String, Option<u32>, Option<u32>)> {
    match outbound(&policy(args), family, own).expect("a probe, or none") {
        Some(Probe::Outbound { destination, uid, gid }) => {
            Some((destination.to_string(), uid.map(|uid| uid.number()), gid.map(|gid| gid.number())))
        }
        Some(Probe::Inbound { .. }) => panic!("{args:?}: it comes in"),
        None => None,
    }
}

#[test]
fn an_address_and_a_port_that_are_captured() {
    for (args, ipv4, ipv6) in [
        (&[][..], Some("192.0.2.1:48291"), Some("[2001:db8::1]:48291")),
        // The first of each kind that is free.
        (&["-x", "192.0.2.0/24", "-o", "48291"], Some("198.51.100.1:41873"), Some("[2001:db8::1]:41873")),
        (
            &["-x", "192.0.2.0/24,198.51.100.0/24", "-o", "48291,41873"],
            Some("203.0.113.1:36517"),
            Some("[2001:db8::1]:36517"),
        ),
        (
            &["-p", "48291", "-z", "41873", "-o", "36517"],
            Some("192.0.2.1:29153"),
            Some("[2001:db8::1]:29153"),
        ),
        // Networks, in which one of nobody's addresses is, or ports whatever the address.
        (&["-i", "198.51.100.0/24,2001:db8::/32"], Some("198.51.100.1:48291"), Some("[2001:db8::1]:48291")),
        (&["-i", "198.51.100.0/24"], Some("198.51.100.1:48291"), None),
        (&["-q", "8080,9090"], Some("192.0.2.1:8080"), Some("[2001:db8::1]:8080")),
        (&["-q", "53,8080", "-x", "192.0.2.1/32"], Some("198.51.100.1:8080"), Some("[2001:db8::1]:8080")),
        (&["-i", "10.0.0.0/8", "-q", "8080"], Some("192.0.2.1:8080"), Some("[2001:db8::1]:8080")),
        (&["-i", ""], None, None),
        (&["-m", "NONE"], None, None),
    ] {
        assert_eq!(goes(args, Family::V4, ROOT).map(|at| at.0).as_deref(), ipv4, "{args:?}");
        assert_eq!(goes(args, Family::V6, ROOT).map(|at| at.0).as_deref(), ipv6, "{args:?}");
    }
}

#[test]
fn why_nothing_would_tell() {
    for (args, why) in [
        (&["-c", "eth0"][..], "an interface is excluded"),
        (&["-i", "10.0.0.0/8"], "no address that is nobody's"),
        (&["-x", "192.0.2.0/24,198.51.100.0/24,203.0.113.0/24"], "no address that is nobody's"),
        (&["-q", "53"], "no address that is nobody's"),
        (&["-o", "48291,41873,36517,29153"], "no address that is nobody's"),
    ] {
        let error = outbound(&policy(args), Family::V4, ROOT).expect_err("nothing would tell");
        assert!(error.starts_with(why), "{args:?}: {error}");
    }
}

#[test]
fn as_somebody_who_is_captured() {
    for (args, own, uid, gid) in [
        (&["-u", "1337"][..], ROOT, None, None),
        (&["-u", "0"], ROOT, Some(65_534), None),
        (&["-u", "0,65534"], ROOT, Some(65_533), None),
        (&["-u", "1337", "-g", "7"], (1000, 7), None, Some(65_534)),
        (&["-u", "1337", "-g", "7"], (1337, 8), Some(65_534), None),
        // Some groups only, or all but some.
        (&["-u", "1337", "--owner-group", "50,51"], ROOT, None, Some(50)),
        (&["-u", "1337", "-g", "50", "--owner-group", "50,51"], ROOT, None, Some(51)),
        (&["-u", "1337", "--exclude-owner-group", "0,65534"], ROOT, None, Some(65_533)),
        (&["-u", "1337", "--exclude-owner-group", "50"], ROOT, None, None),
        // A host's captured users and groups.
        (&["--uid-owner", "1338,1339"], ROOT, Some(1338), None),
        (&["--gid-owner", "44,45"], ROOT, None, Some(44)),
        (&["--uid-owner", "1338", "--gid-owner", "44"], ROOT, Some(1338), None),
        (&["--uid-owner", "1338", "-g", "0"], ROOT, Some(1338), Some(65_534)),
        (&["--gid-owner", "44"], (1337, 0), Some(65_534), Some(44)),
    ] {
        let (_, as_uid, as_gid) = goes(args, Family::V4, own).expect("a probe");
        assert_eq!((as_uid, as_gid), (uid, gid), "{args:?} as {own:?}");
    }
    // The proxy's own group is the only one: nobody is captured.
    assert_eq!(goes(&["-u", "1337", "-g", "50", "--owner-group", "50"], Family::V4, ROOT), None);
}

#[test]
fn a_port_that_nobody_has() {
    let at = |args: &[&str], listening: &[u16]| match inbound(
        &policy(args),
        &listening.iter().copied().collect(),
        WIRE,
    ) {
        Ok(Some(Probe::Inbound { port })) => Ok(Some(port.number())),
        Ok(Some(Probe::Outbound { .. })) => panic!("{args:?}: it goes out"),
        Ok(None) => Ok(None),
        Err(why) => Err(why),
    };
    let none = || Err("no port is left to try".to_owned());
    assert_eq!(at(&[], &[]), Ok(Some(48_291)));
    assert_eq!(at(&[], &[48_291]), Ok(Some(41_873)));
    assert_eq!(at(&["-d", "48291"], &[41_873]), Ok(Some(36_517)));
    assert_eq!(at(&["-p", "48291", "-z", "41873", "-e", "36517"], &[]), Ok(Some(29_153)));
    assert_eq!(at(&["-d", "48291,41873,36517,29153"], &[]), none());
    // A port that is named is tried although somebody listens there: who is captured does not get that far.
    assert_eq!(at(&["-b", "8080,9090"], &[8080]), Ok(Some(8080)));
    assert_eq!(at(&["-b", ""], &[]), Ok(None));
    // What comes by such an interface is not treated as what comes by others.
    let own = |name: &str| Err(format!("the policy's interface {name} would be the probe's own, mi-probe"));
    for name in ["mi+", "mi-probe+", "mi-probe1+", "mi-probe12"] {
        assert_eq!(at(&["-c", name], &[]), own(name));
        assert_eq!(at(&["-k", name], &[]), own(name));
    }
    for name in ["eth+", "mi-", "mi-prob", "mi-q+"] {
        assert_eq!(at(&["-c", name, "-k", "eth1"], &[]), Ok(Some(48_291)), "{name}");
    }
}

#[test]
fn strangers_on_a_capture_port() {
    let socket = |port: u16, uid: u32, state: u8| {
        let local = SocketAddr::new([0, 0, 0, 0].into(), port);
        Socket { local, remote: SocketAddr::new([0, 0, 0, 0].into(), 0), state, uid }
    };
    let sockets = [
        socket(15_006, 8, LISTEN),
        socket(15_001, 1337, LISTEN),
        socket(15_001, 7, LISTEN),
        // IPv6's, by the same.
        socket(15_001, 7, LISTEN),
        socket(15_001, 9, ESTABLISHED),
        socket(8080, 9, LISTEN),
    ];
    let of = |args: &[&str]| strangers(&policy(args), &sockets);
    assert_eq!(of(&["-u", "1337", "-z", "15006"]), [(15_001, 7), (15_006, 8)]);
    assert_eq!(of(&["-u", "7", "-z", "15006"]), [(15_001, 1337), (15_006, 8)]);
    assert_eq!(of(&["-u", "1337,7"]), []);
    // A host's proxy is whoever is not captured.
    assert_eq!(of(&["--uid-owner", "7,8", "-z", "15006"]), [(15_001, 7), (15_006, 8)]);
    assert_eq!(of(&["--uid-owner", "9"]), []);
    // Whose group it is cannot be seen.
    assert_eq!(of(&["-u", "1337", "-g", "1"]), []);
    assert_eq!(of(&["-u", "1337", "-m", "NONE"]), []);
}

#[test]
fn a_direction_has_a_word() {
    assert_eq!([Direction::Outbound, Direction::Inbound].map(Direction::as_str), ["outbound", "inbound"]);
}
