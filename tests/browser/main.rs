//! The Monitoring Hub's page, as people see it: real Chromium, a real job.

#![allow(clippy::unwrap_used, reason = "what is unexpected fails the test")]

mod driver;

use std::path::PathBuf;
use std::process::Command;

use driver::Browser;
use serde_json::Value;
use tests::http::get;
use tests::hub::{HOST, json, sample, start};
use tests::program::Program;

/// Where pictures are kept.
fn picture(name: &str) -> PathBuf {
    tests::root().join("target/hub").join(name)
}

/// How many rows are written, as Prometheus is told.
fn told(page: &str) -> u64 {
    sample(&get(page, "/metrics", HOST).unwrap(), "classifier_output_rows_total") as u64
}

/// How many rows are written, as the page says it.
fn written(browser: &Browser) -> Option<u64> {
    let text = browser.text("#rows");
    let (before, _) = text.split_once(" written")?;
    let (_, count) = before.rsplit_once("in flight, ")?;
    count.split(" of ").next()?.replace(',', "").parse().ok()
}

/// How a worker is, as its row in the table says it.
fn state_of(browser: &Browser, worker: &str) -> String {
    let rows = browser.texts("#workers tbody tr");
    let row = rows.iter().find(|row| row.split_whitespace().next() == Some(worker));
    row.map(|row| row.split_whitespace().skip(1).take(2).collect::<Vec<_>>().join(" ")).unwrap_or_default()
}

/// The browser has nothing to say of the page, and the page has asked nobody but its hub.
fn assert_quiet(browser: &Browser, page: &str) {
    assert_eq!(browser.messages(), Value::Array(Vec::new()));
    let asked = browser.run("return performance.getEntriesByType('resource').map(entry => entry.name);");
    for address in asked.as_array().unwrap() {
        assert!(address.as_str().unwrap().starts_with(&format!("http://{page}/")), "{asked}");
    }
}

#[test]
fn the_page_of_a_job_from_its_start_to_its_report() {
    let Some(browser) = Browser::start("the_page_of_a_job_from_its_start_to_its_report") else { return };
    let folder = tempfile::tempdir().unwrap();
    let args = ["--classifier", "sleep:4000", "--input-lines", "60000", "--workers", "4", "--processes", "2"];
    let (mut xtask, page) = start(folder.path(), &[&args[..], &["--keep-hub"]].concat());
    browser.open(&format!("http://{page}/"));

    // Rows move, and whoever is asked says the same.
    browser.eventually("the job to run", |browser| (browser.text("#state") == "Running").then_some(()));
    let first = browser.eventually("rows", |browser| written(browser).filter(|rows| *rows > 0));
    browser.eventually("more rows", |browser| written(browser).filter(|rows| *rows > first));
    let before = json(&page, "/api/v1/job")["rows"]["written"].as_u64().unwrap();
    let shown = browser.eventually("newer rows", |browser| written(browser).filter(|rows| *rows >= before));
    let after = told(&page);
    assert!(before <= shown && shown <= after, "{before} {shown} {after}");
    browser.eventually("all workers", |browser| {
        browser.text("#facts").starts_with("4 of 4 workers are up, 0 restarts").then_some(())
    });
    browser
        .eventually("an estimate", |browser| browser.text("#estimate").starts_with("Done in ").then_some(()));
    browser.prefer("light");
    browser.picture(&picture("running-light.png"));

    // A process is killed, and nobody starts it again: who would is stopped.
    xtask.signal("STOP");
    let worker = tests::command_lines_of(|words| {
        words.contains("--name worker1") && words.contains(folder.path().to_str().unwrap())
    });
    let [(worker, _)] = &worker[..] else { panic!("{worker:?}") };
    assert!(Command::new("kill").args(["-KILL", &worker.to_string()]).status().unwrap().success());
    browser
        .eventually("a stale worker", |browser| (state_of(browser, "worker1.0") == "◌ stale").then_some(()));
    browser.eventually("a lost worker", |browser| (state_of(browser, "worker1.0") == "✕ lost").then_some(()));
    browser
        .eventually("the job to stand still", |browser| (browser.text("#state") == "Stalled").then_some(()));
    assert!(browser.text("#bottleneck").contains("worker1"), "{}", browser.text("#bottleneck"));
    browser.picture(&picture("stalled-light.png"));
    xtask.signal("CONT");
    browser.eventually("the job to go on", |browser| (browser.text("#state") == "Running").then_some(()));
    browser.eventually("the worker", |browser| (state_of(browser, "worker1.0") == "● up").then_some(()));
    assert!(browser.texts("#events li").iter().any(|event| event.contains("worker1 was started again")));
    assert_eq!(browser.barriers(), Vec::<String>::new());

    // Who opens the page now sees the job from its start on.
    browser.open(&format!("http://{page}/"));
    let start = browser.eventually("the chart", |browser| {
        browser.texts("#rates text[text-anchor=start]").into_iter().find(|label| label.ends_with(" s"))
    });
    let start: u64 = start.trim_end_matches(" s").parse().unwrap();
    assert!(start <= 3, "the chart begins after {start} s");
    browser.eventually("earlier events", |browser| {
        browser.texts("#events li").iter().any(|event| event.contains("sender has joined")).then_some(())
    });

    // Pages of one worker and of one computation, by their links.
    browser.click("#workers a[href='/worker/initializer.1']");
    browser.eventually("the worker's page", |browser| {
        (browser.text("#workers-title") == "initializer.1" && !browser.text("#computations").is_empty())
            .then_some(())
    });
    assert_eq!(browser.texts("#workers tbody tr").len(), 1);
    browser.click("#computations a");
    browser.eventually("the computation's page", |browser| {
        browser.run("return location.pathname;").as_str().unwrap().starts_with("/computation/").then_some(())
    });
    browser
        .eventually("its histogram", |browser| (browser.texts("#computations svg").len() == 1).then_some(()));
    browser.click("a.home");

    // A narrow window, and a filter.
    browser.resize(Some(400));
    browser.eventually("a table", |browser| (browser.texts("#workers tbody tr").len() == 4).then_some(()));
    let wide =
        browser.run("return document.documentElement.scrollWidth - document.documentElement.clientWidth;");
    assert_eq!(wide, 0, "the page is wider than a narrow window");
    browser.resize(None);
    browser.write("#filter", "worker1");
    browser.eventually("fewer rows", |browser| (browser.texts("#workers tbody tr").len() == 2).then_some(()));
    assert_quiet(&browser, &page);

    // The end: a summary, which stays.
    browser.eventually("the end", |browser| (browser.text("#state") == "Done").then_some(()));
    for _ in 0..2 {
        let summary = browser.eventually("the summary", |browser| {
            Some(browser.text("#summary")).filter(|text| text.contains("rows in = rows out + rejects"))
        });
        assert!(summary.contains("60,000") && summary.contains('✓'), "{summary}");
        assert_eq!(written(&browser), Some(60_000));
        browser.reload();
    }
    assert_eq!(json(&page, "/api/v1/job")["rows"]["written"], 60_000);
    assert_eq!(told(&page), 60_000);
    browser.prefer("dark");
    browser.eventually("marks of what has happened", |browser| {
        let marks = browser.texts("#rates .mark");
        ["✕", "↻"].iter().all(|symbol| marks.iter().any(|mark| mark.contains(symbol))).then_some(())
    });
    assert_eq!(browser.barriers(), Vec::<String>::new());
    browser.picture(&picture("done-dark.png"));
    assert_quiet(&browser, &page);

    // What is left needs no hub. (A page that is open would complain that its hub is gone.)
    browser.open("about:blank");
    xtask.signal("INT");
    xtask.success();
    let report = folder.path().join("out/report.html");
    browser.open(&format!("file://{}", report.display()));
    assert_eq!(browser.text("#state"), "Done");
    assert!(browser.text("#summary").contains("60,000"));
    assert_eq!(browser.texts("#workers tbody tr").len(), 4);
    assert_eq!(browser.run("return performance.getEntriesByType('resource').length;"), 0);
    assert_eq!(browser.messages(), Value::Array(Vec::new()));
}

