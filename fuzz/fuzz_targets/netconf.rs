//! Fuzzes network configurations; the body is `mesh_init_fuzz::decision::netconf`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mesh_init_fuzz::decision::netconf(data));
