//! A neighbour of our own: a second network namespace with one wire to this one.
//!
//! It belongs to a thread: when that ends, however it ends, the kernel takes the namespace away and both ends of
//! the wire with it (network_namespaces(7), veth(4)). rtnetlink(7), linux/if_link.h, linux/neighbour.h.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use caps::Capability;
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::SockProtocol;
use nix::unistd::Pid;

use super::owner::need;
use crate::netlink::u32_at;
use crate::sys::message::{Netlink, attribute, find, nest};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const RTM_NEWADDR: u16 = 20;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWNEIGH: u16 = 28;
const NLM_F_CREATE_EXCL: u16 = 0x600;
const NLM_F_CREATE_REPLACE: u16 = 0x500;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_OPERSTATE: u16 = 16;
const IFLA_LINKINFO: u16 = 18;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_NET_NS_PID: u16 = 19;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const IN6_ADDR_GEN_MODE_NONE: u8 = 1;
const VETH_INFO_PEER: u16 = 1;
const IF_OPER_UP: u8 = 6;
const IFF_UP: u32 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
/// The address is ours at once: nobody else is on the wire.
const IFA_F_NODAD: u8 = 2;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NUD_PERMANENT: u16 = 0x80;
const RTA_DST: u16 = 1;
const RTN_LOCAL: u8 = 2;
/// struct ifinfomsg and struct rtmsg.
const IFINFOMSG: usize = 16;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// How long the kernel may take to bring both ends up.
const PATIENCE: Duration = Duration::from_secs(2);
/// How both ends of the wire are called; a number follows on this side.
pub const NEIGHBOUR: &str = "mi-probe";

/// One end of the wire.
#[derive(Debug)]
struct End {
    netlink: Netlink,
    name: String,
    index: u32,
    ip: IpAddr,
    mac: [u8; 6],
}

/// Does `work` in a fresh network namespace whose address `theirs` has a wire to `ours`, an address that the calling
/// thread's namespace has meanwhile.
///
/// # Errors
/// A phrase that says why there is no such namespace, or what `work` says.
pub(super) fn beside<T: Send>(
    ours: IpAddr,
    theirs: IpAddr,
    work: impl FnOnce() -> Result<T, String> + Send,
) -> Result<T, String> {
    need(Capability::CAP_SYS_ADMIN, "for a second network namespace")?;
    need(Capability::CAP_NET_ADMIN, "for a link to a second network namespace")?;
    let here = Netlink::open(SockProtocol::NetlinkRoute).map_err(|error| failed("rtnetlink", error))?;
    let netns = nix::unistd::gettid();
    super::on_a_thread(move || {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|error| format!("no second network namespace: {error}"))?;
        let there = Netlink::open(SockProtocol::NetlinkRoute).map_err(|error| failed("rtnetlink", error))?;
        // The first hexadecimal digits say that the address is nobody's (IEEE 802, locally administered).
        let end =
            |netlink, name, ip, last| End { netlink, name, index: 0, ip, mac: [2, b'm', b'i', 0, 0, last] };
        // Two runs at once have different threads. 15 bytes are the longest name.
        let name = format!("{NEIGHBOUR}{}", nix::unistd::gettid().as_raw() % 10_000_000);
        let mut there = end(there, NEIGHBOUR.to_owned(), theirs, 2);
        create(&mut there, &name, netns)?;
        let mut wire = Wire { here: end(here, name, ours, 1), there };
        wire.bring_up()?;
        work()
    })
}

/// Both ends; gone when dropped.
struct Wire {
    here: End,
    there: End,
}

impl Drop for Wire {
    fn drop(&mut self) {
        // The end of this thread would do as well, a moment later.
        let name = attribute(IFLA_IFNAME, text(&self.here.name).as_slice());
        self.here.netlink.ask(RTM_DELLINK, 0, &[link(0, 0), name].concat()).ok();
    }
}

impl Wire {
    fn bring_up(&mut self) -> Result<(), String> {
        for end in [&mut self.here, &mut self.there] {
            end.index = end.look()?.0;
            end.quieten();
            end.up()?;
        }
        let until = Instant::now() + PATIENCE;
        // Until then the kernel drops what is sent (net/core/link_watch.c).
        for end in [&mut self.here, &mut self.there] {
            wait("the link is not up", until, || Ok(end.look()?.1))?;
        }
        self.here.configure(self.there.ip, self.there.mac)?;
        self.there.configure(self.here.ip, self.here.mac)?;
        // IPv6 addresses come into use in the kernel's own time.
        for end in [&mut self.here, &mut self.there] {
            wait("the address is not in use", until, || end.is_local())?;
        }
        Ok(())
    }
}

