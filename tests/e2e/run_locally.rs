//! `cargo xtask run-locally` as a user runs it.

use std::path::Path;
use std::process::Command;

use tests::cluster::{Setup, read_results, results_in};
use tests::eventually;
use tests::program::Program;

/// `cargo xtask run-locally` with folders of its own.
fn command(folder: &Path, args: &[&str]) -> Command {
    let mut command = tests::xtask();
    command.arg("run-locally").args(["--output", folder.join("out").to_str().unwrap()]);
    command.args(["--log", folder.join("log").to_str().unwrap()]).args(args);
    command
}

fn start(folder: &Path, args: &[&str]) -> Program {
    Program::start_command("xtask", folder, command(folder, args))
}

#[test]
fn a_whole_job_writes_and_reports_its_results() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["INPUT_LINES=2345", "N_WORKERS=3", "--processes", "2", "--pack"];
    let mut xtask = command(folder.path(), &args);
    // As for users: it builds the programs if they are not up to date.
    xtask.env_remove(tests::PROGRAMS);
    let said = Program::start_command("xtask", folder.path(), xtask).success();
    let results = read_results(&folder.path().join("out/results.log"));
    assert!(said.contains("2,345 fake rows on 4 workers (2 processes of 2), through native"), "{said}");
    assert!(said.contains("rows in    2,345\nrows out   2,345\nrejected   0\n"), "{said}");
    assert!(said.contains(&format!("sha256     {}\n", results.summary.sha256)), "{said}");
    assert!(results.log == Setup::default().run(["--lines", "2345"]).log);
    let archive = folder.path().join("out/results.tgz");
    assert!(said.contains(&format!("s after the last results, to {}\n", archive.display())), "{said}");
    assert!(results_in(&archive) == results.log);
    assert!(!folder.path().join("log/run/token").exists(), "the token was not removed");

    // A second job replaces the first.
    start(folder.path(), &["--input-lines", "7"]).success();
    assert_eq!(read_results(&folder.path().join("out/results.log")).summary.rows, 7);
    assert!(!archive.exists());
}

#[test]
fn a_file_and_its_rejects() {
    let folder = tempfile::tempdir().unwrap();
    let csv = folder.path().join("in.csv");
    std::fs::write(&csv, "A,B\n1,2\n3\n4,\"5\n6\"\n").unwrap();
    let said = start(folder.path(), &["--input", csv.to_str().unwrap(), "--model", "native"]).success();
    assert!(said.contains("rows in    3\nrows out   2\nrejected   1\n"), "{said}");
    assert!(said.contains("1 row is in") && said.contains("results.rejects.csv with the reason"), "{said}");
    start(folder.path(), &["--input", csv.to_str().unwrap(), "--model", "native", "STRICT=0"]).success();
    start(folder.path(), &["--input", csv.to_str().unwrap(), "--model", "native", "STRICT=1"]).failure();
    let said =
        start(folder.path(), &["--input", csv.to_str().unwrap(), "--model", "native", "--strict"]).failure();
    assert!(said.contains("error: there are rejects, and --strict allows none"), "{said}");
}

#[test]
fn paths_are_relative_to_the_current_folder() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("in.csv"), "A,B\n1,2\n").unwrap();
    let run = |args: &[&str]| {
        let mut command = tests::xtask();
        command.current_dir(folder.path()).args(["run-locally", "--log", "log"]).args(args);
        Program::start_command("xtask", folder.path(), command)
    };
    let said = run(&["--input", "in.csv", "MODEL=native", "--output", "out"]).success();
    assert!(said.contains("results    out/results.log"), "{said}");
    // A file that is no link cannot be its own input.
    std::fs::create_dir(folder.path().join("plain")).unwrap();
    std::fs::write(folder.path().join("plain/results.log"), "A,B\n1,2\n").unwrap();
    let plain = ["--input", "plain/../plain/results.log", "--model", "native", "--output", "plain"];
    let said = run(&plain).failure();
    assert!(said.contains("the input plain/../plain/results.log would be replaced by the results"), "{said}");
    assert_eq!(read_results(&folder.path().join("out/results.log")).summary.rows, 1);
}

