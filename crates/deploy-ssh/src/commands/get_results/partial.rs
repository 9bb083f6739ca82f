//! `get-results --partial`: the complete batches of a job that is not done.
//!
//! The receiver's checkpoint counts the bytes of complete, durable batches. Only these bytes are read, which are a prefix of the
//! whole results. The host only sends them, and this machine packs them: the host may be slow, or about to end.

use std::borrow::Cow;
use std::fs::File;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use agent::protocol::{Reply, Request, Status};
use anyhow::{Context, anyhow, ensure};
use deploy::console::{self, Transfer};
use deploy::interrupt::{self, Interrupted};
use deploy::request::Partial;
use deploy::{exit, project, step};
use protocol::checkpoint::{Position, slots};
use protocol::result_files::{PARTIAL_ARCHIVE, RESULTS, ResultFiles, results_name};
use protocol::schema::{Kept, Schema};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::pack::{Entry, Packer};
use crate::agents::{OUTPUT, SHORT, stop_job};
use crate::commands::run_cluster::{recall, receiver_runs_for};
use crate::ssh::Ssh;

/// Files in the archive, beside the results.
const REJECTS: &str = "results.rejects.csv";
const SUMMARY: &str = "results.partial.json";
/// How long the receiver may take to make its last batches durable.
const STOP_GRACE: Duration = Duration::from_secs(20);
/// How many connections in a row may bring no bytes before this gives up, and the pause between two of them.
const TRIES: u32 = 3;
const TRY_PAUSE: Duration = Duration::from_secs(2);
/// How many of the receiver's last lines are searched for its last message.
const LAST_LINES: usize = 50;

/// The contents of `results.partial.json`.
#[derive(Debug, Serialize)]
struct PartialSummary<'a> {
    /// Rows of the complete batches, rejects included; the number of the next row, counted from 0.
    rows: u64,
    /// Rows of the whole job, where that is known.
    rows_in_all: Option<u64>,
    rejects: u64,
    /// Names of the results' columns; empty if they are not known.
    columns: Vec<String>,
    batches: u64,
    /// Bytes of results in the archive, and in the complete batches. If the time limit cut the archive, it has fewer bytes,
    /// which end with a whole line and are fewer rows than `rows`.
    bytes: u64,
    complete_bytes: u64,
    reject_bytes: u64,
    complete_reject_bytes: u64,
    /// Of the results in the archive.
    sha256: String,
    /// When the first batch came, in UTC as RFC 3339.
    started: Option<String>,
    fetched: String,
    /// Why the job is not done.
    why: Option<&'a str>,
    /// The receiver's last message.
    receiver: Option<String>,
}

/// Fetches the complete batches. `connect` reaches the metrics host again when the connection breaks.
pub(super) fn fetch(
    args: &Partial,
    output: &Path,
    host: Ssh,
    status: &Status,
    connect: &dyn Fn() -> anyhow::Result<Ssh>,
) -> anyhow::Result<ExitCode> {
    let deadline = args.within.map(|time| Instant::now() + time);
    if args.end_job
        && let Err(error) = stop_job(&host, STOP_GRACE)
    {
        console::note(&format!("the job's programs could not be ended: {error:#}"));
    }
    interrupt::check()?;
    let job = Job::fetch(args, &host, status)?;
    project::make_folder(output)?;
    let part = output.join(format!("{PARTIAL_ARCHIVE}.part"));
    let writing = format!("writing {} on this machine", part.display());
    let file = open_locked(&part)?;
    // The lock is held until the archive has its name.
    let mut packer = file.try_clone().and_then(Packer::new).with_context(|| writing.clone())?;
    let reader = Reader { host: Some(host), connect, deadline, writing: writing.clone() };
    let copied = match pack(&mut packer, reader, &job) {
        Ok(copied) => copied,
        Err(error) => {
            std::fs::remove_file(&part).with_context(|| format!("removing {}", part.display()))?;
            return Err(error.context("the complete batches could not be fetched"));
        }
    };
    let summary = job.summary(copied, args.because.as_deref());
    let json = serde_json::to_vec_pretty(&summary).context("encoding the summary")?;
    let size = finish(packer, &json).with_context(|| writing)?;
    let target = output.join(PARTIAL_ARCHIVE);
    std::fs::rename(&part, &target).with_context(|| format!("renaming {}", part.display()))?;
    show(&summary, &target, size);
    Ok(ExitCode::SUCCESS)
}

fn open_locked(part: &Path) -> anyhow::Result<File> {
    let file = File::options().read(true).write(true).create(true).truncate(false).open(part);
    let file = file.with_context(|| format!("writing {} on this machine", part.display()))?;
    if file.try_lock().is_err() {
        return Err(exit::busy(anyhow!(
            "another get-results is writing {}; wait for its end",
            part.display()
        )));
    }
    Ok(file)
}

