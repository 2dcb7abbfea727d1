//! A program started with more than flags: other variables, words that are no text, or in the background.

use std::ffi::OsStr;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::command::{MESH_INIT, Run, command};
use super::netns::Netns;

/// A program about to be run inside a namespace.
#[derive(Debug)]
pub(crate) struct Call {
    netns: Netns,
    command: Command,
}

/// A program that runs.
#[derive(Debug)]
pub(crate) struct Running {
    line: String,
    child: Child,
}

impl Call {
    /// The program under test.
    pub(crate) fn mesh_init<S: AsRef<OsStr>>(netns: &Netns, args: &[S]) -> Self {
        Self::of(netns, MESH_INIT, args)
    }

    pub(crate) fn of<S: AsRef<OsStr>>(netns: &Netns, program: &str, args: &[S]) -> Self {
        let mut command = command(program, args);
        command.stdin(Stdio::null());
        Self { netns: netns.clone(), command }
    }

    pub(crate) fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    pub(crate) fn start(mut self) -> Running {
        let words = std::iter::once(self.command.get_program()).chain(self.command.get_args());
        // Long words are not worth reading.
        let words = words.map(|word| word.to_string_lossy().chars().take(200).collect::<String>());
        let line = words.collect::<Vec<_>>().join(" ");
        eprintln!("+ {line}");
        let child = self.netns.run(|| self.command.spawn());
        Running { child: child.unwrap_or_else(|error| panic!("starting `{line}`: {error}")), line }
    }

    pub(crate) fn run(self) -> Run {
        self.start().finish()
    }
}

impl Running {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has not ended yet.
    pub(crate) fn still_runs(&mut self) -> bool {
        self.child.try_wait().expect("waiting for a child of ours").is_none()
    }

    /// Ends it if it has not ended after `patience`; whether it had.
    pub(crate) fn finish_within(mut self, patience: Duration) -> Option<Run> {
        let end = Instant::now() + patience;
        while self.still_runs() {
            if Instant::now() > end {
                self.child.kill().expect("it still runs");
                eprintln!("killed after {patience:?}: {}", self.finish());
                return None;
            }
            thread::sleep(Duration::from_millis(5));
        }
        Some(self.finish())
    }

    pub(crate) fn finish(self) -> Run {
        let Self { line, child } = self;
        let output = child.wait_with_output().unwrap_or_else(|error| panic!("waiting for `{line}`: {error}"));
        Run {
            line,
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}
