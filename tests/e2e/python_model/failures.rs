//! The reported cause of a failure: an exception for a row, the module, or the end of the process.

use super::job::Job;

/// A function that executes a statement for each of these rows, and whose score is its process id.
fn on_rows(cases: &[(usize, &str)]) -> String {
    let mut code = "import asyncio, os, signal, sys, time\nclass Own(BaseException): pass\n\
        def classify_df(df):\n"
        .to_owned();
    for (row, statement) in cases {
        code += &format!("    if '{row}' in df.index:\n        {statement}\n");
    }
    code + "    return df.assign(CLASSIFICATION=os.getpid())\n"
}

#[test]
fn any_exception_becomes_the_rows_reason_and_ends_no_process() {
    let job = Job::new(&on_rows(&[
        (3, "sys.exit('no data for 3')"),
        (5, "sys.exit()"),
        (7, "raise KeyboardInterrupt"),
        (9, "raise asyncio.CancelledError('away')"),
        (11, "raise GeneratorExit"),
        (13, "raise Own('mine')"),
        (15, "os.kill(os.getpid(), signal.SIGINT); time.sleep(1000)"),
        (17, "raise ExceptionGroup('two', [ValueError(1), KeyError(2)])"),
    ]));
    let outcome = job.run(20);
    for (row, reason) in [
        (3, "SystemExit: no data for 3"),
        (5, "SystemExit"),
        (7, "KeyboardInterrupt"),
        (9, "CancelledError: away"),
        (11, "GeneratorExit"),
        (13, "Own: mine"),
        (15, "KeyboardInterrupt"),
        (17, "ExceptionGroup: two (2 sub-exceptions)"),
    ] {
        assert_eq!(outcome.reason(row), reason);
    }
    assert_eq!((outcome.results.len(), outcome.rejects.len()), (12, 8));
    let process = |line: &String| line.rsplit(',').next().unwrap().to_owned();
    let first = process(&outcome.results[0]);
    assert!(outcome.results.iter().all(|line| process(line) == first), "{outcome:?}");
}

#[test]
fn an_error_without_a_text_is_named_by_its_type() {
    let code = "class Raises(Exception):\n    def __str__(self): raise ValueError('never')\n    __repr__ = __str__\n\
        class Exits(Exception):\n    def __str__(self): raise SystemExit(9)\n\
        class NoText(Exception):\n    def __str__(self): return 7\n\
        class Deep(Exception):\n    def __str__(self): return str(self)\n\
        class Text(str):\n    def __radd__(self, other): raise ValueError\n    def encode(self, *a): raise ValueError\n\
        class OddText(Exception):\n    def __str__(self): return Text('said')\n\
        class Odd(type):\n    __name__ = property(lambda self: 1 / 0)\n\
        class OddName(Exception, metaclass=Odd): pass\n\
        ERRORS = [Raises(), Exits(), NoText(), Deep(), OddText(), OddName('named'),\n    \
            type('two\\nlines', (Exception,), {})('text'), ValueError('half \\ud800')]\n\
        def classify_df(df):\n    \
            if int(df.index[0]) < len(ERRORS): raise ERRORS[int(df.index[0])]\n    \
            return df.assign(CLASSIFICATION=1)\n";
    let outcome = Job::new(code).args(["--chunk-size", "1"]).run(10);
    let reasons: Vec<_> = (0..8).map(|row| outcome.reason(row)).collect();
    let expected =
        ["Raises", "Exits", "NoText", "Deep", "OddText: said", "OddName: named", "two\\nlines: text"];
    assert_eq!(reasons[..7], expected);
    assert_eq!(reasons[7], "ValueError: half \\ud800");
    assert_eq!(outcome.results.len(), 2);
}

#[test]
fn an_error_after_the_function_has_returned_rejects_no_row() {
    // The timer fires between requests: the test sends the second row only after that.
    let code = "import os, signal, threading, time\n\
        def late(*_): raise TimeoutError('late')\n\
        signal.signal(signal.SIGALRM, late)\n\
        def classify_df(df):\n    \
            if df.index[0] == '0': threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGALRM)).start()\n    \
            return df.assign(CLASSIFICATION=1)\n";
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = super::setup(folder.path(), code).args(["--chunk-size", "1"]).start();
    let mut client = std::net::TcpStream::connect(&cluster.rows).unwrap();
    let mut send = |row: &[u8]| protocol::frame::write(&mut client, row).unwrap();
    send(b"ID,NAME");
    send(b"0,a");
    cluster.classifiers[0].await_output("TimeoutError: late");
    send(b"1,b");
    send(b"2,c");
    send(&[protocol::frame::EOT]);
    let results = cluster.results();
    assert_eq!((results.summary.rows, results.summary.rejects), (3, 0), "{}", results.rejects);
}

#[test]
fn reasons_say_how_the_process_ended() {
    let job = Job::new(&on_rows(&[
        (1, "print('out of luck'); os._exit(7)"),
        (2, "os.kill(os.getpid(), signal.SIGSEGV)"),
        (3, "os.kill(os.getpid(), signal.SIGKILL)"),
        (4, "os.kill(os.getpid(), signal.SIGTERM); time.sleep(1000)"),
        (5, "os.closerange(3, 100); time.sleep(1000)"),
        (6, "signal.raise_signal(signal.SIGRTMIN); time.sleep(1000)"),
    ]));
    let job = job.args(["--chunk-size", "1"]);
    let outcome = job.run(8);
    let holds = |row: usize, text: &str| {
        let reason = outcome.reason(row);
        assert!(reason.contains(text), "{reason}");
    };
    holds(1, "the Python process died (exit status: 7); it last wrote: out of luck");
    holds(2, "the Python process died (signal: 11 (SIGSEGV)");
    holds(3, "signal: 9 (SIGKILL), as the system does when memory runs out)");
    holds(4, "the Python process died (signal: 15 (SIGTERM))");
    holds(5, "it has closed its connection to the classifier");
    holds(6, "the Python process died (signal: 34");
    assert_eq!(outcome.results.len(), 2);
    job.leaves_nothing();
}

