//! A file of lines that many processes add to, and that never grows beyond a bound.

use std::fs::{DirBuilder, File, rename};
use std::io::{Result, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::fcntl::{Flock, FlockArg};

/// Bytes after which a file gives way to a new one. The one before it is kept, so twice as much is the most there is.
pub const BOUND: u64 = 8 << 20;

/// Adds `lines` to the file at `path` in one write, so that lines of other processes do not mix with them (write(2),
/// `O_APPEND`). The file and its folder are made if they are not there. A full file becomes `path.1`, or is
/// begun anew if it cannot.
///
/// # Errors
/// It cannot be written.
pub fn add(path: &Path, lines: &[u8]) -> Result<()> {
    let open = || {
        let mut options = File::options();
        // A FIFO in its place would block, a link might lead anywhere.
        let flags = nix::libc::O_NONBLOCK | nix::libc::O_NOFOLLOW;
        options.append(true).create(true).mode(0o640).custom_flags(flags).open(path)
    };
    let mut file = match open() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            if let Some(folder) = path.parent() {
                DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
            }
            open()?
        }
        other => other?,
    };
    let metadata = file.metadata()?;
    if metadata.is_file() && metadata.len() + lines.len() as u64 > BOUND {
        // Whoever does not get the lock leaves the turn to the one who has it.
        if let Ok(held) = Flock::lock(file.try_clone()?, FlockArg::LockExclusiveNonblock) {
            let current = std::fs::metadata(path).is_ok_and(|now| now.ino() == metadata.ino());
            if current {
                let mut older = path.as_os_str().to_owned();
                older.push(".1");
                // Where that cannot be, as a folder of that name is there, the latest lines are worth more than the first.
                rename(path, &older).or_else(|_| file.set_len(0))?;
            }
            file = open()?;
            drop(held);
        }
    }
    file.write_all(lines)
}

/// Now, in UTC, as RFC 3339 with milliseconds.
#[must_use]
pub fn now() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    utc(since.as_secs(), since.subsec_millis())
}

/// Seconds since 1970 as a date (Howard Hinnant, "chrono-compatible low-level date algorithms": years begin in March).
fn utc(seconds: u64, milliseconds: u32) -> String {
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let shifted = (5 * day + 2) / 153;
    let day = day - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milliseconds:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00.007Z"),
            (951_782_399, "2000-02-28T23:59:59.007Z"),
            (951_782_400, "2000-02-29T00:00:00.007Z"),
            (1_709_251_200, "2024-03-01T00:00:00.007Z"),
            (1_735_689_599, "2024-12-31T23:59:59.007Z"),
            (4_107_542_400, "2100-03-01T00:00:00.007Z"),
        ] {
            assert_eq!(utc(seconds, 7), expected);
        }
    }

    #[test]
    fn a_full_file_gives_way() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/folder/log");
        let length =
            |name: &str| std::fs::metadata(path.with_file_name(name)).map(|data| data.len()).unwrap_or(0);
        let lines = vec![b'x'; usize::try_from(BOUND / 4).unwrap()];
        for round in 1..=9_u64 {
            add(&path, &lines).unwrap();
            assert_eq!(length("log"), (round - 1) % 4 * (BOUND / 4) + BOUND / 4, "{round}");
            assert_eq!(length("log.1"), if round > 4 { BOUND } else { 0 }, "{round}");
        }
    }

    #[test]
    fn a_full_file_that_cannot_give_way_is_begun_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::create_dir(folder.path().join("log.1")).unwrap();
        add(&path, &vec![b'x'; usize::try_from(BOUND).unwrap()]).unwrap();
        for lines in ["one\n", "two\n"] {
            add(&path, lines.as_bytes()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\ntwo\n");
    }

    #[test]
    fn what_is_no_plain_file_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(add(&fifo, b"x").is_err(), "nobody reads");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(folder.path().join("target"), &link).unwrap();
        assert!(add(&link, b"x").is_err());
        assert!(!folder.path().join("target").exists());
    }
}
