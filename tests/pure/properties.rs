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

/// So many cases, or `MESH_INIT_TEST_CASES` percent of them, and no file of failures: a failing case goes to
/// `fuzz/seeds` or becomes a test of its own.
pub(crate) fn cases(cases: u32) -> Config {
    let percent = std::env::var("MESH_INIT_TEST_CASES").unwrap_or_else(|_| "100".to_owned());
    let percent: u32 = percent.parse().expect("MESH_INIT_TEST_CASES is a percentage");
    Config { cases: (cases * percent).div_ceil(100), failure_persistence: None, ..Config::default() }
}
