//! What arrives.

use aya_ebpf::bindings::{bpf_sk_lookup, bpf_sock};
use aya_ebpf::helpers::{bpf_sk_assign, bpf_sk_release};
use mesh_init_abi::{
    AddressKey, Flow, ListenerKey, NetFlags, OwnerFlags, SurpriseKind, Verdict, Way, decide,
};

use crate::policy::Here;
use crate::word::of_family;
use crate::{maps, read, read_address, surprise};

/// The usual way.
const PASS: u32 = 1;
/// Nobody listens.
const DROP: u32 = 0;

const TCP: u32 = 6;
const AF_INET6: u32 = 10;
/// The index of `lo` in every namespace (`LOOPBACK_IFINDEX`, include/net/flow.h).
const LO: u32 = 1;

/// Gives what arrives in the namespace of the cookie to a listener of the proxy's. Without one it is refused: nothing
/// reaches the application past the proxy.
#[inline(always)]
pub fn arrives(context: *mut bpf_sk_lookup, netns: u64) -> u32 {
    if read!(context, protocol) != TCP {
        return PASS;
    }
    if read!(context, ingress_ifindex) == LO {
        return PASS;
    }
    let Some(here) = Here::of(netns) else { return PASS };
    // What this host sends to an address of its own comes over `lo`, too, but its interface is told as that of the address
    // (`ip_route_output_key_hash_rcu`, net/ipv4/route.c). It has an address of the host's own as its source, which nothing
    // that comes from elsewhere has.
    let (remote_v4, remote_v6) = (read!(context, remote_ip4), read_address!(context, remote_ip6));
    let address = of_family(read!(context, family), remote_v4, remote_v6);
    let own = of_family(read!(context, family), read!(context, local_ip4), read_address!(context, local_ip6));
    let key = AddressKey { netns, address };
    let stays = address.is_loopback() || address.is_passthrough() || address.is(own);
    if stays || maps::ADDRESSES.get(&key).is_some() {
        return PASS;
    }
    #[expect(clippy::cast_possible_truncation, reason = "a port")]
    let port = read!(context, local_port) as u16;
    let flow = Flow {
        way: Way::Inbound,
        tcp: true,
        ipv6: read!(context, family) == AF_INET6,
        stays: false,
        from_passthrough: false,
        port,
        networks: NetFlags::NONE,
        ports: here.ports(port),
        user: OwnerFlags::NONE,
        group: OwnerFlags::NONE,
    };
    let decision = decide(&here.policy, &flow);
    here.count(decision.clause);
    let Verdict::Capture(socket) = decision.verdict else { return PASS };
    let mut key = ListenerKey { netns, place: 0, port: u32::from(here.policy.port(socket)) };
    for place in 0..ListenerKey::PLACES {
        key.place = place;
        // An IPv4 socket takes no IPv6.
        if place >= ListenerKey::first(flow.ipv6) && give(context, &key) {
            return PASS;
        }
    }
    surprise::note(netns, SurpriseKind::NO_LISTENER, address, u32::from(port));
    DROP
}

/// One of IPv6 alone, or one that has just closed, takes nothing.
#[inline(always)]
fn give(context: *mut bpf_sk_lookup, key: &ListenerKey) -> bool {
    let Some(listener) = maps::LISTENERS.get(key) else { return false };
    let listener: *mut bpf_sock = listener.as_ptr().cast();
    // SAFETY: the look-up gave a socket, which is released once.
    unsafe {
        let taken = bpf_sk_assign(context.cast(), listener.cast(), 0) == 0;
        bpf_sk_release(listener.cast());
        taken
    }
}
