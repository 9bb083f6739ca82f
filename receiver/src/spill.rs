//! Keeps early batches in an unnamed file when memory is full, since results may be much longer than the window's rows.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use bytes::Bytes;
use files::remove_if_there;
use protocol::results::ResultBatch;

/// Keeps early batches on disk when memory is full.
pub trait Spill {
    /// Writes a batch to disk.
    ///
    /// # Errors
    /// Those of the file system.
    fn write(&mut self, batch: ResultBatch) -> anyhow::Result<Stub>;

    /// Reads a batch back and drops it.
    ///
    /// # Errors
    /// Those of the file system.
    fn take(&mut self, stub: Stub) -> anyhow::Result<ResultBatch>;

    /// Drops this many batches.
    ///
    /// # Errors
    /// Those of the file system.
    fn forget(&mut self, batches: usize) -> anyhow::Result<()>;
}

/// A file for early batches.
#[derive(Debug)]
pub struct SpillFile {
    results: PathBuf,
    file: Option<File>,
    /// Where the next batch goes.
    end: u64,
    /// How many batches are in the file.
    batches: usize,
}

/// Stands for a batch on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stub {
    /// The batch without its schema, results and rejects.
    pub batch: ResultBatch,
    /// Where these three begin in the file, and their lengths.
    extent: (u64, [usize; 3]),
}

impl Stub {
    /// The batch's size in bytes.
    pub fn size(&self) -> usize {
        self.extent.1.iter().sum()
    }
}

impl Spill for SpillFile {
    fn write(&mut self, batch: ResultBatch) -> anyhow::Result<Stub> {
        let context =
            || format!("writing early results to a temporary file beside {}", self.results.display());
        let file = match self.file.take() {
            Some(file) => file,
            None => unnamed(&self.results.with_extension("early")).with_context(context)?,
        };
        let parts = [&batch.schema, &batch.results, &batch.rejects];
        let mut at = self.end;
        for part in parts {
            file.write_all_at(part, at).with_context(context)?;
            at += part.len() as u64;
        }
        let extent = (self.end, parts.map(Bytes::len));
        (self.file, self.end, self.batches) = (Some(file), at, self.batches + 1);
        let none = Bytes::new;
        Ok(Stub { batch: ResultBatch { schema: none(), results: none(), rejects: none(), ..batch }, extent })
    }

    fn take(&mut self, stub: Stub) -> anyhow::Result<ResultBatch> {
        let Stub { batch, extent: (at, lengths) } = stub;
        let context =
            || format!("reading early results from a temporary file beside {}", self.results.display());
        let mut bytes = vec![0; lengths.iter().sum()];
        let file = self.file.as_ref().with_context(context)?;
        file.read_exact_at(&mut bytes, at).with_context(context)?;
        self.forget(1)?;
        let mut bytes = Bytes::from(bytes);
        let [schema, results, rejects] = lengths.map(|length| bytes.split_to(length));
        Ok(ResultBatch { schema, results, rejects, ..batch })
    }

    fn forget(&mut self, batches: usize) -> anyhow::Result<()> {
        self.batches -= batches;
        if self.batches == 0
            && let Some(file) = &self.file
        {
            self.end = 0;
            let context = || format!("emptying the temporary file beside {}", self.results.display());
            file.set_len(0).with_context(context)?;
        }
        Ok(())
    }
}

impl SpillFile {
    /// A file beside these results, created when it is first needed.
    pub fn new(results: &Path) -> Self {
        Self { results: results.to_owned(), file: None, end: 0, batches: 0 }
    }
}

/// Creates a file that the system removes when it is closed, however this process ends.
fn unnamed(path: &Path) -> anyhow::Result<File> {
    // An earlier receiver may have died between the two calls below.
    remove_if_there(path)?;
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
    std::fs::remove_file(path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_read_back_and_the_file_is_emptied() {
        let dir = tempfile::tempdir().unwrap();
        let mut spill = SpillFile::new(&dir.path().join("results.log"));
        let batch = |number: u64| ResultBatch {
            number,
            rows: 3,
            schema: "[]".into(),
            results: number.to_string().repeat(1000).into(),
            rejects: "0,a,b\n".into(),
            ..ResultBatch::default()
        };
        let stubs: Vec<_> = (0..5).map(|number| spill.write(batch(number)).unwrap()).collect();
        assert_eq!(stubs[3].size(), batch(3).size());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the file has no name");
        for stub in stubs.into_iter().skip(1).rev() {
            let number = stub.batch.number;
            assert_eq!(spill.take(stub).unwrap(), batch(number));
        }
        spill.forget(1).unwrap();
        assert_eq!(spill.file.as_ref().unwrap().metadata().unwrap().len(), 0);
    }
}
