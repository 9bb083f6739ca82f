//! Opens a job's files: creates them, or reopens an earlier receiver's files if they match the checkpoint.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, anyhow, bail, ensure};
use files::{read_if_there, remove_if_there, sync_folder};
use protocol::result_files::{REJECTS_HEADER, ResultFiles};
use protocol::results::Summary;
use protocol::schema::{Kept, Schema};
use sha2::{Digest, Sha256};

use super::{Before, Finished, Hashes, NewSchema, Opened, Store, Syncer};
use crate::checkpoint::{self, Checkpoint, Position, Saved, Slot};

/// Opens and locks a job's files. Creates them, or cuts those of an interrupted job to its checkpoint.
///
/// # Errors
/// When files cannot be written, are locked by another receiver, belong to another job, or do not match the checkpoint.
/// Nothing is changed then.
pub fn open(paths: &ResultFiles) -> anyhow::Result<Opened> {
    if paths.summary.exists() && !paths.checkpoint.exists() {
        return Err(is_finished(paths));
    }
    let (checkpoint, saved) = Checkpoint::lock(&paths.checkpoint)?;
    let summary = read_if_there(&paths.summary)?;
    remove_if_there(&paths.failure)?;
    match (saved, summary) {
        (Saved::Slots(slots), None) => reopen(paths, checkpoint, &slots),
        (Saved::Slots(slots), Some(json)) => reopen_finished(paths, checkpoint, &slots, &json),
        (Saved::Nothing, None) => create(paths, checkpoint, "no checkpoint to resume from"),
        // A loss of power may leave the very first checkpoint damaged.
        (Saved::Damaged, None) => {
            create(paths, checkpoint, "a damaged checkpoint, neither of whose slots is intact")
        }
        (Saved::Nothing | Saved::Damaged, Some(_)) => Err(is_finished(paths)),
    }
}

fn is_finished(paths: &ResultFiles) -> anyhow::Error {
    anyhow!(
        "{} says that this job is finished; choose another --output, or remove it and {}",
        paths.summary.display(),
        paths.results.display()
    )
}

/// Creates a new job's files. `instead` says in errors what there is in place of a usable checkpoint.
fn create(paths: &ResultFiles, mut checkpoint: Checkpoint, instead: &str) -> anyhow::Result<Opened> {
    // A receiver that died before its first checkpoint leaves empty results, and at most the header of the rejects.
    let new = |path: &Path, most: usize| -> anyhow::Result<File> {
        let context = || format!("creating {}", path.display());
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .with_context(context)?;
        let length = file.metadata().with_context(context)?.len();
        ensure!(
            length <= most as u64,
            "{} exists already, with {length} bytes and {instead}; remove it, or choose another --output",
            path.display()
        );
        Ok(file)
    };
    let results = new(&paths.results, 0)?;
    let mut rejects = new(&paths.rejects, REJECTS_HEADER.len())?;
    let context = || format!("writing {}", paths.rejects.display());
    rejects.set_len(0).with_context(context)?;
    rejects.write_all(REJECTS_HEADER).with_context(context)?;
    let hashes = Hashes { results: Sha256::new(), rejects: Sha256::new_with_prefix(REJECTS_HEADER) };
    let position = Position {
        results_sha256: protocol::hash::shorten(hashes.results.clone()),
        reject_bytes: REJECTS_HEADER.len() as u64,
        rejects_sha256: protocol::hash::shorten(hashes.rejects.clone()),
        ..Position::default()
    };
    for (file, path) in [(&results, &paths.results), (&rejects, &paths.rejects)] {
        file.sync_all().with_context(|| format!("syncing {}", path.display()))?;
    }
    checkpoint.begin(&paths.results, &position)?;
    pair(paths, Counted { results, rejects, hashes }, checkpoint, position, Before::default())
}

