//! What a network namespace has of IPv6.

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

use super::message::{Netlink, find};

const RTM_GETLINK: u16 = 18;
const IFLA_AF_SPEC: u16 = 26;
const AF_INET6: u16 = 10;
const IFLA_INET6_CONF: u16 = 2;
/// The place of `disable_ipv6` among an interface's settings (linux/ipv6.h).
const DEVCONF_DISABLE_IPV6: usize = 26;
/// struct ifinfomsg.
const IFINFOMSG: usize = 16;
/// `LOOPBACK_IFINDEX` of net/flow.h.
const LO: u32 = 1;
const NET: &str = "/proc/thread-self/net";

/// Whether there is an IPv6 stack, whatever addresses it has (proc(5); absent with ipv6.disable=1).
#[must_use]
pub fn is_there() -> bool {
    if super::fs::exists(NET) {
        return super::fs::exists(&format!("{NET}/if_inet6"));
    }
    // Without /proc a socket tells. It comes second: it would load a stack that nobody has asked for yet.
    let datagram = socket(AddressFamily::Inet6, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None);
    !matches!(datagram, Err(Errno::EAFNOSUPPORT))
}

/// Whether IPv6 is switched off on `lo` (ip-sysctl.rst, `disable_ipv6`); not where the kernel does not tell.
#[must_use]
pub fn is_off_on_lo() -> bool {
    // struct ifinfomsg: the index stands third.
    let question: Vec<u8> = [0, LO, 0, 0].iter().flat_map(|word| word.to_ne_bytes()).collect();
    let answer = Netlink::open(SockProtocol::NetlinkRoute)
        .and_then(|mut netlink| netlink.ask(RTM_GETLINK, 0, &question));
    answer.is_ok_and(|answer| is_off(&answer))
}

fn is_off(answer: &[u8]) -> bool {
    let path = [IFLA_AF_SPEC, AF_INET6, IFLA_INET6_CONF];
    let settings = find(answer.get(IFINFOMSG..).unwrap_or_default(), &path).unwrap_or_default();
    let word = settings.get(4 * DEVCONF_DISABLE_IPV6..4 * DEVCONF_DISABLE_IPV6 + 4);
    word.is_some_and(|word| word != [0; 4])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_as_proc_says() {
        let off = std::fs::read_to_string("/proc/sys/net/ipv6/conf/lo/disable_ipv6");
        assert_eq!(is_off_on_lo(), off.is_ok_and(|off| off.trim() == "1"));
    }

    #[test]
    fn garbage_says_nothing() {
        for length in 0..200 {
            assert!(!is_off(&vec![1; length]));
        }
    }
}
