use super::*;
use crate::job_id::Deciding;
use protocol::result_files::{RESULTS, TYPED_RESULTS};
use protocol::results::Summary;

fn record(id: &str, second: u32) -> Record {
    Record {
        id: id.to_owned(),
        began: format!("2026-12-01T10:00:{second:02}.000Z"),
        model: "native".to_owned(),
        input: "rows from in.csv".to_owned(),
        results: RESULTS.to_owned(),
        of_hosts: false,
        usd: None,
        form: None,
        upload: None,
        exported: None,
        deciding: Deciding::new(),
        limits: String::new(),
        changed: Vec::new(),
    }
}

/// Makes a job whose results are this text; it is not published.
fn complete(jobs: &Jobs, record: Record, text: &str) -> JobFolder {
    let job = jobs.create(record).unwrap();
    let files = job.files().unwrap();
    std::fs::write(&files.results, text).unwrap();
    std::fs::write(&files.rejects, "").unwrap();
    let summary = Summary { bytes: text.len() as u64, ..Summary::default() };
    std::fs::write(&files.summary, serde_json::to_vec(&summary).unwrap()).unwrap();
    job
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_unstable();
    names
}

#[test]
fn the_last_results_stay_until_the_next_are_complete() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = Jobs::of(folder.path());
    // Of get-results.
    std::fs::write(folder.path().join(TYPED_RESULTS), "old").unwrap();
    std::fs::write(folder.path().join("other"), "other").unwrap();
    let first = complete(&jobs, record("a", 1), "first");
    assert_eq!(names(folder.path()), ["jobs", "other", TYPED_RESULTS]);
    jobs.publish(&first, false).unwrap();
    let published = || std::fs::read_to_string(folder.path().join(RESULTS)).unwrap();
    let all = ["jobs", LATEST, "other", "results.json", RESULTS, "results.rejects.csv"];
    assert_eq!((names(folder.path()), published()), (all.map(str::to_owned).to_vec(), "first".to_owned()));
    let second = complete(&jobs, record("b", 2), "second");
    assert_eq!(
        (published(), second.state().unwrap()),
        ("first".to_owned(), State::Done(Summary { bytes: 6, ..Summary::default() }))
    );
    jobs.publish(&second, true).unwrap();
    assert_eq!(published(), "second");
    assert!(jobs.is_published(&second) && !jobs.is_published(&first));
    assert!(names(folder.path()).contains(&REPORT[0].to_owned()));
    // A command was killed when it had made links of plain files, which still lead to them.
    std::fs::remove_file(folder.path().join(RESULTS)).unwrap();
    std::fs::write(folder.path().join(RESULTS), "plain").unwrap();
    assert!(!jobs.is_published(&second));
    jobs.turn_to_links().unwrap();
    jobs.tidy().unwrap();
    assert_eq!(published(), "plain");
    // The first one's files are still there.
    jobs.publish(&first, false).unwrap();
    assert_eq!((published(), names(folder.path())), ("first".to_owned(), all.map(str::to_owned).to_vec()));
}

#[test]
fn results_in_another_form_take_the_place_of_the_plain_ones() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = Jobs::of(folder.path());
    let form = Some(Form::Zstd);
    let mut job = complete(&jobs, Record { form, ..record("a", 1) }, "plain");
    let [results, rejects] = job.files().unwrap().in_form(Form::Zstd);
    // Its receiver was killed before it had exported all, and goes on there.
    assert!(matches!(job.state().unwrap(), State::Failed(_)));
    std::fs::write(job.files().unwrap().checkpoint, "").unwrap();
    std::fs::write(&results, "short").unwrap();
    job.note_export().unwrap();
    assert!(matches!(job.state().unwrap(), State::Done(_)) && !job.is_exported().unwrap());
    std::fs::write(&rejects, "").unwrap();
    std::fs::remove_file(job.files().unwrap().checkpoint).unwrap();
    job.note_export().unwrap();
    jobs.publish(&job, false).unwrap();
    let all = ["jobs", LATEST, "results.json", "results.log.zst", "results.rejects.csv.zst"];
    assert_eq!(names(folder.path()), all);
    assert_eq!(names(&job.path), [RECORD, "results.json", "results.log.zst", "results.rejects.csv.zst"]);
    let found = jobs.all().unwrap().remove(0);
    assert!(matches!(found.state().unwrap(), State::Done(_)) && jobs.is_published(&found));
    std::fs::write(&results, "cut").unwrap();
    assert!(matches!(found.state().unwrap(), State::Failed(_)));
    // The next job's results are plain.
    jobs.publish(&complete(&jobs, record("b", 2), "plain"), false).unwrap();
    assert_eq!(names(folder.path()), ["jobs", LATEST, "results.json", RESULTS, "results.rejects.csv"]);
}

#[test]
fn another_attempt_replaces_the_earlier_ones_when_it_is_complete() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = Jobs::of(folder.path());
    assert_eq!(jobs.attempts("a").unwrap().len(), 0);
    let first = complete(&jobs, record("a", 1), "x");
    jobs.publish(&first, false).unwrap();
    jobs.create(record("a", 2)).unwrap();
    let third = complete(&jobs, record("a", 3), "y");
    assert_eq!(names(&folder.path().join(JOBS)), ["a", "a-2", "a-3"]);
    assert_eq!(jobs.attempts("a").unwrap()[0].path, third.path);
    jobs.publish(&third, false).unwrap();
    assert_eq!(names(&folder.path().join(JOBS)), ["a-3"]);
    assert_eq!(jobs.create(record("a", 4)).unwrap().attempt, 4);
}

#[test]
fn only_old_jobs_are_removed_and_never_the_published_one() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = Jobs::of(folder.path());
    let oldest = complete(&jobs, record("a", 1), "x");
    jobs.publish(&oldest, false).unwrap();
    for (id, second) in [("b", 2), ("c", 3), ("d", 4)] {
        complete(&jobs, record(id, second), "x");
    }
    assert_eq!(jobs.keep(2).unwrap(), 1);
    assert_eq!(names(&folder.path().join(JOBS)), ["a", "c", "d"]);
    // What killed commands leave.
    std::fs::create_dir(folder.path().join(JOBS).join("begun")).unwrap();
    std::fs::write(folder.path().join(JOBS).join("begun/job.json.new"), "{").unwrap();
    std::fs::rename(folder.path().join(JOBS).join("c"), folder.path().join(JOBS).join(".gone-c")).unwrap();
    assert_eq!(jobs.all().unwrap().len(), 2);
    jobs.tidy().unwrap();
    assert_eq!(names(&folder.path().join(JOBS)), ["a", "d"]);
}

#[test]
fn a_state_is_read_from_the_files() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = Jobs::of(folder.path());
    let job = jobs.create(record("a", 1)).unwrap();
    assert_eq!(job.state().unwrap(), State::Unfinished { rows: 0, rejects: 0 });
    let files = job.files().unwrap();
    std::fs::write(&files.failure, "too many").unwrap();
    assert_eq!(job.state().unwrap(), State::Failed("too many".to_owned()));
    let done = complete(&jobs, record("b", 2), "text");
    std::fs::write(&done.files().unwrap().results, "cut").unwrap();
    assert!(matches!(done.state().unwrap(), State::Failed(_)));
}
