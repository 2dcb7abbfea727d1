//! Folders of the BPF file system, where maps, programs and links are kept when nobody has them open.

use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::FsType;

use super::{call, object};
use crate::error::{Class, Error, Result};

/// Where the BPF file system is mounted.
pub const MOUNT: &str = "/sys/fs/bpf";
/// include/uapi/linux/magic.h.
const BPF_FS_MAGIC: FsType = FsType(0xcafe_4a11);

/// The folder of the BPF file system, which is mounted if it is not.
///
/// # Errors
/// It cannot be mounted.
pub fn mounted() -> Result<PathBuf> {
    if let Some(there) = find() {
        return Ok(there);
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bpf"), MOUNT, Some("bpf"), flags, Some("mode=0700")).map_err(|errno| {
        let class = if errno == Errno::EPERM { Class::Privilege } else { Class::Host };
        Error::new(class, format!("mounting the BPF file system at {MOUNT}: {}", errno.desc())).remedy(format!(
            "mount -t bpf bpf {MOUNT} on the host, and give the folder to the container if this is one; CAP_SYS_ADMIN is needed"
        ))
    })?;
    Ok(MOUNT.into())
}

/// The same, if it is mounted.
#[must_use]
pub fn find() -> Option<PathBuf> {
    let kind = nix::sys::statfs::statfs(MOUNT).ok()?.filesystem_type();
    (kind == BPF_FS_MAGIC).then(|| MOUNT.into())
}

fn failed(what: &str, path: &Path, error: &std::io::Error) -> Error {
    let class = if error.kind() == ErrorKind::PermissionDenied { Class::Privilege } else { Class::Refused };
    Error::new(class, format!("{what} {}: {error}", path.display()))
}

/// Makes a folder, which only its owner can look into; one that is there is as good.
///
/// # Errors
/// It cannot be made.
pub fn make_folder(path: &Path) -> Result<()> {
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(failed("making", path, &error)),
        _ => Ok(()),
    }
}

/// How often a lock is tried.
const PAUSE: Duration = Duration::from_millis(2);

/// Lets one run at a time work with what is kept in the folder, waiting up to `wait`; it is unlocked when the value goes.
///
/// # Errors
/// The folder cannot be opened, or another run still works with it.
pub fn lock(folder: &Path, wait: Duration) -> Result<Guard> {
    let end = Instant::now() + wait;
    let mut file = File::open(folder).map_err(|error| failed("opening", folder, &error))?;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(guard) => return Ok(guard),
            Err((back, Errno::EWOULDBLOCK)) if Instant::now() < end => {
                file = back;
                std::thread::sleep(PAUSE);
            }
            Err((_, Errno::EWOULDBLOCK)) => {
                let problem = format!("another run works with {}", folder.display());
                return Err(Error::new(Class::TryAgain, problem).remedy("try again"));
            }
            Err((_, errno)) => {
                return Err(Error::refused(format!("locking {}: {}", folder.display(), errno.desc())));
            }
        }
    }
}

/// Keeps `fd` under `path`.
///
/// # Errors
/// There is something, or it cannot be made.
pub fn keep(fd: &impl AsFd, path: &Path) -> Result<()> {
    call::pin(fd, path).map_err(|errno| object::explain(&format!("keeping {}", path.display()), errno))
}

/// What is kept under `path`.
///
/// # Errors
/// It cannot be opened.
pub fn open(path: &Path) -> Result<Option<OwnedFd>> {
    match call::open(path) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(object::explain(&format!("opening {}", path.display()), errno)),
    }
}

/// Takes away what is kept under `path`, a folder with all that is in it; nothing if there is nothing. What comes last by
/// name goes first.
///
/// # Errors
/// It cannot be taken away.
pub fn remove(path: &Path) -> Result<()> {
    let about = match path.symlink_metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        about => about.map_err(|error| failed("looking at", path, &error))?,
    };
    let removed = if about.is_dir() {
        for inner in list(path)?.iter().rev() {
            remove(inner)?;
        }
        std::fs::remove_dir(path)
    } else {
        std::fs::remove_file(path)
    };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(failed("removing", path, &error)),
        _ => Ok(()),
    }
}

/// What is in a folder, by name; nothing if there is no such folder.
///
/// # Errors
/// It cannot be read.
pub fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    crate::sys::fs::list(folder)
}

/// Makes `path` a link to `target`, in the place of one that is there.
///
/// # Errors
/// It cannot be made.
pub fn point(path: &Path, target: &Path) -> Result<()> {
    remove(path)?;
    symlink(target, path).map_err(|error| failed("linking", path, &error))
}

/// Where the link at `path` leads.
#[must_use]
pub fn pointed(path: &Path) -> Option<PathBuf> {
    std::fs::read_link(path).ok()
}

/// The lock of a folder.
pub type Guard = Flock<File>;

/// Whether there is something under `path`.
#[must_use]
pub fn is_there(path: &Path) -> bool {
    crate::sys::fs::is_there(path)
}
