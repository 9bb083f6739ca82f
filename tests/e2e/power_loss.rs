//! No acknowledged batch is lost, whenever the power fails.
//!
//! A real receiver runs under strace. From the order of its system calls, the test derives disks that a power loss may leave
//! ([`disk`]), and opens them with the receiver's own code.

mod disk;
mod trace;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use disk::{Disk, Files, Random};
use protocol::result_files::ResultFiles;
use receiver::store::{self, Opened, Storage};
use tempfile::TempDir;
use tests::cluster::{Results, read_results};
use tests::program::Program;
use tests::{PATIENCE, eventually, send_frames};
use trace::{Moment, What};

const ROWS: usize = 4000;
/// Rows of a batch; small batches cause many syncs.
const CHUNK: usize = 10;
const CASES: u64 = 2000;
/// How many moments before and after a receiver's start or end are tried more often than others.
const CORNER: usize = 30;
/// Environment variable with `FOLDER SEED` of a failed case, to repeat it.
const REPEAT: &str = "POWER_LOSS";

#[test]
fn power_is_lost_while_a_receiver_works() {
    let test = "power_is_lost_while_a_receiver_works";
    examine(test, |recording| {
        let mut job = recording.start(None);
        job.send_rows();
        job.classifier.success();
        recording.end(&mut job.receiver);
    });
}

/// The next receiver still finds what the killed one has written but not synced, and must not rely on it. The first is
/// killed just before it syncs a slot of the checkpoint.
#[test]
fn power_is_lost_after_a_receiver_was_killed() {
    let test = "power_is_lost_after_a_receiver_was_killed";
    examine(test, |recording| {
        // The syncer syncs results, rejects and a slot in turn.
        let mut job = recording.start(Some(3 * 20));
        let rows = input();
        let frames: Vec<_> = rows.lines().map(str::as_bytes).collect();
        let sender = send_frames(&job.classifier.address("rows"), &frames);
        recording.end(&mut job.receiver);
        drop((sender, job));

        let mut job = recording.start(None);
        job.send_rows();
        job.classifier.success();
        recording.end(&mut job.receiver);
    });
}

/// A CSV in which every seventh row is rejected.
fn input() -> String {
    let mut csv = String::from("ID,V\n");
    for i in 0..ROWS {
        let bad = if i % 7 == 3 { "" } else { ",x" };
        writeln!(csv, "{i}{bad}").unwrap();
    }
    csv
}

/// A job whose receivers are traced: `job/` holds its files, `trace.0` and so on the output of strace.
struct Recording {
    folder: PathBuf,
}

/// A cluster of one process, and its receiver.
struct Job {
    folder: PathBuf,
    receiver: Program,
    classifier: Program,
}

impl Recording {
    fn traces(&self) -> impl Iterator<Item = PathBuf> {
        (0..).map(|i| self.folder.join(format!("trace.{i}")))
    }

    fn results(&self) -> PathBuf {
        self.folder.join("job/results.log")
    }

    fn start(&self, kill_at: Option<usize>) -> Job {
        let trace = self.traces().find(|trace| !trace.exists()).unwrap();
        let mut command = trace::traced(&tests::program_path("receiver"), &trace, kill_at);
        command.args(["--listen", "127.0.0.1:0", "--output"]).arg(self.results());
        let mut receiver = Program::start_server_command("receiver", &self.folder, command);
        let out = receiver.address("results");
        let chunk = CHUNK.to_string();
        let args =
            ["--cluster-initializer", "--in", "127.0.0.1:0", "--control", "127.0.0.1:0", "--out", &out];
        let speed = ["--slowness", "0", "--chunk-size", &chunk, "--window-batches", "8"];
        let classifier = Program::start_server("classifier", &self.folder, args.iter().chain(&speed));
        Job { folder: self.folder.clone(), receiver, classifier }
    }

