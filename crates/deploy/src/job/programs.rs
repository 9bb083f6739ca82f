//! The programs of a job: started, watched, and what they say when one of them has failed.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{anyhow, bail};
use process::exit::End;

use super::lifetime::Warnings;
use super::phase::{Ended, Next, Phase};
use super::progress::{Growth, ProgressMonitor, Watched};
use super::ready::{PAUSE, await_address};
use super::{Input, Job};
use crate::console;
use crate::host::{Host, Launch, Running, arg};
use crate::{interrupt, step};

/// How long a program may take until it is ready; the initializer waits for others, and Python models have to load
/// pandas.
const READY_TIME: Duration = Duration::from_secs(300);
/// How long the metrics host may be out of sight until this command gives the job up to itself; and any host before the job
/// has begun.
const SIGHT_TIME: Duration = Duration::from_secs(120);
const START_SIGHT_TIME: Duration = Duration::from_secs(10);
/// When nothing is heard for so long of the initializer's machine, and no row becomes durable meanwhile, a machine of the
/// cloud has ended: the job cannot go on without it. (A host that is somebody's own may come back: the receiver has the patience.)
const GONE_TIME: Duration = Duration::from_secs(60);
/// The same of a job that has been running for long: its end may be seen a hundredth of that later, and not later than this.
const LONGEST_PAUSE: Duration = Duration::from_millis(50);
/// Of how many programs that failed with the first one the words are shown.
const MOST_FAILURES: usize = 4;
/// How long the receiver, which knows best why a job failed, has to say so, after another one has failed.
const RECEIVER_TIME: Duration = Duration::from_millis(300);
/// How long it may take until the program is known that others have failed because of.
const FAILURE_TIME: Duration = Duration::from_secs(2);
/// How many of the last lines of a program that failed are shown.
const LAST_LINES: usize = 12;

/// What [`run`] gives when the job cannot be seen any more, and goes on nevertheless.
#[derive(Debug)]
pub struct LostSight(String);

impl fmt::Display for LostSight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nothing has been heard of {} for {SIGHT_TIME:?}", self.0)?;
        if step::hosts_go() {
            return Ok(());
        }
        write!(
            f,
            ". The job goes on without this command: cargo xtask run-cluster \
             --attach shows it again, and cargo xtask run-cluster --resume starts it again where it is"
        )
    }
}

impl std::error::Error for LostSight {}

/// Why a job ends whose receiver was told to stop, and not by this command.
fn stopped_elsewhere() -> String {
    let resume = match step::hosts_go() {
        true => "",
        false => "; what was received is kept, and cargo xtask run-cluster --resume continues",
    };
    format!("the job was stopped from elsewhere{resume}")
}

/// The programs of a job that were started.
pub(crate) struct Programs<'a> {
    pub(crate) running: Vec<Program<'a>>,
    /// It can do without classifiers that were cut off.
    pub(crate) has_begun: bool,
}

/// A program of a job, and where it runs.
pub struct Program<'a> {
    name: String,
    host: &'a dyn Host,
    running: Box<dyn Running>,
    state: State,
    /// Its host has been out of sight.
    was_away: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    /// It has ended well.
    Ended,
    /// It has failed, and the job goes on without it.
    LeftOut,
}

impl<'a> Program<'a> {
    pub fn new(name: &str, host: &'a dyn Host, running: Box<dyn Running>) -> Self {
        Self { name: name.to_owned(), host, running, state: State::Running, was_away: false }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// It has failed while nobody watched.
    pub fn failed_unseen(mut self) -> Self {
        self.was_away = true;
        self
    }

    /// Whether the cluster has done without this program when it failed: it was gone for longer than it is waited for.
    fn was_done_without(&self) -> bool {
        self.was_away && !["receiver", "initializer", "sender"].contains(&self.name.as_str())
    }
}

impl<'a> Programs<'a> {
    pub(crate) fn start(
        &mut self,
        job: &Job,
        host: &'a dyn Host,
        name: &str,
        program: &'static str,
        mut args: Vec<String>,
    ) -> anyhow::Result<usize> {
        let ready_file = job.run_folder.join(format!("{name}.ready"));
        // In front, since a sender's input may stand behind a "--".
        args.splice(0..0, ["--ready-file".into(), arg(&ready_file)]);
        let environment = job.environment.clone();
        // What a sender has read that can be read only once is gone with it.
        let is_sender = program == "sender";
        let stdin = is_sender && matches!(job.input, Input::Stdin { .. });
        let restart = !(is_sender && matches!(job.input, Input::Stdin { .. } | Input::Pipe { .. }));
        let launch = Launch { name: name.to_owned(), program, args, environment, ready_file, stdin, restart };
        let running = host.start(&launch)?;
        self.running.push(Program::new(name, host, running));
        Ok(self.running.len() - 1)
    }

