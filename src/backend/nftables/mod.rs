//! nftables without a program: rules to netlink messages, dumps to rules, and the batches between the two.
//!
//! Ours are two tables, `ip mesh_init` and `ip6 mesh_init`: a family's own table needs no test of the family in
//! every rule, and has NAT on kernels whose `inet` has none (before 5.2). Pure: `sys::nftables` sends and reads.
//!
//! Numbers are from linux/netfilter/nf_tables.h unless another header is named. nf_tables writes numbers in
//! network byte order, and leaves what it compares in registers in the byte order that the packet or the
//! kernel has.

pub mod abi;
pub mod batch;
pub mod comment;
pub mod decode;
pub mod encode;
pub mod interval;
pub mod normal;
pub mod plan;
pub mod script;
pub mod set;
pub mod text;
pub mod trace;
pub mod vmap;
pub mod wire;

pub use batch::Batch;
pub use decode::{Decoded, decode};
pub use encode::{Options, create};
pub use normal::normal;
pub use plan::{plan, removal};

use crate::policy::Family;
use crate::rules::Table;

/// The name of our table of either family.
pub const TABLE: &str = "mesh_init";

/// Our table in the model.
#[must_use]
pub fn table() -> Table {
    Table::Other(TABLE.to_owned())
}

/// `NFPROTO_IPV4` and `NFPROTO_IPV6` of linux/netfilter.h.
#[must_use]
pub const fn nfproto(family: Family) -> u8 {
    match family {
        Family::V4 => 2,
        Family::V6 => 10,
    }
}

/// nft's word for a family.
#[must_use]
pub const fn word(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}
