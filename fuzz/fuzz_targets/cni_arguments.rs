//! Fuzzes CNI_ARGS; the body is `mesh_init_fuzz::call::arguments`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mesh_init_fuzz::call::arguments(data));
