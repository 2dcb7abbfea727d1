//! `mesh-init` decides which traffic of a pod or VM a service mesh's sidecar sees.
//!
//! The program runs one way through, and its folders are the stations:
//!
//! ```text
//! text -> input::Raw -> policy::CapturePolicy -> rules::RuleSet -> backend::Plan -> host -> sys -> kernel
//!                                                                                     \-> report
//! ```
//!
//! Everything left of [`host`] is pure: values in, values out. [`sys`] alone has effects and `unsafe`.
//! What the machine says (`Facts`, `Observed`, `Tools`) enters as plain values before planning; nothing calls
//! back up. `tests/pure/layers.rs` fails the build on an import against the arrows.

pub mod backend;
pub mod cli;
pub mod cni;
pub mod error;
pub mod eval;
pub mod host;
pub mod input;
pub mod netlink;
pub mod policy;
pub mod report;
pub mod rules;
pub mod run;
pub mod sys;
