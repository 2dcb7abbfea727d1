//! What the ends of a connection are told of each other: the application that it speaks with whom it called, the proxy whom
//! that was.

use aya_ebpf::bindings::{bpf_sock, bpf_sock_addr, bpf_sockopt};
use mesh_init_abi::{Address, Endpoint, SockFlags};

use crate::word::{endpoint, of_family, port_of, same, word_of};
use crate::{maps, read, read_address, write, write_address};

/// Whom the socket of an IPv4 hook spoke to, where the kernel says it speaks to: `getpeername` and `recvmsg`, which must
/// allow.
#[inline(always)]
pub fn name4(context: *mut bpf_sock_addr) -> i32 {
    let said =
        Endpoint { address: Address::v4(read!(context, user_ip4)), port: port_of(read!(context, user_port)) };
    if let Some(Endpoint { address: Address([_, _, _, word]), port }) = meant(context, said) {
        write!(context, user_ip4, word);
        write!(context, user_port, word_of(port));
    }
    1
}

/// The same of an IPv6 hook, which is asked about IPv4 addresses in IPv6's form, too.
#[inline(always)]
pub fn name6(context: *mut bpf_sock_addr) -> i32 {
    let said =
        Endpoint { address: read_address!(context, user_ip6), port: port_of(read!(context, user_port)) };
    if let Some(Endpoint { address, port }) = meant(context, said) {
        write_address!(context, user_ip6, address);
        write!(context, user_port, word_of(port));
    }
    1
}

/// Whom it meant, if it was sent to whom the kernel says. What is remembered may be old: `connect` with AF_UNSPEC runs no
/// hook.
#[inline(always)]
fn meant(context: *mut bpf_sock_addr, said: Endpoint) -> Option<Endpoint> {
    // Most sockets speak with another host.
    if !said.address.is_loopback() {
        return None;
    }
    let socket: *mut bpf_sock = read!(context, __bindgen_anon_1.sk);
    if socket.is_null() {
        return None;
    }
    let sock = maps::SOCKS.of(socket)?.as_ptr();
    if !SockFlags(read!(sock, flags.0)).has(SockFlags::SENT) {
        return None;
    }
    // SAFETY: fields of what is there.
    let (target, original) = unsafe { (&raw const (*sock).target, &raw const (*sock).original) };
    same(endpoint(target), said).then(|| endpoint(original))
}

const SOL_IP: i32 = 0;
const SOL_IPV6: i32 = 41;
/// `SO_ORIGINAL_DST` and `IP6T_SO_ORIGINAL_DST` (include/uapi/linux/netfilter_ipv4.h, netfilter_ipv6/ip6_tables.h).
const SO_ORIGINAL_DST: i32 = 80;
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
/// A longer answer than the hook's buffer holds.
const PAGE: i32 = 4096;

/// `getsockopt`, after the kernel has answered: only the question for the original destination of a socket that we know is
/// answered anew.
#[inline(always)]
pub fn original_destination(context: *mut bpf_sockopt) -> i32 {
    let (level, name) = (read!(context, level), read!(context, optname));
    if name == SO_ORIGINAL_DST
        && (level == SOL_IP || level == SOL_IPV6)
        && let Some(original) = original_of(context)
        && original.address.is_v4() == (level == SOL_IP)
    {
        return answer(context, original);
    }
    // What is longer than the buffer is in the caller's memory already: with the length left as it is the call would fail
    // (`__cgroup_bpf_run_filter_getsockopt`, kernel/bpf/cgroup.c).
    if read!(context, optlen) > PAGE {
        write!(context, optlen, 0);
    }
    1
}

#[inline(always)]
fn original_of(context: *mut bpf_sockopt) -> Option<Endpoint> {
    let socket: *mut bpf_sock = read!(context, __bindgen_anon_1.sk);
    if socket.is_null() {
        return None;
    }
    let sock = maps::SOCKS.of(socket)?.as_ptr();
    // All of it before any branch: a compiler that finds two reads at the end of two branches makes them one, of a pointer
    // that it chooses, and the verifier takes no arithmetic with this one.
    let address = of_family(read!(socket, family), read!(socket, src_ip4), read_address!(socket, src_ip6));
    let own = Endpoint { address, port: read!(socket, src_port) };
    let flags = SockFlags(read!(sock, flags.0));
    if flags.has(SockFlags::MEANT) {
        // SAFETY: a field of what is there.
        return Some(endpoint(unsafe { &raw const (*sock).original }));
    }
    // It has the address that it was called by.
    flags.has(SockFlags::STEERED).then_some(own)
}

#[inline(always)]
fn answer(context: *mut bpf_sockopt, original: Endpoint) -> i32 {
    let Endpoint { address: Address([a, b, c, d]), port } = original;
    let start = read!(context, __bindgen_anon_2.optval).cast::<u32>();
    let end = read!(context, __bindgen_anon_3.optval_end).cast::<u32>();
    let port = word_of(port) << 16;
    let v4 = original.address.is_v4();
    // `struct sockaddr_in` and `struct sockaddr_in6` in words: family and port; address and padding, or flow, address, scope.
    let length = if v4 { 16 } else { 28 };
    let [first, second, third, fourth] =
        if v4 { [AF_INET | port, d, 0, 0] } else { [AF_INET6 | port, 0, a, b] };
    // One way to write what both have in common, with one offset each: the compiler makes one of two ways, with offsets that
    // it chooses. The length that is compared is the caller's, and is not above that of the buffer.
    if read!(context, optlen) < length {
        return 1;
    }
    // SAFETY: it is compared, and not read.
    if unsafe { start.add(4) } > end {
        return 1;
    }
    // SAFETY: the four words lie before the end.
    unsafe {
        start.write_volatile(first);
        start.add(1).write_volatile(second);
        start.add(2).write_volatile(third);
        start.add(3).write_volatile(fourth);
    }
    if !v4 {
        // SAFETY: it is compared, and not read.
        if unsafe { start.add(7) } > end {
            return 1;
        }
        // SAFETY: the seven words lie before the end.
        unsafe {
            start.add(4).write_volatile(c);
            start.add(5).write_volatile(d);
            start.add(6).write_volatile(0);
        }
    }
    write!(context, optlen, length);
    write!(context, retval, 0);
    1
}
