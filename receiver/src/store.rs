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
use protocol::results::{ResultBatch, Summary, Terms};
use protocol::schema::{Kept, Schema};
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
    /// The header, until it is written.
    header: Option<Vec<u8>>,
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
    /// What the schema file has.
    kept: Kept,
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
    pub kept: Kept,
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
        if self.position.columns == 0 {
            self.header = schema.header_line();
        }
        self.position.columns = schema.columns.len() as u32;
        *self.schema.lock() = Some(schema.clone());
    }

    fn append(&mut self, batches: &[ResultBatch]) -> anyhow::Result<()> {
        let header = self.header.take().unwrap_or_default();
        let results = batches.iter().map(|batch| &*batch.results);
        let mut slices: Vec<_> = std::iter::once(&*header).chain(results).map(IoSlice::new).collect();
        write_all_vectored(&self.results, &mut slices)
            .with_context(|| format!("writing {}", self.paths.results.display()))?;
        self.hashes.results.update(&header);
        self.position.result_bytes += header.len() as u64;
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

    /// Makes everything up to `position` durable, and the job's terms: first the data, then the checkpoint.
    ///
    /// # Errors
    /// Those of the file system; they name the file. Whether the data is durable is then unknown.
    pub fn sync(&mut self, position: &Position, terms: Option<&Terms>) -> anyhow::Result<()> {
        let schema = self.schema.lock().take();
        if schema.is_some() || self.kept.terms.as_ref() != terms {
            self.kept.schema = schema.unwrap_or_else(|| std::mem::take(&mut self.kept.schema));
            self.kept.terms = terms.cloned();
            let json = serde_json::to_vec(&self.kept).context("encoding the schema")?;
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

    /// Ends the job by writing its summary. The checkpoint stays until the initializer knows the outcome and nothing is left to
    /// do.
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
mod tests;
