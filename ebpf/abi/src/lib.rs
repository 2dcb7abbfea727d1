//! What `mesh-init` and its BPF programs share: the layouts of the maps between them, and [`decide`], the one function
//! that says what becomes of a connection.
//!
//! A program looks up what the maps hold of a connection and hands the values to `decide`; a test on the host does the
//! same with maps of its own. Nothing here reads a map, takes a slice, divides, or can panic.

#![no_std]

mod address;
mod decision;
mod flags;
mod layout;
mod sockets;
mod surprises;

pub use address::Address;
pub use decision::{Clause, Decision, Flow, Socket, Verdict, Way, decide};
pub use flags::{NetFlags, OwnerFlags, PolicyFlags, PortFlags, SockFlags};
pub use layout::{
    AddressKey, CounterKey, Meaning, Namespace, NetKey, OwnerKey, OwnerKind, Policy, PortKey, Present,
    SCOPE_BITS,
};
pub use sockets::{Endpoint, LISTENERS, ListenerKey, PairKey, Sock};
pub use surprises::{Surprise, SurpriseKey, SurpriseKind};
