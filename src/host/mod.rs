//! The order of effects: look, check, do, read back, undo. No policy decisions.

pub mod able;
pub mod apply;
pub mod chain;
pub mod ebpf;
pub mod facts;
pub mod machine;
pub mod namespace;
pub mod native;
pub mod observe;
pub mod preflight;
pub mod probe;
pub mod routing;
pub mod trace;

pub use machine::Machine;

/// Our own user and group.
#[must_use]
pub fn own_ids() -> (u32, u32) {
    crate::sys::privilege::own_ids()
}

/// Whether a change waits in this namespace to be confirmed.
#[must_use]
pub fn holder_waits() -> bool {
    crate::sys::holder::find().is_some()
}

/// Whether this is the first process of its PID namespace: with it, all others end (pid_namespaces(7)).
#[must_use]
pub fn is_first_process() -> bool {
    crate::sys::privilege::is_first_process()
}
