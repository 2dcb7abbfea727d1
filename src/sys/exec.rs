//! Running programs: absolute path, an environment of our choice, input from a sealed memory file, a deadline,
//! bounded output, and death with us.
//!
//! Each child is its own process group and gets SIGKILL when this
//! process dies (prctl(2), `PR_SET_PDEATHSIG`), so a killed run cannot commit something later on.

#![expect(unsafe_code, reason = "pre_exec, pidfd_open and close_range have no safe wrapper")]

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
    /// It could not be started; the complaint says why.
    NotStarted,
    /// It was started and could not be watched to its end, so it was killed; the complaint says why.
    Lost,
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
    fn failed(ending: Ending, why: &str) -> Outcome {
        Outcome { ending, stdout: String::new(), stderr: why.to_owned() }
    }

    /// Whether it returned 0.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        self.ending == Ending::Exited(0)
    }
}

/// Runs `chains` at the same time, and the programs of a chain one after the other until one does not succeed.
/// Each program has until `deadline`. The outcomes of a chain are those of the programs that were tried: whatever
/// goes wrong is an outcome, so that the caller always knows what may have been done.
///
/// A chain has a thread of its own, which lives as long as its children: the death signal that they get is
/// bound to the thread that started them.
#[must_use]
pub fn run_chains(chains: &[Vec<Program>], deadline: Duration) -> Vec<Vec<Outcome>> {
    let Some((last, others)) = chains.split_last() else { return Vec::new() };
    std::thread::scope(|scope| {
        let start =
            |chain| std::thread::Builder::new().spawn_scoped(scope, move || run_chain(chain, deadline));
        let started: Vec<_> = others.iter().map(|chain| (chain, start(chain))).collect();
        let last = run_chain(last, deadline);
        let others = started.into_iter().map(|(chain, thread)| match thread {
            Ok(thread) => {
                thread.join().unwrap_or_else(|_| vec![Outcome::failed(Ending::Lost, "its thread panicked")])
            }
            // No thread to be had: one after the other then.
            Err(_) => run_chain(chain, deadline),
        });
        others.chain([last]).collect()
    })
}

fn run_chain(chain: &[Program], deadline: Duration) -> Vec<Outcome> {
    let mut outcomes = Vec::with_capacity(chain.len());
    for program in chain {
        let outcome = match Running::start(program) {
            Err(why) => Outcome::failed(Ending::NotStarted, &why),
            Ok(mut running) => {
                match running.drain(Instant::now() + deadline).and_then(|()| running.finish(deadline)) {
                    Err(why) => Outcome::failed(Ending::Lost, &why.to_string()),
                    Ok(outcome) => outcome,
                }
            }
        };
        let go_on = outcome.succeeded();
        outcomes.push(outcome);
        if !go_on {
            break;
        }
    }
    outcomes
}

