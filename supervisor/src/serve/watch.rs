//! Looks at the files of programs that were started, and tells what changes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use wire::program::Ready;

use super::{Output, say};
use crate::protocol::{End, Event, Message};
use crate::records::Records;

/// How often files are looked at.
const PAUSE: Duration = Duration::from_millis(5);
/// How often records are looked at: a program may have been started again, or it and its keeper have both been killed, so that
/// nobody notes the end.
const CHECK_PAUSE: Duration = Duration::from_millis(500);

/// Watches over programs, on a thread of its own.
pub(super) struct Watch(Arc<Mutex<BTreeMap<String, Watched>>>);

struct Watched {
    ready_file: String,
    ready: Option<Ready>,
    /// How many of its deaths are told.
    deaths: usize,
    checked: Instant,
}

impl Watch {
    pub(super) fn start(records: Records, folder: PathBuf, output: Output) -> anyhow::Result<Self> {
        let watched = Arc::new(Mutex::new(BTreeMap::new()));
        let shared = Arc::clone(&watched);
        std::thread::Builder::new()
            .name("watch".into())
            .spawn(move || {
                loop {
                    let events = look(&mut lock(&shared), &records, &folder);
                    // When nobody hears it any more, the other thread sees that, and ends this program.
                    if events.iter().any(|event| say(&output, &Message::Event(event.clone())).is_err()) {
                        return;
                    }
                    std::thread::sleep(PAUSE);
                }
            })
            .context("starting a thread")?;
        Ok(Self(watched))
    }

    /// Tells of this program from now on, until it has ended.
    pub(super) fn watch(&self, name: String, ready_file: String) {
        let watched = Watched { ready_file, ready: None, deaths: 0, checked: Instant::now() };
        lock(&self.0).insert(name, watched);
    }

    /// Tells of a program of this name no more.
    pub(super) fn forget(&self, name: &str) {
        lock(&self.0).remove(name);
    }
}

fn lock(watched: &Mutex<BTreeMap<String, Watched>>) -> MutexGuard<'_, BTreeMap<String, Watched>> {
    watched.lock().unwrap_or_else(PoisonError::into_inner)
}

fn look(all: &mut BTreeMap<String, Watched>, records: &Records, folder: &std::path::Path) -> Vec<Event> {
    let mut events = Vec::new();
    all.retain(|name, watched| {
        // A file that cannot be read is told of as an end: the commander should not wait for what cannot come.
        let broken = |error: anyhow::Error| Some(End { success: false, status: format!("{error:#}") });
        let mut end = records.load_end(name).unwrap_or_else(broken);
        match Ready::read(&folder.join(&watched.ready_file)) {
            Ok(Some(ready)) if watched.ready.as_ref() != Some(&ready) => {
                watched.ready = Some(ready.clone());
                events.push(Event::Ready { name: name.clone(), ready });
            }
            Ok(_) => {}
            Err(error) => end = broken(error),
        }
        if watched.checked.elapsed() >= CHECK_PAUSE || end.is_some() {
            watched.checked = Instant::now();
            // What cannot be read is told when its end is.
            if let Ok(Some(record)) = records.load(name) {
                let new = (1..).zip(&record.deaths).skip(watched.deaths);
                events.extend(new.map(|(count, status)| Event::Died {
                    name: name.clone(),
                    status: status.clone(),
                    count,
                }));
                watched.deaths = record.deaths.len();
            }
            end = end.or_else(|| unnoticed_end(name, records));
        }
        let Some(end) = end else { return true };
        events.push(Event::Ended { name: name.clone(), end });
        false
    });
    events
}

/// The end of a program whose keeper was killed and could not note it, or whose records somebody has removed, who has ended it.
fn unnoticed_end(name: &str, records: &Records) -> Option<End> {
    let Some(record) = records.load(name).ok()? else {
        return Some(End { success: false, status: "what was known of it was removed".into() });
    };
    if record.process.is_alive() || record.keeper.is_alive() {
        return None;
    }
    // It may have been noted just now.
    let noted = records.load_end(name).ok().flatten();
    Some(noted.unwrap_or(End { success: false, status: "it and its keeper were killed".into() }))
}
