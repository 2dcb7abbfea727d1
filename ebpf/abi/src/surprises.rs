//! What a policy did not foresee, for people to see.

use core::mem::{offset_of, size_of};

use crate::Address;

/// What happened.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SurpriseKind(pub u32);

impl SurpriseKind {
    /// What arrived was refused: no listener of the proxy's is known. Of the client's address, and the port that it called.
    pub const NO_LISTENER: SurpriseKind = SurpriseKind(1);
    /// The proxy's outbound port was reached by who was not captured, or is not known any more. Of the client's address, and
    /// that port.
    pub const NOT_CAPTURED: SurpriseKind = SurpriseKind(2);
    /// The proxy saw a loopback address, for the host's own could not be had. Of that one, and the port that was called.
    pub const NO_SOURCE: SurpriseKind = SurpriseKind(3);
    /// A call was refused: there was no memory to remember where it was meant to go. Of that address and port.
    pub const NO_MEMORY: SurpriseKind = SurpriseKind(4);
}

/// What happened to whom. LRU hash, to [`Surprise`]: what is the longest ago gives way.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SurpriseKey {
    /// The namespace's cookie.
    pub netns: u64,
    /// What happened.
    pub kind: SurpriseKind,
    /// A port, in host byte order.
    pub port: u32,
    /// An address.
    pub address: Address,
}

/// How often, and when.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Surprise {
    /// How often.
    pub count: u64,
    /// When it was the last time, in nanoseconds of CLOCK_MONOTONIC (clock_gettime(2)).
    pub last: u64,
}

const _: () = {
    assert!(size_of::<SurpriseKey>() == 32 && offset_of!(SurpriseKey, kind) == 8);
    assert!(offset_of!(SurpriseKey, port) == 12 && offset_of!(SurpriseKey, address) == 16);
    assert!(size_of::<Surprise>() == 16 && offset_of!(Surprise, last) == 8);
};
