use super::*;
use bytes::Bytes;

fn to_write(paths: &ResultFiles) -> (Store, Syncer) {
    match open(paths).unwrap() {
        Opened::ToWrite(store, syncer, _) => (*store, syncer),
        Opened::Finished(..) => panic!("the job is finished"),
    }
}

fn batch(number: u64, results: &'static str, rejects: &'static str) -> ResultBatch {
    let lines = |text: &str| text.lines().count() as u32;
    ResultBatch {
        number,
        first_row: 0,
        rows: lines(results) + lines(rejects),
        rejected: lines(rejects),
        worker: 0,
        schema: Bytes::new(),
        results: Bytes::from_static(results.as_bytes()),
        rejects: Bytes::from_static(rejects.as_bytes()),
    }
}

#[test]
fn data_after_the_checkpoint_is_cut_off_and_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let paths = ResultFiles::beside(&dir.path().join("results.log")).unwrap();
    let (mut store, mut syncer) = to_write(&paths);
    store.append(&[batch(0, "a\nb\n", "0,bad,x\n")]).unwrap();
    syncer.sync(&store.position(), None).unwrap();
    store.append(&[batch(1, "lost\n", "1,lost,y\n")]).unwrap();
    drop((store, syncer));

    let (mut store, mut syncer) = to_write(&paths);
    assert_eq!((store.position().next, store.position().next_row, store.position().rejects), (1, 3, 1));
    store.append(&[batch(1, "c\n", "")]).unwrap();
    syncer.sync(&store.position(), None).unwrap();
    assert_eq!(std::fs::read_to_string(&paths.results).unwrap(), "a\nb\nc\n");
    assert_eq!(std::fs::read_to_string(&paths.rejects).unwrap(), "row,reason,record\n0,bad,x\n");
    let whole = protocol::hash::hex(&Sha256::digest(b"a\nb\nc\n"));
    assert_eq!(store.sha256(), whole);
}

#[test]
fn existing_results_without_a_checkpoint_are_refused_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let paths = ResultFiles::beside(&dir.path().join("results.log")).unwrap();
    std::fs::write(&paths.results, "precious").unwrap();
    let error = format!("{:#}", open(&paths).unwrap_err());
    assert!(error.contains("no checkpoint to resume from"), "{error}");
    assert_eq!(std::fs::read_to_string(&paths.results).unwrap(), "precious");

    std::fs::write(&paths.results, "").unwrap();
    to_write(&paths);
}

/// A job of three checkpoints: at the beginning, and after each of two batches.
fn two_batches(paths: &ResultFiles) -> (Store, Syncer) {
    let (mut store, mut syncer) = to_write(paths);
    for (number, results, rejects) in [(0, "a\nb\n", "1,bad,x\n"), (1, "c\nd\n", "5,bad,y\n")] {
        store.append(&[batch(number, results, rejects)]).unwrap();
        syncer.sync(&store.position(), None).unwrap();
    }
    (store, syncer)
}

/// The ways to damage a file: cut it off, flip a bit, or replace the rest by zeros.
const DAMAGES: [fn(&mut Vec<u8>, usize); 3] =
    [|bytes, at| bytes.truncate(at), |bytes, at| bytes[at] ^= 1, |bytes, at| bytes[at..].fill(0)];

#[test]
fn damage_to_data_that_only_the_newest_slot_counts_is_repaired() {
    for damage in DAMAGES {
        for rejects in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let paths = ResultFiles::beside(&dir.path().join("results.log")).unwrap();
            drop(two_batches(&paths));
            let damaged = if rejects { &paths.rejects } else { &paths.results };
            let mut bytes = std::fs::read(damaged).unwrap();
            let at = bytes.len() - 2;
            damage(&mut bytes, at);
            std::fs::write(damaged, bytes).unwrap();

            let (mut store, mut syncer) = to_write(&paths);
            assert_eq!((store.position().next, store.position().next_row), (1, 3));
            store.append(&[batch(1, "c\nd\n", "5,bad,y\n")]).unwrap();
            syncer.sync(&store.position(), None).unwrap();
            drop((store, syncer));
            assert_eq!(to_write(&paths).0.position().next, 2);
            assert_eq!(std::fs::read(&paths.results).unwrap(), b"a\nb\nc\nd\n");
            assert_eq!(std::fs::read(&paths.rejects).unwrap(), b"row,reason,record\n1,bad,x\n5,bad,y\n");
        }
    }
}

