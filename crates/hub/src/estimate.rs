//! Estimates when the job will be done.

use telemetry::view::{Estimate, JobState, Rows};

use crate::history::Pace;

/// There is an estimate once rows have been written for this many seconds, and this share of all rows is written.
const LEAST_SECONDS: f64 = 5.0;
const LEAST_SHARE: f64 = 0.005;
/// The number of last spans whose rates an estimate uses.
const SPANS: usize = 12;
/// The quantiles of these rates that count as quick and slow.
const QUICK: f64 = 0.8;
const SLOW: f64 = 0.2;

/// Estimates the remaining time of a job with this pace, `seconds` after it began; `None` until an estimate is meaningful.
pub fn estimate(rows: &Rows, pace: &Pace, state: JobState, seconds: f64) -> Option<Estimate> {
    let total = rows.total.or(rows.total_about)?;
    if !matches!(state, JobState::Running | JobState::Draining) || total < rows.written {
        return None;
    }
    if pace.seconds() < LEAST_SECONDS || (rows.written as f64) < LEAST_SHARE * total as f64 {
        return None;
    }
    let mut rates = pace.recent_rates(SPANS);
    rates.sort_by(f64::total_cmp);
    let at = |share: f64| rates.get((rates.len().saturating_sub(1) as f64 * share).round() as usize).copied();
    let (quick, slow) = (at(QUICK)?, at(SLOW)?);
    let left = (total - rows.written) as f64;
    // Rows in flight since the last step are nearly done.
    let since = (seconds - pace.last_seconds()).max(0.0);
    (slow > 0.0).then(|| Estimate {
        low_seconds: (left / quick - since).max(0.0),
        high_seconds: (left / slow - since).max(0.0),
    })
}
