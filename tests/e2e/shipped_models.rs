//! What is shipped with a Python model, and that it runs with it.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use tests::cluster::Setup;
use tests::program::Program;
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

/// Writes a package's source, as it would be published, to the folder `dist` in `folder`.
fn write_source(folder: &Path) {
    let package = folder.join("dist/rated-1.0");
    std::fs::create_dir_all(&package).unwrap();
    let write = |name: &str, text: &str| std::fs::write(package.join(name), text).unwrap();
    write("PKG-INFO", "Metadata-Version: 2.1\nName: rated\nVersion: 1.0\n");
    write(
        "setup.py",
        "from setuptools import setup\nsetup(name='rated', version='1.0', py_modules=['rated'])\n",
    );
    write("rated.py", "RATE = 0.75\n");
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(folder.join("dist")).args(["-czf", "rated-1.0.tar.gz", "rated-1.0"]);
    assert!(tar.current_dir(folder.join("dist")).status().unwrap().success());
    std::fs::remove_dir_all(package).unwrap();
}

#[test]
fn packages_that_have_only_their_source_are_built() {
    let Some(stack) = Stack::new("packages_that_have_only_their_source_are_built", "2") else { return };
    let model = "from rated import RATE\ndef f(df):\n    return [RATE] * len(df)\n";
    // A folder for the path that has pip, but not uv.
    std::fs::create_dir(stack.path("bin")).unwrap();
    let script = format!("#!/bin/sh\nexec {} \"$@\"\n", tests::python().display());
    std::fs::write(stack.path("bin/python3"), script).unwrap();
    std::fs::set_permissions(stack.path("bin/python3"), Permissions::from_mode(0o755)).unwrap();
    let only_pip = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", stack.path("bin").display());
    for (name, path) in [("uv", None), ("pip", Some(only_pip))] {
        let folder = stack.path(name);
        write_source(&folder);
        std::fs::write(folder.join("scored.py"), model).unwrap();
        // Another list for each, or it would be known.
        let list = format!("# For {name}\n--find-links dist\npandas==2.3.3\nrated==1.0\n");
        std::fs::write(folder.join("requirements.txt"), list).unwrap();
        let module = format!("{name}/scored.py:f");
        let mut up = stack.command("up", &["--hosts", &stack.hosts_file(), "--model", &module]);
        up.envs(path.as_ref().map(|path| ("PATH", path)));
        Program::start_command("up", &stack.path(""), up).success();
        stack.run("run-cluster", &["INPUT_LINES=30", "--workers", "1"]);
        stack.run("get-results", &["--output", stack.path("out").to_str().unwrap()]);
        let results = std::fs::read_to_string(stack.path("out/results.csv")).unwrap();
        assert!(
            results.lines().count() == 31 && results.lines().skip(1).all(|line| line.ends_with(",0.75")),
            "{results}"
        );
    }
    // What is not published at all is an error of the program that looked for it.
    std::fs::write(stack.path("uv/requirements.txt"), "no-such-package-anywhere==1.0\n").unwrap();
    let said = stack.fail("up", &["--hosts", &stack.hosts_file(), "--model", "uv/scored.py:f"]);
    assert!(
        said.contains("uv failed to resolve packages") && said.contains("no-such-package-anywhere"),
        "{said}"
    );
    stack.down();
}
