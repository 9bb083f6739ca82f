//! Measures how fast this machine can hash and print rows, with nothing around it. Throughput is compared with this floor.
//!
//! `hash-floor CSV THREADS SLOWNESS` prints JSON: the number of rows, and the seconds that they took. It is a simple
//! implementation that shares no code with the project's model, so that gains in the model show.

#![allow(clippy::print_stdout, reason = "this is the figure")]

use std::fmt::Write;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use anyhow::Context;
use sha2::{Digest, Sha256};

/// How many rows of a file are used; these already exceed a processor's caches.
const MOST_ROWS: usize = 1_000_000;
/// The rows are hashed repeatedly until this time has passed.
const LEAST_TIME: Duration = Duration::from_secs(2);

fn main() -> anyhow::Result<()> {
    let mut words = std::env::args().skip(1);
    let mut word = |what| words.next().with_context(|| format!("no {what}: hash-floor CSV THREADS SLOWNESS"));
    let (path, threads, slowness) = (word("CSV")?, word("THREADS")?, word("SLOWNESS")?);
    let threads: usize = threads.parse().context("THREADS is a number")?;
    let slowness: u32 = slowness.parse().context("SLOWNESS is a number")?;
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let rows: Vec<_> = text.lines().skip(1).take(MOST_ROWS).collect();
    let parts: Vec<_> = rows.chunks(rows.len().div_ceil(threads).max(1)).collect();

    let begin = Barrier::new(parts.len() + 1);
    let (count, seconds) = std::thread::scope(|scope| {
        let workers: Vec<_> = (parts.iter().copied())
            .map(|part| {
                let begin = &begin;
                scope.spawn(move || {
                    begin.wait();
                    let start = Instant::now();
                    let mut count = 0;
                    while start.elapsed() < LEAST_TIME {
                        std::hint::black_box(classify(part, slowness));
                        count += part.len();
                    }
                    count
                })
            })
            .collect();
        begin.wait();
        let start = Instant::now();
        let count: usize = workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .sum();
        (count, start.elapsed().as_secs_f64())
    });
    println!("{}", serde_json::json!({ "rows": count, "seconds": seconds }));
    Ok(())
}

fn classify(rows: &[&str], slowness: u32) -> usize {
    let (mut values, mut results) = (Vec::new(), String::new());
    let mut longest = 0;
    for batch in rows.chunks(100) {
        results.clear();
        for row in batch {
            values.clear();
            join(row, &mut values);
            let mut hash = Sha256::new();
            for _ in 0..slowness {
                hash.update(&values);
            }
            let digest: [u8; 32] = hash.finalize().into();
            let first = digest[..8].iter().fold(0, |first, byte| first << 8 | u64::from(*byte));
            let score = (first >> 11) as f64 / (1u64 << 53) as f64;
            // Writing to a string does not fail.
            let _ = writeln!(results, "{row},{}", zmij::Buffer::new().format_finite(score));
        }
        longest = longest.max(results.len());
    }
    longest
}

/// Appends the row's values with 0x1F between them.
fn join(row: &str, values: &mut Vec<u8>) {
    let (mut quoted, mut before) = (false, 0);
    for byte in row.bytes() {
        match byte {
            b'"' => {
                if !quoted && before == b'"' {
                    values.push(b'"');
                }
                quoted = !quoted;
            }
            b',' if !quoted => values.push(0x1f),
            _ => values.push(byte),
        }
        before = byte;
    }
}
