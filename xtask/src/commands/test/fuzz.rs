//! Runs each fuzz target in `fuzz/` for a few seconds, after the tests.
//!
//! They are built with the project's toolchain and the flags of `cargo fuzz`. Without nightly there is no address sanitizer,
//! which matters little, since the project has almost no unsafe code.

use std::path::Path;

use anyhow::Context;
use xshell::{Shell, cmd};

use super::{Counts, Limit, install};
use deploy::{console, project};

/// The same as in `fuzz/Cargo.toml`; a test compares them.
const TARGETS: [&str; 4] = ["frames", "handshakes", "records", "batches"];
/// Duration of each target.
const SECONDS: &str = "5";
/// The flags that `cargo fuzz` passes to rustc and that stable supports. The build names a target, so that they do not apply
/// to build scripts.
const FLAGS: &str = "-Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares \
    --cfg fuzzing -Ccodegen-units=1";

/// Builds the targets whose name (`fuzz::TARGET`) contains `filter`, and runs them, beginning with their corpus.
pub(super) fn run(
    shell: &Shell,
    filter: Option<&str>,
    limit: &Limit,
    counts: &mut Counts,
) -> anyhow::Result<()> {
    let wanted = |target: &&str| filter.is_none_or(|filter| format!("fuzz::{target}").contains(filter));
    let chosen: Vec<_> = TARGETS.into_iter().filter(wanted).collect();
    if chosen.is_empty() {
        return Ok(());
    }
    if limit.is_over() {
        skip(&chosen, &format!("not within {limit}"), counts);
        return Ok(());
    }
    if let Err(error) = install_compiler(shell) {
        skip(&chosen, &format!("libFuzzer needs a C++ compiler: {error:#}"), counts);
        return Ok(());
    }
    let folder = match build(shell, &chosen) {
        Err(_) if limit.is_over() => {
            skip(&chosen, &format!("not built within {limit}"), counts);
            return Ok(());
        }
        folder => folder?,
    };
    for target in chosen {
        match fuzz(shell, &folder, target) {
            Ok(()) => counts.passed += 1,
            Err(_) if limit.is_over() => skip(&[target], &format!("not within {limit}"), counts),
            Err(error) => {
                console::data(&format!("fuzz::{target} failed: {error:#}"));
                counts.failed += 1;
            }
        }
    }
    Ok(())
}

fn skip(targets: &[&str], reason: &str, counts: &mut Counts) {
    for target in targets {
        console::data(&format!("skipped: fuzz::{target}: {reason}"));
    }
    counts.skipped += targets.len() as u64;
}

fn install_compiler(shell: &Shell) -> anyhow::Result<()> {
    // The one that the crate cc uses.
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    let check = || cmd!(shell, "{compiler} --version").quiet().ignore_stdout().ignore_stderr().run();
    if check().is_err() {
        install::debian_packages(shell, &["g++"])?;
        check()?;
    }
    Ok(())
}

/// Builds the targets; returns their folder.
fn build(shell: &Shell, targets: &[&str]) -> anyhow::Result<String> {
    let cargo = project::cargo();
    let version = cmd!(shell, "{cargo} --version --verbose").quiet().read()?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.context("cargo does not say for which host it builds")?;
    let bins: Vec<_> = targets.iter().flat_map(|target| ["--bin", target]).collect();
    let words = ["--manifest-path", "fuzz/Cargo.toml", "--target-dir", "fuzz/target", "--target", host];
    console::echo(&format!("cargo build --release {} {}", words.join(" "), bins.join(" ")));
    // A target folder of its own, since other flags would rebuild everything.
    cmd!(shell, "{cargo} build --release {words...} {bins...}")
        .env("RUSTFLAGS", FLAGS)
        .quiet()
        .run()
        .context("building the fuzz targets")?;
    Ok(format!("fuzz/target/{host}/release"))
}

fn fuzz(shell: &Shell, folder: &str, target: &str) -> anyhow::Result<()> {
    let program = format!("{folder}/{target}");
    let artifacts = format!("fuzz/artifacts/{target}/");
    shell.create_dir(&artifacts)?;
    // libFuzzer adds new inputs to the first folder, which is removed before each run. The seed is fixed, so that a run can
    // be repeated.
    let (new, kept) = (format!("fuzz/target/corpus/{target}"), format!("fuzz/corpus/{target}"));
    shell.remove_path(&new)?;
    shell.create_dir(&new)?;
    let limits = [
        "-seed=1".to_owned(),
        format!("-max_total_time={SECONDS}"),
        "-timeout=10".to_owned(),
        "-rss_limit_mb=1024".to_owned(),
        format!("-artifact_prefix={artifacts}"),
    ];
    let log = format!("fuzz/target/{target}.log");
    console::echo(&format!("{program} {} {new} {kept}", limits.join(" ")));
    let script = "exec \"$0\" \"$@\" 2> \"$LOG\"";
    let run = cmd!(shell, "sh -c {script} {program} {limits...} {new} {kept}").env("LOG", &log);
    let outcome = run.env("RUST_LIB_BACKTRACE", "0").quiet().run();
    let output = std::fs::read(&log).with_context(|| format!("reading {log}"))?;
    let output = String::from_utf8_lossy(&output);
    if let Some(done) = output.lines().rev().find(|line| line.starts_with("Done ")) {
        console::data(&format!("fuzz::{target}: {}", done.to_lowercase()));
    }
    outcome.with_context(|| explain(&output, &program, &log))
}

/// Formats the panic in a target's output, and the command that reproduces it.
fn explain(output: &str, program: &str, log: &str) -> String {
    let line = |text: &str| output.lines().find(|line| line.contains(text)).unwrap_or_default();
    let what = output.lines().skip_while(|line| !line.contains("panicked at")).take(4);
    let what = what.collect::<Vec<_>>().join("\n");
    let file = line("Test unit written to ").rsplit(' ').next().unwrap_or_default();
    match Path::new(file).exists() {
        true => format!("{what}\nreproduce it with: {program} {file}"),
        false => format!("{what}\nits output is in {log}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_targets_are_those_of_the_crate() {
        let manifest = std::fs::read_to_string("../fuzz/Cargo.toml").unwrap();
        let bins = manifest.split("[[bin]]").skip(1).filter_map(|bin| bin.split('"').nth(1));
        assert_eq!(bins.collect::<Vec<_>>(), TARGETS);
    }

    #[test]
    fn a_failure_says_how_to_reproduce_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("crash-1").display().to_string();
        std::fs::write(&file, "x").unwrap();
        let output = format!("thread panicked at a.rs:1:\nit is wrong\nTest unit written to {file}\n");
        let text = explain(&output, "fuzz/it", "it.log");
        assert!(text.contains("it is wrong"), "{text}");
        assert!(text.ends_with(&format!("reproduce it with: fuzz/it {file}")), "{text}");
        assert!(explain("killed", "fuzz/it", "it.log").ends_with("its output is in it.log"));
    }
}
