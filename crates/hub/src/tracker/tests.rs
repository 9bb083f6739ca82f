use proptest::prelude::*;
use telemetry::report::Ending;
use telemetry::view::StageName;

use super::*;
use crate::scenario::{ROWS_PER_SECOND, Scenario, ending};
use crate::snapshot;

const SMALL: Scenario =
    Scenario { machines: 2, workers: 7, seconds: 100, batch_seconds: 0, outage: (0, 0), rejects: false };

fn at(second: u64) -> Duration {
    Duration::from_secs(second)
}

fn kinds(tracker: &Tracker) -> Vec<EventKind> {
    tracker.events().iter().map(|event| event.kind).collect()
}

#[test]
fn a_job_goes_from_waiting_to_done() {
    let mut tracker = Tracker::default();
    assert_eq!(tracker.state(), JobState::Waiting);
    for second in 0..=SMALL.seconds {
        SMALL.pass(&mut tracker, second, &[]);
    }
    assert_eq!(tracker.state(), JobState::Done);
    let job = snapshot::job(&tracker, at(500));
    // The figures stay as they were at the end.
    assert_eq!((job.elapsed_seconds, job.rows.written, job.rows.in_flight), (100.0, SMALL.rows(), 0));
    assert_eq!((job.workers_expected, job.restarts, job.failure), (14, 0, None));
    let states: Vec<_> =
        tracker.events().iter().filter(|e| e.kind == EventKind::Job).map(|e| &e.text[..]).collect();
    assert_eq!(states, ["the job is running", "the job is done"]);
}

#[test]
fn a_restarted_hub_knows_when_the_job_began() {
    let mut tracker = Tracker::default();
    let late = at(1_000_050);
    for name in ["initializer", "worker1", "receiver"] {
        tracker.on_report(&Scenario::origin(name, 1), SMALL.report(name, 50, 0), late);
        assert_eq!(tracker.state(), JobState::Running, "after the report of {name}");
    }
    let job = snapshot::job(&tracker, late);
    assert_eq!((job.elapsed_seconds, job.rows.written), (50.0, SMALL.rows() / 2));
}

#[test]
fn a_silent_program_is_stale_then_lost_and_its_workers_stay() {
    let mut tracker = Tracker::default();
    (0..10).for_each(|second| SMALL.pass(&mut tracker, second, &[]));
    let mut states = Vec::new();
    for second in 10..25 {
        SMALL.pass(&mut tracker, second, &["worker1"]);
        let workers = snapshot::workers(&tracker, at(second));
        let view = workers.iter().find(|view| view.name == "worker1.3").unwrap();
        assert_eq!(view.rate.is_some(), view.state == Liveness::Up, "unknown, and not zero");
        assert!(view.state == Liveness::Up || workers[0].process == "worker1", "problems come first");
        states.push((second, view.state));
    }
    let first = |wanted| states.iter().find(|(_, state)| *state == wanted).unwrap().0;
    // Its last report arrived in second 9.
    assert_eq!((first(Liveness::Stale), first(Liveness::Lost)), (12, 19));
    assert_eq!(snapshot::job(&tracker, at(24)).workers_up, 7);
    SMALL.pass(&mut tracker, 25, &[]);
    assert!(kinds(&tracker).ends_with(&[EventKind::Lost, EventKind::Back]), "{:?}", tracker.events());
}

#[test]
fn the_counts_of_earlier_incarnations_are_added() {
    let mut tracker = Tracker::default();
    (0..10).for_each(|second| SMALL.pass(&mut tracker, second, &[]));
    let leaves = ending(SMALL.report("worker1", 10, 0), Ending::Leaving("lost the receiver".into()));
    tracker.on_report(&Scenario::origin("worker1", 1), leaves, at(10));
    assert_eq!(tracker.processes()["worker1"].liveness(at(10)), Liveness::Stale);
    tracker.on_report(&Scenario::origin("worker1", 2), SMALL.report("worker1", 15, 11), at(15));
    let worker = &snapshot::workers(&tracker, at(15))[7];
    assert_eq!((worker.name.as_str(), worker.restarts), ("worker1.0", 1));
    assert_eq!(worker.rows, (10 + 4) * ROWS_PER_SECOND);
    assert_eq!(snapshot::job(&tracker, at(15)).restarts, 1);
    assert!(kinds(&tracker).contains(&EventKind::Restarted));
}