    /// Waits until a program says where it listens for `what`.
    pub(crate) fn await_address(&mut self, program: usize, what: &str) -> anyhow::Result<String> {
        let Program { name, host, .. } = &self.running[program];
        let (name, host) = (name.clone(), *host);
        let check = || {
            self.check()?;
            let needed = if self.has_begun { program..=program } else { 0..=self.running.len() - 1 };
            let mut needed = self.running[needed].iter();
            match needed.find(|p| p.host.away() >= Some(START_SIGHT_TIME)) {
                Some(lost) => {
                    bail!("nothing has been heard of {} for {START_SIGHT_TIME:?}", lost.host.name())
                }
                None => Ok(()),
            }
        };
        await_address(host, &name, what, READY_TIME, check).map(|address| address.to_string())
    }

    /// Waits until a program is ready, for as long as all run: a sender may have an input that lets it wait.
    pub(crate) fn await_ready(&mut self, program: usize) -> anyhow::Result<()> {
        let start = Instant::now();
        loop {
            let Program { name, host, .. } = &self.running[program];
            // One that has sent everything by now was ready, too.
            if host.ready(name)?.is_some() || self.check()? {
                return Ok(());
            }
            std::thread::sleep((start.elapsed() / 100).clamp(PAUSE, LONGEST_PAUSE));
        }
    }

    /// Whether all programs have ended well, but for those that a job that has begun does without. One that has not is an
    /// error, with its last words.
    fn check(&mut self) -> anyhow::Result<bool> {
        interrupt::check()?;
        for i in 0..self.running.len() {
            let program = &mut self.running[i];
            if program.state != State::Running {
                continue;
            }
            program.was_away |= program.host.away().is_some();
            for end in program.running.deaths() {
                // Those that only follow another one's death are not news.
                if !end.is_temporary() {
                    console::note(&format!(
                        "{} on {} died ({end}), and is started again",
                        program.name,
                        program.host.name()
                    ));
                }
            }
            if let Some(end) = program.running.try_wait()? {
                program.state = State::Ended;
                if !end.is_success() && self.has_begun && program.was_done_without() {
                    program.state = State::LeftOut;
                    console::note(&format!(
                        "{} on {} has ended ({end}) since it was cut off; the job goes on without it",
                        program.name,
                        program.host.name()
                    ));
                } else if !end.is_success() {
                    return Err(self.failure(i, end));
                }
            }
        }
        Ok(self.running.iter().all(|program| program.state != State::Running))
    }

    /// What a failed program said; and, since one failure brings others with it, what those said that failed too.
    fn failure(&mut self, first: usize, end: End) -> anyhow::Error {
        let mut failed = BTreeMap::from([(first, end)]);
        let start = Instant::now();
        // The receiver, or the one that the others have lost.
        let knows = |(i, end): (&usize, &End)| (*i == 0 || !end.is_temporary()).then_some(*i);
        while !failed.contains_key(&0) {
            let limit =
                if failed.iter().any(|one| knows(one).is_some()) { RECEIVER_TIME } else { FAILURE_TIME };
            if start.elapsed() >= limit {
                break;
            }
            for (i, program) in self.running.iter_mut().enumerate() {
                if program.state == State::LeftOut {
                    continue;
                }
                if let Some(end) = program.running.try_wait().ok().flatten().filter(|end| !end.is_success()) {
                    failed.insert(i, end);
                }
            }
            std::thread::sleep(PAUSE);
        }
        if failed.get(&0).is_some_and(End::is_stopped) {
            return anyhow!(stopped_elsewhere());
        }
        let first = failed.iter().find_map(knows).unwrap_or(first);
        let Program { name, host, .. } = &self.running[first];
        let how = failed.get(&first).map(|end| format!(" ({end})")).unwrap_or_default();
        let mut text = format!("{name} on {} failed{how}", host.name());
        let mut shown = 0;
        for (i, program) in self.running.iter_mut().enumerate() {
            if program.state == State::LeftOut {
                continue;
            }
            let mut failed =
                || program.running.try_wait().ok().flatten().is_some_and(|end| !end.is_success());
            if i != first && (shown == MOST_FAILURES || !failed()) {
                continue;
            }
            shown += 1;
            let lines = program.running.last_lines(LAST_LINES).unwrap_or_default();
            let log = match step::hosts_go() {
                true => "its last words".to_owned(),
                false => format!("all of it: {}", program.running.log()),
            };
            text.push_str(&format!("\n\n{} on {} ({log}):", program.name, program.host.name()));
            for line in lines {
                text.push_str("\n    ");
                text.push_str(&process::log::message(&line));
            }
        }
        anyhow!(text)
    }

