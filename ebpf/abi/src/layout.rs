//! Keys and values of the maps. All network namespaces of a node share them: each key begins with the namespace's cookie
//! and the generation of its policy, so that a new policy is written beside the old one and taken up at once, by the one
//! write of [`Policy`].
//!
//! The layouts are an interface between programs that may be of two versions: they are only ever appended to.

use core::mem::{align_of, offset_of, size_of};

use crate::{Address, NetFlags, OwnerFlags, PolicyFlags, PortFlags};

/// Bits of a key before what its prefix is of: the generation and the cookie.
pub const SCOPE_BITS: u32 = 96;

/// Which reading of a policy holds: what the layouts of that name mean.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Meaning(pub u32);

impl Meaning {
    /// Nothing is captured.
    pub const NOTHING: Meaning = Meaning(0);
    /// `proxy_init` 0.7.1.
    pub const CLASSIC: Meaning = Meaning(1);
    /// A host that is not all ours.
    pub const SCOPED: Meaning = Meaning(2);
    /// Today's istio-iptables, as it is meant.
    pub const ISTIO: Meaning = Meaning(3);
    /// Today's istio-iptables to the letter.
    pub const ISTIO_IPTABLES: Meaning = Meaning(4);
}

/// What decides of a whole network namespace.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Policy {
    /// The generation under which the rest of the policy is found.
    pub generation: u32,
    /// The reading.
    pub meaning: Meaning,
    /// What the policy says as a whole.
    pub flags: PolicyFlags,
    /// Where captured outbound connections go. Ports are in host byte order.
    pub outbound_port: u16,
    /// Where captured inbound connections go.
    pub inbound_port: u16,
    /// The HBONE port, which the proxy serves itself.
    pub tunnel_port: u16,
    /// Where captured DNS queries go.
    pub dns_port: u16,
}

/// What holds of a whole network namespace. Hash, by the namespace's cookie (`bpf_get_netns_cookie`, bpf-helpers(7)).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Namespace {
    /// What decides.
    pub policy: Policy,
    /// What captured connections of IPv4 are sent from, unless their socket is bound: the host's address, for the proxy to
    /// see; [`Address::NONE`] for the loopback one.
    pub source_v4: Address,
    /// The same of IPv6, but for TCP.
    pub source_v6: Address,
    /// The number of the control group in which only the proxy runs, its lower half; zero if there is none.
    pub proxy_group: u32,
    /// The upper half.
    pub proxy_group_end: u32,
}

/// A network. LPM trie (`struct bpf_lpm_trie_key_u8`, include/uapi/linux/bpf.h), to [`NetFlags`].
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct NetKey {
    /// How many bits of what follows count.
    pub prefix_len: u32,
    /// The policy's generation.
    pub generation: u32,
    /// The namespace's cookie.
    pub netns: u64,
    /// The network's first address.
    pub address: Address,
}

/// A range of ports that is a prefix. LPM trie, to [`PortFlags`].
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortKey {
    /// How many bits of what follows count.
    pub prefix_len: u32,
    /// The policy's generation.
    pub generation: u32,
    /// The namespace's cookie.
    pub netns: u64,
    /// The range's first port, in network byte order.
    pub port: u16,
    /// Zero. Two numbers and no array, which would be set by a call of `memset`: its loop is pointer arithmetic that the
    /// verifier takes with CAP_PERFMON only.
    pub reserved: u16,
    /// Zero.
    pub reserved_end: u32,
}

/// Whether an id is a user's or a group's.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct OwnerKind(pub u32);

impl OwnerKind {
    /// A user.
    pub const USER: OwnerKind = OwnerKind(0);
    /// A group.
    pub const GROUP: OwnerKind = OwnerKind(1);
}

/// A user or a group. Hash, to [`OwnerFlags`].
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct OwnerKey {
    /// The namespace's cookie.
    pub netns: u64,
    /// The policy's generation.
    pub generation: u32,
    /// Whose id it is.
    pub kind: OwnerKind,
    /// The id, as the initial user namespace has it.
    pub id: u32,
    /// Zero.
    pub reserved: u32,
}

/// An address of the host's own. Hash, to nothing: that it is there says it all.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct AddressKey {
    /// The namespace's cookie.
    pub netns: u64,
    /// The address.
    pub address: Address,
}

