//! The CNI plugin as a runtime meets it: a process with an environment and standard input.
//!
//! `protocol` and `verbs` have an obligation of the specification (or of libcni and the Go library, where that says
//! less) in every case; `capture` and `sockets` make connections, `trouble` has what goes wrong around a call, `many` many at once.

mod capture;
mod many;
mod protocol;
mod runtime;
mod sockets;
mod trouble;
mod verbs;

use crate::harness::{Case, Check};

pub(crate) fn cases() -> Vec<Case> {
    let cases = [
        protocol::cases(),
        verbs::cases(),
        capture::cases(),
        trouble::cases(),
        many::cases(),
        sockets::cases(),
    ];
    cases.into_iter().flatten().collect()
}

pub(crate) fn checks() -> Vec<Check> {
    many::checks()
}
