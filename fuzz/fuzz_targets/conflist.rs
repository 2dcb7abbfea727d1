//! Fuzzes edits of lists of CNI plugins; the body is `mesh_init_fuzz::conflist`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mesh_init_fuzz::conflist::conflist(data));
