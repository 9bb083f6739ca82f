//! Tests of the Monitoring Hub's page with a real Chromium and a real job.

#![allow(clippy::unwrap_used, reason = "in a test, a panic fails the test")]

mod driver;
mod gallery;

use std::path::PathBuf;
use std::process::Command;

use driver::Browser;
use serde_json::Value;
use tests::http::get;
use tests::hub::{HOST, job, sample, start};
use tests::program::Program;

/// The path of a saved picture.
fn picture(name: &str) -> PathBuf {
    tests::root().join("target/hub").join(name)
}

/// The number of rows written, from the metrics for Prometheus.
fn rows_in_metrics(page: &str) -> u64 {
    sample(&get(page, "/metrics", HOST).unwrap(), "classifier_output_rows_total") as u64
}

/// The number of rows written, from the page.
fn written(browser: &Browser) -> Option<u64> {
    let text = browser.text("#rows");
    let (count, _) = text.split_once(" of ")?;
    count.replace(',', "").parse().ok()
}

/// A worker's state, from its row in the table.
fn state_of(browser: &Browser, worker: u32) -> String {
    let rows = browser.texts("#workers tbody tr");
    let mut cells = rows.iter().map(|row| row.split('\t').map(str::trim));
    let row = cells.find_map(|mut row| (row.next()? == format!("worker {worker}")).then_some(row));
    row.and_then(|mut row| row.next()).unwrap_or_default().to_owned()
}

/// The first and last second of the chart.
fn seconds_of_chart(browser: &Browser) -> Option<(u64, u64)> {
    let title = browser.text("#rates svg title");
    let seconds = |text: &str| {
        text.split(" min ")
            .map(|part| part.trim_end_matches(" s").parse::<u64>().ok())
            .try_fold(0, |sum, part| Some(60 * sum + part?))
    };
    let (from, rest) = title.strip_prefix("Rows a second, from ")?.split_once(" to ")?;
    Some((seconds(from)?, seconds(rest.split_once(':')?.0)?))
}

/// Checks that the browser has logged nothing, and that the page has fetched only from its hub.
fn assert_quiet(browser: &Browser, page: &str) {
    assert_eq!(browser.messages(), Value::Array(Vec::new()));
    let asked = browser.run("return performance.getEntriesByType('resource').map(entry => entry.name);");
    for address in asked.as_array().unwrap() {
        assert!(address.as_str().unwrap().starts_with(&format!("http://{page}/")), "{asked}");
    }
}

