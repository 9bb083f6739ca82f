//! What the hub knows of the job. Pure: time is told, by a clock that began long before the hub.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::Serialize;
use telemetry::report::{
    ClassifierCounts, Counts, Ending, JobOutcome, Origin, ReceiverCounts, Report, SenderCounts, SourceCounts,
};

use crate::history::{History, Point};
use crate::process::{Liveness, News, Process};

/// So many of the last events are kept.
const EVENTS: usize = 500;
/// Their text is cut after so many bytes.
const EVENT_LENGTH: usize = 1000;
/// A program that has failed this long before the job has ended is why.
const REASON_TIME: Duration = Duration::from_secs(15);
/// Without output for so long, a job that has rows to write is stalled.
pub const STALLED: Duration = Duration::from_secs(10);

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Event {
    /// Events are counted.
    pub number: u64,
    /// Seconds since the job began.
    pub seconds: f64,
    /// What kind of event it is.
    pub kind: Kind,
    /// What happened, in words.
    pub text: String,
}

/// Kinds of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A program reports for the first time.
    Joined,
    /// A program was started again.
    Restarted,
    /// Nothing is heard of a program any more.
    Lost,
    /// Something is heard of it again.
    Back,
    /// A program has ended.
    Ended,
    /// The job is in another state.
    Job,
}

/// How the job is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// No rows have come.
    #[default]
    Waiting,
    /// Rows come in, and results go out.
    Running,
    /// Nothing has been written for a while, and there is something to write.
    Stalled,
    /// All rows are in, and the last results go out.
    Draining,
    /// All is durable.
    Done,
    /// It cannot be finished.
    Failed,
}

impl State {
    /// All states.
    pub const ALL: [Self; 6] =
        [Self::Waiting, Self::Running, Self::Stalled, Self::Draining, Self::Done, Self::Failed];

    /// As it is called in interfaces.
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Stalled => "stalled",
            Self::Draining => "draining",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }

    /// Nothing more will happen.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Done | Self::Failed)
    }
}

/// The job, as the reports of its programs tell it.
#[derive(Debug, Default)]
pub struct Tracker {
    processes: BTreeMap<String, Process>,
    history: History,
    events: VecDeque<Event>,
    happened: u64,
    state: State,
    /// When the job began, by the hub's clock: with the first of its programs, which may be before the hub.
    begun: Option<Duration>,
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

/// How many rows there are, and where.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Rows {
    /// That have come in.
    pub read: u64,
    /// That have come in, and are not written.
    pub in_flight: u64,
    /// That are durable, rejects included.
    pub written: u64,
    /// Of these, rejects.
    pub rejected: u64,
    /// In all, where that is known.
    pub total: Option<u64>,
    /// In all, as far as it can be told from how much of the input is read.
    pub total_about: Option<u64>,
}

impl Tracker {
    /// Takes in a report.
    pub fn on_report(&mut self, origin: &Origin, report: Report, now: Duration) {
        if self.begun.is_none() {
            // Nobody knows what was written before, nor when.
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
            News::Joined => self.note(now, Kind::Joined, format!("{name} has joined, on {machine}")),
            News::Restarted => {
                self.note(now, Kind::Restarted, format!("{name} was started again, on {machine}"));
            }
            News::None => {}
        }
        self.look(now);
    }

    /// A second has passed.
    pub fn tick(&mut self, now: Duration) {
        self.look(now);
        // Without the receiver, nobody knows how far the job is.
        if self.receiver().is_some() && !self.state.is_over() {
            let rows = self.rows();
            let point = Point { seconds: self.seconds(now), rows_in: rows.read, rows_out: rows.written };
            self.history.add(point);
        }
    }

    /// Sees what has changed.
    fn look(&mut self, now: Duration) {
        if self.state.is_over() {
            return;
        }
        let mut noted = Vec::new();
        for (name, process) in &mut self.processes {
            let Some((before, liveness)) = process.look(now) else { continue };
            noted.push(match (liveness, &process.ending) {
                (Liveness::Lost, _) => (Kind::Lost, format!("nothing is heard of {name} any more")),
                (Liveness::Finished, _) => (Kind::Ended, format!("{name} has finished")),
                (Liveness::Failed, Some(Ending::Failed(why))) => {
                    (Kind::Ended, format!("{name} has failed: {why}"))
                }
                (Liveness::Up, _) if before == Liveness::Lost => {
                    (Kind::Back, format!("{name} is heard of again"))
                }
                _ => continue,
            });
        }
        for (kind, text) in noted {
            self.note(now, kind, text);
        }
        let rows = self.rows();
        let is_lost = |process: &Process| process.liveness(now) == Liveness::Lost;
        let waits_for_rows = rows.in_flight == 0 && !self.processes.values().any(is_lost);
        if rows.written != self.progress.0 || waits_for_rows {
            self.progress = (rows.written, now);
        }
        let state = self.judge(&rows, now);
        if state != self.state {
            self.state = state;
            if state.is_over() {
                self.ended = Some(now);
                self.failure = self.find_failure(now);
                let point = Point { seconds: self.seconds(now), rows_in: rows.read, rows_out: rows.written };
                self.history.add(point);
            }
            let why = self.failure.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
            self.note(now, Kind::Job, format!("the job is {}{why}", state.name()));
        }
    }

    fn judge(&self, rows: &Rows, now: Duration) -> State {
        match self.outcome() {
            Some(JobOutcome::Done(_)) => return State::Done,
            Some(JobOutcome::Failed(_) | JobOutcome::Stopped) => return State::Failed,
            None => {}
        }
        // It may go on without another classifier; if not, the receiver is stopped.
        if self.processes.values().any(|process| process.failure().is_some() && !process.is_dispensable()) {
            return State::Failed;
        }
        if rows.read == 0 {
            return State::Waiting;
        }
        if now.saturating_sub(self.progress.1) >= STALLED {
            return State::Stalled;
        }
        if self.source().is_some_and(|(_, source)| source.ended) { State::Draining } else { State::Running }
    }

    fn note(&mut self, now: Duration, kind: Kind, mut text: String) {
        if text.len() > EVENT_LENGTH {
            let cut = (0..=EVENT_LENGTH).rev().find(|cut| text.is_char_boundary(*cut));
            text.truncate(cut.unwrap_or(0));
            text.push('…');
        }
        if self.events.len() == EVENTS {
            self.events.pop_front();
        }
        self.happened += 1;
        self.events.push_back(Event { number: self.happened, seconds: self.seconds(now), kind, text });
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
                Some(of_program().unwrap_or_else(|| "somebody has stopped it".to_owned()))
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

    /// How the job is.
    pub fn state(&self) -> State {
        self.state
    }

    /// Whether the job is over, and nothing more will be heard of its programs.
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
