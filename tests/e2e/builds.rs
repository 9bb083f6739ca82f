//! Dependencies that are built for one command are reused by the others.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// The features of each dependency in a build of these packages.
fn features(selection: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut tree = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    tree.args(["tree", "--locked", "--no-dedupe", "--prefix", "none", "--format", "{p}|{f}"]);
    let output = tree.args(selection.split(' ')).current_dir(tests::root()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut found = BTreeMap::<_, BTreeSet<_>>::new();
    for line in std::str::from_utf8(&output.stdout).unwrap().lines() {
        // Packages of the project have a path, and may differ between builds.
        if let Some((package, features)) = line.split_once('|')
            && !package.contains(" (/")
        {
            let package = package.trim_end_matches(" (proc-macro)");
            found.entry(package.to_owned()).or_default().insert(features.to_owned());
        }
    }
    found
}

/// With another set of features, cargo would rebuild the dependency and everything that depends on it. For hosts from EC2,
/// that takes minutes.
#[test]
fn dependencies_have_the_same_features_in_all_builds() {
    let (programs, tests) = ("normal,build", "normal,build,dev");
    // The hub is an HTTP server; the AWS SDK and the browser driver are clients; the server of objects has its own HTTP server.
    // Their shared HTTP crates have more features together than alone, so they are never built together.
    let here = features(&format!(
        "--workspace --exclude browser --exclude cloud --exclude objects --exclude deploy-aws --exclude aws-account --exclude s3 --edges {tests}"
    ));
    let in_cloud = features(&format!("--package deploy-aws --package cloud --edges {tests}"));
    let browser = features(&format!("--package browser --edges {tests}"));
    let objects = features(&format!("--package objects --edges {tests}"));
    assert!(
        here.len() > 150 && in_cloud.len() > 200 && browser.len() > 150 && objects.len() > 150,
        "{here:?} {in_cloud:?} {browser:?} {objects:?}"
    );
    for (all, selection, edges) in [
        (&here, "--package xtask", programs),
        (&here, "--package sender --package classifier --package receiver --package hub", programs),
        (
            &here,
            "--package sender --package classifier --package receiver --package agent --package hub",
            programs,
        ),
        (&here, "--package deploy-ssh", programs),
        (&here, "--package xtask --package bench", programs),
        (&here, "--package tests", tests),
        (&in_cloud, "--package deploy-ssh", programs),
        (&in_cloud, "--package deploy-aws", programs),
        (&in_cloud, "--package tests", tests),
        (&browser, "--package tests", tests),
        (&objects, "--package tests", tests),
    ] {
        let other: Vec<_> = features(&format!("{selection} --edges {edges}"))
            .into_iter()
            .filter(|(package, features)| !features.is_subset(&all[package]))
            .map(|(package, features)| format!("{package}: {features:?}, in all {:?}", all[&package]))
            .collect();
        assert!(
            other.is_empty(),
            "with {selection}; see crates/workspace-hack/Cargo.toml:\n{}",
            other.join("\n")
        );
    }
}
