//! A batch of rows in, a batch of results out: which records can be classified, and what happens when a model fails. Pure but
//! for the model.

use std::time::Instant;

use protocol::frame;
use protocol::results::ResultBatch;
use protocol::schema::encode_parts;
use records::{Shape, write_value};

use crate::batch::Batch;
use crate::model::{Columns, Model, ModelError, Record, Request, Verdict};
use crate::search::{End, Next, Pace, Search};

/// The longest results of a batch, in bytes; a row that would exceed it is rejected.
const MOST_RESULTS: usize = frame::PEER_LIMIT / 2;
/// About how many bytes the reasons in a batch's rejects may take; long ones are cut.
const REASONS: usize = 16 << 20;

/// Classifies batches with one model.
pub struct Classifier {
    model: Box<dyn Model>,
    /// How long rows take.
    pace: Pace,
    /// The schema of the batch before, and the parts it was made from. The next batch usually has the same.
    schema: (Vec<(u32, Columns)>, Vec<u8>),
}

impl Classifier {
    /// Classifies with this model.
    pub fn new(model: Box<dyn Model>) -> Self {
        Self { model, pace: Pace::default(), schema: Default::default() }
    }

    /// Whether a batch takes microseconds.
    pub fn is_quick(&self) -> bool {
        self.model.is_quick()
    }

    /// Classifies a batch. Each row comes out once, in the results or in the rejects.
    ///
    /// # Errors
    /// When no model can be had to try the rows with.
    pub fn classify(&mut self, batch: &Batch) -> Result<ResultBatch<Vec<u8>>, ModelError> {
        // The source admits no malformed header; under one, every record would be rejected.
        let columns = records::count(&batch.header).unwrap_or(0);
        let mut good = Vec::with_capacity(batch.rows as usize);
        let mut rejects = Vec::new();
        for (row, sent) in (batch.first_row..).zip(frame::rows(&batch.frames)) {
            let (checked, record) = match sent {
                frame::Row::Whole(record) => (check(record, columns), record),
                frame::Row::Flawed { reason, beginning } => (Err(reason.to_owned()), beginning),
            };
            match checked {
                Ok(plain) => good.push((row, Record { bytes: record, plain })),
                Err(reason) => rejects.push(Reject { row, reason, record }),
            }
        }
        // A score and its comma take at most 24 bytes and the line end one; the frame's length took four.
        let results = Vec::with_capacity(batch.frames.len() + good.len() * 21);
        let mut output = Output { results, rejects, parts: Vec::new() };
        self.search(&batch.header, &good, &mut output)?;
        let Output { results, mut rejects, parts } = output;
        let parts = parts.into_iter().map(|(row, columns)| ((row - batch.first_row) as u32, columns));
        let schema = self.schema(parts.collect());
        rejects.sort_unstable_by_key(|reject| reject.row);
        let longest_reason = (REASONS / rejects.len().max(1)).clamp(64, 1024);
        Ok(ResultBatch {
            number: batch.number,
            first_row: batch.first_row,
            rows: batch.rows,
            rejected: rejects.len() as u32,
            worker: batch.worker,
            schema,
            results,
            rejects: rejects.iter().flat_map(|reject| reject.line(longest_reason)).collect(),
        })
    }

    /// The schema of parts of a batch, each with its first row.
    fn schema(&mut self, parts: Vec<(u32, Columns)>) -> Vec<u8> {
        if parts.is_empty() {
            return Vec::new();
        }
        if parts != self.schema.0 {
            let encoded = encode_parts(parts.iter().map(|(row, columns)| (*row, &**columns)));
            self.schema = (parts, encoded);
        }
        self.schema.1.clone()
    }