/// Adds the summary, and ends the archive; returns its size in bytes.
fn finish(mut packer: Packer, summary: &[u8]) -> anyhow::Result<u64> {
    let mut entry = packer.begin(SUMMARY)?;
    entry.write(summary)?;
    entry.end()?;
    Ok(packer.finish()?)
}

/// A job that is not done, as its metrics host has it.
struct Job {
    files: ResultFiles,
    position: Position,
    schema: Option<Schema>,
    /// Rows of the whole job; `None` where that is not known.
    rows_in_all: Option<u64>,
    /// The receiver's last message.
    receiver: Option<String>,
}

impl Job {
    fn fetch(args: &Partial, host: &Ssh, status: &Status) -> anyhow::Result<Self> {
        let files = ResultFiles::beside(&Path::new(OUTPUT).join(RESULTS))?;
        let Some(position) = position(host, &files)? else {
            let advice = if step::hosts_go() { "" } else { "; start one with: cargo xtask run-cluster" };
            let name = &host.entry().name;
            return Err(exit::refused(anyhow!("{name} has nothing of a job: no batch is complete{advice}")));
        };
        let files = ResultFiles::beside(&Path::new(OUTPUT).join(results_name(position.typed)))?;
        // The rest only explains the results, so a failure to read it must not cost the results.
        let schema = host.read(&files.schema).ok().flatten();
        let schema = schema.and_then(|json| serde_json::from_slice::<Kept>(&json).ok());
        let schema = schema.map(|kept| kept.schema);
        let rows_in_all = recall(host).ok().flatten().and_then(|job| job.input.rows());
        let receiver = match receiver_runs_for(status) {
            Some(_) if !args.end_job => Some("running".to_owned()),
            _ => last_message(host),
        };
        Ok(Self { files, position, schema, rows_in_all, receiver })
    }

    fn summary<'a>(&self, copied: Copied, why: Option<&'a str>) -> PartialSummary<'a> {
        let Self { position, schema, .. } = self;
        let started = UNIX_EPOCH + Duration::from_millis(position.started);
        PartialSummary {
            rows: position.next_row,
            rows_in_all: self.rows_in_all,
            rejects: position.rejects,
            columns: schema.iter().flat_map(Schema::names).map(str::to_owned).collect(),
            batches: position.next,
            bytes: copied.results.length,
            complete_bytes: position.result_bytes,
            reject_bytes: copied.rejects.length,
            complete_reject_bytes: position.reject_bytes,
            sha256: protocol::hash::finish(copied.results.hash),
            started: (position.started > 0).then(|| rfc3339(started)),
            fetched: rfc3339(SystemTime::now()),
            why,
            receiver: self.receiver.clone(),
        }
    }
}

/// What was copied of each file.
struct Copied {
    rejects: Prefix,
    results: Prefix,
}

/// Packs rejects and results; the rejects are first, since they are short.
fn pack(packer: &mut Packer, mut reader: Reader<'_>, job: &Job) -> anyhow::Result<Copied> {
    let Job { files, position, .. } = job;
    let bar = Transfer::new("fetching", position.reject_bytes + position.result_bytes);
    let writing = reader.writing.clone();
    let mut pack = |name, from: &Path, length, hash| {
        let mut entry = packer.begin(name).with_context(|| writing.clone())?;
        let read = reader.copy(from, length, &mut entry, &bar)?;
        entry.end().with_context(|| writing.clone())?;
        ensure!(
            read.length < length || protocol::hash::shorten(read.hash.clone()) == hash,
            "{} differs from its checkpoint: its disk lost data, or somebody changed it; start the job anew",
            from.display()
        );
        Ok(read)
    };
    let rejects = pack(REJECTS, &files.rejects, position.reject_bytes, position.rejects_sha256);
    let packed = rejects.and_then(|rejects| {
        let name = results_name(position.typed);
        let results = pack(name, &files.results, position.result_bytes, position.results_sha256)?;
        Ok(Copied { rejects, results })
    });
    bar.clear();
    packed
}

fn show(summary: &PartialSummary<'_>, target: &Path, size: u64) {
    let all = summary.rows_in_all.map(|all| format!(" of {}", console::count(all))).unwrap_or_default();
    console::data(&format!("partial    {} ({})", target.display(), console::bytes(size)));
    console::data(&format!(
        "rows       {}{all}, of these {} rejected, in {} complete batches",
        console::count(summary.rows),
        console::count(summary.rejects),
        console::count(summary.batches)
    ));
    if summary.bytes < summary.complete_bytes {
        console::data(&format!(
            "cut        {} of {}: the rest of these rows did not arrive",
            console::bytes(summary.bytes),
            console::bytes(summary.complete_bytes)
        ));
    }
    console::data(&format!("sha256     {} (of the results in it)", summary.sha256));
}

fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

/// The receiver's position in its checkpoint. The receiver may continue meanwhile.
fn position(host: &Ssh, files: &ResultFiles) -> anyhow::Result<Option<Position>> {
    let Some(checkpoint) = host.read(&files.checkpoint)? else { return Ok(None) };
    Ok(slots(&checkpoint).into_iter().next().map(|slot| slot.position))
}

/// The receiver's message about its end.
fn last_message(host: &Ssh) -> Option<String> {
    let tail = Request::Tail { name: "receiver".into(), lines: LAST_LINES };
    let Ok(Reply::Lines(lines)) = host.request(&tail, SHORT) else { return None };
    let messages = lines.iter().rev().map(|line| process::log::message(line));
    let mut ends = messages.filter(|message| {
        ["stopped; ", "the job failed: ", "done: "].iter().any(|end| message.starts_with(end))
    });
    ends.next().map(Cow::into_owned)
}

/// Reads from a host until the deadline.
struct Reader<'a> {
    /// `None` when the connection is broken.
    host: Option<Ssh>,
    connect: &'a dyn Fn() -> anyhow::Result<Ssh>,
    deadline: Option<Instant>,
    /// Context for errors of writing on this machine.
    writing: String,
}

/// The part of a file that was copied: its beginning, up to the end of a line.
struct Prefix {
    length: u64,
    hash: Sha256,
}

#[derive(Debug, thiserror::Error)]
#[error("the time limit is reached")]
struct TimeLimit;

impl Reader<'_> {
    /// Copies the first `length` bytes of a file, or whole lines of them until the deadline.
    fn copy(
        &mut self,
        from: &Path,
        length: u64,
        entry: &mut Entry<'_>,
        bar: &Transfer,
    ) -> anyhow::Result<Prefix> {
        let mut read = Prefix { length: 0, hash: Sha256::new() };
        // The beginning of a line whose end has not arrived.
        let mut rest = Vec::new();
        let mut failures = 0;
        loop {
            let before = read.length + rest.len() as u64;
            let mut broken = Ok(());
            let outcome = self.read_from(from, before, length, &mut |piece| {
                let kept = keep(piece, &mut rest, &mut read, entry);
                let is_broken = kept.is_err();
                broken = kept;
                bar.add(piece.len() as u64);
                if is_broken { Err(TimeLimit.into()) } else { Ok(()) }
            });
            broken.with_context(|| self.writing.clone())?;
            let Err(error) = outcome else { break };
            if exit::is::<TimeLimit>(&error) || exit::is::<Interrupted>(&error) {
                return Ok(read);
            }
            failures = if read.length + rest.len() as u64 > before { 0 } else { failures + 1 };
            if failures >= TRIES {
                if read.length == 0 {
                    return Err(error);
                }
                // A shorter prefix is better than nothing.
                console::note(&format!("{error:#}; what was fetched so far is kept"));
                return Ok(read);
            }
            console::note(&format!("{error:#}; trying again"));
            std::thread::sleep(TRY_PAUSE);
        }
        // Complete batches end with a line end. If they do not, the rest is kept nevertheless.
        keep_lines(rest.len(), &mut rest, &mut read, entry).with_context(|| self.writing.clone())?;
        Ok(read)
    }

    fn read_from(
        &mut self,
        from: &Path,
        begin: u64,
        length: u64,
        take: &mut dyn FnMut(&[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        self.check()?;
        let host = match self.host.take() {
            Some(host) => host,
            None => (self.connect)()?,
        };
        host.read_pieces(from, begin, length, |piece| {
            take(piece)?;
            self.check()
        })?;
        self.host = Some(host);
        Ok(())
    }

    fn check(&self) -> anyhow::Result<()> {
        interrupt::check()?;
        ensure!(self.deadline.is_none_or(|deadline| Instant::now() < deadline), TimeLimit);
        Ok(())
    }
}

/// Writes what has arrived, up to the end of its last line.
fn keep(piece: &[u8], rest: &mut Vec<u8>, read: &mut Prefix, entry: &mut Entry<'_>) -> std::io::Result<()> {
    rest.extend_from_slice(piece);
    let whole = rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    keep_lines(whole, rest, read, entry)
}

fn keep_lines(
    length: usize,
    rest: &mut Vec<u8>,
    read: &mut Prefix,
    entry: &mut Entry<'_>,
) -> std::io::Result<()> {
    entry.write(&rest[..length])?;
    read.hash.update(&rest[..length]);
    read.length += length as u64;
    rest.drain(..length);
    Ok(())
}