    /// Waits until a receiver has ended and strace has recorded that.
    fn end(&self, receiver: &mut Program) {
        receiver.wait();
        let pid = receiver.pid().to_string();
        let trace = self.traces().take_while(|trace| trace.exists()).last().unwrap();
        eventually("strace to end", || {
            let trace = std::fs::read_to_string(&trace).unwrap();
            // strace pads short process ids with spaces.
            let mut words = trace.lines().rev().map(str::split_whitespace);
            words.any(|mut words| words.next() == Some(&pid) && words.next() == Some("+++")).then_some(())
        });
    }
}

impl Job {
    fn send_rows(&mut self) {
        let csv = self.folder.join("rows.csv");
        std::fs::write(&csv, input()).unwrap();
        let rows = self.classifier.address("rows");
        Program::start("sender", &self.folder, [rows.as_str(), csv.to_str().unwrap()]).success();
    }
}

/// Records a job, and checks many disks that it may leave; with [`REPEAT`], one disk of an earlier recording.
fn examine(test: &str, record: impl FnOnce(&Recording)) {
    if let Ok(case) = std::env::var(REPEAT) {
        let (folder, seed) = case.rsplit_once(' ').unwrap();
        let history = History::read(&Recording { folder: folder.into() });
        return history.case(seed.parse().unwrap(), tempfile::tempdir().unwrap().path()).unwrap();
    }
    if !trace::is_possible() {
        return tests::skip(test, "strace is not installed, or may not trace");
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("job")).unwrap();
    let recording = Recording { folder: folder.path().to_owned() };
    record(&recording);
    let history = History::read(&recording);
    let (start, scratch, mut tried) = (Instant::now(), scratch(), 0);
    for seed in 0..CASES {
        if let Err(wrong) = history.case(seed, scratch.path()) {
            let kept = folder.keep();
            panic!(
                "{wrong}\nto repeat this case: {REPEAT}=\"{} {seed}\" cargo test -p tests {test}",
                kept.display()
            );
        }
        // A test that tries fewer cases must fail.
        assert!(start.elapsed() < PATIENCE, "{test}: only {seed} of {CASES} cases within {PATIENCE:?}");
        tried += 1;
    }
    assert_eq!(tried, CASES, "{test}: some cases were not tried");
    eprintln!("{test}: {tried} cases took {:?}", start.elapsed());
}

/// A folder in memory if possible, where a sync does not wait for a disk.
fn scratch() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

/// The recorded job.
struct History {
    disk: Disk,
    /// From which moment the initializer may know how many batches are durable, in order.
    acknowledged: Vec<(Moment, u64)>,
    /// From which moment it may know that the job is done.
    finished: Moment,
    /// The moments after which the power may fail.
    moments: Vec<Moment>,
    /// Indices into `moments` at which a receiver started or ended.
    corners: Vec<usize>,
    /// The complete results of the job.
    whole: Results,
}

impl History {
    fn read(recording: &Recording) -> Self {
        let traces: Vec<_> =
            recording.traces().map_while(|trace| std::fs::read_to_string(trace).ok()).collect();
        let log = recording.results();
        let calls = trace::parse(&traces, log.parent().unwrap());
        let mut moments: Vec<_> = calls.iter().flat_map(|call| [call.begin, call.end]).collect();
        moments.sort_unstable();
        moments.dedup();
        let ends = traces.iter().scan(0, |lines, trace| {
            *lines += trace.lines().count();
            Some(moments.partition_point(|moment| moment <= lines) - 1)
        });
        let corners = std::iter::once(0).chain(ends).collect();
        let (mut acknowledged, mut finished) = (vec![(0, 0)], Moment::MAX);
        for call in &calls {
            match call.what {
                What::Acknowledge(next) => acknowledged.push((call.begin, next)),
                What::Finish => finished = finished.min(call.begin),
                _ => {}
            }
        }
        let whole = read_results(&log);
        let distinct = acknowledged.windows(2).filter(|pair| pair[0].1 < pair[1].1).count();
        assert!(distinct > 20, "only {distinct} acknowledgements are too few for this test");
        let history = Self { disk: Disk::new(calls), acknowledged, finished, moments, corners, whole };
        // The files that the test reconstructs must be those that the receiver wrote.
        assert_eq!(history.whole.summary.rows, ROWS as u64);
        let files = history.disk.in_the_end();
        assert!(files["results.log"] == history.whole.log);
        assert!(files["results.rejects.csv"] == history.whole.rejects.as_bytes());
        assert_eq!(files.keys().collect::<Vec<_>>(), ["results.json", "results.log", "results.rejects.csv"]);
        history
    }

