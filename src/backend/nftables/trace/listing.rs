//! The rules that a trace names by number, as they can be shown.

use std::collections::BTreeMap;

use super::event::Header;
use crate::backend::nftables::abi::{NFT_MSG_NEWRULE, NFTA_RULE_CHAIN, NFTA_RULE_HANDLE, NFTA_RULE_TABLE};
use crate::backend::nftables::decode::INET;
use crate::backend::nftables::wire::messages;
use crate::backend::nftables::{decode, nfproto};
use crate::policy::{Family, Port, PortRange};
use crate::rules::{Base, Rule, RuleSet, Table, Test, Verdict};

/// A chain: the table's family, the packets' family, the table's and the chain's name.
type Key = (u8, Family, String, String);

/// What is known of a chain.
#[derive(Debug, Clone, PartialEq)]
struct Listed {
    base: Option<Base>,
    /// For each rule the kernel's number and its place, counted from 1. A look-up of nf_tables may stand for some.
    rules: Vec<(u64, usize, Rule)>,
}

/// All chains.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Listing {
    chains: BTreeMap<Key, Listed>,
}

/// A rule that was found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Found<'a> {
    /// Its number in the chain, counted from 1.
    pub number: usize,
    /// The rule.
    pub rule: &'a Rule,
}

impl Listing {
    /// From a dump of everything. Tables of iptables-nft are shown as `iptables` has read them, with their clauses.
    #[must_use]
    pub fn of(dump: &[u8], iptables: &RuleSet) -> Listing {
        let handles = handles(dump);
        let mut listing = Listing::default();
        let decoded = decode(dump);
        let read = decoded.rules.chains.into_iter().zip(decoded.handles).zip(decoded.declared);
        for ((chain, numbers), base) in read {
            let (of, table) = match &chain.table {
                Table::Other(name) => match name.strip_prefix("inet ") {
                    Some(name) => (INET, name.to_owned()),
                    None => (nfproto(chain.family), name.clone()),
                },
                Table::Raw | Table::Mangle | Table::Nat | Table::Filter => {
                    (nfproto(chain.family), chain.table.as_str().to_owned())
                }
            };
            let all = handles.get(&(of, table.clone(), chain.name.clone())).cloned().unwrap_or_default();
            let theirs = iptables.chain(chain.family, &chain.table, &chain.name).filter(|_| of != INET);
            let rules = match theirs.filter(|theirs| theirs.rules.len() == all.len()) {
                Some(theirs) => numbered(all.iter().copied().zip(theirs.rules.iter().cloned()), &[]),
                None => numbered(numbers.into_iter().zip(chain.rules), &all),
            };
            listing.chains.insert((of, chain.family, table, chain.name), Listed { base, rules });
        }
        listing
    }

    /// Where a chain is called, if it is a base chain that is known.
    #[must_use]
    pub fn base(&self, of: u8, family: Family, table: &str, chain: &str) -> Option<Base> {
        self.chains.get(&(of, family, table.to_owned(), chain.to_owned()))?.base
    }

    /// The rule with a number that a packet has met. Where it is a look-up, the packet's ports tell which rule it is.
    #[must_use]
    pub fn rule(
        &self,
        (of, family): (u8, Family),
        (table, chain): (&str, &str),
        handle: u64,
        header: &Header,
    ) -> Option<Found<'_>> {
        let listed = self.chains.get(&(of, family, table.to_owned(), chain.to_owned()))?;
        let with_number = listed.rules.iter().filter(|(of, ..)| *of == handle);
        let mut candidates = with_number.map(|(_, number, rule)| Found { number: *number, rule });
        let first = candidates.next()?;
        let holds = |found: &Found<'_>| fits(found.rule, header);
        if holds(&first) { Some(first) } else { Some(candidates.find(holds).unwrap_or(first)) }
    }
}

