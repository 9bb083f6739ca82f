//! Checks results in row order before they are written: their columns, and the number of rejects. The outcome does not depend
//! on the order in which batches arrived. Pure.

use std::io::Read;

use anyhow::{Context, anyhow, bail, ensure};
use protocol::frame::PEER_LIMIT;
use protocol::rejects::{MostRejects, Reasons};
use protocol::results::ResultBatch;
use protocol::schema::{Schema, Table};
use records::Reader;

/// A job's columns and rejects up to a row.
#[derive(Debug, Default)]
pub struct Audit {
    most: MostRejects,
    rows: u64,
    rejects: u64,
    reasons: Reasons,
    table: Table,
}

impl Audit {
    /// Starts at row 0. `most` limits the rejects.
    pub fn new(most: MostRejects) -> Self {
        Self { most, ..Self::default() }
    }

    /// Resumes at row `rows`, with the schema and the rejects of the rows before it.
    ///
    /// # Errors
    /// When the rejects cannot be read, or are too many.
    pub fn resume(&mut self, rows: u64, schema: Schema, rejects: impl Read) -> anyhow::Result<()> {
        self.table = Table::new(schema);
        for reject in read(rejects) {
            let (row, reason) = reject?;
            self.pass(row)?;
            self.count(row, &reason);
            self.rows = row + 1;
            self.check(row + 1)?;
        }
        self.pass(rows)?;
        self.rows = rows;
        Ok(())
    }

    pub fn schema(&self) -> &Schema {
        self.table.schema()
    }

    /// Why rows were rejected.
    pub fn reasons(&self) -> &Reasons {
        &self.reasons
    }

    /// Checks the next batch before it is written. Returns whether the schema has changed.
    ///
    /// # Errors
    /// When its columns differ from those of earlier results.
    pub fn admit(&mut self, batch: &ResultBatch) -> anyhow::Result<bool> {
        self.table.admit(batch)
    }

    /// Counts the rejects of the admitted batch.
    ///
    /// # Errors
    /// When there are too many.
    pub fn count_rejects(&mut self, batch: &ResultBatch) -> anyhow::Result<()> {
        let end = batch.first_row + u64::from(batch.rows);
        let mut rejected = 0;
        // Most batches have no rejects, so the reader and its buffer would be wasted.
        let rejects = (!batch.rejects.is_empty()).then(|| read(&batch.rejects[..]));
        for reject in rejects.into_iter().flatten() {
            let (row, reason) = reject?;
            self.pass(row)?;
            self.count(row, &reason);
            rejected += 1;
            self.rows = row + 1;
            self.check(row + 1)?;
        }
        ensure!(
            rejected == batch.rejected,
            "batch {} says that it has {} rejects, but has {rejected}",
            batch.number,
            batch.rejected
        );
        self.pass(end)?;
        self.rows = end;
        Ok(())
    }

    /// Checks the whole job after its last batch.
    ///
    /// # Errors
    /// When all rows were rejected, or too many.
    pub fn finish(&self) -> anyhow::Result<()> {
        let Self { most, rows, rejects, reasons, .. } = self;
        if *rows > 0 && rejects == rows {
            bail!("all of the {rows} rows were rejected ({reasons}), so there are no results");
        }
        if most.are_too_many_in_all(*rejects, *rows) {
            return Err(self.too_many(*rows));
        }
        Ok(())
    }

    /// Passes over rows that have results, up to this one; checks the limit if they reach row [`MostRejects::FIRST`].
    fn pass(&self, row: u64) -> anyhow::Result<()> {
        let first = MostRejects::FIRST;
        if self.rows < first && first <= row { self.check(first) } else { Ok(()) }
    }

    fn count(&mut self, row: u64, reason: &str) {
        self.rejects += 1;
        self.reasons.count(row, reason);
    }

    fn check(&self, rows: u64) -> anyhow::Result<()> {
        if self.most.are_too_many(self.rejects, rows) { Err(self.too_many(rows)) } else { Ok(()) }
    }

    fn too_many(&self, rows: u64) -> anyhow::Error {
        let Self { rejects, reasons, most, .. } = self;
        match most {
            MostRejects::NotAllOfTheFirst => anyhow!(
                "the first {rows} rows were all rejected ({reasons}); to classify the other rows nevertheless, give \
                 --max-rejects 100%"
            ),
            _ => anyhow!(
                "{rejects} of the first {rows} rows were rejected ({reasons}), and --max-rejects allows {most}"
            ),
        }
    }
}

