//! Rules and routing of others that ours share a chain or a routing table with.

use super::calls::Golden;
use super::scene::{Others, Remains, everything, same};
use crate::foreign;
use crate::harness::Case;
use crate::support::command::mesh_init;
use crate::support::rules::{Family, Variant, assert_same};
use crate::support::sbin::Sbin;

pub(super) fn cases() -> Vec<Case> {
    Case::all_for_each_variant(&[
        ("upstream::shared_routing_table", shared_routing_table),
        ("upstream::failure_leaves_no_routing", failure_leaves_no_routing),
        ("upstream::named_behind_a_reroute", named_behind_a_reroute),
    ])
}

/// Somebody's rule and route use the table that upstream has by default.
fn shared_routing_table(variant: Variant) {
    const ROUTING: [&str; 4] = [
        "-4 rule add fwmark 7 lookup 133 priority 900",
        "-4 route add local default dev lo table 133",
        "-6 rule add fwmark 7 lookup 133 priority 900",
        "-6 route add local default dev lo table 133",
    ];
    let call = Golden::read("tproxy-dns-capture-all-dual-stack");
    let others = Others { routing: &ROUTING, ..Others::default() };
    let here = others.scene(&call, variant, Remains::None);
    let before = everything(&here);
    call.run(&here, variant, &[]).ok();
    let run = call.run(&here, variant, &["--cleanup-only"]);
    let mut wrong = same("after the call and --cleanup-only", &before, &here, &run);
    let policy = ["-p", "15001", "-z", "15006", "-m", "TPROXY", "--iptables-variant", variant.name()];
    mesh_init(&here, &policy).ok();
    let run = mesh_init(&here, &["clean"]);
    wrong.extend(same("after a policy and clean", &before, &here, &run));
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// Routing is made before rules; if those are refused, it is taken back.
fn failure_leaves_no_routing(variant: Variant) {
    for family in Family::BOTH {
        let here = foreign::namespace();
        let before = everything(&here);
        let sbin =
            Sbin::new().with(&variant.program(family, "restore"), "cat >/dev/null; echo refused >&2; exit 1");
        let policy = ["-p", "15001", "-z", "15006", "-m", "TPROXY", "--iptables-variant", variant.name()];
        let run = mesh_init(&here, &policy).code(1);
        drop(sbin);
        assert_same(&format!("{family:?} after {run}"), &before, &everything(&here));
        assert!(!run.stderr.contains("could not be taken back"), "expected all taken back, seen {run}");
    }
}

/// A rule between the jump of a rerouted interface, which comes first, and that of inbound traffic lets it past.
fn named_behind_a_reroute(variant: Variant) {
    let here = foreign::namespace();
    foreign::load(&here, variant, "*nat\n-A PREROUTING -i eth9 -j RETURN\nCOMMIT\n");
    let policy = ["-p", "15001", "-z", "15006", "-k", "net1", "--iptables-variant", variant.name()];
    for run in
        [mesh_init(&here, &policy).code(0), mesh_init(&here, &["status"]), mesh_init(&here, &["clean"])]
    {
        for family in ["IPv4", "IPv6"] {
            let named = |line: &str| {
                line.starts_with(&format!("note: {family}: "))
                    && line.contains("nat -A PREROUTING -i eth9 -j RETURN")
            };
            assert!(run.stdout.lines().any(named), "expected a note for {family}, seen {run}");
        }
    }
}
