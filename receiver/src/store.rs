//! Writes results, rejects and checkpoint to disk.

mod open;

use std::fs::File;
use std::io::{IoSlice, Take, Write};
use std::sync::Arc;

use anyhow::Context;
use files::{remove_if_there, replace_file, sync_folder};
use parking_lot::Mutex;
use protocol::frame::write_all_vectored;
use protocol::result_files::ResultFiles;
use protocol::results::{ResultBatch, Summary};
use protocol::schema::Schema;
use sha2::{Digest, Sha256};

use crate::checkpoint::{Checkpoint, Position};
pub use open::open;

/// The files that results are written to.
pub trait Storage {
    /// The position up to which results are written.
    fn position(&self) -> Position;

    /// Sets the schema of the results that are appended from now on.
    fn note_schema(&mut self, schema: &Schema);

    /// Appends the next batches.
    ///
    /// # Errors
    /// Those of the file system. After an error, the storage must not be used.
    fn append(&mut self, batches: &[ResultBatch]) -> anyhow::Result<()>;
}

/// Appends batches. The [`Syncer`] makes them durable in parallel.
#[derive(Debug)]
pub struct Store {
    paths: ResultFiles,
    results: File,
    rejects: File,
    hashes: Hashes,
    position: Position,
    schema: NewSchema,
}

/// A changed schema that is not durable yet.
type NewSchema = Arc<Mutex<Option<Schema>>>;

/// Running hashes of the results and rejects written so far.
#[derive(Debug, Clone)]
struct Hashes {
    results: Sha256,
    rejects: Sha256,
}

/// Makes the store's writes durable.
#[derive(Debug)]
pub struct Syncer {
    paths: ResultFiles,
    results: File,
    rejects: File,
    checkpoint: Checkpoint,
    /// The last checkpoint's position.
    durable: Position,
    schema: NewSchema,
}

/// A job's opened files.
#[derive(Debug)]
pub enum Opened {
    /// A new or interrupted job.
    ToWrite(Box<Store>, Syncer, Before),
    /// A finished job. Its receiver may have died before the initializer knew of the end.
    Finished(Summary, Finished),
}

/// What earlier receivers of the job have written.
#[derive(Debug, Default)]
pub struct Before {
    pub schema: Schema,
    /// Reads the rejects after their header; `None` for a new job.
    pub rejects: Option<Take<File>>,
}

/// A finished job's files, still locked.
#[derive(Debug)]
pub struct Finished {
    paths: ResultFiles,
    checkpoint: Checkpoint,
    position: Position,
    told: bool,
}

impl Finished {
    /// The job's last position.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The number of this receiver among the job's receivers, counted from 1.
    pub fn life(&self) -> u64 {
        self.checkpoint.life()
    }

    /// Whether the checkpoint says that the initializer knows of the end.
    pub fn is_told(&self) -> bool {
        self.told
    }

    /// Makes durable that the initializer knows of the end, so that a restarted receiver need not wait for it.
    ///
    /// # Errors
    /// Those of the file system; they name the file.
    pub fn note_told(&mut self) -> anyhow::Result<()> {
        if !self.told {
            self.checkpoint
                .save_told(&self.position)
                .with_context(|| format!("writing the checkpoint {}", self.paths.checkpoint.display()))?;
            self.told = true;
        }
        Ok(())
    }

    /// Removes checkpoint and schema, when nothing is left to do.
    ///
    /// # Errors
    /// Those of the file system; they name the file.
    pub fn tidy(self) -> anyhow::Result<()> {
        remove_if_there(&self.paths.checkpoint)?;
        remove_if_there(&self.paths.schema)?;
        sync_folder(&self.paths.checkpoint).context("syncing the folder of the results")
    }
}

impl Storage for Store {
    fn position(&self) -> Position {
        self.position
    }

    fn note_schema(&mut self, schema: &Schema) {
        self.position.columns = schema.0.len() as u32;
        *self.schema.lock() = Some(schema.clone());
    }

