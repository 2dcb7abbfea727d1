//! Sets and verdict maps: what a rule looks up instead of comparing.
//!
//! A set of ours is named after what it holds. So a set of another content is another set, rules are switched
//! from the one to the other in one step, and equal sets of two rules are one.

use super::abi::{
    BYTEORDER_BIG_ENDIAN, BYTEORDER_HOST_ENDIAN, IFNAMSIZ, NFT_DATA_VERDICT, NFT_GOTO, NFT_JUMP,
    NFT_SET_ELEM_INTERVAL_END, NFT_SET_INTERVAL, NFT_SET_MAP, NFTA_DATA_VALUE, NFTA_DATA_VERDICT,
    NFTA_EXPR_DATA, NFTA_EXPR_NAME, NFTA_LIST_ELEM, NFTA_SET_DATA_LEN, NFTA_SET_DATA_TYPE,
    NFTA_SET_ELEM_DATA, NFTA_SET_ELEM_FLAGS, NFTA_SET_ELEM_KEY, NFTA_SET_ELEM_LIST_ELEMENTS,
    NFTA_SET_ELEM_LIST_SET, NFTA_SET_ELEM_LIST_TABLE, NFTA_SET_ELEM_USERDATA, NFTA_SET_EXPR, NFTA_SET_FLAGS,
    NFTA_SET_ID, NFTA_SET_KEY_LEN, NFTA_SET_KEY_TYPE, NFTA_SET_NAME, NFTA_SET_TABLE, NFTA_SET_USERDATA,
    NFTA_VERDICT_CHAIN, NFTA_VERDICT_CODE, TYPE_GID, TYPE_IFNAME, TYPE_INET_SERVICE, TYPE_IP6ADDR,
    TYPE_IPADDR, TYPE_UID,
};
use super::comment;
use super::interval::{Interval, highest};
use super::wire::Writer;
use crate::policy::{Family, IfName};

/// What a set of ours holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// Addresses of a family.
    Address(Family),
    /// Ports.
    Port,
    /// User ids.
    Uid,
    /// Group ids.
    Gid,
    /// Interfaces' names.
    Interface,
}

impl Key {
    /// nft's number of the type, the key's length in bytes, and the word that our sets' names begin with.
    #[must_use]
    pub const fn shape(self) -> (u32, usize, &'static str) {
        match self {
            Key::Address(Family::V4) => (TYPE_IPADDR, 4, "nets"),
            Key::Address(Family::V6) => (TYPE_IP6ADDR, 16, "nets"),
            Key::Port => (TYPE_INET_SERVICE, 2, "ports"),
            Key::Uid => (TYPE_UID, 4, "uids"),
            Key::Gid => (TYPE_GID, 4, "gids"),
            Key::Interface => (TYPE_IFNAME, IFNAMSIZ, "links"),
        }
    }

    /// A number as a key: ids as the machine has them in its registers, all else in network order.
    fn bytes(self, number: u128) -> Vec<u8> {
        let (_, length, _) = self.shape();
        let all = number.to_be_bytes();
        let mut bytes = all.get(all.len() - length..).unwrap_or_default().to_vec();
        if matches!(self, Key::Uid | Key::Gid) && cfg!(target_endian = "little") {
            bytes.reverse();
        }
        bytes
    }
}

/// A verdict as the kernel has it: a code, and the chain to go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Code {
    /// `NF_ACCEPT` and the like.
    pub code: i32,
    /// For `NFT_JUMP` and `NFT_GOTO`.
    pub chain: Option<String>,
}

impl Code {
    /// Writes the attributes of a verdict.
    pub fn write(&self, writer: &mut Writer) {
        writer.nest(NFTA_DATA_VERDICT, |verdict| {
            verdict.u32(NFTA_VERDICT_CODE, self.code.cast_unsigned());
            if let (NFT_JUMP | NFT_GOTO, Some(chain)) = (self.code, &self.chain) {
                verdict.text(NFTA_VERDICT_CHAIN, chain);
            }
        });
    }
}

/// An element: a key, or one end of an interval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    /// The key.
    pub key: Vec<u8>,
    /// The interval before it ends here, this key not included (`NFT_SET_ELEM_INTERVAL_END`).
    pub end: bool,
    /// What a map answers.
    pub verdict: Option<Code>,
    /// nft's and our own remarks.
    pub userdata: Vec<u8>,
}

