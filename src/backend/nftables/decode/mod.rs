//! Dumps to rules: of ours and of anybody's tables of the families ip, ip6 and inet.
//!
//! What is not understood is opaque, never a guess. A rule set may be spelled in more ways than ours: what nft makes
//! of the same conditions is read as well.

pub mod expr;
pub mod field;
mod joined;
pub mod rule;
pub mod set;

use std::collections::{BTreeMap, BTreeSet};

use self::rule::{Scene, Taken};
use self::set::{Held, Name};
use super::abi::{
    NFT_MSG_NEWCHAIN, NFT_MSG_NEWRULE, NFT_MSG_NEWSET, NFT_MSG_NEWSETELEM, NFT_MSG_NEWTABLE,
    NFT_SET_ANONYMOUS, NFT_TABLE_F_DORMANT, NFTA_CHAIN_HOOK, NFTA_CHAIN_NAME, NFTA_CHAIN_POLICY,
    NFTA_CHAIN_TABLE, NFTA_CHAIN_TYPE, NFTA_HOOK_HOOKNUM, NFTA_HOOK_PRIORITY, NFTA_RULE_CHAIN,
    NFTA_RULE_TABLE, NFTA_TABLE_FLAGS, NFTA_TABLE_NAME,
};
use super::encode::{hook_number, kind_word};
use super::set::Set;
use super::wire::{Attributes, Message, messages};
use super::{TABLE, nfproto, text};
use crate::policy::Family;
use crate::rules::{Base, Chain, Hook, Kind, RuleSet, Table, Verdict};

/// `NFPROTO_INET` of linux/netfilter.h: a table for both families.
pub const INET: u8 = 1;

/// What was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decoded {
    /// The rules. A chain of an inet table stands there once for each family; its table is called `inet NAME`, which
    /// no table can be called, so that it is not taken for the family's own. The base chains of a table that sleeps
    /// are none: nothing calls them.
    pub rules: RuleSet,
    /// For each chain and each rule of it the kernel's number of the rule.
    pub handles: Vec<Vec<u64>>,
    /// For each chain how it was declared, also if its table sleeps.
    pub declared: Vec<Option<Base>>,
    /// What of ours there is beside chains.
    pub ours: Ours,
    /// Chains that the kernel calls where the model has no hook.
    pub beyond: Vec<String>,
}

/// What there is of our tables beside chains.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ours {
    /// The families that have our table.
    pub tables: BTreeSet<Family>,
    /// Those of them whose table sleeps (`NFT_TABLE_F_DORMANT`): its chains are not called.
    pub asleep: BTreeSet<Family>,
    /// Sets and maps.
    pub sets: Vec<Set>,
    /// The names of those that rules look into.
    pub looked_into: BTreeSet<(Family, String)>,
}

impl Ours {
    /// Whether there are sets that no rule looks into. Those without a name of their own go with their rules.
    #[must_use]
    pub fn has_unused_sets(&self) -> bool {
        let named = self.sets.iter().filter(|set| set.flags & NFT_SET_ANONYMOUS == 0);
        named.map(|set| (set.family, set.name.clone())).any(|key| !self.looked_into.contains(&key))
    }
}

/// Reads the answers to dumps of tables, chains, sets, elements and rules, one behind the other in any order; also
/// the messages of a batch that creates, which are of the same form.
#[must_use]
pub fn decode(bytes: &[u8]) -> Decoded {
    let mut dump = Dump::default();
    messages(bytes).for_each(|message| dump.take(message));
    let mut decoded = Decoded { ours: dump.ours(), ..Decoded::default() };
    for family in Family::both() {
        for chain in dump.chains.iter().filter(|chain| [nfproto(family), INET].contains(&chain.of)) {
            dump.read(&mut decoded, family, chain);
        }
    }
    decoded
}

/// A chain that was read.
struct ReadChain {
    of: u8,
    table: String,
    name: String,
    /// Where it is called; `Err` names a hook or type beyond the model.
    base: Result<Option<Base>, String>,
}

#[derive(Default)]
struct Dump<'a> {
    /// Family and name, and `NFT_TABLE_F_*`.
    tables: BTreeMap<(u8, String), u32>,
    chains: Vec<ReadChain>,
    /// Their families, tables and names: one that is told twice is one all the same.
    named: BTreeSet<(u8, String, String)>,
    sets: BTreeMap<Name, Held>,
    /// The rules of a family's, table's and chain's name.
    rules: BTreeMap<(u8, String, String), Vec<Attributes<'a>>>,
}

