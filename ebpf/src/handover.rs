//! From the socket that connects to the one that is accepted: callbacks of TCP.

use aya_ebpf::bindings::{
    BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_RTO_CB, BPF_SOCK_OPS_RTO_CB_FLAG,
    BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_TCP_CONNECT_CB,
    BPF_SOCK_OPS_TCP_LISTEN_CB, BPF_TCP_CLOSE, BPF_TCP_SYN_SENT, bpf_sock, bpf_sock_ops,
};
use aya_ebpf::helpers::bpf_sock_ops_cb_flags_set;
use mesh_init_abi::{Endpoint, LISTENERS, ListenerKey, PairKey, SockFlags, SurpriseKind};

use crate::policy::{Here, netns};
use crate::word::{endpoint, of_family, put_endpoint, same};
use crate::{maps, read, read_address, surprise, write};

const AF_INET6: u32 = 10;

/// What every callback does, of those that we take part in. Its value says nothing.
#[inline(always)]
pub fn called_back(context: *mut bpf_sock_ops) -> u32 {
    match read!(context, op) {
        BPF_SOCK_OPS_TCP_CONNECT_CB => connects(context),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => is_accepted(context),
        BPF_SOCK_OPS_STATE_CB => changes(context),
        BPF_SOCK_OPS_TCP_LISTEN_CB => listens(context),
        // The first packet was lost, or nobody took it: what is remembered of it may have given way to others meanwhile.
        BPF_SOCK_OPS_RTO_CB if read!(context, state) == BPF_TCP_SYN_SENT => connects(context),
        _ => {}
    }
    1
}

#[inline(always)]
fn local(context: *mut bpf_sock_ops) -> Endpoint {
    let address =
        of_family(read!(context, family), read!(context, local_ip4), read_address!(context, local_ip6));
    Endpoint { address, port: read!(context, local_port) }
}

/// The port stands in the kernel's byte order, in a word.
#[inline(always)]
fn remote(context: *mut bpf_sock_ops) -> Endpoint {
    let address =
        of_family(read!(context, family), read!(context, remote_ip4), read_address!(context, remote_ip6));
    Endpoint { address, port: u32::from_be(read!(context, remote_port)) }
}

#[inline(always)]
fn socket(context: *mut bpf_sock_ops) -> Option<*mut bpf_sock> {
    let socket: *mut bpf_sock = read!(context, __bindgen_anon_2.sk);
    (!socket.is_null()).then_some(socket)
}

/// Before the first packet leaves, when the port is chosen: the proxy may accept before `connect` returns.
#[inline(always)]
fn connects(context: *mut bpf_sock_ops) {
    let server = remote(context);
    if !server.address.is_loopback() {
        return;
    }
    let Some(socket) = socket(context) else { return };
    let pair = PairKey { netns: netns(context), client: local(context), server };
    if let Some(sock) = maps::SOCKS.of(socket) {
        let sock = sock.as_ptr();
        // SAFETY: fields of what is there.
        let (target, original) = unsafe { (&raw const (*sock).target, &raw const (*sock).original) };
        let known = SockFlags(read!(sock, flags.0));
        // `connect` has come through.
        write!(sock, flags, SockFlags(known.0 & !SockFlags::FRESH.0));
        if known.has(SockFlags::SENT) && same(endpoint(target), server) {
            maps::PAIRS.insert(&pair, &endpoint(original));
            // Others may be called back, too.
            let ours = BPF_SOCK_OPS_STATE_CB_FLAG | BPF_SOCK_OPS_RTO_CB_FLAG;
            let flags = read!(context, bpf_sock_ops_cb_flags) | ours;
            // SAFETY: the context is one of callbacks.
            unsafe {
                bpf_sock_ops_cb_flags_set(context, flags.cast_signed());
            }
            return;
        }
    }
    // One that was never accepted had the same port: this one goes where it says. There was none where nothing is captured.
    if maps::NAMESPACES.get(&pair.netns).is_some() {
        maps::PAIRS.remove(&pair);
    }
}

/// When the handshake is done, before `accept` can return it.
#[inline(always)]
fn is_accepted(context: *mut bpf_sock_ops) {
    let Some(socket) = socket(context) else { return };
    let server = local(context);
    if server.address.is_loopback() {
        let pair = PairKey { netns: netns(context), client: remote(context), server };
        return hand_over(socket, &pair);
    }
    // What it has of its listener.
    let Some(sock) = maps::SOCKS.of(socket) else { return };
    let sock = sock.as_ptr();
    let flags = SockFlags(read!(sock, flags.0));
    if flags.has(SockFlags::PROXYS) {
        write!(sock, flags, flags.and(SockFlags::STEERED));
    }
}

/// Tells the accepted socket what the one that connects was meant for.
#[inline(always)]
fn hand_over(socket: *mut bpf_sock, pair: &PairKey) {
    let Some(original) = maps::PAIRS.get(pair) else {
        // A control group and one that it is in may have these programs both.
        let known = maps::SOCKS.of(socket);
        if known.is_some_and(|known| SockFlags(read!(known.as_ptr(), flags.0)).has(SockFlags::MEANT)) {
            return;
        }
        let Some(here) = Here::of(pair.netns) else { return };
        if pair.server.port == u32::from(here.policy.outbound_port) {
            surprise::note(pair.netns, SurpriseKind::NOT_CAPTURED, pair.client.address, pair.server.port);
        }
        return;
    };
    let original = endpoint(original.as_ptr());
    maps::PAIRS.remove(pair);
    let Some(sock) = maps::SOCKS.of_or_new(socket) else { return };
    let sock = sock.as_ptr();
    // SAFETY: a field of what is there.
    let kept = unsafe { &raw mut (*sock).original };
    put_endpoint(kept, original);
    let flags = SockFlags(read!(sock, flags.0));
    write!(sock, flags, flags.and(SockFlags::MEANT));
}

/// A connection that is over, whatever it came to.
#[inline(always)]
fn changes(context: *mut bpf_sock_ops) {
    // A connection that was made may not have been accepted: its port may be another's from now on.
    if read!(context, __bindgen_anon_1.args[1]) == BPF_TCP_CLOSE {
        maps::PAIRS.remove(&PairKey {
            netns: netns(context),
            client: local(context),
            server: remote(context),
        });
    }
}

/// A listener of the proxy's is entered among those that `sk_lookup` gives connections to. Of others nothing is of use any more,
/// and each connection that they accept would have it, too.
#[inline(always)]
fn listens(context: *mut bpf_sock_ops) {
    let Some(socket) = socket(context) else { return };
    let Some(sock) = maps::SOCKS.of(socket) else { return };
    if !SockFlags(read!(sock.as_ptr(), flags.0)).has(SockFlags::PROXYS) {
        maps::SOCKS.forget(socket);
        return;
    }
    let Some(here) = Here::of(netns(context)) else { return };
    if read!(context, local_port) != u32::from(here.policy.inbound_port) {
        return;
    }
    let first = ListenerKey::first(read!(context, family) == AF_INET6);
    let mut key = ListenerKey { netns: here.netns, place: first, port: read!(context, local_port) };
    for index in 0..LISTENERS {
        key.place = first.wrapping_add(index);
        if maps::LISTENERS.enter(context, &mut key) {
            return;
        }
    }
    // More than anybody needs: the newest is as good as any.
    key.place = first;
    maps::LISTENERS.replace(context, &mut key);
}
