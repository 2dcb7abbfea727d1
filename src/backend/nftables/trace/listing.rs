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
                table => (nfproto(chain.family), table.as_str().to_owned()),
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
