//! Runs a model over a file, in one thread and without a network. Its results equal a cluster's, for comparison.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use bytes::Bytes;
use columns::{Spec, Survey};
use protocol::frame::{self, DEFAULT_LIMIT};
use protocol::result_files::{REJECTS_HEADER, ResultFiles};
use protocol::schema::Table;
use records::identity::{Guard, Guarded};
use records::sniff::Name;
use records::{Declared, Flaw, Reader};

use crate::batch::Batch;
use crate::classify::Classifier;
use crate::ingest::BATCH_BYTES;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Rows read.
    pub rows: u64,
    pub rejects: u64,
    pub rejects_path: PathBuf,
}

/// How to classify a file.
#[derive(Debug, Clone)]
pub struct Options {
    /// Rows in a batch; `None` to measure which number is good.
    pub chunk_size: Option<u32>,
    pub declared: Declared,
    /// What the user says of the types of columns, if the model gets typed ones.
    pub types: Option<Spec>,
}

/// Classifies a CSV: writes results to `output`, and rejects beside it.
///
/// # Errors
/// When the input is not a CSV or changes meanwhile, files cannot be read or written, the results are not one table, or all
/// rows were rejected.
pub fn classify(
    input: &Path,
    output: &Path,
    options: &Options,
    mut classifier: Classifier,
) -> anyhow::Result<Summary> {
    let name = input.display();
    let opening = || format!("opening the input {name}");
    let reading = || format!("reading {name}");
    let file = File::open(input).with_context(opening)?;
    let found = file.metadata().with_context(opening)?;
    ensure!(!found.is_dir(), "the input {name} is a folder; give a CSV file");
    let source = input.canonicalize().with_context(|| format!("looking for {name}"))?;
    let ResultFiles { rejects: rejects_path, .. } = ResultFiles::beside(output)?;
    for written in [output, &rejects_path] {
        ensure!(
            written.canonicalize().ok().as_ref() != Some(&source),
            "the input {name} would be replaced by the output {}; choose another output",
            written.display()
        );
    }
    let guard =
        found.is_file().then(|| Guard::new(&file, Some(input), None)).transpose().with_context(opening)?;
    let file: Box<dyn Read> = match &guard {
        Some(guard) => Box::new(Guarded::new(file, guard.clone()).with_context(opening)?),
        None => Box::new(file),
    };
    let mut reader = Reader::with_dialect(file, DEFAULT_LIMIT, options.declared.dialect);
    let text = name.to_string();
    let header =
        records::read_header(&mut reader, Name { name: &text, is_file: guard.is_some() }, options.declared)?;
    let survey = || {
        let guard = guard.clone();
        let guard = guard.context("the types of columns in a pipe are unknown; give a file")?;
        let file = File::open(input).with_context(opening)?;
        let file = Guarded::new(file, guard).with_context(opening)?;
        columns::survey([Ok(file)], DEFAULT_LIMIT, options.declared.dialect).with_context(reading)
    };
    let survey = match &options.types {
        Some(types) => types.apply(&header, survey()?)?,
        None => Survey::default(),
    };
    let chunk_size = options.chunk_size.unwrap_or_else(|| classifier.measure(&header, &survey));
    let types = Bytes::from(columns::letters(&survey.types));
    drop(survey);
    let header = Bytes::from(header);
    let create = |path: &Path| -> anyhow::Result<_> {
        let file = File::create(path).with_context(|| format!("creating {}", path.display()))?;
        Ok(BufWriter::with_capacity(256 << 10, file))
    };
    let mut results = create(output)?;
    let mut rejects = create(&rejects_path)?;
    rejects.write_all(REJECTS_HEADER).context("writing the rejects")?;
    let mut summary = Summary { rows: 0, rejects: 0, rejects_path };
    let mut table = Table::default();
    // A row that the last batch had no room for, as a frame.
    let mut held = Vec::new();
    for number in 0.. {
        let (mut frames, mut rows) = (std::mem::take(&mut held), 0);
        rows += usize::from(!frames.is_empty());
        while rows < chunk_size as usize
            && let Some(row) = reader.next_row().with_context(reading)?
        {
            let before = frames.len();
            // The same as in the sender, so that both paths give the same results.
            match row.flaw {
                Some(Flaw::OpenQuote) | None => frame::push(&mut frames, row.bytes),
                Some(flaw) => frame::push_flawed(&mut frames, &flaw.to_string(), row.bytes),
            }
            if rows > 0 && frames.len() > BATCH_BYTES {
                held = frames.split_off(before);
                break;
            }
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
            types: types.clone(),
            frames: frames.into(),
        };
        let done = classifier.classify(batch)?;
        let is_first = table.schema().columns.is_empty();
        if table.admit(&done)?
            && is_first
            && let Some(line) = table.schema().header_line()
        {
            results.write_all(&line).with_context(|| format!("writing {}", output.display()))?;
        }
        results.write_all(&done.results).with_context(|| format!("writing {}", output.display()))?;
        rejects.write_all(&done.rejects).context("writing the rejects")?;
        summary.rows += u64::from(done.rows);
        summary.rejects += u64::from(done.rejected);
    }
    if let Some(guard) = guard {
        guard.check().with_context(reading)?;
    }
    results.flush().with_context(|| format!("writing {}", output.display()))?;
    rejects.flush().context("writing the rejects")?;
    ensure!(
        summary.rows == 0 || summary.rejects < summary.rows,
        "all of the {} rows were rejected; the reasons are in {}",
        summary.rows,
        summary.rejects_path.display()
    );
    Ok(summary)
}