/// Keeps the descriptors that our caller left open from the programs that we run (close_range(2)).
pub fn keep_descriptors() {
    // SAFETY: the call takes three integers and marks descriptors; it closes none and touches no memory of ours.
    // A kernel before 5.11 refuses it, and the descriptors stay as they were.
    unsafe { nix::libc::syscall(nix::libc::SYS_close_range, 3, u32::MAX, nix::libc::CLOSE_RANGE_CLOEXEC) };
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
    fn start(program: &Program) -> Result<Running, String> {
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            format!("{} cannot be started: {what}: {error}", program.path.display())
        };
        let input = sealed(&program.input).map_err(|error| failed("its input", &error))?;
        let parent = nix::unistd::getpid();
        let mut command = Command::new(&program.path);
        command.args(&program.arguments).env_clear();
        command.envs(program.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        // SAFETY: between fork and exec only capget, capset, prctl, getppid and _exit run, all async-signal-safe
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

    /// Reads what the program prints until it has ended, has printed too much, or time is up.
    fn drain(&mut self, end: Instant) -> std::io::Result<()> {
        while !self.exited && !self.too_much {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            let mut fds = vec![PollFd::new(self.exit.as_fd(), PollFlags::POLLIN)];
            for pipe in [&self.out, &self.err] {
                fds.extend(pipe.file.as_ref().map(|file| PollFd::new(file.as_fd(), PollFlags::POLLIN)));
            }
            let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
            match poll(&mut fds, timeout) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
            // A pidfd becomes readable when its process ends (pidfd_open(2)).
            let ended = fds.first().and_then(PollFd::any).unwrap_or(false);
            self.too_much = !(self.out.read_available() && self.err.read_available());
            self.exited = ended;
        }
        Ok(())
    }

    fn finish(mut self, deadline: Duration) -> std::io::Result<Outcome> {
        // What is in the pipes when the program has ended is all that counts: a grandchild may keep them open.
        let timed_out = !self.exited && !self.too_much;
        self.out.read_available();
        self.err.read_available();
        if !self.exited {
            self.kill();
        }
        let status = self.child.wait()?;
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

/// What programs may need of what we have: NET_ADMIN, NET_RAW and SYS_MODULE (linux/capability.h). Trying connections
/// takes more, which is not for them.
const FOR_PROGRAMS: u32 = (1 << 12) | (1 << 13) | (1 << 16);

/// `struct __user_cap_header_struct` and two of `struct __user_cap_data_struct` (capget(2)), as numbers.
#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

/// Gives up, in the child, what no program needs. Children of root keep what their parent had, not what it asks for
/// itself, once no_new_privs is set. Whoever may not look may not have much either.
fn only_what_programs_need() {
    const VERSION_3: u32 = 0x2008_0522;
    let header = CapHeader { version: VERSION_3, pid: 0 };
    // Effective, permitted and inheritable of the lower 32 capabilities, then of the upper ones.
    let mut data = [0_u32; 6];
    // SAFETY: capget(2) fills two structs of three numbers each, for which `data` has room.
    let got = unsafe { nix::libc::syscall(nix::libc::SYS_capget, &raw const header, data.as_mut_ptr()) };
    if got != 0 {
        return;
    }
    for (index, set) in data.iter_mut().enumerate() {
        *set &= if index < 3 { FOR_PROGRAMS } else { 0 };
    }
    // SAFETY: capset(2) reads the same two structs; sets that are parts of the present ones are always granted.
    unsafe { nix::libc::syscall(nix::libc::SYS_capset, &raw const header, data.as_ptr()) };
}

fn die_with(parent: Pid) -> std::io::Result<()> {
    only_what_programs_need();
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
        let programs = [vec![shell("cat; env >&2; exit 3", "text\n")], vec![shell("kill -9 $$", "")]];
        let outcomes = run_chains(&programs, Duration::from_secs(10)).concat();
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
        let outcomes = run_chains(
            &[vec![shell("sleep 60 & sleep 60", "")], vec![shell("exit 0", "")]],
            Duration::from_millis(300),
        )
        .concat();
        assert_eq!(outcomes[0].ending, Ending::TimedOut(Duration::from_millis(300)));
        assert_eq!(outcomes[1].ending, Ending::Exited(0));
        assert!(begin.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn a_grandchild_that_keeps_the_pipes_does_not_hold_us() {
        let begin = Instant::now();
        let outcomes =
            run_chains(&[vec![shell("echo done; sleep 20 & exit 0", "")]], Duration::from_secs(15)).concat();
        assert_eq!((outcomes[0].ending, outcomes[0].stdout.as_str()), (Ending::Exited(0), "done\n"));
        assert!(begin.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_missing_program_is_an_outcome() {
        let missing = Program { path: "/nonexistent/tool".into(), ..shell("", "") };
        let outcomes = run_chains(&[vec![missing]], Duration::from_secs(1)).concat();
        assert_eq!(outcomes[0].ending, Ending::NotStarted);
        assert!(outcomes[0].stderr.contains("No such file"), "{}", outcomes[0].stderr);
    }
}
