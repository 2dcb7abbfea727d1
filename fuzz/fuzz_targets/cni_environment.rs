//! Fuzzes environments of a runtime's call; the body is `mesh_init_fuzz::call::environment`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mesh_init_fuzz::call::environment(data));
