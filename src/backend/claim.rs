//! Bare rules: what upstream leaves in built-in chains without a comment or a chain of its own.
//!
//! Whose such a rule is, is told by what stands beside it: from upstream's chains follow its marks, the identities of
//! its proxy and the interfaces that it reroutes, and from these the very rules. What nothing implies counts as ours
//! only if the caller names it (the wanted rules contain it, or `--all` is given); else it is reported and left. Of
//! several equal rules only as many are ours as are implied or named: those that were inserted first, or appended last.

use super::observed::Present;
use super::ownership;
use crate::policy::{Family, Mark, RuleId};
use crate::rules::compile::istio::{DIVERT, SELF_MARK};
use crate::rules::compile::{IN_REDIRECT, INBOUND, OUTPUT};
use crate::rules::{Chain, Hook, Match, Place, Protocol, Routing, Rule, RuleSet, Table, Test, Verdict};

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
            let named = claim.named.chain(family, &chain.table, &chain.name);
            let bare = |rule: &&Rule| rule.comment.is_none() && !ownership::is_our_target(rule);
            let mut ours: Vec<Rule> =
                named.map_or_else(Vec::new, |chain| chain.rules.iter().filter(bare).cloned().collect());
            if chain.table == Table::Mangle {
                // Who names an interface names it for both tables, whatever the mode was when it was excluded.
                let in_nat = claim.named.chain(family, &Table::Nat, &chain.name).into_iter();
                let excluded = in_nat.flat_map(|chain| &chain.rules).filter(bare);
                let clauses = [RuleId::InboundExcludeInterface, RuleId::OutboundExcludeInterface];
                let of_nat = |rule: &&Rule| rule.id.is_some_and(|id| clauses.contains(&id));
                let missing: Vec<Rule> = excluded
                    .filter(of_nat)
                    .filter(|rule| !ours.iter().any(|of| of.same(rule)))
                    .cloned()
                    .collect();
                ours.extend(missing);
            }
            let mut beyond = ours.clone();
            for rule in implied.of(&chain.table, &chain.name) {
                match beyond.iter().position(|of| of.same(&rule)) {
                    Some(known) => drop(beyond.swap_remove(known)),
                    None => ours.push(rule),
                }
            }
            one_chain(chain, ours, implied.upstream, claim.all);
        }
    }
}

fn one_chain(chain: &mut Chain, ours: Vec<Rule>, beside_upstream: bool, all: bool) {
    let (mut first, mut last): (Vec<Rule>, Vec<Rule>) =
        ours.into_iter().partition(|rule| rule.place == Place::First);
    let take = |rule: &mut Rule, of: &mut Vec<Rule>| {
        if ownership::is_our_rule(rule) {
            return;
        }
        if let Some(known) = of.iter().position(|of| of.same(rule)) {
            rule.id = of.swap_remove(known).id;
        }
    };
    chain.rules.iter_mut().for_each(|rule| take(rule, &mut first));
    chain.rules.iter_mut().rev().for_each(|rule| take(rule, &mut last));
    if beside_upstream {
        let found: Vec<Option<RuleId>> = chain.rules.iter().map(|rule| old_dns(chain, rule)).collect();
        for (rule, id) in chain.rules.iter_mut().zip(found) {
            rule.id = rule.id.or(id);
        }
    }
    if all {
        let hook = hook(chain).unwrap_or(chain.rules.len());
        let (table, name) = (chain.table.clone(), chain.name.clone());
        for rule in chain.rules.iter_mut().take(hook).filter(|rule| rule.id.is_none()) {
            rule.id = excluded_interface(&table, &name, rule);
        }
    }
}

/// The rules for DNS that upstream put straight into built-in chains before 1.25, where its chains stand beside them:
/// the agent's port and its two zones are nobody else's.
fn old_dns(chain: &Chain, rule: &Rule) -> Option<RuleId> {
    const DNS: u16 = 53;
    const AGENT: u16 = 15053;
    if rule.comment.is_some() {
        return None;
    }
    let to = |wanted: u16| {
        rule.matches.iter().any(|of| {
            let (Test::DestinationPort(ranges) | Test::SourcePort(ranges)) = &of.test else { return false };
            let one = ranges.first().filter(|one| ranges.len() == 1 && one.first == one.last);
            !of.negated && one.is_some_and(|one| one.first.number() == wanted)
        })
    };
    match (&chain.table, &rule.verdict) {
        (Table::Nat, Verdict::Redirect(port)) if port.number() == AGENT && to(DNS) => {
            Some(RuleId::DnsCapture)
        }
        (Table::Raw, Verdict::Zone(1 | 2)) if to(DNS) || to(AGENT) => Some(RuleId::DnsZone),
        (_, _) => None,
    }
}

