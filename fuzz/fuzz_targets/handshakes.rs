//! `handshakes` under libFuzzer; see `fuzz/src/checks/handshakes.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz::checks::handshakes::check(input));
