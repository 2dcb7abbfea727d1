//! Bare rules: what upstream leaves in built-in chains without a comment or a chain of its own.
//!
//! Whose such a rule is, is told by what stands beside it: the marks that upstream's chains set, the interfaces that
//! its jumps name, the identities of its proxy. What nothing implies counts as ours only if the caller names it
//! (the wanted rules contain it, or `--all` is given); else it is reported and left.

use crate::policy::{Family, IfName, Mark, RuleId};
use crate::rules::compile::istio::{DIVERT, SELF_MARK};
use crate::rules::compile::{INBOUND, OUTPUT};
use crate::rules::{Chain, Hook, Match, Protocol, Routing, Rule, RuleSet, Table, Test, Verdict};

use super::observed::Present;
use super::ownership;

/// What counts as ours beside what is known to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claim {
    /// Rules that the caller names by wanting them.
    pub named: RuleSet,
    /// Everything that upstream could have left.
    pub all: bool,
}

/// Marks the bare rules in `rules` that are ours: they get a clause.
pub fn claim(rules: &mut RuleSet, claim: &Claim) {
    // Where no chain is ours, no rule is.
    if !ownership::holds_ours(rules) {
        return;
    }
    for family in Family::both() {
        let implied = Implied::by(rules, family);
        for chain in rules.chains.iter_mut().filter(|chain| chain.family == family && chain.base.is_some()) {
            if ownership::is_our_chain(&chain.name) {
                continue;
            }
            let named = claim.named.chain(family, &chain.table, &chain.name);
            let named: Vec<Rule> = named.map(|chain| chain.rules.clone()).unwrap_or_default();
            one_chain(chain, &implied, named, claim.all);
        }
    }
}

fn one_chain(chain: &mut Chain, implied: &Implied, mut named: Vec<Rule>, all: bool) {
    let hook = chain.rules.iter().rposition(|rule| rule.target().is_some_and(ownership::is_our_chain));
    let (table, name) = (chain.table.clone(), chain.name.clone());
    let mut rerouted: Vec<IfName> = implied.rerouted.clone();
    for (index, rule) in chain.rules.iter_mut().enumerate() {
        if ownership::is_our_rule(rule) {
            continue;
        }
        if let Some(wanted) = named.iter().position(|wanted| wanted.same(rule)) {
            rule.id = named.swap_remove(wanted).id;
            continue;
        }
        if rule.comment.is_some() {
            continue;
        }
        if table == Table::Mangle {
            rule.id = implied.of_tproxy(&name, rule);
        }
        if let (Table::Nat, Some(interface)) = (&table, arriving(rule))
            && let Some(known) = rerouted.iter().position(|known| known == interface)
        {
            // Upstream has one for each.
            rerouted.swap_remove(known);
            rule.id = Some(RuleId::InterfaceReroute);
        }
        let before_ours = hook.is_some_and(|hook| index < hook);
        if all && before_ours && rule.id.is_none() {
            rule.id = excluded_interface(&name, rule);
        }
    }
}

/// The interface of `-i NAME -j RETURN`.
fn arriving(rule: &Rule) -> Option<&IfName> {
    match (rule.matches.as_slice(), &rule.verdict) {
        ([Match { negated: false, test: Test::InInterface(names) }], Verdict::Return) => names.first(),
        (_, _) => None,
    }
}

/// `-i NAME -j RETURN` in PREROUTING, `-o NAME -j RETURN` in OUTPUT: what upstream makes for excluded interfaces.
#[must_use]
pub fn excluded_interface(chain: &str, rule: &Rule) -> Option<RuleId> {
    let [Match { negated: false, test }] = rule.matches.as_slice() else { return None };
    if rule.verdict != Verdict::Return || rule.comment.is_some() {
        return None;
    }
    if chain == Hook::Prerouting.builtin() && matches!(test, Test::InInterface(_)) {
        return Some(RuleId::InboundExcludeInterface);
    }
    let out = chain == Hook::Output.builtin() && matches!(test, Test::OutInterface(_));
    out.then_some(RuleId::OutboundExcludeInterface)
}

/// What the chains of one family imply.
#[derive(Debug, Default)]
struct Implied {
    marks: Vec<Mark>,
    rerouted: Vec<IfName>,
}

