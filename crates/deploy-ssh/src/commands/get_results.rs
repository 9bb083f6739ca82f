//! `cargo xtask get-results`

mod pack;
mod partial;
mod unpack;

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use agent::protocol::{FOLDER, Request, Status};
use anyhow::{Context, anyhow, bail};
use deploy::console::{self, Transfer};
use deploy::output::{self, Jobs, Record};
use deploy::request::GetResults;
use deploy::{exit, interrupt, project, step};
use files::replace_file;
use protocol::result_files::{self, REPORT};
use protocol::results::Summary;

use super::end_on_interrupt;
use super::run_cluster::{describe, recall, uploaded};
use crate::agents::{ARCHIVE, OUTPUT, SHORT, connect, load, running, status_of};
use crate::ssh::Ssh;

/// How often the report is fetched while it is of another job, and the pause between two tries.
const REPORT_TRIES: u32 = 3;
const REPORT_PAUSE: Duration = Duration::from_millis(500);

/// In an hour.
const SECONDS: f64 = 3600.0;

/// Fetches the results of the last job, or its complete batches.
pub(crate) fn run(args: &GetResults) -> anyhow::Result<ExitCode> {
    let mut is_begun = false;
    fetch(args, &mut is_begun).map_err(|error| if is_begun { error } else { exit::refused(error) })
}

fn fetch(args: &GetResults, is_begun: &mut bool) -> anyhow::Result<ExitCode> {
    if args.partial.is_some() {
        interrupt::watch_and_say("interrupted; ending with what was fetched so far", "interrupted twice")?;
    } else {
        end_on_interrupt(match step::hosts_go() {
            true => "interrupted",
            false => "interrupted; another cargo xtask get-results continues there",
        })?;
    }
    let (inventory, access) = load(&args.inventory).map_err(|error| elsewhere(error, args))?;
    let metrics = inventory.host(&inventory.metrics)?.clone();
    let reconnect = || connect(&metrics, &access, &inventory.agent);
    let host = reconnect().map_err(|error| elsewhere(error, args))?;
    let status = status_of(&host)?;
    let output = args.output.clone();
    let length = host.length(Path::new(ARCHIVE))?;
    if let Some(partial) = &args.partial
        && (status.summary.is_none() || length.is_none())
    {
        *is_begun = true;
        return partial::fetch(partial, &output, host, &status, &reconnect);
    }
    let Some(summary) = &status.summary else { return Err(no_results(&metrics.name, &status)) };
    let length = length.with_context(|| {
        let advice = match step::hosts_go() {
            true => "",
            false => "; then cargo xtask run-cluster --resume packs it",
        };
        format!(
            "{} has no {ARCHIVE}: it is being packed, or its receiver was ended while it packed{advice}",
            metrics.name
        )
    })?;
    *is_begun = true;
    project::make_folder(&output)?;
    let usd = inventory.usd_per_hour().map(|usd| format!("{:.2}", usd * summary.seconds / SECONDS));
    fetch_all(&host, &output, summary, length, usd)?;
    Ok(ExitCode::SUCCESS)
}

/// Says where results are of hosts that are gone or out of reach; returns the error.
fn elsewhere(error: anyhow::Error, args: &GetResults) -> anyhow::Error {
    // What cannot be read is not worth a word here.
    let uploaded = uploaded(&args.inventory).ok().flatten();
    let mut fetched = Jobs::of(&args.output).all().unwrap_or_default().into_iter();
    let fetched = fetched.find(|job| job.record.of_hosts).map(|job| {
        format!(
            "the results that were fetched for the job of {} are in {}",
            job.record.began,
            job.path.display()
        )
    });
    uploaded.into_iter().chain(fetched).for_each(|known| console::note(&known));
    error
}

/// Why there is nothing to fetch; busy while a job runs.
fn no_results(name: &str, status: &Status) -> anyhow::Error {
    let is_running = !running(status).is_empty();
    let advice = match (is_running, status.programs.is_empty()) {
        (true, _) => {
            "; one is running: cargo xtask status (get-results --partial fetches complete batches)".to_owned()
        }
        (false, true) => "; run one with: cargo xtask run-cluster".to_owned(),
        (false, false) => format!(
            ", and the last one did not complete; what was received is in {FOLDER}/output there, until the next run-cluster: cargo \
             xtask get-results --partial fetches it"
        ),
    };
    let error = anyhow!("{name} has no results of a job that is done{advice}");
    if is_running { exit::busy(error) } else { error }
}