#[test]
fn failures_are_reported_and_leave_no_process() {
    let folder = tempfile::tempdir().unwrap();
    start(folder.path(), &["--input-lines", "3"]).success();
    let said = start(folder.path(), &["--input", "/no/such.csv"]).failure();
    assert!(said.contains("error: opening the input /no/such.csv\n  because: No such file"), "{said}");
    let csv = folder.path().join("empty.csv");
    std::fs::write(&csv, "").unwrap();
    let said = start(folder.path(), &["--input", csv.to_str().unwrap(), "--model", "native"]).failure();
    assert!(said.contains("error: ") && said.contains("empty.csv is empty"), "{said}");
    let said = start(folder.path(), &["--classifier", "python:no_such_module"]).failure();
    assert!(said.contains("error: the Python model cannot start"), "{said}");
    assert!(said.contains("finds no module 'no_such_module'") || said.contains("has no pandas"), "{said}");
    let said = start(folder.path(), &["--workers", "2000"]).failure();
    assert!(said.contains("2000 workers in a process are too many"), "{said}");
    // The results of the job before are still there.
    assert_eq!(read_results(&folder.path().join("out/results.log")).summary.rows, 3);
    assert_eq!(programs_of(folder.path()), Vec::<String>::new());
}

#[test]
fn a_pipe_is_read_once_and_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let mut producer = Command::new("sh");
    producer.arg("-c").arg("(echo A; seq 1 5000) > \"$0\"").arg(&pipe);
    let mut producer = Program::start_command("producer", folder.path(), producer);
    start(folder.path(), &["--input", pipe.to_str().unwrap(), "--model", "native"]).success();
    producer.success();
    assert_eq!(read_results(&folder.path().join("out/results.log")).summary.rows, 5000);
}

#[test]
fn a_model_that_loads_for_ever_can_be_interrupted() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("slow.py"), "import time\ntime.sleep(1000)\n").unwrap();
    let mut command = tests::xtask();
    command.env("PYTHONPATH", folder.path()).arg("run-locally").arg("--output");
    command.arg(folder.path().join("out")).arg("--log").arg(folder.path().join("log"));
    command.args(["--classifier", "python:slow", "--python"]).arg(tests::python());
    let mut xtask = Program::start_command("xtask", folder.path(), command);
    eventually("the check to run", || (!programs_of(folder.path()).is_empty()).then_some(()));
    xtask.signal("TERM");
    xtask.failure();
    eventually("all programs to end", || programs_of(folder.path()).is_empty().then_some(()));
}

#[test]
fn what_the_model_prints_is_kept_with_its_rows() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("in.csv");
    let rows: String = (0..500).map(|i| format!("{i}\n")).collect();
    std::fs::write(&input, format!("id\n{rows}")).unwrap();
    let code = "print('hello')\ndef f(df):\n    for i in df['id']:\n        print('row', i)\n    \
        print('done')\n    return df['id'] * 2\n";
    std::fs::write(folder.path().join("noisy.py"), code).unwrap();
    let args = [
        "--model",
        "noisy.py:f",
        "--input",
        "in.csv",
        "--workers",
        "2",
        "--chunk-size",
        "50",
        "--no-hub",
        "--again",
    ];
    let log = |name: &str| std::fs::read_to_string(folder.path().join("log").join(name)).unwrap();
    // A second job begins with new files.
    for _ in 0..2 {
        let mut job = command(folder.path(), &args);
        job.current_dir(folder.path()).arg("--python").arg(tests::python());
        let said = Program::start_command("xtask", folder.path(), job).success();
        let first = folder.path().join("log/initializer.model0.log");
        assert!(
            said.contains(&format!("printed    by the model: {} and one other\n", first.display())),
            "{said}"
        );
        let printed = log("initializer.model0.log") + &log("initializer.model1.log");
        let lines: Vec<_> = printed.lines().map(|line| line.split_once("Z ").unwrap().1).collect();
        assert_eq!(lines.len(), 1 + 500 + 10, "{printed}");
        assert!(lines.contains(&"loading | hello"));
        for row in 0..500 {
            let (first, last) = (row / 50 * 50, row / 50 * 50 + 49);
            assert!(lines.contains(&&*format!("rows {first}-{last} | row {row}")), "{row}: {printed}");
        }
        // Here, each kind of line is shown once by each worker, and its number at the end.
        let log = log("initializer.log");
        let shown: Vec<_> =
            log.lines().map(process::log::message).filter(|line| line.starts_with("python: ")).collect();
        let count = |begin: &str| shown.iter().filter(|line| line.starts_with(begin)).count();
        assert_eq!(
            (count("python: hello"), count("python: row "), count("python: done")),
            (1, 2, 2),
            "{log}"
        );
        let total: u64 = shown
            .iter()
            .filter_map(|line| {
                line.strip_prefix("python: ")?.split_once(" lines like \"row ")?.0.parse::<u64>().ok()
            })
            .sum();
        assert_eq!(total, 500, "{log}");
    }
}

