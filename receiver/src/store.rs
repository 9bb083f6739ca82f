//! Results, rejects and checkpoint on disk.

use std::fs::{File, OpenOptions};
use std::io::{IoSlice, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, bail, ensure};
use sha2::{Digest, Sha256};
use wire::files::{REJECTS_HEADER, ResultFiles};
use wire::frame::write_all_vectored;
use wire::program::{replace_file, sync_folder};
use wire::results::{ResultBatch, Summary};

use crate::checkpoint::{self, Checkpoint, Position, Saved};

/// The writing side: appends batches. [`Syncer`] makes them durable meanwhile.
#[derive(Debug)]
pub struct Store {
    paths: ResultFiles,
    results: File,
    rejects: File,
    hash: Sha256,
    position: Position,
}

/// The side that makes durable what the writing side has written.
#[derive(Debug)]
pub struct Syncer {
    paths: ResultFiles,
    results: File,
    rejects: File,
    checkpoint: Checkpoint,
    /// What the last checkpoint says.
    durable: Position,
}

/// A job's files, opened.
#[derive(Debug)]
pub enum Opened {
    /// A job to begin, or to go on with.
    ToWrite(Box<Store>, Syncer),
    /// A job that is finished, but may not have said so to anybody: the receiver ended just then.
    Finished(Summary, Finished),
}

/// What keeps the files of a finished job from others, until it has been told that it is finished.
#[derive(Debug)]
pub struct Finished {
    paths: ResultFiles,
    _checkpoint: Checkpoint,
}

impl Finished {
    /// It has been told: removes the checkpoint, which nobody needs any more.
    ///
    /// # Errors
    /// Names the file.
    pub fn tidy(&self) -> anyhow::Result<()> {
        std::fs::remove_file(&self.paths.checkpoint)
            .with_context(|| format!("removing the checkpoint {}", self.paths.checkpoint.display()))?;
        sync_folder(&self.paths.checkpoint).context("syncing the folder of the results")
    }
}

/// Opens a job's files: new ones, or those of a job that was interrupted, cut to its checkpoint. From then on, no other
/// receiver can.
///
/// # Errors
/// Files that cannot be written, or that another receiver writes; results of another job; a checkpoint that says more
/// than there is.
pub fn open(paths: &ResultFiles) -> anyhow::Result<Opened> {
    if paths.summary.exists() && !paths.checkpoint.exists() {
        bail!(
            "{} says that this job is finished; choose another --output, or remove it and {}",
            paths.summary.display(),
            paths.results.display()
        );
    }
    let (checkpoint, saved) = Checkpoint::lock(&paths.checkpoint)?;
    if paths.summary.exists() {
        let json = std::fs::read(&paths.summary)
            .with_context(|| format!("reading the summary {}", paths.summary.display()))?;
        let summary = serde_json::from_slice(&json)
            .with_context(|| format!("understanding the summary {}", paths.summary.display()))?;
        return Ok(Opened::Finished(summary, Finished { paths: paths.clone(), _checkpoint: checkpoint }));
    }
    match saved {
        Some(saved) => reopen(paths, checkpoint, saved),
        None => create(paths, checkpoint),
    }
}

fn create(paths: &ResultFiles, mut checkpoint: Checkpoint) -> anyhow::Result<Opened> {
    // A receiver that died before its first checkpoint leaves an empty file, and the rejects' header.
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
            "{} is there already, with {length} bytes and no checkpoint to go on from; remove it, or choose \
             another --output",
            path.display()
        );
        file.set_len(0).with_context(context)?;
        Ok(file)
    };
    let results = new(&paths.results, 0)?;
    let mut rejects = new(&paths.rejects, REJECTS_HEADER.len())?;
    rejects.write_all(REJECTS_HEADER).with_context(|| format!("writing {}", paths.rejects.display()))?;
    let position = Position { reject_bytes: REJECTS_HEADER.len() as u64, ..Position::default() };
    for (file, path) in [(&results, &paths.results), (&rejects, &paths.rejects)] {
        file.sync_all().with_context(|| format!("syncing {}", path.display()))?;
    }
    checkpoint.begin(&paths.results, &position)?;
    pair(paths, results, rejects, Sha256::new(), checkpoint, position)
}

