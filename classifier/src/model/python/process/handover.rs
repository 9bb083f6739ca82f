//! Hands a process that has loaded the model over to a restarted classifier.
//!
//! A process under a guard waits for orders once it has loaded the model. The supervisor keeps the sockets to the process and to
//! its guard, so both outlive the classifier, and the restarted one need not load the model again.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use process::lifeline::{self, Kept};
use serde::{Deserialize, Serialize};

use super::super::Settings;
use super::super::log::{Doing, Log, Printed};
use super::super::template::Order;
use super::exchange::{Wait, sockets};
use super::{Above, Answer, Process};

/// How long to wait at least for a process that is busy with rows of an earlier classifier.
const LEAST_WAIT: Duration = Duration::from_secs(2);
/// How long a template may take to answer. It does nothing but wait for orders.
const TEMPLATE_TIME: Duration = Duration::from_secs(10);

/// What a classifier must know of a process that an earlier one has started.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    guard: u32,
    pid: u32,
    mark: String,
    /// How long it took to load the model.
    loading: Duration,
}

impl Process {
    /// Takes over a process that an earlier classifier has started, and that has loaded the model.
    ///
    /// # Errors
    /// It is not usable any more. It ends when the supervisor no longer keeps it.
    pub(in super::super) fn take_over(
        kept: Kept,
        settings: &Settings,
        printed: Printed,
    ) -> anyhow::Result<Self> {
        let Kept { name, note, descriptors } = kept;
        let context = || format!("taking over the Python process {name}");
        let note: Note = serde_json::from_str(&note).with_context(context)?;
        let descriptors: [OwnedFd; 3] =
            descriptors.try_into().ok().context("a socket is missing").with_context(context)?;
        let [control, data, output] = descriptors;
        printed.begin(Doing::EarlierRows);
        let log = Log::start(output, printed)?;
        let above = Above::Guard { pid: note.guard, child: None };
        let (control, data) = (UnixStream::from(control), UnixStream::from(data));
        let mut process = Self::new(above, control, data, note.mark, settings.memory, log);
        process.pid = note.pid;
        process.kept = Some(name.clone());
        process.loading = Some(note.loading);
        ensure!(!process.has_ended(), "the Python process {name} has ended; loading the model again");
        Ok(process)
    }

    /// The keepers of this template's forks, which an earlier classifier has ordered.
    ///
    /// # Errors
    /// It does not answer.
    pub(in super::super) fn keepers(&mut self) -> anyhow::Result<Vec<u32>> {
        let number = std::process::id();
        let [a, b, c, d] = number.to_be_bytes();
        self.order([b'K', a, b, c, d], &[]).context("giving an order to a Python process")?;
        // All forks of the earlier classifier together may take more memory than one.
        let limit = std::mem::replace(&mut self.memory_limit, u64::MAX);
        let mut wait = Wait::new(TEMPLATE_TIME);
        let keepers = loop {
            let Ok(Answer::Good(answer)) = self.answer(&mut wait) else {
                bail!("the Python process that has loaded the model does not answer");
            };
            let (of, keepers): (u32, Vec<u32>) =
                serde_json::from_slice(&answer).context("parsing the ids of forks")?;
            // An earlier classifier may not have read its answer.
            if of == number {
                break keepers;
            }
        };
        self.memory_limit = limit;
        Ok(keepers)
    }

    /// Has the supervisor keep this process, which waits for orders. Its name begins with `role`, and no other process has it.
    pub(in super::super) fn keep(&mut self, role: &str) {
        let name = format!("{role}:{}", self.pid);
        let Above::Guard { pid: guard, .. } = self.above else { return };
        let loading = self.loading.unwrap_or_else(|| self.started.elapsed());
        let note = Note { guard, pid: self.pid, mark: self.mark.clone(), loading };
        let Ok(note) = serde_json::to_string(&note) else { return };
        let kept = self.log.with_pipe(|output| {
            lifeline::keep(&name, &note, &[self.control.as_fd(), self.data.as_fd(), output])
        });
        if kept {
            self.kept = Some(name);
        }
    }

    /// Orders this process, which waits for orders, to serve rows itself. A process that was taken over may still be busy with rows
    /// of an earlier classifier; then this waits for as long as loading the model has taken.
    ///
    /// # Errors
    /// It does not begin. It must then be replaced.
    pub(in super::super) fn serve(&mut self, settings: &Settings) -> anyhow::Result<()> {
        let (data, its_data) = sockets()?;
        self.order([b'S', 0, 0, 0, 0], &[its_data.as_fd()]).context("giving an order to a Python process")?;
        drop(its_data);
        self.data = data;
        let limit = self.loading.map_or(settings.load_timeout, |loading| loading.max(LEAST_WAIT));
        match self.answer(&mut Wait::new(limit)) {
            Ok(Answer::Good(_)) => Ok(()),
            Ok(_) => bail!("a Python process that has loaded the model does not begin"),
            Err(ended) => bail!("a Python process that has loaded the model does not begin: {ended}"),
        }
    }

    /// Sends an order to this process, which waits for orders.
    pub(in super::super) fn order(&self, order: Order, descriptors: &[BorrowedFd<'_>]) -> nix::Result<()> {
        process::descriptors::send(&self.data, &order, descriptors)
    }
}