/// A value that says nothing: maps have no empty ones.
pub type Present = u32;

/// How often a clause decided. Hash, to a number; only what the loader has put there is counted. A key for each clause and no
/// array of them: to find a place in an array is pointer arithmetic that the verifier takes with CAP_PERFMON only.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CounterKey {
    /// The namespace's cookie.
    pub netns: u64,
    /// The number of [`crate::Clause`].
    pub clause: u32,
    /// Zero.
    pub reserved: u32,
}

impl NetKey {
    /// The network of `prefix_len` bits of the 128 that an address has in IPv6's form.
    #[inline(always)]
    #[must_use]
    pub const fn network(netns: u64, generation: u32, address: Address, prefix_len: u8) -> NetKey {
        let prefix_len = SCOPE_BITS.saturating_add(prefix_len as u32);
        NetKey { prefix_len, generation, netns, address }
    }

    /// What `address` is looked up by.
    #[inline(always)]
    #[must_use]
    pub const fn look_up(netns: u64, generation: u32, address: Address) -> NetKey {
        NetKey::network(netns, generation, address, 128)
    }
}

impl PortKey {
    /// The ports that share the first `prefix_len` bits of 16 with `port`, which is in host byte order.
    #[inline(always)]
    #[must_use]
    pub const fn range(netns: u64, generation: u32, port: u16, prefix_len: u8) -> PortKey {
        let prefix_len = SCOPE_BITS.saturating_add(prefix_len as u32);
        PortKey { prefix_len, generation, netns, port: port.to_be(), reserved: 0, reserved_end: 0 }
    }

    /// What `port` is looked up by.
    #[inline(always)]
    #[must_use]
    pub const fn look_up(netns: u64, generation: u32, port: u16) -> PortKey {
        PortKey::range(netns, generation, port, 16)
    }
}

impl OwnerKey {
    /// The key of an id.
    #[inline(always)]
    #[must_use]
    pub const fn of(netns: u64, generation: u32, kind: OwnerKind, id: u32) -> OwnerKey {
        OwnerKey { netns, generation, kind, id, reserved: 0 }
    }
}

// A byte that Rust leaves between two fields is not initialised, and the kernel compares it.
const _: () = {
    assert!(size_of::<Policy>() == 20 && align_of::<Policy>() == 4);
    assert!(offset_of!(Policy, meaning) == 4 && offset_of!(Policy, flags) == 8);
    assert!(offset_of!(Policy, outbound_port) == 12 && offset_of!(Policy, inbound_port) == 14);
    assert!(offset_of!(Policy, tunnel_port) == 16 && offset_of!(Policy, dns_port) == 18);
    assert!(size_of::<Namespace>() == 60 && align_of::<Namespace>() == 4);
    assert!(offset_of!(Namespace, source_v4) == 20 && offset_of!(Namespace, source_v6) == 36);
    assert!(offset_of!(Namespace, proxy_group) == 52 && offset_of!(Namespace, proxy_group_end) == 56);
    assert!(size_of::<AddressKey>() == 24 && offset_of!(AddressKey, address) == 8);
    assert!(size_of::<CounterKey>() == 16 && offset_of!(CounterKey, clause) == 8);
    assert!(offset_of!(CounterKey, reserved) == 12);
    assert!(size_of::<NetKey>() == 32 && offset_of!(NetKey, generation) == 4);
    assert!(offset_of!(NetKey, netns) == 8 && offset_of!(NetKey, address) == 16);
    assert!(size_of::<PortKey>() == 24 && offset_of!(PortKey, generation) == 4);
    assert!(offset_of!(PortKey, netns) == 8 && offset_of!(PortKey, port) == 16);
    assert!(offset_of!(PortKey, reserved) == 18 && offset_of!(PortKey, reserved_end) == 20);
    assert!(size_of::<OwnerKey>() == 24 && offset_of!(OwnerKey, generation) == 8);
    assert!(offset_of!(OwnerKey, kind) == 12 && offset_of!(OwnerKey, id) == 16);
    assert!(offset_of!(OwnerKey, reserved) == 20);
    assert!(size_of::<NetFlags>() == 4 && size_of::<PortFlags>() == 4 && size_of::<OwnerFlags>() == 4);
    // Generation and cookie stand between the prefix's length and what the prefix is of.
    assert!(SCOPE_BITS == 8 * (4 + 8));
};
