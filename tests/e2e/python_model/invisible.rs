//! The user's code sees the environment of a script, and nothing of the runner.

use super::job::Job;

/// A job whose score is the value of an expression in the function, with these lines at the top of the module.
fn sees(lines: &str, expression: &str) -> Job {
    Job::new(&format!(
        "import os, signal, sys\n{lines}\ndef classify_df(df):\n    return df.assign(CLASSIFICATION=repr({expression}))\n"
    ))
}

#[test]
fn the_command_line_is_that_of_a_script_without_arguments() {
    let argparse = "import argparse\nparser = argparse.ArgumentParser()\nparser.add_argument('--depth', type=int, \
        default=3)\nargs = parser.parse_args()";
    assert_eq!(sees(argparse, "args.depth").answer(), "3");
    let job = sees("", "[sys.argv, sys.orig_argv[1:]]");
    let script = job.path("model.py").canonicalize().unwrap().display().to_string();
    assert_eq!(job.answer(), format!("[['{script}'], ['{script}']]"));
    let job = sees("", "1").file("pack/__init__.py", "").file(
        "pack/model.py",
        "import sys\n\
        def f(df): return df.assign(CLASSIFICATION=sys.argv[0])\n",
    );
    let script = job.path("pack/model.py").canonicalize().unwrap().display().to_string();
    assert_eq!(job.classifier("python:pack.model:f").args(["--contract", "2018"]).answer(), script);
}

#[test]
fn the_folder_of_the_module_is_first_in_the_path_and_absolute() {
    let job = sees("", "sys.path[0]");
    let here = job.folder.path().canonicalize().unwrap().display().to_string();
    assert_eq!(job.answer(), format!("'{here}'"));
    let job = sees("os.chdir('elsewhere')", "__import__('late').NAME").file("elsewhere/x", "");
    assert_eq!(job.file("late.py", "NAME = __file__[-7:]\n").answer(), "'late.py'");
    // Each batch begins in the folder in which the module's import ended, so a relative step has the same effect each time.
    let job = sees("os.chdir('a')", "(os.chdir('b'), os.path.basename(os.getcwd()))[1]").file("a/b/x", "");
    let outcome = job.args(["--chunk-size", "1"]).run(4);
    assert!(outcome.results.iter().all(|line| line.ends_with(",'b'")), "{outcome:?}");
    assert_eq!(outcome.results.len(), 4, "{outcome:?}");
}

#[test]
fn a_safe_path_in_the_environment_does_not_hide_the_module() {
    for (name, value) in [("PYTHONSAFEPATH", "1"), ("PYTHONDONTWRITEBYTECODE", "1"), ("PYTHONPATH", "")] {
        let job =
            sees("import helper", "helper.NAME").file("helper.py", "NAME = 'beside'\n").env(name, value);
        assert_eq!(job.answer(), "'beside'", "{name}");
    }
}

#[test]
fn modules_named_like_the_standard_library_do_no_harm() {
    let names = [
        "csv",
        "json",
        "select",
        "struct",
        "signal",
        "traceback",
        "functools",
        "random",
        "queue",
        "code",
        "tempfile",
        "statistics",
    ];
    let mine =
        |job: Job| names.iter().fold(job, |job, name| job.file(&format!("{name}.py"), "NAME = 'mine'\n"));
    let imports = |names: &[&str]| {
        let lines: Vec<_> = names.iter().map(|name| format!("import {name} as my_{name}")).collect();
        let list: Vec<_> = names.iter().map(|name| format!("getattr(my_{name}, 'NAME', None)")).collect();
        (lines.join("\n"), format!("{{{}}}", list.join(", ")))
    };
    let (lines, list) = imports(&names);
    let code = format!(
        "{lines}\ndef classify_df(df):\n    \
            if '3' in df.index: raise ValueError('no 3')\n    \
            return df.assign(CLASSIFICATION=repr({list}), MORE=1.5)\n"
    );
    for path in [".", "/nonexistent"] {
        let outcome = mine(Job::new(&code)).env("PYTHONPATH", path).run(6);
        assert_eq!(outcome.reason(3), "ValueError: no 3");
        assert_eq!(outcome.results.len(), 5, "{outcome:?}");
        assert!(outcome.results.iter().all(|line| line.ends_with(",{'mine'},1.5")), "{outcome:?}");
    }
    // Broken modules that nothing imports.
    let broken = |job: Job| names.iter().fold(job, |job, name| job.file(&format!("{name}.py"), "1 / 0\n"));
    let outcome =
        broken(Job::new("def classify_df(df):\n    df['CLASSIFICATION'] = df['NAME'].str.len() / 2\n"))
            .run(4);
    assert_eq!((outcome.results.len(), outcome.rejects.len()), (4, 0), "{outcome:?}");
}

#[test]
fn the_runner_leaves_no_trace_in_main_or_in_signal_handlers() {
    let names = "[name for name in vars(__import__('__main__')) if not name.startswith('__')]";
    assert_eq!(sees("", names).answer(), "[]");
    assert_eq!(
        sees("", "sys.stdin.read() + str(sys.stdout.fileno()) + str(sys.stderr.fileno())").answer(),
        "'12'"
    );
    assert_eq!(sees("", "signal.getsignal(signal.SIGINT) is signal.default_int_handler").answer(), "True");
}

#[test]
fn hashes_do_not_depend_on_the_hash_seed_of_a_host() {
    let hash = || sees("", "hash('a')");
    let known = hash().answer();
    for seed in ["0", "5", "random"] {
        assert_eq!(hash().env("PYTHONHASHSEED", seed).answer(), known, "{seed}");
    }
}

#[test]
fn a_pool_works_with_every_start_method() {
    for method in ["fork", "spawn", "forkserver"] {
        let job = Job::new(&format!(
            "import multiprocessing\n\
             def double(text):\n    return text * 2\n\
             def classify_df(df):\n    \
                with multiprocessing.get_context('{method}').Pool(2) as pool:\n        \
                    df['CLASSIFICATION'] = pool.map(double, df['NAME'])\n"
        ));
        let outcome = job.run(3);
        assert_eq!(
            outcome.results,
            ["0,row0,row0row0", "1,row1,row1row1", "2,row2,row2row2"],
            "{method}: {outcome:?}"
        );
        job.leaves_nothing();
    }
}

#[test]
fn output_reaches_the_log_up_to_a_limit() {
    let code = "import sys\n\
        def classify_df(df):\n    \
            print('\\ud800' + 'x' * 100)\n    \
            for _ in range(250): print('y' * 99_999)\n    \
            print('the end', file=sys.stderr)\n    \
            return df.assign(CLASSIFICATION=1)\n";
    let outcome = Job::new(code).run(2);
    assert_eq!(outcome.results.len(), 2, "{outcome:?}");
    assert!(outcome.said.contains("\\ud800xxx") && !outcome.said.contains("the end"));
    assert!(outcome.said.len() < (9 << 20) + (1 << 16), "{}", outcome.said.len());
    assert!(
        outcome.said.contains("it has printed 8 MiB; further output of this worker's processes is dropped")
    );
    let last = outcome.said.lines().rev().find(|line| line.contains("bytes of what it printed were dropped"));
    assert!(last.is_some(), "the log does not say how much was dropped");
}
