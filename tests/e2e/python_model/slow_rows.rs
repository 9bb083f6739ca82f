//! Slow rows, and rows that hang.

use super::job::Job;

fn kills(said: &str) -> usize {
    said.matches("took longer than").count()
}

#[test]
fn slow_rows_succeed_and_cost_a_worker_one_time_limit() {
    // A whole batch would take 12 s, and the limit is 4 s; later batches begin with parts that fit.
    let code = "import time\ndef classify_df(df):\n    time.sleep(0.4 * len(df))\n    return df.assign(CLASSIFICATION=1)\n";
    let outcome = Job::new(code).args(["--box-timeout", "4", "--chunk-size", "30"]).run(70);
    assert_eq!((outcome.results.len(), outcome.rejects.len()), (70, 0), "{outcome:?}");
    assert_eq!(kills(&outcome.said), 1, "{}", outcome.said);
}

#[test]
fn a_hanging_row_is_found_among_slow_ones_and_its_reason_names_the_options() {
    let code = "import time\ndef classify_df(df):\n    \
        time.sleep(0.1 * len(df))\n    \
        if '37' in df.index: time.sleep(1000)\n    \
        return df.assign(CLASSIFICATION=1)\n";
    let outcome = Job::new(code).args(["--box-timeout", "2"]).run(60);
    assert_eq!((outcome.results.len(), outcome.rejects.len()), (59, 1), "{outcome:?}");
    let reason = outcome.reason(37);
    assert!(reason.contains("--model-timeout") && reason.contains("--chunk-size"), "{reason}");
    assert!(kills(&outcome.said) <= 4, "{}", outcome.said);
}

#[test]
fn a_batch_whose_rows_all_hang_ends() {
    // The row after the batch shows that the job continues.
    let code = "import time\ndef classify_df(df):\n    \
        if '100' not in df.index: time.sleep(1000)\n    \
        return df.assign(CLASSIFICATION=1)\n";
    let outcome = Job::new(code).args(["--box-timeout", "1"]).run(101);
    assert_eq!((outcome.results.len(), outcome.rejects.len()), (1, 100));
    assert!(kills(&outcome.said) <= 8 + 4 * 8, "{}", outcome.said);
    assert!(outcome.reason(99).starts_with("other rows of its batch took too long"), "{outcome:?}");
}
