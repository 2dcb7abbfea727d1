//! The classic layout: the rules that `proxy_init` 0.7.1 made, comments included.
//!
//! Its peculiarity is kept because it is what those who still run it rely on: over `lo` everything but
//! 127.0.0.1 is captured, the proxy's own calls to the pod's address too. A proxy must therefore dial
//! 127.0.0.1 for inbound traffic.

use super::{OUTPUT, REDIRECT, jump, own, proxy, shared, tcp};
use crate::policy::{CapturePolicy, Cidr, Destinations, Family, IfName, RuleId};
use crate::rules::{Chain, Hook, Match, Rule, Test, Verdict};

/// The comments of 0.7.1 and the clauses they stand for. A comment ending in `-` is followed by the network.
pub const COMMENTS: &[(RuleId, &str)] = &[
    (RuleId::InboundAll, "istio/install-istio-prerouting"),
    (RuleId::OutboundHook, "istio/install-istio-output"),
    (RuleId::RedirectOutbound, "istio/redirect-to-envoy-port"),
    (RuleId::OutboundOwnAddress, "istio/redirect-implicit-loopback"),
    (RuleId::ProxyUid, "istio/bypass-envoy"),
    (RuleId::ProxyGid, "istio/bypass-envoy"),
    (RuleId::OutboundLoopback, "istio/bypass-explicit-loopback"),
    (RuleId::OutboundCidr, "istio/redirect-ip-range-"),
    (RuleId::OutboundRest, "istio/bypass-default-outbound"),
    (RuleId::OutboundAll, "istio/redirect-default-outbound"),
];

/// The comment of a clause.
#[must_use]
pub fn comment(id: RuleId) -> &'static str {
    COMMENTS.iter().find(|(of, _)| *of == id).map_or("", |(_, text)| text)
}

/// A rule with the comment that 0.7.1 gave it.
fn rule(id: RuleId, matches: Vec<Match>, verdict: Verdict) -> Rule {
    Rule::new(id, matches, verdict).comment(comment(id))
}

pub(super) fn compile(policy: &CapturePolicy, family: Family) -> Vec<Chain> {
    let loopback = || Test::Destination(vec![family.loopback()]);
    // 0.7.1 knew no "capture nothing outbound"; without the jump nothing outbound is looked at.
    let nothing = matches!(&policy.outbound.destinations,
        Destinations::Some { cidrs, ports } if cidrs.is_empty() && ports.is_empty());

    let mut chains = Vec::new();
    let prerouting = rule(RuleId::InboundAll, vec![], jump(REDIRECT));
    chains.push(shared(family, Hook::Prerouting, vec![prerouting]));
    if !nothing {
        chains.push(shared(
            family,
            Hook::Output,
            vec![rule(RuleId::OutboundHook, vec![tcp()], jump(OUTPUT))],
        ));
        let mut rules = Vec::new();
        let over_lo = Match::is(Test::OutInterface(vec![IfName::lo()]));
        rules.push(rule(RuleId::OutboundOwnAddress, vec![Match::not(loopback()), over_lo], jump(REDIRECT)));
        rules.extend(proxy(policy, rule));
        rules.push(rule(RuleId::OutboundLoopback, vec![Match::is(loopback())], Verdict::Return));
        rules.extend(destinations(&policy.outbound.destinations, family));
        chains.push(own(family, OUTPUT, rules));
    }
    let redirect = rule(RuleId::RedirectOutbound, vec![tcp()], Verdict::Redirect(policy.proxy.port));
    chains.push(own(family, REDIRECT, vec![redirect]));
    chains
}

fn destinations(destinations: &Destinations, family: Family) -> Vec<Rule> {
    match destinations {
        Destinations::All { .. } => vec![rule(RuleId::OutboundAll, vec![], jump(REDIRECT))],
        Destinations::Some { cidrs, .. } => {
            // A rule for each network, because each carries its network in its comment.
            let include = |cidr: &Cidr| {
                let text = format!("{}{cidr}", comment(RuleId::OutboundCidr));
                Rule::new(
                    RuleId::OutboundCidr,
                    vec![Match::is(Test::Destination(vec![*cidr]))],
                    jump(REDIRECT),
                )
                .comment(text)
            };
            let mut rules: Vec<Rule> =
                cidrs.iter().filter(|cidr| cidr.family() == family).map(include).collect();
            rules.push(rule(RuleId::OutboundRest, vec![], Verdict::Return));
            rules
        }
    }
}

/// The clause that a rule read from a kernel stands for, by 0.7.1's comments.
#[must_use]
pub fn recognise(rule: &Rule) -> Option<RuleId> {
    let comment = rule.comment.as_deref()?;
    let by_gid = rule.matches.iter().any(|m| matches!(m.test, Test::OwnerGid(_)));
    let says = |text: &str| comment == text || (text.ends_with('-') && comment.starts_with(text));
    // Users and groups of the proxy carry the same comment.
    let same = |id: RuleId| id != RuleId::ProxyUid || !by_gid;
    COMMENTS.iter().find(|(id, text)| same(*id) && says(text)).map(|(id, _)| *id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clause_is_known_by_its_comment() {
        let by = |test: Option<Test>| {
            Rule::new(RuleId::OutboundRest, test.map(Match::is).into_iter().collect(), Verdict::Return)
        };
        let uid = || by(Some(Test::OwnerUid(vec![])));
        let gid = || by(Some(Test::OwnerGid(vec![])));
        for (rule, id) in [
            (by(None).comment("istio/install-istio-prerouting"), Some(RuleId::InboundAll)),
            (by(None).comment("istio/install-istio-prerouting-"), None),
            (by(None).comment("istio/redirect-ip-range-10.0.0.0/8"), Some(RuleId::OutboundCidr)),
            (by(None).comment("istio/redirect-ip-range"), None),
            (by(None).comment("istio/redirect-default-outbound"), Some(RuleId::OutboundAll)),
            // A user's and a group's have one comment.
            (uid().comment("istio/bypass-envoy"), Some(RuleId::ProxyUid)),
            (gid().comment("istio/bypass-envoy"), Some(RuleId::ProxyGid)),
            (gid().comment("istio/redirect-default-outbound"), Some(RuleId::OutboundAll)),
            (by(None).comment("x"), None),
            (by(None), None),
        ] {
            assert_eq!(recognise(&rule), id, "{rule:?}");
        }
    }
}
