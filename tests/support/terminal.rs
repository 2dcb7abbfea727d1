//! A shell on a terminal of its own, as somebody has who came over the network, and the end of that connection.

#![expect(unsafe_code, reason = "openpty has no safe wrapper here")]

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::{FromRawFd, OwnedFd};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::command::command;
use super::netns::Netns;

/// The shell leads a session whose controlling terminal this is (pty(7)).
#[derive(Debug)]
pub(crate) struct Terminal {
    master: File,
    shell: Child,
    said: String,
}

impl Terminal {
    /// A shell that runs `script` there.
    pub(crate) fn new(netns: &Netns, script: &str) -> Self {
        let (master, slave) = pair();
        let mut shell = command("setsid", &["--ctty", "sh", "-c", script]);
        let stream = || Stdio::from(slave.try_clone().expect("a second handle of the terminal"));
        shell.stdin(stream()).stdout(stream()).stderr(stream());
        eprintln!("+ on a terminal: {script}");
        let shell = netns.run(|| shell.spawn()).expect("starting a shell");
        Self { master: master.into(), shell, said: String::new() }
    }

    /// Waits until `word` stands on the terminal.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, word: &str) {
        let end = Instant::now() + Duration::from_secs(10);
        let mut buffer = [0; 1024];
        while !self.said.contains(word) {
            match self.master.read(&mut buffer) {
                Ok(count) => self.said.push_str(&String::from_utf8_lossy(&buffer[..count])),
                Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < end => {
                    thread::sleep(Duration::from_millis(5));
                }
                Err(error) => panic!("expected `{word}` on the terminal, seen {error} after {}", self.said),
            }
        }
    }

    /// The shell is killed, and the terminal is gone.
    pub(crate) fn hang_up(mut self) {
        self.shell.kill().expect("it is not reaped yet");
        self.shell.wait().expect("waiting for a child of ours");
    }
}

fn pair() -> (OwnedFd, OwnedFd) {
    let (mut master, mut slave) = (-1, -1);
    let none = std::ptr::null_mut();
    // SAFETY: two integers are written; a name, modes and a size are not asked for.
    let answer = unsafe { libc::openpty(&raw mut master, &raw mut slave, none, none.cast(), none.cast()) };
    assert_eq!(answer, 0, "openpty: {}", std::io::Error::last_os_error());
    // The shell gets copies of its own end alone.
    for fd in [master, slave] {
        // SAFETY: integers, about descriptors that were made just now.
        let answer = unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
        assert_eq!(answer, 0, "FD_CLOEXEC: {}", std::io::Error::last_os_error());
    }
    // SAFETY: integers again.
    let answer = unsafe { libc::fcntl(master, libc::F_SETFL, libc::O_NONBLOCK) };
    assert_eq!(answer, 0, "O_NONBLOCK: {}", std::io::Error::last_os_error());
    // SAFETY: made just now; nobody else owns it.
    let master = unsafe { OwnedFd::from_raw_fd(master) };
    // SAFETY: as above.
    let slave = unsafe { OwnedFd::from_raw_fd(slave) };
    (master, slave)
}
