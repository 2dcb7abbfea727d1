//! Rules to steps: what has to be done to a machine in a known state. Pure; runs nothing.

pub mod choose;
pub mod claim;
pub mod difference;
pub mod ebpf;
pub mod iptables;
pub mod nftables;
pub mod observed;
pub mod ownership;
pub mod plan;

pub use observed::{Observed, Tools};
pub use plan::{Plan, Restore, Stage};
