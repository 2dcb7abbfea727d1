//! IPv6's link-local addresses are the host's own as well: no way around the proxy.

use crate::again::CLASSIC;
use crate::harness::Case;
use crate::scoped::{APP, OWNER, PROXY, VM, apply, serve};
use crate::support::dial::{Dialled, dial};
use crate::support::rules::Variant;
use crate::support::wire::{link_local, two_hosts};

pub(crate) fn cases() -> Vec<Case> {
    Case::all_for_each_variant(&[("link_local::classic", classic), ("link_local::scoped", scoped)])
}

fn classic(variant: Variant) {
    let (here, there) = two_hosts();
    serve(&here, &there);
    apply(&here, variant, &CLASSIC);
    for port in [80, 8001] {
        dial(&there, APP, link_local(&here, &there, port)).captured_by("proxy");
        dial(&here, PROXY, link_local(&there, &here, port)).untouched_to("there");
    }
    leads_nowhere(&dial(&here, APP, link_local(&there, &here, 80)));
}

fn scoped(variant: Variant) {
    let (here, there) = two_hosts();
    serve(&here, &there);
    apply(&here, variant, &VM);
    dial(&there, APP, link_local(&here, &there, 8001)).captured_by("proxy");
    dial(&there, APP, link_local(&here, &there, 80)).untouched_to("here");
    for port in [80, 8001] {
        dial(&here, APP, link_local(&there, &here, port)).untouched_to("there");
    }
    leads_nowhere(&dial(&here, OWNER, link_local(&there, &here, 80)));
}

/// A link-local connection is tied to its interface, and the kernel cannot turn it to the loopback address that
/// a redirect means on the way out. It fails, which is not a way around.
#[track_caller]
fn leads_nowhere(dialled: &Dialled) {
    assert!(dialled.answer.is_err(), "expected no answer, seen {dialled}");
}
