//! Answers: typed outcomes of the verbs, as text for people and JSON for programs. Strings out, nothing printed.

mod decided;
mod drawn;
mod explained;
mod failure;
mod joined;
mod matrix;
mod outcome;
mod planned;
mod sockets;
mod status;
mod traced;
mod verified;
mod watched;

pub use decided::Decided;
pub use drawn::{Form, draw};
pub use explained::{Explained, Explanation};
pub use failure::Failure;
pub use joined::{Installed, Uninstalled};
pub use matrix::{Differences, Matrix};
pub use outcome::{Applied, By, Cleaned, Confirmed};
pub use planned::{Planned, Transaction};
pub use sockets::{AtSockets, Told};
pub use status::{Counter, Status};
pub use traced::{Ended, Ends, Hit, TraceStep, Traced};
pub use verified::{Checked, How, Verified};
pub use watched::Watched;

use crate::policy::Families;
use crate::policy::settings::Output;

/// What goes where, and the exit code.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// The answer itself.
    pub stdout: String,
    /// What is said beside it.
    pub stderr: String,
    /// The exit code.
    pub code: u8,
}

/// An outcome that can be told.
pub trait Report {
    /// For people.
    fn text(&self) -> String;
    /// For programs.
    fn json(&self) -> serde_json::Value;

    /// In the form asked for.
    fn answer(&self, output: Output) -> Answer {
        let stdout = match output {
            Output::Text => self.text(),
            Output::Json => pretty(&self.json()),
        };
        Answer { stdout, ..Answer::default() }
    }
}

/// JSON with a newline at its end.
fn pretty(value: &serde_json::Value) -> String {
    format!("{value:#}\n")
}

fn families(families: Families) -> &'static str {
    match families {
        Families::V4 => "IPv4 only",
        Families::Both => "IPv4 and IPv6",
    }
}

fn plural(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// Each line with its newline.
fn lines(lines: Vec<String>) -> String {
    lines.iter().map(|line| printable(line) + "\n").collect()
}

/// `text` as a terminal and XML may have it: what is not printable, which comments and names of others' rules may
/// hold, is escaped.
fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '"' | '\'' | '\\' => shown.push(letter),
            _ => shown.extend(letter.escape_debug()),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_printable_is_escaped() {
        let plain = "-m comment --comment \"it's \\ \u{e9}\u{4e2d}\u{1f600}…\" -j X";
        assert_eq!(printable(plain), plain);
        let hostile = "a\u{1b}[31m\n\t\0\u{7f}\u{9b}\u{202e}\u{200b}\u{ffff}";
        assert_eq!(printable(hostile), "a\\u{1b}[31m\\n\\t\\0\\u{7f}\\u{9b}\\u{202e}\\u{200b}\\u{ffff}");
        assert_eq!(lines(vec!["a\nb".into(), String::new()]), "a\\nb\n\n");
    }
}