/// A named set or verdict map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// Of which of our two tables.
    pub family: Family,
    /// Its name.
    pub name: String,
    /// nft's number of the key's type.
    pub key_type: u32,
    /// The key's length in bytes.
    pub key_length: usize,
    /// `NFT_SET_*`.
    pub flags: u32,
    /// Each element counts the packets that it is found for.
    pub counts: bool,
    /// In order of their keys.
    pub elements: Vec<Element>,
}

/// Bytes of elements in one message; an attribute's length has 16 bits, and a set may be far larger.
const CHUNK: usize = 60_000;

impl Set {
    /// The set of intervals, disjoint and in order.
    #[must_use]
    pub fn of_intervals(family: Family, key: Key, intervals: &[Interval]) -> Set {
        let (_, length, _) = key.shape();
        let mut elements = Vec::with_capacity(intervals.len() * 2);
        for interval in intervals {
            push_interval(&mut elements, length, *interval, |number| key.bytes(number), None, &[]);
        }
        Set::named(family, key, NFT_SET_INTERVAL, elements)
    }

    /// The set of single ids.
    #[must_use]
    pub fn of_ids(family: Family, key: Key, ids: impl Iterator<Item = u32>) -> Set {
        let single =
            |id: u32| Element { key: key.bytes(id.into()), end: false, verdict: None, userdata: Vec::new() };
        Set::named(family, key, 0, ids.map(single).collect())
    }

    /// The set of interfaces; a name for all that begin so is an interval of names.
    #[must_use]
    pub fn of_interfaces(family: Family, names: &[IfName]) -> Set {
        let key = Key::Interface;
        let intervals: Vec<Interval> = names.iter().map(names_interval).collect();
        if intervals.iter().all(|interval| interval.first == interval.last) {
            let single = |interval: &Interval| Element {
                key: key.bytes(interval.first),
                end: false,
                verdict: None,
                userdata: Vec::new(),
            };
            return Set::named(family, key, 0, intervals.iter().map(single).collect());
        }
        Set::of_intervals(family, key, &intervals)
    }

    /// The verdict map of intervals: in order, disjoint, each with its verdict and its comment. Its elements count.
    #[must_use]
    pub fn of_verdicts(family: Family, key: Key, entries: &[(Interval, Code, Vec<u8>)]) -> Set {
        let (_, length, _) = key.shape();
        let mut elements: Vec<Element> = Vec::with_capacity(entries.len() * 2);
        let single = entries.iter().all(|(interval, ..)| interval.first == interval.last);
        for (interval, verdict, userdata) in entries {
            let to_key = |number| key.bytes(number);
            if single {
                let key = to_key(interval.first);
                let verdict = Some(verdict.clone());
                elements.push(Element { key, end: false, verdict, userdata: userdata.clone() });
            } else {
                push_interval(&mut elements, length, *interval, to_key, Some(verdict), userdata);
            }
        }
        Set::named(family, key, if single { NFT_SET_MAP } else { NFT_SET_MAP | NFT_SET_INTERVAL }, elements)
    }

    fn named(family: Family, key: Key, flags: u32, elements: Vec<Element>) -> Set {
        let (key_type, key_length, word) = key.shape();
        let counts = flags & NFT_SET_MAP != 0;
        let word = if counts { "map" } else { word };
        let mut set = Set { family, name: String::new(), key_type, key_length, flags, counts, elements };
        set.name = format!("{word}_{:012x}", set.digest() >> 16);
        set
    }

