//! Tracks the state of the job. Pure: callers pass the time, by a clock that starts long before the hub.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use telemetry::job::Description;
use telemetry::report::{
    ClassifierCounts, Counts, Ending, JobOutcome, Origin, ReceiverCounts, Report, SenderCounts, SourceCounts,
};
use telemetry::view::{Event, EventKind, JobState, Liveness, Point, Rows};

use crate::history::History;
use crate::model_events::ModelEvents;
use crate::process::{News, Process};

/// The number of last events that are kept.
const EVENTS: usize = 500;
/// The longest text of an event, in bytes.
const EVENT_LENGTH: usize = 1000;
/// The failure of a program counts as the job's reason if it happened at most this long before the job ended.
const REASON_TIME: Duration = Duration::from_secs(15);
/// A job with rows to write is stalled after this long without output.
pub const STALLED: Duration = Duration::from_secs(10);

/// The state of the job, according to the reports of its programs.
#[derive(Debug, Default)]
pub struct Tracker {
    description: Option<Description>,
    processes: BTreeMap<String, Process>,
    history: History,
    events: VecDeque<Event>,
    /// The number of the last event.
    last_event: u64,
    model_events: ModelEvents,
    state: JobState,
    /// When the job's first program started, by the hub's clock; possibly before the hub.
    begun: Option<Duration>,
    /// When the hub first knew of rows that had arrived.
    working_since: Option<Duration>,
    ended: Option<Duration>,
    /// Why the job has failed, if it has.
    failure: Option<String>,
    /// The number of written rows, and when it last changed.
    progress: (u64, Duration),
    /// The number of rows that have arrived. The count of a restarted initializer can be lower.
    read: u64,
    /// Workers in the cluster, as of the last source.
    workers: u32,
}

impl Tracker {
    pub fn new(description: Option<Description>) -> Self {
        Self { description, ..Self::default() }
    }

    pub fn description(&self) -> Option<&Description> {
        self.description.as_ref()
    }

    pub fn on_report(&mut self, origin: &Origin, report: Report, now: Duration) {
        if self.begun.is_none() {
            // When rows were written before is unknown.
            self.progress.1 = now;
        }
        let began = now.saturating_sub(Duration::from_millis(report.uptime_ms));
        self.begun = Some(self.begun.map_or(began, |begun| begun.min(began)));
        let Origin { name, machine, incarnation } = origin;
        let news = match self.processes.get_mut(name) {
            Some(process) => process.on_report(machine, *incarnation, report, now),
            None => {
                self.processes.insert(name.clone(), Process::new(machine, *incarnation, report, now));
                News::Joined
            }
        };
        let source = self.source().map(|(_, source)| (source.rows_in, source.workers));
        if let Some((read, workers)) = source {
            self.read = self.read.max(read);
            self.workers = workers;
        }
        match news {
            News::Joined => {
                self.note(now, EventKind::Joined, Some(name), format!("{name} joined, on {machine}"));
            }
            News::Restarted => {
                let text = format!("{name} was restarted, on {machine}");
                self.note(now, EventKind::Restarted, Some(name), text);
            }
            News::None => {}
        }
        self.note_models(name, now);
        self.update(now);
    }

    /// To be called once a second.
    pub fn tick(&mut self, now: Duration) {
        self.update(now);
        // Without the receiver, the job's progress is unknown.
        if self.receiver().is_some() && !self.state.is_over() {
            let rows = self.rows();
            let point = Point { seconds: self.seconds(now), rows_in: rows.read, rows_out: rows.written };
            self.history.add(point);
        }
    }

    /// Adds an event about the models of a program, if one is due.
    fn note_models(&mut self, name: &str, now: Duration) {
        // Also when the job is over: the last report of a short job may be the first with a failure.
        let Some(process) = self.processes.get(name) else { return };
        let counts = process.model();
        if let Some(text) = self.model_events.event(name, &counts, now) {
            self.note(now, EventKind::Model, Some(name), text);
        }
    }

