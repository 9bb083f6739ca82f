//! What an earlier command has done of a job, and whether this one goes on with it.

use std::path::Path;
use std::time::SystemTime;

use protocol::results::Summary;
use records::format::shown;

use super::{LocalJob, describe};
use crate::console;
use crate::job::Input;
use crate::job_id::{Deciding, Parts, differences, id_of};
use crate::options::ResultOptions;
use crate::output::{JobFolder, Jobs, Record, State};

/// What becomes of a job that an earlier command has done or begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    /// A complete job stays complete, and an unfinished job goes on.
    GoOn,
    /// A complete job stays complete, and an unfinished job starts over.
    Fresh,
    /// In any case it starts over.
    Again,
}

/// What there is of a job.
pub(super) enum Found {
    /// It is done.
    Done(JobFolder, Summary),
    /// It was begun, and goes on.
    Begun(JobFolder),
    /// It begins, in a new folder.
    New(JobFolder),
}

/// Finds what there is of a job, or makes a folder for it.
///
/// # Errors
/// A folder or file cannot be read or made.
pub(super) fn find(
    args: &LocalJob,
    jobs: &Jobs,
    input: &Input,
    types: Option<&str>,
    programs: &Path,
) -> anyhow::Result<Found> {
    let record = record(args, input, types, programs, None)?;
    let mut attempts = Vec::new();
    if can_go_on(input) && args.before != Before::Again {
        attempts = jobs
            .attempts(&record.id)?
            .into_iter()
            .map(|job| Ok((job.state()?, job)))
            .collect::<anyhow::Result<_>>()?;
        if attempts.is_empty() && args.before == Before::GoOn {
            say_why_not_go_on(jobs, &record)?;
        }
    }
    if let Some((State::Done(summary), folder)) =
        attempts.iter().find(|(state, job)| is_good(state, job, &record))
    {
        return Ok(Found::Done(folder.clone(), summary.clone()));
    }
    let durable = |(state, _): &(State, JobFolder)| match state {
        State::Unfinished { rows, .. } => *rows,
        State::Done(_) | State::Failed(_) => 0,
    };
    let may_go_on =
        |attempt: &(State, JobFolder)| durable(attempt) > 0 && attempt.1.record.changed.is_empty();
    let begun = attempts.into_iter().filter(may_go_on).max_by_key(durable);
    if let Some((State::Unfinished { rows, .. }, folder)) = begun.filter(|_| args.before == Before::GoOn) {
        console::note(&format!(
            "going on with the job of {} (durable: {}; --fresh starts over)",
            folder.record.began,
            console::rows(rows)
        ));
        return Ok(Found::Begun(folder));
    }
    jobs.create(record).map(Found::New)
}

/// Whether an attempt is done, and would have the same results now.
fn is_good(state: &State, job: &JobFolder, now: &Record) -> bool {
    let State::Done(summary) = state else { return false };
    // With other limits, some of the rejected rows might not be.
    job.record.changed.is_empty() && (summary.rejects == 0 || job.record.limits == now.limits)
}

/// Notes what decides a job's results and has changed while it ran.
///
/// # Errors
/// A file cannot be read, or the record cannot be written.
pub(super) fn note_changes(
    args: &LocalJob,
    folder: &mut JobFolder,
    input: &Input,
    types: Option<&str>,
    programs: &Path,
) -> anyhow::Result<()> {
    if !can_go_on(input) {
        return Ok(());
    }
    let now = record(args, input, types, programs, Some(&folder.record.deciding))?;
    let mut changes = differences(&folder.record.deciding, &now.deciding);
    if changes.is_empty() {
        return Ok(());
    }
    console::note(&format!(
        "changed while the job ran: {}; the same command will run the job again",
        shortened(&changes)
    ));
    changes.extend(
        folder.record.changed.iter().filter(|name| !changes.contains(name)).cloned().collect::<Vec<_>>(),
    );
    folder.note_changes(changes)
}

/// Whether the same command means the same job: fake rows are for trying things out, and streams have no identity.
pub(super) fn can_go_on(input: &Input) -> bool {
    matches!(input, Input::Files { .. })
}