    /// A number for all that the set is but its name.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let mut digest = Fnv::default();
        digest.part(&[super::nfproto(self.family)]);
        digest.part(&self.key_type.to_be_bytes());
        digest.part(&self.flags.to_be_bytes());
        for element in &self.elements {
            digest.part(&element.key);
            digest.part(&[element.end.into()]);
            digest.part(&element.userdata);
            if let Some(verdict) = &element.verdict {
                digest.part(&verdict.code.to_be_bytes());
                digest.part(verdict.chain.as_deref().unwrap_or_default().as_bytes());
            }
        }
        digest.0
    }

    /// Whether both hold the same, in whatever order, and are of one shape.
    #[must_use]
    pub fn same(&self, other: &Set) -> bool {
        let sorted = |set: &Set| {
            // An end at the very beginning ends nothing; nft puts one there.
            let beginning = |element: &Element| element.end && element.key.iter().all(|byte| *byte == 0);
            let mut elements: Vec<Element> =
                set.elements.iter().filter(|element| !beginning(element)).cloned().collect();
            elements.sort_by(|one, other| (&one.key, one.end).cmp(&(&other.key, other.end)));
            elements
        };
        self.same_shape(other) && sorted(self) == sorted(other)
    }

    /// Whether one's elements could stand in the other.
    #[must_use]
    pub fn same_shape(&self, other: &Set) -> bool {
        self.family == other.family
            && (self.key_type, self.key_length, self.flags) == (other.key_type, other.key_length, other.flags)
            && self.counts == other.counts
    }

    /// Whether its keys are ports.
    #[must_use]
    pub const fn is_of_ports(&self) -> bool {
        self.key_type == TYPE_INET_SERVICE
    }

    /// The chains that its verdicts go to.
    pub fn targets(&self) -> impl Iterator<Item = &str> {
        self.elements.iter().filter_map(|element| element.verdict.as_ref()?.chain.as_deref())
    }

    /// Writes the attributes that create it, empty; `id` is its number in the batch.
    pub fn write(&self, id: u32, writer: &mut Writer) {
        writer.text(NFTA_SET_TABLE, super::TABLE);
        writer.text(NFTA_SET_NAME, &self.name);
        writer.u32(NFTA_SET_FLAGS, self.flags);
        writer.u32(NFTA_SET_KEY_TYPE, self.key_type);
        writer.u32(NFTA_SET_KEY_LEN, u32::try_from(self.key_length).unwrap_or(0));
        if self.flags & NFT_SET_MAP != 0 {
            writer.u32(NFTA_SET_DATA_TYPE, NFT_DATA_VERDICT);
            writer.u32(NFTA_SET_DATA_LEN, 0);
        }
        writer.u32(NFTA_SET_ID, id);
        let big = matches!(self.key_type, TYPE_IPADDR | TYPE_IP6ADDR | TYPE_INET_SERVICE);
        let order = if big { BYTEORDER_BIG_ENDIAN } else { BYTEORDER_HOST_ENDIAN };
        writer.bytes(NFTA_SET_USERDATA, &comment::key_order(order));
        if self.counts {
            // Each element gets a counter of its own.
            writer.nest(NFTA_SET_EXPR, |one| {
                one.text(NFTA_EXPR_NAME, "counter");
                one.nest(NFTA_EXPR_DATA, |_| {});
            });
        }
    }

    /// Its elements in parts that fit a message each.
    pub fn chunks(&self) -> impl Iterator<Item = &[Element]> {
        let mut rest = self.elements.as_slice();
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let mut bytes = 0;
            let fits = rest.iter().take_while(|element| {
                bytes += element.most_bytes();
                bytes <= CHUNK
            });
            let (chunk, after) = rest.split_at(fits.count().max(1).min(rest.len()));
            rest = after;
            Some(chunk)
        })
    }

    /// Writes the attributes that add some of its elements.
    pub fn write_elements(&self, elements: &[Element], writer: &mut Writer) {
        writer.text(NFTA_SET_ELEM_LIST_TABLE, super::TABLE);
        writer.text(NFTA_SET_ELEM_LIST_SET, &self.name);
        writer.nest(NFTA_SET_ELEM_LIST_ELEMENTS, |list| {
            for element in elements {
                list.nest(NFTA_LIST_ELEM, |one| element.write(one));
            }
        });
    }
}

impl Element {
    /// No less than what [`Element::write`] makes of it.
    fn most_bytes(&self) -> usize {
        let chain = self.verdict.as_ref().and_then(|verdict| verdict.chain.as_ref()).map_or(0, String::len);
        64 + self.key.len() + self.userdata.len() + chain
    }

    fn write(&self, writer: &mut Writer) {
        writer.nest(NFTA_SET_ELEM_KEY, |key| key.bytes(NFTA_DATA_VALUE, &self.key));
        if let Some(verdict) = &self.verdict {
            writer.nest(NFTA_SET_ELEM_DATA, |data| verdict.write(data));
        }
        if self.end {
            writer.u32(NFTA_SET_ELEM_FLAGS, NFT_SET_ELEM_INTERVAL_END);
        }
        if !self.userdata.is_empty() {
            writer.bytes(NFTA_SET_ELEM_USERDATA, &self.userdata);
        }
    }
}

/// The two elements of an interval; one if it ends where the keys end. Where another begins at once behind it, both the
/// end and the beginning are said: without the end the kernel takes them for one that overlaps (nft_set_rbtree.c).
fn push_interval(
    elements: &mut Vec<Element>,
    length: usize,
    interval: Interval,
    key: impl Fn(u128) -> Vec<u8>,
    verdict: Option<&Code>,
    userdata: &[u8],
) {
    let open = interval.last >= highest(u32::try_from(length * 8).unwrap_or(128));
    let mut userdata = userdata.to_vec();
    if open {
        comment::with_open_end(&mut userdata);
    }
    let first = key(interval.first);
    elements.push(Element { key: first, end: false, verdict: verdict.cloned(), userdata });
    if !open {
        let key = key(interval.last.saturating_add(1));
        elements.push(Element { key, end: true, verdict: None, userdata: Vec::new() });
    }
}

