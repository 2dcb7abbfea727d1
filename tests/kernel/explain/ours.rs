//! Our own rules, in each layout.

use super::{Row, explain, json, says, words};
use crate::foreign;
use crate::harness::Case;
use crate::istio::{APP, Reading};
use crate::support::command::{MESH_INIT, Run, mesh_init};
use crate::support::netns::Netns;
use crate::support::rules::{Variant, assert_same, dump};

pub(super) fn cases() -> Vec<Case> {
    Case::all_for_each_variant(&[
        ("explain::classic", classic),
        ("explain::scoped", scoped),
        ("explain::istio", istio),
        ("explain::tproxy", tproxy),
        ("explain::all", all),
        ("explain::netns", netns),
        ("explain::no_root", no_root),
    ])
}

fn applied(variant: Variant, flags: &str) -> Netns {
    let netns = foreign::namespace();
    let words: Vec<_> = flags.split(' ').chain(["--iptables-variant", variant.name()]).collect();
    mesh_init(&netns, &words).ok();
    netns
}

fn classic(variant: Variant) {
    const ROWS: &[Row] = &[
        ("out tcp uid=1000 10.1.2.3:80", "captured -> 15001", "outbound.all"),
        ("out tcp uid=1000 [fd00::9]:80", "captured -> 15001", "outbound.all"),
        ("out tcp uid=1337 10.1.2.3:80", "not captured", "proxy.uid"),
        ("out tcp uid=1337 [fd00::9]:80", "not captured", "proxy.uid"),
        ("out tcp 127.0.0.1:80", "not captured", "outbound.loopback"),
        ("out tcp [::1]:80", "not captured", "outbound.loopback"),
        ("out tcp uid=1337 127.0.0.2:80", "captured -> 15001", "outbound.own-address"),
        ("out udp 10.1.2.3:53", "not captured", "no rule"),
        ("in tcp 10.1.0.1:80", "captured -> 15001", "inbound.all"),
        ("in tcp [fd00:1::1]:22", "captured -> 15001", "inbound.all"),
    ];
    says(&applied(variant, "-p 15001 -u 1337"), ROWS);
}

fn scoped(variant: Variant) {
    const ROWS: &[Row] = &[
        ("out tcp uid=1338 10.1.2.3:80", "captured -> 15001", "outbound.all"),
        ("out tcp uid=1338 [::1]:80", "captured -> 15001", "outbound.all"),
        ("out tcp uid=1338 10.1.2.3:53", "not captured", "outbound.dns"),
        ("out tcp uid=1000 [fd00::9]:80", "not captured", "no rule"),
        ("out tcp uid=1338 packet=later state=new 10.1.2.3:80", "not captured", "no rule"),
        ("in tcp 10.1.0.1:8001", "captured -> 15006", "inbound.all"),
        ("in tcp [fd00:1::1]:22", "not captured", "inbound.reserved"),
        ("in tcp [fd00:1::1]:9090", "not captured", "inbound.exclude-port"),
        ("in tcp route=forward 10.7.0.1:8001", "not captured", "no rule"),
    ];
    says(&applied(variant, "--uid-owner 1338 -z 15006 -b * -d 9090"), ROWS);
}

fn istio(variant: Variant) {
    const ROWS: &[Row] = &[
        ("out tcp 10.1.2.3:80", "captured -> 15001", "outbound.all"),
        ("out tcp [fd00::9]:80", "captured -> 15001", "outbound.all"),
        ("out tcp uid=1337 dev=lo 10.1.0.1:80", "captured -> 15006", "proxy.self"),
        ("out tcp uid=1337 dev=lo 127.0.0.6:9 -> 10.1.0.1:80", "not captured", "outbound.passthrough"),
        ("out tcp dev=lo 10.1.0.1:80", "not captured", "outbound.self"),
        ("in tcp [fd00:1::1]:15008", "not captured", "inbound.tunnel"),
        ("in tcp 10.1.0.1:15090", "not captured", "inbound.exclude-port"),
        ("in tcp [fd00:1::1]:80", "captured -> 15006", "inbound.all"),
    ];
    for reading in Reading::BOTH {
        let netns = foreign::namespace();
        reading.apply(&netns, variant, "-p 15001 -z 15006 -u 1337 -b * -i * -d 15090");
        says(&netns, ROWS);
    }
}

