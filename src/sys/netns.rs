//! Network namespaces: entering one, and telling which one this is.

#![expect(unsafe_code, reason = "nix has no name for the connector's protocol")]

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::libc;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{MsgFlags, NetlinkAddr, sendto};
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
            if error == Errno::EPERM {
                let error = Error::new(Class::Privilege, problem);
                return error.remedy("CAP_SYS_ADMIN is needed, in the user namespace that owns it too");
            }
            Error::host(problem).remedy("give the path of a network namespace")
        })
    }
}

/// Whether the calling thread is in the host's own network namespace, the one that was there at boot; `None` if
/// nothing tells.
///
/// The kernel registers some sysctls for that one alone (net/core/sysctl_net_core.c: `net_core_table` against
/// `netns_core_table`), and /proc/sys/net shows those of the reader's namespace. Comparing with PID 1 cannot
/// tell inside a container, where PID 1 is the container's.
#[must_use]
pub fn is_initial() -> Option<bool> {
    if super::fs::exists("/proc/sys/net/core") {
        return Some(super::fs::exists("/proc/sys/net/core/dev_weight"));
    }
    // Where /proc has no sysctls, somebody who does not answer tells: that it is another one.
    lacks_connector().then_some(false)
}

/// Whether the kernel's connector, which has its end in the initial namespace alone (cn_init() in
/// drivers/connector/connector.c), is not here although the kernel has one.
fn lacks_connector() -> bool {
    let ask = || -> nix::Result<()> {
        let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
        // SAFETY: socket(2) takes three integers.
        let fd = unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_CONNECTOR) };
        let fd = Errno::result(fd)?;
        // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // NLMSG_NOOP without a payload, from nobody: cn_rx_skb() passes over what is too short for a message.
        let mut header = 16_u32.to_ne_bytes().to_vec();
        header.extend(1_u16.to_ne_bytes());
        header.extend([0; 10]);
        sendto(fd.as_raw_fd(), &header, &NetlinkAddr::new(0, 0), MsgFlags::MSG_DONTWAIT)?;
        Ok(())
    };
    ask() == Err(Errno::ECONNREFUSED)
}
