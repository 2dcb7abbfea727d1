//! `clean` without flags: what others have stays as it was, whether it was there before ours or came after.

use std::time::Duration;

use crate::again::CLASSIC;
use crate::foreign::{self, DOCKER, FIREWALLD, KUBE_PROXY, LINKERD, LOOKALIKE};
use crate::harness::Case;
use crate::scoped::VM;
use crate::support::command::{Run, mesh_init};
use crate::support::netns::Netns;
use crate::support::rules::{Family, Variant, assert_differs, assert_same, dump, restore};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Case::all_for_each_carrier(&[
        ("clean::ours_alone", ours_alone),
        ("clean::docker", |ours| beside(ours, |netns, theirs| foreign::load(netns, theirs, DOCKER))),
        ("clean::firewalld", |ours| beside(ours, |netns, theirs| foreign::load(netns, theirs, FIREWALLD))),
        ("clean::kube_proxy", |ours| beside(ours, |netns, theirs| foreign::load(netns, theirs, KUBE_PROXY))),
        ("clean::lookalike", |ours| beside(ours, |netns, theirs| foreign::load(netns, theirs, LOOKALIKE))),
        ("clean::native_tables_and_routing", |ours| beside(ours, native_tables_and_routing)),
        ("clean::all_of_them", |ours| beside(ours, all_of_them)),
        ("clean::other_mesh_before", other_mesh_before),
        ("clean::other_mesh_after", other_mesh_after),
    ]);
    cases.extend(Case::each_variant("clean::jumps_from_elsewhere", jumps_from_elsewhere));
    cases.into_iter().map(|case| case.within(MINUTE)).collect()
}

/// Some of these make and compare dozens of namespaces.
const MINUTE: Duration = Duration::from_secs(60);
const LAYOUTS: [&[&str]; 2] = [&CLASSIC, &VM];

fn apply(netns: &Netns, ours: Variant, layout: &[&str]) -> Run {
    let words: Vec<_> = layout.iter().copied().chain(ours.flags()).collect();
    mesh_init(netns, &words)
}

fn native_tables_and_routing(netns: &Netns, _theirs: Variant) {
    foreign::load_native(netns);
    foreign::load_routing(netns);
}

fn all_of_them(netns: &Netns, theirs: Variant) {
    for rules in [DOCKER, FIREWALLD, KUBE_PROXY, LOOKALIKE] {
        foreign::load(netns, theirs, rules);
    }
    native_tables_and_routing(netns, theirs);
}

/// Theirs then ours, and ours then theirs, in the same variant and across variants, for both layouts.
fn beside(ours: Variant, load: fn(&Netns, Variant)) {
    for theirs in Variant::BOTH {
        let alone = foreign::namespace();
        let empty = dump(&alone);
        load(&alone, theirs);
        let alone = dump(&alone);
        assert_differs("rules of theirs", &empty, &alone);
        for layout in LAYOUTS {
            let what = |order: &str| {
                let (ours, theirs) = (ours.name(), theirs.name());
                format!("after clean: {order}, {} in {ours}, theirs in {theirs}", layout.join(" "))
            };

            let netns = foreign::namespace();
            load(&netns, theirs);
            apply(&netns, ours, layout).ok();
            assert_differs(&format!("rules of ours after {layout:?}"), &alone, &dump(&netns));
            mesh_init(&netns, &["clean"]).ok();
            assert_same(&what("theirs came before"), &alone, &dump(&netns));

            let netns = foreign::namespace();
            apply(&netns, ours, layout).ok();
            load(&netns, theirs);
            mesh_init(&netns, &["clean"]).ok();
            assert_same(&what("theirs came after"), &alone, &dump(&netns));
        }
    }
}

fn ours_alone(ours: Variant) {
    for layout in LAYOUTS {
        let netns = foreign::namespace();
        let before = dump(&netns);
        apply(&netns, ours, layout).ok();
        assert_differs(&format!("rules of ours after {layout:?}"), &before, &dump(&netns));
        mesh_init(&netns, &["clean"]).ok();
        assert_same("after clean", &before, &dump(&netns));
        let again = mesh_init(&netns, &["clean"]).code(0);
        assert!(again.stdout.contains("nothing to do"), "expected `nothing to do` on stdout, seen {again}");
        assert_same("after a second clean", &before, &dump(&netns));
    }
}

/// Two meshes cannot share a namespace: ours says whose it is and leaves it.
fn other_mesh_before(ours: Variant) {
    for theirs in Variant::BOTH {
        for layout in LAYOUTS {
            let netns = foreign::namespace();
            foreign::load(&netns, theirs, LINKERD);
            let before = dump(&netns);
            apply(&netns, ours, layout).code(69).says("linkerd");
            assert_same("after the refusal", &before, &dump(&netns));
            mesh_init(&netns, &["clean"]).ok();
            assert_same("after clean", &before, &dump(&netns));
        }
    }
}

fn other_mesh_after(ours: Variant) {
    for theirs in Variant::BOTH {
        let alone = foreign::namespace();
        foreign::load(&alone, theirs, LINKERD);
        let alone = dump(&alone);
        for layout in LAYOUTS {
            let netns = foreign::namespace();
            apply(&netns, ours, layout).ok();
            foreign::load(&netns, theirs, LINKERD);
            mesh_init(&netns, &["clean"]).ok();
            assert_same("after clean", &alone, &dump(&netns));
        }
    }
}

/// Somebody's own jumps into our chains cannot stay; what they stand in does.
fn jumps_from_elsewhere(ours: Variant) {
    let theirs = "*nat\n:THEIRS - [0:0]\n-A PREROUTING -j THEIRS\n-A THEIRS -p udp -j ACCEPT\nCOMMIT\n";
    let jumps = "*nat\n-I THEIRS -p tcp -g ISTIO_REDIRECT\n\
        -A PREROUTING -i eth9 -m comment --comment \"mine: -j ACCEPT\" -j ISTIO_REDIRECT\n\
        -A OUTPUT -p tcp -o eth9 -j ISTIO_OUTPUT\nCOMMIT\n";
    for layout in LAYOUTS {
        let netns = foreign::namespace();
        for family in Family::BOTH {
            restore(&netns, ours, family, theirs);
        }
        let before = dump(&netns);
        apply(&netns, ours, layout).ok();
        for family in Family::BOTH {
            restore(&netns, ours, family, jumps);
        }
        mesh_init(&netns, &["clean"]).ok();
        assert_same(&format!("after clean of {layout:?}"), &before, &dump(&netns));
    }
}