#[test]
fn the_page_follows_a_job_from_its_start_to_its_report() {
    let Some(browser) = Browser::start("the_page_follows_a_job_from_its_start_to_its_report") else { return };
    let folder = tempfile::tempdir().unwrap();
    let args = ["--classifier", "sleep:4000", "--input-lines", "60000", "--workers", "4", "--processes", "2"];
    let (mut xtask, page) = start(folder.path(), &[&args[..], &["--keep-hub"]].concat());
    browser.open(&format!("http://{page}/"));

    // The number of rows grows, and all interfaces show the same.
    browser.eventually("the job to run", |browser| (browser.text("#state") == "Running").then_some(()));
    let first = browser.eventually("rows", |browser| written(browser).filter(|rows| *rows > 0));
    browser.eventually("more rows", |browser| written(browser).filter(|rows| *rows > first));
    let before = job(&page).rows.written;
    let shown = browser.eventually("newer rows", |browser| written(browser).filter(|rows| *rows >= before));
    let after = rows_in_metrics(&page);
    assert!(before <= shown && shown <= after, "{before} {shown} {after}");
    browser.eventually("all workers", |browser| {
        browser.text("#facts").starts_with("4 of 4 workers are up · 0 restarts").then_some(())
    });
    browser.eventually("an estimate", |browser| browser.text("#headline").contains(" · done ").then_some(()));
    browser.prefer("light");
    browser.picture(&picture("running-light.png"));

    // A process is killed and not restarted, since its supervisor is stopped.
    xtask.signal("STOP");
    let worker = tests::command_lines_of(|words| {
        words.contains("--name worker1") && words.contains(folder.path().to_str().unwrap())
    });
    let [(worker, _)] = &worker[..] else { panic!("{worker:?}") };
    assert!(Command::new("kill").args(["-KILL", &worker.to_string()]).status().unwrap().success());
    browser.eventually("a stale worker", |browser| (state_of(browser, 3) == "◌ stale").then_some(()));
    browser.eventually("a lost worker", |browser| (state_of(browser, 3) == "✕ lost").then_some(()));
    browser
        .eventually("the job to stand still", |browser| (browser.text("#state") == "Stalled").then_some(()));
    assert!(browser.text("#bottleneck").contains("worker1"), "{}", browser.text("#bottleneck"));
    browser.picture(&picture("stalled-light.png"));
    xtask.signal("CONT");
    browser.eventually("the job to go on", |browser| (browser.text("#state") == "Running").then_some(()));
    browser.eventually("the worker", |browser| (state_of(browser, 3) == "● up").then_some(()));
    assert!(browser.texts("#events li").iter().any(|event| event.contains("worker1 was restarted")));
    assert_eq!(browser.barriers(), Vec::<String>::new());

    // A page that is opened now shows the job from its start.
    browser.open(&format!("http://{page}/"));
    // The newest numbers may arrive before the earlier ones.
    browser.eventually("the chart from the start", |browser| {
        seconds_of_chart(browser).filter(|(start, end)| *start <= 3 && *end > 20)
    });
    browser.eventually("earlier events", |browser| {
        browser.texts("#events li").iter().any(|event| event.contains("sender joined")).then_some(())
    });

    // Links lead to the pages of one worker and of one computation.
    browser.click("#workers a[href='/worker/initializer.1']");
    browser.eventually("the worker's page", |browser| {
        (browser.text("#workers-title") == "Worker 2" && !browser.text("#computations").is_empty())
            .then_some(())
    });
    assert_eq!(browser.texts("#workers tbody tr").len(), 1);
    assert!(browser.text("#worker").contains("initializer.log"), "{}", browser.text("#worker"));
    browser.picture(&picture("worker-light.png"));
    browser.click("#computations a");
    browser.eventually("the computation's page", |browser| {
        browser.run("return location.pathname;").as_str().unwrap().starts_with("/computation/").then_some(())
    });
    browser
        .eventually("its histogram", |browser| (browser.texts("#computations svg").len() == 1).then_some(()));
    browser.click("a.home");

    // A narrow window.
    browser.resize(Some(400));
    browser.eventually("a table", |browser| (browser.texts("#workers tbody tr").len() == 4).then_some(()));
    // The charts are drawn again a moment after the window has changed.
    browser.eventually("the page to fit into a narrow window", |browser| {
        let wide = "return document.documentElement.scrollWidth - document.documentElement.clientWidth;";
        (browser.run(wide) == 0).then_some(())
    });
    browser.resize(None);
    assert_quiet(&browser, &page);

    // At the end the page shows a summary, also after a reload.
    browser.eventually("the end", |browser| (browser.text("#state") == "Done").then_some(()));
    for _ in 0..2 {
        let summary = browser.eventually("the summary", |browser| {
            Some(browser.text("#summary")).filter(|text| text.contains("rows in = rows out + rejects"))
        });
        assert!(summary.contains("60,000 = 60,000 + 0 ✓"), "{summary}");
        assert_eq!(written(&browser), Some(60_000));
        browser.reload();
    }
    assert_eq!(job(&page).rows.written, 60_000);
    browser.eventually("the bottleneck, after the reload", |browser| {
        browser.text("#bottleneck").contains("were busy").then_some(())
    });
    assert_eq!(rows_in_metrics(&page), 60_000);
    browser.prefer("dark");
    browser.eventually("marks for the events, with words", |browser| {
        let marks = browser.texts("#rates .mark");
        // Processes that were restarted at the same time share a mark.
        let words = [["✕", "worker1", "lost"], ["↻", "worker1", "restarted"]];
        let is_there =
            |words: [&str; 3]| marks.iter().any(|mark| words.iter().all(|word| mark.contains(word)));
        words.into_iter().all(is_there).then_some(())
    });
    assert_eq!(browser.barriers(), Vec::<String>::new());
    browser.picture(&picture("done-dark.png"));
    assert_quiet(&browser, &page);

    // The report needs no hub. (An open page would log that its hub is gone.)
    browser.open("about:blank");
    xtask.signal("INT");
    xtask.success();
    let report = folder.path().join("out/report.html");
    browser.open(&format!("file://{}", report.display()));
    assert_eq!(browser.text("#state"), "Done");
    assert!(browser.text("#summary").contains("60,000 = 60,000 + 0 ✓"));
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
fn rejects_are_shown_by_kind_of_reason() {
    let Some(browser) = Browser::start("rejects_are_shown_by_kind_of_reason") else {
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
    let shown = ["3", "75 %", "row 1: 1 values; the header has 2", "1", "25 %", "row 2: an empty record"];
    assert_eq!(browser.texts("#rejects tbody td"), shown);
    assert_eq!(browser.text("#state"), "Done with rejects");
    assert!(browser.text("#headline").contains(" · 4 rejected"), "{}", browser.text("#headline"));
    assert!(browser.text("#summary").contains("A, B, CLASSIFICATION"), "{}", browser.text("#summary"));
    assert_eq!(browser.barriers(), Vec::<String>::new());
    browser.open(&report("good", "A,B\n1,2\n"));
    assert_eq!(browser.run("return document.getElementById('rejects-section').hidden;"), true);
    assert_eq!(browser.barriers(), Vec::<String>::new());
}