fn reopen(paths: &ResultFiles, mut checkpoint: Checkpoint, slots: &[Slot]) -> anyhow::Result<Opened> {
    let (slot, mut counted) = newest_matching(paths, slots)?;
    let position = slot.position;
    let before = before(paths, &position)?;
    for (file, length, path) in [
        (&mut counted.results, position.result_bytes, &paths.results),
        (&mut counted.rejects, position.reject_bytes, &paths.rejects),
    ] {
        let context = || format!("resuming with {}", path.display());
        file.set_len(length).with_context(context)?;
        file.seek(SeekFrom::Start(length)).with_context(context)?;
    }
    resume(paths, &mut checkpoint, slots, slot)?;
    pair(paths, counted, checkpoint, position, before)
}

fn reopen_finished(
    paths: &ResultFiles,
    mut checkpoint: Checkpoint,
    slots: &[Slot],
    json: &[u8],
) -> anyhow::Result<Opened> {
    let summary: Summary = serde_json::from_slice(json)
        .with_context(|| format!("decoding the summary {}", paths.summary.display()))?;
    let (slot, counted) = newest_matching(paths, slots)?;
    let position = slot.position;
    ensure!(
        (position.next, position.next_row, position.rejects, position.result_bytes)
            == (summary.batches, summary.rows, summary.rejects, summary.bytes)
            && protocol::hash::finish(counted.hashes.results) == summary.sha256,
        "{} says that this job is finished, but {} does not match it; {}",
        paths.summary.display(),
        paths.results.display(),
        to_start_anew(paths)
    );
    resume(paths, &mut checkpoint, slots, slot)?;
    // A receiver that was killed may have renamed the summary without syncing the folder.
    sync_folder(&paths.summary).context("syncing the folder of the results")?;
    Ok(Opened::Finished(summary, Finished { paths: paths.clone(), checkpoint, position, told: slot.told }))
}

/// Resumes the checkpoint from `slot`, in the life after the latest of all slots.
fn resume(
    paths: &ResultFiles,
    checkpoint: &mut Checkpoint,
    slots: &[Slot],
    slot: &Slot,
) -> anyhow::Result<()> {
    let context = || format!("syncing the checkpoint {}", paths.checkpoint.display());
    let life = slots.iter().map(|slot| slot.life).max().unwrap_or_default();
    checkpoint.resume_from(slot, life).with_context(context)
}

/// Reads the schema, and opens the rejects up to `position`.
fn before(paths: &ResultFiles, position: &Position) -> anyhow::Result<Before> {
    let mut kept = match read_if_there(&paths.schema)? {
        // Without results and terms there is no schema: the file would be another job's.
        Some(json) if position.columns > 0 || position.typed => serde_json::from_slice(&json)
            .with_context(|| format!("decoding the schema of the results, {}", paths.schema.display()))?,
        _ => Kept::default(),
    };
    if position.columns == 0 {
        // Of results that did not become durable.
        kept.schema = Schema::default();
    }
    ensure!(
        kept.schema.columns.len() == position.columns as usize && kept.terms.is_some() == position.typed,
        "{} has {} columns{}, but the checkpoint counts results of {}{}; {}",
        paths.schema.display(),
        kept.schema.columns.len(),
        if kept.terms.is_some() { " and their types" } else { "" },
        position.columns,
        if position.typed { " with types" } else { "" },
        to_start_anew(paths)
    );
    let context = || format!("reading {}", paths.rejects.display());
    // Opened anew, since a duplicate would share its offset with the store's file.
    let mut rejects = File::open(&paths.rejects).with_context(context)?;
    let mut header = [0; REJECTS_HEADER.len()];
    rejects.read_exact(&mut header).with_context(context)?;
    let rejects = rejects.take(position.reject_bytes - header.len() as u64);
    Ok(Before { kept, rejects: Some(rejects) })
}

fn to_start_anew(paths: &ResultFiles) -> String {
    let ResultFiles { results, rejects, checkpoint, summary, .. } = paths;
    let [results, rejects, checkpoint, summary] =
        [results, rejects, checkpoint, summary].map(|path| path.display());
    format!(
        "choose another --output, or, to start the job from its beginning, remove {results}, {rejects}, {checkpoint} \
         and, if it is there, {summary}"
    )
}

