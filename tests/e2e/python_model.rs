//! The user's pandas function, in real Python processes.

mod failures;
mod forks;
mod invisible;
mod job;
mod processes;
mod slow_rows;
mod threads;

use std::path::Path;

use tests::cluster::{Results, Setup};
use tests::program::Program;

/// A setup whose classifiers find `code` as the module `model`.
fn setup(folder: &Path, code: &str) -> Setup {
    std::fs::write(folder.join("model.py"), code).unwrap();
    Setup { python_path: Some(folder.to_owned()), ..Setup::default() }.args([
        "--python",
        tests::python().to_str().unwrap(),
        "--classifier",
        "python:model",
    ])
}

fn run(code: &str, lines: &str) -> (Results, String) {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = setup(folder.path(), code).args(["--box-timeout", "5"]).start();
    cluster.sender(["--lines", lines]).success();
    let results = cluster.results();
    (results, cluster.classifiers[0].output())
}

/// The output of a classifier that cannot start its model.
fn refused(classifier: &str, python: &Path, code: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("model.py"), code).unwrap();
    let mut command = std::process::Command::new(tests::program_path("classifier"));
    command.env("PYTHONPATH", folder.path());
    // Nothing listens at port 1. At the default port, another test might.
    command.args(["--cluster-initializer", "--in", "127.0.0.1:0", "--control", "127.0.0.1:0"]);
    command.args(["--out", "127.0.0.1:1", "--python"]);
    command.arg(python).args(["--classifier", classifier]);
    Program::start_command("classifier", folder.path(), command).failure()
}

#[test]
fn the_pandas_example_computes_what_native_computes() {
    let example = Setup { python_path: Some(tests::root().join("examples")), ..Setup::default() };
    let example = example.args([
        "--python",
        tests::python().to_str().unwrap(),
        "--classifier",
        "python:pandas_classifier",
    ]);
    let native = Setup::default().run(["--lines", "5000"]);
    let pandas = example.run(["--lines", "5000"]);
    assert_eq!((pandas.summary.rows, pandas.summary.rejects), (5000, 0));
    // Fake rows are quoted as pandas quotes, so even the bytes are the same.
    assert!(pandas.log == native.log);
}

#[test]
fn the_function_may_return_a_frame_or_change_it_in_place() {
    let (returned, _) = run("def classify_df(df):\n    return df.assign(CLASSIFICATION=df.SKU)\n", "250");
    let (changed, _) = run("def classify_df(df):\n    df['CLASSIFICATION'] = df['SKU']\n", "250");
    assert!(returned.log == changed.log);
    let line = String::from_utf8(returned.log).unwrap();
    let line = line.lines().next().unwrap();
    assert!(line.starts_with("0,33806,") && line.ends_with(",33806"), "{line}");
}

