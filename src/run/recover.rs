//! From rules back to the policy that they say: the input that would make them, validated like any other.

use std::collections::BTreeSet;

use crate::backend::ownership;
use crate::input::{Faults, Key, Origin, Raw};
use crate::policy::validate::{self, Request};
use crate::policy::{Facts, Family, Layout, RuleId};
use crate::rules::compile::classic;
use crate::rules::{Rule, RuleSet, Test, Verdict};

/// The clause that a rule read from a kernel stands for.
pub(super) fn clause(rule: &Rule) -> Option<RuleId> {
    rule.comment.as_deref().and_then(RuleId::of_comment).or_else(|| classic::recognise(rule))
}

/// The request whose rules are in `rules`; `None` if they are of a kind that this version does not make.
/// Whether they are *exactly* its rules is for the caller to compare.
pub(super) fn request(rules: &RuleSet) -> Option<Request> {
    let ours = || {
        rules.chains.iter().flat_map(|chain| {
            let whole = ownership::is_our_chain(&chain.name);
            chain.rules.iter().filter(move |rule| whole || ownership::is_our_rule(rule))
        })
    };
    let scoped = ours().any(|rule| rule.comment.as_deref().and_then(RuleId::of_comment).is_some());
    let layout = match scoped {
        true => Layout::Scoped,
        false if ours().any(|rule| classic::recognise(rule).is_some()) => Layout::Classic,
        false => return None,
    };
    let mut found = Found::default();
    for rule in ours() {
        if let Some(id) = clause(rule) {
            found.add(id, rule);
        }
    }
    let v6 =
        rules.chains.iter().any(|chain| chain.family == Family::V6 && ownership::is_our_chain(&chain.name));
    if !v6 {
        found.set(Key::Ipv6, "off".into());
    }
    found.finish(layout)
}

/// The texts of options, as a flag would give them.
#[derive(Default)]
struct Found {
    raw: Vec<(Key, String)>,
    seen: BTreeSet<(Key, String)>,
    outbound: bool,
}

impl Found {
    fn set(&mut self, key: Key, text: String) {
        if self.seen.insert((key, text.clone())) {
            self.raw.push((key, text));
        }
    }

    fn all<T: ToString>(&mut self, key: Key, items: &[T]) {
        for item in items {
            self.set(key, item.to_string());
        }
    }

    fn add(&mut self, id: RuleId, rule: &Rule) {
        match (id, &rule.verdict) {
            (RuleId::RedirectOutbound, Verdict::Redirect(port)) => self.set(Key::ProxyPort, port.to_string()),
            (RuleId::RedirectInbound, Verdict::Redirect(port)) => {
                self.set(Key::InboundCapturePort, port.to_string())
            }
            (RuleId::OutboundAll, _) => self.set(Key::OutboundCidr, "*".into()),
            (RuleId::InboundAll, _) => self.set(Key::Inbound, "*".into()),
            (RuleId::OutboundHook, _) => self.outbound = true,
            (_, _) => {}
        }
        for condition in rule.matches.iter().filter(|condition| !condition.negated) {
            match (id, &condition.test) {
                (RuleId::ProxyUid, Test::OwnerUid(uids)) => self.all(Key::ProxyUid, uids),
                (RuleId::ProxyGid, Test::OwnerGid(gids)) => self.all(Key::ProxyGid, gids),
                (RuleId::OutboundAll | RuleId::OutboundCidr | RuleId::OutboundPort, Test::OwnerUid(uids)) => {
                    self.all(Key::UidOwner, uids);
                }
                (RuleId::OutboundAll | RuleId::OutboundCidr | RuleId::OutboundPort, Test::OwnerGid(gids)) => {
                    self.all(Key::GidOwner, gids);
                }
                (RuleId::OutboundCidr, Test::Destination(nets)) => self.all(Key::OutboundCidr, nets),
                (RuleId::OutboundPort, Test::DestinationPort(ports)) => self.all(Key::OutboundPort, ports),
                (RuleId::OutboundExcludeCidr, Test::Destination(nets)) => {
                    self.all(Key::ExcludeOutboundCidr, nets)
                }
                (RuleId::OutboundExcludePort, Test::DestinationPort(ports)) => {
                    self.all(Key::ExcludeOutboundPort, ports)
                }
                (RuleId::OutboundExcludeInterface, Test::OutInterface(names))
                | (RuleId::InboundExcludeInterface, Test::InInterface(names)) => {
                    self.all(Key::ExcludeInterface, names)
                }
                (RuleId::InboundPort, Test::DestinationPort(ports)) => self.all(Key::Inbound, ports),
                (RuleId::InboundExcludePort, Test::DestinationPort(ports)) => {
                    self.all(Key::ExcludeInbound, ports)
                }
                (_, _) => {}
            }
        }
    }

    fn finish(mut self, layout: Layout) -> Option<Request> {
        let has = |found: &Found, key: Key| found.raw.iter().any(|(of, _)| *of == key);
        if !self.outbound || !(has(&self, Key::OutboundCidr) || has(&self, Key::OutboundPort)) {
            self.set(Key::OutboundCidr, String::new());
        }
        match layout {
            // The classic layout has no flag for inbound: it captures everything.
            Layout::Classic => {
                self.raw.retain(|(key, _)| *key != Key::Inbound);
                if !has(&self, Key::ProxyUid) && has(&self, Key::ProxyGid) {
                    self.set(Key::ProxyUid, String::new());
                }
            }
            Layout::Scoped => {
                if !has(&self, Key::UidOwner) && !has(&self, Key::GidOwner) {
                    self.set(Key::UidOwner, String::new());
                }
            }
        }
        self.set(Key::Layout, layout.to_string());
        let mut raw = Raw::default();
        for (key, text) in self.raw {
            raw.push(key, text, Origin::Default);
        }
        validate::request(&raw, &Facts::default(), Faults::default()).ok()
    }
}
