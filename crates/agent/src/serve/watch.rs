//! Waits for changes of the files of programs that were started, and tells them.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use process::exit::End;
use process::ready::Ready;

use super::{Output, say};
use crate::protocol::{Event, Message};
use crate::records::Records;

/// How often programs are looked at whose files do not change: one and its supervisor may both have been killed, so that nobody
/// notes the end.
const CHECK_PAUSE: Duration = Duration::from_secs(1);
/// How often, where the system does not tell of changes: a user may have only so many inotify instances.
const BLIND_PAUSE: Duration = Duration::from_millis(50);

/// Watches over programs, on a thread of its own, which sleeps until a file changes.
pub(super) struct Watch {
    shared: Arc<Shared>,
    /// A byte in it wakes the thread.
    waker: UnixStream,
}

struct Shared {
    watched: Mutex<BTreeMap<String, Watched>>,
    /// `None` where the system has no more of them.
    changes: Option<Inotify>,
}

struct Watched {
    ready_file: String,
    ready: Option<Ready>,
    /// How many of its deaths are told.
    deaths: usize,
}

impl Watch {
    pub(super) fn start(records: Records, folder: PathBuf, output: Output) -> anyhow::Result<Self> {
        let changes = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).ok();
        let shared = Arc::new(Shared { watched: Mutex::default(), changes });
        let (waker, wakes) = UnixStream::pair().context("making a socket")?;
        for end in [&waker, &wakes] {
            end.set_nonblocking(true).context("making a socket")?;
        }
        let watching = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("watch".into())
            .spawn(move || {
                loop {
                    let events = look(&mut watching.lock(), &records, &folder);
                    // When nobody hears it any more, the other thread sees that, and ends this program.
                    if events.iter().any(|event| say(&output, &Message::Event(event.clone())).is_err())
                        || watching.await_change(&wakes).is_err()
                    {
                        return;
                    }
                }
            })
            .context("starting a thread")?;
        Ok(Self { shared, waker })
    }

    /// Tells of this program from now on, until it has ended; its files are in `folders`.
    pub(super) fn watch(&self, name: String, ready_file: String, folders: &[&Path]) {
        if let Some(changes) = &self.shared.changes {
            let flags = AddWatchFlags::IN_MOVED_TO
                | AddWatchFlags::IN_CLOSE_WRITE
                | AddWatchFlags::IN_DELETE
                | AddWatchFlags::IN_DELETE_SELF;
            for folder in folders {
                // A folder that cannot be watched is looked at once a second all the same.
                let _ = changes.add_watch(*folder, flags);
            }
        }
        let watched = Watched { ready_file, ready: None, deaths: 0 };
        self.shared.lock().insert(name, watched);
        // If there is no room for it, there are enough of them to wake the thread.
        let _ = (&self.waker).write(&[0]);
    }

    /// Tells of a program of this name no more.
    pub(super) fn forget(&self, name: &str) {
        self.shared.lock().remove(name);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Watched>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there may be something new. An error means that nothing can be waited for.
    fn await_change(&self, mut wakes: &UnixStream) -> anyhow::Result<()> {
        let pause = match (self.lock().is_empty(), &self.changes) {
            (true, _) => PollTimeout::NONE,
            (false, Some(_)) => PollTimeout::try_from(CHECK_PAUSE)?,
            (false, None) => PollTimeout::try_from(BLIND_PAUSE)?,
        };
        let mut sources = vec![PollFd::new(wakes.as_fd(), PollFlags::POLLIN)];
        sources.extend(self.changes.as_ref().map(|changes| PollFd::new(changes.as_fd(), PollFlags::POLLIN)));
        match poll(&mut sources, pause) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("waiting for changes"),
        }
        // What has changed is looked at anew anyway; here it is only taken note of.
        while self.changes.as_ref().is_some_and(|changes| changes.read_events().is_ok()) {}
        let mut bytes = [0; 64];
        loop {
            match wakes.read(&mut bytes) {
                Ok(0) => anyhow::bail!("the other thread is gone"),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("waiting for changes"),
            }
        }
    }
}

fn look(all: &mut BTreeMap<String, Watched>, records: &Records, folder: &Path) -> Vec<Event> {
    let mut events = Vec::new();
    all.retain(|name, watched| {
        // A file that cannot be read is told of as an end: the commander should not wait for what cannot come.
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
        // What cannot be read is told when its end is.
        if let Ok(Some(record)) = records.load(name) {
            let new = (1..).zip(&record.deaths).skip(watched.deaths);
            events.extend(new.map(|(count, end)| Event::Died {
                name: name.clone(),
                end: end.clone(),
                count,
            }));
            watched.deaths = record.deaths.len();
        }
        end = end.or_else(|| unnoticed_end(name, records));
        let Some(end) = end else { return true };
        events.push(Event::Ended { name: name.clone(), end });
        false
    });
    events
}

/// The end of a program whose supervisor was killed and could not note it, or whose records somebody has removed, who has ended it.
fn unnoticed_end(name: &str, records: &Records) -> Option<End> {
    let Some(record) = records.load(name).ok()? else {
        return Some(End::Unknown("what was known of it was removed".into()));
    };
    if record.process.is_alive() || record.supervisor.is_alive() {
        return None;
    }
    // It may have been noted just now.
    let noted = records.load_end(name).ok().flatten();
    Some(noted.unwrap_or_else(|| End::Unknown("it and its supervisor were killed".into())))
}
