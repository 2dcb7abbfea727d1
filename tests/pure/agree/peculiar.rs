//! What a layout does otherwise than the plain meaning of a policy, one test for each, with the outcome written out:
//! neither the oracle nor the rules can lose it without notice.

use mesh_init::eval::{Capture, Outcome};
use mesh_init::policy::{Families, Port};

use super::policies::Subject;

/// What both the meaning and the rules say: `passed`, `dropped`, `redirect PORT` or `tproxy PORT`.
#[track_caller]
fn say(args: &[&str], conn: &str) -> String {
    let subject = Subject::new(args, Families::Both);
    let (meaning, rules) = super::both(&subject, &conn.parse().expect("a connection"));
    assert_eq!(meaning, rules, "{args:?}: {conn}");
    match rules {
        Outcome::Captured { port, by: Capture::Redirect } => format!("redirect {port}"),
        Outcome::Captured { port, by: Capture::Tproxy } => format!("tproxy {port}"),
        Outcome::Passed => "passed".to_owned(),
        Outcome::Dropped => "dropped".to_owned(),
        Outcome::Translated(_) | Outcome::CannotTell => panic!("{args:?}: {conn}: {rules:?}"),
    }
}

#[track_caller]
fn all_say(args: &[&str], expected: &[(&str, &str)]) {
    for (conn, outcome) in expected {
        assert_eq!(say(args, conn), *outcome, "{args:?}: {conn}");
    }
}

const ISTIO: &[&str] = &["--layout", "istio", "-z", "15006", "-u", "1337", "-g", "1337"];
const LETTER: &[&str] = &["--layout", "istio-iptables", "-z", "15006", "-u", "1337", "-g", "1337"];
const OURS: &[&str] = &["--layout", "istio", "-z", "15006", "-m", "TPROXY"];
const UPSTREAMS: &[&str] = &["--layout", "istio-iptables", "-z", "15006", "-m", "TPROXY"];

fn with<'a>(args: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [args, more].concat()
}

// --- classic ---

#[test]
fn classic_captures_over_lo_anything_but_the_loopback_address_of_anyone() {
    all_say(
        &["-p", "15001", "-u", "1337", "-i", "10.1.0.0/16"],
        &[
            ("out tcp uid=1337 lo 10.0.0.5:80", "redirect 15001"),
            ("out tcp uid=1337 127.0.0.2:80", "redirect 15001"),
            ("out tcp lo 10.0.0.5:80", "redirect 15001"),
            ("out tcp uid=1337 lo [fd00::5]:80", "redirect 15001"),
            ("out tcp 127.0.0.1:80", "passed"),
            ("out tcp [::1]:80", "passed"),
            ("out tcp uid=1337 10.1.2.3:80", "passed"),
            ("out tcp 10.1.2.3:80", "redirect 15001"),
            ("out tcp 10.2.2.3:80", "passed"),
            ("out udp lo 10.0.0.5:80", "passed"),
        ],
    );
}

#[test]
fn classic_captures_every_port_that_arrives_and_what_passes_through() {
    all_say(
        &["-p", "15001", "-u", "1337"],
        &[
            ("in tcp 10.0.0.5:22", "redirect 15001"),
            ("in tcp 10.0.0.5:15001", "redirect 15001"),
            ("in tcp route=forward 10.9.9.9:80", "redirect 15001"),
            ("in udp 10.0.0.5:53", "passed"),
        ],
    );
}

#[test]
fn classic_looks_at_nothing_outbound_if_nothing_outbound_is_wanted() {
    all_say(
        &["-p", "15001", "-u", "1337", "-i", ""],
        &[
            ("out tcp lo 10.0.0.5:80", "passed"),
            ("out tcp 10.1.2.3:80", "passed"),
            ("in tcp 10.0.0.5:80", "redirect 15001"),
        ],
    );
}

#[test]
fn whole_pods_adopt_connections_that_are_older_than_the_rules() {
    let older = "out tcp state=new packet=later 10.1.2.3:80";
    assert_eq!(say(&["-p", "15001", "-u", "1337"], older), "redirect 15001");
    assert_eq!(say(ISTIO, older), "redirect 15001");
    assert_eq!(say(&["--uid-owner", "1000"], older), "passed");
    assert_eq!(say(&["--uid-owner", "1000"], "out tcp 10.1.2.3:80"), "redirect 15001");
}

// --- scoped ---

