//! Who makes a socket, and whether it is to be the proxy's listener.

use aya_ebpf::bindings::bpf_sock;
use mesh_init_abi::{OwnerFlags, OwnerKind, SockFlags};

use crate::policy::{Here, Owner, is_in_proxys_group, netns};
use crate::{maps, read, write};

const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
const STREAM: u32 = 1;
const DATAGRAM: u32 = 2;

/// Remembers who makes the socket: NAT rules go by that, and it may be handed on, or its maker become another user.
#[inline(always)]
pub fn made(socket: *mut bpf_sock) -> i32 {
    let (family, kind) = (read!(socket, family), read!(socket, type_));
    if (family != AF_INET && family != AF_INET6) || (kind != STREAM && kind != DATAGRAM) {
        return 1;
    }
    let Some(namespace) = maps::NAMESPACES.get(&netns(socket)) else { return 1 };
    // Without memory the caller is asked about later.
    let Some(sock) = maps::SOCKS.of_or_new(socket) else { return 1 };
    let sock = sock.as_ptr();
    let Owner { uid, gid, .. } = Owner::now();
    write!(sock, uid, uid);
    write!(sock, gid, gid);
    let flags = SockFlags::OF_PROXY.only_if(is_in_proxys_group(namespace));
    write!(sock, flags, flags.and(SockFlags::MADE));
    1
}

/// Remembers that it is the proxy who binds to the port for what arrives: nobody else's listener is ever given what arrives.
#[inline(always)]
pub fn bound(socket: *mut bpf_sock) -> i32 {
    if read!(socket, type_) != STREAM {
        return 1;
    }
    // Who binds it has chosen its address.
    if let Some(sock) = maps::SOCKS.of(socket) {
        let sock = sock.as_ptr();
        let flags = SockFlags(read!(sock, flags.0));
        write!(sock, flags, SockFlags(flags.0 & !SockFlags::BOUND.0));
    }
    let Some(here) = Here::of(netns(socket)) else { return 1 };
    let port = read!(socket, src_port);
    if port != u32::from(here.policy.inbound_port) {
        return 1;
    }
    let owner = Owner::of(maps::SOCKS.of(socket));
    let user = here.owner(OwnerKind::USER, owner.uid);
    let group = here.owner(OwnerKind::GROUP, owner.gid);
    if !user.and(group).and(owner.proxy).has(OwnerFlags::PROXY) {
        return 1;
    }
    // Without memory it gets nothing, and what arrives is refused.
    let Some(sock) = maps::SOCKS.of_or_new(socket) else { return 1 };
    let sock = sock.as_ptr();
    let flags = SockFlags(read!(sock, flags.0));
    write!(sock, flags, flags.and(SockFlags::PROXYS));
    1
}
