//! Jobs for tests of the page, at interesting moments: on a laptop and on a large cluster, successful and failing.

use std::time::Duration;

use telemetry::job::Description;
use telemetry::report::{Counts, Ending, Origin, Report};
use telemetry::view;

use super::Scenario;
use crate::snapshot;
use crate::tracker::Tracker;

/// A moment of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// Before rows arrive.
    Waiting,
    /// In the middle of the job, after a process was killed and restarted.
    Running,
    /// A process does not return.
    Stalled,
    /// The model cannot be started any more.
    Failed,
    Done,
}

/// The name and the present report of each job.
pub fn gallery(now: Duration) -> Vec<(String, view::Report)> {
    let small = Scenario { machines: 2, workers: 2, seconds: 560, batch_seconds: 8, ..Scenario::default() };
    let large = Scenario { machines: 16, seconds: 900, ..Scenario::default() };
    let mut reports = Vec::new();
    for (size, scenario) in [("4", small), ("112", large)] {
        let rejecting = Scenario { rejects: true, ..scenario };
        for (moment, scenario, what) in [
            (Moment::Running, scenario, "running"),
            (Moment::Stalled, scenario, "stalled"),
            (Moment::Done, scenario, "done"),
            (Moment::Done, rejecting, "rejects"),
            (Moment::Running, rejecting, "rejecting"),
        ] {
            reports.push((format!("{size}-{what}"), Story { scenario, moment, now }.play()));
        }
    }
    for (moment, what) in [(Moment::Waiting, "4-waiting"), (Moment::Failed, "4-failed")] {
        reports.push((what.to_owned(), Story { scenario: small, moment, now }.play()));
    }
    reports
}

struct Story {
    scenario: Scenario,
    moment: Moment,
    now: Duration,
}

/// The process that is lost.
const VICTIM: &str = "worker1";
/// Seconds until it is restarted.
const ABSENCE: u64 = 14;

impl Story {
    fn play(&self) -> view::Report {
        let mut tracker = Tracker::new(Some(self.description()));
        let seconds = match self.moment {
            Moment::Waiting => 4,
            Moment::Done => self.scenario.seconds,
            _ => self.scenario.seconds * 2 / 5,
        };
        let start = self.now.saturating_sub(Duration::from_secs(seconds));
        let outage = (seconds / 2, ABSENCE);
        let story = Self { scenario: Scenario { outage, ..self.scenario }, ..*self };
        for second in 0..=seconds {
            story.second(&mut tracker, second, seconds, start);
        }
        snapshot::report(&tracker, self.now)
    }

    fn second(&self, tracker: &mut Tracker, second: u64, last: u64, start: Duration) {
        let now = start + Duration::from_secs(second);
        let killed = last / 2;
        for name in self.scenario.names() {
            let is_away = match self.moment {
                Moment::Running | Moment::Done => (killed..killed + ABSENCE).contains(&second),
                Moment::Stalled | Moment::Failed => second + 2 * ABSENCE > last,
                Moment::Waiting => false,
            };
            if name == VICTIM && is_away {
                continue;
            }
            let is_restarted = name == VICTIM
                && second >= killed + ABSENCE
                && matches!(self.moment, Moment::Running | Moment::Done);
            let (incarnation, began) = if is_restarted { (2, killed + ABSENCE) } else { (1, 0) };
            let origin = self.origin(&name, incarnation);
            tracker.on_report(&origin, self.report(&name, second, began, last), now);
        }
        tracker.tick(now);
    }

    fn report(&self, name: &str, second: u64, began: u64, last: u64) -> Report {
        // Results that wait for the lost worker are not written.
        let stalls_at = last.saturating_sub(2 * ABSENCE);
        let is_stuck = matches!(self.moment, Moment::Stalled | Moment::Failed) && second > stalls_at;
        let counted = if self.moment == Moment::Waiting {
            0
        } else if is_stuck {
            stalls_at
        } else {
            second
        };
        let mut report = self.scenario.report(name, counted, began.min(counted));
        report.uptime_ms = 1000 * (second - began);
        if let Counts::Classifier(counts) = &mut report.counts {
            if self.moment == Moment::Waiting {
                counts.source = None;
            }
            // One worker of a large job is slow.
            if name == "worker5" && self.scenario.machines > 5 {
                let worker = &mut counts.workers[3];
                worker.rows /= 3;
                worker.batches /= 3;
                worker.rejects /= 3;
            }
        }
        if self.moment == Moment::Failed && second == last && name == "initializer" {
            let why = "the Python model cannot start: loading the module 'churn': No module named 'sklearn'";
            report.ending = Some(Ending::Failed(why.to_owned()));
        }
        report
    }

    /// The sender, the receiver and the initializer are on the first machine.
    fn origin(&self, name: &str, incarnation: u64) -> Origin {
        let place: u64 = name.strip_prefix("worker").and_then(|place| place.parse().ok()).unwrap_or(0);
        Origin { name: name.to_owned(), machine: format!("h{}", place + 1), incarnation }
    }

    fn description(&self) -> Description {
        Description {
            model: Some("python:churn:score".to_owned()),
            input: Some("/data/2026-11-28/orders.csv".to_owned()),
            output: Some("/data/2026-11-28/scores".to_owned()),
            batch_rows: Some(100),
            workers: Some((self.scenario.machines * self.scenario.workers) as u32),
            threads_per_worker: Some(1),
            machines: (1..=self.scenario.machines).map(|place| format!("h{place}")).collect(),
        }
    }
}
