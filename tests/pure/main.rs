//! Tests that need no privileges: values in, values out, and the program as a user calls it.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

// A module of the program that is compiled here from its own file names these from the root.
use mesh_init::{backend, input, policy, rules};

mod agree;
mod chain;
mod cli;
mod decision;
mod golden;
mod layers;
mod older;
mod properties;
mod sets;
