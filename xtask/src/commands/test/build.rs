//! Builds whose warnings are counted.

use std::io::{BufRead, BufReader};

use anyhow::{Context, ensure};
use serde_json::Value;

use deploy::{console, project};

/// `cargo test`, with clippy in the compiler's place: what is linted is built only once. The file says more.
pub(super) const FOR_TESTS: [&str; 4] = ["test", "--release", "--config", ".cargo/tests.toml"];

/// Calls cargo, and shows and counts the warnings of the project's crates: also of those that are up to date, since cargo keeps
/// what was said of them.
pub(super) fn build(words: &[&str]) -> anyhow::Result<usize> {
    let cargo = project::cargo_with(&[words, &["--message-format", "json"]].concat());
    let output = cargo.unchecked().reader().context("starting cargo")?;
    let mut warnings = 0;
    for line in BufReader::new(&output).lines() {
        let line = line.context("reading what cargo prints")?;
        let Some((level, text)) = diagnostic(&line) else { continue };
        console::note(&text);
        // Others count those before them.
        warnings += usize::from(level == "warning");
    }
    let status = output.try_wait().context("waiting for cargo")?.map(|output| output.status);
    ensure!(status.is_some_and(|status| status.success()), "cargo failed; its reason is above");
    Ok(warnings)
}

/// The level and the text of a message of the compiler.
fn diagnostic(line: &str) -> Option<(String, String)> {
    let line: Value = serde_json::from_str(line).ok()?;
    let message = line.get("message").filter(|_| line["reason"] == "compiler-message")?;
    let text = |field: &str| message[field].as_str().map(str::to_owned);
    Some((text("level")?, text("rendered")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_is_found_among_what_cargo_prints() {
        let warning =
            r#"{"reason":"compiler-message","message":{"level":"warning","rendered":"warning: no\n"}}"#;
        assert_eq!(diagnostic(warning), Some(("warning".into(), "warning: no\n".into())));
        assert_eq!(diagnostic(r#"{"reason":"build-finished","success":true}"#), None);
        assert_eq!(diagnostic("running 3 tests"), None);
    }
}
