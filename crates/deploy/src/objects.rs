//! Objects of S3 that a job reads or writes. Hosts have no rights there: the program `s3` signs the requests that a job needs, on
//! this machine, and signs them again before they end, as long as this command runs.

mod signer;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use duct::cmd;
use files::{read_if_there, remove_if_there};
use protocol::result_files::published;
use protocol::signed::Open;
use records::format::is_object;

use crate::options::{Prefix, ResultOptions};
use crate::{interrupt, project};
pub use signer::{Signatures, Signer};

/// The uploads that a job has begun and not completed, in its folder, or beside the inventory of its hosts. Hidden files are no part
/// of a model.
pub const UPLOADS: &str = ".uploads.json";
/// How long the program may take to list a folder of objects, or to begin or abort uploads.
const TIME: Duration = Duration::from_secs(600);
/// The pause between two looks at it.
const PAUSE: Duration = Duration::from_millis(20);

/// Parses where to upload.
///
/// # Errors
/// It is no such address.
pub fn prefix(text: &str) -> anyhow::Result<Prefix> {
    let path = text.strip_prefix("s3://").context("results are uploaded to S3; give s3://BUCKET/FOLDER/")?;
    let bucket = path.split('/').next().unwrap_or_default();
    ensure!(!bucket.is_empty(), "the bucket is missing; give s3://BUCKET/FOLDER/");
    Ok(format!("s3://{}/", path.trim_end_matches('/')))
}

/// # Errors
/// An input is an object that the results would replace.
pub fn refuse_to_replace_object(inputs: &[PathBuf], results: &ResultOptions) -> anyhow::Result<()> {
    let Some(prefix) = &results.upload else { return Ok(()) };
    for input in inputs {
        let name = input.to_str().and_then(|address| address.strip_prefix(prefix));
        ensure!(
            !name.is_some_and(|name| published().any(|published| published == name)),
            "the input {} would be replaced by the results; upload them to another folder",
            input.display()
        );
    }
    Ok(())
}

/// Whether an input stands for all objects below a prefix.
pub(crate) fn is_folder(path: &Path) -> bool {
    let text = path.to_string_lossy();
    is_object(path) && (text.ends_with('/') || text.matches('/').count() == 2)
}

/// The objects directly in a folder of objects.
///
/// # Errors
/// The program `s3` cannot be built, or S3 does not list them.
pub(crate) fn list(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let said = run(&project::build_s3()?, &["list", &folder.to_string_lossy()], interrupt::check)?;
    Ok(said.lines().map(PathBuf::from).collect())
}

/// Begins the uploads of a job's files with these names. If the file `to` has them, begins only those that were aborted.
///
/// # Errors
/// S3 does not begin them.
pub fn begin(s3: &Path, job: &str, to: &Path, prefix: &str, names: &[String]) -> anyhow::Result<()> {
    let addresses: Vec<_> = names.iter().map(|name| format!("{prefix}{name}")).collect();
    let to = to.to_string_lossy();
    let mut args = vec!["begin", "--job", job, "--to", &to];
    args.extend(addresses.iter().map(String::as_str));
    run(s3, &args, interrupt::check).map(drop)
}

/// The job whose uploads are in this file; `None` if there are none.
///
/// # Errors
/// It cannot be read.
pub fn job_of(uploads: &Path) -> anyhow::Result<Option<String>> {
    let Some(json) = read_if_there(uploads)? else { return Ok(None) };
    let open: Vec<Open> =
        serde_json::from_slice(&json).with_context(|| format!("reading {}", uploads.display()))?;
    Ok(open.into_iter().next().map(|open| open.job))
}

/// Aborts what a job has begun to upload and not completed, so that nothing of it is left at S3; also after an interruption.
///
/// # Errors
/// The program `s3` cannot be built, or S3 does not abort them.
pub fn abort(folder: &Path) -> anyhow::Result<()> {
    let uploads = folder.join(UPLOADS);
    if !uploads.exists() {
        return Ok(());
    }
    run(&project::build_s3()?, &["abort", &uploads.to_string_lossy()], || Ok(()))?;
    remove_if_there(&uploads)
}

/// Runs the program `s3` as long as `check` allows it; returns what it prints.
fn run(s3: &Path, args: &[&str], check: impl Fn() -> anyhow::Result<()>) -> anyhow::Result<String> {
    let running = cmd(s3, args).stdin_null().stdout_capture().stderr_capture().unchecked().start();
    let running = running.with_context(|| format!("starting {}", s3.display()))?;
    let start = std::time::Instant::now();
    let output = loop {
        if let Some(output) = running.wait_timeout(PAUSE).context("waiting for the program s3")? {
            break output.clone();
        }
        let waited = check().and_then(|()| {
            ensure!(start.elapsed() < TIME, "S3 takes longer than {TIME:?}");
            Ok(())
        });
        if let Err(error) = waited {
            // It may have ended by now.
            let _ = running.kill();
            return Err(error);
        }
    };
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    check()?;
    Err(error_in(&String::from_utf8_lossy(&output.stderr)))
}

/// The error that the program has logged.
fn error_in(log: &str) -> anyhow::Error {
    match log.lines().rev().find(|line| !line.trim().is_empty()) {
        Some(line) => anyhow!("{}", process::log::message(line)),
        None => anyhow!("the program s3 has ended without a word"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_with_a_slash() {
        for (text, parsed) in [("s3://b", "s3://b/"), ("s3://b/a", "s3://b/a/"), ("s3://b/a//", "s3://b/a/")]
        {
            assert_eq!(prefix(text).unwrap(), parsed);
        }
        for wrong in ["", "b/a", "https://b/a", "s3://", "s3:///a"] {
            assert!(prefix(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn folders_of_objects_end_with_a_slash_or_are_buckets() {
        for (text, expected) in
            [("s3://b", true), ("s3://b/", true), ("s3://b/a/", true), ("s3://b/a", false), ("a/", false)]
        {
            assert_eq!(is_folder(Path::new(text)), expected, "{text}");
        }
    }
}