#[test]
fn with_a_token_the_page_is_behind_a_login() {
    let Some(browser) = Browser::start("with_a_token_the_page_is_behind_a_login") else { return };
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("web-token");
    protocol::token::Token::new("0123456789abcdef0123456789abcdef").save(&secret).unwrap();
    let args =
        ["--listen", "127.0.0.1:0", "--web", "127.0.0.1:0", "--web-token-file", secret.to_str().unwrap()];
    let mut hub = Program::start_server("hub", folder.path(), args);
    browser.open(&format!("http://{}/worker/some.0", hub.address("web")));
    assert_eq!(browser.text("h1"), "Monitoring Hub");
    assert_eq!(browser.barriers(), Vec::<String>::new());
    browser.write("input[name=token]", "a guess");
    browser.click("button");
    browser.eventually("the login again", |browser| {
        (!browser.texts("input[name=token]").is_empty()).then_some(())
    });
    browser.write("input[name=token]", "0123456789abcdef0123456789abcdef");
    browser.click("button");
    browser.eventually("the page", |browser| (browser.text("#state") == "Waiting").then_some(()));
}

#[test]
fn rejects_are_shown_by_kinds_of_reasons_where_there_are_some() {
    let Some(browser) = Browser::start("rejects_are_shown_by_kinds_of_reasons_where_there_are_some") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let report = |name: &str, csv: &str| {
        let path = |what: &str| folder.path().join(format!("{name}{what}"));
        std::fs::write(path(".csv"), csv).unwrap();
        let mut command = Command::new(tests::program_path("xtask"));
        command.env("CARGO_MANIFEST_DIR", tests::root().join("xtask"));
        command.args(["run-locally", "--classifier", "native", "--input"]).arg(path(".csv"));
        command.arg("--output").arg(path("")).arg("--log").arg(path("-log"));
        Program::start_command("xtask", folder.path(), command).success();
        format!("file://{}", path("/report.html").display())
    };
    browser.open(&report("bad", "A,B\n1,2\n1\n\n1,2,3\n1\n"));
    assert_eq!(browser.texts("#rejects tbody th"), ["… values; the header has …", "an empty record"]);
    let shown = ["3", "1", "1 values; the header has 2", "1", "2", "an empty record"];
    assert_eq!(browser.texts("#rejects tbody td"), shown);
    assert!(browser.text("#summary").contains("A, B, CLASSIFICATION"), "{}", browser.text("#summary"));
    assert_eq!(browser.barriers(), Vec::<String>::new());
    browser.open(&report("good", "A,B\n1,2\n"));
    assert_eq!(browser.run("return document.getElementById('rejects-section').hidden;"), true);
    assert_eq!(browser.barriers(), Vec::<String>::new());
}