#[test]
fn damage_to_data_that_both_slots_count_is_refused_and_left_alone() {
    for damage in DAMAGES {
        for rejects in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let paths = ResultFiles::beside(&dir.path().join("results.log")).unwrap();
            drop(two_batches(&paths));
            let damaged = if rejects { &paths.rejects } else { &paths.results };
            let mut bytes = std::fs::read(damaged).unwrap();
            damage(&mut bytes, 1);
            std::fs::write(damaged, &bytes).unwrap();
            let error = open(&paths).unwrap_err().to_string();
            let says = error.contains("but its checkpoint ") && error.contains("to start the job from its");
            assert!(error.starts_with(&damaged.display().to_string()) && says, "{error}");
            assert!(std::fs::read(damaged).unwrap() == bytes);
            std::fs::remove_file(damaged).unwrap();
            let error = open(&paths).unwrap_err().to_string();
            assert!(error.contains("is missing, but its checkpoint counts"), "{error}");
        }
    }
}

#[test]
fn a_damaged_checkpoint_is_refused_unless_there_are_no_results() {
    let dir = tempfile::tempdir().unwrap();
    let paths = ResultFiles::beside(&dir.path().join("results.log")).unwrap();
    // A loss of power may leave the first checkpoint like this.
    std::fs::write(&paths.checkpoint, [0; 100]).unwrap();
    two_batches(&paths);
    std::fs::write(&paths.checkpoint, [0; 8192]).unwrap();
    let error = open(&paths).unwrap_err().to_string();
    assert!(error.contains("with 8 bytes and a damaged checkpoint"), "{error}");
    assert_eq!(std::fs::read(&paths.results).unwrap(), b"a\nb\nc\nd\n");
}

#[test]
fn two_receivers_do_not_write_the_same_results() {
    let dir = tempfile::tempdir().unwrap();
    let paths = ResultFiles::beside(&dir.path().join("results.log")).unwrap();
    let (mut store, mut syncer) = to_write(&paths);
    store.append(&[batch(0, "a\n", "")]).unwrap();
    let error = open(&paths).unwrap_err().to_string();
    assert!(error.contains("another receiver is writing"), "{error}");
    syncer.sync(&store.position(), None).unwrap();
    drop((store, syncer));
    // Another results file beside the same checkpoint belongs to another job.
    let other = ResultFiles::beside(&dir.path().join("results.csv")).unwrap();
    std::fs::write(&other.results, "precious").unwrap();
    let error = open(&other).unwrap_err().to_string();
    assert!(error.contains("belongs to the results results.log"), "{error}");
    assert_eq!(std::fs::read_to_string(&other.results).unwrap(), "precious");
    to_write(&paths);
}

/// A job of two batches that is finished.
fn finished(paths: &ResultFiles) -> (Summary, Finished) {
    let (store, syncer) = two_batches(paths);
    let Position { next_row, rejects, next, result_bytes, .. } = store.position();
    let summary = Summary {
        rows: next_row,
        rejects,
        batches: next,
        bytes: result_bytes,
        sha256: store.sha256(),
        started: "then".into(),
        ended: "now".into(),
        seconds: 1.0,
        ..Summary::default()
    };
    let finished = syncer.finish(&summary).unwrap();
    (summary, finished)
}

fn finished_again(paths: &ResultFiles) -> (Summary, Finished) {
    let Opened::Finished(summary, finished) = open(paths).unwrap() else { panic!("it is not finished") };
    (summary, finished)
}

#[test]
fn a_finished_job_stays_open_until_it_is_tidied_up() {
    let dir = tempfile::tempdir().unwrap();
    let paths = ResultFiles::beside(&dir.path().join("results.log")).unwrap();
    let (summary, untold) = finished(&paths);
    assert!(!untold.is_told());
    drop(untold);
    let (again, mut untold) = finished_again(&paths);
    assert_eq!((&again, untold.is_told(), untold.position().result_bytes), (&summary, false, 8));
    untold.note_told().unwrap();
    drop(untold);
    let (again, told) = finished_again(&paths);
    assert_eq!((again, told.is_told(), told.position().result_bytes), (summary, true, 8));
    told.tidy().unwrap();
    assert!(open(&paths).unwrap_err().to_string().contains("this job is finished"));
}

#[test]
fn damaged_results_of_a_finished_job_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let paths = ResultFiles::beside(&dir.path().join("results.log")).unwrap();
    drop(finished(&paths));
    // The results match the older slot, but not the summary.
    std::fs::write(&paths.results, "a\nb\nc\n").unwrap();
    let error = open(&paths).unwrap_err().to_string();
    assert!(error.contains("this job is finished, but") && error.contains("does not match"), "{error}");
    std::fs::write(&paths.results, "a\nb\nc\nd\n").unwrap();
    finished_again(&paths);
}

#[test]
fn a_finished_job_is_not_begun_again() {
    let dir = tempfile::tempdir().unwrap();
    let paths = ResultFiles::beside(&dir.path().join("results.log")).unwrap();
    std::fs::write(&paths.summary, "{}").unwrap();
    assert!(open(&paths).unwrap_err().to_string().contains("this job is finished"));
}
