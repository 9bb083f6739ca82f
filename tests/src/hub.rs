//! Access to the Monitoring Hub of a job.

use std::path::Path;

use serde::de::DeserializeOwned;
use telemetry::view::{Job, Report};

use crate::eventually;
use crate::http::{Answer, get};
use crate::program::Program;

/// The header for requests to a hub on this machine.
pub const HOST: &str = "Host: localhost\r\n";

/// Starts `run-locally` with all files in a folder; returns the command and the address of its page.
pub fn start(folder: &Path, args: &[&str]) -> (Program, String) {
    let mut command = crate::xtask();
    command.arg("run-locally").arg("--output").arg(folder.join("out")).arg("--log").arg(folder.join("log"));
    command.args(args).current_dir(folder);
    let xtask = Program::start_command("xtask", folder, command);
    let page = page(&xtask, "hub        http://");
    (xtask, page)
}

/// The address of the page, which a command prints after `words`.
pub fn page(command: &Program, words: &str) -> String {
    eventually("the page's address", || {
        let said = command.output();
        let (_, rest) = said.split_once(words)?;
        let (address, _) = rest.split_once(char::is_whitespace)?;
        Some(address.to_owned())
    })
}

/// Gets a path from the hub, and parses the answer.
pub fn view<T: DeserializeOwned>(page: &str, path: &str) -> T {
    ask(page, path).unwrap_or_else(|| panic!("no hub answers at {page}"))
}

/// The same; `None` if no hub answers.
pub fn ask<T: DeserializeOwned>(page: &str, path: &str) -> Option<T> {
    let answer = get(page, path, HOST)?;
    assert_eq!(answer.status, 200, "{answer:?}");
    Some(
        serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{path}: {error}: {}", answer.body)),
    )
}

/// The hub's view of the job.
pub fn job(page: &str) -> Job {
    view(page, "/api/v1/job")
}

/// The report that a hub has written to a folder.
pub fn report(folder: &Path) -> Report {
    let json = std::fs::read_to_string(folder.join("report.json")).unwrap();
    serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error}: {json}"))
}

/// The value of a sample in the metrics for Prometheus.
pub fn sample(metrics: &Answer, name: &str) -> f64 {
    let line = metrics.body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in {}", metrics.body)).parse().unwrap()
}
