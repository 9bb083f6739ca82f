//! `batches` under libFuzzer; see `fuzz/src/checks/batches.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz::checks::batches::check(input));