fn wait(what: &str, until: Instant, mut is_so: impl FnMut() -> Result<bool, String>) -> Result<(), String> {
    while !is_so()? {
        if Instant::now() > until {
            return Err(format!("no second network namespace: {what} after {PATIENCE:?}"));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Makes the pair: `there` in the namespace of its socket, the other end, called `name`, in that of thread `netns`.
/// A thread names its namespace where there is no /proc, too (get_net_ns_by_pid() in net/core/net_namespace.c).
fn create(there: &mut End, name: &str, netns: Pid) -> Result<(), String> {
    let peer = [
        link(0, 0),
        attribute(IFLA_IFNAME, &text(name)),
        attribute(IFLA_ADDRESS, &[2, b'm', b'i', 0, 0, 1]),
        attribute(IFLA_NET_NS_PID, &netns.as_raw().to_ne_bytes()),
    ];
    let data = nest(IFLA_INFO_DATA, &[attribute(VETH_INFO_PEER, &peer.concat())]);
    let request = [
        link(0, 0),
        attribute(IFLA_IFNAME, &text(&there.name)),
        attribute(IFLA_ADDRESS, &there.mac),
        nest(IFLA_LINKINFO, &[attribute(IFLA_INFO_KIND, b"veth"), data]),
    ];
    there.netlink.ask(RTM_NEWLINK, NLM_F_CREATE_EXCL, &request.concat()).map_err(|error| {
        if error == Errno::EOPNOTSUPP {
            return "this kernel has no veth for a second network namespace".to_owned();
        }
        failed("a link to it", error)
    })?;
    Ok(())
}

impl End {
    /// Its index, and whether it is up.
    fn look(&mut self) -> Result<(u32, bool), String> {
        let question = [link(0, 0), attribute(IFLA_IFNAME, &text(&self.name))].concat();
        let answer =
            self.netlink.ask(RTM_GETLINK, 0, &question).map_err(|error| failed("its link", error))?;
        let index = u32_at(&answer, 4).ok_or("a link without an index")?;
        let state = find(answer.get(IFINFOMSG..).unwrap_or_default(), &[IFLA_OPERSTATE]);
        Ok((index, state == Some(&[IF_OPER_UP])))
    }

    /// No link-local address, so that nobody says a word on the wire but us. A kernel without IPv6 refuses, and
    /// says none either.
    fn quieten(&mut self) {
        let mode = attribute(IFLA_INET6_ADDR_GEN_MODE, &[IN6_ADDR_GEN_MODE_NONE]);
        let spec = nest(IFLA_AF_SPEC, &[nest(u16::from(AF_INET6), &[mode])]);
        self.netlink.ask(RTM_SETLINK, 0, &[link(self.index, 0), spec].concat()).ok();
    }

    fn up(&mut self) -> Result<(), String> {
        self.netlink
            .ask(RTM_SETLINK, 0, &link(self.index, IFF_UP))
            .map_err(|error| failed("its link", error))?;
        Ok(())
    }

    /// Gives it its address and tells it where the other end is: sysctls about ARP do not matter then.
    fn configure(&mut self, other: IpAddr, mac: [u8; 6]) -> Result<(), String> {
        let (family, prefix, flags) = match self.ip {
            IpAddr::V4(_) => (AF_INET, 30, 0),
            IpAddr::V6(_) => (AF_INET6, 126, IFA_F_NODAD),
        };
        let ip = octets(self.ip);
        let address = [
            [vec![family, prefix, flags, 0], self.index.to_ne_bytes().to_vec()].concat(),
            attribute(IFA_LOCAL, &ip),
            attribute(IFA_ADDRESS, &ip),
        ];
        self.netlink.ask(RTM_NEWADDR, NLM_F_CREATE_EXCL, &address.concat()).map_err(|error| {
            // net/ipv6/addrconf.c, `addrconf_add_dev` and `inet6_addr_add`.
            let disabled = [Errno::EACCES, Errno::EOPNOTSUPP, Errno::EAFNOSUPPORT].contains(&error);
            if disabled && family == AF_INET6 {
                return "IPv6 is disabled on new links (net.ipv6.conf.default.disable_ipv6)".to_owned();
            }
            failed("its address", error)
        })?;
        let mut neighbour = vec![family, 0, 0, 0];
        neighbour.extend(self.index.to_ne_bytes());
        neighbour.extend(NUD_PERMANENT.to_ne_bytes());
        neighbour.extend([0; 2]);
        neighbour.extend(attribute(NDA_DST, &octets(other)));
        neighbour.extend(attribute(NDA_LLADDR, &mac));
        self.netlink
            .ask(RTM_NEWNEIGH, NLM_F_CREATE_REPLACE, &neighbour)
            .map_err(|error| failed("its neighbour", error))?;
        Ok(())
    }

    /// Whether its namespace takes packets to its address.
    fn is_local(&mut self) -> Result<bool, String> {
        let (family, length) = if self.ip.is_ipv4() { (AF_INET, 32) } else { (AF_INET6, 128) };
        let question = [vec![family, length], vec![0; 10], attribute(RTA_DST, &octets(self.ip))].concat();
        match self.netlink.ask(RTM_GETROUTE, 0, &question) {
            Ok(answer) => Ok(answer.get(7) == Some(&RTN_LOCAL)),
            Err(Errno::ENETUNREACH | Errno::EHOSTUNREACH) => Ok(false),
            Err(error) => Err(failed("its route", error)),
        }
    }
}

fn failed(what: &str, error: Errno) -> String {
    if error == Errno::EPERM {
        // We have it, yet not where it counts (user_namespaces(7)).
        return "CAP_NET_ADMIN is missing for a link to a second network namespace".to_owned();
    }
    format!("no second network namespace: {what}: {error}")
}

/// struct ifinfomsg.
fn link(index: u32, flags: u32) -> Vec<u8> {
    [0, index, flags, flags].iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn text(name: &str) -> Vec<u8> {
    [name.as_bytes(), &[0]].concat()
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}
