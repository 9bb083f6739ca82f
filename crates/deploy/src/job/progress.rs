//! Follows a watched job's progress, as the hub and the receiver report it, and shows it.

use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use protocol::results::Progress;
use protocol::token::Token;

use super::hub;
use super::lifetime::Lifetime;
use super::phase::After;
use crate::console::{JobBar, JobStatus};
use crate::host::Host;

/// How long the hub may be silent before the receiver's progress is shown instead.
const HUB_SILENCE: Duration = Duration::from_secs(2);
/// The receiver reports several times a second. After this silence, the job's progress counts as unknown.
const RECEIVER_SILENCE: Duration = Duration::from_secs(5);

/// A job to watch.
pub struct Watched<'a> {
    /// The number of rows; `None` if it is not known.
    pub rows: Option<u64>,
    /// What the receiver does after the last row.
    pub after: After,
    /// For hosts that do not have it.
    pub token: Option<&'a Token>,
    /// The URL of the hub's page; `None` if it cannot be reached.
    pub page: Option<&'a str>,
    /// When its hosts terminate themselves; `None` if they do not.
    pub lifetime: Option<&'a Lifetime>,
}

/// Follows the job's progress and shows it.
pub(super) struct ProgressMonitor {
    /// The number of rows; `None` if it is not known.
    total: Option<u64>,
    receiver: Receiver<Progress>,
    hub: Option<Receiver<JobStatus>>,
    /// When the hub last answered.
    hub_answered: Option<Instant>,
    /// When the receiver first reported rows.
    first_rows: Option<Instant>,
    growth: Growth,
    left: Option<(f64, f64)>,
    bar: JobBar,
}

impl ProgressMonitor {
    /// Follows the receiver that listens at `results`, and the hub, if its page can be reached.
    ///
    /// # Errors
    /// No thread can be started.
    pub(super) fn start(metrics: &dyn Host, results: &str, watched: &Watched<'_>) -> anyhow::Result<Self> {
        Ok(Self {
            total: watched.rows,
            receiver: metrics.observe(results, watched.token)?,
            hub: watched.page.map(hub::follow).transpose()?,
            hub_answered: None,
            first_rows: None,
            growth: Growth::new(),
            left: None,
            bar: JobBar::new(watched.rows),
        })
    }

    /// Handles the reports since the last call, and shows the progress.
    pub(super) fn update(&mut self) {
        if let Some(status) = self.hub.as_ref().and_then(|hub| hub.try_iter().last()) {
            self.hub_answered = Some(Instant::now());
            self.show(&status);
        }
        let Some(progress) = self.receiver.try_iter().last() else { return };
        self.growth.note(&progress);
        if progress.rows == 0 {
            return;
        }
        let first_rows = *self.first_rows.get_or_insert_with(Instant::now);
        // Without the hub, the receiver's progress is shown.
        if self.hub_answered.is_none_or(|answered| answered.elapsed() >= HUB_SILENCE) {
            self.show(&JobStatus::of(&progress, self.total, first_rows.elapsed()));
        }
    }

    fn show(&mut self, status: &JobStatus) {
        self.left = status.left;
        self.bar.show(status);
    }

    /// The estimated remaining time in seconds: the shortest and the longest.
    pub(super) fn left(&self) -> Option<(f64, f64)> {
        self.left
    }

    pub(super) fn growth(&self) -> &Growth {
        &self.growth
    }
}

impl Drop for ProgressMonitor {
    fn drop(&mut self) {
        self.bar.clear();
    }
}

/// Tracks whether the number of durable rows grows.
pub(super) struct Growth {
    rows: u64,
    grown: Instant,
    reported: Instant,
    has_ended: bool,
}

impl Growth {
    fn new() -> Self {
        Self { rows: 0, grown: Instant::now(), reported: Instant::now(), has_ended: false }
    }

    fn note(&mut self, progress: &Progress) {
        self.reported = Instant::now();
        self.has_ended |= progress.ended;
        if progress.rows > self.rows {
            (self.rows, self.grown) = (progress.rows, Instant::now());
        }
    }

    /// Whether the receiver, which still reports, has written no further rows for this time.
    pub(super) fn has_stopped_for(&self, time: Duration) -> bool {
        !self.has_ended && self.reported.elapsed() < RECEIVER_SILENCE && self.grown.elapsed() >= time
    }
}
