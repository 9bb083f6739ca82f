//! What a local job shows.

use std::path::Path;
use std::time::{Duration, Instant};

use protocol::results::Summary;

use super::LocalJob;
use crate::host::local::Local;
use crate::job::Input;
use crate::options::threads;
use crate::output::JobFolder;
use crate::{console, exit};

pub(super) fn describe(input: &Input) -> String {
    match input {
        Input::Fake { lines, .. } => format!("{} fake rows", console::count(*lines)),
        Input::Files { paths, .. } => format!("rows from {}", console::files(paths)),
        Input::Pipe { path, .. } => format!("rows from {}", path.display()),
        Input::Stdin { .. } => "rows from standard input".into(),
    }
}

/// Says where the model's output is, if there is any.
pub(super) fn show_model_logs(host: &Local, processes: usize) -> anyhow::Result<()> {
    let logs = host.model_logs(processes)?;
    if let Some(first) = logs.first() {
        let others = match logs.len() - 1 {
            0 => String::new(),
            1 => " and one other".to_owned(),
            others => format!(" and {others} others"),
        };
        console::data(&format!("printed    by the model: {}{others}", first.display()));
    }
    Ok(())
}

/// Shows a job that is done, and returns its exit code.
pub(super) fn show(
    args: &LocalJob,
    folder: &JobFolder,
    summary: &Summary,
    took: Duration,
) -> anyhow::Result<u8> {
    let model_args = args.model_args();
    console::summary(summary, took, threads(args.model(), &model_args));
    let published = |path: &Path| args.output.join(path.file_name().unwrap_or_default());
    let (results, rejects) = (published(&folder.results()), published(&folder.rejects()?));
    let bytes = folder.record.exported.unwrap_or(summary.bytes);
    console::data(&format!("results    {} ({})", results.display(), console::bytes(bytes)));
    if let Some(prefix) = &folder.record.upload {
        let name = results.file_name().unwrap_or_default().display();
        console::data(&format!("uploaded   {prefix}{name}, with rejects and results.json"));
    }
    let of_what = if folder.record.form.is_some() { " (of the plain text)" } else { "" };
    console::data(&format!("sha256     {}{of_what}", summary.sha256));
    console::rejects(summary, &rejects);
    if args.strict && summary.rejects > 0 {
        console::note("error: there are rejects, and --strict allows none");
        return Ok(exit::FAILED);
    }
    Ok(0)
}

/// Shows a job that an earlier command has done.
pub(super) fn already_done(
    args: &LocalJob,
    folder: &JobFolder,
    summary: &Summary,
    is_packed: bool,
    start: Instant,
) -> anyhow::Result<u8> {
    console::note(&format!(
        "already done: the same input, options and model gave these results at {} (--again runs the job again)",
        summary.ended
    ));
    if !is_packed {
        console::note("not packed: without --pack, the job made no archive; --again --pack makes one");
    }
    show(args, folder, summary, start.elapsed())
}
