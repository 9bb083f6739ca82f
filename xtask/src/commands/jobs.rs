//! Subcommand: cargo xtask jobs

use std::path::PathBuf;
use std::process::ExitCode;

use deploy::output::{self, Jobs, State};
use deploy::{console, project};

/// List the jobs on this machine
///
/// Shows when each began, its rows, how many of them were rejected, its seconds, what its hosts cost while it ran (at list price,
/// if that is known), and what it read. The results that are published are marked with *.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folder of the results [default: output/ in the project]
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let output = args.output.clone().map_or_else(|| project::default_folder("output"), Ok)?;
    let jobs = Jobs::of(&output);
    let all = jobs.all()?;
    if all.is_empty() {
        console::note(&format!("there are no jobs in {}", output.display()));
        return Ok(ExitCode::SUCCESS);
    }
    let heads = ["  began (UTC)", "rows", "rejects", "seconds", "cost", "state", "model and input", "folder"]
        .map(str::to_owned);
    let mut lines = vec![heads];
    // At most one job runs: of the unfinished ones, that whose files have changed last.
    let running = if output::is_locked(&output) { all.iter().max_by_key(|job| job.written()) } else { None };
    for job in &all {
        let (rows, rejects, seconds, state) = match job.state()? {
            State::Done(summary) => {
                let state = if job.is_exported()? { "done" } else { "done, not exported" };
                (summary.rows, summary.rejects, format!("{:.1}", summary.seconds), state.to_owned())
            }
            State::Failed(reason) => (0, 0, "-".to_owned(), format!("failed: {}", shortened(&reason))),
            State::Unfinished { rows, rejects } => {
                let is_running = running.is_some_and(|running| running.path == job.path);
                let state = if is_running { "running" } else { "unfinished" };
                (rows, rejects, "-".to_owned(), state.to_owned())
            }
        };
        let mark = if jobs.is_published(job) { "*" } else { " " };
        let began = job.record.began.get(..16).unwrap_or_default().replace('T', " ");
        let folder = job.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        lines.push([
            format!("{mark} {began}"),
            console::count(rows),
            console::count(rejects),
            seconds,
            job.record.usd.as_ref().map_or_else(|| "-".to_owned(), |usd| format!("${usd}")),
            state,
            format!("{}, {}", job.record.model, job.record.input),
            folder,
        ]);
    }
    let width =
        |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<_> = (0..8).map(width).collect();
    for line in &lines {
        // Numbers are aligned to the right.
        let cells = line.iter().zip(&widths).enumerate().map(|(column, (cell, width))| match column {
            1..=4 => format!("{cell:>width$}"),
            _ => format!("{cell:width$}"),
        });
        console::data(cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    Ok(ExitCode::SUCCESS)
}

/// The first line of a text, and not too much of it.
fn shortened(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    match line.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}
