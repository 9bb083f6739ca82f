//! Builds for tests, with clippy in place of the compiler.
//!
//! Clippy lints a crate while it compiles it, so nothing is compiled a second time just for the lints. The programs that
//! tests start are built in the same way; see `WRAPPER`.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use deploy::{console, project};
use serde_json::Value;

/// Environment variable for all builds for tests, and for the tests, since some of them build.
pub(super) const WRAPPER: (&str, &str) = ("RUSTC_WORKSPACE_WRAPPER", "clippy-driver");

/// The result of one call of cargo.
#[derive(Debug, Default)]
pub(super) struct Built {
    /// Number of warnings about the project's crates. Cargo repeats the warnings of crates that are up to date.
    pub(super) warnings: usize,
    pub(super) tests: Vec<TestProgram>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct TestProgram {
    pub(super) path: PathBuf,
    /// The folder of its crate, which is its current folder when it runs.
    pub(super) folder: PathBuf,
}

/// Calls cargo, prints warnings and errors, and returns what was built.
///
/// # Errors
/// If cargo fails.
pub(super) fn build(words: &[&str]) -> anyhow::Result<Built> {
    let words = [words, &["--message-format", "json-render-diagnostics"]].concat();
    let output = project::cargo_with(&words)
        .env(WRAPPER.0, WRAPPER.1)
        .unchecked()
        .reader()
        .context("starting cargo")?;
    let mut built = Built::default();
    for line in BufReader::new(&output).lines() {
        let line = line.context("reading what cargo prints")?;
        // Apart from cargo's messages, standard output has only what build scripts print.
        let Ok(message) = serde_json::from_str(&line) else { continue };
        built.add(&message);
    }
    let status = output.try_wait().context("waiting for cargo")?.map(|output| output.status);
    ensure!(status.is_some_and(|status| status.success()), "cargo failed; its reason is above");
    Ok(built)
}

impl Built {
    fn add(&mut self, message: &Value) {
        match message["reason"].as_str() {
            Some("compiler-message") => {
                let message = &message["message"];
                if let Some(text) = message["rendered"].as_str() {
                    console::note(text.trim_end());
                }
                // Other levels are summaries, which count the warnings before them.
                self.warnings += usize::from(message["level"] == "warning");
            }
            Some("compiler-artifact") if message["profile"]["test"] == true => {
                let path = |value: &Value| value.as_str().map(PathBuf::from);
                let folder =
                    path(&message["manifest_path"]).and_then(|path| path.parent().map(Path::to_owned));
                if let (Some(path), Some(folder)) = (path(&message["executable"]), folder) {
                    self.tests.push(TestProgram { path, folder });
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn cargo_messages_give_the_warnings_and_the_test_programs() {
        let mut built = Built::default();
        for message in [
            json!({"reason": "compiler-message", "message": {"level": "warning", "rendered": "warning: no\n"}}),
            json!({"reason": "compiler-message", "message": {"level": "note", "rendered": "note: no\n"}}),
            json!({"reason": "compiler-artifact", "profile": {"test": false}, "executable": "/t/sender",
                "manifest_path": "/p/sender/Cargo.toml"}),
            json!({"reason": "compiler-artifact", "profile": {"test": true}, "executable": "/t/deps/sender-1",
                "manifest_path": "/p/sender/Cargo.toml"}),
            json!({"reason": "build-finished", "success": true}),
        ] {
            built.add(&message);
        }
        assert_eq!(built.warnings, 1);
        assert_eq!(
            built.tests,
            [TestProgram { path: "/t/deps/sender-1".into(), folder: "/p/sender".into() }]
        );
    }
}
