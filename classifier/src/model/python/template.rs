//! The template: a Python process that has loaded the model, and makes the workers' processes by forks of itself. So the model
//! is loaded once, and the forks share its memory until one of them writes to it.
//!
//! A fork has only the thread that forks, and shares open files and connections. So each worker loads a model by itself that has
//! started threads, opened files or connections, or uses a GPU, unless the user insists on forks.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use anyhow::Context;
use parking_lot::Mutex;
use process::lifeline::{self, Kept};

use super::log::Printed;
use super::process::{Process, warn_of_left};
use super::{Settings, tree};
use crate::model::StartMethod;

/// An order, and the id of a process or 0.
pub(super) type Order = [u8; 5];

/// The role of a template among the processes that a supervisor keeps.
const TEMPLATE: &str = "template";

/// A Python process that forks itself on request.
pub(super) struct Template {
    process: Mutex<Process>,
    pid: u32,
}

impl Template {
    fn new(process: Process) -> Self {
        Self { pid: process.pid(), process: Mutex::new(process) }
    }

    /// A template that an earlier classifier had. Ends its forks.
    ///
    /// # Errors
    /// It does not answer.
    fn taken_over(mut process: Process) -> anyhow::Result<Self> {
        let keepers = process.keepers()?;
        let template = Self::new(process);
        for keeper in keepers {
            warn_of_left(&template.end(keeper));
        }
        Ok(template)
    }

    /// Whether it forks itself no longer.
    fn has_ended(&self) -> bool {
        self.process.lock().has_ended()
    }

    /// Orders a fork that uses these descriptors for its requests and answers, its keeper's reports, and its log.
    ///
    /// # Errors
    /// When the template is gone.
    pub(super) fn order_fork(&self, descriptors: [BorrowedFd<'_>; 3]) -> anyhow::Result<()> {
        self.order([b'F', 0, 0, 0, 0], &descriptors)
            .context("ordering a fork of the Python process that has loaded the model")
    }

    /// Ends a keeper and its descendants. Returns those that are left.
    pub(super) fn end(&self, keeper: u32) -> Vec<u32> {
        // Otherwise the template is gone, and its guard ends its descendants.
        if tree::parent(keeper) != Some(self.pid) {
            return Vec::new();
        }
        let left = tree::end_with_descendants(keeper);
        let [a, b, c, d] = keeper.to_be_bytes();
        // Without this, the keeper's id is free only when the template ends.
        let _ = self.order([b'R', a, b, c, d], &[]);
        left
    }

    fn order(&self, order: Order, descriptors: &[BorrowedFd<'_>]) -> nix::Result<()> {
        self.process.lock().order(order, descriptors)
    }
}

/// Starts the processes of one classifier's workers.
pub struct Starter {
    pub(super) settings: Settings,
    state: Mutex<State>,
    /// Processes of an earlier classifier with the same settings.
    kept: Mutex<Vec<Kept>>,
}

enum State {
    /// The model has not been loaded, or its template has ended.
    Unknown,
    Template(Arc<Template>),
    /// Each worker loads the model by itself.
    Alone,
}

impl Starter {
    pub fn new(settings: Settings) -> Self {
        let kept = lifeline::take_kept();
        let is_alone = kept.iter().any(|kept| role(kept) != TEMPLATE);
        let state = match settings.start_method == StartMethod::Spawn || is_alone {
            true => State::Alone,
            false => State::Unknown,
        };
        Self { settings, state: Mutex::new(state), kept: Mutex::new(kept) }
    }

    /// Starts the process of this worker, with the model loaded.
    ///
    /// # Errors
    /// As [`Process::start`] and [`Process::fork`].
    pub(super) fn start(&self, worker: usize, printed: &Printed) -> anyhow::Result<Process> {
        let mut state = self.state.lock();
        if matches!(*state, State::Unknown)
            && let Some(process) = self.take_over(TEMPLATE, printed)
        {
            match Template::taken_over(process) {
                Ok(template) => *state = State::Template(Arc::new(template)),
                Err(error) => tracing::warn!("{error:#}; loading the model again"),
            }
        }
        if let State::Template(template) = &*state {
            match Process::fork(template, &self.settings, printed.clone()) {
                Ok(process) => return Ok(process),
                // The caller tries again.
                Err(error) if !template.has_ended() => return Err(error),
                Err(error) => tracing::warn!("{error:#}; loading the model again"),
            }
            *state = State::Unknown;
        }
        if matches!(*state, State::Alone) {
            drop(state);
            return self.start_alone(worker, printed);
        }
        // The others wait, since this process may become their template.
        let (mut process, is_template) =
            Process::start(&self.settings, self.settings.start_method, printed.clone())?;
        if !is_template {
            *state = State::Alone;
            return self.serve(process, worker);
        }
        process.keep(TEMPLATE);
        let template = Arc::new(Template::new(process));
        let process = Process::fork(&template, &self.settings, printed.clone())?;
        *state = State::Template(template);
        Ok(process)
    }

    /// A process that has loaded the model by itself.
    fn start_alone(&self, worker: usize, printed: &Printed) -> anyhow::Result<Process> {
        if let Some(process) = self.take_over(&alone(worker), printed) {
            match self.serve(process, worker) {
                Ok(process) => return Ok(process),
                Err(error) => tracing::warn!("{error:#}; loading the model again"),
            }
        }
        let (process, _) = Process::start(&self.settings, StartMethod::Spawn, printed.clone())?;
        self.serve(process, worker)
    }

    fn serve(&self, mut process: Process, worker: usize) -> anyhow::Result<Process> {
        process.keep(&alone(worker));
        process.serve(&self.settings)?;
        Ok(process)
    }

    /// The process of an earlier classifier that was kept for this role.
    fn take_over(&self, wanted: &str, printed: &Printed) -> Option<Process> {
        let mut kept = self.kept.lock();
        // The latest, if an earlier one could not be forgotten.
        let place = kept.iter().rposition(|kept| role(kept) == wanted)?;
        let kept = kept.swap_remove(place);
        match Process::take_over(kept, &self.settings, printed.clone()) {
            Ok(process) => {
                tracing::info!("the Python process {wanted} still has the model");
                Some(process)
            }
            Err(error) => {
                tracing::warn!("{error:#}");
                None
            }
        }
    }
}

/// The role of a kept process.
fn role(kept: &Kept) -> &str {
    kept.name.split(':').next().unwrap_or_default()
}

/// The role of a process that has loaded the model by itself for a worker.
fn alone(worker: usize) -> String {
    format!("worker-{worker}")
}
