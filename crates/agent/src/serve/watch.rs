//! Watches the files of programs, and reports events.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use parking_lot::Mutex;
use process::exit::End;
use process::ready::Ready;

use super::{Output, send};
use crate::protocol::{Event, Message};
use crate::records::Records;

/// How often to check processes while no file changes: if a program and its supervisor are both killed, no file is written.
const CHECK_PAUSE: Duration = Duration::from_secs(1);
/// How often to check files without inotify; a user has a limited number of inotify instances.
const POLL_PAUSE: Duration = Duration::from_millis(50);

/// A thread that sleeps until a file of a watched program changes, and reports what changed.
pub(super) struct Watch {
    shared: Arc<Shared>,
    /// A byte wakes the thread.
    waker: UnixStream,
}

struct Shared {
    watched: Mutex<BTreeMap<String, Watched>>,
    /// `None` if the user has no inotify instance left.
    changes: Option<Inotify>,
}

struct Watched {
    ready_file: String,
    ready: Option<Ready>,
    /// How many of its deaths have been reported.
    deaths: usize,
}

impl Watch {
    pub(super) fn start(records: Records, folder: PathBuf, output: Output) -> anyhow::Result<Self> {
        let changes = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).ok();
        let shared = Arc::new(Shared { watched: Mutex::default(), changes });
        let (waker, wakes) = UnixStream::pair().context("creating a socket")?;
        for end in [&waker, &wakes] {
            end.set_nonblocking(true).context("creating a socket")?;
        }
        let watching = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("watch".into())
            .spawn(move || {
                loop {
                    let events = collect_events(&mut watching.watched.lock(), &records, &folder);
                    // When the client is gone, the main thread ends this program.
                    if events.iter().any(|event| send(&output, &Message::Event(event.clone())).is_err())
                        || watching.await_change(&wakes).is_err()
                    {
                        return;
                    }
                }
            })
            .context("starting a thread")?;
        Ok(Self { shared, waker })
    }

    /// Reports events of this program until it has ended. Its files are in `folders`.
    pub(super) fn watch(&self, name: String, ready_file: String, folders: &[&Path]) {
        if let Some(changes) = &self.shared.changes {
            let flags = AddWatchFlags::IN_MOVED_TO
                | AddWatchFlags::IN_CLOSE_WRITE
                | AddWatchFlags::IN_DELETE
                | AddWatchFlags::IN_DELETE_SELF;
            for folder in folders {
                // Without a watch, an event is late by `CHECK_PAUSE` at most.
                let _ = changes.add_watch(*folder, flags);
            }
        }
        let watched = Watched { ready_file, ready: None, deaths: 0 };
        self.shared.watched.lock().insert(name, watched);
        // If the socket is full, the bytes in it wake the thread anyway.
        let _ = (&self.waker).write(&[0]);
    }

    pub(super) fn forget(&self, name: &str) {
        self.shared.watched.lock().remove(name);
    }
}

impl Shared {
    /// Waits until there may be an event. An error is final.
    fn await_change(&self, mut wakes: &UnixStream) -> anyhow::Result<()> {
        let pause = match (self.watched.lock().is_empty(), &self.changes) {
            (true, _) => PollTimeout::NONE,
            (false, Some(_)) => PollTimeout::try_from(CHECK_PAUSE)?,
            (false, None) => PollTimeout::try_from(POLL_PAUSE)?,
        };
        let mut sources = vec![PollFd::new(wakes.as_fd(), PollFlags::POLLIN)];
        sources.extend(self.changes.as_ref().map(|changes| PollFd::new(changes.as_fd(), PollFlags::POLLIN)));
        match poll(&mut sources, pause) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("waiting for changes"),
        }
        // Every change makes us read all files, so the details are dropped.
        while self.changes.as_ref().is_some_and(|changes| changes.read_events().is_ok()) {}
        let mut bytes = [0; 64];
        loop {
            match wakes.read(&mut bytes) {
                Ok(0) => anyhow::bail!("the main thread has ended"),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("waiting for changes"),
            }
        }
    }
}

/// What changed since the last call. Programs that have ended are removed.
fn collect_events(all: &mut BTreeMap<String, Watched>, records: &Records, folder: &Path) -> Vec<Event> {
    let mut events = Vec::new();
    all.retain(|name, watched| {
        // A file that cannot be read counts as the program's end, so that the client does not wait for events in vain.
        let broken = |error: anyhow::Error| Some(End::Unknown(format!("{error:#}")));
        let mut end = records.load_end(name).unwrap_or_else(broken);
        match Ready::read(&folder.join(&watched.ready_file)) {
            Ok(Some(ready)) if watched.ready.as_ref() != Some(&ready) => {
                watched.ready = Some(ready.clone());
                events.push(Event::Ready { name: name.clone(), ready });
            }
            Ok(_) => {}
            Err(error) => end = broken(error),
        }
        // If the record cannot be read, the program's end reports that.
        if let Ok(Some(record)) = records.load(name) {
            let new = (1..).zip(&record.deaths).skip(watched.deaths);
            events.extend(new.map(|(count, end)| Event::Died {
                name: name.clone(),
                end: end.clone(),
                count,
            }));
            watched.deaths = record.deaths.len();
        }
        end = end.or_else(|| unrecorded_end(name, records));
        let Some(end) = end else { return true };
        events.push(Event::Ended { name: name.clone(), end });
        false
    });
    events
}

/// The end of a program that its supervisor did not record: both were killed, or another client ended it and removed its records.
fn unrecorded_end(name: &str, records: &Records) -> Option<End> {
    let Some(record) = records.load(name).ok()? else {
        return Some(End::Unknown("its records were removed".into()));
    };
    if record.process.is_alive() || record.supervisor.is_alive() {
        return None;
    }
    // The end may have been recorded just now.
    let recorded = records.load_end(name).ok().flatten();
    Some(recorded.unwrap_or_else(|| End::Unknown("it and its supervisor were killed".into())))
}
