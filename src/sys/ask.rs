//! One question to a program on this machine, over a unix stream socket (unix(7)), within a deadline.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

/// The most that an answer may have.
const LIMIT: usize = 4 << 20;
/// Between two attempts to get into a full queue.
const PAUSE: Duration = Duration::from_millis(5);

/// Sends `line` to whoever listens at `path`, and gives back the line that is the answer.
///
/// # Errors
/// Why there is none: nobody listens, nothing came in time, it is too long or no text.
pub fn ask(path: &Path, line: &str, deadline: Duration) -> Result<String, String> {
    let end = Instant::now() + deadline;
    let mut stream = loop {
        match reach(path) {
            Ok(fd) => break UnixStream::from(fd),
            // Its queue is full (connect(2)).
            Err(Errno::EAGAIN) if Instant::now() + PAUSE < end => std::thread::sleep(PAUSE),
            Err(Errno::EAGAIN) => return Err(late(deadline)),
            Err(errno) => return Err(format!("cannot be reached: {errno}")),
        }
    };
    let failed = |error: std::io::Error| format!("broke off: {error}");
    let mut rest = line.as_bytes();
    let mut answer: Vec<u8> = Vec::new();
    let mut buffer = [0; 16 << 10];
    loop {
        let wanted = if rest.is_empty() { PollFlags::POLLIN } else { PollFlags::POLLOUT };
        let left = end.saturating_duration_since(Instant::now());
        // Whoever talks without end is never waited for.
        if left.is_zero() {
            return Err(late(deadline));
        }
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let ready = poll(&mut [PollFd::new(stream.as_fd(), wanted)], timeout);
        match ready {
            Ok(0) => return Err(late(deadline)),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(failed(errno.into())),
        }
        let told = answer.len();
        let outcome = match rest.is_empty() {
            false => stream.write(rest).map(|count| rest = rest.get(count..).unwrap_or_default()),
            true => stream.read(&mut buffer).map(|count| match count {
                // The end of the stream ends the line as well.
                0 => answer.push(b'\n'),
                _ => answer.extend(buffer.get(..count).unwrap_or_default()),
            }),
        };
        match outcome {
            Ok(()) => {}
            Err(error) if [ErrorKind::WouldBlock, ErrorKind::Interrupted].contains(&error.kind()) => {}
            Err(error) => return Err(failed(error)),
        }
        let newline = answer.iter().skip(told).position(|byte| *byte == b'\n');
        if let Some(length) = newline {
            answer.truncate(told + length);
            return String::from_utf8(answer).map_err(|_| "gave an answer that is no UTF-8".to_owned());
        }
        if answer.len() > LIMIT {
            return Err(format!("gave an answer of more than {} MiB", LIMIT >> 20));
        }
    }
}

/// Whether somebody listens at `path`, without a word being said.
///
/// # Errors
/// Why nobody can be reached.
pub fn listens(path: &Path) -> Result<(), String> {
    match reach(path) {
        Ok(_) | Err(Errno::EAGAIN) => Ok(()),
        Err(errno) => Err(format!("cannot be reached: {errno}")),
    }
}

fn reach(path: &Path) -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(fd)
}

fn late(deadline: Duration) -> String {
    format!("did not answer within {} s", deadline.as_secs_f32())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn with(answer: &'static [u8], linger: bool) -> (Result<String, String>, Duration) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let begin = Instant::now();
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut question = [0; 6];
            stream.read_exact(&mut question).unwrap();
            assert_eq!(&question, b"where\n");
            stream.write_all(answer).ok();
            if linger {
                wait.recv().ok();
            }
        });
        let outcome = ask(&path, "where\n", Duration::from_millis(300));
        let took = begin.elapsed();
        drop(done);
        server.join().unwrap();
        (outcome, took)
    }

    #[test]
    fn a_line_ends_the_answer() {
        assert_eq!(with(b"here\nand more", true).0.as_deref(), Ok("here"));
        assert_eq!(with(b"here", false).0.as_deref(), Ok("here"));
        assert_eq!(with(b"", false).0.as_deref(), Ok(""));
        assert!(with(b"\xff\n", true).0.unwrap_err().contains("UTF-8"));
    }

    #[test]
    fn who_says_nothing_is_not_waited_for() {
        let (outcome, took) = with(b"half a line", true);
        assert!(outcome.unwrap_err().contains("within 0.3 s"));
        assert!(took < Duration::from_secs(5), "{took:?}");
    }

    #[test]
    fn a_full_queue_and_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        assert!(listens(&path).is_err() && ask(&path, "x\n", Duration::from_millis(50)).is_err());
        let listener = UnixListener::bind(&path).unwrap();
        let mut queue = Vec::new();
        while let Ok(fd) = reach(&path) {
            queue.push(fd);
            assert!(queue.len() < 10_000, "it never fills");
        }
        assert!(listens(&path).is_ok());
        assert!(ask(&path, "x\n", Duration::from_millis(50)).unwrap_err().contains("did not answer"));
        drop(listener);
    }
}
