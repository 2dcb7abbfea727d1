//! Following packets by nf_tables' own trace: a table of our own that marks them, and what the kernel says of them.
//!
//! Whoever marks a packet (`meta nftrace set 1`, nft(8)) makes every chain of nf_tables that it comes by tell the
//! group `NFNLGRP_NFTRACE`: net/netfilter/nf_tables_trace.c. The chains of iptables-nft are among them, those of
//! iptables-legacy are not.
//!
//! Ours are called before and after all others. What they say frames a packet's way: where it sets out or arrives, and
//! as what it leaves or is delivered.

pub mod event;
pub mod listing;
pub mod packet;

use super::abi::{
    NFT_META_NFTRACE, NFT_MSG_DELTABLE, NFT_MSG_NEWCHAIN, NFT_MSG_NEWRULE, NFT_MSG_NEWTABLE, NFT_REG_1,
    NFT_TABLE_F_OWNER, NFTA_CHAIN_HOOK, NFTA_CHAIN_NAME, NFTA_CHAIN_POLICY, NFTA_CHAIN_TABLE,
    NFTA_CHAIN_TYPE, NFTA_HOOK_HOOKNUM, NFTA_HOOK_PRIORITY, NFTA_RULE_CHAIN, NFTA_RULE_EXPRESSIONS,
    NFTA_RULE_TABLE, NFTA_TABLE_FLAGS, NFTA_TABLE_NAME, NFTA_TABLE_OWNER, NLM_F_APPEND, NLM_F_CREATE,
    NLM_F_EXCL,
};
use super::encode::expr::Expressions;
use super::encode::hook_number;
use super::wire::messages;
use super::{Batch, nfproto, word};
use crate::error::{Error, Result};
use crate::eval::Filter;
use crate::eval::probing::Direction;
use crate::policy::Family;
use crate::rules::{Hook, Place, Rule, Verdict};

/// The name of the table of either family.
pub const TABLE: &str = "mesh_init_trace";

/// Our chains: where they are called, and before or after all others.
const CHAINS: [(Hook, i32); 4] = [
    (Hook::Output, i32::MIN),
    (Hook::Prerouting, i32::MIN),
    (Hook::Input, i32::MAX),
    (Hook::Postrouting, i32::MAX),
];

/// The name of our chain at a hook.
#[must_use]
pub const fn chain_name(hook: Hook) -> &'static str {
    match hook {
        Hook::Prerouting => "prerouting",
        Hook::Input => "input",
        Hook::Forward => "forward",
        Hook::Output => "output",
        Hook::Postrouting => "postrouting",
    }
}

/// The families whose packets are looked for.
#[must_use]
pub fn families(filter: &Filter) -> Vec<Family> {
    Family::both().filter(|family| filter.family.is_none_or(|only| only == *family)).collect()
}

/// What marks the packets that `filter` is about. `owned`: the kernel takes the tables away when the socket that sends
/// this is closed (`NFT_TABLE_F_OWNER`).
///
/// # Errors
/// The filter has a condition that nf_tables cannot ask for.
pub fn create(filter: &Filter, owned: bool) -> Result<Batch> {
    let mut batch = Batch::new();
    for family in families(filter) {
        let table = format!("table {} {TABLE}", word(family));
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        let needs = if owned { "tables that go with their owner (Linux 5.12)" } else { "" };
        batch.push((NFT_MSG_NEWTABLE, flags, nfproto(family)), table.as_str(), needs, |body| {
            body.text(NFTA_TABLE_NAME, TABLE);
            body.u32(NFTA_TABLE_FLAGS, if owned { NFT_TABLE_F_OWNER } else { 0 });
        });
        for (hook, priority) in CHAINS {
            let object = format!("chain {} of {table}", chain_name(hook));
            batch.push((NFT_MSG_NEWCHAIN, NLM_F_CREATE, nfproto(family)), object, "", |body| {
                body.text(NFTA_CHAIN_TABLE, TABLE);
                body.text(NFTA_CHAIN_NAME, chain_name(hook));
                body.nest(NFTA_CHAIN_HOOK, |place| {
                    place.u32(NFTA_HOOK_HOOKNUM, hook_number(hook));
                    place.u32(NFTA_HOOK_PRIORITY, priority.cast_unsigned());
                });
                body.u32(NFTA_CHAIN_POLICY, 1); // NF_ACCEPT
                body.text(NFTA_CHAIN_TYPE, "filter");
            });
        }
        for (hook, direction) in [(Hook::Output, Direction::Outbound), (Hook::Prerouting, Direction::Inbound)]
        {
            let Some(matches) = filter.matches(direction) else { continue };
            let rule = Rule {
                id: None,
                matches,
                verdict: Verdict::Continue,
                comment: None,
                place: Place::Last,
                seen: None,
            };
            let (expressions, needs) =
                marks(family, &rule).map_err(|why| Error::refused(format!("tracing {filter}: {why}")))?;
            let object = format!("rule of chain {} of {table}", chain_name(hook));
            let flags = NLM_F_CREATE | NLM_F_APPEND;
            batch.push((NFT_MSG_NEWRULE, flags, nfproto(family)), object, needs.join(", "), |body| {
                body.text(NFTA_RULE_TABLE, TABLE);
                body.text(NFTA_RULE_CHAIN, chain_name(hook));
                body.nest(NFTA_RULE_EXPRESSIONS, |list| list.raw(&expressions));
            });
        }
    }
    Ok(batch)
}

