//! What is built for one command serves the others.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// The features that each dependency has when these packages are built.
fn features(selection: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut tree = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    tree.args(["tree", "--locked", "--no-dedupe", "--prefix", "none", "--format", "{p}|{f}"]);
    let output = tree.args(selection.split(' ')).current_dir(tests::root()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut found = BTreeMap::<_, BTreeSet<_>>::new();
    for line in std::str::from_utf8(&output.stdout).unwrap().lines() {
        // Those of the project itself have a path; they are built for each command as it needs them.
        if let Some((package, features)) = line.split_once('|')
            && !package.contains(" (/")
        {
            let package = package.trim_end_matches(" (proc-macro)");
            found.entry(package.to_owned()).or_default().insert(features.to_owned());
        }
    }
    found
}

/// Another set of features would have cargo build the dependency once more, and all that depends on it: minutes, for hosts from EC2.
#[test]
fn dependencies_have_the_same_features_in_all_builds() {
    let (programs, tests) = ("normal,build", "normal,build,dev");
    // The hub serves HTTP, and the AWS SDK and the driver of the browser ask by it: what they share for that has more features
    // together than alone, so they are never built together.
    let here = features(&format!("--workspace --exclude browser --features xtask/remote --edges {tests}"));
    let in_cloud = features(&format!("--package xtask --package tests --features xtask/aws --edges {tests}"));
    let browser = features(&format!("--package browser --edges {tests}"));
    assert!(
        here.len() > 150 && in_cloud.len() > 200 && browser.len() > 150,
        "{here:?} {in_cloud:?} {browser:?}"
    );
    for (all, selection, edges) in [
        (&here, "--package xtask", programs),
        (
            &here,
            "--package sender --package classifier --package receiver --package supervisor --package hub",
            programs,
        ),
        (&here, "--package xtask --features remote", programs),
        (&here, "--package xtask --package bench", programs),
        (&here, "--package wire --package records --package sha256 --package keeper", tests),
        (
            &here,
            "--workspace --exclude xtask --exclude browser --exclude wire --exclude records --exclude sha256 --exclude keeper",
            tests,
        ),
        (&here, "--package xtask --features remote", tests),
        (&here, "--package tests", tests),
        (&in_cloud, "--package xtask --features remote", programs),
        (&in_cloud, "--package xtask --features aws", programs),
        (&in_cloud, "--package tests", tests),
        (&browser, "--package tests", tests),
    ] {
        let other: Vec<_> = features(&format!("{selection} --edges {edges}"))
            .into_iter()
            .filter(|(package, features)| !features.is_subset(&all[package]))
            .map(|(package, features)| format!("{package}: {features:?}, in all {:?}", all[&package]))
            .collect();
        assert!(other.is_empty(), "with {selection}; see workspace-hack/Cargo.toml:\n{}", other.join("\n"));
    }
}

/// Cargo would take no notice of one that is missing.
#[test]
fn all_crates_are_tested_with_overflow_checks() {
    let read = |file: &str| std::fs::read_to_string(tests::root().join(file)).unwrap();
    let (manifest, config) = (read("Cargo.toml"), read(".cargo/tests.toml"));
    let names = members(&manifest);
    assert!(names.len() > 10 && names.contains(&"xtask"), "{names:?}");
    for name in names.iter().filter(|name| **name != "workspace-hack") {
        assert!(config.contains(&format!("\n{name} = {{ ")), "{name} is not in .cargo/tests.toml");
    }
}

/// The names of a workspace's crates, however the list of their folders is laid out.
fn members(manifest: &str) -> Vec<&str> {
    let lines: Vec<_> = manifest.split_inclusive('\n').collect();
    let is_list = |line: &str| {
        line.trim_start().strip_prefix("members").is_some_and(|rest| rest.trim_start().starts_with('='))
    };
    let at = lines.iter().position(|line| is_list(line)).expect("a workspace has members");
    let before: usize = lines[..at].iter().map(|line| line.len()).sum();
    let list = manifest[before..]
        .split_once('[')
        .and_then(|(_, rest)| rest.split_once(']'))
        .expect("they are a list")
        .0;
    let without_comments = list.split('\n').map(|line| line.split('#').next().unwrap_or_default());
    let folders = without_comments.flat_map(|line| line.split('"').skip(1).step_by(2));
    folders.map(|folder| folder.rsplit('/').next().unwrap_or(folder)).collect()
}

#[test]
fn members_are_found_in_one_line_and_in_several() {
    let one = "[workspace]\nmembers = [\"wire\", \"tests/browser\"]\nexclude = [\"fuzz\"]\n";
    let several = "[workspace]\ndefault-members = [\"x\"]\nmembers = [\n    \"wire\", # not \"that\"\n    \"tests/browser\",\n]\n";
    for manifest in [one, several] {
        assert_eq!(members(manifest), ["wire", "browser"], "{manifest}");
    }
}