#[test]
fn a_job_without_output_is_stalled_after_a_while() {
    let mut tracker = Tracker::default();
    (0..10).for_each(|second| SMALL.pass(&mut tracker, second, &[]));
    for second in 10..30 {
        SMALL.pass(&mut tracker, second, &["receiver"]);
        // The first rows that are not written arrive in second 10.
        assert_eq!(tracker.state() == JobState::Stalled, second >= 10 + STALLED.as_secs(), "second {second}");
    }
    let bottleneck = snapshot::job(&tracker, at(29)).bottleneck.unwrap();
    assert_eq!(bottleneck.words, "no report from receiver on host-of-receiver");
    SMALL.pass(&mut tracker, 30, &[]);
    assert_eq!(tracker.state(), JobState::Running);
}

#[test]
fn a_job_that_waits_for_rows_is_not_stalled() {
    let mut tracker = Tracker::default();
    (0..=10).for_each(|second| SMALL.pass(&mut tracker, second, &[]));
    // No more rows arrive, and all that arrived are written.
    for second in 11..60 {
        for name in SMALL.names() {
            tracker.on_report(&Scenario::origin(&name, 1), SMALL.report(&name, 10, 0), at(second));
        }
        tracker.tick(at(second));
    }
    assert_eq!(tracker.state(), JobState::Running);
}

#[test]
fn a_failed_program_fails_the_job_with_its_reason() {
    let mut tracker = Tracker::default();
    (0..10).for_each(|second| SMALL.pass(&mut tracker, second, &[]));
    let fails = ending(SMALL.report("initializer", 10, 0), Ending::Failed("no space left".into()));
    tracker.on_report(&Scenario::origin("initializer", 1), fails, at(10));
    assert_eq!(tracker.state(), JobState::Failed);
    assert_eq!(snapshot::job(&tracker, at(11)).failure.unwrap(), "initializer: no space left");
}

#[test]
fn an_overtaken_report_changes_nothing() {
    let mut tracker = Tracker::default();
    (0..10).for_each(|second| SMALL.pass(&mut tracker, second, &[]));
    let receive = |tracker: &mut Tracker, incarnation, report| {
        tracker.on_report(&Scenario::origin("worker1", incarnation), report, at(12));
    };
    receive(&mut tracker, 2, SMALL.report("worker1", 12, 11));
    let before = snapshot::workers(&tracker, at(12));
    // One of the earlier incarnation, and one of this one.
    receive(&mut tracker, 1, SMALL.report("worker1", 10, 0));
    receive(&mut tracker, 2, SMALL.report("worker1", 11, 11));
    assert_eq!(snapshot::workers(&tracker, at(12)), before);
    assert_eq!(snapshot::job(&tracker, at(12)).restarts, 1);
}

#[test]
fn a_restarted_initializer_lowers_no_row_count_and_the_job_is_stalled_meanwhile() {
    let mut tracker = Tracker::default();
    for second in 0..20 {
        SMALL.pass(&mut tracker, second, &["receiver"]);
        tracker.on_report(
            &Scenario::origin("receiver", 1),
            SMALL.report("receiver", second / 2, 0),
            at(second),
        );
    }
    let before = tracker.rows();
    assert!(before.in_flight > 0);
    // The initializer has no source until the cluster has formed.
    for second in 20..40 {
        let mut report = SMALL.report("initializer", second, 19);
        let Counts::Classifier(counts) = &mut report.counts else { panic!("{report:?}") };
        counts.source = None;
        tracker.on_report(&Scenario::origin("initializer", 2), report, at(second));
        tracker.tick(at(second));
    }
    assert_eq!(tracker.rows(), before);
    assert_eq!((tracker.state(), snapshot::job(&tracker, at(39)).workers_expected), (JobState::Stalled, 14));
}