/// Unchanged files that match a slot up to its lengths.
struct Counted {
    results: File,
    rejects: File,
    /// Of the files up to the slot's lengths.
    hashes: Hashes,
}

/// Finds the newest slot that matches the files. Files are synced before a slot, so an older slot is needed only when a disk
/// has lost data or a file was changed.
fn newest_matching<'a>(paths: &ResultFiles, slots: &'a [Slot]) -> anyhow::Result<(&'a Slot, Counted)> {
    let mut wrong = None;
    for slot in slots {
        ensure!(
            slot.results == checkpoint::name_of(&paths.results),
            "{} belongs to the results {}, not to {}; choose another --output",
            paths.checkpoint.display(),
            slot.results,
            paths.results.display()
        );
        match compare(paths, &slot.position)? {
            Ok(counted) => {
                if let Some(wrong) = wrong {
                    let Position { next, next_row, .. } = slot.position;
                    tracing::warn!(
                        "{wrong}: repaired by going back to the previous checkpoint, of {next_row} rows in \
                         {next} batches"
                    );
                }
                return Ok((slot, counted));
            }
            Err(what) => wrong = wrong.or(Some(what)),
        }
    }
    let wrong = wrong.context("a checkpoint without a slot")?;
    bail!("{wrong}: another program has changed it, or its disk has lost data; {}", to_start_anew(paths))
}

/// Checks the files against a position. If they do not match, the inner error says why.
fn compare(paths: &ResultFiles, position: &Position) -> anyhow::Result<Result<Counted, String>> {
    let results = counted(&paths.results, position.result_bytes, position.results_sha256)?;
    let rejects = counted(&paths.rejects, position.reject_bytes, position.rejects_sha256)?;
    Ok(results.and_then(|(results, results_hash)| {
        let (rejects, rejects_hash) = rejects?;
        Ok(Counted { results, rejects, hashes: Hashes { results: results_hash, rejects: rejects_hash } })
    }))
}

/// Opens a file, and checks that its first `length` bytes have the hash `short`. Returns the file and the hasher's state. If
/// they do not match, the inner error says why.
fn counted(path: &Path, length: u64, short: u64) -> anyhow::Result<Result<(File, Sha256), String>> {
    let file = match OpenOptions::new().read(true).write(true).open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Ok(Err(format!(
                "{} is missing, but its checkpoint counts {length} bytes",
                path.display()
            )));
        }
        file => file.with_context(|| format!("resuming with {}", path.display()))?,
    };
    let (hash, bytes) = protocol::hash::of_all((&file).take(length))
        .with_context(|| format!("reading {}", path.display()))?;
    if bytes < length {
        return Ok(Err(format!("{} has {bytes} bytes, but its checkpoint counts {length}", path.display())));
    }
    let found = protocol::hash::shorten(hash.clone());
    if found != short {
        return Ok(Err(format!(
            "{} is damaged: the SHA-256 of its first {length} bytes begins with {found:016x}, but its checkpoint has \
             {short:016x}",
            path.display()
        )));
    }
    Ok(Ok((file, hash)))
}

fn pair(
    paths: &ResultFiles,
    counted: Counted,
    checkpoint: Checkpoint,
    position: Position,
    before: Before,
) -> anyhow::Result<Opened> {
    let schema = NewSchema::default();
    let kept = before.kept.clone();
    let Counted { results, rejects, hashes } = counted;
    let syncer = Syncer {
        paths: paths.clone(),
        results: results.try_clone().context("duplicating a file")?,
        rejects: rejects.try_clone().context("duplicating a file")?,
        checkpoint,
        durable: position,
        schema: Arc::clone(&schema),
        kept,
    };
    let store = Store { paths: paths.clone(), results, rejects, hashes, position, schema, header: None };
    Ok(Opened::ToWrite(Box::new(store), syncer, before))
}
