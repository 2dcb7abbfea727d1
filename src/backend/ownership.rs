//! What is ours, without knowing the flags that made it, and what belongs to somebody whom we must not touch.
//!
//! Ours are chains with exactly the names of upstream's history and of our layouts (never a prefix: a user may
//! have an `ISTIO_FOO`), every jump to them, and rules with our comment.

use super::claim;
use crate::policy::RuleId;
use crate::rules::compile::native;
use crate::rules::{Chain, Protocol, Rule, RuleSet, Table, Test, Verdict};

/// The chain names of istio-iptables and proxy_init through their history, which our layouts use too.
const OUR_CHAINS: &[&str] = &[
    "ISTIO_REDIRECT",
    "ISTIO_IN_REDIRECT",
    "ISTIO_INBOUND",
    "ISTIO_OUTPUT",
    "ISTIO_OUTPUT_DNS",
    "ISTIO_DIVERT",
    "ISTIO_TPROXY",
    "ISTIO_DROP",
    UNCONFIRMED,
];

/// A chain without rules that says: what stands beside it waits to be confirmed.
pub const UNCONFIRMED: &str = "MESH_INIT_UNCONFIRMED";

/// Chains that only Istio's ambient agent makes; an `ISTIO_OUTPUT` beside them is its own too.
const AMBIENT_CHAINS: &[&str] = &["ISTIO_PRERT", "ISTIO_POSTRT"];

/// Chains of other meshes' capture, which would fight with ours over the same connections.
const OTHER_MESHES: &[(&str, &str)] = &[
    ("PROXY_INIT_REDIRECT", "linkerd"),
    ("PROXY_INIT_OUTPUT", "linkerd"),
    ("KUMA_MESH_INBOUND", "kuma"),
    ("KUMA_MESH_OUTBOUND", "kuma"),
    ("MESH_INBOUND", "kuma"),
    ("MESH_OUTBOUND", "kuma"),
    ("CONSUL_PROXY_INBOUND", "consul"),
    ("CONSUL_PROXY_OUTPUT", "consul"),
    ("OSM_PROXY_INBOUND", "open service mesh"),
    ("OSM_PROXY_OUTBOUND", "open service mesh"),
    ("APPMESH_INGRESS", "app mesh"),
    ("APPMESH_EGRESS", "app mesh"),
];

/// Whether a chain of that name is ours.
#[must_use]
pub fn is_our_chain(name: &str) -> bool {
    OUR_CHAINS.contains(&name)
}

/// Whether a rule sends packets to a chain of ours.
#[must_use]
pub fn is_our_target(rule: &Rule) -> bool {
    rule.target().is_some_and(is_our_chain)
}

/// Whether a rule in a chain that is not ours is ours all the same.
#[must_use]
pub fn is_our_rule(rule: &Rule) -> bool {
    rule.id.is_some() || is_our_target(rule) || rule.comment.as_deref().and_then(RuleId::of_comment).is_some()
}

/// Whether a table is nft's own and ours.
#[must_use]
pub fn is_our_table(table: &Table) -> bool {
    matches!(table, Table::Other(name) if name == native::TABLE)
}

/// Whether a chain is wholly ours.
fn is_ours(chain: &Chain) -> bool {
    is_our_chain(&chain.name) || is_our_table(&chain.table)
}

/// Whether anything of ours is in `rules`.
#[must_use]
pub fn holds_ours(rules: &RuleSet) -> bool {
    rules.chains.iter().any(|chain| is_ours(chain) || chain.rules.iter().any(is_our_rule))
}

/// What of `rules` stands in our own tables of nftables.
#[must_use]
pub fn native_part(rules: &RuleSet) -> RuleSet {
    let chains = rules.chains.iter().filter(|chain| is_our_table(&chain.table)).cloned().collect();
    RuleSet { chains, routing: Vec::new() }
}

fn chain_of<'a>(rules: &'a RuleSet, names: &[&str]) -> Option<&'a Chain> {
    rules.chains.iter().find(|chain| names.contains(&chain.name.as_str()))
}

/// The name of a chain of Istio's ambient agent, if there is one.
#[must_use]
pub fn ambient(rules: &RuleSet) -> Option<&str> {
    chain_of(rules, AMBIENT_CHAINS).map(|chain| chain.name.as_str())
}

/// A rule of others that is worth telling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ahead {
    /// What it is, as a phrase.
    pub text: String,
    /// It has the form of those that Istio's tools leave for excluded interfaces.
    pub left: bool,
}

/// Rules of others that stand before one of our hooks and let TCP past it, as phrases. Whose they are cannot be
/// told (upstream leaves bare ones for excluded interfaces), so they are reported and left.
#[must_use]
pub fn ahead(rules: &RuleSet) -> Vec<Ahead> {
    let mut found = Vec::new();
    let ours = holds_ours(rules);
    for chain in rules.chains.iter().filter(|chain| chain.base.is_some() && !is_ours(chain)) {
        let hook = claim::hook(chain);
        let before = hook.unwrap_or(if ours { chain.rules.len() } else { 0 });
        for rule in chain.rules.iter().take(before).filter(|rule| !is_our_rule(rule)) {
            let left = claim::excluded_interface(&chain.table, &chain.name, rule).is_some();
            // Without a hook of ours it is in nobody's way, but upstream may have left it.
            if hook.is_none() && !left {
                continue;
            }
            let passes = matches!(rule.verdict, Verdict::Accept | Verdict::Return);
            let other = rule.matches.iter().any(|condition| {
                !condition.negated
                    && matches!(&condition.test, Test::Protocol(protocol) if *protocol != Protocol::Tcp)
            });
            if let (true, false, Some(seen)) = (passes, other, &rule.seen) {
                let (family, table, name) = (chain.family, &chain.table, &chain.name);
                let what = match hook {
                    Some(_) => "a rule before ours lets traffic past them",
                    None => "a rule may be left of Istio's tools",
                };
                found
                    .push(Ahead { text: format!("{family}: {what}: {table} -A {name} {}", seen.spec), left });
            }
        }
    }
    found
}

/// Another mesh's chain and the mesh, if there is one.
#[must_use]
pub fn other_mesh(rules: &RuleSet) -> Option<(&str, &'static str)> {
    rules.chains.iter().find_map(|chain| {
        OTHER_MESHES
            .iter()
            .find(|(name, _)| *name == chain.name)
            .map(|(_, mesh)| (chain.name.as_str(), *mesh))
    })
}
