//! The sender's input. A file is shipped to the metrics host, so that the job does not depend on this machine.

use std::path::{Path, PathBuf};

use agent::protocol::FOLDER;
use anyhow::Context;
use deploy::console::{self, Transfer};
use deploy::host::Host;
use deploy::input::{guard, show_hints};
use deploy::job::Input;
use deploy::options::Rows;

use super::{CHECK_TIME, CLEAN_TIME};
use crate::ssh::Ssh;

/// Where a file of rows goes, in the metrics host's folder.
const INPUT: &str = "input/rows.csv";

/// Ships the rows, if they are in a file, and has the sender check them.
pub(super) fn prepare(rows: &Rows, metrics: &Ssh) -> anyhow::Result<Input> {
    // An earlier job's input takes space and can be shipped again.
    metrics.run(&format!("rm -rf {FOLDER}/input && mkdir {FOLDER}/input"), CLEAN_TIME)?;
    let (path, commas) = match rows {
        Rows::Fake { lines, seed } => return Ok(Input::Fake { lines: *lines, seed: *seed }),
        Rows::File { path, commas } => (path, *commas),
    };
    let reading = || format!("reading the input {}", path.display());
    // A pipe can be read only once, and has no identity.
    let guard = path.is_file().then(|| guard(path)).transpose()?;
    if guard.is_some() {
        check_header(path, commas)?;
    }
    let bar = Transfer::new("shipping the rows", guard.as_ref().map_or(0, |guard| guard.identity().size()));
    let shipped = metrics.upload(path, Path::new(INPUT), false, |bytes| bar.add(bytes));
    bar.clear();
    shipped?;
    // The file was the same before and after it was shipped.
    guard.map_or(Ok(()), |guard| guard.check()).with_context(reading)?;
    let delimiter = if commas { "--delimiter , " } else { "" };
    let output = metrics
        .run(&format!("cd {FOLDER} && app/sender 127.0.0.1:1 --check {delimiter}-- {INPUT}"), CHECK_TIME);
    let output = output.with_context(|| format!("{} cannot be sent", path.display()))?;
    show_hints(&output);
    let identity = output.lines().find_map(|line| line.strip_prefix("identity "));
    let identity = identity.with_context(|| {
        format!(
            "the sender on {} did not print the identity of {}; run cargo xtask up again",
            metrics.name(),
            path.display()
        )
    })?;
    Ok(Input::File { path: PathBuf::from(INPUT), identity: identity.trim().to_owned(), commas })
}

/// Checks that a file is a CSV, before all of it is shipped.
fn check_header(path: &Path, commas: bool) -> anyhow::Result<()> {
    let name = path.display().to_string();
    let file = std::fs::File::open(path).with_context(|| format!("opening the input {name}"))?;
    let name = records::sniff::Name { name: &name, is_file: true };
    records::read_header(&mut records::Reader::new(file, protocol::frame::DEFAULT_LIMIT), name, commas)?;
    Ok(())
}

/// A text for users; `path` is the file on this machine.
pub(super) fn describe(input: &Input, path: Option<&Path>) -> String {
    match (input.rows(), path) {
        (Some(rows), _) => format!("{} fake rows", console::count(rows)),
        (None, Some(path)) => format!("rows from {}", path.display()),
        (None, None) => "rows from the file that was shipped".to_owned(),
    }
}
