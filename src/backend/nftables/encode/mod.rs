//! Rules to messages.

pub mod expr;
pub mod rule;

use std::collections::BTreeSet;

use self::rule::Lowered;
use super::abi::{
    NFT_MSG_NEWCHAIN, NFT_MSG_NEWRULE, NFT_MSG_NEWSET, NFT_MSG_NEWSETELEM, NFT_MSG_NEWTABLE, NFTA_CHAIN_HOOK,
    NFTA_CHAIN_NAME, NFTA_CHAIN_POLICY, NFTA_CHAIN_TABLE, NFTA_CHAIN_TYPE, NFTA_HOOK_HOOKNUM,
    NFTA_HOOK_PRIORITY, NFTA_RULE_CHAIN, NFTA_RULE_EXPRESSIONS, NFTA_RULE_TABLE, NFTA_RULE_USERDATA,
    NFTA_TABLE_FLAGS, NFTA_TABLE_NAME, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL,
};
use super::set::Set;
use super::vmap::Part;
use super::{Batch, TABLE, nfproto, normal, table, vmap, word};
use crate::error::{Error, Result};
use crate::policy::Family;
use crate::rules::{Base, Chain, Hook, Kind, RuleSet};

/// How rules are spelled, where there is a choice. None changes what they mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Rules in a row that differ in nothing but port, or network, and verdict become one look-up in a verdict map,
    /// where that is shorter; without it every rule stays a rule.
    pub maps: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options { maps: true }
    }
}

impl Options {
    /// Those for a kernel of that release (`/proc/sys/kernel/osrelease`). Elements of a map have counters since 5.7
    /// (linux/netfilter/nf_tables.h, `NFTA_SET_EXPR`); a kernel before that would make the map without a word, and count
    /// nothing.
    #[must_use]
    pub fn of_release(release: &str) -> Options {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().ok());
        let version = numbers.next().flatten().zip(numbers.next().flatten());
        Options { maps: version.is_some_and(|version| version >= (5, 7)) }
    }
}

/// A chain of ours as messages can say it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoweredChain {
    /// Its family, which is its table.
    pub family: Family,
    /// Its name.
    pub name: String,
    /// `None` for a chain that only rules call.
    pub base: Option<Base>,
    /// Its rules.
    pub rules: Vec<Lowered>,
}

/// All chains and all sets, each set once.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tables {
    /// In the order of the rules that they come from.
    pub chains: Vec<LoweredChain>,
    /// In the order in which they are first looked up.
    pub sets: Vec<Set>,
}

/// Everything in one batch that creates and deletes nothing: what an empty namespace needs.
///
/// # Errors
/// A rule cannot be said in nf_tables, or a chain is not of our tables.
pub fn create(rules: &RuleSet, options: Options) -> Result<Batch> {
    let tables = lower(rules, options)?;
    let mut batch = Batch::new();
    for family in tables.families() {
        new_table(&mut batch, family, NLM_F_CREATE | NLM_F_EXCL);
        tables.of(family).for_each(|chain| new_chain(&mut batch, chain));
    }
    for (set, id) in tables.sets.iter().zip(1..) {
        new_set(&mut batch, set, id);
        new_elements(&mut batch, set);
    }
    tables.chains.iter().for_each(|chain| new_rules(&mut batch, chain));
    Ok(batch)
}