/// Where our own chains take over in a shared chain: the last jump to one, but for those of rerouted interfaces, which
/// stand before everybody's rules.
#[must_use]
pub fn hook(chain: &Chain) -> Option<usize> {
    let by_interface = |rule: &Rule| rule.matches.iter().any(|of| matches!(of.test, Test::InInterface(_)));
    chain.rules.iter().rposition(|rule| ownership::is_our_target(rule) && !by_interface(rule))
}

/// `-i NAME -j RETURN` in PREROUTING, `-o NAME -j RETURN` in OUTPUT: what upstream makes for excluded interfaces.
#[must_use]
pub fn excluded_interface(table: &Table, chain: &str, rule: &Rule) -> Option<RuleId> {
    let [Match { negated: false, test }] = rule.matches.as_slice() else { return None };
    let upstreams = matches!(table, Table::Nat | Table::Mangle);
    if !upstreams || rule.verdict != Verdict::Return || rule.comment.is_some() {
        return None;
    }
    if chain == Hook::Prerouting.builtin() && matches!(test, Test::InInterface(_)) {
        return Some(RuleId::InboundExcludeInterface);
    }
    let out = chain == Hook::Output.builtin() && matches!(test, Test::OutInterface(_));
    out.then_some(RuleId::OutboundExcludeInterface)
}

/// The bare rules that the chains of one family imply, with their tables and chains.
#[derive(Debug, Default)]
struct Implied {
    rules: Vec<(Table, Hook, Rule)>,
    /// The outbound hook is upstream's.
    upstream: bool,
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
    marks.sort_unstable();
    marks.dedup();
    marks
}

impl Implied {
    fn by(rules: &RuleSet, family: Family) -> Implied {
        let chains: Vec<Chain> =
            rules.chains.iter().filter(|chain| chain.family == family).cloned().collect();
        let of_family = RuleSet { chains, routing: Vec::new() };
        let mut implied = Implied::default();
        implied.rerouted(&of_family, family);
        let output = of_family.chain(family, &Table::Nat, Hook::Output.builtin());
        implied.upstream = output.is_some_and(|chain| {
            chain.rules.iter().any(|rule| rule.target() == Some(OUTPUT) && rule.comment.is_none())
        });
        // Where our own reading of the layout made the rules, they say so themselves.
        let mangle = of_family.chain(family, &Table::Mangle, Hook::Prerouting.builtin());
        let told = |rule: &Rule| ownership::is_our_target(rule) && rule.comment.is_some();
        if !mangle.is_some_and(|chain| chain.rules.iter().any(told)) {
            implied.tproxy(&of_family, family);
        }
        implied
    }

