//! The checks of the fuzz targets over their corpus: each finding of a fuzzer, and each kind of input that it took to reach new code.

#![allow(clippy::unwrap_used, reason = "what is unexpected fails the test")]
#![allow(clippy::print_stderr, reason = "a test says what it found")]
#![allow(unreachable_pub, dead_code, reason = "the checks are a library for the fuzz targets")]

use std::path::Path;

// Not a library of this workspace, since its own crate is built with flags and an allocator of its own.
#[path = "../../fuzz/src/checks/mod.rs"]
mod checks;
#[path = "../../fuzz/src/input.rs"]
mod input;

mod allocation {
    /// Without the fuzzer's allocator nothing is measured.
    pub(crate) fn largest_allocation<T>(work: impl FnOnce() -> T) -> (T, usize) {
        (work(), 0)
    }
}

/// Runs a check over its corpus.
fn run(name: &str, check: impl Fn(&[u8])) {
    let folder = tests::root().join("fuzz/corpus").join(name);
    let mut inputs = 0;
    for entry in folder.read_dir().unwrap() {
        let path = entry.unwrap().path();
        let input = std::fs::read(&path).unwrap();
        let shown = Shown(&path);
        check(&input);
        std::mem::forget(shown);
        inputs += 1;
    }
    assert!(inputs > 20, "{} has {inputs} inputs", folder.display());
}

/// Names the input when a check fails.
struct Shown<'a>(&'a Path);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        eprintln!("this input failed: {}", self.0.display());
    }
}

#[test]
fn batches() {
    run("batches", checks::batches::check);
}

#[test]
fn frames() {
    run("frames", checks::frames::check);
}

#[test]
fn handshakes() {
    run("handshakes", checks::handshakes::check);
}

#[test]
fn records() {
    run("records", checks::records::check);
}
