//! The template: a Python process that has loaded the model, and makes the workers' processes by forks of itself. So the model
//! is loaded once, and the forks share its memory until one of them writes to it.
//!
//! A fork has only the thread that forks, and shares open files and connections. So each worker loads a model by itself that has
//! started threads, opened files or connections, or uses a GPU, unless the user insists on forks.

use std::io::IoSlice;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

use anyhow::Context;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use parking_lot::Mutex;

use super::log::Printed;
use super::process::Process;
use super::{Settings, tree};
use crate::model::StartMethod;

/// The length of an order.
const ORDER: usize = 5;

/// A Python process that forks itself on request.
pub(super) struct Template {
    process: Mutex<Process>,
    pid: u32,
}

impl Template {
    fn new(process: Process) -> Self {
        let pid = process.pid();
        Self { process: Mutex::new(process), pid }
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
        let descriptors = descriptors.map(|descriptor| descriptor.as_raw_fd());
        self.order([b'F', 0, 0, 0, 0], &[ControlMessage::ScmRights(&descriptors)])
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

    fn order(&self, order: [u8; ORDER], message: &[ControlMessage<'_>]) -> nix::Result<()> {
        let process = self.process.lock();
        let socket = process.data().as_raw_fd();
        sendmsg::<()>(socket, &[IoSlice::new(&order)], message, MsgFlags::MSG_NOSIGNAL, None).map(drop)
    }
}

/// Starts the processes of one classifier's workers.
pub struct Starter {
    pub(super) settings: Settings,
    state: Mutex<State>,
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
        let state = if settings.start_method == StartMethod::Spawn { State::Alone } else { State::Unknown };
        Self { settings, state: Mutex::new(state) }
    }

    /// Starts a worker's process, with the model loaded.
    ///
    /// # Errors
    /// As [`Process::start`] and [`Process::fork`].
    pub(super) fn start(&self, printed: &Printed) -> anyhow::Result<Process> {
        let mut state = self.state.lock();
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
            return Ok(Process::start(&self.settings, StartMethod::Spawn, printed.clone())?.0);
        }
        // The others wait, since this process may become their template.
        let (process, is_template) =
            Process::start(&self.settings, self.settings.start_method, printed.clone())?;
        if !is_template {
            *state = State::Alone;
            return Ok(process);
        }
        let template = Arc::new(Template::new(process));
        let process = Process::fork(&template, &self.settings, printed.clone())?;
        *state = State::Template(template);
        Ok(process)
    }
}
