//! Waiting between two rounds of something that goes on until it is told to end.

use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::os::fd::AsFd;

use crate::error::{Error, Result};

/// From its making on, SIGTERM and SIGINT end the waiting and nothing else: a round is never cut, also not that of a
/// container's first process, to which the kernel delivers no signal that is neither blocked nor handled.
#[derive(Debug)]
pub struct Pause {
    ends: SignalFd,
}

impl Pause {
    /// Takes the two signals over for the rest of the run.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn new() -> Result<Pause> {
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGTERM);
        signals.add(Signal::SIGINT);
        let failed = |error: nix::errno::Errno| Error::refused(format!("waiting for signals: {error}"));
        signals.thread_block().map_err(failed)?;
        let ends = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC).map_err(failed)?;
        Ok(Pause { ends })
    }

    /// Waits; whether the end was asked for.
    #[must_use]
    pub fn ended(&self, wait: Duration) -> bool {
        let mut fds = [PollFd::new(self.ends.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX);
        matches!(poll(&mut fds, timeout), Ok(ready) if ready > 0)
    }
}
