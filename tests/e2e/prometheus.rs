//! Debian's Prometheus, which `cargo xtask test` fetches, scrapes the hub's `/metrics`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tests::cluster::Setup;
use tests::eventually;
use tests::http::get;
use tests::hub::HOST;
use tests::program::Program;

/// The folder of its programs; skips the test and returns `None` if it is missing.
fn programs(test: &str) -> Option<PathBuf> {
    let folder = tests::root().join("target/prometheus/usr/bin");
    if !folder.join("promtool").exists() {
        tests::skip(test, "there is no Prometheus; cargo xtask test fetches it on Debian");
        return None;
    }
    Some(folder)
}

/// Starts a Prometheus that scrapes a page each second; returns it with its address.
fn scraping(programs: &Path, page: &str, folder: &Path) -> (Program, String) {
    let config = format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\nscrape_configs: [{{job_name: hub, static_configs: [{{targets: ['{page}']}}]}}]\n"
    );
    std::fs::write(folder.join("prometheus.yml"), config).unwrap();
    let mut command = Command::new(programs.join("prometheus"));
    command.arg("--config.file").arg(folder.join("prometheus.yml"));
    command.arg("--storage.tsdb.path").arg(folder.join("data")).args(["--web.listen-address", "127.0.0.1:0"]);
    let prometheus = Program::start_command("prometheus", folder, command);
    let at = eventually("Prometheus's address", || {
        let said = prometheus.output();
        let line = said.lines().find(|line| line.contains("msg=\"Listening on\""))?;
        let (_, address) = line.split_once("address=")?;
        Some(address.split_whitespace().next()?.to_owned())
    });
    (prometheus, at)
}

/// The newest value that Prometheus has for an expression.
fn query(prometheus: &str, expression: &str) -> Option<f64> {
    let encoded: String = expression.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let answer = get(prometheus, &format!("/api/v1/query?query={encoded}"), HOST)?;
    let answer: Value = serde_json::from_str(&answer.body).ok()?;
    answer["data"]["result"][0]["value"][1].as_str()?.parse().ok()
}

#[test]
fn prometheus_scrapes_the_jobs_figures() {
    let Some(programs) = programs("prometheus_scrapes_the_jobs_figures") else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Setup { hub: true, ..Setup::default() }.start();
    let page = cluster.hub.as_mut().unwrap().address("web");
    let (_prometheus, prometheus) = scraping(&programs, &page, folder.path());
    cluster.sender(["--lines", "20000"]).success();
    cluster.results();

    let text = get(&page, "/metrics", HOST).unwrap();
    assert!(text.head.contains("content-type: text/plain; version=0.0.4"), "{}", text.head);
    std::fs::write(folder.path().join("metrics"), &text.body).unwrap();
    let check = Command::new(programs.join("promtool"))
        .args(["check", "metrics"])
        .stdin(std::fs::File::open(folder.path().join("metrics")).unwrap())
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&check.stderr);
    assert!(check.status.success() && said.is_empty(), "{said}\n{}", text.body);

    for (expression, value) in [
        ("classifier_output_rows_total", 20_000.0),
        ("classifier_job_state{state=\"done\"}", 1.0),
        ("sum(classifier_computation_duration_seconds_count{computation=\"classify\"})", 200.0),
    ] {
        eventually(&format!("{expression} to be scraped"), || {
            (query(&prometheus, expression)? == value).then_some(())
        });
    }
}
