//! Subcommand: cargo xtask get-results

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use flate2::read::MultiGzDecoder;
use supervisor::protocol::FOLDER;
use wire::results::Summary;

use super::{command_all, end_on_interrupt, load, status_of};
use crate::commands::remote::GetResults;
use crate::project;
use crate::ui::{self, Transfer};

/// Where the archive is on the metrics host.
pub(super) const ARCHIVE: &str = "output/results.tgz";

/// Runs the command.
pub(super) fn run(args: &GetResults) -> anyhow::Result<ExitCode> {
    end_on_interrupt("interrupted; another cargo xtask get-results goes on with what has come")?;
    let (inventory, access) = load(&args.place)?;
    let metrics = inventory.host(&inventory.metrics)?.clone();
    let hosts = command_all(&[metrics], &access, &inventory.supervisor)?;
    let host = hosts.first().context("the inventory has no metrics host")?;
    let status = status_of(host)?;
    let name = &host.entry().name;
    let Some(summary) = status.summary else {
        let running = status.programs.iter().any(|program| program.running.is_some());
        let advice = match (running, status.programs.is_empty()) {
            (true, _) => "; one is running: cargo xtask status".to_owned(),
            (false, true) => "; run one with: cargo xtask run-cluster".to_owned(),
            (false, false) => format!(
                ", and the last one did not come to its end; what it brought is in {FOLDER}/output there (cargo xtask ssh \
                 {name}), until the next run-cluster"
            ),
        };
        bail!("{name} has no results of a job that is done{advice}");
    };
    let length = host.length(Path::new(ARCHIVE))?;
    let length = length.with_context(|| {
        format!(
            "{name} has no {ARCHIVE}: it is being packed, or its receiver was ended while it packed; then cargo xtask \
             run-cluster --resume packs it"
        )
    })?;

    let output = args.output.clone().map_or_else(|| project::default_folder("output"), Ok)?;
    project::make_folder(&output)?;
    // Named after the job, so that what is there of another one is not gone on with.
    let key = wire::hash::short_hex(format!("{} {}", summary.sha256, summary.ended).as_bytes());
    let part = output.join(format!("results.{key}.part"));
    let context = || format!("writing {}", part.display());
    let mut options = File::options();
    let mut file =
        options.read(true).write(true).create(true).truncate(false).open(&part).with_context(context)?;
    ensure!(file.try_lock().is_ok(), "another get-results is writing {}", part.display());
    let there = file.metadata().with_context(context)?.len().min(length);
    if there > 0 {
        ui::note(&format!("going on at {} of {}", ui::bytes(there), ui::bytes(length)));
    }
    let bar = Transfer::new("fetching", length);
    bar.add(there);
    let fetched = host.download(Path::new(ARCHIVE), &mut file, there, length, |bytes| bar.add(bytes));
    bar.clear();
    fetched.with_context(|| {
        format!("what has come is in {}; another get-results goes on there", part.display())
    })?;
    file.set_len(length).with_context(context)?;
    file.sync_all().with_context(context)?;
    if let Err(error) = check(&part, &summary) {
        // Going on with it would not make it any better.
        std::fs::remove_file(&part).with_context(|| format!("removing {}", part.display()))?;
        return Err(error.context("the archive that has come is not what the job has left; it is removed"));
    }
    let target = output.join("results.tgz");
    std::fs::rename(&part, &target).with_context(|| format!("renaming {}", part.display()))?;
    ui::data(&format!("results    {} ({})", target.display(), ui::bytes(length)));
    ui::data(&format!("rows out   {}", ui::count(summary.rows - summary.rejects)));
    ui::data(&format!("sha256     {} (of the results in it, checked)", summary.sha256));
    Ok(ExitCode::SUCCESS)
}

/// Whether the archive holds the results that the summary tells of, and nothing is missing.
fn check(archive: &Path, summary: &Summary) -> anyhow::Result<()> {
    let file = File::open(archive).with_context(|| format!("opening {}", archive.display()))?;
    let mut tar = tar::Archive::new(MultiGzDecoder::new(BufReader::with_capacity(1 << 20, file)));
    let mut names = Vec::new();
    for entry in tar.entries().context("reading the archive")? {
        let mut entry = entry.context("reading the archive")?;
        let name = entry.path().context("reading the archive")?.display().to_string();
        if name == "results.log" {
            let (hash, _) = wire::hash::of_all(&mut entry).context("reading the results in the archive")?;
            let found = wire::hash::finish(hash);
            ensure!(
                found == summary.sha256,
                "the results have the SHA-256 {found}, and results.json says {}",
                summary.sha256
            );
        }
        names.push(name);
    }
    ensure!(
        names == ["results.log", "results.rejects.csv", "results.json"],
        "the archive holds {}",
        names.join(", ")
    );
    Ok(())
}
