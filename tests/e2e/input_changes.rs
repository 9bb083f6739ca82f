//! Inputs that change while a job reads them: the job fails, and says what has changed.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use tests::cluster::{Cluster, Setup};
use tests::eventually;
use tests::program::Program;
use tests::stack::Stack;

/// More rows than all buffers hold, so that the sender is still reading when the first results are written.
const ROWS: u64 = 400_000;

fn write_input(path: &Path, word: &str) {
    let filler = "x".repeat(90);
    let rows: String = (0..ROWS).map(|row| format!("{row},{word},{filler}\n")).collect();
    fs::write(path, format!("ID,WORD,FILLER\n{rows}")).unwrap();
}

/// A cluster that takes an hour for these rows.
fn slow() -> Setup {
    Setup::default().args(["--classifier", "sleep:10000", "--window-mib", "1", "--chunk-size", "10"])
}

fn await_results(log: &Path) {
    eventually("results", || fs::metadata(log).is_ok_and(|log| log.len() > 0).then_some(()));
}

/// Sends a file, changes it after the first results, and returns the sender's output.
fn said_after(act: impl FnOnce(&Path)) -> String {
    let mut cluster = slow().start();
    let path = cluster.path("in.csv");
    write_input(&path, "old");
    let mut sender = cluster.sender([path.to_str().unwrap()]);
    await_results(&cluster.path("results.log"));
    act(&path);
    let said = sender.failure();
    assert_eq!(sender.wait().code(), Some(1), "exit code 1 means that it must not be restarted");
    assert!(said.contains("in.csv: it has changed while it was read: "), "{said}");
    assert!(said.contains("; run the job again when nothing writes to it"), "{said}");
    assert!(!cluster.path("results.json").exists(), "the job is not done");
    // The other programs end as well, and report the reason.
    let failed = cluster.receiver.failure();
    assert!(failed.contains("the job failed: the sender cannot continue: "), "{failed}");
    assert!(failed.contains("it has changed while it was read"), "{failed}");
    assert!(cluster.classifiers[0].failure().contains("it has changed while it was read"));
    said
}

#[test]
fn a_file_that_is_overwritten_while_it_is_read_fails_the_job() {
    let said = said_after(|path| write_input(path, "new"));
    assert!(!said.contains("another file"), "{said}");
}

#[test]
fn a_file_that_is_shortened_while_it_is_read_fails_the_job() {
    let said = said_after(|path| OpenOptions::new().write(true).open(path).unwrap().set_len(1000).unwrap());
    assert!(said.contains("and now has 1000 bytes"), "{said}");
}

#[test]
fn a_file_that_grows_while_it_is_read_fails_the_job() {
    said_after(|path| OpenOptions::new().append(true).open(path).unwrap().write_all(b"1,more,x\n").unwrap());
}

#[test]
fn a_file_that_is_replaced_while_it_is_read_fails_the_job() {
    let said = said_after(|path| {
        write_input(&path.with_extension("new"), "new");
        fs::rename(path.with_extension("new"), path).unwrap();
    });
    assert!(said.contains("another file is in its place"), "{said}");
}

#[test]
fn a_file_that_is_touched_while_it_is_read_fails_the_job() {
    let said = said_after(|path| {
        let file = OpenOptions::new().write(true).open(path).unwrap();
        file.set_modified(SystemTime::now() + Duration::from_secs(1)).unwrap();
    });
    let sizes: Vec<_> = said.split(" bytes, modified ").collect();
    assert_eq!(sizes.len(), 3, "{said}");
}

#[test]
fn a_changed_file_at_standard_input_is_noticed() {
    let cluster = slow().start();
    let path = cluster.path("stdin");
    write_input(&path, "old");
    let mut sender = cluster.sender(["-"]);
    await_results(&cluster.path("results.log"));
    OpenOptions::new().write(true).open(&path).unwrap().set_len(ROWS).unwrap();
    let said = sender.failure();
    assert!(said.contains("reading standard input: it has changed while it was read"), "{said}");
}

#[test]
fn a_file_that_is_renamed_or_removed_is_read_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let expected = {
        let path = folder.path().join("in.csv");
        write_input(&path, "old");
        Setup::default().args(["--slowness", "0"]).run([path.to_str().unwrap()]).log
    };
    let mut cluster = Setup::default().args(["--slowness", "0", "--window-mib", "1"]).start();
    cluster.receiver.signal("STOP");
    let path = folder.path().join("in.csv");
    let mut sender = cluster.sender([path.to_str().unwrap()]);
    eventually("the file to be open", || is_open(sender.pid(), &path).then_some(()));
    fs::hard_link(&path, folder.path().join("kept.csv")).unwrap();
    fs::remove_file(&path).unwrap();
    cluster.receiver.signal("CONT");
    sender.success();
    assert!(cluster.results().log == expected);
}

fn is_open(pid: u32, path: &Path) -> bool {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let mut files = files.filter_map(|file| fs::read_link(file.path()).ok());
    files.any(|file| file == path)
}

/// The arguments of a sender that can be restarted.
fn resumable(cluster: &Cluster, path: &Path) -> [String; 5] {
    let ready = cluster.path("sender.ready").display().to_string();
    ["--session".into(), "mine".into(), "--ready-file".into(), ready, path.display().to_string()]
}

fn start(cluster: &Cluster, args: &[String; 5]) -> Program {
    cluster.sender(args.each_ref().map(String::as_str))
}

