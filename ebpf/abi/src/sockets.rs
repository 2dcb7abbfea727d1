//! What is remembered of single sockets, and what hands it from one to the other.

use core::mem::{align_of, offset_of, size_of};

use crate::{Address, SockFlags};

/// An address and a port.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    /// The address.
    pub address: Address,
    /// The port, in host byte order. A whole word: nothing is left between the fields.
    pub port: u32,
}

impl Endpoint {
    /// None at all.
    pub const NONE: Endpoint = Endpoint { address: Address::NONE, port: 0 };
}

/// What is remembered of a socket. Socket storage, which an accepted socket inherits from its listener
/// (`BPF_F_CLONE`, include/uapi/linux/bpf.h).
///
/// Sockets outlive the programs that wrote this: it is only ever appended to.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sock {
    /// What holds.
    pub flags: SockFlags,
    /// The user who made it, as the initial user namespace has it.
    pub uid: u32,
    /// The group, likewise.
    pub gid: u32,
    /// Where it was sent.
    pub target: Endpoint,
    /// Where it was meant to go.
    pub original: Endpoint,
    /// What it is to be sent from; [`Address::NONE`] for what the kernel chooses.
    pub source: Address,
}

impl Sock {
    /// Nothing is known.
    pub const NEW: Sock = Sock {
        flags: SockFlags::NONE,
        uid: 0,
        gid: 0,
        target: Endpoint::NONE,
        original: Endpoint::NONE,
        source: Address::NONE,
    };
}

/// A connection on its way over `lo`, from the first packet to `accept`. LRU hash, to the [`Endpoint`] that it was meant
/// for.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PairKey {
    /// The namespace's cookie.
    pub netns: u64,
    /// The end that connects.
    pub client: Endpoint,
    /// The end that accepts.
    pub server: Endpoint,
}

/// A listener of the proxy's. Socket hash.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenerKey {
    /// The namespace's cookie.
    pub netns: u64,
    /// Which one: the first [`LISTENERS`] are IPv4 sockets, as many more are IPv6 sockets, which may take both families.
    pub place: u32,
    /// The port that it listens on, in host byte order: a new policy with another port has other listeners at once.
    pub port: u32,
}

/// How many listeners of one family and port are known: those of workers, and of a proxy that goes beside the one that comes.
/// With `SO_REUSEPORT` one is as good as all of its group.
pub const LISTENERS: u32 = 8;

impl ListenerKey {
    /// All places of a port.
    pub const PLACES: u32 = 2 * LISTENERS;

    /// The first place of a family.
    #[inline(always)]
    #[must_use]
    pub const fn first(ipv6: bool) -> u32 {
        match ipv6 {
            true => LISTENERS,
            false => 0,
        }
    }
}

const _: () = {
    assert!(size_of::<Endpoint>() == 20 && align_of::<Endpoint>() == 4 && offset_of!(Endpoint, port) == 16);
    assert!(
        size_of::<Sock>() == 68
            && offset_of!(Sock, source) == 52
            && offset_of!(Sock, uid) == 4
            && offset_of!(Sock, gid) == 8
    );
    assert!(offset_of!(Sock, target) == 12 && offset_of!(Sock, original) == 32);
    assert!(
        size_of::<PairKey>() == 48 && offset_of!(PairKey, client) == 8 && offset_of!(PairKey, server) == 28
    );
    assert!(size_of::<ListenerKey>() == 16 && offset_of!(ListenerKey, place) == 8);
    assert!(offset_of!(ListenerKey, port) == 12);
};