    fn append(&mut self, batches: &[ResultBatch]) -> anyhow::Result<()> {
        let mut slices: Vec<_> = batches.iter().map(|batch| IoSlice::new(&batch.results)).collect();
        write_all_vectored(&self.results, &mut slices)
            .with_context(|| format!("writing {}", self.paths.results.display()))?;
        for batch in batches {
            self.hashes.results.update(&batch.results);
            if !batch.rejects.is_empty() {
                self.hashes.rejects.update(&batch.rejects);
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
        // Once per call, since finishing a hash costs as much as hashing a short batch.
        if !batches.is_empty() {
            self.position.results_sha256 = protocol::hash::shorten(self.hashes.results.clone());
        }
        if batches.iter().any(|batch| !batch.rejects.is_empty()) {
            self.position.rejects_sha256 = protocol::hash::shorten(self.hashes.rejects.clone());
        }
        Ok(())
    }
}

impl Store {
    /// The SHA-256 of the results written so far, in hexadecimal.
    pub fn sha256(&self) -> String {
        protocol::hash::finish(self.hashes.results.clone())
    }
}

impl Syncer {
    /// The number of this receiver among the job's receivers, counted from 1.
    pub fn life(&self) -> u64 {
        self.checkpoint.life()
    }

    pub fn durable(&self) -> Position {
        self.durable
    }

    /// Makes everything up to `position` durable: first the data, then the checkpoint.
    ///
    /// # Errors
    /// Those of the file system; they name the file. Whether the data is durable is then unknown.
    pub fn sync(&mut self, position: &Position) -> anyhow::Result<()> {
        let schema = self.schema.lock().take();
        if let Some(schema) = schema {
            let json = serde_json::to_vec(&schema).context("encoding the schema")?;
            replace_file(&self.paths.schema, &json)?;
        }
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

    /// Ends the job by writing its summary. The checkpoint stays until the initializer knows and nothing is left to do.
    ///
    /// # Errors
    /// Those of the file system; they name the file.
    pub fn finish(self, summary: &Summary) -> anyhow::Result<Finished> {
        let mut json = serde_json::to_vec_pretty(summary).context("encoding the summary")?;
        json.push(b'\n');
        replace_file(&self.paths.summary, &json)?;
        let Self { paths, checkpoint, durable: position, .. } = self;
        Ok(Finished { paths, checkpoint, position, told: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn to_write(paths: &ResultFiles) -> (Store, Syncer) {
        match open(paths).unwrap() {
            Opened::ToWrite(store, syncer, _) => (*store, syncer),
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
            schema: Bytes::new(),
            results: Bytes::from_static(results.as_bytes()),
            rejects: Bytes::from_static(rejects.as_bytes()),
        }
    }

    #[test]
    fn data_after_the_checkpoint_is_cut_off_and_written_again() {
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
        let whole = protocol::hash::hex(&Sha256::digest(b"a\nb\nc\n"));
        assert_eq!(store.sha256(), whole);
    }

    #[test]
    fn existing_results_without_a_checkpoint_are_refused_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let paths = ResultFiles::beside(&dir.path().join("results.log")).unwrap();
        std::fs::write(&paths.results, "precious").unwrap();
        let error = format!("{:#}", open(&paths).unwrap_err());
        assert!(error.contains("no checkpoint to resume from"), "{error}");
        assert_eq!(std::fs::read_to_string(&paths.results).unwrap(), "precious");

        std::fs::write(&paths.results, "").unwrap();
        to_write(&paths);
    }

    /// A job of three checkpoints: at the beginning, and after each of two batches.
    fn two_batches(paths: &ResultFiles) -> (Store, Syncer) {
        let (mut store, mut syncer) = to_write(paths);
        for (number, results, rejects) in [(0, "a\nb\n", "1,bad,x\n"), (1, "c\nd\n", "5,bad,y\n")] {
            store.append(&[batch(number, results, rejects)]).unwrap();
            syncer.sync(&store.position()).unwrap();
        }
        (store, syncer)
    }

    /// The ways to damage a file: cut it off, flip a bit, or replace the rest by zeros.
    const DAMAGES: [fn(&mut Vec<u8>, usize); 3] =
        [|bytes, at| bytes.truncate(at), |bytes, at| bytes[at] ^= 1, |bytes, at| bytes[at..].fill(0)];

    #[test]
    fn damage_to_data_that_only_the_newest_slot_counts_is_repaired() {
        for damage in DAMAGES {
            for rejects in [false, true] {
                let dir = tempfile::tempdir().unwrap();
                let paths = ResultFiles::beside(&dir.path().join("results.log")).unwrap();
                drop(two_batches(&paths));
                let damaged = if rejects { &paths.rejects } else { &paths.results };
                let mut bytes = std::fs::read(damaged).unwrap();
                let at = bytes.len() - 2;
                damage(&mut bytes, at);
                std::fs::write(damaged, bytes).unwrap();

                let (mut store, mut syncer) = to_write(&paths);
                assert_eq!((store.position().next, store.position().next_row), (1, 3));
                store.append(&[batch(1, "c\nd\n", "5,bad,y\n")]).unwrap();
                syncer.sync(&store.position()).unwrap();
                drop((store, syncer));
                assert_eq!(to_write(&paths).0.position().next, 2);
                assert_eq!(std::fs::read(&paths.results).unwrap(), b"a\nb\nc\nd\n");
                assert_eq!(std::fs::read(&paths.rejects).unwrap(), b"row,reason,record\n1,bad,x\n5,bad,y\n");
            }
        }
    }

    #[test]
    fn damage_to_data_that_both_slots_count_is_refused_and_left_alone() {
        for damage in DAMAGES {
            for rejects in [false, true] {
                let dir = tempfile::tempdir().unwrap();
                let paths = ResultFiles::beside(&dir.path().join("results.log")).unwrap();
                drop(two_batches(&paths));
                let damaged = if rejects { &paths.rejects } else { &paths.results };
                let mut bytes = std::fs::read(damaged).unwrap();
                damage(&mut bytes, 1);
                std::fs::write(damaged, &bytes).unwrap();
                let error = open(&paths).unwrap_err().to_string();
                let says =
                    error.contains("but its checkpoint ") && error.contains("to start the job from its");
                assert!(error.starts_with(&damaged.display().to_string()) && says, "{error}");
                assert!(std::fs::read(damaged).unwrap() == bytes);
                std::fs::remove_file(damaged).unwrap();
                let error = open(&paths).unwrap_err().to_string();
                assert!(error.contains("is missing, but its checkpoint counts"), "{error}");
            }
        }
    }

    #[test]
    fn a_damaged_checkpoint_is_refused_unless_there_are_no_results() {
        let dir = tempfile::tempdir().unwrap();
        let paths = ResultFiles::beside(&dir.path().join("results.log")).unwrap();
        // A loss of power may leave the first checkpoint like this.
        std::fs::write(&paths.checkpoint, [0; 100]).unwrap();
        two_batches(&paths);
        std::fs::write(&paths.checkpoint, [0; 8192]).unwrap();
        let error = open(&paths).unwrap_err().to_string();
        assert!(error.contains("with 8 bytes and a damaged checkpoint"), "{error}");
        assert_eq!(std::fs::read(&paths.results).unwrap(), b"a\nb\nc\nd\n");
    }

    #[test]
    fn two_receivers_do_not_write_the_same_results() {
        let dir = tempfile::tempdir().unwrap();
        let paths = ResultFiles::beside(&dir.path().join("results.log")).unwrap();
        let (mut store, mut syncer) = to_write(&paths);
        store.append(&[batch(0, "a\n", "")]).unwrap();
        let error = open(&paths).unwrap_err().to_string();
        assert!(error.contains("another receiver is writing"), "{error}");
        syncer.sync(&store.position()).unwrap();
        drop((store, syncer));
        // Another results file beside the same checkpoint belongs to another job.
        let other = ResultFiles::beside(&dir.path().join("results.csv")).unwrap();
        std::fs::write(&other.results, "precious").unwrap();
        let error = open(&other).unwrap_err().to_string();
        assert!(error.contains("belongs to the results results.log"), "{error}");
        assert_eq!(std::fs::read_to_string(&other.results).unwrap(), "precious");
        to_write(&paths);
    }

    /// A job of two batches that is finished.
    fn finished(paths: &ResultFiles) -> (Summary, Finished) {
        let (store, syncer) = two_batches(paths);
        let Position { next_row, rejects, next, result_bytes, .. } = store.position();
        let summary = Summary {
            rows: next_row,
            rejects,
            batches: next,
            bytes: result_bytes,
            sha256: store.sha256(),
            started: "then".into(),
            ended: "now".into(),
            seconds: 1.0,
            ..Summary::default()
        };
        let finished = syncer.finish(&summary).unwrap();
        (summary, finished)
    }

    fn finished_again(paths: &ResultFiles) -> (Summary, Finished) {
        let Opened::Finished(summary, finished) = open(paths).unwrap() else { panic!("it is not finished") };
        (summary, finished)
    }

    #[test]
    fn a_finished_job_stays_open_until_it_is_tidied_up() {
        let dir = tempfile::tempdir().unwrap();
        let paths = ResultFiles::beside(&dir.path().join("results.log")).unwrap();
        let (summary, untold) = finished(&paths);
        assert!(!untold.is_told());
        drop(untold);
        let (again, mut untold) = finished_again(&paths);
        assert_eq!((&again, untold.is_told(), untold.position().result_bytes), (&summary, false, 8));
        untold.note_told().unwrap();
        drop(untold);
        let (again, told) = finished_again(&paths);
        assert_eq!((again, told.is_told(), told.position().result_bytes), (summary, true, 8));
        told.tidy().unwrap();
        assert!(open(&paths).unwrap_err().to_string().contains("this job is finished"));
    }

    #[test]
    fn damaged_results_of_a_finished_job_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let paths = ResultFiles::beside(&dir.path().join("results.log")).unwrap();
        drop(finished(&paths));
        // The results match the older slot, but not the summary.
        std::fs::write(&paths.results, "a\nb\nc\n").unwrap();
        let error = open(&paths).unwrap_err().to_string();
        assert!(error.contains("this job is finished, but") && error.contains("does not match"), "{error}");
        std::fs::write(&paths.results, "a\nb\nc\nd\n").unwrap();
        finished_again(&paths);
    }

    #[test]
    fn a_finished_job_is_not_begun_again() {
        let dir = tempfile::tempdir().unwrap();
        let paths = ResultFiles::beside(&dir.path().join("results.log")).unwrap();
        std::fs::write(&paths.summary, "{}").unwrap();
        assert!(open(&paths).unwrap_err().to_string().contains("this job is finished"));
    }
}
