//! Ports, flattened for one look-up of the longest prefix: ranges become the few prefixes that they consist of.

use mesh_init_abi::PortFlags;

use crate::policy::PortSet;

/// All of them, and 0.
const PORTS: usize = 1 << 16;

/// Ports that share the first bits of 16: the lowest, how many bits, and what is said of them.
pub type Entry = (u16, u8, PortFlags);

/// The entries that say of every port what the lists together say of it. No port is in two of them; a port of which
/// nothing is said is in none.
#[must_use]
pub fn flatten(lists: &[(&PortSet, PortFlags)]) -> Vec<Entry> {
    let mut said = vec![PortFlags::NONE; PORTS];
    for (ports, flags) in lists {
        let mut ranges = ports.ranges().to_vec();
        ranges.sort_unstable();
        // Ranges may overlap: below `next` everything is said.
        let mut next = 0;
        for range in ranges {
            let (first, last) = (usize::from(range.first.number()), usize::from(range.last.number()));
            for of in said.get_mut(first.max(next)..=last).into_iter().flatten() {
                *of = of.and(*flags);
            }
            next = next.max(last + 1);
        }
    }
    let mut entries = Vec::new();
    let mut first = 0;
    for run in said.chunk_by(|one, other| one == other) {
        let end = first + run.len();
        if let Some(flags) = run.first().filter(|flags| **flags != PortFlags::NONE) {
            entries.extend(prefixes(first, end).map(|(port, prefix_len)| (port, prefix_len, *flags)));
        }
        first = end;
    }
    entries
}

/// The largest prefixes that the ports from `first` to before `end` consist of.
fn prefixes(first: usize, end: usize) -> impl Iterator<Item = (u16, u8)> {
    let mut next = first;
    std::iter::from_fn(move || {
        let port = u16::try_from(next).ok().filter(|_| next < end)?;
        // As many as its place allows (2^n ports are a prefix if they begin at a multiple of 2^n), and as are left.
        let mut free = 0;
        while free < 16 && next.is_multiple_of(2 << free) && next + (2 << free) <= end {
            free += 1;
        }
        next += 1 << free;
        Some((port, 16 - free))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Port, PortRange};

    fn set(text: &str) -> PortSet {
        let ranges = text.split(',').filter(|text| !text.is_empty());
        ranges.map(|text| text.parse::<PortRange>().expect("ports")).collect()
    }

    #[test]
    fn ranges_are_few_prefixes() {
        let flat = |text: &str| -> Vec<(u16, u8)> {
            let entries = flatten(&[(&set(text), PortFlags::IN_NAMED)]);
            entries.into_iter().map(|(port, len, _)| (port, len)).collect()
        };
        assert_eq!(flat(""), []);
        assert_eq!(flat("80"), [(80, 16)]);
        assert_eq!(flat("80,81,80-81"), [(80, 15)]);
        assert_eq!(flat("32768-65535"), [(32768, 1)]);
        assert_eq!(flat("65535"), [(65535, 16)]);
        // One in another, and one after both.
        assert_eq!(flat("16-31,18,32"), [(16, 12), (32, 16)]);
        assert_eq!(flat("1-65535").len(), 16);
        assert_eq!(flat("3-8"), [(3, 16), (4, 14), (8, 16)]);
    }

    /// Every port of 65,536 has what the lists say of it, and is in one entry at most.
    #[test]
    fn every_port_has_what_the_lists_say() {
        let (one, other, third) = (set("22,1000-2999,65535"), set("80,2000-40000,40001"), set("2500,1-3"));
        let lists = [
            (&one, PortFlags::OUT_EXCLUDED),
            (&other, PortFlags::OUT_INCLUDED),
            (&third, PortFlags::IN_NAMED),
        ];
        let entries = flatten(&lists);
        for number in 0..=u16::MAX {
            let inside = |entry: &&Entry| {
                let shift = 16 - u32::from(entry.1);
                u32::from(entry.0) >> shift == u32::from(number) >> shift
            };
            let found: Vec<PortFlags> = entries.iter().filter(inside).map(|entry| entry.2).collect();
            let named = |set: &PortSet| Port::of(number).is_some_and(|port| set.contains(port));
            let said =
                lists.iter().fold(PortFlags::NONE, |all, (set, flags)| all.and(flags.only_if(named(set))));
            let expected = if said == PortFlags::NONE { vec![] } else { vec![said] };
            assert_eq!(found, expected, "{number}");
        }
    }
}