/// What is known of the job now.
fn record(
    args: &LocalJob,
    input: &Input,
    types: Option<&str>,
    programs: &Path,
    before: Option<&Deciding>,
) -> anyhow::Result<Record> {
    let now = SystemTime::now();
    let mut deciding = input.clone();
    // It may be moved.
    let formats = deciding.reading_mut().and_then(|reading| {
        reading.signed = None;
        reading.formats.take()
    });
    if let Input::Files { paths, .. } = &mut deciding {
        // Another signature does not make another file; its identity would.
        paths.iter_mut().for_each(|path| *path = shown(path).into());
    }
    let mut options = deciding.sender_args();
    options.extend(types.map(str::to_owned));
    let ResultOptions { form, upload } = &args.job.results;
    options.extend(form.map(|form| format!("form {form}")));
    options.extend(upload.iter().map(|prefix| format!("upload {prefix}")));
    options.extend(args.job.max_rejects.map(|most| format!("rejects {most}")));
    options.extend(args.job.model.deciding(args.model()));
    let own = [&args.output, &args.log].into_iter().chain(args.job.rows.paths());
    let own = own.map(|path| path.canonicalize().unwrap_or_else(|_| path.clone()));
    let usual = std::env::var_os("PYTHONPATH");
    let python_path = args.job.environment.get("PYTHONPATH").map(Into::into).or(usual);
    let exporter = programs.join("formats");
    let parts = Parts {
        options: options.join("\0"),
        programs,
        formats: formats.as_deref().or_else(|| form.map(|_| &*exporter)),
        model: args.model(),
        python: &args.python,
        python_path: python_path.unwrap_or_default(),
        own: own.collect(),
    };
    // The others' ids only tell which jobs replace each other.
    let deciding = if can_go_on(input) { parts.deciding(before)? } else { parts.only_options() };
    Ok(Record {
        id: id_of(&deciding),
        began: humantime::format_rfc3339_millis(now).to_string(),
        model: args.model().to_owned(),
        input: describe(input),
        results: args.results_name().to_owned(),
        of_hosts: false,
        usd: None,
        form: *form,
        upload: upload.clone(),
        exported: None,
        deciding,
        limits: args.job.model.limits(),
        changed: Vec::new(),
    })
}

/// The most changes that are named.
const MOST_CHANGES: usize = 3;

/// If the last job was about the same, and unfinished, says why this one starts over.
fn say_why_not_go_on(jobs: &Jobs, record: &Record) -> anyhow::Result<()> {
    let Some(last) = jobs.all()?.into_iter().next() else { return Ok(()) };
    let is_about_the_same = last.record.input == record.input && last.record.model == record.model;
    if is_about_the_same && matches!(last.state()?, State::Unfinished { rows, .. } if rows > 0) {
        console::note(&format!(
            "starting over: the job of {} does not go on, since these have changed: {}",
            last.record.began,
            shortened(&differences(&last.record.deciding, &record.deciding))
        ));
    }
    Ok(())
}

fn shortened(changes: &[String]) -> String {
    let named = changes.iter().take(MOST_CHANGES).map(String::as_str).collect::<Vec<_>>().join(", ");
    match changes.len().saturating_sub(MOST_CHANGES) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

/// Says what there is of a job that did not complete, and what the same command does next.
pub(super) fn say_what_is_left(args: &LocalJob, input: &Input, folder: &JobFolder) {
    if Jobs::of(&args.output).is_published(folder) {
        return;
    }
    let path = folder.path.display();
    let command = if args.before == Before::GoOn {
        "the same command"
    } else {
        "without --again or --fresh, the same command"
    };
    match folder.state() {
        Ok(State::Unfinished { rows, .. }) if rows > 0 && can_go_on(input) => {
            console::note(&format!("durable: {}, in {path}; {command} goes on there", console::rows(rows)));
        }
        Ok(State::Unfinished { rows: 0, .. }) => {
            console::note("no row is durable yet; the same command starts over");
        }
        Ok(State::Unfinished { .. } | State::Failed(_)) => {
            console::note(&format!("what it has done is in {path}; the same command starts over"));
        }
        Ok(State::Done(_)) if can_go_on(input) => {
            console::note(&format!("the job is complete, in {path}; {command} publishes its results"));
        }
        Ok(State::Done(_)) => console::note(&format!("the job is complete, in {path}")),
        Err(error) => console::note(&format!("{error:#}")),
    }
    let latest = args.output.join(folder.results().file_name().unwrap_or_default());
    if latest.exists() {
        console::note(&format!("{} is still that of the last complete job", latest.display()));
    }
}
