//! How a watched job goes: what the hub and the receiver tell, and what is shown of it.

use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use protocol::results::Progress;
use protocol::token::Token;

use super::hub;
use super::lifetime::Lifetime;
use crate::console::{JobBar, Standing};
use crate::host::Host;

/// After so long without an answer of the hub, the receiver is believed.
const HUB_SILENCE: Duration = Duration::from_secs(2);
/// The receiver tells its progress several times a second; after so long without it, nothing is known.
const RECEIVER_SILENCE: Duration = Duration::from_secs(5);

/// What there is to know of a job that is watched.
pub struct Watched<'a> {
    /// How many rows it has, if that is known.
    pub rows: Option<u64>,
    /// Whether its results are packed.
    pub packs: bool,
    /// Its token, for hosts that do not know it.
    pub token: Option<&'a Token>,
    /// Where the hub's page is, if there is one.
    pub page: Option<&'a str>,
    /// When its hosts end by themselves, if they do.
    pub lifetime: Option<&'a Lifetime>,
}

/// Follows the job's progress and shows it.
pub(super) struct ProgressMonitor {
    /// Rows in all, if that is known.
    total: Option<u64>,
    receiver: Receiver<Progress>,
    hub: Option<Receiver<Standing>>,
    /// When the hub last told something.
    hub_told: Option<Instant>,
    /// When the receiver first told of rows.
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
            hub_told: None,
            first_rows: None,
            growth: Growth::new(),
            left: None,
            bar: JobBar::new(watched.rows),
        })
    }

    /// Takes in what was told since the last call, and shows it.
    pub(super) fn update(&mut self) {
        if let Some(standing) = self.hub.as_ref().and_then(|hub| hub.try_iter().last()) {
            self.hub_told = Some(Instant::now());
            self.show(&standing);
        }
        let Some(progress) = self.receiver.try_iter().last() else { return };
        self.growth.note(&progress);
        if progress.rows == 0 {
            return;
        }
        let first_rows = *self.first_rows.get_or_insert_with(Instant::now);
        // Without the hub, the receiver knows how far the job is.
        if self.hub_told.is_none_or(|told| told.elapsed() >= HUB_SILENCE) {
            self.show(&Standing::of(&progress, self.total, first_rows.elapsed()));
        }
    }

    fn show(&mut self, standing: &Standing) {
        self.left = standing.left;
        self.bar.show(standing);
    }

    /// The shortest and the longest time that the job should still take, in seconds.
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

/// Whether the rows that are durable become more.
pub(super) struct Growth {
    rows: u64,
    grown: Instant,
    told: Instant,
    has_ended: bool,
}

impl Growth {
    fn new() -> Self {
        Self { rows: 0, grown: Instant::now(), told: Instant::now(), has_ended: false }
    }

    fn note(&mut self, progress: &Progress) {
        self.told = Instant::now();
        self.has_ended |= progress.ended;
        if progress.rows > self.rows {
            (self.rows, self.grown) = (progress.rows, Instant::now());
        }
    }

    /// Whether the receiver, which still tells its progress, has had no more rows for so long.
    pub(super) fn has_stopped_for(&self, time: Duration) -> bool {
        !self.has_ended && self.told.elapsed() < RECEIVER_SILENCE && self.grown.elapsed() >= time
    }
}
