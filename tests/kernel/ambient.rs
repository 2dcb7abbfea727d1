//! Ambient mode's chains share names with ours; who sees them keeps away.

use crate::again::CLASSIC;
use crate::foreign;
use crate::harness::Case;
use crate::scoped::VM;
use crate::support::command::mesh_init;
use crate::support::rules::{Variant, assert_same, dump};

/// What ztunnel's side puts into a pod: redirection by marks, in `mangle` and `nat`.
const IN_POD: &str = "\
*mangle
:ISTIO_OUTPUT - [0:0]
:ISTIO_PRERT - [0:0]
-A PREROUTING -j ISTIO_PRERT
-A OUTPUT -j ISTIO_OUTPUT
-A ISTIO_OUTPUT -m connmark --mark 0x111/0xfff -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff
-A ISTIO_PRERT -m mark --mark 0x539/0xfff -j CONNMARK --set-xmark 0x111/0xfff
COMMIT
*nat
:ISTIO_OUTPUT - [0:0]
:ISTIO_PRERT - [0:0]
-A PREROUTING -j ISTIO_PRERT
-A OUTPUT -j ISTIO_OUTPUT
-A ISTIO_OUTPUT -p tcp -m mark --mark 0x111/0xfff -j ACCEPT
-A ISTIO_OUTPUT ! -d @LOOPBACK@ -o lo -j ACCEPT
-A ISTIO_OUTPUT ! -d @LOOPBACK@ -p tcp -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports 15001
-A ISTIO_PRERT ! -d @LOOPBACK@ -p tcp -m tcp ! --dport 15008 -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports 15006
COMMIT
";

/// What is left when its OUTPUT side was taken away.
const PREROUTING_ONLY: &str = "\
*nat
:ISTIO_PRERT - [0:0]
-A PREROUTING -j ISTIO_PRERT
-A ISTIO_PRERT -p tcp -j REDIRECT --to-ports 15006
COMMIT
";

/// What it puts onto the node.
const ON_NODE: &str = "\
*nat
:ISTIO_POSTRT - [0:0]
-A POSTROUTING -j ISTIO_POSTRT
-A ISTIO_POSTRT -p tcp -m owner --socket-exists -j MASQUERADE
COMMIT
";

pub(crate) fn cases() -> Vec<Case> {
    Case::all_for_each_variant(&[
        ("ambient::in_pod", |theirs| refuses(theirs, IN_POD)),
        ("ambient::prerouting_only", |theirs| refuses(theirs, PREROUTING_ONLY)),
        ("ambient::on_node", |theirs| refuses(theirs, ON_NODE)),
    ])
}

fn refuses(theirs: Variant, rules: &str) {
    let netns = foreign::namespace();
    foreign::load(&netns, theirs, rules);
    let before = dump(&netns);
    let calls: [&[&str]; 3] = [&CLASSIC, &VM, &["clean"]];
    for call in calls {
        for ours in [None, Some(Variant::Legacy), Some(Variant::Nft)] {
            let flag = ours.map(|ours| ours.flags());
            let words: Vec<_> = call.iter().copied().chain(flag.into_iter().flatten()).collect();
            let run = mesh_init(&netns, &words).code(69);
            assert_same(&format!("after {run}"), &before, &dump(&netns));
        }
    }
}