    fn of<'a>(&'a self, table: &'a Table, chain: &'a str) -> impl Iterator<Item = Rule> + 'a {
        let here = move |of: &&(Table, Hook, Rule)| of.0 == *table && of.1.builtin() == chain;
        self.rules.iter().filter(here).map(|(_, _, rule)| rule.clone())
    }

    /// `-i NAME -j RETURN`, as often as one and the same jump names the interface.
    fn rerouted(&mut self, rules: &RuleSet, family: Family) {
        let shared = rules.chain(family, &Table::Nat, Hook::Prerouting.builtin());
        let jumps: Vec<&Rule> = shared
            .into_iter()
            .flat_map(|chain| &chain.rules)
            .filter(|rule| ownership::is_our_target(rule) && rule.comment.is_none())
            .collect();
        let mut seen: Vec<(Match, usize)> = Vec::new();
        for jump in &jumps {
            let arriving =
                jump.matches.iter().find(|of| !of.negated && matches!(of.test, Test::InInterface(_)));
            let Some(arriving) = arriving else { continue };
            let times = jumps.iter().filter(|other| other.same(jump)).count();
            match seen.iter_mut().find(|(of, _)| of == arriving) {
                Some((_, most)) => *most = times.max(*most),
                None => seen.push((arriving.clone(), times)),
            }
        }
        for (arriving, times) in seen {
            let rule = Rule::new(RuleId::InterfaceReroute, vec![arriving], Verdict::Return).first();
            self.rules.extend((0..times).map(|_| (Table::Nat, Hook::Prerouting, rule.clone())));
        }
    }

    fn tproxy(&mut self, rules: &RuleSet, family: Family) {
        let tcp = || Match::is(Test::Protocol(Protocol::Tcp));
        let lo = || Match::is(Test::OutInterface(vec![crate::policy::IfName::lo()]));
        let mut add = |hook, id, matches, verdict| {
            self.rules.push((Table::Mangle, hook, Rule::new(id, matches, verdict)));
        };
        for mark in marks(rules) {
            let marked = || Match::is(Test::Mark(mark));
            let connection = Match::is(Test::Connmark(mark));
            add(Hook::Prerouting, RuleId::TproxyMark, vec![tcp(), marked()], Verdict::SaveMark);
            add(Hook::Output, RuleId::InboundMarked, vec![tcp(), lo(), marked()], Verdict::Return);
            add(Hook::Output, RuleId::TproxyMark, vec![tcp(), connection], Verdict::RestoreMark);
        }
        if marks(rules).is_empty() {
            return;
        }
        // The proxy's calls to itself: the same owners, to anything but the same loopback.
        let output = rules.chain(family, &Table::Nat, OUTPUT);
        for rule in output.into_iter().flat_map(|chain| &chain.rules) {
            if rule.target() != Some(IN_REDIRECT) {
                continue;
            }
            let of = |wanted: fn(&Match) -> bool| rule.matches.iter().find(|of| wanted(of)).cloned();
            let owner = of(|of| !of.negated && matches!(of.test, Test::OwnerUid(_) | Test::OwnerGid(_)));
            let loopback = of(|of| of.negated && matches!(of.test, Test::Destination(_)));
            if let (Some(owner), Some(loopback)) = (owner, loopback) {
                let matches = vec![loopback, tcp(), lo(), owner];
                add(Hook::Output, RuleId::TproxySelf, matches, Verdict::SetMark(SELF_MARK));
            }
        }
    }
}

/// The routing that is ours: by its protocol number, or because upstream's chains need it and nobody else has any
/// use for it. What `wanted` needs, and makes, counts as there.
#[must_use]
pub fn routing(present: &[Present], there: &RuleSet, wanted: &RuleSet) -> Vec<Present> {
    let (known, coming) = (marks(there), marks(wanted));
    let rule_of = |table: u32, fits: &dyn Fn(Mark) -> bool| {
        present.iter().any(|other| match other.what {
            Routing::Rule { mark, table: of, .. } => of == table && fits(mark),
            Routing::Route { .. } | Routing::PassthroughAddress => false,
        })
    };
    // Where a rule for the mark is ours by its number, one that leads elsewhere is somebody else's; so it is where no
    // chain has the mark yet, and ours will lead elsewhere.
    let elsewhere = |what: &Routing, mark: Mark, table: u32| matches!(what, Routing::Rule { mark: of, table: to, .. } if *of == mark && *to != table);
    let upstreams = |mark: Mark, table: u32| {
        let tagged = present.iter().any(|other| other.ours && elsewhere(&other.what, mark, table));
        let to_come = || wanted.routing.iter().any(|what| elsewhere(what, mark, table));
        !tagged && (known.contains(&mark) || (coming.contains(&mark) && !to_come()))
    };
    let is_marked = |mark: &Mark| known.contains(mark) || coming.contains(mark);
    let strangers = |table: u32| rule_of(table, &|mark| !is_marked(&mark));
    let has_local_route = |of: u32| {
        present.iter().any(|other| matches!(other.what, Routing::Route { table, .. } if table == of))
    };
    let chains = there.chains.iter().chain(&wanted.chains);
    let passthrough = chains.filter(|chain| chain.name == OUTPUT && chain.family == Family::V6);
    let passthrough = passthrough.flat_map(|chain| &chain.rules).any(|rule| {
        let from = Test::Source(vec![Family::V6.passthrough()]);
        rule.matches.iter().any(|of| of.test == from)
    });
    let ours = present.iter().filter(|present| {
        present.ours
            || match present.what {
                Routing::PassthroughAddress => passthrough,
                Routing::Route { table, .. } => {
                    rule_of(table, &|mark| upstreams(mark, table)) && !strangers(table)
                }
                Routing::Rule { mark, table, .. } => upstreams(mark, table) && has_local_route(table),
            }
    });
    ours.cloned().collect()
}