#[test]
fn scoped_leaves_what_the_host_itself_needs() {
    all_say(
        &["--uid-owner", "1000", "-b", "*", "-d", "9000", "-z", "15006"],
        &[
            ("out tcp 127.0.0.1:80", "redirect 15001"),
            ("out tcp 127.0.0.1:15001", "passed"),
            ("out tcp lo 10.0.0.5:15006", "passed"),
            ("out tcp 10.1.2.3:15001", "redirect 15001"),
            ("out tcp 10.1.2.3:53", "passed"),
            ("out tcp uid=1001 10.1.2.3:80", "passed"),
            ("in tcp 10.0.0.5:80", "redirect 15006"),
            ("in tcp 10.0.0.5:22", "passed"),
            ("in tcp 10.0.0.5:15090", "passed"),
            ("in tcp 10.0.0.5:15006", "passed"),
            ("in tcp 10.0.0.5:15001", "passed"),
            ("in tcp 10.0.0.5:9000", "passed"),
            ("in tcp route=forward 10.9.9.9:80", "passed"),
        ],
    );
}

// --- today's Istio, both readings ---

#[test]
fn a_call_of_the_proxy_to_its_own_pod_passes_the_inbound_side() {
    for layout in [ISTIO, LETTER] {
        all_say(
            layout,
            &[
                ("out tcp uid=1337 lo 10.0.0.5:80", "redirect 15006"),
                ("out tcp uid=1337 127.0.0.6:15002", "redirect 15006"),
                ("out tcp uid=1337 lo 10.0.0.5:15008", "passed"),
                ("out tcp uid=1337 127.0.0.1:80", "passed"),
                ("out tcp uid=1337 127.0.0.6 -> lo 10.0.0.5:80", "passed"),
                ("out tcp lo 10.0.0.5:80", "passed"),
                ("out tcp uid=1337 10.1.2.3:80", "passed"),
                ("out tcp 10.1.2.3:80", "redirect 15001"),
            ],
        );
    }
}

#[test]
fn a_network_that_begins_at_a_loopback_address_captures_calls_over_lo_in_both_families() {
    for layout in [ISTIO, LETTER] {
        let call = ["out tcp lo 10.0.0.5:80", "out tcp lo [fd00::5]:80"];
        for (networks, outcome) in [
            ("10.0.0.0/8,fd00::/8", "passed"),
            ("10.0.0.0/8,fd00::/8,127.0.0.6/32", "redirect 15001"),
            ("10.0.0.0/8,fd00::/8,::1/128", "redirect 15001"),
            // It covers a loopback address, and does not begin at one.
            ("10.0.0.0/8,fd00::/8,0.0.0.0/1", "passed"),
        ] {
            let args = with(layout, &["-i", networks]);
            all_say(&args, &[(call[0], outcome), (call[1], outcome)]);
        }
    }
}

#[test]
fn tcp_to_port_53_of_this_host_is_no_call_to_it_where_dns_is_captured() {
    for layout in [ISTIO, LETTER] {
        let args = with(layout, &["--redirect-dns", "--dns-server", "10.0.0.53"]);
        all_say(
            &args,
            &[
                ("out tcp lo 10.0.0.5:53", "redirect 15001"),
                ("out tcp lo [fd00::5]:53", "redirect 15001"),
                ("out tcp lo 10.0.0.5:54", "passed"),
                ("out udp lo 10.0.0.5:53", "passed"),
                ("out udp 10.0.0.53:53", "redirect 15053"),
                ("out tcp 10.0.0.53:53", "redirect 15053"),
                ("out udp 10.0.0.54:53", "passed"),
                ("out udp uid=1337 10.0.0.53:53", "passed"),
                ("out udp 10.0.0.53:54", "passed"),
            ],
        );
        assert_eq!(say(layout, "out tcp lo 10.0.0.5:53"), "passed");
    }
}

#[test]
fn dns_is_captured_before_loopback_and_networks_are_left_alone_and_after_ports_and_groups() {
    for layout in [ISTIO, LETTER] {
        let args = with(layout, &["--redirect-dns", "--capture-all-dns", "-x", "10.0.0.0/8"]);
        all_say(
            &args,
            &[
                ("out udp 127.0.0.1:53", "redirect 15053"),
                ("out udp 10.1.2.3:53", "redirect 15053"),
                ("out udp [::1]:53", "redirect 15053"),
                ("out tcp 10.1.2.3:80", "passed"),
            ],
        );
        assert_eq!(say(&with(&args, &["-o", "53"]), "out udp 10.1.2.3:53"), "passed");
        assert_eq!(say(&with(&args, &["--exclude-owner-group", "7"]), "out udp gid=7 10.1.2.3:53"), "passed");
        assert_eq!(say(&with(&args, &["--owner-group", "8"]), "out udp gid=7 10.1.2.3:53"), "passed");
        assert_eq!(say(&with(&args, &["-c", "eth0"]), "out udp 10.1.2.3:53"), "passed");
    }
}

