//! Tells a command of the user's how a job ended.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use duct::cmd;
use protocol::results::Summary;
use serde::Serialize;

use crate::exit;
use crate::output::JobFolder;

/// How long the command may take.
const LIMIT: Duration = Duration::from_secs(60);

/// How a job ended, as the command gets it: a line of JSON.
#[derive(Debug, Serialize)]
pub(crate) struct Ending<'a> {
    /// `done`, `failed`, `refused`, `busy` or `interrupted`.
    state: &'static str,
    exit_code: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    job: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    folder: Option<String>,
    /// As in `results.json`.
    #[serde(skip_serializing_if = "Option::is_none")]
    summary: Option<&'a Summary>,
}

impl<'a> Ending<'a> {
    pub(crate) fn new(
        outcome: &anyhow::Result<u8>,
        was_interrupted: bool,
        folder: Option<&'a JobFolder>,
        summary: Option<&'a Summary>,
    ) -> Self {
        let exit_code = match outcome {
            Ok(code) => *code,
            Err(error) => exit::code_of(error).unwrap_or(exit::FAILED),
        };
        let state = match (outcome, exit_code) {
            _ if was_interrupted => "interrupted",
            (Ok(_), _) => "done",
            (Err(_), exit::REFUSED) => "refused",
            (Err(_), exit::BUSY) => "busy",
            (Err(_), _) => "failed",
        };
        Self {
            state,
            exit_code,
            error: outcome.as_ref().err().map(|error| format!("{error:#}")),
            job: folder.map(|folder| &*folder.record.id),
            folder: folder.map(|folder| folder.path.display().to_string()),
            summary,
        }
    }
}

/// Runs the command in a shell, with the ending on its standard input.
///
/// # Errors
/// It cannot be run, fails, or takes longer than [`LIMIT`].
pub(crate) fn notify(command: &str, ending: &Ending<'_>) -> anyhow::Result<()> {
    let mut json = serde_json::to_vec(ending).context("encoding the job's ending")?;
    json.push(b'\n');
    let running = cmd!("sh", "-c", command).stdin_bytes(json).stdout_to_stderr().unchecked().start();
    let running = running.with_context(|| format!("running {command:?}"))?;
    let Some(output) = running.wait_timeout(LIMIT).with_context(|| format!("waiting for {command:?}"))?
    else {
        // It may have ended by now.
        let _ = running.kill();
        bail!("{command:?} took longer than {LIMIT:?}, and was killed");
    };
    ensure!(output.status.success(), "{command:?} failed ({})", output.status);
    Ok(())
}
