//! Processes are killed and stopped; the job continues, and its results are the same.

use std::io::Write;
use std::process::{Command, Stdio};

use tests::cluster::read_results;
use tests::program::Program;
use tests::{PATIENCE, eventually};

/// Runs `cargo xtask chaos`; returns its output.
fn chaos(args: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let mut command = tests::xtask();
    command.arg("chaos").args(args).arg("--output").arg(folder.path());
    // chaos compares the results itself. Restarting the killed processes may take minutes on a slow machine.
    Program::start_command("chaos", folder.path(), command).success_within(3 * PATIENCE)
}

#[test]
fn a_local_job_survives_kills_and_stops() {
    // A sleeping model makes the job long enough even on a fast machine.
    let args = ["--no-lab", "--kills", "6", "--classifier", "sleep:1000", "--input-lines", "120000"];
    let said = chaos(&[&args[..], &["--seed", "5"]].concat());
    assert!(said.contains("all                      6 times") && said.contains("the same bytes"), "{said}");
}

#[test]
fn a_local_job_survives_faults_in_models() {
    let said = chaos(&["--no-lab", "--kills", "4", "--input-lines", "600000", "--seed", "2"]);
    assert!(said.contains("model ") && said.contains("the same bytes"), "{said}");
}

#[test]
fn rows_from_standard_input_are_sent_again_after_a_crash() {
    let folder = tempfile::tempdir().unwrap();
    let (output, log) = (folder.path().join("output"), folder.path().join("log"));
    let mut command = tests::xtask();
    command.args([
        "run-locally",
        "--input",
        "-",
        "--classifier",
        "sleep:200",
        "--processes",
        "2",
        "--output",
    ]);
    command.arg(&output).arg("--log").arg(&log).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut job = command.spawn().unwrap();
    let mut input = job.stdin.take().unwrap();
    let rows: String = (0..20_000).map(|i| format!("{i},x\n")).collect();
    let all = format!("ID,NAME\n{rows}");
    let writing = std::thread::spawn(move || input.write_all(all.as_bytes()));
    eventually("results", || {
        let job = std::fs::read_dir(output.join("jobs")).ok()?.flatten().next()?;
        let checkpoint = job.path().join("results.checkpoint");
        let said = std::fs::read_to_string(checkpoint).unwrap_or_default();
        (said.contains("\"next_row\":") && !said.starts_with("{\"sequence\":0")).then_some(())
    });
    // The initializer dies, and with it the rows that it has read.
    let initializer = format!("{}", log.join("run/initializer.ready").display());
    let pid = std::fs::read_dir("/proc").unwrap().flatten().find_map(|process| {
        let words = std::fs::read(process.path().join("cmdline")).ok()?;
        let is_it = String::from_utf8_lossy(&words).contains(&initializer);
        is_it.then(|| process.file_name().to_string_lossy().into_owned())
    });
    assert!(Command::new("kill").args(["-KILL", &pid.unwrap()]).status().unwrap().success());
    let ended = job.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(ended.status.success(), "{said}");
    assert!(said.contains("initializer on this machine died (signal: 9"), "{said}");
    writing.join().unwrap().unwrap();
    let expected: String = (0..20_000).map(|i| format!("{i},x,0.0\n")).collect();
    assert!(read_results(&output.join("results.log")).log == expected.as_bytes());
}
