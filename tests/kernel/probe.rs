//! The probes of `verify`, with rules put there by hand: what they say, and what they leave or let out.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use ::mesh_init::sys::probe::{Answer, Inbound, Outbound, inbound, outbound, validate};
use caps::{CapSet, Capability};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket, sockopt,
};

use crate::harness::Case;
use crate::support::command::Run;
use crate::support::creds::Who;
use crate::support::netns::Netns;
use crate::support::rules::{Family, Variant, assert_same, dump, restore};
use crate::support::wire::{THERE, two_hosts};

const DEADLINE: Duration = Duration::from_millis(500);
const PROXY: Who = Who::user(1337);
const OUT: u16 = 15001;
const IN: u16 = 15006;

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Case::all_for_each_variant(&[
        ("probe::outbound", captured_outbound),
        ("probe::outbound_held", captured_outbound_and_held),
        ("probe::outbound_beside_rules", outbound_beside_rules),
        ("probe::outbound_elsewhere", outbound_elsewhere),
        ("probe::outbound_dropped", outbound_dropped),
        ("probe::outbound_port_cannot_be_reached", outbound_port_cannot_be_reached),
        ("probe::owner", owner),
        ("probe::group", group),
        ("probe::inbound", captured_inbound),
        ("probe::inbound_held", captured_inbound_and_held),
        ("probe::inbound_uncaptured", inbound_uncaptured),
        ("probe::inbound_dropped", inbound_dropped),
        ("probe::tproxy", tproxy),
        ("probe::validate", validated),
        ("probe::missing_capabilities", missing_capabilities),
    ]);
    cases.push(Case::new("probe::outbound_without_rules", outbound_without_rules));
    cases.push(Case::new("probe::no_route", no_route));
    cases.push(Case::new("probe::no_ipv6", no_ipv6));
    cases.push(Case::new("probe::validate_without_rules", validated_without_rules));
    cases
}

/// `here`, whose way to everywhere is `there`, which counts the first packets of TCP that it sees.
fn hosts() -> (Netns, Netns) {
    let (here, there) = two_hosts();
    for family in Family::BOTH {
        here.ip(&format!("route add default via {}", THERE.ip(family)));
    }
    let count = "add table inet seen\n\
        add chain inet seen tcp_in { type filter hook prerouting priority -300; }\n\
        add rule inet seen tcp_in meta l4proto tcp counter comment \"any\"\n\
        add rule inet seen tcp_in ip ttl 1 meta l4proto tcp counter comment \"near\"\n\
        add rule inet seen tcp_in ip6 hoplimit 1 meta l4proto tcp counter comment \"near\"\n";
    Run::with_input(&there, "nft", &["-f", "-"], count).ok();
    (here, there)
}

/// How many packets of TCP have come to `there`, and how many of them could have gone no further.
fn left(there: &Netns) -> (u64, u64) {
    let listed = Run::new(there, "nft", &["list", "table", "inet", "seen"]).ok();
    let count = |comment: &str| {
        let lines = listed.lines().filter(|line| line.contains(&format!("comment \"{comment}\"")));
        let counts = lines.map(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            let at = words.iter().position(|word| *word == "packets").expect("a counter");
            words[at + 1].parse::<u64>().expect("a number")
        });
        counts.sum()
    };
    (count("any"), count("near"))
}

fn nobody(family: Family) -> SocketAddr {
    let ip: IpAddr = match family {
        Family::V4 => Ipv4Addr::new(192, 0, 2, 1).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
    };
    SocketAddr::new(ip, 80)
}

fn out(family: Family) -> Outbound {
    Outbound { destination: nobody(family), uid: None, gid: None, capture_port: OUT, held: false }
}

fn into(family: Family) -> Inbound {
    Inbound { v6: family == Family::V6, port: 8001, capture_port: IN, held: false, transparent: false }
}

fn try_out(here: &Netns, probe: Outbound) -> Answer {
    let begin = Instant::now();
    let answer = here.run(|| outbound(&probe, DEADLINE));
    eprintln!("{probe:?} took {:?}: {answer:?}", begin.elapsed());
    answer
}

fn try_in(here: &Netns, probe: Inbound) -> Answer {
    let begin = Instant::now();
    let answer = here.run(|| inbound(&probe, DEADLINE));
    eprintln!("{probe:?} took {:?}: {answer:?}", begin.elapsed());
    answer
}

