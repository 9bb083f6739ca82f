//! Processes die, are stopped, and are cut off: the job goes on, and its results are the same.

use std::process::Command;

use tests::program::Program;

/// Runs `cargo xtask chaos`, with a Python of the tests' own.
fn chaos(args: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(tests::program_path("xtask"));
    command.arg("chaos").args(args).arg("--output").arg(folder.path());
    // It checks the results itself.
    Program::start_command("chaos", folder.path(), command).success()
}

#[test]
fn processes_of_this_machine_are_killed_and_stopped() {
    // A box that sleeps takes its time also where nothing else does.
    let args = ["--no-lab", "--kills", "6", "--classifier", "sleep:100", "--input-lines", "500000"];
    let said = chaos(&[&args[..], &["--seed", "5"]].concat());
    assert!(said.contains("all                      6 times") && said.contains("the same bytes"), "{said}");
}

#[test]
fn boxes_die_with_the_others() {
    let said = chaos(&["--no-lab", "--kills", "4", "--input-lines", "700000", "--seed", "2"]);
    assert!(said.contains("box ") && said.contains("the same bytes"), "{said}");
}