#[test]
fn of_a_virtual_machine_only_the_networks_count() {
    for layout in [ISTIO, LETTER] {
        let args = with(
            layout,
            &[
                "-k",
                "tap0",
                "-c",
                "tap0",
                "-i",
                "10.0.0.0/8,fd00::/8",
                "-o",
                "80",
                "-x",
                "10.0.0.0/8",
                "-q",
                "81",
            ],
        );
        all_say(
            &args,
            &[
                ("in tcp tap0 route=forward 10.1.2.3:80", "redirect 15001"),
                ("in tcp tap0 10.0.0.5:15008", "redirect 15001"),
                ("in tcp tap0 route=forward 11.1.2.3:81", "passed"),
                ("in udp tap0 route=forward 10.1.2.3:80", "passed"),
                ("in tcp eth0 10.0.0.5:80", "redirect 15006"),
            ],
        );
        assert_eq!(say(&with(layout, &["-k", "tap0", "-i", ""]), "in tcp tap0 10.0.0.5:80"), "passed");
    }
}

#[test]
fn what_passes_through_a_pod_is_captured_as_what_is_for_it() {
    for layout in [ISTIO, LETTER] {
        assert_eq!(say(layout, "in tcp route=forward 10.9.9.9:80"), "redirect 15006");
    }
    for layout in [OURS, UPSTREAMS] {
        assert_eq!(say(layout, "in tcp route=forward 10.9.9.9:80"), "tproxy 15006");
    }
}

#[test]
fn nat_does_not_look_at_what_fits_no_connection_and_tproxy_does() {
    let invalid = "in tcp state=invalid 10.0.0.5:80";
    assert_eq!(say(ISTIO, invalid), "passed");
    assert_eq!(say(OURS, invalid), "tproxy 15006");
    for layout in [ISTIO, LETTER, OURS, UPSTREAMS] {
        let args = with(layout, &["--drop-invalid"]);
        all_say(
            &args,
            &[
                (invalid, "dropped"),
                ("in udp state=invalid 10.0.0.5:80", "dropped"),
                ("out tcp state=invalid lo 10.0.0.5:80", "dropped"),
                ("out tcp state=invalid 10.1.2.3:80", "passed"),
            ],
        );
    }
}

#[test]
fn an_excluded_interface_is_left_alone_before_anything_is_dropped_with_tproxy_only() {
    let invalid = "in tcp eth1 state=invalid 10.0.0.5:80";
    for (layout, outcome) in
        [(ISTIO, "dropped"), (LETTER, "dropped"), (OURS, "passed"), (UPSTREAMS, "passed")]
    {
        assert_eq!(say(&with(layout, &["--drop-invalid", "-c", "eth1"]), invalid), outcome, "{layout:?}");
    }
}

// --- where our reading and upstream's letter part ---

#[test]
fn upstream_shadows_the_second_identitys_calls_to_its_own_pod() {
    let (call, first) = ("out tcp uid=0 gid=1338 lo 10.0.0.5:80", "out tcp uid=1337 gid=0 lo 10.0.0.5:80");
    for (args, ours, letter) in [
        (&["-u", "1337,0"][..], "redirect 15006", "passed"),
        (&["-u", "1337", "-g", "1338"], "redirect 15006", "passed"),
        (&["-u", "0,1337"], "redirect 15006", "redirect 15006"),
        // Nothing is let past over lo there, so nobody is shadowed.
        (&["-u", "1337,0", "-i", "127.0.0.0/8"], "redirect 15006", "redirect 15006"),
    ] {
        assert_eq!(say(&with(&["--layout", "istio", "-z", "15006"], args), call), ours, "{args:?}");
        assert_eq!(
            say(&with(&["--layout", "istio-iptables", "-z", "15006"], args), call),
            letter,
            "{args:?}"
        );
    }
    assert_eq!(say(&["--layout", "istio-iptables", "-z", "15006", "-u", "1337,0"], first), "redirect 15006");
}

