//! Subcommand: cargo xtask get-results

mod pack;
mod partial;

use std::fs::File;
use std::io::{BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use agent::protocol::{FOLDER, Request};
use anyhow::{Context, anyhow, bail, ensure};
use files::{remove_if_there, replace_file};
use flate2::read::MultiGzDecoder;
use protocol::result_files::{self, REPORT};
use protocol::results::Summary;

use super::{SHORT, command, end_on_interrupt, load, running, status_of};
use crate::ssh::Ssh;
use deploy::console::{self, Transfer};
use deploy::request::GetResults;
use deploy::{exit, interrupt, project, step};

/// Where results and report are on the metrics host, and the archive of the results.
pub(super) const OUTPUT: &str = "output";
pub(super) const ARCHIVE: &str = "output/results.tgz";

/// How often a report is looked for that is not the job's, and the pause in between.
const REPORT_TRIES: u32 = 3;
const REPORT_PAUSE: Duration = Duration::from_millis(500);

/// Runs the command.
pub(super) fn run(args: &GetResults) -> anyhow::Result<ExitCode> {
    let mut is_begun = false;
    fetch(args, &mut is_begun).map_err(|error| if is_begun { error } else { exit::refused(error) })
}

fn fetch(args: &GetResults, is_begun: &mut bool) -> anyhow::Result<ExitCode> {
    if args.partial.is_some() {
        interrupt::watch_and_say("interrupted; ending with what has come", "interrupted twice")?;
    } else {
        end_on_interrupt(match step::hosts_go() {
            true => "interrupted",
            false => "interrupted; another cargo xtask get-results goes on with what has come",
        })?;
    }
    let (inventory, access) = load(&args.inventory)?;
    let metrics = inventory.host(&inventory.metrics)?.clone();
    let connect = || command(&metrics, &access, &inventory.agent);
    let host = connect()?;
    let status = status_of(&host)?;
    let output = args.output.clone();
    let length = host.length(Path::new(ARCHIVE))?;
    if let Some(partial) = &args.partial
        && (status.summary.is_none() || length.is_none())
    {
        *is_begun = true;
        return partial::fetch(partial, &output, host, &status, &connect);
    }
    let name = &metrics.name;
    let Some(summary) = status.summary else {
        let advice = match (!running(&status).is_empty(), status.programs.is_empty()) {
            (true, _) => {
                "; one is running: cargo xtask status (get-results --partial fetches what is complete)"
                    .to_owned()
            }
            (false, true) => "; run one with: cargo xtask run-cluster".to_owned(),
            (false, false) => format!(
                ", and the last one did not come to its end; what it brought is in {FOLDER}/output there, until the next \
                 run-cluster: cargo xtask get-results --partial fetches it"
            ),
        };
        let error = anyhow!("{name} has no results of a job that is done{advice}");
        return Err(if running(&status).is_empty() { error } else { exit::busy(error) });
    };
    let length = length.with_context(|| {
        let advice = match step::hosts_go() {
            true => "",
            false => "; then cargo xtask run-cluster --resume packs it",
        };
        format!(
            "{name} has no {ARCHIVE}: it is being packed, or its receiver was ended while it packed{advice}"
        )
    })?;
    *is_begun = true;
    project::make_folder(&output)?;
    fetch_all(&host, &output, &summary, length)?;
    Ok(ExitCode::SUCCESS)
}

/// Fetches the results of a job that is done, and its hub's report.
fn fetch_all(host: &Ssh, output: &Path, summary: &Summary, length: u64) -> anyhow::Result<()> {
    // Named after the job, so that what is there of another one is not gone on with.
    let key = protocol::hash::short_hex(format!("{} {}", summary.sha256, summary.ended).as_bytes());
    let part = output.join(format!("results.{key}.part"));
    let context = || format!("writing {} on this machine", part.display());
    let mut options = File::options();
    let mut file =
        options.read(true).write(true).create(true).truncate(false).open(&part).with_context(context)?;
    if file.try_lock().is_err() {
        return Err(exit::busy(anyhow!("another get-results is writing {}", part.display())));
    }
    let there = file.metadata().with_context(context)?.len().min(length);
    if there > 0 {
        console::note(&format!("going on at {} of {}", console::bytes(there), console::bytes(length)));
    }
    let bar = Transfer::new("fetching", length);
    bar.add(there);
    file.seek(SeekFrom::Start(there)).with_context(context)?;
    let fetched = host.read_pieces(Path::new(ARCHIVE), there, length, |piece| {
        file.write_all(piece).with_context(context)?;
        bar.add(piece.len() as u64);
        interrupt::check()
    });
    bar.clear();
    fetched.with_context(|| {
        let there = part.display();
        match step::hosts_go() {
            true => format!("what has come is in {there}"),
            false => format!("what has come is in {there}; another get-results goes on there"),
        }
    })?;
    file.set_len(length).with_context(context)?;
    file.sync_all().with_context(context)?;
    if let Err(error) = check(&part, summary) {
        // Going on with it would not make it any better.
        std::fs::remove_file(&part).with_context(|| format!("removing {}", part.display()))?;
        return Err(error.context("the archive that has come is not what the job has left; it is removed"));
    }
    let target = output.join(result_files::ARCHIVE);
    std::fs::rename(&part, &target).with_context(|| format!("renaming {}", part.display()))?;
    console::data(&format!("results    {} ({})", target.display(), console::bytes(length)));
    console::data(&format!("rows out   {}", console::count(summary.rows - summary.rejects)));
    console::data(&format!("sha256     {} (of the results in it, checked)", summary.sha256));
    // It only keeps down from asking; the results are here.
    if let Err(error) = host.tell(&Request::Fetched { sha256: summary.sha256.clone() }, SHORT) {
        console::note(&format!(
            "that they were fetched could not be noted, so cargo xtask down will ask: {error:#}"
        ));
    }
    match fetch_report(host, output, summary) {
        Ok(Some(page)) => console::data(&format!("report     {}", page.display())),
        Ok(None) => {}
        // The results are there, and it is they that are wanted.
        Err(error) => console::note(&format!("the Monitoring Hub's report was not fetched: {error:#}")),
    }
    Ok(())
}

/// Fetches what the job's hub has left, if it has; gives where the page is. What is here of another job goes.
fn fetch_report(host: &Ssh, output: &Path, summary: &Summary) -> anyhow::Result<Option<PathBuf>> {
    let targets = REPORT.map(|name| output.join(name));
    for target in &targets {
        remove_if_there(target)?;
    }
    // The hub writes it anew when the last programs have ended, which may be just now.
    for tries_left in (0..REPORT_TRIES).rev() {
        let [page, figures] = REPORT.map(|name| fetch_whole(host, &Path::new(OUTPUT).join(name)));
        let (Some(page), Some(figures)) = (page?, figures?) else { return Ok(None) };
        if is_report_of(summary, &page, &figures) {
            for (target, content) in targets.iter().zip([page, figures]) {
                replace_file(target, &content)?;
            }
            return Ok(Some(output.join(REPORT[0])));
        }
        if tries_left > 0 {
            std::thread::sleep(REPORT_PAUSE);
        }
    }
    bail!("what is on {} is not this job's", host.entry().name)
}

fn fetch_whole(host: &Ssh, path: &Path) -> anyhow::Result<Option<Vec<u8>>> {
    let Some(length) = host.length(path)? else { return Ok(None) };
    let mut content = Vec::new();
    host.read_pieces(path, 0, length, |piece| {
        content.extend_from_slice(piece);
        Ok(())
    })?;
    Ok(Some(content))
}

/// Whether page and figures are those of the job that has this summary, and are whole.
fn is_report_of(summary: &Summary, page: &[u8], figures: &[u8]) -> bool {
    let figures: serde_json::Value = serde_json::from_slice(figures).unwrap_or_default();
    let page = String::from_utf8_lossy(page);
    serde_json::to_value(summary).is_ok_and(|summary| figures["job"]["summary"] == summary)
        && page.contains(&summary.sha256)
        && page.trim_end().ends_with("</html>")
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
            let (hash, _) =
                protocol::hash::of_all(&mut entry).context("reading the results in the archive")?;
            let found = protocol::hash::finish(hash);
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
