//! Tests that need no privileges: values in, values out, and the program as a user calls it.

mod cli;
mod golden;
mod layers;
mod older;
mod properties;
