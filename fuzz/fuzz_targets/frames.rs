//! `frames` under libFuzzer; see `fuzz/src/checks/frames.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz::checks::frames::check(input));
