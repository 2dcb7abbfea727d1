//! What a policy did not foresee, kept for people to see.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use mesh_init_abi::{Address, Surprise, SurpriseKey, SurpriseKind};

use crate::policy::add;
use crate::{maps, write};

/// Remembers that it happened, once more.
#[inline(always)]
pub fn note(netns: u64, kind: SurpriseKind, address: Address, port: u32) {
    let key = SurpriseKey { netns, kind, port, address };
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    let Some(known) = maps::SURPRISES.get(&key) else {
        maps::SURPRISES.insert(&key, &Surprise { count: 1, last: now });
        return;
    };
    let known = known.as_ptr();
    // SAFETY: a field of what is there.
    add(unsafe { &raw mut (*known).count });
    write!(known, last, now);
}
