//! Fuzzes what the kernel answers of nf_tables; the body is `mesh_init_fuzz::nftables`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mesh_init_fuzz::nftables(data));
