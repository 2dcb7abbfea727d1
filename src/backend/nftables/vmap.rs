//! Many rules for ports as one look-up.
//!
//! A packet is compared with rule after rule; with a verdict map it is looked up once, however many ports there
//! are. The map keeps for each element the comment and the number of the rule that it was.

use super::abi::{NFT_META_L4PROTO, NFT_PAYLOAD_TRANSPORT_HEADER};
use super::comment;
use super::encode::WithSets;
use super::encode::expr::Expressions;
use super::encode::rule::{Lowered, plain};
use super::interval::{Interval, of_ports};
use super::set::{Code, Set};
use crate::policy::{Family, PortRange};
use crate::rules::{Match, Protocol, Rule, Test, Verdict};

/// So many rules in a row are worth a map: below that, comparing costs no more than looking up, and each rule
/// keeps a counter of its own.
pub const WORTH: usize = 8;

/// Cuts a chain's rules into runs that become a map each, and single rules in between.
#[must_use]
pub fn runs(rules: &[Rule], least: Option<usize>) -> Vec<&[Rule]> {
    let mut runs = Vec::new();
    let mut rest = rules;
    while !rest.is_empty() {
        let length = least.map_or(0, |_| run(rest));
        let worth = least.is_some_and(|least| length >= least.max(2));
        let (first, after) = rest.split_at(if worth { length } else { 1 });
        runs.push(first);
        rest = after;
    }
    runs
}

/// How many rules from the first on are of the form, with no port twice.
fn run(rules: &[Rule]) -> usize {
    let mut taken: Vec<PortRange> = Vec::new();
    // The number of a rule in its run has 16 bits.
    let fits = rules.iter().take(usize::from(u16::MAX)).take_while(|rule| {
        let Some(ranges) = ports(rule) else { return false };
        let free = |range: &PortRange| {
            taken.iter().all(|other| range.last < other.first || other.last < range.first)
        };
        let disjoint = ranges.iter().all(free);
        taken.extend(ranges);
        disjoint
    });
    fits.count()
}

/// The ports of a rule that asks for nothing but ports of TCP, and whose verdict is one that a map may hold.
fn ports(rule: &Rule) -> Option<&[PortRange]> {
    let plain =
        matches!(rule.verdict, Verdict::Return | Verdict::Accept | Verdict::Jump(_) | Verdict::Goto(_));
    match rule.matches.as_slice() {
        [
            Match { negated: false, test: Test::Protocol(Protocol::Tcp) },
            Match { negated: false, test: Test::DestinationPort(ranges) },
        ] if plain && !ranges.is_empty() => Some(ranges),
        _ => None,
    }
}

/// A run as one rule and its map.
///
/// # Errors
/// None for what [`runs`] has cut.
pub fn lower(family: Family, run: &[Rule]) -> Result<Vec<WithSets>, String> {
    let mut entries: Vec<(Interval, Code, Vec<u8>)> = Vec::new();
    for (rule, index) in run.iter().zip(0_u16..) {
        let (code, chain) = plain(&rule.verdict).ok_or("a map cannot hold its verdict")?;
        let verdict = Code { code, chain: chain.map(str::to_owned) };
        let mut userdata = comment::userdata(comment::of(rule).as_deref());
        comment::with_index(&mut userdata, index);
        let ranges = ports(rule).ok_or("it asks for more than ports")?;
        entries.extend(ranges.iter().map(|range| (of_ports(range), verdict.clone(), userdata.clone())));
    }
    entries.sort_by_key(|(interval, ..)| *interval);
    let map = Set::of_verdicts(family, &entries);
    let mut expressions = Expressions::default();
    expressions.meta(NFT_META_L4PROTO);
    expressions.compare(false, &[6]);
    expressions.payload(NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2);
    expressions.vmap(&map.name);
    let (expressions, needs) = expressions.finish()?;
    Ok(vec![(Lowered { expressions, userdata: Vec::new(), needs }, vec![map])])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::RuleId;

    fn rule(ports: &str, verdict: Verdict) -> Rule {
        let ranges = ports.split(',').map(|text| text.parse().unwrap()).collect();
        let matches =
            vec![Match::is(Test::Protocol(Protocol::Tcp)), Match::is(Test::DestinationPort(ranges))];
        Rule::new(RuleId::InboundExcludePort, matches, verdict)
    }

    fn lengths(rules: &[Rule], least: Option<usize>) -> Vec<usize> {
        runs(rules, least).iter().map(|run| run.len()).collect()
    }

    #[test]
    fn runs_are_rules_that_differ_in_port_and_verdict() {
        let other = || Rule::new(RuleId::InboundAll, Vec::new(), Verdict::Return);
        let rules = [
            rule("80", Verdict::Return),
            rule("81,90-99", Verdict::Jump("x".into())),
            rule("95", Verdict::Accept),
            other(),
            rule("1", Verdict::Return),
            rule("2", Verdict::Drop),
        ];
        assert_eq!(lengths(&rules, Some(2)), [2, 1, 1, 1, 1]);
        assert_eq!(lengths(&rules, Some(0)), [2, 1, 1, 1, 1]);
        assert_eq!(lengths(&rules, Some(3)), [1; 6]);
        assert_eq!(lengths(&rules, None), [1; 6]);
        assert_eq!(lengths(&[], Some(2)), [0; 0]);
    }

    #[test]
    fn a_map_has_an_element_for_each_range() {
        let run = [
            rule("81", Verdict::Jump("x".into())),
            rule("80,90-99", Verdict::Return),
            rule("82", Verdict::Return),
        ];
        let made = lower(Family::V4, &run).unwrap();
        let [(lowered, sets)] = made.as_slice() else { panic!("one rule") };
        assert!(lowered.userdata.is_empty());
        let keys: Vec<(u16, bool, Option<u16>)> = sets[0]
            .elements
            .iter()
            .map(|element| {
                let key = u16::from_be_bytes(element.key.clone().try_into().unwrap());
                (key, element.end, comment::read_index(&element.userdata))
            })
            .collect();
        assert_eq!(
            keys,
            [
                (80, false, Some(1)),
                (81, true, None),
                (81, false, Some(0)),
                (82, true, None),
                (82, false, Some(2)),
                (83, true, None),
                (90, false, Some(1)),
                (100, true, None),
            ]
        );
        assert_eq!(sets[0].targets().collect::<Vec<_>>(), ["x"]);
    }
}
