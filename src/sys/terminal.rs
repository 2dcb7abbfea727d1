//! Showing something again and again.

use std::io::{ErrorKind, IsTerminal, Write, stdout};

use crate::error::{Error, Result};

/// Whether a person looks at stdout.
#[must_use]
pub fn is_terminal() -> bool {
    stdout().is_terminal()
}

/// Writes `text`, over the last `back` lines (ECMA-48, CPL and ED). `Ok(false)` if nobody reads any more.
///
/// # Errors
/// stdout cannot be written.
pub fn show(text: &str, back: usize) -> Result<bool> {
    let mut out = stdout().lock();
    let over = if back > 0 { format!("\x1b[{back}F\x1b[J") } else { String::new() };
    match out.write_all(format!("{over}{text}").as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Error::refused(format!("stdout cannot be written: {error}"))),
    }
}
