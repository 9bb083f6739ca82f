//! Uploads files to S3 with signed requests: in parts while the file grows, and completed when the job is done.
//!
//! What has been uploaded is noted beside the file. Equal results have equal bytes, so another process uploads only what was not
//! noted, or was written differently before.

mod notes;
mod requests;

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::{Context, anyhow};
use files::remove_if_there;
use parking_lot::{Condvar, Mutex};
use protocol::conversion::{self, Piece};
use protocol::hash;
use protocol::signed::{Signed, Upload, part_length};

use notes::Notes;
use requests::{Requests, Sent, has_code};

/// How many parts are uploaded at the same time.
const AT_ONCE: usize = 4;

/// An object to write.
#[derive(Debug, Clone)]
pub struct Target {
    /// As `s3://bucket/key`.
    pub address: String,
    /// The file with signed requests. It is read for each request, since it is replaced before its signatures end.
    pub signed: PathBuf,
    /// The file that says which parts are uploaded.
    pub notes: PathBuf,
}

impl Target {
    /// Its signed requests.
    fn upload(&self) -> anyhow::Result<(Upload, Signed)> {
        let mut signed = Signed::read(&self.signed)?;
        let place = signed.uploads.iter().position(|upload| upload.open.address == self.address);
        let place = place.with_context(|| {
            format!("{} has no requests for {}; start the job again", self.signed.display(), self.address)
        })?;
        Ok((signed.uploads.swap_remove(place), signed))
    }
}

/// Uploads a file whose parent says, in pieces without bytes, how much of it is final.
///
/// # Errors
/// As [`Uploader::finish`]; or the pieces end before they say so.
pub fn follow(path: &Path, target: Target, mut pieces: impl Read) -> anyhow::Result<()> {
    let uploader = Uploader::start(path, target)?;
    let mut length = 0;
    loop {
        match conversion::read(&mut pieces).context("reading the file's length")? {
            Piece::Bytes { consumed, .. } => length = consumed,
            Piece::Done => return uploader.finish(length),
            piece => return Err(anyhow!("{piece:?} is no length of a file")),
        }
        uploader.reach(length)?;
    }
}

/// Completes an object whose parts are uploaded. Once that is noted, does nothing.
///
/// # Errors
/// Its parts are not all noted, or S3 does not complete it.
pub fn complete(target: &Target) -> anyhow::Result<()> {
    let completing = || format!("completing {}", target.address);
    let requests = Requests::new(target.clone());
    let (upload, _) = target.upload().with_context(completing)?;
    let mut notes = Notes::open(&target.notes, &upload.open.id)?;
    if notes.is_completed() {
        return Ok(());
    }
    let tags = notes.tags().with_context(|| {
        format!("completing {}: {} does not have all its parts", target.address, target.notes.display())
    })?;
    if let Err(error) = requests.complete(&tags) {
        if has_code(&error, "InvalidPart") {
            // Another process may have sent a part after it was noted.
            remove_if_there(&target.notes)?;
            return Err(error.context("the same command, or run-cluster --resume, uploads it again"))
                .with_context(completing);
        }
        return Err(error).with_context(completing);
    }
    notes.note_completed()
}

/// Uploads a file while it grows. If it is dropped before [`finish`](Self::finish), it stops after the parts it is at.
pub(crate) struct Uploader {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    file: File,
    requests: Requests,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// The bytes of the file that are final.
    length: u64,
    /// No more will follow.
    is_whole: bool,
    /// Nothing of it is wanted any more.
    is_dropped: bool,
    /// The next part, and its first byte.
    next: u16,
    begin: u64,
    failed: Option<anyhow::Error>,
    notes: Notes,
}

/// A part of the file.
struct Part {
    number: u16,
    begin: u64,
    end: u64,
}

