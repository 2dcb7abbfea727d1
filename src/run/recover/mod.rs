//! From rules back to the policy that they say: the input that would make them, validated like any other.

mod istio;
mod native;

use std::collections::BTreeSet;

use crate::backend::observed::Present;
use crate::backend::ownership;
use crate::input::{Faults, Key, Origin, Raw};
use crate::policy::validate::{self, RESERVED_INBOUND, Request};
use crate::policy::{Facts, Family, Layout, Port, RuleId};
use crate::rules::compile::classic;
use crate::rules::{Rule, RuleSet, Test, Verdict};

/// The clause that a rule read from a kernel stands for.
pub(super) fn clause(rule: &Rule) -> Option<RuleId> {
    rule.comment.as_deref().and_then(RuleId::of_comment).or_else(|| classic::recognise(rule))
}

/// The request whose rules are in `rules`; `None` if they are of a kind that this version does not make.
/// Whether they are *exactly* its rules is for the caller to compare.
pub(super) fn request(rules: &RuleSet, routing: &[Present]) -> Option<Request> {
    if rules.chains.iter().any(|chain| ownership::is_our_table(&chain.table)) {
        return native::of_native(rules, routing);
    }
    let ours = || {
        rules.chains.iter().flat_map(|chain| {
            let whole = ownership::is_our_chain(&chain.name);
            let ours = chain.rules.iter().filter(move |rule| whole || ownership::is_our_rule(rule));
            ours.map(|rule| (chain.family, rule))
        })
    };
    let within = rules.chains.iter().filter(|chain| ownership::is_our_chain(&chain.name));
    let commented = |rule: &Rule| rule.comment.as_deref().and_then(RuleId::of_comment).is_some();
    let scoped = within.flat_map(|chain| &chain.rules).any(commented);
    let layout = match scoped {
        true => Layout::Scoped,
        false if ours().any(|(_, rule)| classic::recognise(rule).is_some()) => Layout::Classic,
        false => return istio::request(rules, routing),
    };
    let mut found = Found::default();
    for (family, rule) in ours() {
        if let Some(id) = clause(rule) {
            found.add(id, family, rule);
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
    /// Ports that are the proxy's own, in the order of the rules.
    own_ports: Vec<Port>,
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

    fn add(&mut self, id: RuleId, family: Family, rule: &Rule) {
        match (id, &rule.verdict) {
            (RuleId::RedirectOutbound, Verdict::Redirect(port)) => self.set(Key::ProxyPort, port.to_string()),
            (RuleId::RedirectInbound, Verdict::Redirect(port)) => {
                self.set(Key::InboundCapturePort, port.to_string())
            }
            (RuleId::OutboundAll, _) => self.set(Key::OutboundCidr, "*".into()),
            (RuleId::InboundAll, _) => self.set(Key::Inbound, "*".into()),
            (_, _) => {}
        }
        // iptables prints no condition for a network that is a whole family.
        let anywhere = !rule.matches.iter().any(|condition| matches!(condition.test, Test::Destination(_)));
        if anywhere && id == RuleId::OutboundCidr {
            self.set(Key::OutboundCidr, family.everything().to_string());
        }
        if anywhere && id == RuleId::OutboundExcludeCidr {
            self.set(Key::ExcludeOutboundCidr, family.everything().to_string());
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
                (RuleId::OutboundCapturePort | RuleId::InboundReserved, Test::DestinationPort(ports)) => {
                    let own =
                        ports.iter().map(|range| range.first).filter(|port| !RESERVED_INBOUND.contains(port));
                    self.own_ports.extend(own);
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
        if !(has(&self, Key::OutboundCidr) || has(&self, Key::OutboundPort)) {
            self.set(Key::OutboundCidr, String::new());
        }
        if !has(&self, Key::ProxyUid) && has(&self, Key::ProxyGid) {
            self.set(Key::ProxyUid, String::new());
        }
        match layout {
            // The classic layout has no flag for inbound: it captures everything.
            Layout::Classic | Layout::Istio | Layout::IstioIptables => {
                self.raw.retain(|(key, _)| *key != Key::Inbound)
            }
            Layout::Scoped => {
                if !has(&self, Key::UidOwner) && !has(&self, Key::GidOwner) {
                    self.set(Key::UidOwner, String::new());
                }
                // The proxy port comes first where both stand; either may have no redirect of its own.
                let known = |found: &Found, port: &Port| {
                    let text = port.to_string();
                    found.raw.iter().any(|(key, of)| {
                        matches!(key, Key::ProxyPort | Key::InboundCapturePort) && *of == text
                    })
                };
                for port in std::mem::take(&mut self.own_ports) {
                    if known(&self, &port) {
                        continue;
                    }
                    let key =
                        if has(&self, Key::ProxyPort) { Key::InboundCapturePort } else { Key::ProxyPort };
                    self.set(key, port.to_string());
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
