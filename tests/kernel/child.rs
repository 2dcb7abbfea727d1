//! Each case is a process of its own, in network and mount namespaces of its own, with a deadline.
//!
//! The test binary starts itself again for a case. The child moves into its namespaces while it has one
//! thread, so that no other case and nothing of the machine is in reach: `/run`, where iptables has its lock
//! and `ip` its names, is a tmpfs of the child.

use std::env;
use std::fs::{self, File};
use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{Pid, geteuid};

use crate::harness::Case;
use crate::support::command::{PATH, command};

/// The argument that makes the test binary run one case in this very process.
const FLAG: &str = "--one-case-in-its-own-namespaces";
/// What a child ends with when its case cannot be tried on this machine.
const SKIPPED: i32 = 77;
const FAILED: i32 = 101;
/// Without these nothing can be tried.
const TOOLS: [&str; 6] =
    ["ip", "nft", "iptables-legacy", "iptables-nft", "iptables-legacy-restore", "iptables-nft-restore"];

/// How a case ended.
#[derive(Debug)]
pub(crate) enum Verdict {
    Passed,
    Skipped(String),
    Failed(String),
}

/// The case that this process was started for, if it is a child.
pub(crate) fn wanted() -> Option<String> {
    let mut words = env::args().skip(1);
    if words.next()? == FLAG { words.next() } else { None }
}

/// Runs the case of that name in a child and waits for it, at most until the deadline.
pub(crate) fn run(name: &str, deadline: Duration) -> Verdict {
    if let Some(lack) = lack() {
        return Verdict::Skipped(lack);
    }
    let mut log = tempfile::tempfile().expect("a temporary file");
    let child = start(name, &log);
    let overdue = is_overdue(&child, Instant::now() + deadline);
    let status = bury(child);
    let mut said = String::new();
    log.rewind().and_then(|()| log.read_to_string(&mut said)).expect("reading back what the case said");
    match status.code() {
        _ if overdue => Verdict::Failed(format!("still running at its deadline of {deadline:?}\n{said}")),
        Some(0) => Verdict::Passed,
        Some(SKIPPED) => Verdict::Skipped(said.lines().last().unwrap_or_default().to_owned()),
        _ => Verdict::Failed(format!("{status}\n{said}")),
    }
}

/// Leaves the running case: this machine lacks what it needs.
pub(crate) fn skip(reason: &str) -> ! {
    eprintln!("{reason}");
    std::process::exit(SKIPPED)
}

/// Runs `case` in this process.
pub(crate) fn be(case: &Case) -> ExitCode {
    set_pdeathsig(Signal::SIGKILL).expect("asking to die with the parent");
    // A listener or client that panics on a thread of its own fails the case as well.
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        std::process::exit(FAILED);
    }));
    enter_namespaces();
    (case.body)();
    ExitCode::SUCCESS
}

fn lack() -> Option<String> {
    if !geteuid().is_root() {
        return Some("needs root".to_owned());
    }
    let is_installed = |tool: &str| PATH.split(':').any(|folder| Path::new(folder).join(tool).exists());
    let missing = TOOLS.into_iter().find(|tool| !is_installed(tool))?;
    Some(format!("`{missing}` is not installed"))
}

fn start(name: &str, log: &File) -> Child {
    let stream = || Stdio::from(log.try_clone().expect("a second handle of the log"));
    let mut command = Command::new(env::current_exe().expect("the path of this binary"));
    // A group of its own, so that nothing a case started outlives it.
    command.args([FLAG, name]).process_group(0).stdin(Stdio::null()).stdout(stream()).stderr(stream());
    command.spawn().expect("starting this binary again")
}

/// Waits without reaping, so that the child's number still stands for its group.
fn is_overdue(child: &Child, end: Instant) -> bool {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT | WaitPidFlag::WNOHANG;
    loop {
        let state = waitid(Id::Pid(pid(child)), flags).expect("waiting for a child of ours");
        if state != WaitStatus::StillAlive {
            return false;
        }
        if Instant::now() > end {
            return true;
        }
        thread::sleep(Duration::from_millis(4));
    }
}

/// Ends the child's whole group and reaps the child.
fn bury(mut child: Child) -> ExitStatus {
    killpg(pid(&child), Signal::SIGKILL).expect("the group exists while its leader is not reaped");
    child.wait().expect("reaping a child of ours")
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("process numbers are small"))
}

fn enter_namespaces() {
    if let Err(error) = unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS) {
        skip(&format!("cannot make namespaces: {error}"));
    }
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("making all mounts private");
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), none).expect("a /run of our own");
    fs::create_dir("/run/netns").expect("an empty /run");
    let up = command("ip", &["link", "set", "lo", "up"]).status().expect("running ip");
    assert!(up.success(), "`ip link set lo up` ended with {up}");
}