#[test]
fn values_reach_the_function_unchanged() {
    let folder = tempfile::tempdir().unwrap();
    let code = "def classify_df(df):\n    \
        df['CLASSIFICATION'] = [repr((i,) + tuple(r)) for i, r in zip(df.index, df.values.tolist())]\n    return df\n";
    let mut cluster = setup(folder.path(), code).start();
    std::fs::write(cluster.path("in.csv"), "ID,A,B\n007,NA,1.50\n\"a,\"\"b\"\"\",5\" pipe,\"x\r\ny\"\n")
        .unwrap();
    cluster.sender([cluster.path("in.csv").to_str().unwrap()]).success();
    let log = String::from_utf8(cluster.results().log).unwrap();
    assert!(log.contains("\"('007', 'NA', '1.50')\""), "{log}");
    assert!(log.contains(r#"('a,""b""', '5"" pipe', 'x\r\ny')"#), "{log}");
}

/// Runs a Python check of the runner's parts, with real pandas.
fn check_runner(name: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let mut check = std::process::Command::new(tests::python());
    check.arg(tests::root().join("tests/python").join(name)).env("PYTHONDONTWRITEBYTECODE", "1");
    check.arg(tests::root().join("classifier/src/model/python/runner.py"));
    Program::start_command("check", folder.path(), check).success()
}

#[test]
fn rows_print_as_pandas_prints_them() {
    let said = check_runner("check_printing.py");
    assert!(said.starts_with("compared "), "{said}");
}

#[test]
fn values_of_one_kind_print_the_same_in_all_parts_of_a_column() {
    let said = check_runner("check_kinds.py");
    assert!(said.starts_with("compared "), "{said}");
}

#[test]
fn reordered_rows_are_noticed_even_if_index_values_repeat() {
    let said = check_runner("check_order.py");
    assert!(said.starts_with("noticed "), "{said}");
}

#[test]
fn odd_rows_are_not_lost() {
    let folder = tempfile::tempdir().unwrap();
    let code = "def classify_df(df):\n    df['CLASSIFICATION'] = [len(i) for i in df.index]\n    return df\n";
    let mut cluster = setup(folder.path(), code).start();
    std::fs::write(cluster.path("in.csv"), b"A\n1\n  \n3\n\t\na\0b\n\"\"\n").unwrap();
    cluster.sender([cluster.path("in.csv").to_str().unwrap()]).success();
    let results = cluster.results();
    assert_eq!((results.summary.rows, results.summary.rejects), (6, 1));
    assert_eq!(String::from_utf8(results.log).unwrap(), "1,1\n  ,2\n3,1\n\t,1\n,0\n");
    assert!(results.rejects.contains("4,\"a NUL byte in the record, at which"), "{}", results.rejects);
}

#[test]
fn a_hanging_process_is_killed_with_its_children() {
    let folder = tempfile::tempdir().unwrap();
    let code = "import os, time\ndef classify_df(df):\n    \
        if '3' in df.index:\n        os.fork(); time.sleep(1000)\n    \
        df['CLASSIFICATION'] = 1\n    return df\n";
    let mut cluster = setup(folder.path(), code).args(["--box-timeout", "1", "--chunk-size", "2"]).start();
    cluster.sender(["--lines", "5"]).success();
    assert_eq!(cluster.results().summary.rejects, 1);
    tests::eventually("all Python processes to end", || {
        let marker = format!("PYTHONPATH={}", folder.path().display());
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let ours = processes.filter(|process| {
            let environment = std::fs::read(process.path().join("environ")).unwrap_or_default();
            String::from_utf8_lossy(&environment).contains(&marker)
        });
        (ours.count() == 0).then_some(())
    });
}

#[test]
fn a_process_that_exceeds_memory_sends_garbage_or_is_stopped_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let code = "import os, signal\ndef classify_df(df):\n    \
        if '3' in df.index:\n        eaten = [b'x' * (1 << 20) for _ in range(1 << 20)]\n    \
        if '7' in df.index:\n        nonsense()\n    \
        if '11' in df.index:\n        os.kill(os.getpid(), signal.SIGSTOP)\n    \
        df['CLASSIFICATION'] = 1\n    return df\n\
        def nonsense():\n    \
        for fd in range(3, 10):\n        try: os.write(fd, b'nonsense' * 10)\n        except OSError: pass\n";
    let cluster = setup(folder.path(), code).args(["--box-memory", "400", "--chunk-size", "1"]);
    let results = cluster.run(["--lines", "15"]);
    assert_eq!((results.summary.rows, results.summary.rejects), (15, 3));
    let reasons: Vec<_> = results.rejects.lines().skip(1).collect();
    for (line, row, reason) in [
        (reasons[0], "3,", "the Python process took more than 400 MiB of memory, and was killed"),
        (reasons[1], "7,", "the Python process broke the protocol (an answer of "),
        (reasons[2], "11,", "the Python process was stopped, and was killed"),
    ] {
        assert!(line.starts_with(row) && line.contains(reason), "{line}");
    }
}

#[test]
fn failed_restarts_of_a_process_cost_no_row() {
    let folder = tempfile::tempdir().unwrap();
    let code = "import os, pathlib\n\
        trouble = pathlib.Path(__file__).with_name('trouble')\n\
        if trouble.exists() and (left := int(trouble.read_text())):\n    \
        trouble.write_text(str(left - 1)); raise RuntimeError('no memory')\n\
        def classify_df(df):\n    \
        if '3' in df.index and not trouble.exists():\n        trouble.write_text('3'); os._exit(1)\n    \
        df['CLASSIFICATION'] = 1\n    return df\n";
    let setup = Setup { workers: 1, ..setup(folder.path(), code) }.args(["--chunk-size", "1"]);
    let mut cluster = setup.args(["--start-method", "spawn"]).start();
    cluster.sender(["--lines", "9"]).success();
    let results = cluster.results();
    assert_eq!((results.summary.rows, results.summary.rejects), (9, 0), "{}", results.rejects);
    let said = cluster.classifiers[0].output();
    assert_eq!(said.matches("RuntimeError: no memory; trying again").count(), 3, "{said}");
}

#[test]
fn rows_that_hang_are_found_among_others() {
    let folder = tempfile::tempdir().unwrap();
    let code = "import time\ndef classify_df(df):\n    \
        if '5' in df.index or '6' in df.index:\n        time.sleep(1000)\n    \
        df['CLASSIFICATION'] = 1\n    return df\n";
    let cluster = setup(folder.path(), code).args(["--box-timeout", "4", "--chunk-size", "4"]);
    let results = cluster.run(["--lines", "12"]);
    assert_eq!((results.summary.rows, results.summary.rejects), (12, 2), "{}", results.rejects);
}

#[test]
fn rows_for_which_the_function_raises_are_rejected_with_its_error() {
    let code = "def classify_df(df):\n    \
        assert '37' not in df.index, 'no 37'\n    \
        df['CLASSIFICATION'] = 1\n    return df\n";
    let (results, _) = run(code, "250");
    assert_eq!((results.summary.rows, results.summary.rejects), (250, 1));
    let line = results.rejects.lines().nth(1).unwrap();
    assert!(line.starts_with("37,AssertionError: no 37,\"37,"), "{line}");
    assert_eq!(String::from_utf8(results.log).unwrap().lines().count(), 249);
}

#[test]
fn output_to_standard_error_does_no_harm() {
    let code = "import os, time\ndef classify_df(df):\n    \
        os.write(2, b'caf\\xe9\\n'); time.sleep(0.05); print('behind it'); os.write(2, b'x' * 100000)\n    \
        df['CLASSIFICATION'] = 1\n    return df\n";
    let (results, log) = run(code, "250");
    assert_eq!((results.summary.rows, results.summary.rejects), (250, 0));
    let printed: Vec<_> =
        log.lines().map(process::log::message).filter(|line| line.starts_with("python: ")).collect();
    let has = |line: &str| printed.iter().any(|printed| printed.starts_with(line));
    assert!(has("python: caf\u{fffd}") && has("python: behind it"), "{log}");
}

#[test]
fn a_short_batch_has_as_much_time_as_a_long_one() {
    let folder = tempfile::tempdir().unwrap();
    let code =
        "import time\ndef classify_df(df):\n    time.sleep(1)\n    df['CLASSIFICATION'] = 1\n    return df\n";
    let setup = Setup { workers: 1, ..setup(folder.path(), code) }.args(["--box-timeout", "3"]);
    let results = setup.run(["--lines", "101"]);
    assert_eq!((results.summary.rows, results.summary.rejects), (101, 0));
}

#[test]
fn a_wrong_return_value_is_named_in_the_reason() {
    // Row 1 always succeeds, since a job without results fails.
    let reason = |code: &str| {
        let code =
            code.replacen(":\n", ":\n    if df.index[0] == '1': return df.assign(CLASSIFICATION=1)\n", 1);
        run(&code, "2").0.rejects.lines().nth(1).unwrap().to_owned()
    };
    let too_few = reason("def classify_df(df):\n    return df.iloc[:0].assign(CLASSIFICATION='')\n");
    assert!(too_few.contains("ValueError: model.classify_df returned 0 rows for 1"), "{too_few}");
    let no_column = reason("def classify_df(df):\n    return df\n");
    assert!(no_column.contains("returned no column CLASSIFICATION"), "{no_column}");
    let no_frame = reason("def classify_df(df):\n    return 7\n");
    assert!(
        no_frame.contains("TypeError: model.classify_df returned a int; it must return a DataFrame"),
        "{no_frame}"
    );
    let shuffled = "def classify_df(df):\n    df['CLASSIFICATION'] = 1\n    return df.iloc[::-1]\n";
    let (results, _) = run(shuffled, "2");
    assert_eq!(
        results.summary.rejects, 0,
        "a single row has only one order, and in the end models get rows one by one"
    );
}

#[test]
fn a_process_that_dies_is_replaced_and_its_last_line_is_reported() {
    let code = "import os, sys\ndef classify_df(df):\n    \
        if '37' in df.index:\n        print('out of luck'); os._exit(3)\n    \
        df['CLASSIFICATION'] = 1\n    return df\n";
    let (results, log) = run(code, "250");
    assert_eq!((results.summary.rows, results.summary.rejects), (250, 1));
    let line = results.rejects.lines().nth(1).unwrap();
    assert!(line.contains("exit status: 3") && line.contains("it last wrote: out of luck"), "{line}");
    assert!(log.contains("python: out of luck"), "{log}");
}

#[test]
fn a_hanging_process_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let code = "import time\ndef classify_df(df):\n    \
        if '3' in df.index:\n        time.sleep(1000)\n    \
        df['CLASSIFICATION'] = 1\n    return df\n";
    let mut cluster = setup(folder.path(), code).args(["--box-timeout", "1", "--chunk-size", "2"]).start();
    cluster.sender(["--lines", "5"]).success();
    let results = cluster.results();
    assert_eq!((results.summary.rows, results.summary.rejects), (5, 1));
    assert!(results.rejects.contains("3,\"the Python process took longer than"));
}

