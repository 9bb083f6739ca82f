//! The exit codes of commands that run a job, and that a refused command changes nothing.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use tests::cluster::read_results;
use tests::eventually;
use tests::program::Program;
use tests::stack::Stack;

fn local(folder: &Path, args: &[&str]) -> Command {
    let mut command = tests::xtask();
    command.current_dir(folder).args(["run-locally", "--no-hub", "--output"]).arg(folder.join("out"));
    command.arg("--log").arg(folder.join("log")).args(args);
    command
}

fn start(folder: &Path, args: &[&str]) -> Program {
    Program::start_command("xtask", folder, local(folder, args))
}

#[test]
fn exit_codes_of_run_locally() {
    let folder = tempfile::tempdir().unwrap();
    let run = |args: &[&str], code: i32| start(folder.path(), args).exit(code);
    std::fs::write(folder.path().join("in.csv"), "A,B\n1,2\n3\n4,5\n").unwrap();
    std::fs::write(folder.path().join("empty.csv"), "").unwrap();
    std::fs::create_dir(folder.path().join("folder")).unwrap();
    // Rejects are not a failure without --strict.
    run(&["--input", "in.csv", "--model", "native"], 0);
    run(&["--input", "in.csv", "--model", "native", "--strict"], 1);
    run(&["--input-lines", "3"], 0);

    run(&["--no-such-option"], 2);
    run(&["LINES=3"], 2);
    run(&["--workers", "0"], 2);
    run(&["--model", "slep:5"], 2);
    let said = run(&["--resume"], 2);
    assert!(said.contains("the same command goes on with a local job by itself"), "{said}");
    for refused in [
        &["--input", "nowhere.csv", "--model", "native"][..],
        &["--input", "folder", "--model", "native"],
        &["--input", "empty.csv", "--model", "native"],
        &["--model", "python:no_such_module"],
        &["--workers", "2000"],
    ] {
        run(refused, 3);
    }
    // A job with --input must name its model.
    let said = run(&["--input", "in.csv"], 3);
    assert!(said.contains("--model python:MODULE") && said.contains("--model native"), "{said}");
    let mut piped = local(folder.path(), &["--input", "-"]);
    let mut piped = piped.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    piped.stdin.take().unwrap().write_all(b"A\n1\n").unwrap();
    assert_eq!(piped.wait().unwrap().code(), Some(3));
    assert_eq!(read_results(&folder.path().join("out/results.log")).summary.rows, 3);

    let mut first = start(folder.path(), &["--model", "sleep:10000"]);
    first.await_output("fake rows on");
    let said = run(&["--input-lines", "3"], 4);
    assert!(said.contains(&format!("another job (process {})", first.pid())), "{said}");
    first.signal("INT");
    first.exit(130);
    // A job that has begun and then fails.
    let mut job = start(folder.path(), &["--model", "sleep:10000", "--chunk-size", "1"]);
    job.await_output(" rows/s");
    let ready = folder.path().join("log/run/receiver.ready").display().to_string();
    let receiver = eventually("the receiver", || {
        tests::command_lines_of(|words| words.contains(&ready)).first().map(|(pid, _)| *pid)
    });
    std::fs::remove_dir_all(folder.path().join("out")).unwrap();
    assert!(Command::new("kill").args(["-KILL", &receiver.to_string()]).status().unwrap().success());
    job.exit(1);
}

#[test]
fn a_failed_write_to_standard_output_is_an_error_and_keeps_the_results() {
    let folder = tempfile::tempdir().unwrap();
    let full = || File::options().write(true).open("/dev/full").unwrap();
    let output = local(folder.path(), &["--input-lines", "7"]).stdout(full()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("error: writing to standard output"), "{said}");
    assert!(said.contains("because: No space left on device"), "{said}");
    assert_eq!(read_results(&folder.path().join("out/results.log")).summary.rows, 7);

    // The reader of standard output is gone.
    let mut job = local(folder.path(), &["--input-lines", "8"]);
    let mut job = job.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(job.stdout.take());
    let output = job.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("because: Broken pipe") && !said.contains("panicked"), "{said}");
    assert_eq!(read_results(&folder.path().join("out/results.log")).summary.rows, 8);
}