    /// Updates the job's state, and adds events for changes.
    fn update(&mut self, now: Duration) {
        if self.state.is_over() {
            return;
        }
        let mut noted = Vec::new();
        for (name, process) in &mut self.processes {
            let Some((before, liveness)) = process.change(now) else { continue };
            let (kind, text) = match (liveness, &process.ending) {
                (Liveness::Lost, _) => (EventKind::Lost, format!("{name} stopped reporting")),
                (Liveness::Finished, _) => (EventKind::Ended, format!("{name} has finished")),
                (Liveness::Failed, Some(Ending::Failed(why))) => {
                    (EventKind::Ended, format!("{name} has failed: {why}"))
                }
                (Liveness::Up, _) if before == Liveness::Lost => {
                    (EventKind::Back, format!("{name} reports again"))
                }
                _ => continue,
            };
            noted.push((kind, name.clone(), text));
        }
        for (kind, name, text) in noted {
            self.note(now, kind, Some(&name), text);
        }
        let rows = self.rows();
        let is_lost = |process: &Process| process.liveness(now) == Liveness::Lost;
        let waits_for_rows = rows.in_flight == 0 && !self.processes.values().any(is_lost);
        if rows.written != self.progress.0 || waits_for_rows {
            self.progress = (rows.written, now);
        }
        if rows.read > 0 {
            self.working_since.get_or_insert(now);
        }
        let state = self.state_now(&rows, now);
        if state != self.state {
            self.state = state;
            if state.is_over() {
                self.ended = Some(now);
                self.failure = self.find_failure(now);
                let point = Point { seconds: self.seconds(now), rows_in: rows.read, rows_out: rows.written };
                self.history.add(point);
            }
            let why = self.failure.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
            let is = if state == JobState::Failed { "has" } else { "is" };
            self.note(now, EventKind::Job, None, format!("the job {is} {}{why}", state.name()));
        }
    }

    fn state_now(&self, rows: &Rows, now: Duration) -> JobState {
        match self.outcome() {
            Some(JobOutcome::Done(_)) => return JobState::Done,
            Some(JobOutcome::Failed(_) | JobOutcome::Stopped) => return JobState::Failed,
            None => {}
        }
        // The job may continue without another classifier; if it does not, the receiver is stopped.
        if self.processes.values().any(|process| process.failure().is_some() && !process.is_dispensable()) {
            return JobState::Failed;
        }
        if rows.read == 0 {
            return JobState::Waiting;
        }
        if now.saturating_sub(self.progress.1) >= STALLED {
            return JobState::Stalled;
        }
        if self.source().is_some_and(|(_, source)| source.ended) {
            JobState::Draining
        } else {
            JobState::Running
        }
    }

    fn note(&mut self, now: Duration, kind: EventKind, program: Option<&str>, mut text: String) {
        if text.len() > EVENT_LENGTH {
            let cut = (0..=EVENT_LENGTH).rev().find(|cut| text.is_char_boundary(*cut));
            text.truncate(cut.unwrap_or(0));
            text.push('…');
        }
        if self.events.len() == EVENTS {
            self.events.pop_front();
        }
        self.last_event += 1;
        self.events.push_back(Event {
            number: self.last_event,
            seconds: self.seconds(now),
            kind,
            program: program.map(str::to_owned),
            text,
        });
    }

    /// Why the job has failed, if it has.
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// Why a job that has just ended has failed. When a program fails, the others are stopped.
    fn find_failure(&self, now: Duration) -> Option<String> {
        let of_program = || {
            let recent =
                self.processes.iter().filter(|(_, process)| now.saturating_sub(process.seen) < REASON_TIME);
            recent.filter_map(|(name, process)| Some(format!("{name}: {}", process.failure()?))).next()
        };
        match self.outcome() {
            Some(JobOutcome::Done(_)) => None,
            Some(JobOutcome::Failed(why)) => Some(why.clone()),
            Some(JobOutcome::Stopped) => {
                Some(of_program().unwrap_or_else(|| "a user has stopped it".to_owned()))
            }
            None => of_program(),
        }
    }