    /// An error if the initializer's machine is gone, and with it the job.
    fn ensure_initializer(&self, growth: &Growth) -> anyhow::Result<()> {
        let initializer = self.running.iter().find(|program| program.name == "initializer");
        let gone = initializer.filter(|initializer| initializer.host.away() >= Some(GONE_TIME));
        let Some(initializer) = gone.filter(|_| growth.has_stopped_for(GONE_TIME)) else { return Ok(()) };
        let resume = match step::hosts_go() {
            true => "",
            false => {
                "; what is durable is kept: cargo xtask up launches another one, and cargo xtask run-cluster --resume goes on"
            }
        };
        bail!(
            "nothing has been heard of {} for {GONE_TIME:?}, and no row has become durable since: the machine seems to have \
             ended, and a job cannot go on without its initializer{resume}",
            initializer.host.name()
        )
    }

    /// Shows how the job goes until it is done; returns how long the last program took to end after the first, which is for
    /// packing the results.
    ///
    /// # Errors
    /// A program has failed, the user interrupts, or a host without which there is no job is lost.
    pub(crate) fn watch(
        &mut self,
        metrics: &dyn Host,
        results: &str,
        watched: &Watched<'_>,
    ) -> anyhow::Result<Duration> {
        self.has_begun = true;
        let start = Instant::now();
        let mut progress = ProgressMonitor::start(metrics, results, watched)?;
        let (mut phase, mut warnings) = (Phase::Running, Warnings::default());
        loop {
            self.check()?;
            progress.update();
            if let Some(lifetime) = watched.lifetime {
                if let Some(words) = warnings.next(lifetime, SystemTime::now(), progress.left()) {
                    console::note(&words);
                }
                self.ensure_initializer(progress.growth())?;
            }
            self.ensure_in_sight(metrics)?;
            match phase.next(self.ended(), watched.packs, Instant::now()) {
                Next::Wait => {}
                Next::Done { packing } => return Ok(packing),
                Next::TooLate(limit) => {
                    let left = self.running.iter().filter(|program| program.state == State::Running);
                    let left: Vec<_> = left.map(|program| program.name.as_str()).collect();
                    bail!("waiting for {} to end: not within {limit:?}", left.join(", "));
                }
            }
            std::thread::sleep((start.elapsed() / 100).clamp(PAUSE, LONGEST_PAUSE));
        }
    }

    /// Which programs have ended; one that the job does without counts as such.
    fn ended(&self) -> Ended {
        let is = |state: State| move |program: &Program<'_>| program.state == state;
        if !self.running.iter().any(is(State::Running)) {
            Ended::All
        } else if self.running.first().is_some_and(is(State::Ended)) {
            Ended::Receiver
        } else if self.running.iter().any(is(State::Ended)) {
            Ended::Some
        } else {
            Ended::None
        }
    }

    /// The job can do without other hosts, but without the receiver's it cannot be watched.
    fn ensure_in_sight(&mut self, metrics: &dyn Host) -> anyhow::Result<()> {
        let away = self.running.first().and_then(|receiver| receiver.host.away());
        if away < Some(SIGHT_TIME) {
            return Ok(());
        }
        self.running.iter_mut().for_each(|program| program.running.leave());
        Err(LostSight(metrics.name().to_owned()).into())
    }
}