fn reopen(paths: &ResultFiles, checkpoint: Checkpoint, saved: Saved) -> anyhow::Result<Opened> {
    let Saved { position, results_name } = saved;
    ensure!(
        results_name == checkpoint::name_of(&paths.results),
        "{} belongs to the results {results_name}, and not to {}; choose another --output",
        paths.checkpoint.display(),
        paths.results.display()
    );
    let cut = |path: &Path, length: u64| -> anyhow::Result<File> {
        let context = || format!("going on with {}", path.display());
        let file = OpenOptions::new().read(true).write(true).open(path).with_context(context)?;
        let there = file.metadata().with_context(context)?.len();
        ensure!(
            there >= length,
            "{} has {there} bytes, and its checkpoint counts {length}: something else has changed it",
            path.display()
        );
        file.set_len(length).with_context(context)?;
        Ok(file)
    };
    let mut results = cut(&paths.results, position.result_bytes)?;
    let mut rejects = cut(&paths.rejects, position.reject_bytes)?;
    let (hash, _) =
        wire::hash::of_all(&mut results).with_context(|| format!("reading {}", paths.results.display()))?;
    rejects.seek(SeekFrom::End(0)).with_context(|| format!("seeking in {}", paths.rejects.display()))?;
    pair(paths, results, rejects, hash, checkpoint, position)
}

fn pair(
    paths: &ResultFiles,
    results: File,
    rejects: File,
    hash: Sha256,
    checkpoint: Checkpoint,
    position: Position,
) -> anyhow::Result<Opened> {
    let syncer = Syncer {
        paths: paths.clone(),
        results: results.try_clone().context("duplicating a file")?,
        rejects: rejects.try_clone().context("duplicating a file")?,
        checkpoint,
        durable: position,
    };
    let store = Store { paths: paths.clone(), results, rejects, hash, position };
    Ok(Opened::ToWrite(Box::new(store), syncer))
}

impl Store {
    /// How far the writing is.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Appends batches that are in line.
    ///
    /// # Errors
    /// Names the file; after an error the store is not to be used any more.
    pub fn append(&mut self, batches: &[ResultBatch]) -> anyhow::Result<()> {
        let mut slices: Vec<_> = batches.iter().map(|batch| IoSlice::new(&batch.results)).collect();
        write_all_vectored(&self.results, &mut slices)
            .with_context(|| format!("writing {}", self.paths.results.display()))?;
        for batch in batches {
            self.hash.update(&batch.results);
            if !batch.rejects.is_empty() {
                self.rejects
                    .write_all(&batch.rejects)
                    .with_context(|| format!("writing {}", self.paths.rejects.display()))?;
            }
            self.position.next += 1;
            self.position.next_row += u64::from(batch.rows);
            self.position.rejects += u64::from(batch.rejected);
            self.position.result_bytes += batch.results.len() as u64;
            self.position.reject_bytes += batch.rejects.len() as u64;
        }
        Ok(())
    }

    /// SHA-256 of the results as far as they are written, in hexadecimal.
    pub fn sha256(&self) -> String {
        wire::hash::finish(self.hash.clone())
    }
}

impl Syncer {
    /// What is durable.
    pub fn durable(&self) -> Position {
        self.durable
    }

    /// Makes everything up to `position` durable: first the data, then the checkpoint.
    ///
    /// # Errors
    /// Names the file; the data may or may not be durable then.
    pub fn sync(&mut self, position: &Position) -> anyhow::Result<()> {
        self.results.sync_data().with_context(|| format!("syncing {}", self.paths.results.display()))?;
        if position.reject_bytes > self.durable.reject_bytes {
            self.rejects.sync_data().with_context(|| format!("syncing {}", self.paths.rejects.display()))?;
        }
        self.checkpoint
            .save(position)
            .with_context(|| format!("writing the checkpoint {}", self.paths.checkpoint.display()))?;
        self.durable = *position;
        Ok(())
    }

