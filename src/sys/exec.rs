//! Running programs: absolute path, an environment of our choice, input from a sealed memory file, a deadline,
//! bounded output, and death with us.
//!
//! The children of one call run at the same time. Each is its own process group and gets SIGKILL when this
//! process dies (prctl(2), `PR_SET_PDEATHSIG`), so a killed run cannot commit something later on.

#![expect(unsafe_code, reason = "pre_exec and pidfd_open have no safe wrapper")]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, getppid};

use crate::error::{Error, Result};

/// The most that a program may print: a ruleset of a million rules fits.
const OUTPUT_LIMIT: usize = 256 << 20;

/// A program to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Its absolute path.
    pub path: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// What it reads.
    pub input: String,
    /// Its whole environment.
    pub environment: Vec<(String, String)>,
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It returned this code.
    Exited(i32),
    /// This signal ended it.
    Killed(i32),
    /// It did not end in time and was killed.
    TimedOut(Duration),
    /// It printed more than is sensible and was killed.
    TooMuch,
}

/// What came of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// How it ended.
    pub ending: Ending,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

impl Outcome {
    /// Whether it returned 0.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        self.ending == Ending::Exited(0)
    }
}

/// Runs `programs` at the same time, each until `deadline` has passed at most. Outcomes come in the order of
/// the programs.
///
/// # Errors
/// A program cannot be started; those already started are killed.
pub fn run_all(programs: &[Program], deadline: Duration) -> Result<Vec<Outcome>> {
    let end = Instant::now() + deadline;
    let mut running = Vec::with_capacity(programs.len());
    for program in programs {
        running.push(Running::start(program)?);
    }
    drain(&mut running, end)?;
    running.into_iter().map(|child| child.finish(deadline)).collect()
}

struct Running {
    child: Child,
    exit: OwnedFd,
    out: Pipe,
    err: Pipe,
    exited: bool,
    too_much: bool,
}

struct Pipe {
    file: Option<File>,
    bytes: Vec<u8>,
}

impl Running {
    fn start(program: &Program) -> Result<Running> {
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            Error::refused(format!("{} cannot be started: {what}: {error}", program.path.display()))
        };
        let input = sealed(&program.input).map_err(|error| failed("its input", &error))?;
        let parent = nix::unistd::getpid();
        let mut command = Command::new(&program.path);
        command.args(&program.arguments).env_clear();
        command.envs(program.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        // SAFETY: between fork and exec only prctl, getppid and _exit run, all async-signal-safe
        // (signal-safety(7)); nothing is allocated and no lock is taken.
        unsafe {
            command.pre_exec(move || die_with(parent));
        }
        let mut child = command.spawn().map_err(|error| failed("exec", &error))?;
        let exit = pidfd(&child).map_err(|error| failed("pidfd_open", &error))?;
        let out =
            Pipe::of(child.stdout.take().map(OwnedFd::from)).map_err(|error| failed("its output", &error))?;
        let err =
            Pipe::of(child.stderr.take().map(OwnedFd::from)).map_err(|error| failed("its output", &error))?;
        Ok(Running { child, exit, out, err, exited: false, too_much: false })
    }

    /// Whether more may still come: output, or the end.
    fn open(&self) -> bool {
        !self.too_much && !self.exited
    }

    fn finish(mut self, deadline: Duration) -> Result<Outcome> {
        // What is in the pipes when the program has ended is all that counts: a grandchild may keep them open.
        let timed_out = !self.exited && !self.too_much;
        self.out.read_available();
        self.err.read_available();
        if !self.exited {
            self.kill();
        }
        let status = self
            .child
            .wait()
            .map_err(|error| Error::refused(format!("a program cannot be waited for: {error}")))?;
        let ending = match (timed_out, self.too_much, status.code(), status.signal()) {
            (true, _, _, _) => Ending::TimedOut(deadline),
            (_, true, _, _) => Ending::TooMuch,
            (_, _, Some(code), _) => Ending::Exited(code),
            (_, _, None, signal) => Ending::Killed(signal.unwrap_or_default()),
        };
        let text = |pipe: &mut Pipe| String::from_utf8_lossy(&std::mem::take(&mut pipe.bytes)).into_owned();
        Ok(Outcome { ending, stdout: text(&mut self.out), stderr: text(&mut self.err) })
    }

    fn kill(&mut self) {
        let group = Pid::from_raw(i32::try_from(self.child.id()).unwrap_or(i32::MAX));
        // ESRCH only means that it has just ended by itself.
        if killpg(group, Signal::SIGKILL).is_err() {
            self.child.kill().ok();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.kill();
            self.child.wait().ok();
        }
    }
}

