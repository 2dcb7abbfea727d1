//! What begins here: `connect` and `sendmsg`.

use core::mem::MaybeUninit;
use core::ptr::NonNull;

use aya_ebpf::bindings::{bpf_sock, bpf_sock_addr};
use aya_ebpf::helpers::bpf_bind;
use mesh_init_abi::{
    Address, AddressKey, Endpoint, Flow, OwnerKind, PolicyFlags, Sock, SockFlags, SurpriseKind, Verdict, Way,
    decide,
};

use crate::policy::{Here, Owner, netns};
use crate::word::{address, endpoint, port_of, put_address, put_endpoint, same, word_of};
use crate::{maps, read, read_address, surprise, write, write_address};

const ALLOW: i32 = 1;
/// The caller gets EPERM.
const REFUSE: i32 = 0;

const TCP: u32 = 6;
const UDP: u32 = 17;
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;

/// `connect` and `sendmsg` of an IPv4 socket, and `sendmsg` of an IPv6 one to an IPv4 address in IPv6's form.
#[inline(always)]
pub fn calls4(context: *mut bpf_sock_addr, call: Call) -> i32 {
    let to =
        Endpoint { address: Address::v4(read!(context, user_ip4)), port: port_of(read!(context, user_port)) };
    match divert(context, to, false, Hook::V4, call) {
        Diverted::No => ALLOW,
        Diverted::Refused => REFUSE,
        Diverted::To(target) => {
            let Address([_, _, _, word]) = target.address;
            write!(context, user_ip4, word);
            write!(context, user_port, word_of(target.port));
            ALLOW
        }
    }
}

/// The same of an IPv6 socket, whose destination may be an IPv4 address in IPv6's form: the hook of `connect` runs before
/// `tcp_v6_connect` tells the two apart (net/ipv6/tcp_ipv6.c).
#[inline(always)]
pub fn calls6(context: *mut bpf_sock_addr, call: Call) -> i32 {
    let to = Endpoint { address: read_address!(context, user_ip6), port: port_of(read!(context, user_port)) };
    match of_either(context, to, call) {
        Diverted::No => ALLOW,
        Diverted::Refused => REFUSE,
        Diverted::To(target) => {
            write_address!(context, user_ip6, target.address);
            write!(context, user_port, word_of(target.port));
            ALLOW
        }
    }
}

/// Which addresses a context has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hook {
    V4,
    V6,
}

/// What asks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// `connect`.
    Connect,
    /// `sendmsg` with an address, of a UDP socket.
    Send,
}

enum Diverted {
    No,
    Refused,
    To(Endpoint),
}

/// The address that a socket has; an unspecified one if none was given to it.
#[inline(always)]
fn own_address(socket: *mut bpf_sock, hook: Hook) -> Address {
    match hook {
        Hook::V4 => Address::v4(read!(socket, src_ip4)),
        Hook::V6 => read_address!(socket, src_ip6),
    }
}

/// Whether it is an address of this host, and not a loopback one.
#[inline(always)]
fn is_own(here: &Here, address: Address) -> bool {
    maps::ADDRESSES.get(&AddressKey { netns: here.netns, address }).is_some()
}

/// What becomes of a call of an IPv6 socket. Each family has a way of its own: the verifier follows every way through what
/// comes after a choice, so that two ways that meet again cost more than two that do not.
#[inline(always)]
fn of_either(context: *mut bpf_sock_addr, to: Endpoint, call: Call) -> Diverted {
    let Address([_, _, _, word]) = to.address;
    match to.address.is_v4() {
        true => divert(context, Endpoint { address: Address::v4(word), ..to }, false, Hook::V6, call),
        false => divert(context, to, true, Hook::V6, call),
    }
}

