//! A policy, read from the maps.

use core::ptr::NonNull;

use aya_ebpf::helpers::bpf_get_current_uid_gid;
use aya_ebpf::helpers::generated::bpf_get_current_ancestor_cgroup_id;
use mesh_init_abi::{
    Address, Clause, CounterKey, Meaning, Namespace, NetFlags, NetKey, OwnerFlags, OwnerKey, OwnerKind,
    Policy, PolicyFlags, PortFlags, PortKey, Sock, SockFlags,
};

use crate::maps;
use crate::{read, read_address};

/// The policy of a namespace, and which that is.
pub struct Here {
    /// Its cookie.
    pub netns: u64,
    /// Its policy.
    pub policy: Policy,
    at: NonNull<Namespace>,
}

/// Who a socket is of.
#[derive(Clone, Copy)]
pub struct Owner {
    /// The user, as the initial user namespace has it.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The proxy, if it is by its control group.
    pub proxy: OwnerFlags,
}

impl Here {
    /// The policy of the namespace that `netns` is the cookie of, if it has one.
    #[inline(always)]
    pub fn of(netns: u64) -> Option<Here> {
        let at = maps::NAMESPACES.get(&netns)?;
        let pointer = at.as_ptr();
        let policy = Policy {
            generation: read!(pointer, policy.generation),
            meaning: Meaning(read!(pointer, policy.meaning.0)),
            flags: PolicyFlags(read!(pointer, policy.flags.0)),
            outbound_port: read!(pointer, policy.outbound_port),
            inbound_port: read!(pointer, policy.inbound_port),
            tunnel_port: read!(pointer, policy.tunnel_port),
            dns_port: read!(pointer, policy.dns_port),
        };
        Some(Here { netns, policy, at })
    }

    /// What the host sends from in the family.
    #[inline(always)]
    pub fn source(&self, ipv6: bool) -> Address {
        let pointer = self.at.as_ptr();
        let (v4, v6) = (read_address!(pointer, source_v4.0), read_address!(pointer, source_v6.0));
        if ipv6 { v6 } else { v4 }
    }

    /// What the policy says of an address.
    #[inline(always)]
    pub fn networks(&self, address: Address) -> NetFlags {
        let key = NetKey::look_up(self.netns, self.policy.generation, address);
        match maps::NETWORKS.get(&key) {
            Some(said) => NetFlags(read!(said.as_ptr(), 0)),
            None => NetFlags::NONE,
        }
    }

    /// What it says of a port.
    #[inline(always)]
    pub fn ports(&self, port: u16) -> PortFlags {
        let key = PortKey::look_up(self.netns, self.policy.generation, port);
        match maps::PORTS.get(&key) {
            Some(said) => PortFlags(read!(said.as_ptr(), 0)),
            None => PortFlags::NONE,
        }
    }

    /// What it says of a user or a group.
    #[inline(always)]
    pub fn owner(&self, kind: OwnerKind, id: u32) -> OwnerFlags {
        let key = OwnerKey::of(self.netns, self.policy.generation, kind, id);
        match maps::OWNERS.get(&key) {
            Some(said) => OwnerFlags(read!(said.as_ptr(), 0)),
            None => OwnerFlags::NONE,
        }
    }

    /// Counts that the clause has decided.
    #[inline(always)]
    pub fn count(&self, clause: Clause) {
        let key = CounterKey { netns: self.netns, clause: clause as u32, reserved: 0 };
        let Some(counter) = maps::COUNTERS.get(&key) else { return };
        add(counter.as_ptr());
    }
}

/// Adds one, while other processors do, too.
#[inline(always)]
pub fn add(counter: *mut u64) {
    // The target has no atomic types, for it has no compare-and-swap in all its versions; this it has had always.
    // SAFETY: the verifier takes the program only if the number can be written, and it knows the instruction.
    unsafe {
        core::arch::asm!(
            "lock *(u64 *)({counter} + 0) += {one}",
            counter = in(reg) counter,
            one = in(reg) 1_u64,
            options(nostack),
        );
    }
}

impl Owner {
    /// Who made the socket of which `sock` is remembered: what NAT rules go by (`-m owner` compares the credentials of the
    /// socket's file, net/netfilter/xt_owner.c). Of a socket that is older than the programs it is who asks now.
    #[inline(always)]
    pub fn of(sock: Option<NonNull<Sock>>) -> Owner {
        if let Some(sock) = sock {
            let sock = sock.as_ptr();
            let flags = SockFlags(read!(sock, flags.0));
            if flags.has(SockFlags::MADE) {
                // No branch: the verifier would follow both ways of it.
                let proxy = OwnerFlags(
                    (flags.0 & SockFlags::OF_PROXY.0) / SockFlags::OF_PROXY.0 * OwnerFlags::PROXY.0,
                );
                return Owner { uid: read!(sock, uid), gid: read!(sock, gid), proxy };
            }
        }
        Owner::now()
    }

    /// Who asks now.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "two ids in one number, bpf-helpers(7)")]
    pub fn now() -> Owner {
        let both = bpf_get_current_uid_gid();
        Owner { uid: both as u32, gid: (both >> 32) as u32, proxy: OwnerFlags::NONE }
    }
}

/// How deep a control group is looked for among those that the caller's is in.
const NESTED: i32 = 12;

/// Whether who asks now runs in the proxy's control group, or in one inside it.
#[inline(always)]
pub fn is_in_proxys_group(namespace: NonNull<Namespace>) -> bool {
    let namespace = namespace.as_ptr();
    let (low, high) = (read!(namespace, proxy_group), read!(namespace, proxy_group_end));
    let group = u64::from(high) << 32 | u64::from(low);
    if group == 0 {
        return false;
    }
    for level in 0..NESTED {
        // SAFETY: the helper takes a number; what there is none at is 0.
        if unsafe { bpf_get_current_ancestor_cgroup_id(level) } == group {
            return true;
        }
    }
    false
}

/// The cookie of the namespace of the context's socket.
#[inline(always)]
pub fn netns<C>(context: *mut C) -> u64 {
    // SAFETY: the helper takes the context of a program for sockets.
    unsafe { aya_ebpf::helpers::bpf_get_netns_cookie(context.cast()) }
}
