//! Policy to rules. The only place where the order of rules is decided.

pub mod classic;
pub mod istio;
pub mod native;
mod scoped;

use super::{Base, Chain, Hook, Match, Protocol, Rule, RuleSet, Table, Test, Verdict};
use crate::policy::settings::Variant;
use crate::policy::{CapturePolicy, Families, Family, Layout, Mode, Port, RuleId};

/// Packets captured outbound go through it.
pub const REDIRECT: &str = "ISTIO_REDIRECT";
/// Packets captured inbound go through it where the inbound port is another.
pub const IN_REDIRECT: &str = "ISTIO_IN_REDIRECT";
/// Decides outbound.
pub const OUTPUT: &str = "ISTIO_OUTPUT";
/// Decides inbound.
pub const INBOUND: &str = "ISTIO_INBOUND";

/// The rules of `policy` in `layout` for `families`. Mode NONE has none.
#[must_use]
pub fn compile(policy: &CapturePolicy, layout: Layout, families: Families) -> RuleSet {
    if policy.mode == Mode::None {
        return RuleSet::default();
    }
    let chains = families.list().iter().flat_map(|family| match layout {
        Layout::Classic => classic::compile(policy, *family),
        Layout::Scoped => scoped::compile(policy, *family),
        Layout::Istio | Layout::IstioIptables => istio::compile(policy, layout, *family),
    });
    let routing = match layout {
        Layout::Classic | Layout::Scoped => Vec::new(),
        Layout::Istio | Layout::IstioIptables => istio::routing(policy, families),
    };
    RuleSet { chains: chains.collect(), routing }
}

/// The rules of `policy` in `layout`, in the form of what carries them.
#[must_use]
pub fn compile_for(policy: &CapturePolicy, layout: Layout, families: Families, variant: Variant) -> RuleSet {
    match variant {
        Variant::Legacy | Variant::Nft => compile(policy, layout, families),
        Variant::Native => native::native(policy, layout, families),
    }
}

/// A chain of the nat table that is wholly ours.
#[must_use]
pub fn own(family: Family, name: &str, rules: Vec<Rule>) -> Chain {
    Chain { family, table: Table::Nat, name: name.to_owned(), base: None, rules }
}

/// Our rules in a built-in chain of the nat table.
fn shared(family: Family, hook: Hook, rules: Vec<Rule>) -> Chain {
    let base = Base::builtin(&Table::Nat, hook);
    Chain { family, table: Table::Nat, name: hook.builtin().to_owned(), base: Some(base), rules }
}

/// The proxy's own traffic goes its way; `rule` dresses a rule as the layout does.
fn proxy(policy: &CapturePolicy, rule: impl Fn(RuleId, Vec<Match>, Verdict) -> Rule) -> Vec<Rule> {
    let mut rules = Vec::new();
    if !policy.proxy.uids.is_empty() {
        let uids = Match::is(Test::OwnerUid(policy.proxy.uids.clone()));
        rules.push(rule(RuleId::ProxyUid, vec![uids], Verdict::Return));
    }
    if !policy.proxy.gids.is_empty() {
        let gids = Match::is(Test::OwnerGid(policy.proxy.gids.clone()));
        rules.push(rule(RuleId::ProxyGid, vec![gids], Verdict::Return));
    }
    rules
}

fn tcp() -> Match {
    Match::is(Test::Protocol(Protocol::Tcp))
}

fn jump(chain: &str) -> Verdict {
    Verdict::Jump(chain.to_owned())
}

fn to(ports: impl IntoIterator<Item = Port>) -> Match {
    Match::is(Test::DestinationPort(ports.into_iter().map(Into::into).collect()))
}
