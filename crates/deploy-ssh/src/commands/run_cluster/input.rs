//! The sender's input. A file is shipped to the metrics host, so that the job does not depend on this machine.

use std::path::{Path, PathBuf};

use agent::protocol::FOLDER;
use anyhow::Context;
use deploy::console::{self, Transfer};
use deploy::host::Host;
use deploy::input::{checked_identity, format_of, guard, needs_formats, show_hints};
use deploy::job::Input;
use deploy::options::{Reading, ResultOptions, Rows};
use deploy::project;
use records::Reader;
use records::format::{is_address, is_object};

use super::objects::{Objects, SIGNED};
use super::{CHECK_TIME, CLEAN_TIME, shell_word};
use crate::ssh::Ssh;

/// The program `formats`, in the metrics host's folder.
pub(super) const FORMATS: &str = "input/formats";

/// Ships the rows, if they are in a file, and has the sender check them. Also ships the program `formats`, if the rows or the
/// results need it.
pub(super) fn prepare(
    rows: &Rows,
    results: &ResultOptions,
    objects: &mut Option<Objects>,
    metrics: &Ssh,
) -> anyhow::Result<Input> {
    // An earlier job's input takes space and can be shipped again.
    metrics.run(&format!("rm -rf {FOLDER}/input && mkdir {FOLDER}/input"), CLEAN_TIME)?;
    let is_formatted = match rows {
        Rows::Fake { .. } => false,
        Rows::Files { paths, reading } => needs_formats(paths, reading)?,
    };
    if is_formatted || !results.is_plain() {
        metrics.upload(&project::build_formats()?, Path::new(FORMATS), true, |_| {})?;
    }
    objects.iter_mut().try_for_each(|objects| objects.sign_inputs(metrics))?;
    let (paths, mut reading) = match rows {
        Rows::Fake { lines, seed } => return Ok(Input::Fake { lines: *lines, seed: *seed }),
        Rows::Files { paths, reading } => (paths, reading.clone()),
    };
    // A pipe can be read only once, and has no identity.
    let guards = paths.iter().filter(|path| path.is_file()).map(|path| guard(path));
    let guards = guards.collect::<anyhow::Result<Vec<_>>>()?;
    paths.iter().filter(|path| path.is_file()).try_for_each(|path| check_header(path, &reading))?;
    reading.formats = is_formatted.then(|| FORMATS.into());
    reading.signed = paths.iter().any(|path| is_object(path)).then(|| SIGNED.into());
    let bar = Transfer::new("shipping the rows", guards.iter().map(|guard| guard.identity().size()).sum());
    let mut shipped = Vec::new();
    for (place, path) in paths.iter().enumerate() {
        if is_address(path) {
            // The metrics host fetches it.
            shipped.push(path.clone());
            continue;
        }
        let name = if paths.len() == 1 { "rows.csv".to_owned() } else { format!("rows{place}.csv") };
        let to = Path::new("input").join(name);
        let uploaded = metrics.upload(path, &to, false, |bytes| bar.add(bytes));
        if uploaded.is_err() {
            bar.clear();
        }
        uploaded?;
        shipped.push(to);
    }
    bar.clear();
    // The files were the same before and after they were shipped.
    for (guard, path) in guards.iter().zip(paths.iter().filter(|path| !is_address(path))) {
        guard.check().with_context(|| format!("reading the input {}", path.display()))?;
    }
    let names: Vec<_> = shipped.iter().map(|path| shell_word(&path.display().to_string())).collect();
    let options: Vec<_> = reading.to_args().iter().map(|option| shell_word(option)).collect();
    let check =
        format!("cd {FOLDER} && app/sender 127.0.0.1:1 --check {} -- {}", options.join(" "), names.join(" "));
    let output = metrics.run(&check, CHECK_TIME);
    let output = output.with_context(|| format!("{} cannot be sent", console::files(paths)))?;
    show_hints(&output);
    let identity = checked_identity(&output).with_context(|| {
        format!(
            "the sender on {} did not print the identity of {}; run cargo xtask up again",
            metrics.name(),
            console::files(paths)
        )
    })?;
    Ok(Input::Files { paths: shipped, identity: Some(identity), reading })
}

/// Checks that a plain file is a CSV, before all of it is shipped.
fn check_header(path: &Path, reading: &Reading) -> anyhow::Result<()> {
    // The sender checks what is in other ones.
    if reading.encoding.is_some() || format_of(path)?.is_some() {
        return Ok(());
    }
    let name = path.display().to_string();
    let file = std::fs::File::open(path).with_context(|| format!("opening the input {name}"))?;
    let name = records::sniff::Name { name: &name, is_file: true };
    let declared = reading.declared()?;
    let mut reader = Reader::with_dialect(file, protocol::frame::DEFAULT_LIMIT, declared.dialect);
    records::read_header(&mut reader, name, declared)?;
    Ok(())
}

/// A text for users; `paths` are the files on this machine.
pub(crate) fn describe(input: &Input, paths: &[PathBuf]) -> String {
    match (input.rows(), paths) {
        (Some(rows), _) => format!("{} fake rows", console::count(rows)),
        (None, []) => match input {
            Input::Files { paths, .. } if paths.len() > 1 => {
                format!("rows from the {} files that were shipped", paths.len())
            }
            _ => "rows from the file that was shipped".to_owned(),
        },
        (None, paths) => format!("rows from {}", console::files(paths)),
    }
}
