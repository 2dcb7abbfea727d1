//! Fuzzes connections as people type them; the body is `mesh_init_fuzz::connection`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mesh_init_fuzz::connection(data));
