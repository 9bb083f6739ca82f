//! Runs the checks of the fuzz targets over their corpus: past findings, and inputs that reach different code.

#![allow(clippy::unwrap_used, reason = "in a test, a panic fails the test")]
#![allow(clippy::print_stderr, reason = "tests print what they find")]
#![allow(unreachable_pub, dead_code, reason = "the checks are a library for the fuzz targets")]

use std::path::Path;

// Included as source, since the fuzz crate is not in this workspace: it has its own flags and allocator.
#[path = "../../fuzz/src/checks/mod.rs"]
mod checks;
#[path = "../../fuzz/src/input.rs"]
mod input;

mod allocation {
    /// Measures nothing, since the fuzzer's allocator is missing.
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

/// Prints the input's path when a check panics.
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
