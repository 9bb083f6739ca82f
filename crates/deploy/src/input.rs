//! Checks of an input before a job starts.

use std::fs::File;
use std::path::Path;

use anyhow::{Context, ensure};
use records::identity::Guard;

use crate::console;

/// Checks that an input exists, before anything is built or started. Does not open it, since a pipe must not be opened twice.
pub fn check_input(path: &Path) -> anyhow::Result<()> {
    let found = std::fs::metadata(path).with_context(|| format!("opening the input {}", path.display()))?;
    ensure!(!found.is_dir(), "the input {} is a folder; give a CSV file", path.display());
    Ok(())
}

/// Watches an input file for changes.
pub fn guard(path: &Path) -> anyhow::Result<Guard> {
    let opening = || format!("opening the input {}", path.display());
    let file = File::open(path).with_context(opening)?;
    Guard::new(&file, Some(path), None).with_context(opening)
}

/// Prints the hints in the output of a sender's check.
pub fn show_hints(output: &str) {
    output
        .lines()
        .filter_map(|line| line.strip_prefix("hint "))
        .for_each(|hint| console::note(&format!("note: {hint}")));
}
