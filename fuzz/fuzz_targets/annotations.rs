//! Fuzzes annotations; the body is `mesh_init_fuzz::decision::annotations`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mesh_init_fuzz::decision::annotations(data));
