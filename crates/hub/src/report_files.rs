//! What is left when the job is over: the page with the job's figures in it, and these figures.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use files::replace_file;
use protocol::result_files::REPORT;
use serde::Serialize;

use crate::history::Point;
use crate::snapshot::{self, ComputationView, JobView, MachineView, WorkerView};
use crate::tracker::{Event, Tracker};
use crate::web::page;

/// All that there is to show.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Everything {
    /// The job.
    pub job: JobView,
    /// All workers.
    pub workers: Vec<WorkerView>,
    /// All computations.
    pub computations: Vec<ComputationView>,
    /// All machines.
    pub machines: Vec<MachineView>,
    /// The last events.
    pub events: Vec<Event>,
    /// The whole job's course.
    pub history: Vec<Point>,
}

/// Looks at everything.
pub fn everything(tracker: &Tracker, now: Duration) -> Everything {
    Everything {
        job: snapshot::job(tracker, now),
        workers: snapshot::workers(tracker, now),
        computations: snapshot::computations(tracker),
        machines: snapshot::machines(tracker, now),
        events: tracker.events().iter().cloned().collect(),
        history: tracker.history().whole(),
    }
}

/// Writes `report.json` and `report.html` to a folder.
///
/// # Errors
/// Names the file.
pub fn write(folder: &Path, everything: &Everything) -> anyhow::Result<()> {
    let json = serde_json::to_string(everything).context("encoding the job's report")?;
    let [page_name, figures_name] = REPORT;
    replace_file(&folder.join(figures_name), json.as_bytes())?;
    replace_file(&folder.join(page_name), page::with_data(&json).as_bytes())
}
