//! Files, with bounds: nothing that is read can fill the memory.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::error::{Class, Error, Result};

/// The most that is read of a file that a person writes.
pub const LIMIT: u64 = 4 << 20;
/// The most that is read of a file of /proc.
const PROC_LIMIT: u64 = 256 << 20;

/// Reads a text file of at most [`LIMIT`] bytes.
///
/// # Errors
/// It cannot be read, is larger, or is no UTF-8.
pub fn read(path: &Path) -> Result<String> {
    let problem = |why: String| Error::new(Class::Usage, why);
    // A FIFO or a device would block or never end.
    let file = File::options().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path);
    let file = file.map_err(|error| problem(format!("cannot be read: {error}")))?;
    let kind = file.metadata().map_err(|error| problem(format!("cannot be read: {error}")))?;
    if !kind.is_file() {
        return Err(problem("is not a plain file".into()));
    }
    let mut bytes = Vec::new();
    let read = file
        .take(LIMIT + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| problem(format!("cannot be read: {error}")))?;
    if read as u64 > LIMIT {
        return Err(problem(format!("is larger than {} MiB", LIMIT >> 20)));
    }
    let text = String::from_utf8(bytes).map_err(|_| problem("is not UTF-8".into()))?;
    // Editors of other systems put a byte order mark in front, which no format here knows.
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

/// The files of a folder, in the order of their names; none if there is no such folder.
///
/// # Errors
/// It is there and cannot be read.
pub fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let problem = |error: std::io::Error| {
        let denied = error.kind() == ErrorKind::PermissionDenied;
        let class = if denied { Class::Privilege } else { Class::Refused };
        Error::new(class, format!("{} cannot be read: {error}", folder.display()))
    };
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(problem(error)),
    };
    let paths = entries.map(|entry| entry.map(|entry| entry.path()));
    let mut paths = paths.collect::<std::result::Result<Vec<_>, _>>().map_err(problem)?;
    paths.sort();
    Ok(paths)
}

/// The processes that /proc shows, each with its folder.
///
/// # Errors
/// /proc cannot be read.
pub fn processes() -> Result<Vec<(i32, PathBuf)>> {
    let number = |folder: &PathBuf| folder.file_name().and_then(|name| name.to_str()?.parse().ok());
    let folders = list(Path::new("/proc"))?.into_iter();
    Ok(folders.filter_map(|folder| Some((number(&folder)?, folder))).collect())
}

/// Whether there is something of that name.
#[must_use]
pub fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// Reads a file of the system, `None` if there is none.
///
/// # Errors
/// It is there and cannot be read.
pub fn read_system(path: &str) -> Result<Option<String>> {
    let failed = |error: std::io::Error| {
        let problem = format!("{path} cannot be read: {error}");
        if error.kind() == ErrorKind::PermissionDenied {
            let error = Error::new(Class::Privilege, problem);
            return error
                .remedy("run as uid 0 of the host: capabilities alone do not open root's files in /proc");
        }
        Error::refused(problem)
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = Vec::new();
    file.take(PROC_LIMIT).read_to_end(&mut bytes).map_err(failed)?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// Writes `text` over the beginning of the file at `path`, which is made if it is not there; what it had beyond
/// stays, as istio-iptables leaves it.
///
/// # Errors
/// It cannot be written.
pub fn write_over(path: &str, text: &str) -> Result<()> {
    use std::io::Write;
    let failed = |error: std::io::Error| {
        Error::new(Class::Usage, format!("{path} cannot be written: {error}"))
            .remedy("give a file that can be written")
    };
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .custom_flags(nix::libc::O_NONBLOCK)
        .open(path);
    file.map_err(failed)?.write_all(text.as_bytes()).map_err(failed)
}

/// Whether `path` is there.
#[must_use]
pub fn exists(path: &str) -> bool {
    Path::new(path).exists()
}

/// The executable file `name` in the first of `folders` that has it.
#[must_use]
pub fn find_program<'a>(name: &str, folders: impl Iterator<Item = &'a Path>) -> Option<PathBuf> {
    folders
        .map(|folder| folder.join(name))
        .find(|path| nix::unistd::access(path, nix::unistd::AccessFlags::X_OK).is_ok() && path.is_file())
}

/// Where `path` leads, links followed.
#[must_use]
pub fn canonical(path: &Path) -> Option<PathBuf> {
    path.canonicalize().ok()
}

/// Whether a lock file at `path` can be opened as iptables opens it (`O_RDONLY | O_CREAT`, mode 0600).
#[must_use]
pub fn lockable(path: &str) -> bool {
    use nix::fcntl::{OFlag, open};
    use nix::sys::stat::Mode;
    open(path, OFlag::O_RDONLY | OFlag::O_CREAT | OFlag::O_CLOEXEC, Mode::S_IRUSR | Mode::S_IWUSR).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_order_mark_is_no_text() {
        let folder = tempfile::tempdir().unwrap();
        for (bytes, text) in [(&b"\xef\xbb\xbfA=1\n"[..], "A=1\n"), (b"A=1\n", "A=1\n"), (b"", "")] {
            let path = folder.path().join("file");
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(read(&path).unwrap(), text);
        }
    }
}