#[test]
fn upstream_lets_no_queries_past_of_an_agent_known_by_its_group() {
    let dns = ["--redirect-dns", "--capture-all-dns"];
    let (user, group) = ("out tcp uid=1337 gid=0 lo 10.0.0.5:53", "out tcp uid=0 gid=1337 lo 10.0.0.5:53");
    all_say(&with(ISTIO, &dns), &[(user, "passed"), (group, "passed")]);
    all_say(&with(LETTER, &dns), &[(user, "passed"), (group, "redirect 15006")]);
}

#[test]
fn upstreams_tproxy_knows_no_tunnel() {
    let tunnel = "in tcp 10.0.0.5:15008";
    assert_eq!(say(ISTIO, tunnel), "passed");
    assert_eq!(say(LETTER, tunnel), "passed");
    assert_eq!(say(OURS, tunnel), "passed");
    assert_eq!(say(UPSTREAMS, tunnel), "tproxy 15006");
}

#[test]
fn upstreams_tproxy_takes_what_comes_from_a_virtual_machine_as_well_as_nat_does() {
    let arrives = "in tcp tap0 route=forward 10.1.2.3:80";
    let more = ["-k", "tap0", "-i", "10.0.0.0/8"];
    assert_eq!(say(&with(OURS, &more), arrives), "redirect 15001");
    // TPROXY's socket gets it, at an address that NAT has changed.
    assert_eq!(say(&with(UPSTREAMS, &more), arrives), "redirect 15006");
    assert_eq!(say(&with(UPSTREAMS, &more), "in tcp tap0 route=forward 11.1.2.3:80"), "tproxy 15006");
    assert_eq!(say(&with(OURS, &more), "in tcp tap0 route=forward 11.1.2.3:80"), "passed");
}

#[test]
fn upstreams_tproxy_takes_a_first_packet_for_a_later_one_where_conntrack_remembers() {
    let again = "in tcp packet=first state=established 10.0.0.5:80";
    assert_eq!(say(OURS, again), "tproxy 15006");
    assert_eq!(say(UPSTREAMS, again), "passed");
    for layout in [OURS, UPSTREAMS] {
        assert_eq!(say(layout, "in tcp state=established 10.0.0.5:80"), "passed");
    }
}

#[test]
fn upstream_believes_the_proxys_mark_on_what_arrives() {
    let marked = "in tcp mark=1337 10.0.0.5:80";
    assert_eq!(say(OURS, marked), "tproxy 15006");
    assert_eq!(say(UPSTREAMS, marked), "passed");
}

#[test]
fn upstreams_tproxy_takes_every_call_of_the_proxy_to_its_own_pod_that_nat_has_left() {
    let shadowed = "out tcp uid=0 gid=0 lo 10.0.0.5:80";
    let tunnel = "out tcp uid=1337 lo 10.0.0.5:15008";
    let excluded = "out tcp uid=1337 lo 10.0.0.5:81";
    let older = "out tcp uid=1337 state=invalid lo 10.0.0.5:80";
    let more = ["-u", "1337,0", "-o", "81"];
    all_say(
        &with(OURS, &more),
        &[(shadowed, "redirect 15006"), (tunnel, "passed"), (excluded, "passed"), (older, "passed")],
    );
    all_say(
        &with(UPSTREAMS, &more),
        &[
            (shadowed, "tproxy 15006"),
            (tunnel, "tproxy 15006"),
            (excluded, "tproxy 15006"),
            (older, "tproxy 15006"),
            ("out tcp uid=1337 lo 10.0.0.5:80", "redirect 15006"),
            ("out tcp uid=1337 127.0.0.6 -> lo 10.0.0.5:81", "passed"),
            ("out tcp uid=1337 mark=1337 lo 10.0.0.5:81", "passed"),
            ("out tcp uid=1337 connmark=1337 lo 10.0.0.5:81", "passed"),
            ("out tcp uid=1337 127.0.0.1:81", "passed"),
            ("out tcp lo 10.0.0.5:80", "passed"),
            ("out tcp mark=1338 lo 10.0.0.5:80", "tproxy 15006"),
        ],
    );
    assert_eq!(
        say(&with(UPSTREAMS, &["-u", "1337,0", "-b", "80"]), tunnel),
        "passed",
        "not a port to capture"
    );
    assert_eq!(say(&with(UPSTREAMS, &["-u", "1337,0", "-b", ""]), shadowed), "passed");
}