/// Rules as expressions and sets.
///
/// # Errors
/// A rule cannot be said in nf_tables, or a chain is not of our tables.
pub fn lower(rules: &RuleSet, options: Options) -> Result<Tables> {
    let mut tables = Tables::default();
    let mut known = BTreeSet::new();
    for chain in &normal(rules).chains {
        if chain.table != table() {
            return Err(Error::refused(format!(
                "chain {} of table {} is not of our table",
                chain.name, chain.table
            )));
        }
        let mut lowered = Vec::with_capacity(chain.rules.len());
        let mut number = 0;
        for part in vmap::parts(chain.family, &chain.rules, options.maps) {
            let (rules, made) = match part {
                Part::Rule(rule) => (1, rule::lower(chain.family, rule)),
                Part::Map(run, map) => (run.len(), vmap::lower(chain.family, map).map(|one| vec![one])),
            };
            let made = made.map_err(|why| fault(chain, number + 1, &why))?;
            number += rules;
            for (rule, sets) in made {
                lowered.push(rule);
                for set in sets
                    .into_iter()
                    .filter(|set| known.insert((set.family, set.name.clone())))
                    .collect::<Vec<_>>()
                {
                    tables.sets.push(set);
                }
            }
        }
        let (family, name, base) = (chain.family, chain.name.clone(), chain.base);
        tables.chains.push(LoweredChain { family, name, base, rules: lowered });
    }
    Ok(tables)
}

/// A rule that was lowered, and the sets that it looks into.
pub type WithSets = (Lowered, Vec<Set>);

fn fault(chain: &Chain, number: usize, why: &str) -> Error {
    let (family, name) = (word(chain.family), &chain.name);
    Error::refused(format!("rule {number} of chain {name} ({family}) cannot be said in nf_tables: {why}"))
}

impl Tables {
    /// The families that have a table.
    #[must_use]
    pub fn families(&self) -> BTreeSet<Family> {
        self.chains.iter().map(|chain| chain.family).collect()
    }

    /// The chains of a family.
    pub fn of(&self, family: Family) -> impl Iterator<Item = &LoweredChain> {
        self.chains.iter().filter(move |chain| chain.family == family)
    }
}

/// Adds the table of a family; one that sleeps is woken (`NFT_TABLE_F_DORMANT`).
pub(super) fn new_table(batch: &mut Batch, family: Family, flags: u16) {
    let object = format!("table {} {TABLE}", word(family));
    batch.push((NFT_MSG_NEWTABLE, flags, nfproto(family)), object, "", |body| {
        body.text(NFTA_TABLE_NAME, TABLE);
        body.u32(NFTA_TABLE_FLAGS, 0);
    });
}

/// Adds a chain, without its rules; of one that is there, the policy is set.
pub(super) fn new_chain(batch: &mut Batch, chain: &LoweredChain) {
    let object = format!("chain {} of table {} {TABLE}", chain.name, word(chain.family));
    let needs = match chain.base.map(|base| base.kind) {
        Some(Kind::Nat) => "chains of type nat (CONFIG_NFT_NAT)",
        Some(Kind::Route) => "chains of type route (CONFIG_NF_TABLES_IPV4, CONFIG_NF_TABLES_IPV6)",
        Some(Kind::Filter) | None => "",
    };
    batch.push((NFT_MSG_NEWCHAIN, NLM_F_CREATE, nfproto(chain.family)), object, needs, |body| {
        body.text(NFTA_CHAIN_TABLE, TABLE);
        body.text(NFTA_CHAIN_NAME, &chain.name);
        if let Some(base) = chain.base {
            body.nest(NFTA_CHAIN_HOOK, |hook| {
                hook.u32(NFTA_HOOK_HOOKNUM, hook_number(base.hook));
                hook.u32(NFTA_HOOK_PRIORITY, base.priority.cast_unsigned());
            });
            body.u32(NFTA_CHAIN_POLICY, u32::from(base.accepts));
            body.text(NFTA_CHAIN_TYPE, kind_word(base.kind));
        }
    });
}

