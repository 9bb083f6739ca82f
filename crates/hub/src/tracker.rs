//! What the hub knows of the job. Pure: callers give the time, by a clock that starts long before the hub.

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

/// How many of the last events are kept.
const EVENTS: usize = 500;
/// Their text is cut after so many bytes.
const EVENT_LENGTH: usize = 1000;
/// A program that has failed this long before the job has ended is why.
const REASON_TIME: Duration = Duration::from_secs(15);
/// Without output for so long, a job that has rows to write is stalled.
pub const STALLED: Duration = Duration::from_secs(10);

/// The job, as the reports of its programs tell it.
#[derive(Debug, Default)]
pub struct Tracker {
    description: Option<Description>,
    processes: BTreeMap<String, Process>,
    history: History,
    events: VecDeque<Event>,
    happened: u64,
    model_events: ModelEvents,
    state: JobState,
    /// When the job began, by the hub's clock: with the first of its programs, which may be before the hub.
    begun: Option<Duration>,
    /// When its first rows came in, as far as the hub knows.
    working_since: Option<Duration>,
    /// When the job ended.
    ended: Option<Duration>,
    /// Why, if it has failed.
    failure: Option<String>,
    /// How many rows were written, and since when.
    progress: (u64, Duration),
    /// How many rows have come in; an initializer that was started again begins with those that are not durable.
    read: u64,
    /// Workers in the cluster, when it formed last.
    workers: u32,
}

impl Tracker {
    /// Of a job that is described like this, if it is.
    pub fn new(description: Option<Description>) -> Self {
        Self { description, ..Self::default() }
    }

    /// What the job is.
    pub fn description(&self) -> Option<&Description> {
        self.description.as_ref()
    }

    /// Takes in a report.
    pub fn on_report(&mut self, origin: &Origin, report: Report, now: Duration) {
        if self.begun.is_none() {
            // What was written before, and when, is unknown.
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

    /// A second has passed.
    pub fn tick(&mut self, now: Duration) {
        self.update(now);
        // Without the receiver, it is unknown how far the job is.
        if self.receiver().is_some() && !self.state.is_over() {
            let rows = self.rows();
            let point = Point { seconds: self.seconds(now), rows_in: rows.read, rows_out: rows.written };
            self.history.add(point);
        }
    }

    /// Notes what has happened to the models of a program.
    fn note_models(&mut self, name: &str, now: Duration) {
        let Some(process) = self.processes.get(name).filter(|_| !self.state.is_over()) else { return };
        let counts = process.model();
        if let Some(text) = self.model_events.event(name, &counts, now) {
            self.note(now, EventKind::Model, Some(name), text);
        }
    }

    /// Notes what has changed.
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
        // It may go on without another classifier; if not, the receiver is stopped.
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
        self.happened += 1;
        self.events.push_back(Event {
            number: self.happened,
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

    /// Why a job has failed that has just ended. When a program of it fails, the others are stopped.
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

    /// How many rows there are, and where.
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

    /// Seconds since the job began; they stop when it has ended.
    pub fn seconds(&self, now: Duration) -> f64 {
        let now = self.ended.unwrap_or(now);
        now.saturating_sub(self.begun.unwrap_or(now)).as_secs_f64()
    }

    /// When the job began, by the hub's clock.
    pub fn started_at(&self) -> Option<Duration> {
        self.begun
    }

    /// For how long rows have been worked on, of a job that is over.
    pub fn working_time(&self) -> Option<Duration> {
        match self.outcome() {
            Some(JobOutcome::Done(summary)) => Some(Duration::from_secs_f64(summary.seconds.max(1e-3))),
            _ => self.ended.zip(self.working_since).map(|(end, start)| end.saturating_sub(start)),
        }
    }

    /// How long a batch takes a worker, on average; 0 while that is not known.
    pub fn batch_seconds(&self) -> f64 {
        let workers = self.processes.values().flat_map(|process| &process.workers);
        let (took, count) = workers.fold((Duration::ZERO, 0), |(took, count), worker| {
            (took + worker.now.classify.sum(), count + worker.now.classify.count())
        });
        took.as_secs_f64() / count.max(1) as f64
    }

    /// For how long nothing has been written, of a stalled job.
    pub fn stalled_for(&self, now: Duration) -> Option<Duration> {
        (self.state == JobState::Stalled).then(|| now.saturating_sub(self.progress.1))
    }

    /// How the job is doing.
    pub fn state(&self) -> JobState {
        self.state
    }

    /// Whether the job is over, and no program of it will report again.
    pub fn is_settled(&self, now: Duration) -> bool {
        let is_silent = |process: &Process| !matches!(process.liveness(now), Liveness::Up | Liveness::Stale);
        self.state.is_over() && self.processes.values().all(is_silent)
    }

    /// Workers in the cluster, when it formed last.
    pub fn workers(&self) -> u32 {
        self.workers
    }

    /// Its programs, by name.
    pub fn processes(&self) -> &BTreeMap<String, Process> {
        &self.processes
    }

    /// Its course.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// What has happened, the last event last.
    pub fn events(&self) -> &VecDeque<Event> {
        &self.events
    }

    /// The time by which it is judged how programs are: that of the job's end, if it has ended.
    pub fn as_of(&self, now: Duration) -> Duration {
        self.ended.unwrap_or(now)
    }

    /// The sender, and what it has counted.
    pub fn sender(&self) -> Option<(&Process, &SenderCounts)> {
        self.find(|counts| match counts {
            Counts::Sender(counts) => Some(counts),
            _ => None,
        })
    }

    /// The initializer, and what its source has counted.
    pub fn source(&self) -> Option<(&Process, &SourceCounts)> {
        self.find(|counts| match counts {
            Counts::Classifier(ClassifierCounts { source, .. }) => source.as_ref(),
            _ => None,
        })
    }

    /// The receiver, and what it has counted.
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