/// The TPROXY marks that chains of ours set or look for.
#[must_use]
pub fn marks(rules: &RuleSet) -> Vec<Mark> {
    let ours = rules.chains.iter().filter(|chain| chain.table == Table::Mangle);
    let mut marks = Vec::new();
    for chain in ours.filter(|chain| [DIVERT, INBOUND].contains(&chain.name.as_str())) {
        for rule in &chain.rules {
            if let Verdict::SetMark(mark) = rule.verdict {
                marks.push(mark);
            }
            for condition in &rule.matches {
                if let Match { negated: false, test: Test::Mark(mark) } = condition {
                    marks.push(*mark);
                }
            }
        }
    }
    marks
}

impl Implied {
    fn by(rules: &RuleSet, family: Family) -> Implied {
        let chains = || rules.chains.iter().filter(move |chain| chain.family == family);
        let of_family = RuleSet { chains: chains().cloned().collect(), routing: Vec::new() };
        let mut implied = Implied { marks: marks(&of_family), rerouted: Vec::new() };
        let shared = chains().filter(|chain| chain.base.is_some() && chain.table == Table::Nat);
        for rule in shared.flat_map(|chain| &chain.rules) {
            if !rule.target().is_some_and(ownership::is_our_chain) {
                continue;
            }
            for condition in &rule.matches {
                if let Match { negated: false, test: Test::InInterface(names) } = condition {
                    implied.rerouted.extend(names.clone());
                }
            }
        }
        implied.rerouted.sort();
        implied.rerouted.dedup();
        implied
    }

    /// The clause of a bare rule of TPROXY mode in the mangle table.
    fn of_tproxy(&self, chain: &str, rule: &Rule) -> Option<RuleId> {
        let (mut tcp, mut lo, mut not_loopback, mut owner, mut mark, mut connmark) =
            (false, false, false, false, None, None);
        for condition in &rule.matches {
            match (condition.negated, &condition.test) {
                (false, Test::Protocol(Protocol::Tcp)) => tcp = true,
                (false, Test::OutInterface(names)) if *names == [IfName::lo()] => lo = true,
                (true, Test::Destination(_)) => not_loopback = true,
                (false, Test::OwnerUid(_) | Test::OwnerGid(_)) => owner = true,
                (false, Test::Mark(of)) => mark = Some(*of),
                (false, Test::Connmark(of)) => connmark = Some(*of),
                (_, _) => return None,
            }
        }
        let ours = |mark: Option<Mark>| mark.is_some_and(|mark| self.marks.contains(&mark));
        let (prerouting, output) = (Hook::Prerouting.builtin(), Hook::Output.builtin());
        match (&rule.verdict, tcp, lo) {
            (Verdict::SaveMark, true, false) if chain == prerouting && ours(mark) => Some(RuleId::TproxyMark),
            (Verdict::Return, true, true) if chain == output && ours(mark) && !owner => {
                Some(RuleId::InboundMarked)
            }
            (Verdict::RestoreMark, true, false) if chain == output && ours(connmark) => {
                Some(RuleId::TproxyMark)
            }
            (Verdict::SetMark(to), true, true) if *to == SELF_MARK && chain == output => {
                let known = owner && not_loopback && !self.marks.is_empty();
                known.then_some(RuleId::TproxySelf)
            }
            (_, _, _) => None,
        }
    }
}

/// The routing that is ours: by its protocol number, or because our chains need it and nobody else would have it.
#[must_use]
pub fn routing(present: &[Present], rules: &RuleSet) -> Vec<Present> {
    let marks = marks(rules);
    let implied_table = |of: u32| {
        present.iter().any(|other| {
            matches!(other.what, Routing::Rule { mark, table, .. } if table == of && marks.contains(&mark))
        })
    };
    let has_local_route = |of: u32| {
        present.iter().any(|other| matches!(other.what, Routing::Route { table, .. } if table == of))
    };
    let passthrough = rules.chains.iter().filter(|chain| chain.name == OUTPUT && chain.family == Family::V6);
    let passthrough = passthrough.flat_map(|chain| &chain.rules).any(|rule| {
        let from = Test::Source(vec![Family::V6.passthrough()]);
        rule.matches.iter().any(|of| of.test == from)
    });
    let ours = present.iter().filter(|present| {
        present.ours
            || match present.what {
                Routing::PassthroughAddress => passthrough,
                Routing::Route { table, .. } => implied_table(table),
                Routing::Rule { mark, table, .. } => marks.contains(&mark) && has_local_route(table),
            }
    });
    ours.cloned().collect()
}