/// Adds all rules of a chain behind those that it has.
pub(super) fn new_rules(batch: &mut Batch, chain: &LoweredChain) {
    for (rule, number) in chain.rules.iter().zip(1..) {
        let object = format!("rule {number} of chain {} of table {} {TABLE}", chain.name, word(chain.family));
        let flags = NLM_F_CREATE | NLM_F_APPEND;
        batch.push((NFT_MSG_NEWRULE, flags, nfproto(chain.family)), object, rule.needs.join(", "), |body| {
            body.text(NFTA_RULE_TABLE, TABLE);
            body.text(NFTA_RULE_CHAIN, &chain.name);
            body.nest(NFTA_RULE_EXPRESSIONS, |list| list.raw(&rule.expressions));
            if !rule.userdata.is_empty() {
                body.bytes(NFTA_RULE_USERDATA, &rule.userdata);
            }
        });
    }
}

/// Adds a set, empty; `id` is its number in the batch.
pub(super) fn new_set(batch: &mut Batch, set: &Set, id: u32) {
    let object = format!("set {} of table {} {TABLE}", set.name, word(set.family));
    batch.push((NFT_MSG_NEWSET, NLM_F_CREATE, nfproto(set.family)), object, "", |body| set.write(id, body));
}

/// Adds the elements of a set, in as many messages as they need.
pub(super) fn new_elements(batch: &mut Batch, set: &Set) {
    for chunk in set.chunks() {
        let object = format!("elements of set {} of table {} {TABLE}", set.name, word(set.family));
        batch.push((NFT_MSG_NEWSETELEM, NLM_F_CREATE, nfproto(set.family)), object, "", |body| {
            set.write_elements(chunk, body);
        });
    }
}

/// linux/netfilter.h, `nf_inet_hooks`.
#[must_use]
pub const fn hook_number(hook: Hook) -> u32 {
    match hook {
        Hook::Prerouting => 0,
        Hook::Input => 1,
        Hook::Forward => 2,
        Hook::Output => 3,
        Hook::Postrouting => 4,
    }
}

