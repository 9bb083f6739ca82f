//! The agent's reports about a host's programs.

use std::collections::BTreeMap;
use std::sync::mpsc::Sender;

use agent::protocol::Event;
use parking_lot::Mutex;
use process::exit::End;
use process::ready::Ready;
use protocol::results::Progress;

#[derive(Default)]
pub(super) struct Programs(Mutex<State>);

#[derive(Default)]
struct State {
    programs: BTreeMap<String, Program>,
    progress: Option<Sender<Progress>>,
}

#[derive(Default)]
struct Program {
    ready: Option<Ready>,
    /// How often it has died.
    died: usize,
    /// Deaths that are not yet taken.
    deaths: Vec<End>,
    end: Option<End>,
}

impl Programs {
    /// A program of this name is about to be started or watched. Discards what an earlier one reported.
    pub(super) fn track(&self, name: &str) {
        self.0.lock().programs.insert(name.to_owned(), Program::default());
    }

    pub(super) fn forget(&self, name: &str) {
        self.0.lock().programs.remove(name);
    }

    /// The programs whose end was not yet reported.
    pub(super) fn running(&self) -> Vec<String> {
        let state = self.0.lock();
        let running = state.programs.iter().filter(|(_, program)| program.end.is_none());
        running.map(|(name, _)| name.clone()).collect()
    }

    pub(super) fn ready(&self, name: &str) -> Option<Ready> {
        self.0.lock().programs.get(name)?.ready.clone()
    }

    pub(super) fn end(&self, name: &str) -> Option<End> {
        self.0.lock().programs.get(name)?.end.clone()
    }

    /// A program's deaths since the last call.
    pub(super) fn take_deaths(&self, name: &str) -> Vec<End> {
        let mut state = self.0.lock();
        state.programs.get_mut(name).map(|program| std::mem::take(&mut program.deaths)).unwrap_or_default()
    }

    /// Sends progress there from now on.
    pub(super) fn observe(&self, progress: Sender<Progress>) {
        self.0.lock().progress = Some(progress);
    }

    pub(super) fn on_event(&self, event: Event) {
        let mut state = self.0.lock();
        match event {
            Event::Ready { name, ready } => state.programs.entry(name).or_default().ready = Some(ready),
            Event::Died { name, end, count } => {
                let program = state.programs.entry(name).or_default();
                // A restored link reports all deaths again.
                if count > program.died {
                    program.died = count;
                    program.deaths.push(end);
                }
            }
            Event::Ended { name, end } => {
                state.programs.entry(name).or_default().end = Some(end);
            }
            Event::Progress(progress) => {
                // The receiving end may be closed.
                let _ = state.progress.as_ref().map(|sender| sender.send(progress));
            }
        }
    }
}
