//! Faults of the input: every one of them is collected, with origin, value and remedy, and told at once.

use std::borrow::Cow;
use std::fmt;

use super::{Origin, Sourced};

/// How much of a bad value an error quotes; a 10 MB value must not become a 10 MB message.
const QUOTED: usize = 64;
/// How many faults are kept and told one by one; the rest are counted.
const TOLD: usize = 50;

/// One thing wrong with the input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where the value stood; `None` for a fault of the whole (a missing flag).
    pub origin: Option<Origin>,
    /// The value, shortened and escaped for quoting; empty if the fault is not about one value.
    pub value: String,
    /// What is wrong: lower case, no full stop.
    pub problem: String,
    /// What to do about it.
    pub remedy: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.origin, self.value.is_empty()) {
            (Some(origin), false) => write!(f, "{origin}: {} {}", self.value, self.problem)?,
            (Some(origin), true) => write!(f, "{origin}: {}", self.problem)?,
            (None, false) => write!(f, "{} {}", self.value, self.problem)?,
            (None, true) => write!(f, "{}", self.problem)?,
        }
        write!(f, ": {}", self.remedy)
    }
}

/// The collector that every parser of values writes to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Faults {
    list: Vec<Fault>,
    beyond: usize,
}

impl Faults {
    fn push(
        &mut self,
        origin: Option<Origin>,
        value: String,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let fault = Fault { origin, value, problem: problem.into(), remedy: remedy.into() };
        if self.are_many() {
            self.beyond += 1;
        } else if !self.list.contains(&fault) {
            self.list.push(fault);
        }
    }

    /// A fault about one given value, or a part of it.
    pub fn value(
        &mut self,
        given: &Sourced,
        part: &str,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        // Of a million wrong items only the first few are worth the words.
        match self.are_many() {
            true => self.beyond += 1,
            false => self.push(Some(given.origin.clone()), quote(part), problem, remedy),
        }
    }

    /// A fault about a given option as a whole: that it stands there, not what it says.
    pub fn option(&mut self, given: &Sourced, problem: impl Into<String>, remedy: impl Into<String>) {
        let value = if given.text.is_empty() { String::new() } else { quote(&given.text) };
        self.push(Some(given.origin.clone()), value, problem, remedy);
    }

    /// A fault about a source (an unreadable line, a file).
    pub fn source(&mut self, origin: Origin, problem: impl Into<String>, remedy: impl Into<String>) {
        self.push(Some(origin), String::new(), problem, remedy);
    }

    /// A fault about a word that has no origin, being part of nothing.
    pub fn word(&mut self, word: &str, problem: impl Into<String>, remedy: impl Into<String>) {
        self.push(None, quote(word), problem, remedy);
    }

    /// A fault about the input as a whole.
    pub fn whole(&mut self, problem: impl Into<String>, remedy: impl Into<String>) {
        self.push(None, String::new(), problem, remedy);
    }

    /// Adds what is wrong elsewhere.
    pub fn extend(&mut self, other: Faults) {
        for fault in other.list {
            self.push(fault.origin, fault.value, fault.problem, fault.remedy);
        }
        self.beyond += other.beyond;
    }

    /// The faults that are told one by one.
    #[must_use]
    pub fn list(&self) -> &[Fault] {
        &self.list
    }

    /// How many more there are.
    #[must_use]
    pub fn beyond(&self) -> usize {
        self.beyond
    }

    /// Whether as many are kept as are told: of one more only the number counts, so that no work is worth its words.
    #[must_use]
    pub fn are_many(&self) -> bool {
        self.list.len() >= TOLD
    }

    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Both values, or everything that is wrong with either.
    ///
    /// # Errors
    /// The faults of both.
    pub fn both<A, B>(one: Result<A, Faults>, other: Result<B, Faults>) -> Result<(A, B), Faults> {
        match (one, other) {
            (Ok(one), Ok(other)) => Ok((one, other)),
            (one, other) => {
                let mut faults = one.err().unwrap_or_default();
                faults.extend(other.err().unwrap_or_default());
                Err(faults)
            }
        }
    }

    /// `value` if nothing is wrong, else everything that is.
    ///
    /// # Errors
    /// The collected faults.
    pub fn into_result<T>(self, value: T) -> Result<T, Faults> {
        if self.is_empty() { Ok(value) } else { Err(self) }
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for fault in &self.list {
            writeln!(f, "{fault}")?;
        }
        match self.beyond {
            0 => Ok(()),
            more => writeln!(f, "and {more} more faults like these"),
        }
    }
}

/// `text` as it may stand unquoted in a message: as it is if it is short and plain, else quoted.
#[must_use]
pub fn plain(text: &str) -> Cow<'_, str> {
    match text.chars().count() <= 4 * QUOTED && !text.chars().any(char::is_control) {
        true => Cow::Borrowed(text),
        false => Cow::Owned(quote(text)),
    }
}

/// `text` as it may stand in a message: quoted, control characters escaped, shortened.
#[must_use]
pub fn quote(text: &str) -> String {
    let mut short: String = text.chars().take(QUOTED).collect();
    if short.len() < text.len() {
        short.push('…');
        return format!("{short:?} ({} bytes)", text.len());
    }
    format!("{short:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quote_escapes_and_shortens() {
        assert_eq!(quote("80\n-j ACCEPT"), r#""80\n-j ACCEPT""#);
        let long = "9".repeat(10_000_000);
        let quoted = quote(&long);
        assert!(quoted.len() < 120, "{quoted}");
        assert!(quoted.ends_with("(10000000 bytes)"), "{quoted}");
    }

    #[test]
    fn many_faults_are_counted_not_listed() {
        let mut faults = Faults::default();
        for n in 0..60 {
            faults.whole(format!("fault {n}"), "mend it");
        }
        let text = faults.to_string();
        assert_eq!(text.lines().count(), 51, "{text}");
        assert!(text.ends_with("and 10 more faults like these\n"), "{text}");
    }
}
