//! The first difference between what is wanted and what is there, named down to the chain and the rule: for people.

use super::iptables::diff::{self, Ours};
use super::{Observed, nftables, ownership, plan};
use crate::policy::Family;
use crate::policy::settings::Variant;
use crate::rules::{Chain, Rule, RuleSet};

/// The most that is told of a rule that was read.
const TOLD: usize = 200;

/// The first difference, as a sentence; `None` if there is none.
#[must_use]
pub fn first(wanted: &RuleSet, target: Variant, observed: &Observed) -> Option<String> {
    let (_, what) = plan::differences(wanted, target, observed).into_iter().next()?;
    let more = match target {
        Variant::Native => of_native(wanted, &observed.of(target)),
        Variant::Legacy | Variant::Nft => of_iptables(wanted, &observed.of(target)),
    };
    Some(match more {
        // The first of all may be of another back end, or of routing: then this is not about it.
        Some((family, table, more)) if what == format!("{family}: table {table} of {target}") => {
            format!("{what}: {more}")
        }
        Some(_) | None => format!("{what} is not as it should be"),
    })
}

type Found = (Family, String, String);

fn of_native(wanted: &RuleSet, read: &RuleSet) -> Option<Found> {
    let (want, have) = (ownership::native_part(wanted), ownership::native_part(read));
    let (want, have) = (nftables::normal(&want), have);
    let normal = nftables::normal(&have);
    let found = |chain: &Chain, more: String| {
        Some((chain.family, chain.table.as_str().to_owned(), format!("chain {} {more}", chain.name)))
    };
    for family in Family::both() {
        for chain in want.chains.iter().filter(|chain| chain.family == family) {
            let Some(there) = normal.chain(family, &chain.table, &chain.name) else {
                return found(chain, "is missing".to_owned());
            };
            if there.base != chain.base {
                return found(chain, "hangs in another place".to_owned());
            }
            let same =
                chain.rules.iter().zip(&there.rules).take_while(|(one, other)| one.same(other)).count();
            // What was read has the text that it was read as.
            let seen = have.chain(family, &chain.table, &chain.name).and_then(|chain| chain.rules.get(same));
            match (chain.rules.get(same), seen) {
                (None, None) => {}
                (want, seen) => return found(chain, of_rule(same + 1, want, seen)),
            }
        }
        let surplus = |chain: &&Chain| {
            chain.family == family && want.chain(family, &chain.table, &chain.name).is_none()
        };
        if let Some(chain) = normal.chains.iter().find(surplus) {
            return found(chain, "is one too many".to_owned());
        }
    }
    None
}

fn of_rule(number: usize, want: Option<&Rule>, seen: Option<&Rule>) -> String {
    let clause = want.and_then(|rule| rule.id).map_or_else(|| "a rule".to_owned(), |id| id.to_string());
    let text =
        seen.and_then(|rule| rule.seen.as_ref()).map(|seen| seen.spec.chars().take(TOLD).collect::<String>());
    match (want, text) {
        (Some(_), Some(text)) => format!("rule {number} is {text:?}, where {clause} should be"),
        (Some(_), None) => format!("rule {number} is missing: {clause}"),
        (None, text) => format!("rule {number} is one too many: {:?}", text.unwrap_or_default()),
    }
}

fn of_iptables(wanted: &RuleSet, read: &RuleSet) -> Option<Found> {
    for family in Family::both() {
        let tables = wanted.tables(family).into_iter().chain(read.tables(family));
        for table in tables {
            let have = Ours::observed(read, family, table).anywhere();
            let text = diff::transaction(family, table, &have, &Ours::wanted(wanted, family, table));
            let Some(text) = text else { continue };
            let mut words = text.lines().find(|line| line.starts_with('-'))?.split(' ');
            let (what, chain) = (words.next()?, words.next()?);
            let more = match what {
                "-N" => format!("chain {chain} is missing"),
                "-F" | "-X" => format!("the rules of chain {chain} are others"),
                _ => format!("our rules in chain {chain} are others"),
            };
            return Some((family, table.as_str().to_owned(), more));
        }
    }
    None
}
