//! Fuzzes calls of istio-iptables; the body is `mesh_init_fuzz::istio_iptables`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mesh_init_fuzz::istio_iptables(data));
