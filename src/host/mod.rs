//! The order of effects: look, check, do, read back, undo. No policy decisions.

pub mod apply;
pub mod facts;
pub mod machine;
pub mod namespace;
pub mod observe;
pub mod preflight;
pub mod routing;

pub use machine::Machine;

/// Whether this is the first process of its PID namespace: with it, all others end (pid_namespaces(7)).
#[must_use]
pub fn is_first_process() -> bool {
    crate::sys::privilege::is_first_process()
}
