//! Shared parts of the tests that need a kernel: namespaces, hosts with wires between them, credentials,
//! listeners that say who they are, and what the rules of a namespace look like from outside.
//!
//! Nothing in here knows what `mesh-init` ought to do.

pub(crate) mod bpf;
pub(crate) mod call;
pub(crate) mod cgroup;
pub(crate) mod clients;
pub(crate) mod command;
pub(crate) mod compat;
pub(crate) mod creds;
pub(crate) mod dial;
pub(crate) mod netns;
pub(crate) mod pins;
pub(crate) mod queries;
pub(crate) mod resolv;
pub(crate) mod rules;
pub(crate) mod sbin;
pub(crate) mod segment;
pub(crate) mod serve;
pub(crate) mod tap;
pub(crate) mod terminal;
pub(crate) mod traced;
pub(crate) mod uring;
pub(crate) mod users;
pub(crate) mod victim;
pub(crate) mod wire;