    /// Ends the job: writes the summary. The checkpoint stays until it has been told.
    ///
    /// # Errors
    /// Names the file.
    pub fn finish(self, summary: &Summary) -> anyhow::Result<Finished> {
        let mut json = serde_json::to_vec_pretty(summary).context("encoding the summary")?;
        json.push(b'\n');
        replace_file(&self.paths.summary, &json)?;
        Ok(Finished { paths: self.paths, _checkpoint: self.checkpoint })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn to_write(paths: &ResultFiles) -> (Store, Syncer) {
        match open(paths).unwrap() {
            Opened::ToWrite(store, syncer) => (*store, syncer),
            Opened::Finished(..) => panic!("the job is finished"),
        }
    }

    fn batch(number: u64, results: &'static str, rejects: &'static str) -> ResultBatch {
        let lines = |text: &str| text.lines().count() as u32;
        ResultBatch {
            number,
            first_row: 0,
            rows: lines(results) + lines(rejects),
            rejected: lines(rejects),
            worker: 0,
            results: Bytes::from_static(results.as_bytes()),
            rejects: Bytes::from_static(rejects.as_bytes()),
        }
    }

    #[test]
    fn what_was_not_checkpointed_is_cut_off_and_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let paths = ResultFiles::beside(&dir.path().join("results.log")).unwrap();
        let (mut store, mut syncer) = to_write(&paths);
        store.append(&[batch(0, "a\nb\n", "0,bad,x\n")]).unwrap();
        syncer.sync(&store.position()).unwrap();
        store.append(&[batch(1, "lost\n", "1,lost,y\n")]).unwrap();
        drop((store, syncer));

        let (mut store, mut syncer) = to_write(&paths);
        assert_eq!((store.position().next, store.position().next_row, store.position().rejects), (1, 3, 1));
        store.append(&[batch(1, "c\n", "")]).unwrap();
        syncer.sync(&store.position()).unwrap();
        assert_eq!(std::fs::read_to_string(&paths.results).unwrap(), "a\nb\nc\n");
        assert_eq!(std::fs::read_to_string(&paths.rejects).unwrap(), "row,reason,record\n0,bad,x\n");
        let whole = wire::hash::hex(&Sha256::digest(b"a\nb\nc\n"));
        assert_eq!(store.sha256(), whole);
    }

    #[test]
    fn results_of_another_job_are_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        let paths = ResultFiles::beside(&dir.path().join("results.log")).unwrap();
        std::fs::write(&paths.results, "precious").unwrap();
        let error = format!("{:#}", open(&paths).unwrap_err());
        assert!(error.contains("no checkpoint to go on from"), "{error}");
        assert_eq!(std::fs::read_to_string(&paths.results).unwrap(), "precious");

        std::fs::write(&paths.results, "").unwrap();
        to_write(&paths);
    }

    #[test]
    fn results_shorter_than_the_checkpoint_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let paths = ResultFiles::beside(&dir.path().join("results.log")).unwrap();
        let (mut store, mut syncer) = to_write(&paths);
        store.append(&[batch(0, "a\nb\n", "")]).unwrap();
        syncer.sync(&store.position()).unwrap();
        drop((store, syncer));
        std::fs::write(&paths.results, "a\n").unwrap();
        let error = open(&paths).unwrap_err().to_string();
        assert!(error.contains("has 2 bytes, and its checkpoint counts 4"), "{error}");
    }

    #[test]
    fn two_receivers_do_not_write_the_same_results() {
        let dir = tempfile::tempdir().unwrap();
        let paths = ResultFiles::beside(&dir.path().join("results.log")).unwrap();
        let (mut store, mut syncer) = to_write(&paths);
        store.append(&[batch(0, "a\n", "")]).unwrap();
        let error = open(&paths).unwrap_err().to_string();
        assert!(error.contains("another receiver writes"), "{error}");
        syncer.sync(&store.position()).unwrap();
        drop((store, syncer));
        // Another file beside the same checkpoint is another job's.
        let other = ResultFiles::beside(&dir.path().join("results.csv")).unwrap();
        std::fs::write(&other.results, "precious").unwrap();
        let error = open(&other).unwrap_err().to_string();
        assert!(error.contains("belongs to the results results.log"), "{error}");
        assert_eq!(std::fs::read_to_string(&other.results).unwrap(), "precious");
        to_write(&paths);
    }

    #[test]
    fn a_job_that_could_not_be_told_to_be_finished_is_told_so() {
        let dir = tempfile::tempdir().unwrap();
        let paths = ResultFiles::beside(&dir.path().join("results.log")).unwrap();
        let summary = Summary {
            rows: 1,
            rejects: 0,
            batches: 1,
            bytes: 2,
            sha256: "00".into(),
            started: "then".into(),
            ended: "now".into(),
            seconds: 1.0,
        };
        drop(to_write(&paths).1.finish(&summary).unwrap());
        let Opened::Finished(again, finished) = open(&paths).unwrap() else { panic!("it is to be written") };
        assert_eq!(again, summary);
        finished.tidy().unwrap();
        assert!(open(&paths).unwrap_err().to_string().contains("this job is finished"));
    }

    #[test]
    fn a_finished_job_is_not_begun_again() {
        let dir = tempfile::tempdir().unwrap();
        let paths = ResultFiles::beside(&dir.path().join("results.log")).unwrap();
        std::fs::write(&paths.summary, "{}").unwrap();
        assert!(open(&paths).unwrap_err().to_string().contains("this job is finished"));
    }
}