impl Pipe {
    fn of(fd: Option<OwnedFd>) -> std::io::Result<Pipe> {
        let Some(fd) = fd else { return Ok(Pipe { file: None, bytes: Vec::new() }) };
        let flags = OFlag::from_bits_truncate(fcntl(&fd, FcntlArg::F_GETFL)?);
        fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        Ok(Pipe { file: Some(File::from(fd)), bytes: Vec::new() })
    }

    /// Reads what is there; closes at the end. `false` if it is too much.
    fn read_available(&mut self) -> bool {
        let mut buffer = [0; 16 << 10];
        while let Some(file) = &mut self.file {
            match file.read(&mut buffer) {
                Ok(0) => self.file = None,
                Ok(count) => self.bytes.extend(buffer.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(_) => self.file = None,
            }
            if self.bytes.len() > OUTPUT_LIMIT {
                return false;
            }
        }
        true
    }
}

/// Reads from all of `running` until every one has ended or time is up.
fn drain(running: &mut [Running], end: Instant) -> Result<()> {
    while running.iter().any(Running::open) {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        let mut fds = Vec::new();
        for child in running.iter().filter(|child| child.open()) {
            fds.push(PollFd::new(child.exit.as_fd(), PollFlags::POLLIN));
            for pipe in [&child.out, &child.err] {
                fds.extend(pipe.file.as_ref().map(|file| PollFd::new(file.as_fd(), PollFlags::POLLIN)));
            }
        }
        let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(Error::refused(format!("poll: {error}"))),
        }
        for child in running.iter_mut().filter(|child| child.open()) {
            let ended = ended(&child.exit);
            child.too_much = !(child.out.read_available() && child.err.read_available());
            child.exited = ended;
        }
    }
    Ok(())
}

/// Whether the process of a pidfd has ended (pidfd_open(2): it becomes readable then).
fn ended(exit: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(exit.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

/// A memory file that holds `text` and cannot be changed any more (memfd_create(2)).
fn sealed(text: &str) -> std::io::Result<File> {
    let fd = memfd_create(c"mesh-init", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    let mut file = File::from(fd);
    file.write_all(text.as_bytes())?;
    std::io::Seek::rewind(&mut file)?;
    let seals =
        SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file)
}

fn die_with(parent: Pid) -> std::io::Result<()> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    // The parent may have died between fork and prctl.
    if getppid() == parent { Ok(()) } else { Err(std::io::ErrorKind::Interrupted.into()) }
}

fn pidfd(child: &Child) -> std::io::Result<OwnedFd> {
    let pid = i32::try_from(child.id()).map_err(|_| std::io::ErrorKind::InvalidInput)?;
    // SAFETY: pidfd_open(2) takes two integers and touches no memory of ours.
    let fd = unsafe { nix::libc::syscall(nix::libc::SYS_pidfd_open, pid, 0) };
    let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(std::io::Error::last_os_error)?;
    // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    debug_assert!(fd.as_raw_fd() >= 0);
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, input: &str) -> Program {
        Program {
            path: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            input: input.into(),
            environment: vec![("ONLY".into(), "this".into())],
        }
    }

    #[test]
    fn input_output_code_and_environment() {
        let programs = [shell("cat; env >&2; exit 3", "text\n"), shell("kill -9 $$", "")];
        let outcomes = run_all(&programs, Duration::from_secs(10)).unwrap();
        assert_eq!(outcomes[0].ending, Ending::Exited(3));
        assert_eq!(outcomes[0].stdout, "text\n");
        assert!(outcomes[0].stderr.contains("ONLY=this"), "{}", outcomes[0].stderr);
        assert!(
            !outcomes[0].stderr.contains("PATH=/root") && !outcomes[0].stderr.contains("CARGO"),
            "{}",
            outcomes[0].stderr
        );
        assert_eq!(outcomes[1].ending, Ending::Killed(9));
    }

    #[test]
    fn a_hung_program_and_its_children_end_at_the_deadline() {
        let begin = Instant::now();
        let outcomes =
            run_all(&[shell("sleep 60 & sleep 60", ""), shell("exit 0", "")], Duration::from_millis(300))
                .unwrap();
        assert_eq!(outcomes[0].ending, Ending::TimedOut(Duration::from_millis(300)));
        assert_eq!(outcomes[1].ending, Ending::Exited(0));
        assert!(begin.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn a_grandchild_that_keeps_the_pipes_does_not_hold_us() {
        let begin = Instant::now();
        let outcomes =
            run_all(&[shell("echo done; sleep 20 & exit 0", "")], Duration::from_secs(15)).unwrap();
        assert_eq!((outcomes[0].ending, outcomes[0].stdout.as_str()), (Ending::Exited(0), "done\n"));
        assert!(begin.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_missing_program_is_named() {
        let missing = Program { path: "/nonexistent/tool".into(), ..shell("", "") };
        let error = run_all(&[missing], Duration::from_secs(1)).unwrap_err();
        assert!(error.problem.contains("/nonexistent/tool"), "{error}");
    }
}
