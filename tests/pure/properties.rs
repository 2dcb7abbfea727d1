//! What must hold for every policy, every state of a machine and every text, tried on random ones.

mod annotations;
mod change;
mod conflist;
mod drawings;
#[path = "../../fuzz/src/lib.rs"]
mod fuzz;
mod garbage;
pub(crate) mod given;
mod machine;
mod nftables;
pub(crate) mod nftables_given;
mod policy;
mod recover;
mod seeds;

use proptest::test_runner::Config;

/// So many cases, and no file of failures: a failing case goes to `fuzz/seeds` or becomes a test of its own.
pub(crate) fn cases(cases: u32) -> Config {
    Config { cases, failure_persistence: None, ..Config::default() }
}