#[test]
fn invalid_options_are_refused_before_anything_happens() {
    let folder = tempfile::tempdir().unwrap();
    let said = start(folder.path(), &["LINES=7"]).failure();
    assert!(
        said.contains("error: run-locally does not accept LINES; it accepts INPUT_LINES, INPUT, "),
        "{said}"
    );
    let said = start(folder.path(), &["--input-lines", "many"]).failure();
    assert!(said.contains("invalid value 'many' for '--input-lines <N>'"), "{said}");
    let said = start(folder.path(), &["--workers", "0"]).failure();
    assert!(said.contains("--workers"), "{said}");
    assert!(!folder.path().join("out").exists());
}

#[test]
fn ctrl_c_ends_all_programs() {
    let folder = tempfile::tempdir().unwrap();
    let mut xtask =
        start(folder.path(), &["--classifier", "sleep:10000", "--processes", "2", "--workers", "2"]);
    eventually("the job to run", || (programs_of(folder.path()).len() == 5).then_some(()));
    xtask.signal("INT");
    let said = xtask.failure();
    assert!(said.contains("interrupted: all programs of the job have ended"), "{said}");
    assert_eq!(xtask.wait().code(), Some(130));
    assert_eq!(programs_of(folder.path()), Vec::<String>::new());
}

#[test]
fn no_program_outlives_a_killed_xtask() {
    let folder = tempfile::tempdir().unwrap();
    // This regular expression holds Python's lock for ever.
    let code = "import re\ndef classify_df(df):\n    re.match('(a+)+$', 'a' * 100 + 'b')\n";
    std::fs::write(folder.path().join("model.py"), code).unwrap();
    let python = tests::python();
    let mut command = tests::xtask();
    command.env("PYTHONPATH", folder.path());
    command.args(["run-locally", "--output", folder.path().join("out").to_str().unwrap(), "--log"]);
    command.arg(folder.path().join("log")).args(["--classifier", "python:model", "--python"]).arg(python);
    let mut xtask = Program::start_command("xtask", folder.path(), command);
    eventually("the job to run", || (programs_of(folder.path()).len() >= 4).then_some(()));
    xtask.signal("KILL");
    xtask.wait();
    eventually("all programs to end", || programs_of(folder.path()).is_empty().then_some(()));
}

#[test]
fn two_jobs_do_not_write_to_the_same_folder() {
    let folder = tempfile::tempdir().unwrap();
    let first = start(folder.path(), &["--classifier", "sleep:10000"]);
    eventually("the job to run", || (programs_of(folder.path()).len() == 4).then_some(()));
    let said = start(folder.path(), &["--input-lines", "7"]).failure();
    assert!(
        said.contains(&format!("another job (process {}) is already running, and writes to", first.pid())),
        "{said}"
    );
}

/// Command lines of running processes that refer to this folder, except xtask.
fn programs_of(folder: &Path) -> Vec<String> {
    let folder = folder.to_str().unwrap();
    let mut found = Vec::new();
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        // The process may have ended since it was listed.
        let Ok(line) = std::fs::read(process.path().join("cmdline")) else { continue };
        let words = String::from_utf8_lossy(&line).replace('\0', " ");
        let environment = std::fs::read(process.path().join("environ")).unwrap_or_default();
        let python = words.contains(" -c ") && String::from_utf8_lossy(&environment).contains(folder);
        if (words.contains(folder) && !words.contains("xtask run-locally")) || python {
            found.push(words);
        }
    }
    found
}
