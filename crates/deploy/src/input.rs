//! Inputs, before a job takes them.

use std::fs::File;
use std::path::Path;

use anyhow::{Context, ensure};
use records::identity::Guard;

use crate::console;

/// Whether an input is there: better said before anything is built or started. It is not opened, since a pipe must not be
/// opened twice.
pub fn check_input(path: &Path) -> anyhow::Result<()> {
    let found = std::fs::metadata(path).with_context(|| format!("opening the input {}", path.display()))?;
    ensure!(!found.is_dir(), "the input {} is a folder; give a CSV file", path.display());
    Ok(())
}

/// Watches over a file that is the input.
pub fn guard(path: &Path) -> anyhow::Result<Guard> {
    let opening = || format!("opening the input {}", path.display());
    let file = File::open(path).with_context(opening)?;
    Guard::new(&file, Some(path), None).with_context(opening)
}

/// Shows what a sender's check has found odd about its input.
pub fn show_hints(said: &str) {
    said.lines()
        .filter_map(|line| line.strip_prefix("hint "))
        .for_each(|hint| console::note(&format!("note: {hint}")));
}
