//! The program that is attached to a network namespace. Each namespace has an instance of its own, for a program of its
//! type cannot ask for the namespace's cookie.

#![no_std]
#![no_main]

use aya_ebpf::Global;
use aya_ebpf::macros::sk_lookup;
use aya_ebpf::programs::SkLookupContext;
use mesh_init_ebpf::inbound;

/// The cookie, which the loader writes.
#[unsafe(no_mangle)]
static NETNS: Global<u64> = Global::new(0);

#[sk_lookup]
fn mesh_arrives(context: SkLookupContext) -> u32 {
    inbound::arrives(context.lookup, NETNS.load())
}

mesh_init_ebpf::object!();