/// With a loopback network that 127.0.0.1 is not in, what NAT has sent there is no longer to loopback.
#[test]
fn upstreams_tproxy_takes_what_nat_has_taken_if_the_loopback_network_is_another() {
    let call = "out tcp uid=1337 lo 10.0.0.5:80";
    let args = with(UPSTREAMS, &["-u", "1337", "-b", "*", "-d", "15006"]);
    assert_eq!(say(&with(&args, &["--loopback-cidr", "127.7.0.0/16"]), call), "redirect 15006");
    let dns = ["--redirect-dns", "--capture-all-dns", "--loopback-cidr", "127.7.0.0/16"];
    // The application's own mark stands for the proxy's there: DNS goes to the inbound port.
    let query = "out tcp mark=1338 10.1.2.3:53";
    assert_eq!(say(&with(UPSTREAMS, &dns), query), "redirect 15006");
    assert_eq!(say(&with(UPSTREAMS, &dns[..2]), query), "redirect 15053");
}

#[test]
fn ours_knows_what_the_proxy_sends_with_a_clients_address_by_its_mark() {
    let sent = "out tcp uid=1337 mark=1337 lo 10.0.0.5:80";
    assert_eq!(say(OURS, sent), "passed");
    assert_eq!(say(UPSTREAMS, sent), "redirect 15006", "by REDIRECT it comes back to the proxy");
    assert_eq!(say(UPSTREAMS, "out tcp uid=0 mark=1337 lo 10.0.0.5:80"), "passed");
    assert_eq!(say(ISTIO, sent), "redirect 15006", "without TPROXY a mark means nothing");
    assert_eq!(say(&with(OURS, &["-b", ""]), "out tcp mark=1337 10.1.2.3:80"), "redirect 15001", "it leaves");
}

/// The answer to what the proxy sent with a client's address comes back over lo, wherever the client is.
#[test]
fn answers_to_what_the_proxy_sent_come_back() {
    let answer = "out tcp connmark=1337 state=invalid 10.1.2.3:80";
    for layout in [OURS, UPSTREAMS] {
        let args = with(layout, &["--drop-invalid"]);
        assert_eq!(say(&args, answer), "dropped", "it arrived");
        assert_eq!(say(&with(&args, &["-c", "eth0"]), answer), "passed");
        assert_eq!(say(&with(&args, &["-b", ""]), answer), "passed", "no routing is made for nothing");
        assert_eq!(say(&args, "out tcp connmark=1337 mark=1337 state=invalid 10.1.2.3:80"), "passed");
    }
}

// --- every layout ---

#[test]
fn what_has_no_rules_is_not_captured() {
    let none = ["-m", "NONE"];
    for conn in ["out tcp 10.1.2.3:80", "in tcp 10.0.0.5:80", "out udp [fd00::9]:53"] {
        for args in [&["-u", "1337"][..], &["--uid-owner", "1000", "-b", "*"], ISTIO, LETTER] {
            assert_eq!(say(&with(args, &none), conn), "passed", "{args:?}");
            let subject = Subject::new(args, Families::V4);
            let conn = conn.parse().expect("a connection");
            let (meaning, rules) = super::both(&subject, &conn);
            assert_eq!(meaning, rules);
            assert_eq!(rules == Outcome::Passed, conn.family() == mesh_init::policy::Family::V6, "{args:?}");
        }
    }
}

#[test]
fn supplementary_groups_do_not_count() {
    for args in [&["-u", "1337", "-g", "7"][..], &with(ISTIO, &["--exclude-owner-group", "7"])] {
        assert_eq!(say(args, "out tcp gid=7 10.1.2.3:80"), "passed");
        assert_eq!(say(args, "out tcp groups=7 10.1.2.3:80"), "redirect 15001");
    }
    assert_eq!(say(&["--gid-owner", "7"], "out tcp groups=7 10.1.2.3:80"), "passed");
}

#[test]
fn later_packets_follow_what_the_first_one_decided() {
    for args in [&["-u", "1337"][..], &["--uid-owner", "1000", "-b", "*"], ISTIO, LETTER] {
        for state in ["established", "invalid"] {
            assert_eq!(say(args, &format!("out tcp state={state} 10.1.2.3:80")), "passed");
            assert_eq!(say(args, &format!("in tcp state={state} 10.0.0.5:80")), "passed");
        }
        assert_ne!(say(args, "out tcp state=related 10.1.2.3:80"), "passed");
    }
    assert_eq!(Port::of(0), None);
}
