//! The programs of a job: starts and watches them.

use std::fmt;
use std::time::{Duration, Instant, SystemTime};

use anyhow::bail;

use super::lifetime::{Lifetime, Warnings};
use super::phase::{Ended, Next, Phase};
use super::progress::{Growth, ProgressMonitor, Watched};
use super::ready::{PAUSE, await_address};
use super::{Input, Job};
use crate::console;
use crate::host::{Host, Launch, Running, arg};
use crate::objects::Signatures;
use crate::{interrupt, step};

/// How long to wait for a lost metrics host before this command gives up. The job continues.
const CONTACT_TIME: Duration = Duration::from_secs(120);
/// How long to wait for any lost host before the job has begun.
const START_CONTACT_TIME: Duration = Duration::from_secs(10);
/// If the initializer's machine in the cloud is lost for this long, and no row becomes durable meanwhile, it has ended and
/// the job has failed. (A user's own host may come back; for that, the receiver waits.)
const GONE_TIME: Duration = Duration::from_secs(60);
/// The longest pause between two checks. In a long job the pause is a hundredth of its age, up to this.
const MAX_PAUSE: Duration = Duration::from_millis(50);

/// The error of [`run`](super::run) when the metrics host stays lost. The job continues.
#[derive(Debug)]
pub struct LostContact(String);

impl fmt::Display for LostContact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no contact with {} for {CONTACT_TIME:?}", self.0)?;
        if step::hosts_go() {
            return Ok(());
        }
        write!(
            f,
            "; the job continues without this command: cargo xtask run-cluster --attach shows it again, and cargo xtask \
             run-cluster --resume restarts it from where it is"
        )
    }
}

impl std::error::Error for LostContact {}

/// The started programs of a job.
#[derive(Default)]
pub(crate) struct Programs<'a> {
    /// The receiver is the first.
    pub(crate) running: Vec<Program<'a>>,
    /// From then on, the job continues without classifiers that were cut off.
    pub(crate) has_begun: bool,
}

/// A program of a job, and where it runs.
pub struct Program<'a> {
    pub(super) name: String,
    pub(super) host: &'a dyn Host,
    pub(super) running: Box<dyn Running>,
    pub(super) state: State,
    /// Its host has been lost at some time.
    was_away: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Running,
    /// It has ended without an error.
    Ended,
    /// It has failed, and the job continues without it.
    LeftOut,
}

