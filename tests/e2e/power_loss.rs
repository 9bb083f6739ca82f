//! Whenever the power goes, no batch is gone that was acknowledged.
//!
//! A real receiver runs under strace; from what it asked the system to do, and when, the disks are made that a loss of
//! power may leave ([`disk`]), and the receiver's own code opens them.

mod disk;
mod trace;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use disk::{Chance, Disk, Files};
use protocol::result_files::ResultFiles;
use receiver::store::{self, Opened, Storage};
use tempfile::TempDir;
use tests::cluster::{Results, read_results};
use tests::program::Program;
use tests::{PATIENCE, eventually, send_frames};
use trace::{Moment, What};

const ROWS: usize = 4000;
/// Rows of a batch: few, so that there are many syncs.
const CHUNK: usize = 10;
const CASES: u64 = 2000;
/// How many moments around a receiver's start or end are tried more often than others.
const CORNER: usize = 30;
/// `FOLDER SEED` of a case that failed, to run it again.
const AGAIN: &str = "POWER_LOSS";

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

/// What the receiver that was killed has written, and not made durable, is still there for the next one, which must
/// not rely on it. The first is killed just before it makes a slot of the checkpoint durable.
#[test]
fn power_is_lost_after_a_receiver_was_killed() {
    let test = "power_is_lost_after_a_receiver_was_killed";
    examine(test, |recording| {
        // The syncer makes results, rejects and a slot durable in turn.
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

/// A CSV with rows that are rejected.
fn input() -> String {
    let mut csv = String::from("ID,V\n");
    for i in 0..ROWS {
        let bad = if i % 7 == 3 { "" } else { ",x" };
        writeln!(csv, "{i}{bad}").unwrap();
    }
    csv
}

/// A job whose receivers are traced: `job/` has its files, `trace.0` and so on what strace wrote.
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

    /// Waits for a receiver's end, and until strace has written that down.
    fn end(&self, receiver: &mut Program) {
        receiver.wait();
        let pid = receiver.pid().to_string();
        let trace = self.traces().take_while(|trace| trace.exists()).last().unwrap();
        eventually("strace to end", || {
            let trace = std::fs::read_to_string(&trace).unwrap();
            // Short process ids are filled up with spaces.
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

/// Records a job, and looks at many disks that it may leave. Or, if [`AGAIN`] says so, at one of a job that was
/// recorded before.
fn examine(test: &str, record: impl FnOnce(&Recording)) {
    if let Ok(again) = std::env::var(AGAIN) {
        let (folder, seed) = again.rsplit_once(' ').unwrap();
        let story = Story::read(&Recording { folder: folder.into() });
        return story.case(seed.parse().unwrap(), tempfile::tempdir().unwrap().path()).unwrap();
    }
    if !trace::is_possible() {
        return tests::skip(test, "strace is not here, or may not trace");
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("job")).unwrap();
    let recording = Recording { folder: folder.path().to_owned() };
    record(&recording);
    let story = Story::read(&recording);
    let (start, scratch, mut tried) = (Instant::now(), scratch(), 0);
    for seed in 0..CASES {
        if let Err(wrong) = story.case(seed, scratch.path()) {
            let kept = folder.keep();
            panic!(
                "{wrong}\nto run this case again: {AGAIN}=\"{} {seed}\" cargo test -p tests {test}",
                kept.display()
            );
        }
        // All of them, or it is no test of so many.
        assert!(start.elapsed() < PATIENCE, "{test}: only {seed} of {CASES} cases within {PATIENCE:?}");
        tried += 1;
    }
    assert_eq!(tried, CASES, "{test}: all cases are tried");
    eprintln!("{test}: {tried} cases took {:?}", start.elapsed());
}

/// A folder in memory, if there is one: what is synced in it need not wait for a disk.
fn scratch() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

/// What happened, and what came of it.
struct Story {
    disk: Disk,
    /// From when on the initializer may know that so many batches are durable, in order.
    told: Vec<(Moment, u64)>,
    /// From when on it may know that the job is done.
    told_done: Moment,
    /// After which the power may go.
    moments: Vec<Moment>,
    /// Where among these a receiver was started or ended.
    corners: Vec<usize>,
    /// What the job left.
    whole: Results,
}

impl Story {
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
        let (mut told, mut told_done) = (vec![(0, 0)], Moment::MAX);
        for call in &calls {
            match call.what {
                What::TellNext(next) => told.push((call.begin, next)),
                What::TellDone => told_done = told_done.min(call.begin),
                _ => {}
            }
        }
        let whole = read_results(&log);
        let distinct = told.windows(2).filter(|pair| pair[0].1 < pair[1].1).count();
        assert!(distinct > 20, "only {distinct} acknowledgements: these are too few to try much");
        let story = Self { disk: Disk::new(calls), told, told_done, moments, corners, whole };
        // What the test thinks that was done is what was done.
        assert_eq!(story.whole.summary.rows, ROWS as u64);
        let files = story.disk.in_the_end();
        assert!(files["results.log"] == story.whole.log);
        assert!(files["results.rejects.csv"] == story.whole.rejects.as_bytes());
        assert_eq!(files.keys().collect::<Vec<_>>(), ["results.json", "results.log", "results.rejects.csv"]);
        story
    }

    /// Lets the power go at a moment that the seed chooses, and looks at what the receiver makes of one disk that this
    /// may leave.
    fn case(&self, seed: u64, scratch: &Path) -> Result<(), String> {
        let mut chance = Chance(seed);
        let all = self.moments.len();
        let at = match chance.below(2) {
            // More often where files are made, opened again, renamed and removed.
            0 => {
                let corner = self.corners[chance.below(self.corners.len())];
                (corner + chance.below(2 * CORNER)).saturating_sub(CORNER).min(all - 1)
            }
            _ => chance.below(all),
        };
        let cut = self.moments[at];
        let files = self.disk.after_power_loss(cut, &mut chance);
        for old in std::fs::read_dir(scratch).unwrap() {
            std::fs::remove_file(old.unwrap().path()).unwrap();
        }
        for (name, content) in &files {
            std::fs::write(scratch.join(name), content).unwrap();
        }
        let acknowledged =
            self.told.iter().take_while(|(begin, _)| *begin <= cut).map(|(_, next)| *next).max();
        let done = self.told_done <= cut;
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
                expect(!done, "the initializer was told that the job is done, and it is to be gone on with")?;
                expect(
                    position.next >= acknowledged,
                    &format!("it goes on from batch {}: batches are lost", position.next),
                )?;
                let rows = ROWS.min(position.next as usize * CHUNK);
                expect(position.next_row == rows as u64, "the next row is not that of the next batch")?;
                let (log, rejects) =
                    (&log[..position.result_bytes as usize], &rejects[..position.reject_bytes as usize]);
                expect(read(&paths.results) == log, "the results are not what was written")?;
                expect(read(&paths.rejects) == rejects, "the rejects are not what was written")?;
                let lines = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == b'\n').count();
                expect(
                    lines(log) + lines(rejects) == rows + 1,
                    "the results are not those of the counted rows",
                )
            }
            Ok(Opened::Finished(summary, _)) => {
                expect(summary == self.whole.summary, "the summary is another one")?;
                expect(
                    read(&paths.results) == log && read(&paths.rejects) == rejects,
                    "the results are not whole",
                )
            }
            // The checkpoint is gone, since nothing is left to do.
            Err(_)
                if done
                    && files.contains_key("results.json")
                    && !files.contains_key("results.checkpoint") =>
            {
                expect(
                    read(&paths.results) == log && read(&paths.rejects) == rejects,
                    "the results are not whole",
                )
            }
            Err(error) => Err(format!("it cannot be opened: {error:#}")),
        }
    }
}