/// The name of a chain's type (net/netfilter/nft_chain_filter.c and its neighbours).
#[must_use]
pub const fn kind_word(kind: Kind) -> &'static str {
    match kind {
        Kind::Filter => "filter",
        Kind::Nat => "nat",
        Kind::Route => "route",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::RuleId;
    use crate::rules::{Match, Protocol, Rule, Table, Test, Verdict};

    fn chain(rules: Vec<Rule>) -> RuleSet {
        let chain = Chain { family: Family::V4, table: table(), name: "output".into(), base: None, rules };
        RuleSet { chains: vec![chain], routing: Vec::new() }
    }

    #[test]
    fn what_cannot_be_said_is_named() {
        let refused = |tests: Vec<Test>, verdict| {
            let matches = tests.into_iter().map(Match::is).collect();
            let rules = vec![
                Rule::new(RuleId::OutboundAll, Vec::new(), Verdict::Accept),
                Rule::new(RuleId::OutboundAll, matches, verdict),
            ];
            create(&chain(rules), Options::default()).expect_err("a refusal").to_string()
        };
        let port = Test::DestinationPort(vec!["80".parse().unwrap()]);
        for (tests, verdict, word) in [
            (vec![Test::Opaque("-m limit".into())], Verdict::Accept, "-m limit"),
            (vec![], Verdict::Opaque("-j LOG".into()), "-j LOG"),
            (vec![port.clone()], Verdict::Accept, "protocol"),
            (vec![Test::Protocol(Protocol::Other("icmp".into())), port], Verdict::Accept, "protocol"),
            (vec![Test::Protocol(Protocol::Other("nonsense".into()))], Verdict::Accept, "nonsense"),
            (vec![Test::Protocol(Protocol::Udp), Test::FirstPacket], Verdict::Accept, "tcp"),
            (vec![Test::Destination(vec!["fd00::/8".parse().unwrap()])], Verdict::Accept, "fd00::/8"),
            (vec![Test::OwnerUid(vec![])], Verdict::Accept, "empty"),
            (vec![Test::OwnerGid(vec![])], Verdict::Accept, "empty"),
            (vec![Test::Source(vec![])], Verdict::Accept, "empty"),
            (vec![Test::OutInterface(vec![])], Verdict::Accept, "empty"),
            (vec![Test::ConnState(vec![])], Verdict::Accept, "empty"),
            (vec![Test::Protocol(Protocol::Tcp), Test::SourcePort(vec![])], Verdict::Accept, "empty"),
            (vec![], Verdict::Dnat("[::1]:80".parse().unwrap()), "[::1]:80"),
            (vec![], Verdict::Dnat("1.2.3.4:0".parse().unwrap()), "1.2.3.4:0"),
        ] {
            let said = refused(tests, verdict);
            assert!(said.starts_with("rule 2 of chain output (ip)") && said.contains(word), "{said}");
        }
        let mut rules = chain(vec![]);
        rules.chains[0].table = Table::Nat;
        assert!(create(&rules, Options::default()).is_err());
    }

    #[test]
    fn maps_are_for_kernels_that_count_in_them() {
        for release in ["5.7", "5.10.0-30-amd64", "6.1.0", "10.0-rc1"] {
            assert!(Options::of_release(release).maps, "{release}");
        }
        for release in ["5.6.19", "4.18.0-553.el8_10.x86_64", "", "5", "x.y", "99999999999.1"] {
            assert!(!Options::of_release(release).maps, "{release}");
        }
    }

    #[test]
    fn equal_sets_are_one() {
        let ports = Test::DestinationPort(vec!["80".parse().unwrap(), "443".parse().unwrap()]);
        let matches = vec![Match::is(Test::Protocol(Protocol::Udp)), Match::is(ports)];
        let rule = Rule::new(RuleId::OutboundPort, matches, Verdict::Accept);
        let tables = lower(&chain(vec![rule.clone(), rule]), Options::default()).unwrap();
        assert_eq!((tables.sets.len(), tables.chains[0].rules.len()), (1, 2));
    }

    /// Type and flags of each message of a batch (linux/netlink.h, `struct nlmsghdr`), without its beginning and end.
    fn messages(bytes: &[u8]) -> Vec<(u16, u16)> {
        let mut left = bytes;
        let mut messages = Vec::new();
        while let Some((header, _)) = left.split_first_chunk::<8>() {
            let [a, b, c, d, kind @ .., flags, more] = *header;
            messages.push((u16::from_ne_bytes(kind) & 0xff, u16::from_ne_bytes([flags, more])));
            left = &left[usize::try_from(u32::from_ne_bytes([a, b, c, d])).unwrap()..];
        }
        messages[1..messages.len() - 1].to_vec()
    }

    #[test]
    fn a_table_is_new_and_rules_go_behind_others() {
        let rule = Rule::new(RuleId::OutboundAll, vec![], Verdict::Accept);
        let batch = create(&chain(vec![rule.clone(), rule]), Options { maps: false }).unwrap();
        // NLM_F_CREATE, NLM_F_EXCL and NLM_F_APPEND beside NLM_F_REQUEST and NLM_F_ACK.
        let seen: Vec<(u16, u16)> = messages(&batch.bytes(None).unwrap())
            .iter()
            .map(|(kind, flags)| (*kind, flags & 0xff00))
            .collect();
        let expected = [
            (NFT_MSG_NEWTABLE & 0xff, 0x600),
            (NFT_MSG_NEWCHAIN & 0xff, 0x400),
            (NFT_MSG_NEWRULE & 0xff, 0xc00),
            (NFT_MSG_NEWRULE & 0xff, 0xc00),
        ];
        assert_eq!(seen, expected);
    }

    /// linux/netfilter.h, `nf_inet_hooks`; net/netfilter/nf_tables_api.c, `nft_chain_types`; what writes and what reads
    /// them here are one.
    #[test]
    fn numbers_and_words_are_the_kernels() {
        let hooks = [Hook::Prerouting, Hook::Input, Hook::Forward, Hook::Output, Hook::Postrouting];
        assert_eq!(hooks.map(hook_number), [0, 1, 2, 3, 4]);
        assert_eq!([Kind::Filter, Kind::Nat, Kind::Route].map(kind_word), ["filter", "nat", "route"]);
        // linux/netfilter/nf_conntrack_common.h, `NF_CT_STATE_BIT`.
        assert_eq!(crate::rules::ConnState::ALL.map(rule::state_bit), [1, 8, 4, 2]);
        assert_eq!([Family::V4, Family::V6].map(rule::addresses), [(12, 16, 4), (8, 24, 16)]);
    }

    /// How often an expression of that name stands in the rule.
    fn count(rule: &Lowered, name: &str) -> usize {
        let name = [name.as_bytes(), b"\0"].concat();
        rule.expressions.windows(name.len()).filter(|window| *window == name).count()
    }

    #[test]
    fn one_member_is_compared_and_several_are_looked_up() {
        let tcp = || Match::is(Test::Protocol(Protocol::Tcp));
        let ports =
            |list: &[&str]| Test::DestinationPort(list.iter().map(|port| port.parse().unwrap()).collect());
        let nets = |list: &[&str]| Test::Destination(list.iter().map(|net| net.parse().unwrap()).collect());
        let names =
            |list: &[&str]| Test::InInterface(list.iter().map(|name| name.parse().unwrap()).collect());
        let uids =
            |list: &[u32]| Test::OwnerUid(list.iter().copied().filter_map(crate::policy::Uid::of).collect());
        // Beside the protocol's own comparison.
        for (test, compared, sets) in [
            (ports(&["80"]), 1, 0),
            (ports(&["80-90"]), 2, 0),
            (ports(&["80", "443"]), 0, 1),
            (nets(&["10.0.0.0/8"]), 1, 0),
            (nets(&["10.0.0.0/8", "192.168.0.0/16"]), 0, 1),
            (names(&["eth0"]), 1, 0),
            (names(&["eth+"]), 1, 0),
            (names(&["eth0", "eth1"]), 0, 1),
            (uids(&[7]), 1, 0),
            (uids(&[7, 8]), 0, 1),
        ] {
            let rule = Rule::new(RuleId::OutboundAll, vec![tcp(), Match::is(test.clone())], Verdict::Accept);
            let tables = lower(&chain(vec![rule]), Options::default()).unwrap();
            let rule = &tables.chains[0].rules[0];
            assert_eq!((count(rule, "cmp") - 1, tables.sets.len()), (compared, sets), "{test:?}");
            assert_eq!(count(rule, "lookup"), sets, "{test:?}");
            assert_eq!(count(rule, "counter"), 1, "{test:?}");
        }
    }

    #[test]
    fn what_a_rule_needs_is_said_once() {
        let conditions = [Test::Answer, Test::Connmark(crate::policy::Mark(1))].map(Match::is).to_vec();
        let rule = Rule::new(RuleId::OutboundAll, conditions, Verdict::Accept);
        let tables = lower(&chain(vec![rule]), Options::default()).unwrap();
        assert_eq!(tables.chains[0].rules[0].needs, ["expression ct (CONFIG_NFT_CT)"]);
    }

    /// An attribute's length has 16 bits and counts its four bytes of head.
    #[test]
    fn a_rule_that_is_too_long_is_refused() {
        let of = |counters: usize, more: bool| {
            let mut expressions = expr::Expressions::default();
            (0..counters).for_each(|_| expressions.counter());
            if more {
                // 32 bytes: the element, its name, and two numbers.
                expressions.special("abc", "", |data| {
                    data.u32(1, 1);
                    data.u32(2, 2);
                });
            }
            expressions.finish().map(|(bytes, _)| bytes.len())
        };
        assert_eq!(of(1, false), Ok(20));
        assert_eq!(of(3276, false), Ok(65_520));
        assert_eq!(of(3274, true), Ok(65_512));
        assert_eq!(of(3275, true), Err("it has too many conditions".to_owned()));
    }
}
