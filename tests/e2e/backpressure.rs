//! A stopped receiver stops the sender, and memory stays flat.

use std::time::Duration;

use tests::cluster::{Cluster, Setup};
use tests::program::Program;
use tests::{eventually, memory_kib};

const MIB: u64 = 1024;

/// Current and peak resident memory of each program of a job, in KiB.
fn memory(cluster: &Cluster, sender: &Program) -> Vec<(u64, u64)> {
    let mut programs = vec![&cluster.receiver, sender];
    programs.extend(&cluster.classifiers);
    programs.iter().filter_map(|program| memory_kib(program.pid())).collect()
}

#[test]
fn a_stopped_receiver_stops_the_sender_and_memory_stays_flat() {
    let mut cluster = Setup::default().args(["--slowness", "0"]).start();
    let log = cluster.path("results.log");
    let written = || std::fs::metadata(&log).map_or(0, |log| log.len());
    let mut sender = cluster.sender(["--lines", "3000000"]);
    eventually("results", || (written() > 1 << 20).then_some(()));
    cluster.receiver.signal("STOP");
    let before = memory(&cluster, &sender);
    // Wait until all buffers are full: the sender is idle when it uses no more processor time.
    let mut last = (0, 0);
    eventually("the sender to become idle", || {
        std::thread::sleep(Duration::from_millis(300));
        let now = (cpu_ticks(sender.pid()), cpu_ticks(cluster.classifiers[0].pid()));
        let is_idle = now.0 == last.0 && now.1 <= last.1 + 1;
        last = now;
        is_idle.then_some(())
    });
    assert!(sender.is_running(), "the sender has sent everything");
    for (before, now) in before.iter().zip(memory(&cluster, &sender)) {
        assert!(now.1 <= before.0 + 64 * MIB, "a process grew from {} to {} KiB", before.0, now.1);
    }
    cluster.receiver.signal("CONT");
    sender.success();
    let results = cluster.results();
    assert_eq!((results.summary.rows, results.summary.rejects), (3_000_000, 0));
    let lines = results.log.split(|&b| b == b'\n').filter(|line| !line.is_empty());
    for (i, line) in lines.enumerate() {
        assert!(
            line.starts_with(format!("{i},").as_bytes()),
            "line {i} is {}",
            String::from_utf8_lossy(line)
        );
    }
}

#[test]
fn wide_rows_are_bounded_by_bytes_too() {
    let mut cluster = Setup::default().args(["--slowness", "0"]).start();
    let row = vec![b'x'; 1_000_000];
    let mut csv = b"V\n".to_vec();
    for _ in 0..300 {
        csv.extend_from_slice(&row);
        csv.push(b'\n');
    }
    std::fs::write(cluster.path("wide.csv"), csv).unwrap();
    cluster.receiver.signal("STOP");
    let mut sender = cluster.sender([cluster.path("wide.csv").to_str().unwrap()]);
    let mut last = 0;
    eventually("the classifier to become idle", || {
        std::thread::sleep(Duration::from_millis(300));
        let now = cpu_ticks(cluster.classifiers[0].pid());
        let is_idle = now > 0 && now <= last + 1;
        last = now;
        is_idle.then_some(())
    });
    let (_, highest) = memory_kib(cluster.classifiers[0].pid()).unwrap();
    assert!(highest < 120 * MIB, "the classifier holds {highest} KiB");
    cluster.receiver.signal("CONT");
    sender.success();
    assert_eq!(cluster.results().summary.rows, 300);
}

/// Processor time of a process, in clock ticks.
fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    fields.get(11..13).map_or(0, |times| times.iter().filter_map(|t| t.parse::<u64>().ok()).sum())
}

#[test]
fn memory_does_not_depend_on_the_number_of_rows() {
    let highest = |lines: &str| {
        // A short window, so that even the smaller number of rows is much more than fits into it.
        let mut cluster = Setup::default().args(["--slowness", "0", "--window-mib", "8"]).start();
        let mut sender = cluster.sender(["--lines", lines]);
        let mut highest = 0;
        eventually("the job's end", || {
            highest = highest.max(memory(&cluster, &sender).iter().map(|(_, highest)| highest).sum());
            (!sender.is_running()).then_some(())
        });
        cluster.results();
        highest
    };
    // More than all buffers hold, and ten times as much.
    let (few, many) = (highest("400000"), highest("4000000"));
    assert!(many < few + 20 * MIB, "{few} KiB for 400,000 rows, and {many} KiB for 4,000,000");
}
