//! What can go wrong once the input is good, by class; the class is the exit code.
//!
//! Bad input is not an [`Error`] but a list of `input::Fault`, because all of them are reported at once.

use std::fmt;

/// The exit codes of every verb. They are part of the interface: scripts and kubelets branch on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The kernel or a tool refused; nothing was left half-done.
    Refused,
    /// Bad input; nothing was changed. The value is `EX_USAGE` of sysexits(3).
    Usage,
    /// The host lacks something, which the message names (`EX_UNAVAILABLE`).
    Host,
    /// Somebody else is at it: try again (`EX_TEMPFAIL`).
    TryAgain,
    /// A privilege is missing, which the message names (`EX_NOPERM`).
    Privilege,
    /// Capture does not hold: the code that Istio's repair controller looks for.
    NotCaptured,
}

impl Class {
    /// The process exit code of this class.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Class::Refused => 1,
            Class::Usage => 64,
            Class::Host => 69,
            Class::TryAgain => 75,
            Class::Privilege => 77,
            Class::NotCaptured => 126,
        }
    }
}

/// A failure: what failed, with which value, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// Decides the exit code.
    pub class: Class,
    /// What failed: lower case, no full stop.
    pub problem: String,
    /// What the reader can do.
    pub remedy: Option<String>,
}

/// Shorthand for the results of everything that touches the machine.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of `class` with nothing to advise yet.
    #[must_use]
    pub fn new(class: Class, problem: impl Into<String>) -> Self {
        Error { class, problem: problem.into(), remedy: None }
    }

    /// The kernel or a tool said no.
    #[must_use]
    pub fn refused(problem: impl Into<String>) -> Self {
        Error::new(Class::Refused, problem)
    }

    /// The host lacks something.
    #[must_use]
    pub fn host(problem: impl Into<String>) -> Self {
        Error::new(Class::Host, problem)
    }

    /// Adds what the reader can do.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problem)?;
        match &self.remedy {
            Some(remedy) => write!(f, "; {remedy}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}