#[test]
fn a_failed_classifier_is_the_jobs_failure_only_if_the_job_is_stopped_soon_after() {
    let fails = |tracker: &mut Tracker, second| {
        let report = ending(SMALL.report("worker1", second, 0), Ending::Failed("no receiver".into()));
        tracker.on_report(&Scenario::origin("worker1", 1), report, at(second));
    };
    let mut tracker = Tracker::default();
    (0..20).for_each(|second| SMALL.pass(&mut tracker, second, &[]));
    fails(&mut tracker, 20);
    assert_eq!(tracker.events().back().unwrap().text, "worker1 has failed: no receiver");
    (20..=SMALL.seconds).for_each(|second| SMALL.pass(&mut tracker, second, &["worker1"]));
    assert_eq!((tracker.state(), tracker.failure()), (JobState::Done, None));

    // The command that watches the job then stops it, and the receiver reports that it was stopped.
    for (seconds, why) in [(1, "worker1: no receiver"), (30, "a user has stopped it")] {
        let mut tracker = Tracker::default();
        (0..20).for_each(|second| SMALL.pass(&mut tracker, second, &[]));
        fails(&mut tracker, 20);
        let mut stopped = SMALL.report("receiver", 20, 0);
        let Counts::Receiver(counts) = &mut stopped.counts else { panic!("{stopped:?}") };
        counts.outcome = Some(JobOutcome::Stopped);
        tracker.on_report(&Scenario::origin("receiver", 1), stopped, at(20 + seconds));
        assert_eq!((tracker.state(), tracker.failure()), (JobState::Failed, Some(why)));
    }
}

#[test]
fn a_job_is_settled_when_no_program_will_report_again() {
    let mut tracker = Tracker::default();
    (0..=SMALL.seconds).for_each(|second| SMALL.pass(&mut tracker, second, &[]));
    let end = SMALL.seconds;
    assert!(tracker.state().is_over() && !tracker.is_settled(at(end)));
    for name in SMALL.names().iter().filter(|name| *name != "worker1") {
        tracker.on_report(
            &Scenario::origin(name, 1),
            ending(SMALL.report(name, end, 0), Ending::Finished),
            at(end),
        );
    }
    assert!(!tracker.is_settled(at(end + 9)));
    assert!(tracker.is_settled(at(end + 10)), "worker1 is lost");
}

#[test]
fn busy_workers_are_the_bottleneck() {
    let mut tracker = Tracker::default();
    (0..20).for_each(|second| SMALL.pass(&mut tracker, second, &[]));
    let bottleneck = snapshot::job(&tracker, at(19)).bottleneck.unwrap();
    assert_eq!(bottleneck.stage, StageName::Classify);
    assert!(bottleneck.words.starts_with("all 14 workers are busy 95 % of the time"), "{}", bottleneck.words);
}

#[test]
fn the_estimate_appears_after_six_seconds_and_is_right_for_a_steady_job() {
    let mut tracker = Tracker::default();
    for second in 0..SMALL.seconds {
        SMALL.pass(&mut tracker, second, &[]);
        let estimate = snapshot::job(&tracker, at(second)).estimate;
        assert_eq!(estimate.is_some(), second >= 6, "second {second}");
        if let Some(estimate) = estimate {
            let left = (SMALL.seconds - second) as f64;
            assert!((estimate.low_seconds - left).abs() < 0.5 && (estimate.high_seconds - left).abs() < 0.5);
        }
    }
}

proptest! {
    // Each case has all reports of eighty seconds of a job.
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Since counts are cumulative.
    #[test]
    fn later_reports_make_up_for_lost_ones(lost in prop::collection::vec(prop::sample::select(vec!["sender", "receiver", "initializer", "worker1"]), 30)) {
        let (mut all, mut some) = (Tracker::default(), Tracker::default());
        for second in 0..30u64 {
            SMALL.pass(&mut all, second, &[]);
            SMALL.pass(&mut some, second, &[lost[second as usize]]);
        }
        for second in 30..=40 {
            SMALL.pass(&mut all, second, &[]);
            SMALL.pass(&mut some, second, &[]);
        }
        let (all, some) = ((snapshot::job(&all, at(40)), snapshot::workers(&all, at(40))), (snapshot::job(&some, at(40)), snapshot::workers(&some, at(40))));
        prop_assert_eq!(all.0.rows, some.0.rows);
        prop_assert_eq!(all.0.workers_up, some.0.workers_up);
        for (one, other) in all.1.iter().zip(&some.1) {
            prop_assert_eq!((&one.name, one.rows, one.batches, one.p99_ms), (&other.name, other.rows, other.batches, other.p99_ms));
        }
    }
}
