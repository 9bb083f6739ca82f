//! What is known of a host's programs.

use std::collections::BTreeMap;
use std::sync::mpsc::Sender;
use std::sync::{Mutex, MutexGuard, PoisonError};

use agent::protocol::Event;
use process::exit::End;
use process::ready::Ready;
use protocol::results::Progress;

/// What is known of all.
#[derive(Default)]
pub(super) struct Known(Mutex<State>);

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
    /// Deaths that nobody has asked about yet.
    deaths: Vec<End>,
    end: Option<End>,
}

impl Known {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A program of this name is about to be started, or watched; what was known of another one is forgotten.
    pub(super) fn expect(&self, name: &str) {
        self.lock().programs.insert(name.to_owned(), Program::default());
    }

    /// There is no program of this name.
    pub(super) fn forget(&self, name: &str) {
        self.lock().programs.remove(name);
    }

    /// Programs that have not ended, as far as is known.
    pub(super) fn names(&self) -> Vec<String> {
        let state = self.lock();
        let running = state.programs.iter().filter(|(_, program)| program.end.is_none());
        running.map(|(name, _)| name.clone()).collect()
    }

    pub(super) fn ready(&self, name: &str) -> Option<Ready> {
        self.lock().programs.get(name)?.ready.clone()
    }

    pub(super) fn end(&self, name: &str) -> Option<End> {
        self.lock().programs.get(name)?.end.clone()
    }

    /// How a program died since this was asked last.
    pub(super) fn deaths(&self, name: &str) -> Vec<End> {
        let mut state = self.lock();
        state.programs.get_mut(name).map(|program| std::mem::take(&mut program.deaths)).unwrap_or_default()
    }

    /// Progress is told to this one from now on.
    pub(super) fn observe(&self, progress: Sender<Progress>) {
        self.lock().progress = Some(progress);
    }

    pub(super) fn note(&self, event: Event) {
        let mut state = self.lock();
        match event {
            Event::Ready { name, ready } => state.programs.entry(name).or_default().ready = Some(ready),
            Event::Died { name, end, count } => {
                let program = state.programs.entry(name).or_default();
                // After a lost link, they are all told again.
                if count > program.died {
                    program.died = count;
                    program.deaths.push(end);
                }
            }
            Event::Ended { name, end } => {
                state.programs.entry(name).or_default().end = Some(end);
            }
            Event::Progress(progress) => {
                // Nobody may want to see it any more.
                let _ = state.progress.as_ref().map(|sender| sender.send(progress));
            }
        }
    }
}
