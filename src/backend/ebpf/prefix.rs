//! Keys of tries: which lies in which, as the kernel has it (kernel/bpf/lpm_trie.c).

use mesh_init_abi::{NetKey, PortKey, SCOPE_BITS};

use super::trie;

/// A key of a trie, of a namespace and a generation.
pub trait Prefix {
    /// What is the same of all that can lie in one another: the generation and the namespace's cookie.
    fn scope(&self) -> (u32, u64);
    /// How many bits count beside these.
    fn length(&self) -> u32;
    /// The bits, the first one first.
    fn bits(&self) -> u128;

    /// Whether `other` lies in it; each lies in itself.
    fn covers(&self, other: &Self) -> bool {
        let differ = (self.bits() ^ other.bits()).checked_shr(128_u32.saturating_sub(self.length()));
        self.scope() == other.scope() && self.length() <= other.length() && differ.unwrap_or_default() == 0
    }
}

impl Prefix for NetKey {
    fn scope(&self) -> (u32, u64) {
        (self.generation, self.netns)
    }

    fn length(&self) -> u32 {
        self.prefix_len.saturating_sub(SCOPE_BITS)
    }

    fn bits(&self) -> u128 {
        trie::bits(self.address)
    }
}

impl Prefix for PortKey {
    fn scope(&self) -> (u32, u64) {
        (self.generation, self.netns)
    }

    fn length(&self) -> u32 {
        self.prefix_len.saturating_sub(SCOPE_BITS)
    }

    fn bits(&self) -> u128 {
        u128::from(u16::from_be(self.port)) << 112
    }
}

/// The entry with the longest prefix that `key` lies in.
#[must_use]
pub fn longest<'a, K: Prefix, V>(entries: &'a [(K, V)], key: &K) -> Option<&'a (K, V)> {
    entries.iter().filter(|(of, _)| of.covers(key)).max_by_key(|(of, _)| of.length())
}
