//! Why a job failed: the program that caused it, and the last lines of all programs that failed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::anyhow;
use process::exit::End;

use super::programs::{Program, Programs, State};
use super::ready::PAUSE;
use crate::host::local::THIS_MACHINE;
use crate::step;

/// How many failed programs an error shows.
const MAX_FAILURES: usize = 4;
/// How long to wait for the error that caused the others. In a running job this is the receiver's, which all programs tell why
/// they fail, and which tells the others.
const CAUSE_TIME: Duration = Duration::from_secs(5);
/// The same before the job has begun, when a program that fails for a lasting reason is most likely the cause itself.
const RECEIVER_TIME: Duration = Duration::from_millis(300);
/// How many of the last lines of a failed program are shown.
const LAST_LINES: usize = 20;
/// How a line begins that a Python model has printed.
const PRINTED: &str = "python: ";
/// The receiver's place among the programs.
const RECEIVER: usize = 0;

/// The failed programs by their place, and how they ended.
type Failures = BTreeMap<usize, End>;

impl Programs<'_> {
    /// The error of a job in which this program was the first that failed.
    pub(super) fn failure(&mut self, first: usize, end: End) -> anyhow::Error {
        let failures = self.await_cause(Failures::from([(first, end)]));
        if failures.get(&RECEIVER).is_some_and(End::is_stopped) {
            return stopped_elsewhere();
        }
        let cause = cause(&failures).unwrap_or(first);
        if !self.has_begun
            && let Some(error) = self.running[cause].refusal()
        {
            return error;
        }
        let Program { name, host, .. } = &self.running[cause];
        let how = failures.get(&cause).map(|end| format!(" ({end})")).unwrap_or_default();
        let mut text = format!("{name} on {} failed{how}", host.name());
        let others = failures.keys().copied().filter(|i| *i != cause).take(MAX_FAILURES - 1);
        let shown: BTreeSet<_> = others.chain([cause]).collect();
        for i in shown {
            text.push_str(&self.running[i].last_words());
        }
        anyhow!(text)
    }

    /// Waits for the failure of the program that caused the others' failures.
    fn await_cause(&mut self, mut failures: Failures) -> Failures {
        let start = Instant::now();
        loop {
            self.add_failures(&mut failures);
            let is_known = !self.has_begun && cause(&failures).is_some();
            let limit = if is_known { RECEIVER_TIME } else { CAUSE_TIME };
            if failures.contains_key(&RECEIVER) || start.elapsed() >= limit {
                return failures;
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn add_failures(&mut self, failures: &mut Failures) {
        let programs = self.running.iter_mut().enumerate();
        for (i, program) in programs.filter(|(_, program)| program.state != State::LeftOut) {
            if let Some(end) = program.running.try_wait().ok().flatten().filter(|end| !end.is_success()) {
                failures.insert(i, end);
            }
        }
    }
}

/// The program that knows the cause: the receiver, or one whose failure made the others fail.
fn cause(failures: &Failures) -> Option<usize> {
    failures.iter().find(|(i, end)| **i == RECEIVER || !end.is_temporary()).map(|(i, _)| *i)
}

/// The error of a job whose receiver another command stopped.
fn stopped_elsewhere() -> anyhow::Error {
    let resume = match step::hosts_go() {
        true => "",
        false => "; what was received is kept, and cargo xtask run-cluster --resume continues",
    };
    anyhow!("the job was stopped from elsewhere{resume}")
}

/// Why a program has ended, in its own words: the last message of its log, and those before it that explain it; `None` if its
/// log is empty.
pub(crate) fn in_own_words(lines: &[String], explains: impl Fn(&str) -> bool) -> Option<anyhow::Error> {
    let mut messages: Vec<_> = lines.iter().map(|line| process::log::message(line)).collect();
    let reason = messages.pop()?;
    let details = messages.iter().filter(|message| explains(message));
    Some(anyhow!("{reason}{}", details.map(|message| format!("\n    {message}")).collect::<String>()))
}

impl Program<'_> {
    /// Why a classifier on this machine could not start, in its own words, with what the user's model printed; `None` for other
    /// programs.
    fn refusal(&self) -> Option<anyhow::Error> {
        if self.host.name() != THIS_MACHINE || ["receiver", "sender"].contains(&self.name.as_str()) {
            return None;
        }
        in_own_words(&self.running.last_lines(LAST_LINES).ok()?, |message| message.starts_with(PRINTED))
    }

    fn last_words(&self) -> String {
        let log = match step::hosts_go() {
            true => String::new(),
            false => format!("; the whole log: {}", self.running.log()),
        };
        let lines = self.running.last_lines(LAST_LINES).unwrap_or_default();
        let lines: String =
            lines.iter().map(|line| format!("\n    {}", process::log::message(line))).collect();
        format!("\n\n{} on {} (its last lines{log}):{lines}", self.name, self.host.name())
    }
}