fn tproxy(variant: Variant) {
    const ROWS: &[Row] = &[
        ("out tcp 10.1.2.3:80", "captured -> 15001", "outbound.all"),
        ("in tcp 10.1.0.1:80", "captured -> 15006 (TPROXY)", "inbound.all"),
        ("in tcp [fd00:1::1]:80", "captured -> 15006 (TPROXY)", "inbound.all"),
        ("in tcp route=forward [fd00:7::1]:80", "captured -> 15006 (TPROXY)", "inbound.all"),
        ("in udp [fd00:1::1]:80", "not captured", "no rule"),
    ];
    for reading in Reading::BOTH {
        let netns = foreign::namespace();
        reading.apply(&netns, variant, "-p 15001 -z 15006 -u 1337 -g 1337 -b * -i * -m TPROXY");
        says(&netns, ROWS);
        // Without its routing a packet that TPROXY takes is delivered only if it was for this host anyway.
        netns.ip("rule del fwmark 1337 lookup 133");
        says(&netns, &[("in tcp 10.1.0.1:80", "captured -> 15006 (TPROXY)", "inbound.all")]);
        let through = explain(&netns, "in tcp route=forward 10.7.0.1:80", &[]).ok();
        assert!(through.starts_with("not captured: "), "{through}");
    }
}

/// The page of a policy is the same by the rules that it makes and by those that are here.
fn all(variant: Variant) {
    for flags in [
        "-p 15001 -u 1337 -i 10.0.0.0/8,fd00::/16",
        "--uid-owner 1338 -x 10.9.0.0/16 -o 25 -c eth7 -b 80,8001 -z 15006",
        "-p 15001 -z 15006 -u 1337 -d 15090 -x 10.9.0.0/16 -k tap0 -c eth7 --owner-group 7",
        "-p 15001 -z 15006 -u 1337 -g 1337 -m TPROXY --redirect-dns --dns-server 10.0.0.53,fd00::53",
    ] {
        let netns = applied(variant, flags);
        let before = dump(&netns);
        let wanted: Vec<_> = ["explain", "--all"].into_iter().chain(flags.split(' ')).collect();
        assert_same(flags, &mesh_init(&netns, &wanted).ok(), &explain_all(&netns, &[]));
        let wanted = json(&mesh_init(&netns, &[&wanted[..], &["--output", "json"]].concat()).ok());
        let seen = json(&explain_all(&netns, &["--output", "json"]));
        assert_eq!(wanted, seen, "{flags}");
        assert!(seen["rows"].as_array().is_some_and(|rows| rows.len() > 20), "{flags}: {seen:#}");
        assert_same("after `explain`", &before, &dump(&netns));
    }
}

#[track_caller]
pub(super) fn explain_all(netns: &Netns, more: &[&str]) -> String {
    mesh_init(netns, &[&["explain", "--live", "--all"], more].concat()).ok()
}

fn netns(variant: Variant) {
    let (netns, elsewhere) = (applied(variant, "-p 15001 -u 1337"), Netns::new("elsewhere"));
    let there = format!("--netns={}", netns.path().display());
    for connection in ["out tcp 10.1.2.3:80", "in tcp [fd00:1::1]:80"] {
        let inside = explain(&netns, connection, &[]).ok();
        assert_same(connection, &inside, &explain(&elsewhere, connection, &[&there]).ok());
        let none = explain(&elsewhere, connection, &["--output", "json"]).ok();
        assert_eq!(words(&json(&none)["answers"][0]["outcome"]), "not captured", "{none}");
    }
}

fn no_root(variant: Variant) {
    let netns = applied(variant, "-p 15001 -u 1337");
    for asked in [&["--all"][..], &["out tcp 10.1.2.3:80"]] {
        let words = [&["explain", "--live"], asked].concat();
        let run = Run::as_user(&netns, APP, MESH_INIT, &words, "").code(77);
        assert_eq!(run.stdout, "", "{run}");
        run.says("CAP_NET_ADMIN");
        // By options it needs no privileges.
        Run::as_user(&netns, APP, MESH_INIT, &["explain", "-p", "15001", asked[0]], "").code(0);
    }
}
