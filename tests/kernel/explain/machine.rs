//! What is around the rules: both iptables, tables that nft made, and no program to read them with.

use super::{explain, json, notes, says};
use crate::foreign;
use crate::harness::Case;
use crate::istio::{APP, PROXY};
use crate::support::command::mesh_init;
use crate::support::dial::dial;
use crate::support::rules::{Family, Variant, assert_same, dump, restore};
use crate::support::serve::Service;
use crate::support::wire::{THERE, two_hosts};
use crate::tools::bare;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Case::all_for_each_variant(&[
        ("explain::without_iptables", without_iptables),
        ("explain::tables_of_nft", tables_of_nft),
        ("explain::both_iptables", both_iptables),
        ("explain::same_hook", same_hook),
    ]);
    cases.push(Case::new("explain::nothing_is_here", nothing_is_here));
    cases
}

fn nothing_is_here() {
    let netns = foreign::namespace();
    let rows = [("out tcp 10.1.2.3:80", "not captured", "no rule"); 1];
    says(&netns, &rows);
    let text = mesh_init(&netns, &["explain", "--live", "--all"]).ok();
    assert!(text.lines().count() > 10 && !text.contains("captured -> "), "{text}");
}

/// It says what it could not read, and answers by the rest.
fn without_iptables(variant: Variant) {
    let netns = foreign::namespace();
    mesh_init(&netns, &["-p", "15001", "-u", "1337", "--iptables-variant", variant.name()]).ok();
    let before = dump(&netns);
    for more in [&[][..], &["--output", "json"]] {
        let sbin = bare();
        let run = explain(&netns, "out tcp 10.1.2.3:80", more);
        drop(sbin);
        let seen = match more {
            [] => notes(run),
            _ => {
                let notes = json(&run.ok())["notes"].clone();
                notes.as_array().expect("a list").iter().map(|note| note.to_string()).collect()
            }
        };
        for family in ["IPv4", "IPv6"] {
            let told = |note: &String| {
                note.contains(&format!("{family} rules of "))
                    && note.contains(variant.name())
                    && note.contains(if variant == Variant::Legacy {
                        "do not count"
                    } else {
                        "read without it"
                    })
            };
            assert!(seen.iter().any(told), "expected a word on {family}, seen {seen:?}");
        }
    }
    assert_same("after `explain`", &before, &dump(&netns));
}

fn tables_of_nft(variant: Variant) {
    let netns = foreign::namespace();
    mesh_init(&netns, &["-p", "15001", "-u", "1337", "--iptables-variant", variant.name()]).ok();
    assert_eq!(notes(explain(&netns, "in tcp 10.1.0.1:80", &[])), [""; 0]);
    foreign::load_native(&netns);
    let seen = notes(explain(&netns, "in tcp 10.1.0.1:80", &[]));
    assert_eq!(seen, [""; 0], "they count like any other");
    says(&netns, &[("in tcp 10.1.0.1:80", "captured -> 15001", "inbound.all")]);
}

/// Ours in the one, somebody's in the other.
fn both_iptables(variant: Variant) {
    let netns = foreign::namespace();
    mesh_init(&netns, &["-p", "15001", "-u", "1337", "--iptables-variant", variant.name()]).ok();
    let others = "*filter\n-A OUTPUT -p tcp -m tcp --dport 25 -j DROP\nCOMMIT\n\
        *mangle\n-A PREROUTING -p tcp -m tcp --dport 23 -j DROP\nCOMMIT\n";
    for family in Family::BOTH {
        restore(&netns, variant.other(), family, others);
    }
    says(
        &netns,
        &[
            ("out tcp 10.1.2.3:80", "captured -> 15001", "outbound.all"),
            // In `filter` the port is the proxy's by then.
            ("out tcp 10.1.2.3:25", "captured -> 15001", "outbound.all"),
            (
                "out tcp uid=1337 [fd00::9]:25",
                "dropped",
                "filter OUTPUT rule 1: -p tcp -m tcp --dport 25 -j DROP",
            ),
            ("in tcp 10.1.0.1:23", "dropped", "mangle PREROUTING rule 1: -p tcp -m tcp --dport 23 -j DROP"),
            ("in tcp [fd00:1::1]:80", "captured -> 15001", "inbound.all"),
        ],
    );
}

/// Both translate the same packets: the kernel asks the one that came last first, whichever it is.
fn same_hook(variant: Variant) {
    let (here, _there) = two_hosts();
    for (name, port) in [("ours", 15001), ("theirs", 15009)] {
        Service::tcp(&here, PROXY, name, &[port]);
    }
    let (ours, to) = (["-p", "15001", "-u", "1337", "--iptables-variant"], THERE.port(Family::V4, 80));
    mesh_init(&here, &[&ours[..], &[variant.name()]].concat()).ok();
    dial(&here, APP, to).captured_by("ours");
    let others = "*nat\n-A OUTPUT -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 15009\nCOMMIT\n";
    restore(&here, variant.other(), Family::V4, others);
    dial(&here, APP, to).captured_by("theirs");
    says(
        &here,
        &[
            ("out tcp 10.0.0.2:80", "cannot tell", "nat "),
            ("out tcp 10.0.0.2:81", "captured -> 15001", "outbound.all"),
            ("out tcp [fd00::2]:80", "captured -> 15001", "outbound.all"),
            ("out udp 10.0.0.2:80", "not captured", "no rule"),
        ],
    );
}
