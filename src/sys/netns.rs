//! Network namespaces: entering one, and telling which one this is.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns};
use nix::sys::stat::fstat;
use nix::sys::statfs::{FsType, fstatfs};

use crate::error::{Class, Error, Result};

/// nsfs's magic number (linux/magic.h, `NSFS_MAGIC`).
const NSFS: FsType = FsType(0x6e73_6673);

/// A namespace's identity: the inode and device of its file in nsfs (namespaces(7)).
pub type Identity = (u64, u64);

/// An open network namespace.
#[derive(Debug)]
pub struct Netns {
    file: File,
    path: PathBuf,
    /// Its identity.
    pub identity: Identity,
}

/// Opens the namespace at `path`.
///
/// # Errors
/// There is none, or it is no namespace.
pub fn open(path: &Path) -> Result<Netns> {
    let problem = |class, why: String| {
        Error::new(class, format!("the network namespace {} {why}", path.display()))
            .remedy("give a running process's id, or a path such as /run/netns/NAME")
    };
    // A FIFO in its place would block.
    let file = File::options().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path);
    let file = file.map_err(|error| {
        let denied = error.kind() == std::io::ErrorKind::PermissionDenied;
        let error = problem(
            if denied { Class::Privilege } else { Class::Host },
            format!("cannot be opened: {error}"),
        );
        if denied {
            error.remedy("run as root of the namespace's owner; another process's needs CAP_SYS_PTRACE")
        } else {
            error
        }
    })?;
    let kind =
        fstatfs(&file).map_err(|error| problem(Class::Host, format!("cannot be looked at: {error}")))?;
    if kind.filesystem_type() != NSFS {
        return Err(problem(Class::Host, "is not a namespace".into()));
    }
    let stat = fstat(&file).map_err(|error| problem(Class::Host, format!("cannot be looked at: {error}")))?;
    Ok(Netns { file, path: path.to_owned(), identity: (stat.st_ino, stat.st_dev) })
}

/// The identity of the namespace at `of`; `None` if /proc does not let us see it.
#[must_use]
pub fn identity(of: &str) -> Option<Identity> {
    open(Path::new(of)).ok().map(|netns| netns.identity)
}

/// The calling thread's namespace.
pub const OWN: &str = "/proc/thread-self/ns/net";
impl Netns {
    /// Moves the calling thread there, for good.
    ///
    /// # Errors
    /// It is no *network* namespace, or `CAP_SYS_ADMIN` is missing.
    pub fn enter(&self) -> Result<()> {
        setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET).map_err(|error| {
            let problem = format!("entering the network namespace {}: {error}", self.path.display());
            if error == nix::errno::Errno::EPERM {
                let error = Error::new(Class::Privilege, problem);
                return error.remedy("CAP_SYS_ADMIN is needed, in the user namespace that owns it too");
            }
            Error::host(problem).remedy("give the path of a network namespace")
        })
    }
}

/// Whether the calling thread is in the host's own network namespace, the one that was there at boot.
///
/// The kernel registers some sysctls for that one alone (net/core/sysctl_net_core.c: `net_core_table` against
/// `netns_core_table`), and /proc/sys/net shows those of the reader's namespace. Comparing with PID 1 cannot
/// tell inside a container, where PID 1 is the container's.
#[must_use]
pub fn is_initial() -> bool {
    // Where /proc has no sysctls, nothing tells: then it is the host's until somebody says otherwise.
    super::fs::exists("/proc/sys/net/core/dev_weight") || !super::fs::exists("/proc/sys/net/core")
}