#[test]
fn a_model_that_cannot_start_says_what_to_do() {
    let python = tests::python();
    let said = refused("python:no_such_module", &python, "");
    assert!(said.contains("finds no module 'no_such_module' in "), "{said}");
    assert!(said.contains("give the name of a module in this folder, or set PYTHONPATH"), "{said}");
    let said = refused("python:model", &python, "x = 1\n");
    assert!(said.contains("has no function 'classify_df'"), "{said}");
    let said = refused("python:model", &python, "import no_such_library\n");
    assert!(said.contains("ModuleNotFoundError: No module named 'no_such_library'"), "{said}");
    let said = refused("python:model", &python, "1 / 0\n");
    assert!(said.contains("model.py: ZeroDivisionError: division by zero"), "{said}");
    let said = refused("python:model", Path::new("/no/such/python"), "");
    assert!(
        said.contains("starting the Python interpreter /no/such/python; install Python 3, or choose one"),
        "{said}"
    );
    let said = refused("python:model", Path::new("/bin/false"), "");
    assert!(said.contains("the Python process died (exit status: 1)"), "{said}");
}

#[test]
fn an_interpreter_without_pandas_says_how_to_get_it() {
    let folder = tempfile::tempdir().unwrap();
    // Real Python, without any installed packages.
    let python = folder.path().join("bare-python");
    std::fs::write(&python, format!("#!/bin/sh\nexec {} -S \"$@\"\n", tests::python().display())).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&python, mode).unwrap();
    let said = refused("python:model", &python, "");
    assert!(said.contains("has no pandas") && said.contains("-m pip install pandas"), "{said}");
}

#[test]
fn two_workers_run_two_batches_at_the_same_time() {
    let folder = tempfile::tempdir().unwrap();
    // Each batch waits for the other, so one thread or one interpreter would never finish.
    let code = "import os, time\nhere = os.path.dirname(__file__)\ndef classify_df(df):\n    \
        open(os.path.join(here, 'batch' + df.index[0]), 'w').close()\n    \
        while not all(os.path.exists(os.path.join(here, name)) for name in ('batch0', 'batch100')):\n        \
            time.sleep(0.01)\n    \
        df['CLASSIFICATION'] = 1\n    return df\n";
    let mut cluster = setup(folder.path(), code).start();
    cluster.sender(["--lines", "200"]).success();
    assert_eq!(cluster.results().summary.rejects, 0);
}