#[test]
fn reasons_and_log_say_why_the_classifier_killed_a_process() {
    let job = Job::new(&on_rows(&[
        (1, "time.sleep(1000)"),
        (2, "eaten = [b'x' * (1 << 20) for _ in range(1 << 20)]"),
        (3, "os.kill(os.getpid(), signal.SIGSTOP)"),
        (4, "signal.signal(signal.SIGTERM, signal.SIG_IGN); os.fork(); time.sleep(1000)"),
    ]));
    // On a slow machine, to take this much memory may take seconds.
    let outcome = job.args(["--chunk-size", "1", "--box-timeout", "10", "--box-memory", "400"]).run(6);
    let late = "the Python process took longer than 10s for this row alone, and was killed; raise --model-timeout, or lower \
                --chunk-size";
    assert_eq!(outcome.reason(1), late);
    let greedy = "the Python process took more than 400 MiB of memory, and was killed; raise --model-memory";
    assert!(outcome.reason(2).starts_with(greedy), "{outcome:?}");
    assert_eq!(outcome.reason(3), "the Python process was stopped, and was killed");
    assert_eq!(outcome.reason(4), late);
    assert!(!outcome.rejects.iter().any(|line| line.contains("signal")), "{outcome:?}");
    for line in [
        "with 1 rows from row 1 on: the Python process took longer than 10s",
        "with 1 rows from row 2 on: the Python process took more than 400 MiB",
        "with 1 rows from row 3 on: the Python process was stopped",
    ] {
        assert_eq!(outcome.said.matches(line).count(), 2, "{line}: {}", outcome.said);
    }
}

#[test]
fn a_forked_process_that_returns_sends_no_second_answer() {
    let job = Job::new(&on_rows(&[
        (1, "os.fork()"),
        (2, "os.fork() or sys.exit('a child')"),
        (3, "os.fork() or 1 / 0"),
        (4, "os.waitpid(os.fork() or sys.exit(0), 0)"),
    ]));
    let outcome = job.args(["--chunk-size", "1"]).run(40);
    assert_eq!((outcome.results.len(), outcome.rejects.len()), (40, 0), "{outcome:?}");
    for (row, line) in outcome.results.iter().enumerate() {
        assert!(line.starts_with(&format!("{row},row{row},")), "{outcome:?}");
    }
}

#[test]
fn a_module_that_exits_at_import_is_reported_with_its_output() {
    let refusal = |code: &str| Job::new(code).refusal();
    let said = refusal("import sys\nprint('the licence has ended')\nsys.exit(3)\n");
    assert!(said.contains("model.py: SystemExit: 3; it last wrote: the licence has ended"), "{said}");
    let said = refusal("import os\nprint('bye')\nos._exit(5)\n");
    assert!(said.contains("the Python process died (exit status: 5); it last wrote: bye"), "{said}");
    let said = refusal("raise KeyboardInterrupt\n");
    assert!(said.contains("model.py: KeyboardInterrupt"), "{said}");
    let said = refusal("import os, signal\nos.kill(os.getpid(), signal.SIGABRT)\n");
    assert!(said.contains("the Python process died (signal: 6 (SIGABRT)"), "{said}");
}

#[test]
fn an_import_error_names_what_is_missing_and_where_the_module_was_found() {
    let refusal = |code: &str| Job::new(code).refusal();
    let said = refusal("import no_such_library\n");
    let found = "/model.py: ModuleNotFoundError: No module named 'no_such_library'; install it with `";
    assert!(said.contains("loading the module 'model' from ") && said.contains(found), "{said}");
    assert!(said.contains("-m pip install no_such_library`"), "{said}");
    let said = refusal("import model.part\n");
    assert!(said.contains("No module named 'model.part'; 'model' is not a package"), "{said}");
    assert!(!said.contains("finds no module"), "{said}");
    let said = refusal("from json import no_such_name\n");
    assert!(said.contains("ImportError: cannot import name 'no_such_name' from 'json' ("), "{said}");
    let job = Job::new("from moto import no_such_name\n").file("moto.py", "");
    let said = job.refusal();
    assert!(said.contains("/moto.py hides the module 'moto' of "), "{said}");
    let job = Job::new("import yaml\nyaml.safe_load('')\n").file("yaml.py", "import yaml\nyaml.load\n");
    let said = job.refusal();
    assert!(said.contains("/yaml.py hides the module 'yaml' of "), "{said}");
    let job = Job::new("").file("parts/__init__.py", "import no_such_library\n").file("parts/a.py", "");
    let said = job.classifier("python:parts.a").refusal();
    assert!(said.contains("No module named 'no_such_library'"), "{said}");
    let job = Job::new("").file("parts/__init__.py", "");
    let said = job.classifier("python:parts.a").refusal();
    assert!(said.contains("finds no module 'parts.a' in "), "{said}");
    let said = Job::new("").classifier("python:model.py").refusal();
    assert!(said.contains("without .py, it is 'model'"), "{said}");
    let said = Job::new("").file("pandas.py", "").args([]).refusal();
    assert!(said.contains("has no function 'classify_df'"), "the real pandas is there: {said}");
}