#[track_caller]
fn contradicts(answer: &Answer, word: &str) {
    let is_so = matches!(answer, Answer::Contradicts(seen) if seen.contains(word));
    assert!(is_so, "expected a contradiction with `{word}`, seen {answer:?}");
}

#[track_caller]
fn untried(answer: &Answer, word: &str) {
    let is_so = matches!(answer, Answer::Untried(why) if why.contains(word));
    assert!(is_so, "expected that it could not be tried with `{word}`, seen {answer:?}");
}

/// The entries of conntrack, without those of the test's own.
fn tracked(netns: &Netns) -> String {
    let list = |family| Run::new(netns, "conntrack", &["-f", family, "-L", "-p", "tcp"]).ok();
    list("ipv4") + &list("ipv6")
}

#[track_caller]
fn nothing_tracked(netns: &Netns) {
    assert_eq!(tracked(netns), "", "expected no entry in conntrack");
}

/// A listener that never accepts by itself, of the proxy's user.
fn proxy(netns: &Netns, family: Family, port: u16) -> TcpListener {
    let wildcard: IpAddr = match family {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    };
    let listener = netns.run_as(PROXY, || TcpListener::bind((wildcard, port))).expect("a free port");
    listener.set_nonblocking(true).expect("a socket");
    listener
}

/// A listener at `port` of every address of the family that lets others listen there, too.
fn shared(of: SocketAddr) -> TcpListener {
    let (family, any): (_, IpAddr) = match of {
        SocketAddr::V4(_) => (AddressFamily::Inet, Ipv4Addr::UNSPECIFIED.into()),
        SocketAddr::V6(_) => (AddressFamily::Inet6, Ipv6Addr::UNSPECIFIED.into()),
    };
    let attempt = || -> nix::Result<TcpListener> {
        let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
        setsockopt(&fd, sockopt::ReuseAddr, &true)?;
        setsockopt(&fd, sockopt::ReusePort, &true)?;
        bind(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(any, of.port())))?;
        listen(&fd, Backlog::new(8)?)?;
        Ok(fd.into())
    };
    attempt().expect("a free port")
}

#[track_caller]
fn accepted_nothing(listener: &TcpListener) {
    let refusal = listener.accept().expect_err("nobody ever gets a connection");
    assert_eq!(refusal.kind(), ErrorKind::WouldBlock, "{refusal}");
}

fn nat(netns: &Netns, variant: Variant, lines: &str) {
    for family in Family::BOTH {
        restore(netns, variant, family, &format!("*nat\n{lines}\nCOMMIT\n"));
    }
}

const REDIRECT_OUT: &str = "-A OUTPUT -p tcp --syn ! -o lo -j REDIRECT --to-ports 15001";
const REDIRECT_IN: &str =
    "-A PREROUTING -p tcp --syn -m addrtype --dst-type LOCAL --dport 8001 -j REDIRECT --to-ports 15006";

fn captured_outbound(variant: Variant) {
    let (here, there) = hosts();
    nat(&here, variant, REDIRECT_OUT);
    let before = dump(&here);
    for family in Family::BOTH {
        for _ in 0..20 {
            assert_eq!(try_out(&here, out(family)), Answer::Token);
        }
        // Our listener is gone, and nothing waits on its port.
        drop(proxy(&here, family, OUT));
    }
    nothing_tracked(&here);
    assert_same("after the probes", &before, &dump(&here));
    assert_eq!(left(&there), (0, 0), "expected that nothing leaves");
}

fn captured_outbound_and_held(variant: Variant) {
    let (here, there) = hosts();
    nat(&here, variant, REDIRECT_OUT);
    for family in Family::BOTH {
        let listener = proxy(&here, family, OUT);
        for held in [true, false] {
            for _ in 0..20 {
                assert_eq!(try_out(&here, Outbound { held, ..out(family) }), Answer::Conntrack);
            }
        }
        accepted_nothing(&listener);
        drop(listener);
        // One that shares its port with whoever asks, and one of root's, as we are.
        let shared = here.run(|| shared(SocketAddr::new(nobody(family).ip(), OUT)));
        assert_eq!(try_out(&here, out(family)), Answer::Conntrack);
        accepted_nothing(&shared);
    }
    // What listens in IPv6 may take IPv4 as well.
    let listener = proxy(&here, Family::V6, OUT);
    assert_eq!(try_out(&here, out(Family::V4)), Answer::Conntrack);
    accepted_nothing(&listener);
    let sockets = Run::new(&here, "ss", &["-Htan", "state", "connected"]).ok();
    assert_eq!(sockets, "", "expected no other socket");
    nothing_tracked(&here);
    assert_eq!(left(&there), (0, 0), "expected that nothing leaves");
}

