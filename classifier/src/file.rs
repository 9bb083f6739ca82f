//! The same box over a file, in one thread and without a network: the "old pipeline", to compare with.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, ensure};
use bytes::Bytes;
use records::Reader;
use wire::files::{REJECTS_HEADER, ResultFiles};
use wire::frame::{self, DEFAULT_LIMIT, EOT};

use crate::batch::Batch;
use crate::classify::Classifier;

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Rows read.
    pub rows: u64,
    /// Rows in the rejects.
    pub rejects: u64,
    /// Where these are.
    pub rejects_path: PathBuf,
}

/// Classifies a CSV: results to `output`, rejects beside it.
///
/// # Errors
/// An input that is not a CSV, or files that cannot be read or written.
pub fn classify(
    input: &Path,
    output: &Path,
    chunk_size: usize,
    mut classifier: Classifier,
) -> anyhow::Result<Summary> {
    let name = input.display();
    let file = File::open(input).with_context(|| format!("opening the input {name}"))?;
    let source = input.canonicalize().with_context(|| format!("looking for {name}"))?;
    let ResultFiles { rejects: rejects_path, .. } = ResultFiles::beside(output)?;
    for written in [output, &rejects_path] {
        ensure!(
            written.canonicalize().ok().as_ref() != Some(&source),
            "the input {name} would be replaced by what is written to {}; choose another output",
            written.display()
        );
    }
    let mut reader = Reader::new(file, DEFAULT_LIMIT);
    let header = reader.next_record().with_context(|| format!("in {name}"))?;
    let header =
        Bytes::copy_from_slice(header.with_context(|| format!("{name} is empty; it needs a CSV header"))?);
    records::check_header(&header).map_err(|error| anyhow!("the header of {name} {error}"))?;
    let create = |path: &Path| -> anyhow::Result<_> {
        let file = File::create(path).with_context(|| format!("creating {}", path.display()))?;
        Ok(BufWriter::with_capacity(256 << 10, file))
    };
    let mut results = create(output)?;
    let mut rejects = create(&rejects_path)?;
    rejects.write_all(REJECTS_HEADER).context("writing the rejects")?;
    let mut summary = Summary { rows: 0, rejects: 0, rejects_path };
    for number in 0.. {
        let (mut frames, mut rows) = (Vec::new(), 0);
        while rows < chunk_size
            && let Some(record) = reader.next_record().with_context(|| format!("in {name}"))?
        {
            // As the sender has it, so that both do the same.
            ensure!(
                record != [EOT],
                "row {} of {name} is the single byte 0x04, which means the end of the rows; quote it",
                summary.rows + rows as u64
            );
            frame::push(&mut frames, record);
            rows += 1;
        }
        if rows == 0 {
            break;
        }
        let batch = Batch {
            number,
            first_row: summary.rows,
            rows: u32::try_from(rows).context("the chunk size is too large")?,
            worker: 0,
            header: header.clone(),
            frames: frames.into(),
        };
        let done = classifier.classify(&batch)?;
        results.write_all(&done.results).with_context(|| format!("writing {}", output.display()))?;
        rejects.write_all(&done.rejects).context("writing the rejects")?;
        summary.rows += u64::from(done.rows);
        summary.rejects += u64::from(done.rejected);
    }
    results.flush().with_context(|| format!("writing {}", output.display()))?;
    rejects.flush().context("writing the rejects")?;
    Ok(summary)
}
