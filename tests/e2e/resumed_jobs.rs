//! Interrupted jobs on hosts of a lab: `run-cluster --resume` and `--attach`.

use tests::eventually;
use tests::stack::Stack;

#[test]
fn a_stopped_job_is_resumed_and_watched_to_its_end() {
    let name = "a_stopped_job_is_resumed_and_watched_to_its_end";
    let Some(stack) = Stack::new(name, "3") else { return };
    stack.up(&[]);
    let said = stack.fail("run-cluster", &["--resume"]);
    assert!(said.contains("there is no job on the metrics host to continue with"), "{said}");
    let said = stack.fail("run-cluster", &["--attach"]);
    assert!(said.contains("there is no job on the hosts"), "{said}");
    let said = stack.fail("run-cluster", &["--resume", "--classifier", "native"]);
    assert!(said.contains("--resume does not accept --model: a resumed job keeps"), "{said}");
    let lines = 60_000;
    let rows: String = (0..lines).map(|i| format!("{i},x\n")).collect();
    std::fs::write(stack.path("in.csv"), format!("ID,NAME\n{rows}")).unwrap();
    let args = ["--input", "in.csv", "--classifier", "sleep:1000", "--workers", "2"];
    let mut job = stack.start("run-cluster", &args);
    let home = stack.lab.folder().join("h1/home/.provisioned-classifier");
    let has_rows = |rows: u64| {
        let text = std::fs::read_to_string(home.join("output/results.checkpoint")).unwrap_or_default();
        let numbers =
            text.split("\"next_row\":").filter_map(|part| part.split(',').next()?.parse::<u64>().ok());
        numbers.max().filter(|durable| *durable >= rows)
    };
    eventually("rows", || has_rows(2000));
    let said = stack.run("stop", &[]);
    assert!(said.contains("rows are durable"), "{said}");
    job.failure();
    let durable = has_rows(2000).unwrap();
    let said = stack.fail("run-cluster", &["--attach"]);
    assert!(said.contains("no job is running: the receiver has ended"), "{said}");

    // The job continues on other hosts than before, and no terminal watches all of it.
    stack.up(&["--cluster-size", "1"]);
    let mut job = stack.start("run-cluster", &["--resume"]);
    job.await_output("continuing with rows from the file that was shipped, on 2 workers (1 machines of 2)");
    eventually("more rows", || has_rows(durable + 1000));
    job.signal("HUP");
    job.failure();
    let said = eventually("the hosts to notice", || {
        let mut attached = stack.start("run-cluster", &["--attach"]);
        let status = attached.wait();
        status.success().then(|| attached.output())
    });
    assert!(said.contains("rows out   60,000"), "{said}");
    let expected: String = (0..lines).map(|i| format!("{i},x,0.0\n")).collect();
    assert!(stack.results() == expected.as_bytes());
    let said = stack.fail("run-cluster", &["--resume"]);
    assert!(said.contains("the last job is done, with 60,000 rows"), "{said}");
    let said = stack.run("run-cluster", &["--attach"]);
    assert!(said.contains("rows out   60,000"), "{said}");
    stack.down();
}

#[test]
fn results_that_could_not_be_packed_are_packed_later() {
    let Some(stack) = Stack::new("results_that_could_not_be_packed_are_packed_later", "2") else { return };
    stack.up(&[]);
    // The job runs for twenty seconds, in which the test makes the obstacle.
    let args = ["INPUT_LINES=20000", "--classifier", "sleep:1000", "--workers", "1"];
    let mut job = stack.start("run-cluster", &args);
    let output = stack.lab.folder().join("h1/home/.provisioned-classifier/output");
    eventually("the job to begin", || output.join("results.checkpoint").exists().then_some(()));
    let obstacle = output.join("results.tgz");
    std::fs::create_dir_all(obstacle.join("in the way")).unwrap();
    let said = job.failure();
    assert!(said.contains("packing the results"), "{said}");
    std::fs::remove_dir_all(obstacle).unwrap();

    let said = stack.fail("run-cluster", &["--attach"]);
    assert!(said.contains("cargo xtask run-cluster --resume goes on there"), "{said}");
    let said = stack.fail("get-results", &["--output", "out"]);
    assert!(said.contains("cargo xtask run-cluster --resume packs it"), "{said}");
    let said = stack.run("run-cluster", &["--resume"]);
    assert!(said.contains("rows out   20,000"), "{said}");
    assert_eq!(stack.results().iter().filter(|byte| **byte == b'\n').count(), 20_000);
    stack.down();
}
