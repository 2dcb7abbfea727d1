//! Layouts: which chains are made and in which order. They decide names and order, never meaning.

use std::fmt;

use crate::input::options::{Key, Part, option};
use crate::input::{Faults, Raw};

/// A layout that this version makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Layout {
    /// `proxy_init` 0.7.1, chains and comments included.
    Classic,
    /// VM hosts: only named users and ports, only first packets, never anybody else's traffic.
    Scoped,
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Layout::Classic => "classic",
            Layout::Scoped => "scoped",
        })
    }
}

impl Layout {
    /// Whether the layout has rules for `key`.
    #[must_use]
    pub fn expresses(self, key: Key) -> bool {
        match self {
            Layout::Classic => matches!(
                key,
                Key::ProxyPort | Key::ProxyUid | Key::ProxyGid | Key::OutboundCidr | Key::Mode | Key::Ipv6
            ),
            Layout::Scoped => {
                Layout::Classic.expresses(key)
                    || matches!(key, Key::InboundCapturePort | Key::Inbound | Key::ExcludeInbound)
                    || matches!(key, Key::ExcludeOutboundCidr | Key::OutboundPort | Key::ExcludeOutboundPort)
                    || matches!(key, Key::ExcludeInterface | Key::UidOwner | Key::GidOwner)
            }
        }
    }
}

/// Chooses the layout for `raw`; `None` (with faults) if no layout of this version can express it.
///
/// `auto` is scoped if an owner is given, and classic if nothing is given that `proxy_init` 0.7.1 did not
/// have; everything else needs Istio's present chains.
#[must_use]
pub fn choose(raw: &Raw, faults: &mut Faults) -> Option<Layout> {
    let given = raw.first(Key::Layout);
    match given.map(|given| (given, given.text.as_str())) {
        None | Some((_, "auto")) => auto(raw, faults),
        Some((_, "classic")) => Some(Layout::Classic),
        Some((_, "scoped")) => Some(Layout::Scoped),
        Some((given, "istio")) => {
            faults.value(
                given,
                "istio",
                "is not a layout that this version makes",
                "give auto, classic or scoped",
            );
            None
        }
        Some((given, text)) => {
            faults.value(given, text, "is not a layout", "give auto, classic or scoped");
            None
        }
    }
}

fn auto(raw: &Raw, faults: &mut Faults) -> Option<Layout> {
    if raw.has(Key::UidOwner) || raw.has(Key::GidOwner) {
        return Some(Layout::Scoped);
    }
    // 0.7.1 had no `-m`; it is classic only when it is spelled out together with the layout.
    let beyond: Vec<Key> =
        policy_keys(raw).filter(|key| !Layout::Classic.expresses(*key) || *key == Key::Mode).collect();
    if beyond.is_empty() || captures_nothing(raw) {
        return Some(Layout::Classic);
    }
    for key in beyond {
        let Some(first) = raw.first(key) else { continue };
        faults.source(
            first.origin.clone(),
            "needs the layout of today's istio-iptables, which this version does not make",
            "leave it out, or give --uid-owner or --gid-owner for a VM host, or --layout classic or scoped",
        );
    }
    None
}

/// `-m NONE` makes no rules, so any layout expresses it.
fn captures_nothing(raw: &Raw) -> bool {
    raw.get(Key::Mode).is_some_and(|given| given.iter().all(|given| given.text.eq_ignore_ascii_case("NONE")))
}

/// A fault for each option that `layout` has no rules for.
pub fn check(layout: Layout, raw: &Raw, faults: &mut Faults) {
    if captures_nothing(raw) {
        return;
    }
    for key in policy_keys(raw).filter(|key| !layout.expresses(*key)) {
        let Some(first) = raw.first(key) else { continue };
        faults.source(
            first.origin.clone(),
            format!("cannot be expressed by the {layout} layout"),
            match layout {
                Layout::Classic => "leave it out: proxy_init 0.7.1 had -p, -u, -g and -i",
                Layout::Scoped => {
                    "leave it out: on a VM host only named users, networks and ports are captured"
                }
            },
        );
    }
}

fn policy_keys(raw: &Raw) -> impl Iterator<Item = Key> + '_ {
    raw.keys().filter(|key| option(*key).part == Part::Policy)
}
