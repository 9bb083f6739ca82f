//! What is shipped with a Python model, and that it runs with it.

use tests::cluster::Setup;
use tests::stack::Stack;

#[test]
fn a_pandas_classifier_whose_packages_are_shipped() {
    let Some(stack) = Stack::new("a_pandas_classifier_whose_packages_are_shipped", "3") else { return };
    let example = tests::root().join("examples/pandas_classifier.py");
    std::fs::create_dir(stack.path("models")).unwrap();
    std::fs::copy(example, stack.path("models/pandas_model.py")).unwrap();
    std::fs::copy(tests::root().join("tests/requirements.txt"), stack.path("models/requirements.txt"))
        .unwrap();
    let said = stack.fail("up", &["--hosts", &stack.hosts_file(), "--classifier", "python:models.nothing"]);
    assert!(said.contains("there is no module models.nothing in"), "{said}");
    stack.up(&["--classifier", "python:models.pandas_model"]);
    let said = stack.run("run-cluster", &["INPUT_LINES=3000", "--workers", "1"]);
    let native = Setup::default().run(["--lines", "3000"]);
    assert!(said.contains(&format!("sha256     {}", native.summary.sha256)), "{said}");
    assert!(stack.results() == native.log);

    // Everything beside a module is shipped, and relative paths work.
    let write = |name: &str, text: &str| std::fs::write(stack.path(name), text).unwrap();
    std::fs::create_dir_all(stack.path("job/data")).unwrap();
    write("job/data/rate.txt", "0.25");
    write("job/helper.py", "RATE = float(open('data/rate.txt').read())\n");
    write(
        "job/scored.py",
        "from helper import RATE\n\ndef classify_df(df):\n    print('at the rate', RATE)\n    \
            df['CLASSIFICATION'] = RATE\n    return df\n",
    );
    std::fs::copy(stack.path("models/requirements.txt"), stack.path("job/requirements.txt")).unwrap();
    let said = stack.up(&["--model", "job/scored.py"]);
    assert!(said.contains("4 files of") && said.contains("are shipped with the model"), "{said}");
    let said = stack.up(&["--model", "job/scored.py"]);
    assert!(said.contains("have the application already"), "{said}");
    stack.run("run-cluster", &["INPUT_LINES=30", "--workers", "1"]);
    let results = String::from_utf8(stack.results()).unwrap();
    assert!(
        results.lines().count() == 30 && results.lines().all(|line| line.ends_with(",0.25")),
        "{results}"
    );
    let said = stack.run("logs", &[]);
    assert!(said.contains("rows 0-29 | at the rate 0.25\n"), "{said}");
    let said = stack.fail("up", &["--model", "job/scored.py", "--include", "job/helper.py"]);
    assert!(said.contains("No such file or directory: 'data/rate.txt'"), "{said}");

    // up, not the job, reports a module that cannot be loaded.
    std::fs::write(stack.path("models/broken.py"), "import no_such_package\n").unwrap();
    let said = stack.fail("up", &["--classifier", "python:models.broken"]);
    assert!(said.contains("No module named 'no_such_package'"), "{said}");
    stack.up(&["--classifier", "python:models.pandas_model"]);
    let said = stack.fail("run-cluster", &["--classifier", "python:another"]);
    assert!(said.contains("ship it with: cargo xtask up --model python:another"), "{said}");
    stack.down();
}
