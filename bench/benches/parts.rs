//! Measures a job's inner parts, each alone: `cargo bench --package bench`, with `-- NAME` for some of them.
//!
//! All use the same 1,000 fake rows, so that their rows a second can be compared with those of a whole job.

use std::hint::black_box;

use bytes::Bytes;
use classifier::batch::Batch;
use classifier::classify::Classifier;
use classifier::model::native::Native;
use criterion::{BatchSize, Criterion, Throughput};
use protocol::frame::{self, DEFAULT_LIMIT, FrameReader};
use protocol::results::ResultBatch;
use receiver::reorder::{Held, ReorderBuffer};
use records::Reader;
use sender::fake_rows::FakeRows;

const ROWS: u64 = 1000;
const BATCH_ROWS: usize = 100;

fn rows() -> Vec<Vec<u8>> {
    let fake = FakeRows::new(0);
    let row = |i| {
        let mut row = Vec::new();
        fake.write(i, &mut row);
        row
    };
    (0..ROWS).map(row).collect()
}

fn frames() -> Vec<u8> {
    rows().iter().fold(Vec::new(), |mut frames, row| {
        frame::push(&mut frames, row);
        frames
    })
}

fn batches() -> Vec<Batch> {
    let frames = frames();
    let (mut batches, mut reader) = (Vec::new(), reader(&frames));
    for number in 0..ROWS / BATCH_ROWS as u64 {
        let (run, _) = reader.run(BATCH_ROWS, usize::MAX).expect("these are whole frames");
        batches.push(Batch {
            number,
            first_row: number * BATCH_ROWS as u64,
            rows: BATCH_ROWS as u32,
            worker: 0,
            header: Bytes::from_static(sender::HEADER),
            types: Bytes::new(),
            frames: run.bytes,
        });
    }
    batches
}

fn reader(frames: &[u8]) -> FrameReader<&[u8]> {
    FrameReader::new(frames, "this bench", DEFAULT_LIMIT)
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("parts");
    group.throughput(Throughput::Elements(ROWS));

    let fake = FakeRows::new(0);
    let mut out = Vec::new();
    group.bench_function("generator", |bencher| {
        bencher.iter(|| {
            out.clear();
            (0..ROWS).for_each(|i| fake.write(black_box(i), &mut out));
        });
    });

    let rows = rows();
    group.bench_function("framing", |bencher| {
        bencher.iter(|| {
            out.clear();
            rows.iter().for_each(|row| frame::push(&mut out, black_box(row)));
        });
    });

    let csv = rows.join(&b'\n');
    group.bench_function("record reader", |bencher| {
        bencher.iter(|| {
            let mut reader = Reader::new(black_box(csv.as_slice()), DEFAULT_LIMIT);
            while let Some(record) = reader.next_row().expect("this is a CSV") {
                black_box(record);
            }
        });
    });

    let frames = frames();
    group.bench_function("batcher", |bencher| {
        bencher.iter(|| {
            let mut reader = reader(black_box(&frames));
            for _ in 0..ROWS as usize / BATCH_ROWS {
                black_box(reader.run(BATCH_ROWS, usize::MAX).expect("these are whole frames"));
            }
        });
    });

    let batches = batches();
    for (name, slowness) in [("native model", 10), ("native model without a hash", 0)] {
        let mut classifier = Classifier::new(Box::new(Native::new(slowness)));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                for batch in &batches {
                    black_box(classifier.classify(batch.clone()).expect("this model never fails"));
                }
            });
        });
    }

    // A hundred batches, in the order of seven workers of different speeds.
    let mut results: Vec<_> = (0..100).map(result).collect();
    results.sort_by_key(|batch| batch.number + 13 * (batch.number % 7));
    group.throughput(Throughput::Elements(100 * BATCH_ROWS as u64));
    group.bench_function("ordering", |bencher| {
        bencher.iter_batched(
            || results.clone(),
            |results| {
                let mut order = ReorderBuffer::new(0, 0);
                for batch in results {
                    order.insert(Held::InMemory(batch));
                    while let Some(batch) = order.take().expect("rows follow each other") {
                        black_box(batch);
                    }
                }
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
    criterion.final_summary();
}

fn result(number: u64) -> ResultBatch {
    ResultBatch {
        number,
        first_row: number * BATCH_ROWS as u64,
        rows: BATCH_ROWS as u32,
        rejected: 0,
        worker: (number % 7) as u32,
        schema: Bytes::new(),
        results: Bytes::from_static(&[b'x'; 15_000]),
        rejects: Bytes::new(),
    }
}
