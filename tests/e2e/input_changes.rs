//! An input that is another one before the job has read it to its end: the job fails, and says what has changed.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use tests::cluster::{Cluster, Setup};
use tests::eventually;
use tests::program::Program;
use tests::stack::Stack;

/// More rows than all buffers on the way take, so that the sender is still reading when the first results are there.
const ROWS: u64 = 400_000;

fn write_input(path: &Path, word: &str) {
    let filler = "x".repeat(90);
    let rows: String = (0..ROWS).map(|row| format!("{row},{word},{filler}\n")).collect();
    fs::write(path, format!("ID,WORD,FILLER\n{rows}")).unwrap();
}

/// A cluster that takes an hour for them.
fn slow() -> Setup {
    Setup::default().args(["--classifier", "sleep:10000", "--window-mib", "1", "--chunk-size", "10"])
}

fn await_results(log: &Path) {
    eventually("results", || fs::metadata(log).is_ok_and(|log| log.len() > 0).then_some(()));
}

/// Has a file sent, does something to it when results are there, and gives what the sender says.
fn said_after(act: impl FnOnce(&Path)) -> String {
    let mut cluster = slow().start();
    let path = cluster.path("in.csv");
    write_input(&path, "old");
    let mut sender = cluster.sender([path.to_str().unwrap()]);
    await_results(&cluster.path("results.log"));
    act(&path);
    let said = sender.failure();
    assert_eq!(sender.wait().code(), Some(1), "it is not to be started again");
    assert!(said.contains("in.csv: it has changed while it was read: "), "{said}");
    assert!(said.contains("; run the job again when nothing writes to it"), "{said}");
    assert!(!cluster.path("results.json").exists(), "the job is not done");
    // Also where nobody watches: the job ends now, and says why.
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
fn a_file_in_whose_place_another_one_is_moved_fails_the_job() {
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
fn standard_input_that_is_a_file_has_an_identity_too() {
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
fn a_file_that_only_gets_another_name_or_is_removed_is_read_to_its_end() {
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

/// The arguments of a sender that can be started again.
fn resumable(cluster: &Cluster, path: &Path) -> [String; 5] {
    let ready = cluster.path("sender.ready").display().to_string();
    ["--session".into(), "mine".into(), "--ready-file".into(), ready, path.display().to_string()]
}

fn start(cluster: &Cluster, args: &[String; 5]) -> Program {
    cluster.sender(args.each_ref().map(String::as_str))
}

#[test]
fn a_sender_that_is_started_again_goes_on_with_the_same_file_only() {
    let cluster = slow().start();
    let path = cluster.path("in.csv");
    write_input(&path, "old");
    let args = resumable(&cluster, &path);
    let mut first = start(&cluster, &args);
    await_results(&cluster.path("results.log"));
    first.signal("KILL");
    first.wait();
    // The same file: it goes on.
    let ready = cluster.path("sender.ready");
    let written = || fs::metadata(&ready).ok()?.modified().ok();
    let before = written();
    let mut second = start(&cluster, &args);
    eventually("it to go on", || (written() != before).then_some(()));
    assert!(second.is_running());
    second.signal("KILL");
    second.wait();
    // Another one of the same length.
    write_input(&cluster.path("new.csv"), "new");
    fs::rename(cluster.path("new.csv"), &path).unwrap();
    let said = start(&cluster, &args).failure();
    assert!(said.contains("it has changed while it was read: another file is in its place"), "{said}");
    assert!(!cluster.path("results.json").exists());
}

/// The sender of a job whose files are in this folder.
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
fn a_whole_job_fails_when_its_sender_is_killed_and_finds_another_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in.csv");
    write_input(&path, "old");
    let mut xtask = run_locally(folder.path(), &path);
    await_results(&folder.path().join("out/results.log"));
    write_input(&folder.path().join("new.csv"), "new");
    let pid = sender_of(folder.path()).to_string();
    // Stopped, so that it does not see for itself what becomes of the file.
    let signal = |name: &str| assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    signal("-STOP");
    fs::rename(folder.path().join("new.csv"), &path).unwrap();
    signal("-KILL");
    let said = xtask.failure();
    assert_eq!(xtask.wait().code(), Some(1));
    assert!(said.contains("opening the input") && said.contains("another file is in its place"), "{said}");
    assert!(!folder.path().join("out/results.json").exists());
}

#[test]
fn a_file_without_a_network_has_an_identity_too() {
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
fn what_is_no_ordinary_file_is_refused_or_read_like_a_stream() {
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
    // And what goes on with it hears the same.
    let said = stack.fail("run-cluster", &["--resume"]);
    assert!(said.contains("rows.csv: it has changed while it was read"), "{said}");
    assert!(!home.join("output/results.json").exists());
    stack.down();
}