/// What becomes of a call to `to`, an address of the family that `ipv6` says.
#[inline(always)]
fn divert(context: *mut bpf_sock_addr, to: Endpoint, ipv6: bool, hook: Hook, call: Call) -> Diverted {
    let protocol = read!(context, protocol);
    let tcp = protocol == TCP;
    if !tcp && protocol != UDP {
        return Diverted::No;
    }
    let Some(here) = Here::of(netns(context)) else { return Diverted::No };
    // Of UDP only DNS is ever captured.
    if !tcp && !here.policy.flags.has(PolicyFlags::DNS) {
        return Diverted::No;
    }
    let socket: *mut bpf_sock = read!(context, __bindgen_anon_1.sk);
    if socket.is_null() {
        return Diverted::No;
    }
    let from = own_address(socket, hook);
    let address = to.address.destination(ipv6);
    let sock = maps::SOCKS.of(socket);
    // A connection before this one, which failed or was given up, had its source chosen here: this one has none yet.
    let chosen = call == Call::Connect
        && sock.is_some_and(|sock| SockFlags(read!(sock.as_ptr(), flags.0)).has(SockFlags::BOUND));
    let unbound = chosen || from.is_unspecified();
    let owner = Owner::of(sock);
    #[expect(clippy::cast_possible_truncation, reason = "a port")]
    let port = to.port as u16;
    let flow = Flow {
        way: Way::Outbound,
        tcp,
        ipv6,
        stays: address.is_loopback() || is_own(&here, address),
        // An IPv6 socket that is not bound sends to its own address from that address (RFC 6724 section 5, rule 1).
        from_passthrough: from.is_passthrough() || (ipv6 && unbound && address.is_passthrough()),
        port,
        networks: here.networks(address),
        ports: here.ports(port),
        user: here.owner(OwnerKind::USER, owner.uid).and(owner.proxy),
        group: here.owner(OwnerKind::GROUP, owner.gid),
    };
    let decision = decide(&here.policy, &flow);
    here.count(decision.clause);
    match decision.verdict {
        Verdict::Pass => {
            let again = forget(sock, to, call);
            if chosen && !again {
                bind(context, Address::NONE);
            }
            Diverted::No
        }
        Verdict::Capture(captor) => {
            let proxy = if ipv6 { Address::LOOPBACK_V6 } else { Address::LOOPBACK_V4 };
            let target = Endpoint { address: proxy, port: u32::from(here.policy.port(captor)) };
            let called = Endpoint { address, port: to.port };
            send(context, &here, socket, called, target, hook, call)
        }
    }
}

/// What was sent elsewhere once and is not now has its peer's own address.
///
/// Says whether it is the same call again, which has come to be where it was sent: a control group and one that it is in may have
/// these programs both, and of an IPv4 address in IPv6's form UDP asks twice (`__ip6_datagram_connect`, net/ipv6/datagram.c).
#[inline(always)]
fn forget(sock: Option<NonNull<Sock>>, to: Endpoint, call: Call) -> bool {
    let Some(sock) = sock else { return false };
    let sock = sock.as_ptr();
    let flags = SockFlags(read!(sock, flags.0));
    if !flags.has(SockFlags::SENT) {
        return false;
    }
    // SAFETY: a field of what is there.
    let target = unsafe { &raw const (*sock).target };
    // An unconnected socket may still be answered from where it sent before.
    let is_target = same(endpoint(target), to);
    if is_target && flags.has(SockFlags::FRESH) {
        return true;
    }
    if call == Call::Connect || is_target {
        write!(sock, flags, SockFlags(flags.0 & !SockFlags::SENT.0));
    }
    false
}