impl Uploader {
    /// Begins with the first part of the file at `path`.
    ///
    /// # Errors
    /// The file, the signed requests or the notes cannot be read.
    pub(crate) fn start(path: &Path, target: Target) -> anyhow::Result<Self> {
        let file = File::open(path).with_context(|| format!("reading {}", path.display()))?;
        let (upload, _) = target.upload()?;
        let notes = Notes::open(&target.notes, &upload.open.id)?;
        let state =
            State { length: 0, is_whole: false, is_dropped: false, next: 1, begin: 0, failed: None, notes };
        let requests = Requests::new(target);
        let shared = Arc::new(Shared { file, requests, state: Mutex::new(state), changed: Condvar::new() });
        let threads = (0..AT_ONCE).map(|_| {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new().name("upload".into()).spawn(move || shared.run())
        });
        let threads = threads.collect::<io::Result<_>>().context("starting a thread")?;
        Ok(Self { shared, threads })
    }

    /// Says that so many bytes of the file are final.
    ///
    /// # Errors
    /// A part could not be uploaded.
    pub(crate) fn reach(&self, length: u64) -> anyhow::Result<()> {
        let mut state = self.shared.state.lock();
        state.length = length;
        self.shared.changed.notify_all();
        state.failed.take().map_or(Ok(()), Err)
    }

    /// Uploads the rest of the file, which has this length.
    ///
    /// # Errors
    /// A part could not be uploaded, or not be noted.
    pub(crate) fn finish(mut self, length: u64) -> anyhow::Result<()> {
        self.shared.state.lock().is_whole = true;
        self.reach(length)?;
        for thread in self.threads.drain(..) {
            thread.join().map_err(|_| anyhow!("a thread that uploads has panicked"))?;
        }
        let mut state = self.shared.state.lock();
        if let Some(error) = state.failed.take() {
            return Err(error);
        }
        let parts = state.next - 1;
        state.notes.note_whole(parts)
    }
}

impl Drop for Uploader {
    fn drop(&mut self) {
        self.shared.state.lock().is_dropped = true;
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn run(&self) {
        while let Some(part) = self.next() {
            if let Err(error) = self.upload(&part) {
                let mut state = self.state.lock();
                state.failed.get_or_insert(error);
                state.is_dropped = true;
                self.changed.notify_all();
                return;
            }
        }
    }

    /// Waits for the next part to upload; `None` if there is none.
    fn next(&self) -> Option<Part> {
        let mut state = self.state.lock();
        while !state.is_dropped {
            let there = state.length - state.begin;
            let whole = part_length(state.next);
            // An empty file has one part.
            let is_last = state.is_whole && there < whole && (there > 0 || state.next == 1);
            if there >= whole || is_last {
                let part =
                    Part { number: state.next, begin: state.begin, end: state.begin + there.min(whole) };
                state.next += 1;
                state.begin = part.end;
                return Some(part);
            }
            if state.is_whole {
                return None;
            }
            self.changed.wait(&mut state);
        }
        None
    }

    fn upload(&self, part: &Part) -> anyhow::Result<()> {
        let section = || Section { file: &self.file, at: part.begin, end: part.end };
        let (hash, _) = hash::of_all(section()).context("reading what is to be uploaded")?;
        let hash = hash::finish(hash);
        if self.state.lock().notes.has(part.number, &hash) {
            return Ok(());
        }
        let length = part.end - part.begin;
        let sent = self.requests.put(part.number, length, section);
        match sent
            .with_context(|| format!("uploading part {} of {}", part.number, self.requests.address()))?
        {
            Sent::Part { tag } => self.state.lock().notes.note_part(part.number, hash, tag),
            // An earlier process completed it, and was killed before it noted that.
            Sent::Completed => self.state.lock().notes.note_completed(),
        }
    }
}

/// Bytes of a file.
struct Section<'a> {
    file: &'a File,
    at: u64,
    end: u64,
}

impl Read for Section<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let most = out.len().min(usize::try_from(self.end - self.at).unwrap_or(usize::MAX));
        let read = self.file.read_at(&mut out[..most], self.at)?;
        if read == 0 && most > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file is shorter than it was"));
        }
        self.at += read as u64;
        Ok(read)
    }
}
