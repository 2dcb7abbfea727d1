//! The BPF programs of `mesh-init`: what they do, each a function that a program of the two objects calls.
//!
//! - `connect` and `sendmsg` send what the policy captures to the proxy, and remember where it was meant to go;
//! - `sockops` hands that on to the socket that the proxy accepts, and knows the proxy's listeners;
//! - `getsockopt` tells it to the proxy, `getpeername` and `recvmsg` to the application;
//! - `sk_lookup` gives the proxy what arrives, with every address as it was.
//!
//! The verifier takes less of a program without CAP_PERFMON: no select between two fields of a map's value, and no copy of
//! a structure that the compiler leaves to `memcpy`. Words are therefore read and written one at a time, volatile.

#![no_std]
#![feature(asm_experimental_arch)]

pub mod answer;
pub mod handover;
pub mod inbound;
pub mod listener;
pub mod maps;
pub mod outbound;
pub mod policy;
pub mod surprise;
pub mod word;

/// What every object has beside its programs.
#[macro_export]
macro_rules! object {
    () => {
        #[cfg(not(test))]
        #[panic_handler]
        fn panic(_info: &core::panic::PanicInfo) -> ! {
            loop {}
        }

        /// `bpf_bind`, `bpf_sk_storage_get` and others are for programs under the GPL or a licence that goes with it.
        #[unsafe(link_section = "license")]
        #[unsafe(no_mangle)]
        static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
    };
}
