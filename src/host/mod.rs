//! The order of effects: look, check, do, read back, undo. No policy decisions.

pub mod apply;
pub mod facts;
pub mod machine;
pub mod namespace;
pub mod observe;
pub mod preflight;
pub mod routing;

pub use machine::Machine;
