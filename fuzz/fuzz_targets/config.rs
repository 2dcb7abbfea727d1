//! Fuzzes config files; the body is `mesh_init_fuzz::config`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mesh_init_fuzz::config(data));
