//! Fuzzes env files; the body is `mesh_init_fuzz::env_file`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mesh_init_fuzz::env_file(data));
