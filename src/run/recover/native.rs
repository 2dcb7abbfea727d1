//! nftables' rules read back: what they mean is said in the form of a layout of iptables, whose reader then reads them.

use super::request;
use crate::backend::iptables::render;
use crate::backend::observed::Present;
use crate::backend::{ownership, plan};
use crate::policy::validate::Request;
use crate::policy::{Families, Family, IfName, Layout, RuleId};
use crate::rules::compile::{classic, native};
use crate::rules::{Base, Chain, Hook, Match, Rule, RuleSet, Test, Verdict};

/// The request whose rules are in `rules`: of the layouts that could have made them the one that makes exactly these,
/// else the first that says any.
pub(super) fn of_native(rules: &RuleSet, routing: &[Present]) -> Option<Request> {
    let ours = ownership::native_part(rules);
    let mut first = None;
    let before = |chain: &Chain| chain.base.is_some_and(|base| base.priority == native::BEFORE);
    let tunnel = |rule: &Rule| rule.id == Some(RuleId::InboundTunnel);
    // Only the istio layout knows a tunnel port, and it always does.
    let istio = ours.chains.iter().flat_map(|chain| &chain.rules).any(tunnel);
    let layouts: &[Layout] = match (ours.chains.iter().any(before), istio) {
        (true, _) => &[Layout::Scoped],
        (false, true) => &[Layout::Istio, Layout::IstioIptables],
        (false, false) => &[Layout::Classic],
    };
    for layout in layouts.iter().copied() {
        let Some(found) = request(&in_layout(&ours, layout), routing) else { continue };
        if found.layout != layout {
            continue;
        }
        let v6 = ours.chains.iter().any(|chain| chain.family == Family::V6);
        let families = if v6 { Families::Both } else { Families::V4 };
        let again = native::native(&found.policy, layout, families);
        let confirmed = |rules: &RuleSet| {
            let mut rules = ownership::native_part(rules);
            rules.chains.retain(|chain| chain.name != ownership::UNCONFIRMED);
            rules
        };
        if plan::same_native(&confirmed(&ours), &confirmed(&again)) {
            return Some(found);
        }
        first = first.or(Some(found));
    }
    first
}

/// The rules as `layout` would have made them for iptables.
fn in_layout(rules: &RuleSet, layout: Layout) -> RuleSet {
    let chains = rules.chains.iter().filter_map(|chain| {
        let (table, name) = native::layouts_name(&chain.name)?;
        let base = Hook::of_builtin(name).map(|hook| Base::builtin(&table, hook));
        let shared = base.is_some();
        let rules = chain.rules.iter().flat_map(|rule| one(rule, layout, shared));
        let rules = rules.flat_map(|rule| render::spread(&rule)).collect();
        Some(Chain { family: chain.family, table, name: name.to_owned(), base, rules })
    });
    RuleSet { chains: chains.collect(), routing: rules.routing.clone() }
}

fn one(rule: &Rule, layout: Layout, shared: bool) -> Option<Rule> {
    let mut rule = rule.clone();
    if let Verdict::Jump(target) | Verdict::Goto(target) = &mut rule.verdict {
        *target = native::layouts_name(target)?.1.to_owned();
    }
    // What nftables' rules have beside the layout's.
    let added = match rule.verdict {
        Verdict::Redirect(_) | Verdict::Tproxy { .. } => Some(Match::is(Test::FirstPacket)),
        Verdict::SaveMark if layout == Layout::IstioIptables => {
            Some(Match::is(Test::InInterface(vec![IfName::lo()])))
        }
        Verdict::Continue
        | Verdict::Accept
        | Verdict::Drop
        | Verdict::Return
        | Verdict::Jump(_)
        | Verdict::Goto(_)
        | Verdict::Dnat(_)
        | Verdict::SetMark(_)
        | Verdict::SaveMark
        | Verdict::RestoreMark
        | Verdict::Zone(_)
        | Verdict::Opaque(_) => None,
    };
    rule.matches.retain(|condition| Some(condition) != added.as_ref());
    rule.seen = None;
    rule.comment = match layout {
        Layout::Scoped => rule.id.map(|id| id.comment()),
        Layout::Classic => {
            rule.id.map(classic::comment).filter(|comment| !comment.is_empty()).map(str::to_owned)
        }
        Layout::Istio if shared => rule.id.map(|id| id.comment()),
        Layout::Istio | Layout::IstioIptables => None,
    };
    Some(rule)
}