#[test]
fn every_command_that_runs_a_job_has_the_codes_in_its_help() {
    for command in ["run-locally", "run-cluster", "job", "get-results", "down"] {
        let help = tests::xtask().args([command, "--help"]).output().unwrap();
        let help = String::from_utf8(help.stdout).unwrap();
        for words in ["Exit codes:", "  3    refused before anything was changed", "  130  interrupted"] {
            assert!(help.contains(words), "{command}: {help}");
        }
    }
}

#[test]
fn exit_codes_of_commands_for_hosts() {
    let Some(stack) = Stack::new("exit_codes_of_commands_for_hosts", "2") else {
        return;
    };
    let run = |command: &str, args: &[&str], code: i32| stack.start(command, args).exit(code);
    std::fs::write(stack.path("in.csv"), "A,B\n1,2\n3\n").unwrap();
    run("run-cluster", &[], 3);
    run("up", &["--hosts", "nowhere.toml"], 3);
    stack.up(&[]);
    run("run-cluster", &["--attach"], 3);
    run("run-cluster", &["--resume"], 3);
    run("get-results", &["--output", "out"], 3);
    run("run-cluster", &["INPUT_LINES=10"], 0);

    run("run-cluster", &["--input", "nowhere.csv", "--model", "native"], 3);
    run("run-cluster", &["--model", "python:no_such_module"], 3);
    // up has shipped native by default, which does not count as naming it.
    let said = run("run-cluster", &["--input", "in.csv"], 3);
    assert!(said.contains("--model native"), "{said}");
    run("run-cluster", &["--resume", "--chunk-size", "7"], 2);
    run("run-cluster", &["--attach", "--workers", "7"], 2);
    run("run-cluster", &["--workers", "0"], 2);
    let said = run("down", &[], 3);
    assert!(said.contains("h1 has results of 10 rows that were not fetched"), "{said}");
    run("get-results", &["--output", "out"], 0);

    // A model that was named for up need not be named again.
    stack.up(&["--model", "native"]);
    run("run-cluster", &["--input", "in.csv"], 0);
    stack.lab.set_link("h2", "down");
    run("run-cluster", &["INPUT_LINES=10"], 3);
    stack.lab.set_link("h2", "up");
    run("get-results", &["--output", "out"], 0);

    let mut job = stack.start("run-cluster", &["--model", "sleep:1000"]);
    job.await_output("fake rows, on 7 workers");
    run("run-cluster", &["INPUT_LINES=10"], 4);
    run("up", &["--cluster-size", "1", "--model", "sleep:1"], 4);
    run("down", &[], 4);
    let receiver = stack.lab.folder().join("h1/home/.provisioned-classifier/run/receiver.ready");
    eventually("the receiver", || receiver.exists().then_some(()));
    run("get-results", &["--output", "out"], 4);
    job.signal("INT");
    job.exit(130);
    // Standard output that cannot be written.
    let full = File::options().write(true).open("/dev/full").unwrap();
    let status = stack.command("status", &["--json"]).stdout(full).stderr(Stdio::null()).status().unwrap();
    assert_eq!(status.code(), Some(1));
    let mut logs = stack.command("logs", &["--follow"]);
    let mut logs = logs.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(logs.stdout.take());
    let output = logs.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    stack.down();
}