impl<'a> Dump<'a> {
    fn take(&mut self, message: Message<'a>) {
        let (data, of) = (message.attributes, message.head.family);
        match message.nft() {
            Some(NFT_MSG_NEWTABLE) => {
                let flags = data.u32(NFTA_TABLE_FLAGS).unwrap_or(0);
                self.tables.extend(data.text(NFTA_TABLE_NAME).map(|name| ((of, name), flags)));
            }
            Some(NFT_MSG_NEWCHAIN) => {
                if let (Some(table), Some(name)) = (data.text(NFTA_CHAIN_TABLE), data.text(NFTA_CHAIN_NAME))
                    && self.named.insert((of, table.clone(), name.clone()))
                {
                    self.chains.push(ReadChain { of, table, name, base: base(data) });
                }
            }
            Some(NFT_MSG_NEWSET) => set::describe(&mut self.sets, message),
            Some(NFT_MSG_NEWSETELEM) => set::fill(&mut self.sets, message),
            Some(NFT_MSG_NEWRULE) => {
                if let (Some(table), Some(chain)) = (data.text(NFTA_RULE_TABLE), data.text(NFTA_RULE_CHAIN)) {
                    self.rules.entry((of, table, chain)).or_default().push(data);
                }
            }
            _ => {}
        }
    }

    fn sleeps(&self, of: u8, table: &str) -> bool {
        self.tables.get(&(of, table.to_owned())).is_some_and(|flags| flags & NFT_TABLE_F_DORMANT != 0)
    }

    fn ours(&self) -> Ours {
        let there = |family: &Family| self.tables.contains_key(&(nfproto(*family), TABLE.to_owned()));
        let tables: BTreeSet<Family> = Family::both().filter(there).collect();
        let asleep = tables.iter().copied().filter(|family| self.sleeps(nfproto(*family), TABLE)).collect();
        let mut sets = Vec::new();
        for ((of, table, name), held) in &self.sets {
            if let Some(family) = Family::both().find(|family| nfproto(*family) == *of && table == TABLE) {
                let Held { key_type, key_length, flags, counts, .. } = *held;
                let elements = held.elements.iter().map(|(element, _)| element.clone()).collect();
                sets.push(Set { family, name: name.clone(), key_type, key_length, flags, counts, elements });
            }
        }
        Ours { tables, asleep, sets, looked_into: BTreeSet::new() }
    }

    fn read(&self, decoded: &mut Decoded, family: Family, chain: &ReadChain) {
        let ReadChain { of, table, name, .. } = chain;
        let declared = match &chain.base {
            Ok(base) => *base,
            Err(where_) => {
                let text = format!("{} {table} {name}: {where_}", family_word(*of));
                if !decoded.beyond.contains(&text) {
                    decoded.beyond.push(text);
                }
                return;
            }
        };
        let scene = Scene { family, of: *of, table, sets: &self.sets };
        let mut taken = Vec::new();
        for data in self.rules.get(&(*of, table.clone(), name.clone())).into_iter().flatten() {
            let sets = scene.read(*data, &mut taken);
            if table == TABLE && *of != INET {
                decoded.ours.looked_into.extend(sets.into_iter().map(|set| (family, set)));
            }
        }
        // Ours drops what TPROXY leaves; if that rule is gone, this is not what it was.
        for taken in taken.iter_mut().filter(|taken| taken.waits && table == TABLE && *of != INET) {
            taken.rule.verdict =
                Verdict::Opaque(format!("{}, nothing dropped", text::verdict(&taken.rule.verdict)));
        }
        let named =
            if *of == INET { Table::Other(format!("inet {table}")) } else { Table::from(table.as_str()) };
        let base = declared.filter(|_| !self.sleeps(*of, table));
        let (rules, handles) = taken.into_iter().map(|Taken { rule, handle, .. }| (rule, handle)).unzip();
        decoded.rules.chains.push(Chain { family, table: named, name: name.clone(), base, rules });
        decoded.handles.push(handles);
        decoded.declared.push(declared);
    }
}

fn family_word(of: u8) -> &'static str {
    match of {
        2 => "ip",
        10 => "ip6",
        _ => "inet",
    }
}