/// With nothing in the kernel, not even connection tracking.
fn outbound_without_rules() {
    let (here, there) = hosts();
    for (count, (family, held)) in
        Family::BOTH.into_iter().flat_map(|family| [(family, false), (family, true)]).enumerate()
    {
        contradicts(&try_out(&here, Outbound { held, ..out(family) }), "");
        // It is one packet each time, which goes one hop. That this counts shows that the others' zero does.
        let sent = u64::try_from(count + 1).expect("a small number");
        assert_eq!(left(&there), (sent, sent), "expected one packet more");
    }
}

/// With rules for others, so that connection tracking is at work.
fn outbound_beside_rules(variant: Variant) {
    let (here, there) = hosts();
    nat(&here, variant, "-A OUTPUT -p tcp --dport 8080 -j REDIRECT --to-ports 15001");
    for (count, (family, held)) in
        Family::BOTH.into_iter().flat_map(|family| [(family, false), (family, true)]).enumerate()
    {
        let begin = Instant::now();
        contradicts(&try_out(&here, Outbound { held, ..out(family) }), "itself");
        assert!(begin.elapsed() < DEADLINE, "what is known is not waited for");
        let sent = u64::try_from(count + 1).expect("a small number");
        assert_eq!(left(&there), (sent, sent), "expected one packet more");
    }
    nothing_tracked(&here);
}

fn outbound_elsewhere(variant: Variant) {
    let (here, there) = hosts();
    nat(&here, variant, "-A OUTPUT -p tcp -j REDIRECT --to-ports 15099");
    for family in Family::BOTH {
        for held in [false, true] {
            // Where nobody listens, a reset makes connection tracking forget at once; so free ports say less.
            let word = if held { "15099" } else { "" };
            contradicts(&try_out(&here, Outbound { held, ..out(family) }), word);
        }
    }
    assert_eq!(left(&there), (0, 0), "expected that nothing leaves");
}

/// A filter on the way out: the proxy's port is held, and nothing tells where the packet would have gone.
fn outbound_dropped(variant: Variant) {
    let (here, there) = hosts();
    nat(&here, variant, REDIRECT_OUT);
    for family in Family::BOTH {
        restore(&here, variant, family, "*filter\n-A OUTPUT -p tcp -j DROP\nCOMMIT\n");
        untried(&try_out(&here, Outbound { held: true, ..out(family) }), "drops");
        contradicts(&try_out(&here, out(family)), "15001");
    }
    assert_eq!(left(&there), (0, 0), "expected that nothing leaves");
}

/// Redirected and then dropped: nobody who is captured reaches the proxy.
fn outbound_port_cannot_be_reached(variant: Variant) {
    let (here, there) = hosts();
    nat(&here, variant, REDIRECT_OUT);
    for family in Family::BOTH {
        restore(&here, variant, family, "*filter\n-A INPUT -i lo -p tcp --dport 15001 -j DROP\nCOMMIT\n");
        contradicts(&try_out(&here, out(family)), "did not arrive");
    }
    assert_eq!(left(&there), (0, 0), "expected that nothing leaves");
}

fn owner(variant: Variant) {
    let (here, _there) = hosts();
    nat(
        &here,
        variant,
        "-A OUTPUT -p tcp --syn -m owner --uid-owner 1338 ! -o lo -j REDIRECT --to-ports 15001",
    );
    for family in Family::BOTH {
        let of = |uid| Outbound { uid, ..out(family) };
        assert_eq!(try_out(&here, of(Some(1338))), Answer::Token);
        assert_eq!(try_out(&here, Outbound { gid: Some(7), ..of(Some(1338)) }), Answer::Token);
        for uid in [Some(1339), Some(0), None] {
            contradicts(&try_out(&here, of(uid)), "itself");
            contradicts(&try_out(&here, Outbound { held: true, ..of(uid) }), "itself");
        }
        let listener = proxy(&here, family, OUT);
        assert_eq!(try_out(&here, of(Some(1338))), Answer::Conntrack);
        contradicts(&try_out(&here, of(Some(1339))), "itself");
        accepted_nothing(&listener);
    }
    nothing_tracked(&here);
}

