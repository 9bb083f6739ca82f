//! The files of a finished job: the page with the job's figures, and the figures as JSON.

use std::path::Path;

use anyhow::Context;
use files::replace_file;
use protocol::result_files::REPORT;
use telemetry::view::Report;

use crate::web::page;

/// Writes `report.json` and `report.html` to a folder.
///
/// # Errors
/// A file cannot be written.
pub fn write(folder: &Path, report: &Report) -> anyhow::Result<()> {
    let json = serde_json::to_string(report).context("encoding the job's report")?;
    let [page_name, figures_name] = REPORT;
    replace_file(&folder.join(figures_name), json.as_bytes())?;
    replace_file(&folder.join(page_name), page::with_data(&json).as_bytes())
}
