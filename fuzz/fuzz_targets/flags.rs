//! Fuzzes command lines; the body is `mesh_init_fuzz::flags`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mesh_init_fuzz::flags(data));
