//! `records` under libFuzzer; see `fuzz/src/checks/records.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz::checks::records::check(input));
