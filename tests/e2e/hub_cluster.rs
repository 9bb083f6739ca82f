//! The Monitoring Hub of a job on hosts, reached from the machine that commands them.

use telemetry::view::{Job, JobState, Machine};
use tests::eventually;
use tests::hub::{ask, page, report, view};
use tests::stack::Stack;

fn job(page: &str) -> Option<Job> {
    ask(page, "/api/v1/job")
}

#[test]
fn the_hub_on_hosts_is_reachable_from_here_and_outlives_the_job() {
    let Some(stack) = Stack::new("the_hub_on_hosts_is_reachable_from_here_and_outlives_the_job", "3") else {
        return;
    };
    stack.up(&[]);
    let urls = std::fs::read_to_string(stack.path("urls.txt")).unwrap();
    assert!(urls.contains("\nhub      http://127.0.0.1:4000 (through cargo xtask hub)\n"), "{urls}");
    let said = stack.fail("hub", &[]);
    assert!(said.contains("no Monitoring Hub runs on h1: cargo xtask run-cluster starts one"), "{said}");

    let args = ["INPUT_LINES=100000", "--classifier", "sleep:1000", "--workers", "2"];
    let mut run = stack.start("run-cluster", &args);
    let during = page(&run, "hub        http://");
    let running = eventually("rows to move, and every program to report", || {
        job(&during).filter(|job| {
            let moves = job.rows.written > 0 && job.rows.total.is_some();
            moves && job.workers_up == 4 && job.workers_expected == 4
        })
    });
    assert_eq!(running.state, JobState::Running, "{running:?}");
    eventually("all machines to report", || {
        let machines: Vec<Machine> = view(&during, "/api/v1/machines");
        let names: Vec<_> = machines.iter().map(|machine| &*machine.name).collect();
        (names == ["h1", "h2", "h3"]).then_some(())
    });

    // Another terminal gets its own tunnel.
    let mut viewer = stack.start("hub", &[]);
    let aside = page(&viewer, "the page stays at http://");
    assert_ne!(aside, during);
    assert_eq!(job(&aside).unwrap().rows.total, Some(100_000));
    // A killed hub is restarted at the same address.
    let folder = stack.lab.folder().join("h1/home/.provisioned-classifier");
    let hubs = tests::command_lines_of(|words| {
        words.contains("app/hub ")
            && words.contains("--listen")
            && words.contains(&stack.lab.values("address")[0])
    });
    let [(hub, _)] = &hubs[..] else { panic!("{hubs:?}") };
    assert!(std::process::Command::new("kill").args(["-KILL", &hub.to_string()]).status().unwrap().success());
    eventually("the next hub", || job(&aside).filter(|job| job.workers_up == 4));

    let said = run.success();
    assert!(said.contains("the job's Monitoring Hub stays: cargo xtask hub"), "{said}");
    let done =
        eventually("the hub to show the end", || job(&aside).filter(|job| job.state == JobState::Done));
    assert_eq!(done.summary.as_ref().map(|summary| summary.rows), Some(100_000), "{done:?}");

    // get-results also fetches the hub's report.
    eventually("the report", || folder.join("output/report.html").exists().then_some(()));
    let said = stack.run("get-results", &["--output", stack.path("out").to_str().unwrap()]);
    assert!(said.contains("out/report.html"), "{said}");
    assert_eq!(report(&stack.path("out")).job.summary, done.summary);
    let entries = std::fs::read_dir(stack.path("out")).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_unstable();
    let results = ["results.json", "results.log", "results.rejects.csv", "results.tgz"];
    assert_eq!(names, [&[".lock", "jobs", "latest", "report.html", "report.json"], &results[..]].concat());

    // A running hub does not count as a job, and stop ends it.
    let said = stack.run("stop", &[]);
    assert!(said.contains("no job was running") && said.contains("the job is done: 100,000 rows"), "{said}");
    let said = viewer.success();
    assert!(said.contains("the Monitoring Hub was ended"), "{said}");
    stack.down();
}
