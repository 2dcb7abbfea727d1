//! Look-ups of several fields at once, as kube-proxy's maps have them: the rules that they stand for.

use super::expr::Field;
use super::field::{Meaning, Wanted, stands_on};
use super::rule::{Scene, verdict};
use crate::backend::nftables::encode::rule::protocol_in;
use crate::rules::Rule;

impl Field {
    /// How many of the small registers it takes: addresses and names take four.
    pub(super) fn registers(self) -> usize {
        match self {
            Field::Payload { length, .. } => usize::try_from(length).map_or(4, |length| length.div_ceil(4)),
            Field::Meta(6 | 7) => 4,
            Field::Meta(_) | Field::Ct(..) | Field::Fib(..) => 1,
        }
    }

    /// How many bytes of a key are its own; zeros follow up to the next register (nft_set.h, `nft_set_pad`).
    fn bytes(self) -> usize {
        match self {
            Field::Payload { length, .. } => usize::try_from(length).unwrap_or(usize::MAX),
            // NFT_META_NFPROTO and NFT_META_L4PROTO.
            Field::Meta(15 | 16) => 1,
            Field::Meta(_) | Field::Ct(..) | Field::Fib(..) => 4 * self.registers(),
        }
    }
}

impl Scene<'_> {
    /// A look-up of `fields` as one rule for each key, which exclude each other; `None` if the map or one of its keys
    /// is not understood.
    pub(super) fn joined_keys(&self, base: &Rule, map: &str, fields: &[Field]) -> Option<Vec<Rule>> {
        let held = self.sets.get(&(self.of, self.table.to_owned(), map.to_owned()))?;
        // What stands in the registers behind the last field is nothing of the key's.
        let mut length = 0;
        let wanted = fields.iter().take_while(|field| {
            let begins = length < held.key_length;
            length += 4 * field.registers();
            begins
        });
        let wanted: Vec<Field> = wanted.copied().collect();
        let whole: usize = wanted.iter().map(|field| 4 * field.registers()).sum();
        let single = wanted.len() == 1 && wanted.first().map(|field| field.bytes()) == Some(held.key_length);
        if wanted.is_empty() || !(whole == held.key_length || single) {
            return None;
        }
        let mut rules = Vec::new();
        for (key, code) in held.single_keys(held.key_length)? {
            let mut rule = Rule { verdict: verdict(code?), ..base.clone() };
            let (mut rest, mut possible) = (key, true);
            for field in &wanted {
                let value = rest.get(..field.bytes())?.to_vec();
                rest = rest.get(4 * field.registers()..).unwrap_or_default();
                match self.meaning(*field, false, &Wanted::Equal(None, value))? {
                    Meaning::Always => {}
                    Meaning::Never => possible = false,
                    Meaning::These(tests) => rule.matches.extend(tests),
                }
            }
            let protocol = protocol_in(&rule.matches);
            if !rule.matches.iter().all(|condition| stands_on(&condition.test, protocol)) {
                return None;
            }
            if possible {
                rules.push(rule);
            }
        }
        Some(rules)
    }
}