fn group(variant: Variant) {
    let (here, _there) = hosts();
    nat(&here, variant, "-A OUTPUT -p tcp --syn -m owner --gid-owner 4000 -j REDIRECT --to-ports 15001");
    for family in Family::BOTH {
        for uid in [None, Some(1338)] {
            let of = |gid, held| Outbound { uid, gid, held, ..out(family) };
            assert_eq!(try_out(&here, of(Some(4000), false)), Answer::Token);
            assert_eq!(try_out(&here, of(Some(4000), true)), Answer::Conntrack);
            contradicts(&try_out(&here, of(Some(4001), false)), "itself");
            contradicts(&try_out(&here, of(Some(4001), true)), "itself");
        }
    }
}

/// A host that looks twice at what comes in.
fn wary(here: &Netns) {
    for scope in ["all", "default"] {
        here.sysctl(&format!("net/ipv4/conf/{scope}/rp_filter"), "1");
        here.sysctl(&format!("net/ipv4/conf/{scope}/arp_ignore"), "8");
    }
}

fn captured_inbound(variant: Variant) {
    let (here, there) = hosts();
    wary(&here);
    nat(&here, variant, REDIRECT_IN);
    let before = dump(&here);
    for family in Family::BOTH {
        let app = proxy(&here, family, 8001);
        for _ in 0..3 {
            assert_eq!(try_in(&here, into(family)), Answer::Token);
        }
        accepted_nothing(&app);
        drop(proxy(&here, family, IN));
    }
    nothing_tracked(&here);
    assert_same("after the probes", &before, &dump(&here));
    assert_eq!(left(&there), (0, 0), "expected that nothing leaves");
}

fn captured_inbound_and_held(variant: Variant) {
    let (here, _there) = hosts();
    wary(&here);
    nat(&here, variant, REDIRECT_IN);
    let before = dump(&here);
    for family in Family::BOTH {
        let (listener, app) = (proxy(&here, family, IN), proxy(&here, family, 8001));
        for held in [true, false] {
            assert_eq!(try_in(&here, Inbound { held, ..into(family) }), Answer::Conntrack);
        }
        accepted_nothing(&listener);
        accepted_nothing(&app);
    }
    let sockets = Run::new(&here, "ss", &["-Htan", "state", "connected"]).ok();
    assert_eq!(sockets, "", "expected no half-open connection");
    nothing_tracked(&here);
    assert_same("after the probes", &before, &dump(&here));
}

/// Another port is captured; the application that has ours never notices.
fn inbound_uncaptured(variant: Variant) {
    let (here, _there) = hosts();
    for rules in [None, Some(REDIRECT_IN)] {
        if let Some(rules) = rules {
            nat(&here, variant, rules);
        }
        for family in Family::BOTH {
            let app = proxy(&here, family, 8002);
            for (port, held) in [(8002, false), (8002, true), (8003, false), (8003, true)] {
                contradicts(&try_in(&here, Inbound { port, held, ..into(family) }), "800");
            }
            accepted_nothing(&app);
        }
    }
    nothing_tracked(&here);
    // Redirected, and to somewhere else.
    nat(&here, variant, "-I PREROUTING 1 -p tcp --dport 8002 -j REDIRECT --to-ports 15099");
    for family in Family::BOTH {
        for held in [false, true] {
            contradicts(&try_in(&here, Inbound { port: 8002, held, ..into(family) }), "15099");
        }
    }
}

/// A firewall that knows only its own interfaces: the redirect is there all the same.
fn inbound_dropped(variant: Variant) {
    let (here, _there) = hosts();
    nat(&here, variant, REDIRECT_IN);
    for family in Family::BOTH {
        restore(&here, variant, family, "*filter\n-A INPUT -p tcp ! -i eth0 -j DROP\nCOMMIT\n");
        untried(&try_in(&here, into(family)), "drops");
        untried(&try_in(&here, Inbound { held: true, ..into(family) }), "drops");
    }
}