/// Reads the row and the reason of each reject.
fn read(rejects: impl Read) -> impl Iterator<Item = anyhow::Result<(u64, String)>> {
    let mut reader = Some(Reader::new(rejects, PEER_LIMIT));
    std::iter::from_fn(move || {
        let mut next = || -> anyhow::Result<Option<(u64, String)>> {
            let Some(record) = reader.as_mut().map(Reader::next_row).transpose()?.flatten() else {
                return Ok(None);
            };
            record.flaw.map_or(Ok(()), Err)?;
            let mut values = records::split(record.bytes)?.into_iter();
            let (row, reason) = (values.next().unwrap_or_default(), values.next().context("no reason")?);
            let row = std::str::from_utf8(&row)?.parse()?;
            Ok(Some((row, String::from_utf8_lossy(&reason).into_owned())))
        };
        let next = next().context("reading rejects").transpose();
        if !matches!(next, Some(Ok(_))) {
            reader = None;
        }
        next
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A batch with a row for each flag; the rows whose flag is set are rejected for `reason`.
    fn batch(first_row: u64, rejected: &[bool], reason: &str) -> ResultBatch {
        let rejects = (first_row..).zip(rejected).filter(|(_, rejected)| **rejected);
        let rejects: String =
            rejects.map(|(row, _)| format!("{row},\"{reason}\",\"a \"\"record\nof two lines\"\n")).collect();
        ResultBatch {
            first_row,
            rows: rejected.len() as u32,
            rejected: rejected.iter().filter(|rejected| **rejected).count() as u32,
            rejects: rejects.into(),
            ..ResultBatch::default()
        }
    }

    /// Runs a job of these rows in batches of `chunk` rows.
    fn run(most: MostRejects, rejected: &[bool], chunk: usize) -> Result<Reasons, String> {
        let mut audit = Audit::new(most);
        for (i, rows) in rejected.chunks(chunk).enumerate() {
            let batch = batch((i * chunk) as u64, rows, "bad");
            audit.admit(&batch).and_then(|_| audit.count_rejects(&batch)).map_err(|e| e.to_string())?;
        }
        audit.finish().map_err(|e| e.to_string())?;
        Ok(audit.reasons)
    }

    proptest! {
        /// A job ends with the same outcome, at the same row, whatever the batches and also when it was interrupted and
        /// resumed.
        #[test]
        fn the_outcome_does_not_depend_on_batches_or_restarts(
            rejected in prop::collection::vec(prop::bool::weighted(0.9), 0..60),
            before in 0usize..1100, all_before: bool, chunk in 1usize..700, percent in 0u32..=100, rows in 0u64..1100,
        ) {
            let rejected = [vec![all_before; before], rejected].concat();
            for most in [MostRejects::default(), MostRejects::Percent(f64::from(percent)), MostRejects::Rows(rows)] {
                let whole = run(most, &rejected, usize::MAX);
                prop_assert_eq!(&run(most, &rejected, chunk), &whole);
                prop_assert_eq!(&run(most, &rejected, 1), &whole);
                let (first, second) = rejected.split_at(chunk.min(rejected.len()));
                let rejects = batch(0, first, "bad").rejects;
                let mut resumed = Audit::new(most);
                let outcome = resumed
                    .resume(first.len() as u64, Schema::default(), &rejects[..])
                    .and_then(|()| resumed.count_rejects(&batch(first.len() as u64, second, "bad")))
                    .and_then(|()| resumed.finish());
                prop_assert_eq!(outcome.map(|()| resumed.reasons).map_err(|e| e.to_string()), whole);
            }
        }
    }

    #[test]
    fn a_job_whose_rows_were_all_rejected_fails_and_names_the_reasons() {
        let error = run(MostRejects::default(), &[true; 5], 2).unwrap_err();
        assert_eq!(error, "all of the 5 rows were rejected (5 as row 0: bad), so there are no results");
        let error = run(MostRejects::default(), &[true; 5000], 7).unwrap_err();
        assert!(error.starts_with("the first 1000 rows were all rejected (1000 as row 0: bad)"), "{error}");
        let error = run(MostRejects::Percent(100.0), &[true; 5000], 7).unwrap_err();
        assert!(error.starts_with("all of the 5000 rows were rejected"), "{error}");
        assert!(run(MostRejects::default(), &[], 1).is_ok());
    }

    #[test]
    fn an_exceeded_reject_limit_names_the_row() {
        let rejected: Vec<_> = (0..3000).map(|row| row % 100 == 7).collect();
        let error = run(MostRejects::Rows(12), &rejected, 1000).unwrap_err();
        assert!(error.starts_with("13 of the first 1208 rows were rejected"), "{error}");
        assert!(error.ends_with("and --max-rejects allows 12"), "{error}");
        assert!(run(MostRejects::Percent(1.1), &rejected, 10).is_ok());
        assert!(
            run(MostRejects::Percent(0.9), &rejected, 10)
                .unwrap_err()
                .starts_with("10 of the first 1000 rows")
        );
        // A job of fewer rows is checked only at its end.
        assert!(
            run(MostRejects::Percent(1.0), &rejected[..8], 1)
                .unwrap_err()
                .starts_with("1 of the first 8 rows")
        );
    }

    #[test]
    fn a_batch_with_a_wrong_reject_count_or_malformed_rejects_or_columns_is_an_error() {
        let mut audit = Audit::default();
        let lie = ResultBatch { rejected: 2, ..batch(0, &[true, false, false], "bad") };
        assert!(audit.count_rejects(&lie).unwrap_err().to_string().contains("has 2 rejects, but has 1"));
        let noise = ResultBatch { rejects: "x,y,z\n".into(), rows: 1, rejected: 1, ..ResultBatch::default() };
        assert!(audit.count_rejects(&noise).is_err());
        let noise = ResultBatch { schema: "[".into(), ..ResultBatch::default() };
        assert!(audit.admit(&noise).is_err());
    }
}