/// Names as numbers: the name with NULs behind it, or all names that begin so.
#[must_use]
pub fn names_interval(name: &IfName) -> Interval {
    let (text, whole) = match name.as_str().strip_suffix('+') {
        Some(beginning) => (beginning, false),
        None => (name.as_str(), true),
    };
    let mut first = [0; IFNAMSIZ];
    let mut last = [if whole { 0 } else { u8::MAX }; IFNAMSIZ];
    for ((low, high), byte) in first.iter_mut().zip(&mut last).zip(text.bytes()) {
        (*low, *high) = (byte, byte);
    }
    Interval { first: u128::from_be_bytes(first), last: u128::from_be_bytes(last) }
}

/// FNV-1a, 64 bits (<http://www.isthe.com/chongo/tech/comp/fnv>): the same on every machine and for ever.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Fnv {
        Fnv(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    /// A part and its length, so that no two lists of parts are the same bytes.
    fn part(&mut self, bytes: &[u8]) {
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes();
        for byte in length.iter().chain(bytes) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::nftables::interval::of_cidr;

    fn nets(texts: &[&str]) -> Set {
        let intervals: Vec<Interval> = texts.iter().map(|text| of_cidr(&text.parse().unwrap())).collect();
        Set::of_intervals(Family::V4, Key::Address(Family::V4), &intervals)
    }

    #[test]
    fn the_name_is_the_content() {
        let set = nets(&["10.0.0.0/8", "192.168.0.0/16"]);
        // Part of the interface: another name for the same set is a needless replacement after an upgrade.
        assert_eq!(set.name, "nets_8aa2354282dc");
        assert_eq!(set.name, nets(&["10.0.0.0/8", "192.168.0.0/16"]).name);
        assert_ne!(set.name, nets(&["10.0.0.0/8"]).name);
        let uids = |key| Set::of_ids(Family::V4, key, [1, 2].into_iter()).name;
        assert_ne!(uids(Key::Uid), uids(Key::Gid));
        assert_ne!(uids(Key::Uid), Set::of_ids(Family::V6, Key::Uid, [1, 2].into_iter()).name);
    }

    #[test]
    fn the_last_key_needs_no_end() {
        let keys = |set: &Set| -> Vec<(Vec<u8>, bool)> {
            set.elements.iter().map(|element| (element.key.clone(), element.end)).collect()
        };
        assert_eq!(keys(&nets(&["10.0.0.0/8"])), [(vec![10, 0, 0, 0], false), (vec![11, 0, 0, 0], true)]);
        assert_eq!(keys(&nets(&["255.0.0.0/8"])), [(vec![255, 0, 0, 0], false)]);
        let ports = Set::of_intervals(Family::V4, Key::Port, &[Interval { first: 65_535, last: 65_535 }]);
        assert_eq!(keys(&ports), [(vec![255, 255], false)]);
    }

    #[test]
    fn large_sets_are_cut_and_nothing_is_lost() {
        let intervals: Vec<Interval> =
            (0..10_000).map(|n| Interval { first: n * 4, last: n * 4 + 1 }).collect();
        let set = Set::of_intervals(Family::V6, Key::Address(Family::V6), &intervals);
        assert_eq!(set.chunks().map(<[Element]>::len).sum::<usize>(), 20_000);
        for chunk in set.chunks() {
            let mut writer = Writer::new();
            set.write_elements(chunk, &mut writer);
            assert!(writer.finish().is_some_and(|bytes| bytes.len() < 65_536));
        }
    }

    #[test]
    fn names_that_begin_so_are_an_interval() {
        let names =
            |list: &[&str]| -> Vec<IfName> { list.iter().map(|name| name.parse().unwrap()).collect() };
        assert_eq!(Set::of_interfaces(Family::V4, &names(&["eth0", "lo"])).flags, 0);
        let set = Set::of_interfaces(Family::V4, &names(&["eth+", "lo"]));
        assert_eq!(set.flags, NFT_SET_INTERVAL);
        assert_eq!(set.elements[0].key, b"eth\0\0\0\0\0\0\0\0\0\0\0\0\0");
        assert_eq!(set.elements[1].key, b"eti\0\0\0\0\0\0\0\0\0\0\0\0\0");
        assert_eq!(set.elements[3].key, b"lo\0\0\0\0\0\0\0\0\0\0\0\0\0\x01");
    }
}
