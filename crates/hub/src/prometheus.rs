//! `/metrics`: Prometheus's text format, version 0.0.4.
//!
//! No crate is lighter than these lines. `prometheus-client` writes only OpenMetrics, which names counters differently, and which
//! `promtool check metrics` rejects. `prometheus` and `metrics-exporter-prometheus` write this format from their own registries,
//! into which the hub would have to copy its counters and histograms before each scrape. Both have more dependencies than there
//! are functions here.

use std::fmt::Write;
use std::time::Duration;

use telemetry::view::{JobState, Liveness, StageName, Worker};

use crate::snapshot;
use crate::tracker::Tracker;

/// The content type of the format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The answer to a scrape.
pub fn write(tracker: &Tracker, now: Duration) -> String {
    let mut out = Exposition(String::with_capacity(16 << 10));
    let job = snapshot::job(tracker, now);
    let rows = &job.rows;
    // A restarted hub does not know these counts at first, and counters must not return to zero.
    if tracker.receiver().is_some() {
        out.one("classifier_input_rows_total", "counter", "Rows that have arrived.", rows.read as f64);
        out.one(
            "classifier_output_rows_total",
            "counter",
            "Durable rows, rejects included.",
            rows.written as f64,
        );
        out.one(
            "classifier_rejected_rows_total",
            "counter",
            "Rows that could not be classified.",
            rows.rejected as f64,
        );
        out.one("classifier_output_bytes_total", "counter", "Bytes of durable results.", job.bytes as f64);
    }
    let window =
        job.stages.iter().find(|stage| stage.name == StageName::Batcher).map_or(0, |stage| stage.in_flight);
    out.one(
        "classifier_batches_in_flight",
        "gauge",
        "Batches that are issued and not durable.",
        window as f64,
    );
    out.one(
        "classifier_elapsed_seconds",
        "gauge",
        "Time from the job's beginning until now or its end.",
        job.elapsed_seconds,
    );

    out.head("classifier_job_state", "gauge", "1 for the job's state, 0 for the others.");
    for state in JobState::ALL {
        let is_it = if state == job.state { 1.0 } else { 0.0 };
        out.sample("classifier_job_state", &[("state", state.name())], is_it);
    }

    let name = "classifier_computation_duration_seconds";
    out.head(name, "histogram", "Durations of computations, each for a batch.");
    for (computation, _, durations) in snapshot::durations(tracker) {
        for (bound, count) in durations.counts_up_to(bounds()) {
            let limit = bound.as_secs_f64().to_string();
            let labels = [("computation", computation), ("le", &limit)];
            out.sample(&format!("{name}_bucket"), &labels, count as f64);
        }
        let labels = [("computation", computation), ("le", "+Inf")];
        out.sample(&format!("{name}_bucket"), &labels, durations.count() as f64);
        out.sample(&format!("{name}_sum"), &labels[..1], durations.sum().as_secs_f64());
        out.sample(&format!("{name}_count"), &labels[..1], durations.count() as f64);
    }

    let workers = snapshot::workers(tracker, now);
    type Value = fn(&Worker) -> f64;
    let of_workers: [(&str, &str, &str, Value); 4] = [
        ("classifier_worker_up", "gauge", "Whether the worker reports.", |w| {
            f64::from(u8::from(w.state == Liveness::Up))
        }),
        ("classifier_worker_rows_total", "counter", "Rows that the worker has classified.", |w| {
            w.rows as f64
        }),
        ("classifier_worker_batches_total", "counter", "Batches that the worker has classified.", |w| {
            w.batches as f64
        }),
        ("classifier_worker_restarts_total", "counter", "How often the worker was restarted.", |w| {
            w.restarts as f64
        }),
    ];
    for (name, kind, help, value) in of_workers {
        out.head(name, kind, help);
        for worker in &workers {
            out.sample(name, &[("worker", &worker.name), ("machine", &worker.machine)], value(worker));
        }
    }
    let name = "classifier_worker_last_seen_timestamp_seconds";
    out.head(name, "gauge", "When the worker last reported, in seconds since 1970.");
    let as_of = tracker.as_of(now).as_secs_f64();
    for worker in &workers {
        out.sample(name, &[("worker", &worker.name)], as_of - worker.last_seen_seconds);
    }
    let name = "classifier_worker_resident_memory_bytes";
    out.head(name, "gauge", "Memory of the worker's process, which all its workers share.");
    for worker in &workers {
        out.sample(name, &[("worker", &worker.name)], worker.resident_bytes as f64);
    }
    out.0
}

/// 1, 2 and 5 times each power of ten, from one microsecond to 500 seconds.
fn bounds() -> impl Iterator<Item = Duration> {
    (0..9).flat_map(|power| [1, 2, 5].map(|first| Duration::from_micros(first * 10u64.pow(power))))
}

struct Exposition(String);

impl Exposition {
    fn one(&mut self, name: &str, kind: &str, help: &str, value: f64) {
        self.head(name, kind, help);
        self.sample(name, &[], value);
    }

    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string does not fail, here and below.
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.0.push_str(name);
        for (i, (label, text)) in labels.iter().enumerate() {
            let escaped = text.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n");
            let _ = write!(self.0, "{}{label}=\"{escaped}\"", if i == 0 { '{' } else { ',' });
        }
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        let mut out = Exposition(String::new());
        out.one("a_total", "counter", "What it is.", 3.0);
        out.sample("b", &[("x", "1"), ("y", "\"\\\n")], 0.25);
        assert_eq!(
            out.0,
            "# HELP a_total What it is.\n# TYPE a_total counter\na_total 3\nb{x=\"1\",y=\"\\\"\\\\\\n\"} 0.25\n"
        );
    }
}
