//! Measures the hub's cost in an hour of a wide job, with the reports of each second at once: `cargo bench --package hub`. An
//! argument changes the number of seconds.

#![allow(clippy::print_stdout, reason = "these are the figures")]

use std::time::Duration;

use hub::scenario::Scenario;
use hub::tracker::Tracker;
use hub::web::message;
use telemetry::report::Report;

const HOUR: u64 = 3600;

/// Processor time of this thread, which is the only one.
fn used() -> Duration {
    let statistics = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux has this file");
    let nanoseconds = statistics.split(' ').next().and_then(|first| first.parse().ok());
    Duration::from_nanos(nanoseconds.expect("the first number is the processor time"))
}

fn peak_memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.unwrap_or(" unknown").trim().to_owned()
}

fn main() {
    let seconds = std::env::args().find_map(|word| word.parse().ok()).unwrap_or(HOUR);
    let job = Scenario { machines: 16, seconds, ..Scenario::default() };
    let mut tracker = Tracker::default();
    let (mut receive_time, mut send_time) = (Duration::ZERO, Duration::ZERO);
    let (mut received, mut sent) = (0, 0);
    for second in 0..=job.seconds {
        let now = Duration::from_secs(second);
        let reports: Vec<_> = job
            .names()
            .iter()
            .map(|name| (Scenario::origin(name, 1), serde_json::to_vec(&job.report(name, second, 0))))
            .collect();
        let start = used();
        for (origin, report) in reports {
            let report = report.expect("reports can be encoded");
            received += report.len();
            let report = Report::decode(&report).expect("reports can be decoded");
            tracker.on_report(&origin, report, now);
        }
        tracker.tick(now);
        let between = used();
        sent += message(&tracker, now).len();
        receive_time += between - start;
        send_time += used() - between;
    }
    let share = |time: Duration| 100.0 * time.as_secs_f64() / job.seconds as f64;
    let rate = |bytes: usize| bytes as f64 / job.seconds as f64 / 1000.0;
    let workers = job.machines * job.workers;
    println!("{workers} workers on {} machines, {} s", job.machines, job.seconds);
    println!("memory     {} at most, reports of all programs included", peak_memory());
    println!("reports    {:.1} kB/s, {:.2} % of a core", rate(received), share(receive_time));
    println!("one page   {:.1} kB/s, {:.2} % of a core", rate(sent), share(send_time));
}
