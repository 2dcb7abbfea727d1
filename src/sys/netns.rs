//! Network namespaces: entering one, and telling which one this is.

#![expect(
    unsafe_code,
    reason = "nix has no name for the connector's protocol, and no way to ask a namespace for its owner"
)]

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::libc;
use nix::net::if_::InterfaceFlags;
use nix::sched::{CloneFlags, setns, unshare};
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
/// That of the first process.
pub const FIRST: &str = "/proc/1/ns/net";

/// `NS_GET_USERNS` and `NS_GET_NSTYPE` (linux/nsfs.h, ioctl_ns(2)): `_IO(0xb7, 0x1)` and `_IO(0xb7, 0x3)`.
const NS_GET_USERNS: nix::libc::Ioctl = 0xb701;
const NS_GET_NSTYPE: nix::libc::Ioctl = 0xb703;

/// The cookie of the calling thread's namespace, by which BPF programs know it (`SO_NETNS_COOKIE`, Linux 5.14). No other
/// namespace has it until the machine is started again.
///
/// # Errors
/// The kernel does not tell.
pub fn cookie() -> Result<u64> {
    /// include/uapi/asm-generic/socket.h.
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let failed = |errno: Errno| {
        Error::host(format!("the cookie of the network namespace cannot be had: {}", errno.desc()))
            .remedy("--backend ebpf needs Linux 5.17 or later; give --backend nftables")
    };
    // SAFETY: socket(2) takes three integers.
    let fd = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    let fd = Errno::result(fd).map_err(failed)?;
    // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut cookie = 0_u64;
    let mut length = libc::socklen_t::try_from(size_of::<u64>()).map_err(|_| failed(Errno::EINVAL))?;
    let at = (&raw mut cookie).cast();
    // SAFETY: the kernel writes no more than the length, which is that of the number.
    let told =
        unsafe { libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, SO_NETNS_COOKIE, at, &raw mut length) };
    Errno::result(told).map_err(failed)?;
    Ok(cookie)
}

impl AsFd for Netns {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Netns {
    /// Whether it is a namespace of networks, not one of another kind.
    #[must_use]
    pub fn is_of_networks(&self) -> bool {
        // SAFETY: this request takes no argument and gives back the kind as a number, or -1.
        let kind = unsafe { nix::libc::ioctl(self.file.as_raw_fd(), NS_GET_NSTYPE) };
        // Kernels before 4.11 do not tell; they refuse to enter it.
        kind < 0 || kind == CloneFlags::CLONE_NEWNET.bits()
    }

    /// Whether it belongs to another user namespace than the caller's. One that is above the caller's does, too: the
    /// kernel does not show it (EPERM).
    #[must_use]
    pub fn is_of_other_users(&self) -> bool {
        // SAFETY: this request takes no argument and gives back a new descriptor, or -1.
        let fd = unsafe { nix::libc::ioctl(self.file.as_raw_fd(), NS_GET_USERNS) };
        if fd < 0 {
            return true;
        }
        // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
        let owner = unsafe { File::from_raw_fd(fd) };
        let owner = fstat(&owner).ok().map(|stat| (stat.st_ino, stat.st_dev));
        owner != identity("/proc/thread-self/ns/user")
    }

    /// The user namespace that it belongs to.
    ///
    /// # Errors
    /// It is above the caller's, which the kernel does not show.
    pub fn owner(&self) -> Result<OwnedFd> {
        // SAFETY: this request takes no argument and gives back a new descriptor, or -1.
        let fd = unsafe { nix::libc::ioctl(self.file.as_raw_fd(), NS_GET_USERNS) };
        let fd = Errno::result(fd).map_err(|errno| {
            Error::refused(format!("the owner of {}: {}", self.path.display(), errno.desc()))
        })?;
        // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

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

/// Moves the calling thread into a network namespace that nobody else has, and that is gone when the thread ends.
///
/// # Errors
/// `CAP_SYS_ADMIN` is missing, or the kernel has no more room for namespaces.
pub fn private() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(|error| {
        let problem = format!("making a network namespace: {error}");
        if error == nix::errno::Errno::EPERM {
            return Error::new(Class::Privilege, problem).remedy("CAP_SYS_ADMIN is needed");
        }
        Error::host(problem).remedy("see /proc/sys/user/max_net_namespaces")
    })
}

/// The addresses of the calling thread's namespace, but for the loopback ones and those of the interface `but`: those that
/// others may know before link-local ones, of each those of `lo` last, and the rest in the kernel's order.
///
/// # Errors
/// The kernel does not tell.
pub fn own_addresses(but: Option<&str>) -> Result<Vec<IpAddr>> {
    let found = nix::ifaddrs::getifaddrs()
        .map_err(|errno| Error::refused(format!("reading the addresses: {}", errno.desc())))?;
    let mut addresses: Vec<(bool, IpAddr)> = found
        .filter(|found| but != Some(found.interface_name.as_str()))
        .filter_map(|found| {
            let on_lo = found.flags.contains(InterfaceFlags::IFF_LOOPBACK);
            let address = found.address?;
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            let ip = v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())));
            Some((on_lo, ip?))
        })
        .filter(|(_, address)| !address.is_loopback())
        .collect();
    addresses.sort_by_key(|(on_lo, address)| (is_link_local(address), *on_lo));
    Ok(addresses.into_iter().map(|(_, address)| address).collect())
}

/// What the calling thread's namespace sends from by its default route, in IPv4 or IPv6: the kernel chooses, and nothing is
/// sent. Nothing where there is no such route.
#[must_use]
pub fn default_source(v4: bool) -> Option<IpAddr> {
    use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
    // Addresses for documentation (RFC 5737, RFC 3849), which nobody has a route of their own for, and the port of discard.
    let (any, far): (IpAddr, IpAddr) = match v4 {
        true => (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(192, 0, 2, 1).into()),
        false => (Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((far, 9)).ok()?;
    let source = socket.local_addr().ok()?.ip();
    (!source.is_loopback() && !is_link_local(&source)).then_some(source)
}

/// Whether an address means a host on one link only.
#[must_use]
pub fn is_link_local(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// Whether an interface of the calling thread's namespace other than `lo` and `interface` has an address that packets
/// can leave from. What cannot be told counts as yes.
#[must_use]
pub fn has_more_than(interface: &str) -> bool {
    let Ok(addresses) = nix::ifaddrs::getifaddrs() else { return true };
    addresses.into_iter().any(|found| {
        let usable = found.address.is_some_and(|address| {
            let v6 = address.as_sockaddr_in6().map(nix::sys::socket::SockaddrIn6::ip);
            address.as_sockaddr_in().is_some() || v6.is_some_and(|ip| !ip.is_unicast_link_local())
        });
        let flags = found.flags;
        let on = flags.contains(InterfaceFlags::IFF_UP) && !flags.contains(InterfaceFlags::IFF_LOOPBACK);
        usable && on && found.interface_name != interface
    })
}