/// Fetches the results of a job that is done, and its hub's report, to a folder of the job, and publishes them. The job has cost so
/// many US dollars, if that is known.
fn fetch_all(
    host: &Ssh,
    output: &Path,
    summary: &Summary,
    length: u64,
    usd: Option<String>,
) -> anyhow::Result<()> {
    let _lock = output::lock(output)?;
    let jobs = Jobs::of(output);
    jobs.tidy()?;
    let part = fetch_archive(host, output, summary, length)?;
    let unpacked = match unpack::unpack(&part, output, summary) {
        Ok(unpacked) => unpacked,
        Err(error) if exit::is::<unpack::Damaged>(&error) => {
            // Another try would continue with the same bytes.
            std::fs::remove_file(&part).with_context(|| format!("removing {}", part.display()))?;
            return Err(error.context(
                "the fetched archive is damaged or not this job's, and is removed; fetch it again: cargo xtask get-results",
            ));
        }
        Err(error) => {
            return Err(error.context(format!(
                "the results cannot be unpacked; they are in {}, and another get-results continues there",
                part.display()
            )));
        }
    };
    let job = jobs.create(Record { usd, ..record(host, summary, unpacked.results_name())? })?;
    let archive = job.path.join(result_files::ARCHIVE);
    let moved = unpacked.move_to(&job.path).and_then(|()| {
        std::fs::rename(&part, &archive).with_context(|| format!("renaming {}", part.display()))
    });
    if let Err(error) = moved {
        jobs.remove_or_say(&job);
        return Err(error);
    }
    let report = fetch_report(host, &job.path, summary);
    jobs.publish(&job, matches!(report, Ok(true)))?;
    let results = output.join(&job.record.results);
    console::data(&format!("results    {} ({})", results.display(), console::bytes(summary.bytes)));
    let archive = output.join(result_files::ARCHIVE);
    console::data(&format!("packed     {} ({})", archive.display(), console::bytes(length)));
    console::data(&format!("rows out   {}", console::count(summary.rows - summary.rejects)));
    console::data(&format!("sha256     {} (checked)", summary.sha256));
    console::rejects(summary, &results.with_extension("rejects.csv"));
    // This only keeps `down` from asking; the results are here.
    if let Err(error) = host.send(&Request::Fetched { sha256: summary.sha256.clone() }, SHORT) {
        console::note(&format!(
            "the metrics host could not note that the results were fetched, so cargo xtask down will ask: {error:#}"
        ));
    }
    match report {
        Ok(true) => console::data(&format!("report     {}", output.join(REPORT[0]).display())),
        Ok(false) => {}
        // The results matter more, and they are here.
        Err(error) => console::note(&format!("the Monitoring Hub's report was not fetched: {error:#}")),
    }
    Ok(())
}

/// What is known of the last job on the hosts.
fn record(host: &Ssh, summary: &Summary, results: &str) -> anyhow::Result<Record> {
    let description = recall(host)?;
    let (model, input) = description.map_or_else(
        || ("an unknown model".to_owned(), "unknown rows".to_owned()),
        |description| {
            let input = describe(&description.input, &[]);
            (description.model, input)
        },
    );
    let (id, began) = (key(summary), summary.started.clone());
    Ok(Record { id, began, model, input, results: results.to_owned(), of_hosts: true, ..Record::default() })
}

/// A name of the job with this summary.
fn key(summary: &Summary) -> String {
    protocol::hash::short_hex(format!("{} {}", summary.sha256, summary.ended).as_bytes())
}

/// Fetches the archive to a file with a temporary name, from where an earlier try stopped; returns its path.
fn fetch_archive(host: &Ssh, output: &Path, summary: &Summary, length: u64) -> anyhow::Result<PathBuf> {
    // The name has the job, so that nothing continues with another job's bytes.
    let part = output.join(format!("results.{}.part", key(summary)));
    let context = || format!("writing {} on this machine", part.display());
    let mut options = File::options();
    let mut file =
        options.read(true).write(true).create(true).truncate(false).open(&part).with_context(context)?;
    if file.try_lock().is_err() {
        return Err(exit::busy(anyhow!(
            "another get-results is writing {}; wait for its end",
            part.display()
        )));
    }
    let fetched = file.metadata().with_context(context)?.len().min(length);
    if fetched > 0 {
        console::note(&format!("continuing at {} of {}", console::bytes(fetched), console::bytes(length)));
    }
    let bar = Transfer::new("fetching", length);
    bar.add(fetched);
    file.seek(SeekFrom::Start(fetched)).with_context(context)?;
    let outcome = host.read_pieces(Path::new(ARCHIVE), fetched, length, |piece| {
        file.write_all(piece).with_context(context)?;
        bar.add(piece.len() as u64);
        interrupt::check()
    });
    bar.clear();
    outcome.with_context(|| match step::hosts_go() {
        true => format!("what was fetched so far is in {}", part.display()),
        false => {
            format!("what was fetched so far is in {}; another get-results continues there", part.display())
        }
    })?;
    file.set_len(length).with_context(context)?;
    file.sync_all().with_context(context)?;
    Ok(part)
}

/// Fetches the report that the job's hub wrote; returns whether there is one.
fn fetch_report(host: &Ssh, folder: &Path, summary: &Summary) -> anyhow::Result<bool> {
    // The hub writes it again when the last programs have ended, which may be happening now.
    for tries_left in (0..REPORT_TRIES).rev() {
        let [page, figures] = REPORT.map(|name| host.read(&Path::new(OUTPUT).join(name)));
        let (Some(page), Some(figures)) = (page?, figures?) else { return Ok(false) };
        if is_report_of(summary, &page, &figures) {
            for (name, content) in REPORT.iter().zip([page, figures]) {
                replace_file(&folder.join(name), &content)?;
            }
            return Ok(true);
        }
        if tries_left > 0 {
            std::thread::sleep(REPORT_PAUSE);
        }
    }
    bail!(
        "the report on {} is not of this job; the hub may still be writing it: cargo xtask get-results",
        host.entry().name
    )
}

/// Whether page and figures are complete, and of the job with this summary.
fn is_report_of(summary: &Summary, page: &[u8], figures: &[u8]) -> bool {
    let figures: serde_json::Value = serde_json::from_slice(figures).unwrap_or_default();
    let page = String::from_utf8_lossy(page);
    serde_json::to_value(summary).is_ok_and(|summary| figures["job"]["summary"] == summary)
        && page.contains(&summary.sha256)
        && page.trim_end().ends_with("</html>")
}