#[test]
fn a_restarted_sender_continues_only_with_the_same_file() {
    let cluster = slow().start();
    let path = cluster.path("in.csv");
    write_input(&path, "old");
    let args = resumable(&cluster, &path);
    let mut first = start(&cluster, &args);
    await_results(&cluster.path("results.log"));
    first.signal("KILL");
    first.wait();
    // With the same file, it continues.
    let ready = cluster.path("sender.ready");
    let written = || fs::metadata(&ready).ok()?.modified().ok();
    let before = written();
    let mut second = start(&cluster, &args);
    eventually("it to continue", || (written() != before).then_some(()));
    assert!(second.is_running());
    second.signal("KILL");
    second.wait();
    // With another file of the same length, it fails.
    write_input(&cluster.path("new.csv"), "new");
    fs::rename(cluster.path("new.csv"), &path).unwrap();
    let said = start(&cluster, &args).failure();
    assert!(said.contains("it has changed while it was read: another file is in its place"), "{said}");
    assert!(!cluster.path("results.json").exists());
}

/// Process id of the sender of the job in this folder.
fn sender_of(folder: &Path) -> u32 {
    let folder = folder.to_str().unwrap().to_owned();
    let is_sender = move |words: &str| words.contains("/sender --ready-file") && words.contains(&folder);
    eventually("the sender", || tests::command_lines_of(&is_sender).first().map(|(pid, _)| *pid))
}

fn run_locally(folder: &Path, input: &Path) -> Program {
    let mut command = tests::xtask();
    command.arg("run-locally").arg("--output").arg(folder.join("out")).arg("--log").arg(folder.join("log"));
    command.args(["--classifier", "sleep:10000", "--chunk-size", "10", "--no-hub", "--input"]).arg(input);
    Program::start_command("xtask", folder, command)
}

#[test]
fn a_job_fails_if_its_restarted_sender_finds_another_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in.csv");
    write_input(&path, "old");
    let mut xtask = run_locally(folder.path(), &path);
    let job = || fs::read_dir(folder.path().join("out/jobs")).ok()?.flatten().next();
    let job = eventually("the job's folder", job).path();
    await_results(&job.join("results.log"));
    write_input(&folder.path().join("new.csv"), "new");
    let pid = sender_of(folder.path()).to_string();
    // Stopped first, so that it does not notice the change itself.
    let signal = |name: &str| assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    signal("-STOP");
    fs::rename(folder.path().join("new.csv"), &path).unwrap();
    signal("-KILL");
    let said = xtask.failure();
    assert_eq!(xtask.wait().code(), Some(1));
    assert!(said.contains("opening the input") && said.contains("another file is in its place"), "{said}");
    assert!(!job.join("results.json").exists() && !folder.path().join("out/results.log").exists());
}

#[test]
fn file_mode_notices_a_changed_input() {
    for act in [
        |path: &Path| write_input(path, "new"),
        |path: &Path| {
            OpenOptions::new().append(true).open(path).unwrap().write_all(b"1,more,x\n").unwrap();
        },
    ] {
        let folder = tempfile::tempdir().unwrap();
        let [path, out] = ["in.csv", "out.csv"].map(|name| folder.path().join(name));
        write_input(&path, "old");
        let args = [Path::new("file"), &path, &out].map(|arg| arg.display().to_string());
        let slow = ["--classifier", "sleep:5", "--chunk-size", "1000"].map(str::to_owned);
        let mut classifier = Program::start("classifier", folder.path(), args.iter().chain(&slow));
        await_results(&out);
        act(&path);
        let said = classifier.failure();
        assert!(said.contains("in.csv: it has changed while it was read"), "{said}");
    }
}

#[test]
fn special_files_are_refused_or_read_like_a_stream() {
    let folder = tempfile::tempdir().unwrap();
    let said = run_locally(folder.path(), Path::new("/proc/cpuinfo")).failure();
    assert!(said.contains("it says that it has 0 bytes, and has some"), "{said}");
    let mut command = Command::new("sh");
    let line = "printf 'A,B\\n1,2\\n' | exec \"$0\" run-locally --output \"$1/out\" --log \"$1/log\" --input /dev/fd/0 \
                --model native";
    command.arg("-c").arg(line).arg(tests::program_path("xtask")).arg(folder.path());
    let said = Program::start_command("sh", folder.path(), command).success();
    assert!(said.contains("rows in    1\n"), "{said}");
}

#[test]
fn a_file_that_changes_on_its_host_fails_the_job_there() {
    let Some(stack) = Stack::new("a_file_that_changes_on_its_host_fails_the_job_there", "2") else { return };
    stack.up(&[]);
    write_input(&stack.path("in.csv"), "old");
    let args = ["--input", "in.csv", "--classifier", "sleep:10000", "--workers", "1"];
    let mut job = stack.start("run-cluster", &args);
    let home: PathBuf = stack.lab.folder().join("h1/home/.provisioned-classifier");
    await_results(&home.join("output/results.log"));
    OpenOptions::new()
        .append(true)
        .open(home.join("input/rows.csv"))
        .unwrap()
        .write_all(b"1,more,x\n")
        .unwrap();
    let said = job.failure();
    assert!(said.contains("rows.csv: it has changed while it was read"), "{said}");
    // A resumed job fails for the same reason.
    let said = stack.fail("run-cluster", &["--resume"]);
    assert!(said.contains("rows.csv: it has changed while it was read"), "{said}");
    assert!(!home.join("output/results.json").exists());
    stack.down();
}