/// Whether the ports of a packet are those that a rule asks for.
fn fits(rule: &Rule, header: &Header) -> bool {
    let Some((source, destination)) = header.ports else { return true };
    let within = |ranges: &[PortRange], port: u16| {
        Port::of(port).is_some_and(|port| ranges.iter().any(|range| range.contains(port)))
    };
    rule.matches.iter().all(|condition| {
        let holds = match &condition.test {
            Test::SourcePort(ranges) => within(ranges, source),
            Test::DestinationPort(ranges) => within(ranges, destination),
            Test::Source(_)
            | Test::Destination(_)
            | Test::InInterface(_)
            | Test::OutInterface(_)
            | Test::Protocol(_)
            | Test::FirstPacket
            | Test::OwnerUid(_)
            | Test::OwnerGid(_)
            | Test::DestinationIsLocal
            | Test::ConnState(_)
            | Test::Answer
            | Test::Mark(_)
            | Test::Connmark(_)
            | Test::Opaque(_) => return true,
        };
        holds != condition.negated
    })
}

/// Numbers the rules. Behind each TPROXY stands one of the kernel that drops what that has left: both are one here.
fn numbered(rules: impl Iterator<Item = (u64, Rule)>, all: &[u64]) -> Vec<(u64, usize, Rule)> {
    let mut numbered: Vec<_> =
        rules.zip(1..).map(|((handle, rule), number)| (handle, number, rule)).collect();
    let known = |handle: u64| numbered.iter().find(|(of, ..)| *of == handle);
    let drops = all.windows(2).filter_map(|two| {
        let [before, drop] = *two else { return None };
        let (_, number, rule) = known(before)?;
        let is_drop = known(drop).is_none() && matches!(rule.verdict, Verdict::Tproxy { .. });
        is_drop.then(|| (drop, *number, rule.clone()))
    });
    let drops: Vec<_> = drops.collect();
    numbered.extend(drops);
    numbered
}

/// The numbers of all rules of each chain, in order.
fn handles(dump: &[u8]) -> BTreeMap<(u8, String, String), Vec<u64>> {
    let mut handles: BTreeMap<(u8, String, String), Vec<u64>> = BTreeMap::new();
    for message in messages(dump).filter(|message| message.nft() == Some(NFT_MSG_NEWRULE)) {
        let said = message.attributes;
        if let (Some(table), Some(chain), Some(handle)) =
            (said.text(NFTA_RULE_TABLE), said.text(NFTA_RULE_CHAIN), said.u64(NFTA_RULE_HANDLE))
        {
            handles.entry((message.head.family, table, chain)).or_default().push(handle);
        }
    }
    handles
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::Match;

    fn rule(ports: &str, verdict: Verdict) -> Rule {
        let ports = Test::DestinationPort(ports.split(',').map(|port| port.parse().unwrap()).collect());
        let matches = vec![Match::is(ports)];
        Rule { id: None, matches, verdict, comment: None, place: crate::rules::Place::Last, seen: None }
    }

    fn header(port: u16) -> Header {
        let (source, destination) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let ports = Some((40_000, port));
        Header { protocol: 6, source, destination, ports, arrived: Some(2), leaves: None }
    }

    fn listing(rules: Vec<(u64, usize, Rule)>) -> Listing {
        let key = (2, Family::V4, "t".to_owned(), "c".to_owned());
        Listing { chains: BTreeMap::from([(key, Listed { base: None, rules })]) }
    }

    #[test]
    fn a_look_up_is_the_rule_of_the_packets_port() {
        let rules = vec![
            (5, 1, rule("22,1000-2000", Verdict::Return)),
            (5, 2, rule("80", Verdict::Accept)),
            (6, 3, rule("80", Verdict::Drop)),
        ];
        let listing = listing(rules);
        let number = |handle, port| {
            let found = listing.rule((2, Family::V4), ("t", "c"), handle, &header(port));
            found.map(|found| found.number)
        };
        assert_eq!([number(5, 22), number(5, 1500), number(5, 80)], [Some(1), Some(1), Some(2)]);
        assert_eq!((number(6, 80), number(7, 80)), (Some(3), None));
        let other = listing.rule((1, Family::V4), ("t", "c"), 5, &header(22));
        assert_eq!(other, None);
    }

    #[test]
    fn what_tproxy_leaves_is_dropped_by_the_same_rule() {
        let (port, mark) = ("15006".parse().unwrap(), crate::policy::Mark(1337));
        let tproxy = rule("80", Verdict::Tproxy { port, mark });
        let last = rule("81", Verdict::Accept);
        let read = vec![(3, tproxy.clone()), (5, last.clone())];
        let numbered = numbered(read.into_iter(), &[3, 4, 5]);
        assert_eq!(numbered, [(3, 1, tproxy.clone()), (5, 2, last), (4, 1, tproxy)]);
    }
}
