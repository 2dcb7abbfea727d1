//! What a pod's annotations and the network configuration say, made into a request to make rules.
//!
//! Precedence is stated here, once, key by key: `mesh-init.io/proxy-uid` and `-gid` > `mesh-init.io/policy` > Istio's
//! annotations > the network configuration's `policy` > Istio's defaults > ours.

use std::collections::BTreeMap;

use super::annotations::{Given, POLICY, PROXY_GID, PROXY_UID};
use super::istio;
use super::netconf::{NetConf, Selection};
use crate::input::istio::parse_bool;
use crate::input::{Faults, Key, Origin, Raw, Sourced, config};
use crate::policy::Facts;
use crate::policy::validate::{self, Request};

/// The proxy's user and group where nobody says otherwise.
const PROXY_ID: &str = "1337";

/// What was read.
pub(super) enum Read {
    /// A request, and what it was made from.
    Capture(Box<Request>, Raw),
    /// Mode NONE, and who says so.
    Nothing(Origin),
}

/// Reads the annotations of a pod that is chosen.
pub(super) fn request(all: &BTreeMap<String, String>, conf: &NetConf) -> Result<Read, Faults> {
    let mut faults = Faults::default();
    let mut raw = ours(&mut Given { all, faults: &mut faults });
    let ours_are_good = faults.is_empty();
    let mut warnings = Vec::new();
    let of_istio = conf.selection == Selection::Istio || istio::speaks(all);
    if of_istio {
        let (given, said) = istio::parse(&mut Given { all, faults: &mut faults });
        warnings = said;
        raw = over_istio(raw, given);
    }
    raw = over(raw, conf.defaults.clone());
    // The configuration's NONE does not stand in for a mode of the pod's that cannot be read.
    let counts = |mode: &Sourced| {
        ours_are_good && (faults.is_empty() || matches!(mode.origin, Origin::Annotation { .. }))
    };
    if let Some(mode) = raw.first(Key::Mode)
        && counts(mode)
        && mode.text.eq_ignore_ascii_case("NONE")
    {
        return Ok(Read::Nothing(mode.origin.clone()));
    }
    if of_istio {
        warnings.extend(istio::without_moot(&mut raw));
        istio::complete(&mut raw);
    }
    let defaults = [(Key::ProxyUid, PROXY_ID), (Key::ProxyGid, PROXY_ID), (Key::Backend, "nftables")];
    for (key, text) in defaults {
        if !raw.has(key) {
            raw.set(key, text, Origin::Default);
        }
    }
    // Numbers only: the names of the pod's users stand in files of its image, those of the node's mean others.
    let mut request = validate::request(&raw, &Facts::default(), faults)?;
    request.warnings.splice(0..0, warnings);
    shorten(&mut request.warnings);
    Ok(Read::Capture(Box::new(request), raw))
}

/// `stronger` over Istio's annotations. The injector writes its effective ranges on every pod, so where `stronger` says
/// which destinations are captured, they are not added.
fn over_istio(stronger: Raw, mut given: Raw) -> Raw {
    let destinations = [Key::OutboundCidr, Key::OutboundPort];
    if destinations.iter().any(|key| stronger.has(*key)) {
        destinations.into_iter().for_each(|key| given.remove(key));
    }
    over(stronger, given)
}

/// `stronger` over `weaker`, without what would then have no effect: it is a fault where one source says both, but not
/// that of a pod which says something else than the rest.
fn over(stronger: Raw, mut weaker: Raw) -> Raw {
    if !istio::takes_all(&stronger) {
        weaker.remove(Key::ExcludeInbound);
    }
    let says = |key: Key| stronger.first(key).and_then(|given| parse_bool(given.text.trim()));
    if says(Key::RedirectDns) == Some(false) {
        [Key::CaptureAllDns, Key::DnsServer, Key::DnsPort].into_iter().for_each(|key| weaker.remove(key));
    }
    if says(Key::CaptureAllDns) == Some(true) {
        weaker.remove(Key::DnsServer);
    }
    if stronger.has(Key::DnsServer) {
        weaker.remove(Key::CaptureAllDns);
    }
    stronger.or(weaker)
}

/// Keeps what is said of one pod within what a log can take.
fn shorten(warnings: &mut Vec<String>) {
    const TOLD: usize = 20;
    if let Some(more) = warnings.len().checked_sub(TOLD).filter(|more| *more > 0) {
        warnings.truncate(TOLD);
        warnings.push(format!("and {more} more like these"));
    }
}

/// Our own annotations.
fn ours(given: &mut Given<'_>) -> Raw {
    let mut raw = Raw::default();
    for (name, key) in [(PROXY_UID, Key::ProxyUid), (PROXY_GID, Key::ProxyGid)] {
        let Some(id) = given.read(name) else { continue };
        match id.text.trim().is_empty() {
            true => given.faults.option(&id, "is empty", "give a number, or leave it out for the default"),
            false => raw.push(key, id.text, id.origin),
        }
    }
    let Some(policy) = given.read(POLICY) else { return raw };
    let at = |key: &str| Origin::Annotation { name: POLICY.to_owned(), key: key.to_owned() };
    raw.or(config::inside(&policy.text, &at, given.faults))
}
