//! What a pod's annotations and the network configuration say, made into a request to make rules.
//!
//! Precedence is stated here, once, key by key: `mesh-init.io/proxy-uid` and `-gid` > `mesh-init.io/policy` > Istio's
//! annotations > the network configuration's `policy` > Istio's defaults > ours.

use std::collections::BTreeMap;

use super::annotations::{Given, POLICY, PROXY_GID, PROXY_UID};
use super::netconf::NetConf;
use crate::input::{Faults, Key, Origin, Raw, config};
use crate::policy::validate::{self, Request};
use crate::policy::{Facts, Mode};

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
    raw = raw.or(conf.defaults.clone());
    for key in [Key::ProxyUid, Key::ProxyGid] {
        if !raw.has(key) {
            raw.set(key, validate::PROXY_UID.to_string(), Origin::Default);
        }
    }
    if !raw.has(Key::Backend) {
        raw.set(Key::Backend, "nftables", Origin::Default);
    }
    let request = validate::request(&raw, &Facts::default(), faults)?;
    if request.policy.mode == Mode::None {
        let origin = raw.first(Key::Mode).map_or(Origin::Default, |given| given.origin.clone());
        return Ok(Read::Nothing(origin));
    }
    Ok(Read::Capture(Box::new(request), raw))
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