fn base(data: Attributes<'_>) -> Result<Option<Base>, String> {
    let hook = data.nest(NFTA_CHAIN_HOOK);
    let Some(number) = hook.u32(NFTA_HOOK_HOOKNUM) else { return Ok(None) };
    let hooks = [Hook::Prerouting, Hook::Input, Hook::Forward, Hook::Output, Hook::Postrouting];
    let place = hooks.into_iter().find(|hook| hook_number(*hook) == number);
    let word = data.text(NFTA_CHAIN_TYPE).unwrap_or_default();
    let kind = [Kind::Filter, Kind::Nat, Kind::Route].into_iter().find(|kind| kind_word(*kind) == word);
    match (place, kind) {
        (Some(place), Some(kind)) => Ok(Some(Base {
            hook: place,
            kind,
            priority: hook.u32(NFTA_HOOK_PRIORITY).unwrap_or(0).cast_signed(),
            accepts: data.u32(NFTA_CHAIN_POLICY).is_none_or(|policy| policy != 0),
        })),
        _ => Err(format!("hook {number}, type {word}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::nftables::encode::{Options, create};
    use crate::backend::nftables::{normal, table};
    use crate::policy::RuleId;
    use crate::rules::{Match, Protocol, Rule, Test};

    fn chain(name: &str, rules: Vec<Rule>) -> Chain {
        Chain { family: Family::V4, table: table(), name: name.into(), base: None, rules }
    }

    /// What is read of a batch's own messages.
    fn read(rules: &RuleSet, options: Options) -> RuleSet {
        let bytes = create(rules, options).unwrap().bytes(None).unwrap();
        let mut read = decode(&bytes).rules;
        for rule in read.chains.iter_mut().flat_map(|chain| &mut chain.rules) {
            rule.seen = None;
        }
        read
    }

    fn is(tests: &[Test]) -> Vec<Match> {
        tests.iter().cloned().map(Match::is).collect()
    }

    #[test]
    fn a_map_is_rules_again() {
        let rule = |id, port: &str, verdict| {
            let ports = Test::DestinationPort(port.split(',').map(|port| port.parse().unwrap()).collect());
            Rule::new(id, is(&[Test::Protocol(Protocol::Tcp), ports]), verdict).comment("why")
        };
        let rules = vec![
            rule(RuleId::InboundReserved, "22,15000-15020", Verdict::Return),
            rule(RuleId::InboundExcludePort, "80", Verdict::Jump("there".into())),
            rule(RuleId::InboundExcludePort, "79", Verdict::Jump("there".into())),
            rule(RuleId::InboundPort, "65535", Verdict::Accept),
        ];
        let chains = vec![chain("there", vec![]), chain("in", rules)];
        let rules = RuleSet { chains, routing: vec![] };
        for (maps, number) in [(false, 3), (true, 1)] {
            let options = Options { maps };
            let lowered = crate::backend::nftables::encode::lower(&rules, options).unwrap();
            assert_eq!(lowered.chains[1].rules.len(), number, "two of them are one by their verdict");
            assert_eq!(read(&rules, options), normal(&rules), "{maps:?}");
        }
    }

    #[test]
    fn a_map_of_networks_is_rules_again() {
        let rule = |id, nets: &str, verdict| {
            let nets = Test::Destination(nets.split(',').map(|net| net.parse().unwrap()).collect());
            Rule::new(id, is(&[nets]), verdict).comment("why")
        };
        let rules = vec![
            rule(RuleId::OutboundLoopback, "127.0.0.1/32", Verdict::Return),
            rule(RuleId::OutboundExcludeCidr, "0.0.0.0/7,127.0.0.0/32,255.0.0.0/8", Verdict::Return),
            rule(RuleId::OutboundCidr, "127.0.0.2/31,10.0.0.0/8", Verdict::Jump("there".into())),
        ];
        let chains = vec![chain("there", vec![]), chain("out", rules)];
        let rules = RuleSet { chains, routing: vec![] };
        let lowered = crate::backend::nftables::encode::lower(&rules, Options::default()).unwrap();
        assert_eq!((lowered.chains[1].rules.len(), lowered.sets.len()), (1, 1));
        assert_eq!(read(&rules, Options::default()), normal(&rules));
    }

    #[test]
    fn tproxy_is_two_rules_and_one_again() {
        let port = "15006".parse().unwrap();
        let mark = crate::policy::Mark(1337);
        let tcp = is(&[Test::Protocol(Protocol::Tcp)]);
        let tproxy = Rule::new(RuleId::InboundAll, tcp.clone(), Verdict::Tproxy { port, mark });
        let drop = Rule::new(RuleId::InboundAll, tcp, Verdict::Drop);
        let rules = RuleSet { chains: vec![chain("in", vec![tproxy, drop.clone(), drop])], routing: vec![] };
        let lowered = crate::backend::nftables::encode::lower(&rules, Options::default()).unwrap();
        assert_eq!(lowered.chains[0].rules.len(), 4);
        assert_eq!(read(&rules, Options::default()), normal(&rules));
    }

    #[test]
    fn garbage_is_nothing_or_opaque() {
        let ports = Test::DestinationPort(vec!["80".parse().unwrap(), "443".parse().unwrap()]);
        let rule =
            Rule::new(RuleId::OutboundPort, is(&[Test::Protocol(Protocol::Tcp), ports]), Verdict::Return);
        let rules = RuleSet { chains: vec![chain("out", vec![rule])], routing: vec![] };
        let bytes = create(&rules, Options::default()).unwrap().bytes(Some(1)).unwrap();
        for at in 0..bytes.len() {
            for value in [0, 1, 255] {
                let mut bytes = bytes.clone();
                bytes[at] = value;
                drop(decode(&bytes));
            }
            drop((decode(&bytes[at..]), decode(&bytes[..at])));
        }
    }
}