#[test]
fn down_refuses_to_discard_results() {
    let Some(stack) = Stack::new("down_refuses_to_discard_results", "3") else { return };
    stack.up(&["--cluster-size", "1"]);
    let home = stack.lab.folder().join("h1/home/.provisioned-classifier");
    // Two finished jobs: having fetched the results of the first does not count for the second.
    for lines in ["INPUT_LINES=2000", "INPUT_LINES=3000"] {
        stack.run("run-cluster", &[lines]);
        let rows = if lines.ends_with("2000") { "2,000" } else { "3,000" };
        let said = stack.refused("down", &[]);
        assert!(said.contains(&format!("h1 has results of {rows} rows that were not fetched")), "{said}");
        assert!(said.contains("cargo xtask get-results; or discard them"), "{said}");
        stack.refused("down", &["--force"]);
        assert!(home.join("output/results.tgz").exists());
        stack.results();
    }
    // An interrupted job has results as well, and a partial fetch does not count.
    let mut job = stack.start("run-cluster", &["--model", "sleep:1000", "--workers", "2"]);
    let checkpoint = home.join("output/results.checkpoint");
    let durable = |rows: u64| {
        let text = std::fs::read_to_string(&checkpoint).unwrap_or_default();
        let numbers =
            text.split("\"next_row\":").filter_map(|part| part.split(',').next()?.parse::<u64>().ok());
        numbers.max().filter(|durable| *durable >= rows)
    };
    eventually("rows", || durable(500));
    job.signal("INT");
    job.exit(130);
    let rows = durable(500).unwrap();
    stack.run("get-results", &["--partial", "--output", stack.path("out").to_str().unwrap()]);
    let said = stack.refused("down", &[]);
    assert!(
        said.contains(&format!("results of {rows} rows")) || said.contains("rows that were not fetched"),
        "{said}"
    );
    assert!(said.contains("get-results --partial"), "{said}");
    // up does not discard results either, when it would change the metrics host.
    let file = std::fs::read_to_string(stack.hosts_file()).unwrap();
    let hosts: Vec<_> = file.split("\n[[host]]").collect();
    let others = [hosts[0], hosts[2], hosts[3]].join("\n[[host]]");
    std::fs::write(stack.path("others.toml"), others).unwrap();
    let said = stack.refused("up", &["--hosts", "others.toml"]);
    assert!(said.contains("h1 has results of"), "{said}");
    assert!(home.join("output/results.log").exists());
    let said = stack.run("down", &["--discard-results"]);
    assert!(said.contains("nothing of ours is left on"), "{said}");
    assert!(!home.exists());
}

#[test]
fn a_resumed_job_accepts_only_options_that_do_not_decide_its_results() {
    let name = "a_resumed_job_accepts_only_options_that_do_not_decide_its_results";
    let Some(stack) = Stack::new(name, "2") else { return };
    stack.up(&[]);
    let mut job =
        stack.start("run-cluster", &["INPUT_LINES=4000", "--model", "sleep:1000", "--workers", "1"]);
    let checkpoint = stack.lab.folder().join("h1/home/.provisioned-classifier/output/results.checkpoint");
    eventually("rows", || {
        std::fs::read_to_string(&checkpoint).unwrap_or_default().contains("\"next_row\":").then_some(())
    });
    job.signal("INT");
    job.exit(130);
    for refused in ["--chunk-size=7", "INPUT_LINES=7", "--model=native", "--seed=7", "CLASSIFIER_SLOWNESS=7"]
    {
        let said = stack.start("run-cluster", &["--resume", refused]).exit(2);
        assert!(said.contains("--resume does not accept --"), "{refused}: {said}");
    }
    // Environment variables do not count for a resumed job.
    let environment = [("INPUT_LINES", "7"), ("CHUNK_SIZE", "7"), ("WORKERS_PER_MACHINE", "5")];
    let args = ["--resume", "--workers", "3", "--model-timeout", "33"];
    let said = stack.start_with("run-cluster", &args, &environment).success();
    assert!(said.contains("on 3 workers (1 machines of 3), through sleep:1000"), "{said}");
    assert!(said.contains("rows out   4,000"), "{said}");
    let described = stack.lab.folder().join("h1/home/.provisioned-classifier/run/job.json");
    let described: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(described).unwrap()).unwrap();
    let words: Vec<_> =
        described["model_args"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
    assert!(words.join(" ").contains("--model-timeout 33"), "{words:?}");
    assert_eq!(described["workers"], 3);
    stack.down();
}