fn tproxy(variant: Variant) {
    let (here, there) = hosts();
    wary(&here);
    for family in ["-4", "-6"] {
        for words in ["rule add fwmark 1337 lookup 133", "route add local default dev lo table 133"] {
            let words: Vec<_> = [family].into_iter().chain(words.split(' ')).collect();
            Run::new(&here, "ip", &words).ok();
        }
    }
    for family in Family::BOTH {
        let rules = "*mangle\n\
            -A PREROUTING -p tcp --dport 8001 -j TPROXY --tproxy-mark 1337 --on-port 15006\nCOMMIT\n";
        restore(&here, variant, family, rules);
    }
    let before = dump(&here);
    for family in Family::BOTH {
        let tproxy = Inbound { transparent: true, ..into(family) };
        let app = proxy(&here, family, 8001);
        assert_eq!(try_in(&here, tproxy), Answer::Token);
        accepted_nothing(&app);
        contradicts(&try_in(&here, Inbound { port: 8003, ..tproxy }), "refused");
        let other = proxy(&here, family, 8002);
        contradicts(&try_in(&here, Inbound { port: 8002, ..tproxy }), "somebody else");
        drop(other);
        let listener = proxy(&here, family, IN);
        for held in [true, false] {
            untried(&try_in(&here, Inbound { held, ..tproxy }), "TPROXY");
        }
        accepted_nothing(&listener);
    }
    nothing_tracked(&here);
    assert_same("after the probes", &before, &dump(&here));
    assert_eq!(left(&there), (0, 0), "expected that nothing leaves");
}

/// The part of upstream's rules that its validator tries.
fn validated(variant: Variant) {
    let (here, _there) = hosts();
    here.ip("addr add ::6/128 dev lo");
    for (family, lo, passthrough) in
        [(Family::V4, "127.0.0.1/32", "127.0.0.6/32"), (Family::V6, "::1/128", "::6/128")]
    {
        let rules = format!(
            "*nat\n-N ISTIO_OUTPUT\n-N ISTIO_IN_REDIRECT\n\
            -A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006\n-A OUTPUT -j ISTIO_OUTPUT\n\
            -A ISTIO_OUTPUT -o lo -s {passthrough} -j RETURN\n\
            -A ISTIO_OUTPUT -o lo ! -d {lo} -p tcp ! --dport 15008 -m owner --uid-owner 1337 \
            -j ISTIO_IN_REDIRECT\n\
            -A ISTIO_OUTPUT -o lo -m owner ! --uid-owner 1337 -j RETURN\n\
            -A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN\nCOMMIT\n"
        );
        restore(&here, variant, family, &rules);
        let v6 = family == Family::V6;
        let begin = Instant::now();
        let outcome = here.run_as(PROXY, || {
            assert!(!caps::has_cap(None, CapSet::Effective, Capability::CAP_NET_ADMIN).expect("a set"));
            validate(OUT, IN, 15002, v6, Duration::from_secs(5))
        });
        assert_eq!(outcome, Ok(()));
        assert!(begin.elapsed() < Duration::from_secs(1), "expected success at the first attempt");
        // Anybody else is not redirected.
        let outcome = here.run(|| validate(OUT, IN, 15002, v6, Duration::from_millis(200)));
        let why = outcome.expect_err("only the proxy is sent to itself");
        assert!(why.contains("15002") && why.contains("refused"), "expected a reason, seen {why}");
    }
}

fn validated_without_rules() {
    let here = Netns::new("here");
    for (v6, from) in [(false, "127.0.0.1"), (true, "::1")] {
        let begin = Instant::now();
        let why = here
            .run_as(PROXY, || validate(OUT, IN, 15002, v6, Duration::from_millis(1200)))
            .expect_err("nothing redirects");
        assert!(begin.elapsed() >= Duration::from_millis(1200), "expected attempts until the deadline");
        assert!(why.contains("15002"), "expected a reason, seen {why}");
        // Ports of others that are not shared.
        let from: IpAddr = from.parse().expect("an address");
        let _others = here.run(|| [OUT, IN].map(|port| TcpListener::bind((from, port)).expect("free")));
        let why = here
            .run_as(PROXY, || validate(OUT, IN, 15002, v6, Duration::from_millis(200)))
            .expect_err("there is nowhere to listen");
        assert!(why.contains("15001") && why.contains("15006"), "expected both ports, seen {why}");
    }
}