impl<'a> Program<'a> {
    pub fn new(name: &str, host: &'a dyn Host, running: Box<dyn Running>) -> Self {
        Self { name: name.to_owned(), host, running, state: State::Running, was_away: false }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// A program that failed before this command attached to the job.
    pub fn failed_unseen(mut self) -> Self {
        self.was_away = true;
        self
    }

    /// Whether the cluster has continued without this program: a classifier that was cut off for too long.
    fn is_dispensable(&self) -> bool {
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
        // First, since a sender's input may follow a "--".
        args.splice(0..0, ["--ready-file".into(), arg(&ready_file)]);
        let environment = job.environment.clone();
        // A sender whose input can be read only once loses what it has read.
        let is_sender = program == "sender";
        let stdin = is_sender && matches!(job.input, Input::Stdin { .. });
        let restart = !(is_sender && matches!(job.input, Input::Stdin { .. } | Input::Pipe { .. }));
        let launch = Launch { name: name.to_owned(), program, args, environment, ready_file, stdin, restart };
        let running = host.start(&launch)?;
        self.running.push(Program::new(name, host, running));
        Ok(self.running.len() - 1)
    }

    /// Waits, for at most this long, until a program's ready file has its address for `what`.
    pub(crate) fn await_address(
        &mut self,
        program: usize,
        what: &str,
        limit: Duration,
    ) -> anyhow::Result<String> {
        let Program { name, host, .. } = &self.running[program];
        let (name, host) = (name.clone(), *host);
        let check = || {
            self.check()?;
            let needed = if self.has_begun { program..=program } else { 0..=self.running.len() - 1 };
            let mut needed = self.running[needed].iter();
            match needed.find(|p| p.host.away() >= Some(START_CONTACT_TIME)) {
                Some(lost) => bail!("no contact with {} for {START_CONTACT_TIME:?}", lost.host.name()),
                None => Ok(()),
            }
        };
        await_address(host, &name, what, limit, check).map(|address| address.to_string())
    }

    /// Waits until a program is ready, without a deadline: a sender may have to wait for its input.
    pub(crate) fn await_ready(&mut self, program: usize) -> anyhow::Result<()> {
        let start = Instant::now();
        loop {
            let Program { name, host, .. } = &self.running[program];
            // If all have ended, it was ready before.
            if host.ready(name)?.is_some() || self.check()? {
                return Ok(());
            }
            std::thread::sleep((start.elapsed() / 100).clamp(PAUSE, MAX_PAUSE));
        }
    }

    /// Whether all programs have ended without an error, except those that the job continues without.
    ///
    /// # Errors
    /// Any other program failed; the error has its last lines.
    fn check(&mut self) -> anyhow::Result<bool> {
        interrupt::check()?;
        for i in 0..self.running.len() {
            let program = &mut self.running[i];
            if program.state != State::Running {
                continue;
            }
            program.was_away |= program.host.away().is_some();
            for end in program.running.deaths() {
                // Deaths that only follow another one are not shown.
                if !end.is_temporary() {
                    console::note(&format!(
                        "{} on {} died ({end}); it is restarted",
                        program.name,
                        program.host.name()
                    ));
                }
            }
            if let Some(end) = program.running.try_wait()? {
                program.state = State::Ended;
                if !end.is_success() && self.has_begun && program.is_dispensable() {
                    program.state = State::LeftOut;
                    console::note(&format!(
                        "{} on {} has ended ({end}) since it was cut off; the job continues without it",
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

    /// # Errors
    /// The initializer's machine is gone, and with it the job.
    fn ensure_initializer(&self, growth: &Growth) -> anyhow::Result<()> {
        let initializer = self.running.iter().find(|program| program.name == "initializer");
        let gone = initializer.filter(|initializer| initializer.host.away() >= Some(GONE_TIME));
        let Some(initializer) = gone.filter(|_| growth.has_stopped_for(GONE_TIME)) else { return Ok(()) };
        let resume = match step::hosts_go() {
            true => "",
            false => {
                "; what is durable is kept: cargo xtask up launches another one, and cargo xtask run-cluster --resume continues"
            }
        };
        bail!(
            "no contact with {} for {GONE_TIME:?}, and no row has become durable since: the machine seems to have ended, and a \
             job cannot continue without its initializer{resume}",
            initializer.host.name()
        )
    }

    /// Shows the job's progress until it is done; returns the time from the end of the first program to that of the last, in
    /// which the results are packed.
    ///
    /// # Errors
    /// A program failed, the user interrupted, or a host is lost that the job needs.
    pub(crate) fn watch(
        &mut self,
        metrics: &dyn Host,
        results: &str,
        watched: &Watched<'_>,
        mut signatures: Option<Signatures<'_>>,
    ) -> anyhow::Result<Duration> {
        self.has_begun = true;
        let start = Instant::now();
        let mut progress = ProgressMonitor::start(metrics, results, watched)?;
        let (mut phase, mut warnings) = (Phase::Running, Warnings::default());
        let mut of_signatures = Some(Warnings::default());
        loop {
            self.check()?;
            progress.update();
            if let Some(lifetime) = watched.lifetime {
                if let Some(warning) = warnings.next(lifetime, SystemTime::now(), progress.left()) {
                    console::note(&warning);
                }
                self.ensure_initializer(progress.growth())?;
            }
            if let Some(until) = signatures.as_mut().map(Signatures::renew)
                && let Some(warning) = of_signatures.as_mut().and_then(|warnings| {
                    warnings.next(&Lifetime::of_signatures(until), SystemTime::now(), progress.left())
                })
            {
                console::note(&warning);
                // They may be renewed, which makes no news.
                of_signatures = of_signatures.filter(|_| progress.left().is_none());
            }
            self.ensure_contact(metrics)?;
            match phase.next(self.ended(), watched.after, Instant::now()) {
                Next::Wait => {}
                Next::Done { packing } => return Ok(packing),
                Next::TooLate(limit) => {
                    let left = self.running.iter().filter(|program| program.state == State::Running);
                    let left: Vec<_> = left.map(|program| program.name.as_str()).collect();
                    bail!("waiting for {} to end: not within {limit:?}", left.join(", "));
                }
            }
            std::thread::sleep((start.elapsed() / 100).clamp(PAUSE, MAX_PAUSE));
        }
    }

    /// Which programs have ended. A program that was left out does not keep the job from ending.
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

    /// A job cannot be watched without the receiver's host.
    ///
    /// # Errors
    /// [`LostContact`], if that host has been lost for [`CONTACT_TIME`].
    fn ensure_contact(&mut self, metrics: &dyn Host) -> anyhow::Result<()> {
        let away = self.running.first().and_then(|receiver| receiver.host.away());
        if away < Some(CONTACT_TIME) {
            return Ok(());
        }
        self.running.iter_mut().for_each(|program| program.running.leave());
        Err(LostContact(metrics.name().to_owned()).into())
    }
}