    /// Classifies records, in the parts that a [`Search`] gives. Records that fail alone are rejected for the model's reason.
    fn search<'a>(
        &mut self,
        header: &[u8],
        records: &[(u64, Record<'a>)],
        output: &mut Output<'a>,
    ) -> Result<(), ModelError> {
        let plain: Vec<_> = records.iter().map(|(_, record)| *record).collect();
        let mut search = Search::new(records.len(), self.model.timeout());
        let mut last_hang = String::new();
        while let Some(next) = search.next(self.pace) {
            let (rows, limit) = match next {
                Next::Try(rows, limit) => (rows, limit),
                Next::GiveUp(rows) => {
                    let reason = format!(
                        "other rows of its batch took too long, and it was not tried alone: {last_hang}"
                    );
                    output.reject(&records[rows], &reason);
                    continue;
                }
            };
            self.model.prepare()?;
            let first_row = records[rows.start].0;
            let request = Request { header, records: &plain[rows.clone()], first_row, limit };
            let began = Instant::now();
            let outcome = output.classify(&mut *self.model, &request);
            let end = match &outcome {
                Ok(()) => End::Done,
                Err(error) => match error.verdict {
                    Verdict::NotTried => return outcome,
                    Verdict::Retry => End::Failed { permanent: false },
                    Verdict::Permanent => End::Failed { permanent: true },
                    Verdict::Hung => {
                        last_hang.clone_from(&error.message);
                        End::Hung
                    }
                },
            };
            let must_reject = search.end(end, began.elapsed(), &mut self.pace);
            if let (true, Err(error)) = (must_reject, outcome) {
                output.reject(&records[rows], &error.message);
            }
        }
        Ok(())
    }
}

/// What has become of a batch so far.
struct Output<'a> {
    results: Vec<u8>,
    rejects: Vec<Reject<'a>>,
    /// Parts of the results that have different columns, each with its first row.
    parts: Vec<(u64, Columns)>,
}

impl<'a> Output<'a> {
    /// Appends the results of all records of a request, or of none.
    fn classify(&mut self, model: &mut dyn Model, request: &Request<'_>) -> Result<(), ModelError> {
        let start = self.results.len();
        let outcome = model.classify(request, &mut self.results);
        match outcome.and_then(|columns| within_limit(&self.results).map(|()| columns)) {
            Ok(columns) => {
                if self.parts.last().is_none_or(|(_, before)| *before != columns) {
                    self.parts.push((request.first_row, columns));
                }
                Ok(())
            }
            Err(error) => {
                self.results.truncate(start);
                Err(error)
            }
        }
    }

