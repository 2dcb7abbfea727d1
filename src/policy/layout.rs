//! Layouts: which chains are made and in which order. They decide names and order, never meaning.

use std::fmt;

use crate::input::options::{Key, Kind, Part, option};
use crate::input::{Faults, Origin, Raw, Sourced};

/// A layout that this version makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Layout {
    /// `proxy_init` 0.7.1, chains and comments included.
    Classic,
    /// VM hosts: only named users and ports, only first packets, never anybody else's traffic.
    Scoped,
    /// Today's istio-iptables, read as it is meant.
    Istio,
    /// Today's istio-iptables to the letter, for those who call it by that name.
    IstioIptables,
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Layout::Classic => "classic",
            Layout::Scoped => "scoped",
            Layout::Istio => "istio",
            Layout::IstioIptables => "istio-iptables",
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
            Layout::Istio | Layout::IstioIptables => !matches!(key, Key::UidOwner | Key::GidOwner),
        }
    }
}

/// Chooses the layout for `raw`; `None` (with a fault) if a word is given that names none.
///
/// `auto` is scoped if an owner is given, classic if nothing is given that `proxy_init` 0.7.1 did not have, and
/// istio for everything else.
#[must_use]
pub fn choose(raw: &Raw, faults: &mut Faults) -> Option<Layout> {
    let given = raw.first(Key::Layout);
    match given.map(|given| (given, given.text.as_str())) {
        None | Some((_, "auto")) => Some(auto(raw)),
        Some((_, "classic")) => Some(Layout::Classic),
        Some((_, "scoped")) => Some(Layout::Scoped),
        Some((_, "istio")) => Some(Layout::Istio),
        Some((_, "istio-iptables")) => Some(Layout::IstioIptables),
        // That it is empty is told where every single value is read.
        Some((_, "")) => None,
        Some((given, text)) => {
            let remedy = "give auto, classic, scoped, istio or istio-iptables";
            faults.value(given, text, "is not a layout", remedy);
            None
        }
    }
}

fn auto(raw: &Raw) -> Layout {
    if raw.has(Key::UidOwner) || raw.has(Key::GidOwner) {
        return Layout::Scoped;
    }
    let classic = policy_keys(raw).all(|key| had_by_proxy_init(key, raw)) || captures_nothing(raw);
    if classic { Layout::Classic } else { Layout::Istio }
}

/// Whether `proxy_init` 0.7.1 had the option, or the text given for it says no more than its absence.
fn had_by_proxy_init(key: Key, raw: &Raw) -> bool {
    let says = |words: &[&str]| {
        let given = raw.get(key).unwrap_or_default();
        given.iter().all(|given| words.iter().any(|word| given.text.trim().eq_ignore_ascii_case(word)))
    };
    match option(key).kind {
        Kind::Switch => says(&["false", "0", "f"]),
        // A word that is no mode is told as that.
        Kind::One if key == Key::Mode => !says(&["REDIRECT", "TPROXY"]),
        // A policy file spells out what the classic layout does anyway.
        Kind::List if key == Key::Inbound => {
            let filed =
                |given: &Sourced| matches!(given.origin, Origin::Config { .. } | Origin::Annotation { .. });
            raw.get(key).unwrap_or_default().iter().all(filed) && says(&["*"])
        }
        Kind::One | Kind::List => Layout::Classic.expresses(key),
    }
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
    let idle = |key: &Key| match option(*key).kind {
        Kind::Switch => had_by_proxy_init(*key, raw),
        Kind::One => false,
        Kind::List => *key == Key::Inbound && layout == Layout::Classic && had_by_proxy_init(*key, raw),
    };
    for key in policy_keys(raw).filter(|key| !layout.expresses(*key) && !idle(key)) {
        let Some(first) = raw.first(key) else { continue };
        faults.option(
            first,
            format!("cannot be expressed by the {layout} layout"),
            match layout {
                Layout::Classic => "leave it out: proxy_init 0.7.1 had -p, -u, -g and -i",
                Layout::Scoped => {
                    "leave it out: on a VM host only named users, networks and ports are captured"
                }
                Layout::Istio | Layout::IstioIptables => {
                    "leave it out: named owners on a VM host have the scoped layout"
                }
            },
        );
    }
}

fn policy_keys(raw: &Raw) -> impl Iterator<Item = Key> + '_ {
    raw.keys().filter(|key| option(*key).part == Part::Policy)
}
