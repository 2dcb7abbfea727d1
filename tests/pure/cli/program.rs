//! The program, run with nothing in its environment but what a test puts there.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a run answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    /// What was run, for messages.
    pub(crate) line: String,
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

pub(crate) fn mesh_init(args: &[&str]) -> Run {
    mesh_init_with(args, &[])
}

pub(crate) fn mesh_init_with(args: &[&str], environment: &[(&str, &str)]) -> Run {
    called(Path::new(MESH_INIT), args, environment)
}

/// The program under test.
pub(crate) const MESH_INIT: &str = env!("CARGO_BIN_EXE_mesh-init");

/// The program by one of its names.
pub(crate) fn called(program: &Path, args: &[&str], environment: &[(&str, &str)]) -> Run {
    let mut command = Command::new(program);
    command.args(args).env_clear().envs(environment.iter().copied());
    let output = command.output().expect("the program can be started");
    let text = |bytes| String::from_utf8(bytes).expect("the program writes UTF-8");
    let variables: String = environment.iter().map(|(name, value)| format!("{name}={value:?} ")).collect();
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    Run {
        line: format!("{variables}{name} {args:?}"),
        code: output.status.code(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

impl Run {
    #[track_caller]
    pub(crate) fn code(self, expected: i32) -> Run {
        assert_eq!(self.code, Some(expected), "exit code expected {expected}, seen {self}");
        self
    }

    /// The answer of a run in which nothing was wrong and nothing else was said.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        let run = self.code(0);
        assert_eq!(run.stderr, "", "expected nothing on stderr, seen {run}");
        run.stdout
    }

    /// The faults of refused input, which stand on stderr, one a line.
    #[track_caller]
    pub(crate) fn faults(&self) -> Vec<&str> {
        assert_eq!(self.code, Some(64), "expected bad input, seen {self}");
        let fault = |line: &str| line.strip_prefix("mesh-init: ").map(str::len);
        let faults = self.stderr.lines().map(|line| match fault(line) {
            Some(length) => &line[line.len() - length..],
            None => panic!("expected a fault, seen the line {line:?} of {self}"),
        });
        faults.collect()
    }

    /// Requires exactly these faults, each known by how it begins, in any order.
    #[track_caller]
    pub(crate) fn refused(self, expected: &[&str]) {
        let mut left = self.faults();
        for start in expected {
            let at = left.iter().position(|fault| fault.starts_with(start));
            let at = at.unwrap_or_else(|| panic!("expected the fault {start:?}, seen {self}"));
            left.remove(at);
        }
        assert!(left.is_empty(), "expected no other fault than {expected:#?}, seen {self}");
        assert_eq!(self.stdout, "", "stdout is for the answer: {self}");
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Run { line, code, stdout, stderr } = self;
        write!(f, "{line}\nexit code {code:?}\n--- stdout\n{stdout}--- stderr\n{stderr}---")
    }
}

/// A folder of files for the program to read, gone with the value.
pub(crate) struct Files(tempfile::TempDir);

impl Files {
    pub(crate) fn new() -> Files {
        Files(tempfile::tempdir().expect("a temporary folder"))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file and says where it is.
    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        std::fs::write(&path, text).expect("a temporary folder can be written to");
        path_text(&path)
    }
}

pub(crate) fn path_text(path: &Path) -> String {
    path.to_str().expect("a temporary folder has a plain name").to_owned()
}

/// The lines of a plan that hold `word`.
pub(crate) fn lines_with<'a>(plan: &'a str, word: &str) -> Vec<&'a str> {
    plan.lines().filter(|line| line.contains(word)).collect()
}