    fn reject(&mut self, records: &[(u64, Record<'a>)], reason: &str) {
        self.rejects.extend(records.iter().map(|record| Reject::new(record, reason.to_owned())));
    }
}

/// Checks that the results of a batch are not too long so far.
fn within_limit(results: &[u8]) -> Result<(), ModelError> {
    if results.len() <= MOST_RESULTS {
        return Ok(());
    }
    Err(ModelError::permanent(format!(
        "with this row, the results of its batch are longer than {MOST_RESULTS} bytes; a smaller --chunk-size may leave \
         room for it"
    )))
}

/// Whether a record is [plain](Record::plain), or why it cannot be classified.
fn check(record: &[u8], columns: usize) -> Result<bool, String> {
    if record.is_empty() {
        return Err("an empty record".to_owned());
    }
    let shape = Shape::of(record);
    if !shape.ascii
        && let Err(error) = std::str::from_utf8(record)
    {
        return Err(format!("not UTF-8 after byte {}", error.valid_up_to()));
    }
    let values =
        if shape.special { records::count(record).map_err(|e| e.to_string())? } else { shape.commas + 1 };
    if values == columns {
        Ok(!shape.special)
    } else {
        Err(format!("{values} values; the header has {columns}"))
    }
}

/// A row that was not classified.
struct Reject<'a> {
    row: u64,
    reason: String,
    record: &'a [u8],
}

impl<'a> Reject<'a> {
    fn new((row, record): &(u64, Record<'a>), reason: String) -> Self {
        Self { row: *row, reason, record: record.bytes }
    }

    /// Its line in the rejects.
    fn line(&self, longest_reason: usize) -> Vec<u8> {
        let mut line = format!("{},", self.row).into_bytes();
        let mut reason = &self.reason[..self.reason.floor_char_boundary(longest_reason)];
        let cut;
        if reason.len() < self.reason.len() {
            cut = format!("{reason} …");
            reason = &cut;
        }
        write_value(reason.as_bytes(), &mut line);
        line.push(b',');
        write_value(self.record, &mut line);
        line.push(b'\n');
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::native::Native;
    use proptest::prelude::*;
    use std::time::Duration;

    fn batch(header: &'static str, rows: &[&[u8]]) -> Batch {
        let mut frames = Vec::new();
        for row in rows {
            frame::push(&mut frames, row);
        }
        Batch {
            number: 7,
            first_row: 700,
            rows: rows.len() as u32,
            worker: 3,
            header: header.into(),
            frames: frames.into(),
        }
    }

    fn text(bytes: &[u8]) -> String {
        String::from_utf8_lossy(bytes).into_owned()
    }

    #[test]
    fn what_stands_in_for_a_row_is_rejected_with_its_reason_and_no_byte_is_reserved() {
        let mut frames = Vec::new();
        frame::push(&mut frames, b"\x04");
        frame::push_flawed(&mut frames, "too long, say", b"1,\"begins");
        let batch = Batch { frames: frames.into(), ..batch("ID", &[b"", b""]) };
        let out = Classifier::new(Box::new(Native::new(0))).classify(&batch).unwrap();
        assert_eq!((out.rejected, text(&out.results)), (1, "\x04,0.8894159948913373\n".into()));
        assert_eq!(text(&out.rejects), "701,\"too long, say\",\"1,\"\"begins\"\n");
    }

    #[test]
    fn bad_records_are_rejected_with_row_and_reason() {
        let rows: [&[u8]; 8] =
            [b"1,a", b"", b"2", b"3,b,c", b"4,\xff", b"5,\"x", b"\"6\n\",\"a,b\"", b"7,a\n8,b"];
        let out = Classifier::new(Box::new(Native::new(0))).classify(&batch("ID,NAME", &rows)).unwrap();
        assert_eq!((out.number, out.first_row, out.rows, out.rejected, out.worker), (7, 700, 8, 6, 3));
        let score = "0.8894159948913373";
        assert_eq!(text(&out.results), format!("1,a,{score}\n\"6\n\",\"a,b\",{score}\n"));
        assert_eq!(
            text(&out.rejects),
            "701,an empty record,\n\
             702,1 values; the header has 2,2\n\
             703,3 values; the header has 2,\"3,b,c\"\n\
             704,not UTF-8 after byte 2,\"4,\u{fffd}\"\n\
             705,a quoted value is not closed,\"5,\"\"x\"\n\
             707,a line end outside quotes,\"7,a\n8,b\"\n"
        );
    }

    /// Fails on every batch that holds a record beginning with `x`, and now and then for no reason.
    struct Moody {
        calls: u64,
        moods: u64,
    }

    impl Model for Moody {
        fn classify(&mut self, request: &Request<'_>, out: &mut Vec<u8>) -> Result<Columns, ModelError> {
            self.calls += 1;
            if self.moods > 0 && self.calls.is_multiple_of(self.moods) {
                out.extend_from_slice(b"half a line");
                return Err(ModelError::new("a mood"));
            }
            for record in request.records {
                if record.bytes.starts_with(b"x") {
                    return Err(ModelError::new("an x"));
                }
                out.extend_from_slice(record.bytes);
                out.push(b'\n');
            }
            Ok(Columns::default())
        }
    }

    proptest! {
        #[test]
        fn guilty_records_are_found_and_all_others_come_out_in_order(
            guilty in prop::collection::vec(any::<bool>(), 0..130),
        ) {
            let rows: Vec<_> = guilty.iter().enumerate()
                .map(|(i, &bad)| format!("{}{i}", if bad { "x" } else { "y" }))
                .collect();
            let records: Vec<_> = rows.iter().map(String::as_bytes).collect();
            let out = Classifier::new(Box::new(Moody { calls: 0, moods: 0 })).classify(&batch("A", &records)).unwrap();
            let good: String = rows.iter().filter(|r| r.starts_with('y')).map(|r| format!("{r}\n")).collect();
            let bad: String = rows.iter().enumerate().filter(|(_, r)| r.starts_with('x'))
                .map(|(i, r)| format!("{},an x,{r}\n", 700 + i)).collect();
            prop_assert_eq!(text(&out.results), good);
            prop_assert_eq!(text(&out.rejects), bad);
            prop_assert_eq!(out.rejected as usize, guilty.iter().filter(|bad| **bad).count());
        }
    }

    /// Gives each record a result of this many bytes, or fails in so many words.
    struct Wordy(Result<usize, usize>);

    impl Model for Wordy {
        fn classify(&mut self, request: &Request<'_>, out: &mut Vec<u8>) -> Result<Columns, ModelError> {
            let length = self.0.map_err(|words| ModelError::permanent("é".repeat(words)))?;
            request.records.iter().for_each(|_| out.resize(out.len() + length, b'w'));
            Ok(Columns::default())
        }
    }

    #[test]
    fn a_batch_is_never_longer_than_what_the_receiver_takes() {
        // Three times that is just too much, so of four rows two find room.
        let length = MOST_RESULTS / 3 + 1;
        let out = Classifier::new(Box::new(Wordy(Ok(length))))
            .classify(&batch("A", &[b"1", b"2", b"3", b"4"]))
            .unwrap();
        assert_eq!((out.results.len(), out.rejected), (2 * length, 2));
        assert!(text(&out.rejects).starts_with("702,\"with this row, the results of its batch are longer"));
        let out = Classifier::new(Box::new(Wordy(Err(1000)))).classify(&batch("A", &[b"1"])).unwrap();
        assert_eq!(text(&out.rejects), format!("700,{} …,1\n", "é".repeat(512)));
    }

    const LIMIT: Duration = Duration::from_secs(60);

    /// Hangs on all, and counts.
    struct Hung(std::sync::Arc<std::sync::atomic::AtomicUsize>);

    impl Model for Hung {
        fn classify(&mut self, request: &Request<'_>, _: &mut Vec<u8>) -> Result<Columns, ModelError> {
            let before = self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            // The first tries have the whole limit, however few rows they have.
            assert_eq!(request.limit, if before < 8 { LIMIT } else { LIMIT / 8 });
            Err(ModelError { message: "it hung".into(), verdict: Verdict::Hung })
        }

        fn timeout(&self) -> Duration {
            LIMIT
        }
    }

    #[test]
    fn a_batch_on_which_the_box_always_hangs_is_given_up() {
        let rows: Vec<_> = (0..100).map(|i| i.to_string()).collect();
        let rows: Vec<_> = rows.iter().map(String::as_bytes).collect();
        let calls = std::sync::Arc::default();
        let out = Classifier::new(Box::new(Hung(std::sync::Arc::clone(&calls))))
            .classify(&batch("A", &rows))
            .unwrap();
        assert_eq!((out.rejected, out.results.len()), (100, 0));
        assert!(calls.load(std::sync::atomic::Ordering::Relaxed) <= 8 + 4 * 8, "{calls:?}");
        let rejects = text(&out.rejects);
        assert!(rejects.starts_with("700,it hung,"), "{rejects}");
        let reason = "other rows of its batch took too long, and it was not tried alone: it hung";
        assert!(rejects.lines().last().unwrap().contains(reason), "{rejects}");
    }

    #[test]
    fn a_box_that_fails_once_is_asked_again() {
        let mut classifier = Classifier::new(Box::new(Moody { calls: 1, moods: 2 }));
        let out = classifier.classify(&batch("A", &[b"y1", b"y2"])).unwrap();
        assert_eq!((text(&out.results).as_str(), out.rejected), ("y1\ny2\n", 0));
    }

    /// Gives these verdicts one after the other, and then does what it should.
    struct Scripted(Vec<Verdict>);

    impl Model for Scripted {
        fn classify(&mut self, _: &Request<'_>, out: &mut Vec<u8>) -> Result<Columns, ModelError> {
            match self.0.pop() {
                Some(verdict) => Err(ModelError { message: "as written".into(), verdict }),
                None => {
                    out.extend_from_slice(b"done\n");
                    Ok(Columns::default())
                }
            }
        }
    }

    #[test]
    fn a_lone_record_is_judged_by_its_second_try_and_never_without_a_box() {
        let judge = |verdicts: &[Verdict]| {
            let mut classifier = Classifier::new(Box::new(Scripted(verdicts.to_vec())));
            classifier.classify(&batch("A", &[b"1"])).map(|out| out.rejected)
        };
        for verdict in [Verdict::Retry, Verdict::Hung] {
            assert_eq!(judge(&[verdict]), Ok(0));
            assert_eq!(judge(&[verdict; 2]), Ok(1));
            assert_eq!(judge(&[Verdict::NotTried, verdict]).unwrap_err().message, "as written");
        }
        assert_eq!(judge(&[Verdict::Permanent]), Ok(1));
    }
}
