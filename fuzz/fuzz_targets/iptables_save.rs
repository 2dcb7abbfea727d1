//! Fuzzes what iptables-save prints; the body is `mesh_init_fuzz::iptables_save`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mesh_init_fuzz::iptables_save(data));
