//! The limit for rejects, and the reasons that are reported.

use std::path::Path;

use tests::cluster::{Results, Setup};
use tests::program::Program;

/// A CSV in which every `every`th row has one value too many, from row `first` on.
fn input(folder: &Path, rows: usize, first: usize, every: usize) -> String {
    let row = |i: usize| {
        if i >= first && (i - first).is_multiple_of(every) {
            format!("{i},a,b\n")
        } else {
            format!("{i},a\n")
        }
    };
    let path = folder.join("in.csv");
    std::fs::write(&path, format!("ID,NAME\n{}", (0..rows).map(row).collect::<String>())).unwrap();
    path.display().to_string()
}

fn start(most: &[&str], workers: usize, processes: usize) -> tests::cluster::Cluster {
    let receiver_args = most.iter().map(|word| (*word).to_owned()).collect();
    Setup { workers, processes, receiver_args, ..Setup::default() }.args(["--chunk-size", "30"]).start()
}

/// The job's error, which must be the same with any number of workers.
fn failure(most: &[&str], rows: usize, first: usize, every: usize) -> String {
    let failure = |workers, processes| {
        let mut cluster = start(most, workers, processes);
        let mut sender = cluster.sender([&*input(cluster.folder.path(), rows, first, every)]);
        let reason = cluster.receiver.job_failure();
        sender.failure();
        assert!(!cluster.path("results.json").exists(), "the job is not done");
        let rejects = std::fs::read_to_string(cluster.path("results.rejects.csv")).unwrap();
        assert!(
            rejects.contains(&format!("{first},3 values; the header has 2,")),
            "the reason is not in the rejects: {rejects}"
        );
        reason
    };
    let said = failure(1, 1);
    assert_eq!(failure(3, 1), said);
    assert_eq!(failure(2, 2), said);
    said
}

fn run(most: &[&str], rows: usize, first: usize, every: usize) -> Results {
    let mut cluster = start(most, 2, 1);
    cluster.sender([&*input(cluster.folder.path(), rows, first, every)]).success();
    cluster.results()
}

#[test]
fn a_job_stops_when_its_first_thousand_rows_are_all_rejected() {
    let said = failure(&[], 100_000, 0, 1);
    assert!(
        said.starts_with("the first 1000 rows were all rejected (1000 as row 0: 3 values; the header has 2)"),
        "{said}"
    );
    assert!(said.ends_with("give --max-rejects 100%"), "{said}");
    // One result among them is enough.
    let results = run(&[], 3000, 1, 1);
    assert_eq!((results.summary.rows, results.summary.rejects), (3000, 2999));
}

#[test]
fn a_job_without_results_fails_however_many_rejects_it_may_have() {
    for most in [&[][..], &["--max-rejects", "100%"], &["--max-rejects", "5000"]] {
        let said = failure(most, 900, 0, 1);
        assert_eq!(
            said,
            "all of the 900 rows were rejected (900 as row 0: 3 values; the header has 2), so there are no results"
        );
    }
    let said = failure(&["--max-rejects", "100%"], 3000, 0, 1);
    assert!(said.starts_with("all of the 3000 rows were rejected"), "{said}");
    assert_eq!(run(&[], 0, 0, 1).summary.rows, 0);
}

#[test]
fn a_budget_is_counted_in_row_order() {
    let said = failure(&["--max-rejects", "10"], 5000, 7, 100);
    assert!(said.starts_with("11 of the first 1008 rows were rejected (11 as row 7: "), "{said}");
    assert!(said.ends_with("and --max-rejects allows 10"), "{said}");
    let said = failure(&["--max-rejects", "0.5%"], 5000, 500, 10);
    assert!(said.starts_with("50 of the first 1000 rows were rejected"), "{said}");
    // For fewer than a thousand rows, a percentage is checked at the end.
    let said = failure(&["--max-rejects", "5%"], 500, 0, 10);
    assert!(said.starts_with("50 of the first 500 rows were rejected"), "{said}");
    for most in ["50", "1%"] {
        let results = run(&["--max-rejects", most], 5000, 99, 100);
        assert_eq!((results.summary.rows, results.summary.rejects), (5000, 50), "{most}");
    }
}

#[test]
fn an_invalid_budget_is_a_usage_error() {
    for wrong in ["-1", "101%", "few"] {
        let folder = tempfile::tempdir().unwrap();
        let mut command = std::process::Command::new(tests::program_path("receiver"));
        command.arg(format!("--max-rejects={wrong}"));
        let mut receiver = Program::start_command("receiver", folder.path(), command);
        assert_eq!(receiver.wait().code(), Some(2));
        assert!(receiver.output().contains("is neither a number of rows nor a percentage"));
    }
}

#[test]
fn rejects_are_grouped_by_kind_of_reason() {
    let folder = tempfile::tempdir().unwrap();
    let code = "def classify_df(df):\n    bad = [i for i in df.index if int(i) % 50 == 3]\n    \
        if bad:\n        raise KeyError(bad[0]) if int(bad[0]) > 100 else ValueError('row %s is bad' % bad[0])\n    \
        df['CLASSIFICATION'] = 1\n    return df\n";
    let setup = Setup::python(folder.path(), code).args(["--chunk-size", "20"]);
    let summary = setup.run([&*input(folder.path(), 400, 0, 200)]).summary;
    let reasons: Vec<_> = summary.reject_reasons.iter().collect();
    let found: Vec<_> = reasons
        .iter()
        .map(|reason| (&*reason.kind, reason.rows, reason.first_row, &*reason.example))
        .collect();
    assert_eq!(
        found,
        [
            ("… values; the header has …", 2, 0, "3 values; the header has 2"),
            ("ValueError: row … is bad", 2, 3, "ValueError: row 3 is bad"),
            ("KeyError: '…'", 6, 103, "KeyError: '103'"),
        ]
    );
    assert_eq!(summary.rejects, 10);
}

#[test]
fn output_and_report_show_why_rows_are_rejected() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let input = input(folder.path(), 2000, 1, 4);
    let mut command = tests::xtask();
    command.current_dir(folder.path()).env("CARGO_MANIFEST_DIR", tests::root().join("xtask"));
    command.args(["run-locally", "--classifier", "native", "--input", &input, "--max-rejects", "30%"]);
    command.args(["--output", &path("output"), "--log", &path("log")]);
    let mut job = Program::start_command("xtask", folder.path(), command);
    job.success();
    let said = job.output();
    assert!(
        said.contains("500 rows: … values; the header has … (row 1: 3 values; the header has 2)"),
        "{said}"
    );
    let report = std::fs::read(folder.path().join("output/report.json")).unwrap();
    let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
    let reasons = &report["job"]["reject_reasons"];
    assert_eq!(reasons[0]["rows"], 500, "{reasons}");
    assert_eq!(report["job"]["summary"]["columns"][2], "CLASSIFICATION");
    let page = std::fs::read_to_string(folder.path().join("output/report.html")).unwrap();
    assert!(page.contains("… values; the header has …"));
}
