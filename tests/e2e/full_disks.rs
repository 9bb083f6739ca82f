//! Full disks: the error names the host and the file.

use std::path::Path;
use std::process::Command;

use tests::program::Program;
use tests::stack::Stack;

const FULL: &str = "No space left on device";

/// Starts a command for which `folder` is a file system of this size. Skips the test and returns `None` if this user may not
/// mount one.
fn with_little_room(test: &str, folder: &Path, size: &str, command: &Command) -> Option<Program> {
    std::fs::create_dir_all(folder).unwrap();
    let mount =
        "mount -t tmpfs -o size=\"$0\" none \"$1\" || { echo cannot mount; exit 99; }; shift; exec \"$@\"";
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "sh", "-c", mount, size]).arg(folder);
    unshare.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        unshare.env(name, value.unwrap());
    }
    if let Some(current) = command.get_current_dir() {
        unshare.current_dir(current);
    }
    let logs = folder.parent().unwrap();
    let mut probe = Command::new("unshare");
    if !probe.args(["--mount", "true"]).output().is_ok_and(|output| output.status.success()) {
        tests::skip(test, "mounting a file system needs root");
        return None;
    }
    Some(Program::start_command("little-room", logs, unshare))
}

#[test]
fn a_local_job_names_the_file_that_it_cannot_write() {
    const NAME: &str = "a_local_job_names_the_file_that_it_cannot_write";
    let folder = tempfile::tempdir().unwrap();
    let job = |output: &Path, log: &Path| {
        let mut command = tests::xtask();
        command.args(["run-locally", "--no-hub", "INPUT_LINES=100000", "--output"]).arg(output);
        command.arg("--log").arg(log);
        command
    };
    let (small, roomy) = (folder.path().join("small"), folder.path().join("roomy"));
    let Some(mut xtask) = with_little_room(NAME, &small, "400k", &job(&small, &roomy)) else { return };
    let said = xtask.exit(1);
    let results = format!("the job failed: writing {}", small.join("jobs").display());
    assert!(said.contains("on this machine failed") && said.contains(&results), "{said}");
    assert!(said.contains(&format!("/results.log: {FULL}")), "{said}");
    // The disk of the logs is full. Programs are not started without room in their logs for their last lines.
    let mut xtask = with_little_room(NAME, &small, "32k", &job(&roomy, &small)).unwrap();
    let said = xtask.failure();
    assert!(said.contains(FULL) && said.contains(&small.display().to_string()), "{said}");
}

#[test]
fn every_step_names_the_host_and_file_of_a_full_disk() {
    let Some(stack) = Stack::new("every_step_names_the_host_and_file_of_a_full_disk", "2") else {
        return;
    };
    let folder = "/root/.provisioned-classifier";
    let on_h1 = |script: &str| drop(stack.lab.inside("h1", &script.replace("FOLDER", folder)));
    let fill = |kib: u64| {
        on_h1(&format!(
            "rm -f FOLDER/filler; free=$(df -Pk FOLDER | awk 'NR == 2 {{ print $4 }}') &&
             head -c $(((free - {kib}) * 1024)) /dev/zero > FOLDER/filler"
        ));
    };
    on_h1("mkdir FOLDER && mount -t tmpfs -o size=64m none FOLDER");
    // There is room for app.zip, but not for its unpacked content.
    let agent = std::fs::metadata(tests::program_path("agent")).unwrap().len() >> 10;
    fill(agent + (12 << 10));
    let said = stack.fail("up", &["--hosts", &stack.hosts_file()]);
    assert!(said.contains("on h1") && said.contains("versions/app.new/") && said.contains(FULL), "{said}");
    // up has removed what it shipped.
    on_h1("test ! -e FOLDER/app.zip && test ! -e FOLDER/versions/app.new && rm FOLDER/filler");
    stack.up(&[]);

    // The receiver's disk is full, and its log has room for the error.
    fill(700);
    let said = stack.start("run-cluster", &["INPUT_LINES=200000"]).exit(1);
    assert!(said.contains("receiver on h1 failed"), "{said}");
    assert!(said.contains(&format!("    the job failed: writing output/results.log: {FULL}")), "{said}");
    // The input does not fit.
    std::fs::write(stack.path("in.csv"), "A,B\n".repeat(1 << 20)).unwrap();
    let said = stack.refused("run-cluster", &["--input", "in.csv", "--model", "native"]);
    assert!(said.contains("writing input/rows.csv on h1") && said.contains("its disk is full"), "{said}");
    // The incomplete file is removed.
    on_h1("test -z \"$(ls FOLDER/input)\"");

    // This machine's disk is full.
    on_h1("rm FOLDER/filler");
    stack.run("run-cluster", &["INPUT_LINES=20000"]);
    let out = stack.path("small");
    for args in [&[][..], &["--within", "60s", "--partial"]] {
        let mut command = stack.command("get-results", args);
        command.arg("--output").arg(&out);
        let mut fetching = with_little_room("", &out, "64k", &command).unwrap();
        let said = fetching.exit(1);
        assert!(said.contains(&format!("writing {}/results.", out.display())), "{said}");
        assert!(said.contains("on this machine") && said.contains(FULL) && !said.contains("of h1"), "{said}");
    }
    // In this test the folder is a mount, which down could not remove; it ends with the lab.
    stack.run("stop", &[]);
}