    /// Cuts the power at a moment that the seed chooses, and checks how the receiver opens one disk that this may leave.
    fn case(&self, seed: u64, scratch: &Path) -> Result<(), String> {
        let mut random = Random(seed);
        let all = self.moments.len();
        let at = match random.below(2) {
            // More often where files are made, opened again, renamed and removed.
            0 => {
                let corner = self.corners[random.below(self.corners.len())];
                (corner + random.below(2 * CORNER)).saturating_sub(CORNER).min(all - 1)
            }
            _ => random.below(all),
        };
        let cut = self.moments[at];
        let files = self.disk.after_power_loss(cut, &mut random);
        for old in std::fs::read_dir(scratch).unwrap() {
            std::fs::remove_file(old.unwrap().path()).unwrap();
        }
        for (name, content) in &files {
            std::fs::write(scratch.join(name), content).unwrap();
        }
        let acknowledged =
            self.acknowledged.iter().take_while(|(begin, _)| *begin <= cut).map(|(_, next)| *next).max();
        let done = self.finished <= cut;
        self.check(&files, scratch, acknowledged.unwrap_or(0), done).map_err(|wrong| {
            let lengths: Vec<_> = files.iter().map(|(name, content)| format!("{name} {}", content.len())).collect();
            format!(
                "seed {seed}: power was lost after event {at} of {all}, when {acknowledged:?} batches were acknowledged \
                 (done: {done}); the disk has {}: {wrong}",
                lengths.join(", ")
            )
        })
    }

    fn check(&self, files: &Files, scratch: &Path, acknowledged: u64, done: bool) -> Result<(), String> {
        let paths = ResultFiles::beside(&scratch.join("results.log")).unwrap();
        let expect = |holds: bool, wrong: &str| if holds { Ok(()) } else { Err(wrong.to_owned()) };
        let read = |path| std::fs::read(path).unwrap();
        let (log, rejects) = (&self.whole.log[..], self.whole.rejects.as_bytes());
        match store::open(&paths) {
            Ok(Opened::ToWrite(store, ..)) => {
                let position = store.position();
                expect(
                    !done,
                    "the initializer knows that the job is done, but the receiver would continue it",
                )?;
                expect(
                    position.next >= acknowledged,
                    &format!("it continues with batch {}: batches are lost", position.next),
                )?;
                let rows = ROWS.min(position.next as usize * CHUNK);
                expect(position.next_row == rows as u64, "the next row is not that of the next batch")?;
                let (log, rejects) =
                    (&log[..position.result_bytes as usize], &rejects[..position.reject_bytes as usize]);
                expect(read(&paths.results) == log, "the results differ from those written")?;
                expect(read(&paths.rejects) == rejects, "the rejects differ from those written")?;
                let lines = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == b'\n').count();
                expect(
                    lines(log) + lines(rejects) == rows + 1,
                    "the results are not those of the counted rows",
                )
            }
            Ok(Opened::Finished(summary, _)) => {
                expect(summary == self.whole.summary, "the summary differs")?;
                expect(
                    read(&paths.results) == log && read(&paths.rejects) == rejects,
                    "the results are not complete",
                )
            }
            // The checkpoint was removed, since nothing is left to do.
            Err(_)
                if done
                    && files.contains_key("results.json")
                    && !files.contains_key("results.checkpoint") =>
            {
                expect(
                    read(&paths.results) == log && read(&paths.rejects) == rejects,
                    "the results are not complete",
                )
            }
            Err(error) => Err(format!("it cannot be opened: {error:#}")),
        }
    }
}
