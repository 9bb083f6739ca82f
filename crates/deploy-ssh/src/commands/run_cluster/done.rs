//! What is left to do for a job that is done.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use deploy::host::Host;
use deploy::options::threads;
use deploy::{console, step};
use protocol::result_files::results_name;

use super::{hub, objects, recall};
use crate::agents::{ARCHIVE, status_of};
use crate::ssh::Ssh;

/// The receiver's checkpoint, as long as it has work left.
const CHECKPOINT: &str = "output/results.checkpoint";

/// How long the phases of a job took.
pub(super) struct Timing {
    pub(super) forming: Option<Duration>,
    pub(super) packing: Option<Duration>,
    pub(super) start: Instant,
}

/// Prints the summary of a job that is done.
pub(super) fn conclude(metrics: &Ssh, inventory: &Path, timing: &Timing) -> anyhow::Result<ExitCode> {
    let status = status_of(metrics)?;
    let summary = status.summary.as_ref().context(
        "the job is done, but the metrics host has no results.json; run the job again, and see cargo xtask logs",
    )?;
    let job = recall(metrics)?;
    let threads = job.as_ref().and_then(|job| threads(&job.model, &job.model_args));
    console::summary(summary, timing.start.elapsed(), threads);
    if let Some(forming) = timing.forming {
        console::data(&format!("cluster    formed in {:.2} s", forming.as_secs_f64()));
    }
    let packed =
        timing.packing.map(|time| format!(", packed {:.2} s after the last row", time.as_secs_f64()));
    console::data(&format!("results    on {}{}", metrics.name(), packed.unwrap_or_default()));
    console::data(&format!("sha256     {}", summary.sha256));
    if let Some(job) = job
        && let Some(prefix) = &job.results.upload
    {
        let plain = Path::new(results_name(job.types.is_some())).to_owned();
        let results = job.results.form.map_or(plain.clone(), |form| form.path(&plain));
        console::data(&format!("uploaded   {prefix}{}, with rejects and results.json", results.display()));
        objects::note_uploaded(inventory, &job.name, prefix, summary)?;
    }
    // `job` fetches them itself, and leaves no hub.
    if !step::hosts_go() {
        let hub = if hub::runs(&status) { "; the job's Monitoring Hub stays: cargo xtask hub" } else { "" };
        console::note(&format!("fetch them: cargo xtask get-results{hub}"));
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether the results can be fetched. The archive gets its name when it is complete.
pub(super) fn is_packed(metrics: &Ssh) -> anyhow::Result<bool> {
    // The checkpoint is removed when the results are uploaded, too.
    Ok(metrics.length(Path::new(ARCHIVE))?.is_some() && metrics.length(Path::new(CHECKPOINT))?.is_none())
}
