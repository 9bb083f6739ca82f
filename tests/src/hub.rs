//! The Monitoring Hub beside a job, from outside.

use std::path::Path;

use serde::de::DeserializeOwned;
use telemetry::view::{Job, Report};

use crate::eventually;
use crate::http::{Answer, get};
use crate::program::Program;

/// The header of who asks a hub of this machine.
pub const HOST: &str = "Host: localhost\r\n";

/// A job by `run-locally`, whose files are in a folder, and where its page is.
pub fn start(folder: &Path, args: &[&str]) -> (Program, String) {
    let mut command = crate::xtask();
    command.arg("run-locally").arg("--output").arg(folder.join("out")).arg("--log").arg(folder.join("log"));
    command.args(args).current_dir(folder);
    let xtask = Program::start_command("xtask", folder, command);
    let page = page(&xtask, "hub        http://");
    (xtask, page)
}

/// Where a command says that the page is, behind these words.
pub fn page(command: &Program, words: &str) -> String {
    eventually("the page's address", || {
        let said = command.output();
        let (_, rest) = said.split_once(words)?;
        let (address, _) = rest.split_once(char::is_whitespace)?;
        Some(address.to_owned())
    })
}

/// What a hub answers at a path.
pub fn view<T: DeserializeOwned>(page: &str, path: &str) -> T {
    ask(page, path).unwrap_or_else(|| panic!("no hub answers at {page}"))
}

/// The same; nothing, if no hub is there.
pub fn ask<T: DeserializeOwned>(page: &str, path: &str) -> Option<T> {
    let answer = get(page, path, HOST)?;
    assert_eq!(answer.status, 200, "{answer:?}");
    Some(
        serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{path}: {error}: {}", answer.body)),
    )
}

/// How the job is doing.
pub fn job(page: &str) -> Job {
    view(page, "/api/v1/job")
}

/// The report that a hub has left in a folder.
pub fn report(folder: &Path) -> Report {
    let json = std::fs::read_to_string(folder.join("report.json")).unwrap();
    serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error}: {json}"))
}

/// The value of a sample in what Prometheus is told.
pub fn sample(metrics: &Answer, name: &str) -> f64 {
    let line = metrics.body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in {}", metrics.body)).parse().unwrap()
}