/// A thread of root without some capabilities.
fn without<T: Send>(here: &Netns, missing: &[Capability], work: impl FnOnce() -> T + Send) -> T {
    here.run(|| {
        for capability in missing {
            caps::drop(None, CapSet::Effective, *capability).expect("giving up is allowed");
        }
        work()
    })
}

fn missing_capabilities(variant: Variant) {
    use Capability::{CAP_NET_ADMIN, CAP_NET_RAW, CAP_SETGID, CAP_SETUID, CAP_SYS_ADMIN};
    let (here, there) = hosts();
    nat(&here, variant, REDIRECT_OUT);
    nat(&here, variant, REDIRECT_IN);
    let before = dump(&here);
    for family in Family::BOTH {
        let out = out(family);
        let held = Outbound { held: true, ..out };
        let try_out =
            |missing: &[Capability], probe: Outbound| without(&here, missing, || outbound(&probe, DEADLINE));
        untried(&try_out(&[CAP_SETUID], Outbound { uid: Some(1338), ..out }), "CAP_SETUID");
        untried(&try_out(&[CAP_SETUID], Outbound { uid: Some(1338), ..out }), "1338");
        untried(&try_out(&[CAP_SETGID], Outbound { gid: Some(1338), ..held }), "CAP_SETGID");
        untried(&try_out(&[CAP_NET_RAW], held), "CAP_NET_RAW");
        untried(&try_out(&[CAP_NET_ADMIN], held), "CAP_NET_ADMIN");
        // As ourselves, to a free port: nothing is needed.
        let all = [CAP_SETUID, CAP_SETGID, CAP_NET_RAW, CAP_NET_ADMIN, CAP_SYS_ADMIN];
        assert_eq!(try_out(&all, out), Answer::Token);
        assert_eq!(try_out(&all, Outbound { uid: Some(0), gid: Some(0), ..out }), Answer::Token);
        let into = into(family);
        let held = Inbound { held: true, ..into };
        let tproxy = Inbound { transparent: true, ..into };
        let try_in =
            |missing: &[Capability], probe: Inbound| without(&here, missing, || inbound(&probe, DEADLINE));
        for probe in [into, held, tproxy] {
            untried(&try_in(&[CAP_SYS_ADMIN], probe), "CAP_SYS_ADMIN");
            untried(&try_in(&[CAP_NET_ADMIN], probe), "CAP_NET_ADMIN");
        }
        untried(&try_in(&[CAP_NET_RAW], held), "CAP_NET_RAW");
        assert_eq!(try_in(&[CAP_NET_RAW], into), Answer::Token);
    }
    // What could not be tried without conntrack has left an entry there.
    assert_same("after the probes", &before, &dump(&here));
    assert_eq!(left(&there), (0, 0), "expected that nothing leaves");
}

fn no_route() {
    let (here, there) = two_hosts();
    for family in Family::BOTH {
        for held in [false, true] {
            untried(&try_out(&here, Outbound { held, ..out(family) }), "no route to");
        }
        here.ip(&format!("route add unreachable {}", nobody(family).ip()));
        untried(&try_out(&here, out(family)), "no route to");
        here.ip(&format!("route del unreachable {}", nobody(family).ip()));
        here.ip(&format!("route add {} via {}", nobody(family).ip(), THERE.ip(family)));
    }
    // The next hop says that it goes no further: then there is a route, and nothing on it is ours.
    there.sysctl("net/ipv4/ip_forward", "1");
    there.sysctl("net/ipv6/conf/all/forwarding", "1");
    for family in Family::BOTH {
        for held in [false, true] {
            contradicts(&try_out(&here, Outbound { held, ..out(family) }), "");
        }
    }
}

fn no_ipv6() {
    let (here, _there) = two_hosts();
    here.sysctl("net/ipv6/conf/all/disable_ipv6", "1");
    here.sysctl("net/ipv6/conf/default/disable_ipv6", "1");
    untried(&try_out(&here, out(Family::V6)), "");
    untried(&try_out(&here, Outbound { held: true, ..out(Family::V6) }), "");
    untried(&try_in(&here, into(Family::V6)), "IPv6 is disabled");
    let links = Run::new(&here, "ip", &["link"]).ok();
    assert!(!links.contains("mi-probe"), "expected no link of ours, seen {links}");
}