/// Sends the call to the proxy, at `target`, and remembers where it was meant to go.
#[inline(always)]
fn send(
    context: *mut bpf_sock_addr,
    here: &Here,
    socket: *mut bpf_sock,
    to: Endpoint,
    target: Endpoint,
    hook: Hook,
    call: Call,
) -> Diverted {
    // Without it the proxy would not know where to: better no connection than one that goes wrong.
    let Some(sock) = maps::SOCKS.of_or_new(socket) else {
        surprise::note(here.netns, SurpriseKind::NO_MEMORY, to.address, to.port);
        return Diverted::Refused;
    };
    let sock = sock.as_ptr();
    // SAFETY: fields of what is there.
    let (kept_target, kept_original) = unsafe { (&raw mut (*sock).target, &raw mut (*sock).original) };
    put_endpoint(kept_target, target);
    put_endpoint(kept_original, to);
    let flags = SockFlags(read!(sock, flags.0));
    write!(sock, flags, flags.and(SockFlags::SENT).and(SockFlags::FRESH));
    // Asked again, and not handed on: what the verifier knows of a value by now it would follow through every way here.
    let chosen = call == Call::Connect && flags.has(SockFlags::BOUND);
    if chosen || own_address(socket, hook).is_unspecified() {
        // SAFETY: fields of what is there.
        let (called, kept_source) =
            unsafe { (address(&raw const (*kept_original).address), &raw mut (*sock).source) };
        // What a host sends to itself has the same address at both ends; a loopback one the kernel chooses. From another address
        // it sends no reset to `::1` (`rt6_need_strict`, net/ipv6/route.c), and the proxy would not hear of a client that is
        // gone.
        let v4 = target.address.is_v4();
        if called.is_loopback() || (!v4 && read!(context, protocol) == TCP) {
            put_address(kept_source, Address::NONE);
        } else if is_own(here, called) {
            put_address(kept_source, called);
        } else {
            put_address(kept_source, here.source(!v4));
        }
        let from = address(kept_source);
        match call {
            Call::Connect => {
                if chosen || from != Address::NONE {
                    if bind(context, from) {
                        let flags = SockFlags(read!(sock, flags.0));
                        write!(sock, flags, flags.and(SockFlags::BOUND));
                    } else {
                        surprise::note(here.netns, SurpriseKind::NO_SOURCE, from, to.port);
                    }
                }
            }
            Call::Send => send_from(context, from, hook),
        }
    }
    Diverted::To(target)
}

/// Binds the socket to the address that the connection would have come from: the proxy sees it, as it does behind a NAT
/// rule, which rewrites what has its source already. What fails leaves the loopback address; says whether it did. None lets the
/// kernel choose again.
#[inline(always)]
fn bind(context: *mut bpf_sock_addr, source: Address) -> bool {
    // Each word is written by itself: zeros side by side would be set by a call of `memset`, whose loop is pointer arithmetic
    // that the verifier takes with CAP_PERFMON only.
    let mut address = MaybeUninit::<[u32; 7]>::uninit();
    let words = address.as_mut_ptr().cast::<u32>();
    let Address([a, b, c, d]) = source;
    // The hook of an IPv6 socket knows no IPv4 address but in IPv6's form.
    let v4 = read!(context, family) == AF_INET;
    // `struct sockaddr_in` in words: family and port, address, padding; `struct sockaddr_in6`: family and port, flow, address,
    // scope.
    // SAFETY: seven words.
    unsafe {
        words.write_volatile(if v4 { AF_INET } else { AF_INET6 });
        words.add(1).write_volatile(if v4 { d } else { 0 });
        words.add(2).write_volatile(if v4 { 0 } else { a });
        words.add(3).write_volatile(if v4 { 0 } else { b });
        words.add(4).write_volatile(c);
        words.add(5).write_volatile(d);
        words.add(6).write_volatile(0);
    }
    // SAFETY: an address of this length.
    unsafe { bpf_bind(context, words.cast(), if v4 { 16 } else { 28 }) == 0 }
}

#[inline(always)]
fn send_from(context: *mut bpf_sock_addr, address: Address, hook: Hook) {
    if address == Address::NONE {
        return;
    }
    let Address([_, _, _, word]) = address;
    match hook {
        Hook::V4 => write!(context, msg_src_ip4, word),
        Hook::V6 => write_address!(context, msg_src_ip6, address),
    }
}
