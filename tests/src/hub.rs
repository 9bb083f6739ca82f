//! The Monitoring Hub beside a job, from outside.

use std::path::Path;

use serde_json::Value;

use crate::eventually;
use crate::http::{Answer, get};
use crate::program::Program;

/// The header of who asks a hub of this machine.
pub const HOST: &str = "Host: localhost\r\n";

/// A job by `run-locally`, whose files are in a folder, and where its page is.
pub fn start(folder: &Path, args: &[&str]) -> (Program, String) {
    let mut command = crate::xtask();
    command.arg("run-locally").arg("--output").arg(folder.join("out")).arg("--log").arg(folder.join("log"));
    command.args(args);
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
pub fn json(page: &str, path: &str) -> Value {
    let answer = get(page, path, HOST).unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

/// The value of a sample in what Prometheus is told.
pub fn sample(metrics: &Answer, name: &str) -> f64 {
    let line = metrics.body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in {}", metrics.body)).parse().unwrap()
}
