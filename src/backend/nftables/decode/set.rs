//! Sets that were read, and what they hold.

use std::collections::BTreeMap;

use super::expr::{self, Expr, verdict};
use crate::backend::nftables::abi::{
    NFT_DATA_VERDICT, NFT_SET_CONCAT, NFT_SET_ELEM_CATCHALL, NFT_SET_ELEM_INTERVAL_END, NFT_SET_EVAL,
    NFT_SET_INTERVAL, NFT_SET_MAP, NFT_SET_TIMEOUT, NFTA_DATA_VALUE, NFTA_DATA_VERDICT, NFTA_LIST_ELEM,
    NFTA_SET_DATA_TYPE, NFTA_SET_ELEM_DATA, NFTA_SET_ELEM_EXPR, NFTA_SET_ELEM_FLAGS, NFTA_SET_ELEM_KEY,
    NFTA_SET_ELEM_KEY_END, NFTA_SET_ELEM_LIST_ELEMENTS, NFTA_SET_ELEM_LIST_SET, NFTA_SET_ELEM_LIST_TABLE,
    NFTA_SET_ELEM_USERDATA, NFTA_SET_EXPR, NFTA_SET_FLAGS, NFTA_SET_KEY_LEN, NFTA_SET_KEY_TYPE,
    NFTA_SET_NAME, NFTA_SET_TABLE,
};
use crate::backend::nftables::interval::{Interval, highest};
use crate::backend::nftables::set::{Code, Element};
use crate::backend::nftables::wire::Message;

/// The family (`NFPROTO_*`), the table and the name of a set.
pub type Name = (u8, String, String);

/// A set of anybody's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    /// nft's number of the key's type.
    pub key_type: u32,
    /// The key's length in bytes.
    pub key_length: usize,
    /// `NFT_SET_*`.
    pub flags: u32,
    /// Each element counts.
    pub counts: bool,
    /// As they were read, each with the packets and bytes that it has counted.
    pub elements: Vec<(Element, [u64; 2])>,
    /// An element is of a kind that is not understood.
    pub strange: bool,
}

/// An interval of keys, what a map says of them, userdata, and the packets and bytes that were counted.
pub type Entry<'a> = (Interval, Option<&'a Code>, &'a [u8], [u64; 2]);

/// Keeps a set's description.
pub fn describe(sets: &mut BTreeMap<Name, Held>, message: Message<'_>) {
    let data = message.attributes;
    let (Some(table), Some(name)) = (data.text(NFTA_SET_TABLE), data.text(NFTA_SET_NAME)) else { return };
    let set = sets.entry((message.head.family, table, name)).or_default();
    set.key_type = data.u32(NFTA_SET_KEY_TYPE).unwrap_or(0);
    set.key_length = data.u32(NFTA_SET_KEY_LEN).and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
    set.flags = data.u32(NFTA_SET_FLAGS).unwrap_or(0);
    set.counts = expr::expression(data.nest(NFTA_SET_EXPR)) == Expr::Counter(0, 0);
    // Answers that are not verdicts are not understood.
    set.strange |= data.u32(NFTA_SET_DATA_TYPE).is_some_and(|kind| kind != NFT_DATA_VERDICT && set.is_map());
}

/// Keeps elements of a set.
pub fn fill(sets: &mut BTreeMap<Name, Held>, message: Message<'_>) {
    let data = message.attributes;
    let names = (data.text(NFTA_SET_ELEM_LIST_TABLE), data.text(NFTA_SET_ELEM_LIST_SET));
    let (Some(table), Some(name)) = names else { return };
    let set = sets.entry((message.head.family, table, name)).or_default();
    for (_, element) in
        data.nest(NFTA_SET_ELEM_LIST_ELEMENTS).iter().filter(|(kind, _)| *kind == NFTA_LIST_ELEM)
    {
        let element = super::Attributes::of(element);
        let flags = element.u32(NFTA_SET_ELEM_FLAGS).unwrap_or(0);
        let key = element.nest(NFTA_SET_ELEM_KEY).get(NFTA_DATA_VALUE);
        let odd = flags & NFT_SET_ELEM_CATCHALL != 0 || element.get(NFTA_SET_ELEM_KEY_END).is_some();
        let (Some(key), false) = (key, odd) else {
            set.strange = true;
            continue;
        };
        let counter = expr::expression(element.nest(NFTA_SET_ELEM_EXPR));
        let counted = if let Expr::Counter(packets, bytes) = counter { [packets, bytes] } else { [0; 2] };
        let element = Element {
            key: key.to_vec(),
            end: flags & NFT_SET_ELEM_INTERVAL_END != 0,
            verdict: verdict(element.nest(NFTA_SET_ELEM_DATA).nest(NFTA_DATA_VERDICT)),
            userdata: element.get(NFTA_SET_ELEM_USERDATA).unwrap_or_default().to_vec(),
        };
        set.elements.push((element, counted));
    }
}

impl Held {
    /// Whether it answers with verdicts.
    #[must_use]
    pub fn is_map(&self) -> bool {
        self.flags & NFT_SET_MAP != 0
    }

    /// Its keys of so many bytes and what it says of each, where each stands for itself; `None` if they do not, if some
    /// are not known, or if what it holds may change by itself.
    #[must_use]
    pub fn single_keys(&self, length: usize) -> Option<impl Iterator<Item = (&[u8], Option<&Code>)>> {
        let plain = self.key_length == length
            && self.flags & (NFT_SET_INTERVAL | NFT_SET_TIMEOUT | NFT_SET_EVAL) == 0
            && !self.strange
            && self.elements.iter().all(|(element, _)| element.key.len() == length);
        let said =
            self.elements.iter().map(|(element, _)| (element.key.as_slice(), element.verdict.as_ref()));
        plain.then_some(said)
    }

    /// Its keys as numbers, in order; `None` if they are not plain ones of so many bytes, all of them known, or if
    /// what it holds may change by itself.
    #[must_use]
    pub fn entries(&self, length: usize) -> Option<Vec<Entry<'_>>> {
        let plain = self.key_length == length
            && length <= 16
            && self.flags & (NFT_SET_CONCAT | NFT_SET_TIMEOUT | NFT_SET_EVAL) == 0
            && !self.strange;
        if !plain {
            return None;
        }
        let mut elements = Vec::with_capacity(self.elements.len());
        for (element, counted) in &self.elements {
            elements.push((number(&element.key, length)?, !element.end, element, *counted));
        }
        elements.sort_by_key(|(number, begins, ..)| (*number, *begins));
        let mut entries = Vec::with_capacity(elements.len());
        let mut rest = elements.iter().peekable();
        while let Some((first, begins, element, counted)) = rest.next() {
            if !begins {
                continue;
            }
            let last = match rest.peek() {
                _ if self.flags & NFT_SET_INTERVAL == 0 => *first,
                // An interval goes on to the next of either kind.
                Some((next, ..)) => next.checked_sub(1)?,
                None => highest(u32::try_from(length * 8).ok()?),
            };
            let interval = Interval { first: *first, last };
            entries.push((interval, element.verdict.as_ref(), element.userdata.as_slice(), *counted));
        }
        Some(entries)
    }
}

/// A key as a number, its bytes as they stand.
fn number(key: &[u8], length: usize) -> Option<u128> {
    let mut bytes = [0; 16];
    let place = bytes.get_mut(16_usize.checked_sub(length)?..)?;
    (key.len() == length).then(|| place.copy_from_slice(key))?;
    Some(u128::from_be_bytes(bytes))
}
