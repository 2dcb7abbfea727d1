//! Time as the kernel counts it.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Since some beginning, which is that of `bpf_ktime_get_ns` (bpf-helpers(7)); it stands still while the machine sleeps.
#[must_use]
pub fn monotonic() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default()
}
