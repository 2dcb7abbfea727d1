//! The scoped layout, for hosts that are not all ours: named owners out, named ports in.
//!
//! Three things are never touched: what anybody else sends, what passes through the host, and connections
//! that were open before. The last is why every redirect asks for a first packet: conntrack adopts open
//! connections as new when NAT appears, and without it their next packet would be redirected and reset.

use super::{IN_REDIRECT, INBOUND, OUTPUT, REDIRECT, jump, own, proxy, shared, tcp, to};
use crate::policy::validate::reserved_inbound;
use crate::policy::{
    CapturePolicy, Cidr, Destinations, Family, Gid, Inbound, Owners, Port, PortSet, RuleId, Uid,
};
use crate::rules::{Chain, Hook, Match, Rule, Test, Verdict};

/// DNS over TCP: resolvers answer it, not the mesh.
const DNS: Option<Port> = Port::of(53);

/// A rule with our comment.
fn rule(id: RuleId, matches: Vec<Match>, verdict: Verdict) -> Rule {
    Rule::new(id, matches, verdict).comment(id.comment())
}

pub(super) fn compile(policy: &CapturePolicy, family: Family) -> Vec<Chain> {
    let mut chains = Vec::new();
    let outbound = outbound(policy, family);
    let inbound = inbound(policy);
    let own_redirect = policy.proxy.inbound_port != policy.proxy.port;
    let shared_redirect = outbound.is_some() || (inbound.is_some() && !own_redirect);
    if let Some(rules) = outbound {
        let hook = rule(RuleId::OutboundHook, vec![tcp()], jump(OUTPUT)).first();
        chains.push(shared(family, Hook::Output, vec![hook]));
        chains.push(own(family, OUTPUT, rules));
    }
    if let Some(rules) = inbound {
        let hook = rule(RuleId::InboundHook, vec![tcp()], jump(INBOUND)).first();
        chains.push(shared(family, Hook::Prerouting, vec![hook]));
        chains.push(own(family, INBOUND, rules));
        if own_redirect {
            let redirect = Verdict::Redirect(policy.proxy.inbound_port);
            chains.push(own(family, IN_REDIRECT, vec![rule(RuleId::RedirectInbound, vec![tcp()], redirect)]));
        }
    }
    if shared_redirect {
        let redirect = rule(RuleId::RedirectOutbound, vec![tcp()], Verdict::Redirect(policy.proxy.port));
        chains.push(own(family, REDIRECT, vec![redirect]));
    }
    chains
}

fn ports(ports: &PortSet) -> Match {
    Match::is(Test::DestinationPort(ports.ranges().to_vec()))
}

/// The outbound chain; `None` if nothing outbound is captured.
fn outbound(policy: &CapturePolicy, family: Family) -> Option<Vec<Rule>> {
    let out = &policy.outbound;
    let captured = captures(policy, family);
    if captured.is_empty() {
        return None;
    }
    let mut rules = Vec::new();
    if !policy.interfaces.exclude.is_empty() {
        let interfaces = Match::is(Test::OutInterface(policy.interfaces.exclude.clone()));
        rules.push(rule(RuleId::OutboundExcludeInterface, vec![interfaces], Verdict::Return));
    }
    if !out.exclude_ports.is_empty() {
        let excluded = vec![tcp(), ports(&out.exclude_ports)];
        rules.push(rule(RuleId::OutboundExcludePort, excluded, Verdict::Return));
    }
    let excluded: Vec<Cidr> = of_family(&out.exclude_cidrs, family);
    if !excluded.is_empty() {
        let excluded = Match::is(Test::Destination(excluded));
        rules.push(rule(RuleId::OutboundExcludeCidr, vec![excluded], Verdict::Return));
    }
    rules.extend(proxy(policy, rule));
    let own_ports: PortSet = [policy.proxy.port, policy.proxy.inbound_port].into_iter().collect();
    let to_proxy = vec![tcp(), ports(&own_ports), Match::is(Test::DestinationIsLocal)];
    rules.push(rule(RuleId::OutboundCapturePort, to_proxy, Verdict::Return));
    rules.push(rule(RuleId::OutboundDns, vec![tcp(), to(DNS)], Verdict::Return));
    rules.extend(captured);
    Some(rules)
}

fn of_family(cidrs: &[Cidr], family: Family) -> Vec<Cidr> {
    cidrs.iter().copied().filter(|cidr| cidr.family() == family).collect()
}

/// The capturing rules: every owner beside every kind of destination.
fn captures(policy: &CapturePolicy, family: Family) -> Vec<Rule> {
    let Owners::Only { uids, gids } = &policy.outbound.owners else { return Vec::new() };
    let mut destinations: Vec<(RuleId, Option<Test>)> = Vec::new();
    match &policy.outbound.destinations {
        Destinations::All { .. } => destinations.push((RuleId::OutboundAll, None)),
        Destinations::Some { cidrs, ports } => {
            if !ports.is_empty() {
                destinations
                    .push((RuleId::OutboundPort, Some(Test::DestinationPort(ports.ranges().to_vec()))));
            }
            let cidrs = of_family(cidrs, family);
            if !cidrs.is_empty() {
                destinations.push((RuleId::OutboundCidr, Some(Test::Destination(cidrs))));
            }
        }
    }
    let mut rules = Vec::new();
    for owner in owners(uids, gids) {
        for (id, destination) in &destinations {
            let mut matches = vec![tcp(), Match::is(Test::FirstPacket), Match::is(owner.clone())];
            matches.extend(destination.clone().map(Match::is));
            rules.push(rule(*id, matches, jump(REDIRECT)));
        }
    }
    rules
}

fn owners(uids: &[Uid], gids: &[Gid]) -> Vec<Test> {
    let uids = (!uids.is_empty()).then(|| Test::OwnerUid(uids.to_vec()));
    let gids = (!gids.is_empty()).then(|| Test::OwnerGid(gids.to_vec()));
    uids.into_iter().chain(gids).collect()
}

/// The inbound chain; `None` if nothing inbound is captured.
fn inbound(policy: &CapturePolicy) -> Option<Vec<Rule>> {
    let target = if policy.proxy.inbound_port == policy.proxy.port { REDIRECT } else { IN_REDIRECT };
    let mut rules = Vec::new();
    if !policy.interfaces.exclude.is_empty() {
        let interfaces = Match::is(Test::InInterface(policy.interfaces.exclude.clone()));
        rules.push(rule(RuleId::InboundExcludeInterface, vec![interfaces], Verdict::Return));
    }
    // Without the address type, traffic routed through the host to the same port elsewhere would be taken too.
    let first = || vec![tcp(), Match::is(Test::FirstPacket), Match::is(Test::DestinationIsLocal)];
    match &policy.inbound {
        Inbound::Only(only) if only.is_empty() => return None,
        Inbound::Only(only) => {
            let mut matches = first();
            matches.push(ports(only));
            rules.push(rule(RuleId::InboundPort, matches, jump(target)));
        }
        Inbound::AllExcept(excluded) => {
            let reserved = reserved_inbound(&policy.proxy);
            rules.push(rule(RuleId::InboundReserved, vec![tcp(), ports(&reserved)], Verdict::Return));
            if !excluded.is_empty() {
                rules.push(rule(RuleId::InboundExcludePort, vec![tcp(), ports(excluded)], Verdict::Return));
            }
            rules.push(rule(RuleId::InboundAll, first(), jump(target)));
        }
    }
    Some(rules)
}
