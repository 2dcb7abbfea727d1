//! A program that is killed at a chosen moment, with or without its children, until nothing of it is left.

use std::fs;
use std::process::{Child, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use super::command::command;
use super::netns::Netns;

/// A started program.
#[derive(Debug)]
pub(crate) struct Victim {
    child: Child,
    started: Instant,
}

/// What a kill met.
#[derive(Debug)]
pub(crate) struct Death {
    pub(crate) status: ExitStatus,
    /// The children that ran at that moment.
    pub(crate) children: Vec<String>,
}

impl Victim {
    /// From now on orphans of a killed program are ours, so that we can wait until they are gone, too.
    pub(crate) fn adopt_orphans() {
        set_child_subreaper(true).expect("prctl");
    }

    pub(crate) fn start(netns: &Netns, program: &str, args: &[&str]) -> Self {
        let mut command = command(program, args);
        command.stdin(std::process::Stdio::null());
        netns.run(|| {
            let started = Instant::now();
            Self {
                child: command.spawn().unwrap_or_else(|error| panic!("starting {program}: {error}")),
                started,
            }
        })
    }

    /// Lets it end by itself; how long that took.
    #[track_caller]
    pub(crate) fn succeed(mut self) -> Duration {
        let status = self.child.wait().expect("waiting for a child of ours");
        let took = self.started.elapsed();
        assert!(status.success(), "expected exit code 0, seen {status}");
        took
    }

    /// Sends SIGKILL when `at` has passed since the start, and waits until it and its children are gone.
    pub(crate) fn kill(mut self, at: Duration, with_children: bool) -> Death {
        thread::sleep(at.saturating_sub(self.started.elapsed()));
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("process numbers are small"));
        let children = children(pid);
        let named: Vec<_> = children.iter().map(|child| name(*child)).collect();
        if with_children {
            for child in children {
                // One that has just ended is as good as killed.
                let _gone = kill(child, Signal::SIGKILL).is_err();
            }
        }
        self.child.kill().expect("it is not reaped yet");
        let status = self.child.wait().expect("waiting for a child of ours");
        wait_for_orphans();
        Death { status, children: named }
    }
}

/// The processes that any thread of `pid` has started and that still run.
pub(crate) fn children(pid: Pid) -> Vec<Pid> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let of_thread =
        |thread: fs::DirEntry| fs::read_to_string(thread.path().join("children")).unwrap_or_default();
    let lists: Vec<_> = threads.flatten().map(of_thread).collect();
    lists.iter().flat_map(|list| list.split_whitespace()).flat_map(str::parse).map(Pid::from_raw).collect()
}

fn name(pid: Pid) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

/// A killed program may still be in a system call that changes the kernel; when it is reaped it is not.
fn wait_for_orphans() {
    loop {
        match waitpid(None, None) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(Errno::ECHILD) => return,
            Err(error) => panic!("waiting for orphans: {error}"),
        }
    }
}
