use super::work::MOST_RESULTS;
use super::*;
use crate::model::Request;
use crate::model::native::Native;
use proptest::prelude::*;
use protocol::frame;
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
        types: bytes::Bytes::new(),
        frames: frames.into(),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_flawed_row_is_rejected_with_its_reason_and_rows_may_have_any_bytes() {
    let mut frames = Vec::new();
    frame::push(&mut frames, b"\x04");
    frame::push_flawed(&mut frames, "too long, say", b"1,\"begins");
    let batch = Batch { frames: frames.into(), ..batch("ID", &[b"", b""]) };
    let out = Classifier::new(Box::new(Native::new(0))).classify(batch).unwrap();
    assert_eq!((out.rejected, text(&out.results)), (1, "\x04,0.8894159948913373\n".into()));
    assert_eq!(text(&out.rejects), "701,\"too long, say\",\"1,\"\"begins\"\n");
}

#[test]
fn bad_records_are_rejected_with_row_and_reason() {
    let rows: [&[u8]; 8] =
        [b"1,a", b"", b"2", b"3,b,c", b"4,\xff", b"5,\"x", b"\"6\n\",\"a,b\"", b"7,a\n8,b"];
    let out = Classifier::new(Box::new(Native::new(0))).classify(batch("ID,NAME", &rows)).unwrap();
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

/// Fails on every batch with a record that begins with `x`, and on each `fails_every`-th call.
struct Flaky {
    calls: u64,
    /// 0 for never.
    fails_every: u64,
}

impl Model for Flaky {
    fn append(
        &mut self,
        _: Vec<u8>,
        request: &Request<'_>,
        out: &mut Vec<u8>,
    ) -> Result<Columns, ModelError> {
        self.calls += 1;
        if self.fails_every > 0 && self.calls.is_multiple_of(self.fails_every) {
            out.extend_from_slice(b"half a line");
            return Err(ModelError::new("flaky"));
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
    fn failing_records_are_rejected_and_all_others_come_out_in_order(
        failing in prop::collection::vec(any::<bool>(), 0..130),
    ) {
        let rows: Vec<_> = failing.iter().enumerate()
            .map(|(i, &bad)| format!("{}{i}", if bad { "x" } else { "y" }))
            .collect();
        let records: Vec<_> = rows.iter().map(String::as_bytes).collect();
        let model = Flaky { calls: 0, fails_every: 0 };
        let out = Classifier::new(Box::new(model)).classify(batch("A", &records)).unwrap();
        let good: String = rows.iter().filter(|r| r.starts_with('y')).map(|r| format!("{r}\n")).collect();
        let bad: String = rows.iter().enumerate().filter(|(_, r)| r.starts_with('x'))
            .map(|(i, r)| format!("{},an x,{r}\n", 700 + i)).collect();
        prop_assert_eq!(text(&out.results), good);
        prop_assert_eq!(text(&out.rejects), bad);
        prop_assert_eq!(out.rejected as usize, failing.iter().filter(|bad| **bad).count());
    }
}

/// Returns a result of `Ok` bytes for each record, or fails with a reason of `Err` characters.
struct Wordy(Result<usize, usize>);

impl Model for Wordy {
    fn append(
        &mut self,
        _: Vec<u8>,
        request: &Request<'_>,
        out: &mut Vec<u8>,
    ) -> Result<Columns, ModelError> {
        let length = self.0.map_err(|length| ModelError::permanent("é".repeat(length)))?;
        request.records.iter().for_each(|_| out.resize(out.len() + length, b'w'));
        Ok(Columns::default())
    }
}

#[test]
fn a_batch_is_never_longer_than_the_receiver_accepts() {
    // Three results of this length are just too long, so two of the four rows fit.
    let length = MOST_RESULTS / 3 + 1;
    let out =
        Classifier::new(Box::new(Wordy(Ok(length)))).classify(batch("A", &[b"1", b"2", b"3", b"4"])).unwrap();
    assert_eq!((out.results.len(), out.rejected), (2 * length, 2));
    assert!(text(&out.rejects).starts_with("702,\"with this row, the results of its batch are longer"));
    let out = Classifier::new(Box::new(Wordy(Err(1000)))).classify(batch("A", &[b"1"])).unwrap();
    assert_eq!(text(&out.rejects), format!("700,{} …,1\n", "é".repeat(512)));
}

const LIMIT: Duration = Duration::from_secs(60);

/// Hangs on every call, and counts the calls.
struct Hung(std::sync::Arc<std::sync::atomic::AtomicUsize>);

impl Model for Hung {
    fn append(&mut self, _: Vec<u8>, request: &Request<'_>, _: &mut Vec<u8>) -> Result<Columns, ModelError> {
        let before = self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        // The first tries get the whole limit, however few rows they have.
        assert_eq!(request.limit, if before < 8 { LIMIT } else { LIMIT / 8 });
        Err(ModelError { message: "it hung".into(), verdict: Verdict::Hung })
    }

    fn timeout(&self) -> Duration {
        LIMIT
    }
}

#[test]
fn a_batch_on_which_the_model_always_hangs_is_given_up() {
    let rows: Vec<_> = (0..100).map(|i| i.to_string()).collect();
    let rows: Vec<_> = rows.iter().map(String::as_bytes).collect();
    let calls = std::sync::Arc::default();
    let out =
        Classifier::new(Box::new(Hung(std::sync::Arc::clone(&calls)))).classify(batch("A", &rows)).unwrap();
    assert_eq!((out.rejected, out.results.len()), (100, 0));
    assert!(calls.load(std::sync::atomic::Ordering::Relaxed) <= 8 + 4 * 8, "{calls:?}");
    let rejects = text(&out.rejects);
    assert!(rejects.starts_with("700,it hung,"), "{rejects}");
    let reason = "other rows of its batch took too long, and it was not tried alone: it hung";
    assert!(rejects.lines().last().unwrap().contains(reason), "{rejects}");
}

#[test]
fn a_batch_is_retried_after_a_failure() {
    let mut classifier = Classifier::new(Box::new(Flaky { calls: 1, fails_every: 2 }));
    let out = classifier.classify(batch("A", &[b"y1", b"y2"])).unwrap();
    assert_eq!((text(&out.results).as_str(), out.rejected), ("y1\ny2\n", 0));
    let counts = classifier.model_metrics().counts();
    assert_eq!((counts.retries, counts.splits), (1, 0));
}

#[test]
fn retries_and_splits_are_counted() {
    let mut classifier = Classifier::new(Box::new(Flaky { calls: 0, fails_every: 0 }));
    classifier.classify(batch("A", &[b"y1", b"y2", b"y3", b"x4"])).unwrap();
    let counts = classifier.model_metrics().counts();
    // Retries: all four rows, and the last row alone. Splits: the batch and its second half.
    assert_eq!((counts.retries, counts.splits), (2, 2));
}

/// Fails with these verdicts, the last one first, and then succeeds.
struct Scripted(Vec<Verdict>);

impl Model for Scripted {
    fn append(&mut self, _: Vec<u8>, _: &Request<'_>, out: &mut Vec<u8>) -> Result<Columns, ModelError> {
        match self.0.pop() {
            Some(verdict) => Err(ModelError { message: "scripted".into(), verdict }),
            None => {
                out.extend_from_slice(b"done\n");
                Ok(Columns::default())
            }
        }
    }
}

#[test]
fn a_lone_record_is_rejected_on_its_second_failure_and_never_when_no_model_ran() {
    let rejected = |verdicts: &[Verdict]| {
        let mut classifier = Classifier::new(Box::new(Scripted(verdicts.to_vec())));
        classifier.classify(batch("A", &[b"1"])).map(|out| out.rejected)
    };
    for verdict in [Verdict::Retry, Verdict::Hung] {
        assert_eq!(rejected(&[verdict]), Ok(0));
        assert_eq!(rejected(&[verdict; 2]), Ok(1));
        assert_eq!(rejected(&[Verdict::NotTried, verdict]).unwrap_err().message, "scripted");
    }
    assert_eq!(rejected(&[Verdict::Permanent]), Ok(1));
}