/// A rule's conditions, and the mark behind them.
fn marks(family: Family, rule: &Rule) -> std::result::Result<(Vec<u8>, Vec<&'static str>), String> {
    let lowered = super::encode::rule::lower(family, rule)?;
    let (conditions, sets) = lowered.into_iter().next().ok_or("nothing to ask for")?;
    if !sets.is_empty() {
        return Err("it names more than one of a kind".into());
    }
    let mut mark = Expressions::default();
    mark.immediate(NFT_REG_1, &[1]);
    mark.meta_set(NFT_META_NFTRACE);
    let (mark, _) = mark.finish()?;
    Ok(([conditions.expressions, mark].concat(), conditions.needs))
}

/// What takes the tables of these families away.
#[must_use]
pub fn removal(families: &[Family]) -> Batch {
    let mut batch = Batch::new();
    for family in families {
        let object = format!("table {} {TABLE}", word(*family));
        batch.push((NFT_MSG_DELTABLE, 0, nfproto(*family)), object, "", |body| {
            body.text(NFTA_TABLE_NAME, TABLE);
        });
    }
    batch
}

/// The tables of ours in answers to a dump of tables: the family, and the owner's netlink port if one lives
/// (`NFTA_TABLE_OWNER`).
#[must_use]
pub fn tables(dump: &[u8]) -> Vec<(Family, Option<u32>)> {
    let ours = messages(dump).filter(|message| message.nft() == Some(NFT_MSG_NEWTABLE));
    let ours = ours.filter(|message| message.attributes.text(NFTA_TABLE_NAME).as_deref() == Some(TABLE));
    ours.filter_map(|message| {
        let family = Family::both().find(|family| nfproto(*family) == message.head.family)?;
        Some((family, message.attributes.u32(NFTA_TABLE_OWNER)))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::nftables::decode;
    use crate::rules::{Kind, Table};

    #[test]
    fn what_is_made_marks_what_the_filter_says() {
        for (filter, families, marked) in [
            ("", 2, &["output", "prerouting"][..]),
            ("out tcp uid=1000 10.1.2.3:80", 1, &["output"]),
            ("in udp eth0 [fd00::9]:53", 1, &["prerouting"]),
        ] {
            let batch = create(&filter.parse().unwrap(), true).unwrap().bytes(None).unwrap();
            let decoded = decode(&batch);
            assert_eq!(decoded.rules.chains.len(), families * 4, "{filter}");
            for chain in &decoded.rules.chains {
                assert_eq!(chain.table, Table::Other(TABLE.into()));
                let base = chain.base.expect("a base chain");
                let first = matches!(base.hook, Hook::Output | Hook::Prerouting);
                let priority = if first { i32::MIN } else { i32::MAX };
                assert_eq!((base.kind, base.priority, base.accepts), (Kind::Filter, priority, true));
                assert_eq!(chain_name(base.hook), chain.name);
                let marks = chain.rules.iter().map(|rule| rule.verdict.clone()).collect::<Vec<_>>();
                let wanted = marked.contains(&chain.name.as_str());
                assert_eq!(marks.len(), usize::from(wanted), "{filter}: {}", chain.name);
                assert!(marks.iter().all(|mark| matches!(mark, Verdict::Opaque(_))), "{marks:?}");
            }
        }
    }

    #[test]
    fn tables_are_found_with_their_owners() {
        let filter: Filter = "out tcp 10.0.0.1".parse().unwrap();
        let flags = |owned| {
            let bytes = create(&filter, owned).unwrap().bytes(None).unwrap();
            assert_eq!(tables(&bytes), [(Family::V4, None)]);
            let table = messages(&bytes).find(|message| message.nft() == Some(NFT_MSG_NEWTABLE)).unwrap();
            table.attributes.u32(NFTA_TABLE_FLAGS)
        };
        assert_eq!((flags(true), flags(false)), (Some(2), Some(0)));
        let mut others = Batch::new();
        for (name, owner) in [(TABLE, 77), ("other", 78)] {
            others.push((NFT_MSG_NEWTABLE, 0, nfproto(Family::V6)), name, "", |body| {
                body.text(NFTA_TABLE_NAME, name);
                body.u32(NFTA_TABLE_OWNER, owner);
            });
        }
        assert_eq!(tables(&others.bytes(None).unwrap()), [(Family::V6, Some(77))]);
        assert!(removal(&[]).is_empty());
        assert_eq!(removal(&[Family::V4, Family::V6]).objects().len(), 2);
    }
}
