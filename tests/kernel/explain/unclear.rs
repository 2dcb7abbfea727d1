//! Rules that are not understood: they count only where they make a difference.

use super::{explain, says};
use crate::foreign;
use crate::harness::Case;
use crate::support::command::{Run, mesh_init};
use crate::support::netns::Netns;
use crate::support::rules::{Family, Variant};

pub(super) fn cases() -> Vec<Case> {
    Case::all_for_each_variant(&[
        ("explain::unknown_condition", unknown_condition),
        ("explain::unknown_target", unknown_target),
    ])
}

const CHANCE: &str = "-m statistic --mode random --probability 0.50000000000 -j ACCEPT";

/// A classic pod with one more rule, in front of a chain.
fn with_rule(variant: Variant, table: &str, chain: &str, rule: &str) -> Netns {
    let netns = foreign::namespace();
    mesh_init(&netns, &["-p", "15001", "-u", "1337", "--iptables-variant", variant.name()]).ok();
    for family in Family::BOTH {
        let words = format!("-t {table} -I {chain} {rule}");
        Run::new(&netns, &variant.program(family, ""), &words.split(' ').collect::<Vec<_>>()).ok();
    }
    netns
}

fn unknown_condition(variant: Variant) {
    let netns = with_rule(variant, "nat", "OUTPUT", CHANCE);
    let rule = format!("because of nat OUTPUT rule 1: {CHANCE}");
    for connection in ["out tcp 10.1.2.3:80", "out tcp [fd00::9]:80"] {
        let text = explain(&netns, connection, &[]).ok();
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].starts_with("cannot tell: ") && lines[1].trim() == rule, "{text}");
    }
    // Either way it is left alone, or is not asked.
    says(
        &netns,
        &[
            ("out tcp uid=1337 10.1.2.3:80", "not captured", "proxy.uid"),
            ("out tcp [::1]:80", "not captured", "outbound.loopback"),
            ("in tcp 10.1.0.1:80", "captured -> 15001", "inbound.all"),
        ],
    );
    // In another table an accepting verdict ends nothing but that table.
    let netns = with_rule(variant, "filter", "OUTPUT", CHANCE);
    says(
        &netns,
        &[
            ("out tcp 10.1.2.3:80", "captured -> 15001", "outbound.all"),
            ("out tcp uid=1337 [fd00::9]:80", "not captured", "proxy.uid"),
        ],
    );
    let netns = with_rule(variant, "filter", "OUTPUT", &CHANCE.replace("ACCEPT", "DROP"));
    let text = explain(&netns, "out tcp 10.1.2.3:80", &[]).ok();
    assert!(
        text.starts_with("cannot tell: ") && text.contains("because of filter OUTPUT rule 1: "),
        "{text}"
    );
}

fn unknown_target(variant: Variant) {
    let netns = with_rule(variant, "nat", "OUTPUT", "-p tcp -j NFQUEUE --queue-num 7");
    let text = explain(&netns, "out tcp 10.1.2.3:80", &[]).ok();
    let wanted = "because of nat OUTPUT rule 1: -p tcp -j NFQUEUE --queue-num 7";
    assert!(text.starts_with("cannot tell: ") && text.contains(wanted), "{text}");
    says(&netns, &[("out udp 10.1.2.3:80", "not captured", "no rule")]);
    // One that only counts or logs makes no difference, whatever its condition.
    let netns = with_rule(variant, "nat", "OUTPUT", &CHANCE.replace("ACCEPT", "LOG"));
    says(&netns, &[("out tcp 10.1.2.3:80", "captured -> 15001", "outbound.all")]);
}