    pub fn rows(&self) -> Rows {
        let (written, rejected) =
            self.receiver().map_or((0, 0), |(_, receiver)| (receiver.rows, receiver.rejects));
        let source = self.source().map(|(_, source)| source);
        let read = self.read.max(written);
        let known = source.filter(|source| source.ended).map(|source| source.rows_in);
        let sender = self.sender().map(|(_, sender)| sender);
        let total = known.or_else(|| sender.and_then(|sender| sender.rows_total));
        let total_about = sender.filter(|_| total.is_none()).and_then(|sender| {
            let all = sender.bytes_total.filter(|_| sender.bytes > 0 && sender.rows > 0)?;
            Some((sender.rows as f64 * all as f64 / sender.bytes as f64) as u64)
        });
        Rows { read, in_flight: read - written, written, rejected, total, total_about }
    }

    /// Seconds from the job's beginning until now or its end.
    pub fn seconds(&self, now: Duration) -> f64 {
        let now = self.ended.unwrap_or(now);
        now.saturating_sub(self.begun.unwrap_or(now)).as_secs_f64()
    }

    /// When the job began, by the hub's clock.
    pub fn started_at(&self) -> Option<Duration> {
        self.begun
    }

    /// Of a finished job: the time from its first rows to its end.
    pub fn working_time(&self) -> Option<Duration> {
        match self.outcome() {
            Some(JobOutcome::Done(summary)) => Some(Duration::from_secs_f64(summary.seconds.max(1e-3))),
            _ => self.ended.zip(self.working_since).map(|(end, start)| end.saturating_sub(start)),
        }
    }

    /// The mean time of a worker for a batch, in seconds; 0 while unknown.
    pub fn batch_seconds(&self) -> f64 {
        let workers = self.processes.values().flat_map(|process| &process.workers);
        let (took, count) = workers.fold((Duration::ZERO, 0), |(took, count), worker| {
            (took + worker.now.classify.sum(), count + worker.now.classify.count())
        });
        took.as_secs_f64() / count.max(1) as f64
    }

    /// Of a stalled job: the time since rows were last written.
    pub fn stalled_for(&self, now: Duration) -> Option<Duration> {
        (self.state == JobState::Stalled).then(|| now.saturating_sub(self.progress.1))
    }

    pub fn state(&self) -> JobState {
        self.state
    }

    /// Whether the job is over, and all its programs have finished, failed or been lost.
    pub fn is_settled(&self, now: Duration) -> bool {
        let is_silent = |process: &Process| !matches!(process.liveness(now), Liveness::Up | Liveness::Stale);
        self.state.is_over() && self.processes.values().all(is_silent)
    }

    /// Workers in the cluster; 0 while unknown.
    pub fn workers(&self) -> u32 {
        self.workers
    }

    /// The job's programs, by name.
    pub fn processes(&self) -> &BTreeMap<String, Process> {
        &self.processes
    }

    pub fn history(&self) -> &History {
        &self.history
    }

    /// The last events, the newest last.
    pub fn events(&self) -> &VecDeque<Event> {
        &self.events
    }

    /// The time at which to judge the state of programs: `now`, or the job's end.
    pub fn as_of(&self, now: Duration) -> Duration {
        self.ended.unwrap_or(now)
    }

    /// The sender and its counts.
    pub fn sender(&self) -> Option<(&Process, &SenderCounts)> {
        self.find(|counts| match counts {
            Counts::Sender(counts) => Some(counts),
            _ => None,
        })
    }

    /// The initializer and the counts of its source.
    pub fn source(&self) -> Option<(&Process, &SourceCounts)> {
        self.find(|counts| match counts {
            Counts::Classifier(ClassifierCounts { source, .. }) => source.as_ref(),
            _ => None,
        })
    }

    /// The receiver and its counts.
    pub fn receiver(&self) -> Option<(&Process, &ReceiverCounts)> {
        self.find(|counts| match counts {
            Counts::Receiver(counts) => Some(counts),
            _ => None,
        })
    }

    fn find<T>(&self, of: impl Fn(&Counts) -> Option<&T>) -> Option<(&Process, &T)> {
        self.processes.values().find_map(|process| Some(process).zip(of(&process.counts)))
    }

    fn outcome(&self) -> Option<&JobOutcome> {
        self.receiver().and_then(|(_, receiver)| receiver.outcome.as_ref())
    }
}

#[cfg(test)]
mod tests;
