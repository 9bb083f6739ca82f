//! Processes die, are stopped, and are cut off: the job goes on, and its results are the same.

use std::io::Write;
use std::process::{Command, Stdio};

use tests::cluster::read_results;
use tests::program::Program;
use tests::{PATIENCE, eventually};

/// Runs `cargo xtask chaos`, with a Python of the tests' own.
fn chaos(args: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let mut command = tests::xtask();
    command.arg("chaos").args(args).arg("--output").arg(folder.path());
    // It checks the results itself. All that is killed starts again, which a slow machine takes minutes for.
    Program::start_command("chaos", folder.path(), command).success_within(3 * PATIENCE)
}

#[test]
fn processes_of_this_machine_are_killed_and_stopped() {
    // A model that sleeps takes its time also where nothing else does.
    let args = ["--no-lab", "--kills", "6", "--classifier", "sleep:1000", "--input-lines", "120000"];
    let said = chaos(&[&args[..], &["--seed", "5"]].concat());
    assert!(said.contains("all                      6 times") && said.contains("the same bytes"), "{said}");
}

#[test]
fn models_die_with_the_others() {
    let said = chaos(&["--no-lab", "--kills", "4", "--input-lines", "600000", "--seed", "2"]);
    assert!(said.contains("model ") && said.contains("the same bytes"), "{said}");
}

#[test]
fn rows_from_standard_input_are_asked_for_again() {
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
    let checkpoint = output.join("results.checkpoint");
    eventually("results", || {
        let said = std::fs::read_to_string(&checkpoint).unwrap_or_default();
        (said.contains("\"next_row\":") && !said.starts_with("{\"sequence\":0")).then_some(())
    });
    // The one that takes the rows dies, with those that it has taken.
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
