//! Programs run inside a namespace, and what they said.

use std::ffi::OsStr;
use std::io::Write;
use std::process::{Command, Stdio};

use super::creds::Who;
use super::netns::Netns;

/// The tools are where Debian has them, whatever the caller's PATH is.
pub(crate) const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// What a program answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) line: String,
    /// `None` when a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Run {
    pub(crate) fn new(netns: &Netns, program: &str, args: &[&str]) -> Self {
        Self::with_input(netns, program, args, "")
    }

    pub(crate) fn with_input(netns: &Netns, program: &str, args: &[&str], input: &str) -> Self {
        Self::as_user(netns, Who::ROOT, program, args, input)
    }

    /// Runs `program` with nothing but PATH in its environment.
    pub(crate) fn as_user(netns: &Netns, who: Who, program: &str, args: &[&str], input: &str) -> Self {
        let mut command = command(program, args);
        netns.run_as(who, || finish(&mut command, input))
    }

    /// Its standard output, once it is certain that it succeeded.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        self.code(0).stdout
    }

    #[track_caller]
    pub(crate) fn code(self, expected: i32) -> Self {
        assert_eq!(self.code, Some(expected), "exit code expected {expected}, seen {self}");
        self
    }

    /// Requires `word` on standard output or standard error, upper and lower case alike.
    #[track_caller]
    pub(crate) fn says(self, word: &str) -> Self {
        let said = format!("{}\n{}", self.stdout, self.stderr).to_lowercase();
        assert!(said.contains(&word.to_lowercase()), "expected `{word}` in the output, seen {self}");
        self
    }
}

impl std::fmt::Display for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { line, code, stdout, stderr } = self;
        write!(f, "`{line}` ended with {code:?}\n--- stdout\n{stdout}\n--- stderr\n{stderr}")
    }
}

/// The program under test, inside `netns`.
pub(crate) fn mesh_init(netns: &Netns, args: &[&str]) -> Run {
    Run::new(netns, MESH_INIT, args)
}

/// The program under test.
pub(crate) const MESH_INIT: &str = env!("CARGO_BIN_EXE_mesh-init");

/// A command with nothing but PATH in its environment, and all three streams piped.
pub(crate) fn command<S: AsRef<OsStr>>(program: &str, args: &[S]) -> Command {
    let mut command = Command::new(program);
    command.args(args).env_clear().env("PATH", PATH).env("LC_ALL", "C");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn finish(command: &mut Command, input: &str) -> Run {
    let line = line(command);
    // Seen only when the case fails: the last of these lines is where it hung.
    eprintln!("+ {line}");
    let mut child = command.spawn().unwrap_or_else(|error| panic!("starting `{line}`: {error}"));
    // A program that does not read its input is none of ours to judge.
    drop(child.stdin.take().expect("a piped stdin").write_all(input.as_bytes()));
    let output = child.wait_with_output().unwrap_or_else(|error| panic!("waiting for `{line}`: {error}"));
    Run {
        line,
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}
