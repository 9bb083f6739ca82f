//! The models of `examples/`, with files that were made by their libraries.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Condvar, LazyLock, Mutex};

use tempfile::TempDir;
use tests::PATIENCE;
use tests::cluster::{Results, Setup, read_results};
use tests::program::Program;

/// Rows in a batch of the model that waits for an API.
const BATCH: usize = 10;

/// The examples, and the files that they load.
static FOLDER: LazyLock<TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let examples = std::fs::read_dir(tests::root().join("examples")).unwrap().flatten();
    for example in examples.filter(|example| example.path().is_file()) {
        std::fs::copy(example.path(), folder.path().join(example.file_name())).unwrap();
    }
    let mut make = Command::new(tests::python());
    make.arg(tests::root().join("tests/python/make_models.py")).arg(folder.path());
    let made = make.env("OMP_NUM_THREADS", "1").output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    folder
});

/// The results that pandas would write, for this batch size.
fn expected(input: &Path, module: &str, object: &str, chunk: u32) -> String {
    let mut command = Command::new(tests::python());
    command.arg(tests::root().join("tests/python/expect_typed.py")).arg(input).arg(FOLDER.path());
    command.args([module, object, &chunk.to_string()]).env("OMP_NUM_THREADS", "1");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The results of a job on this machine.
fn results(input: &Path, model: &str, args: &[&str]) -> Results {
    let out = tempfile::tempdir().unwrap();
    let mut command = tests::xtask();
    command.args(["run-locally", "--no-hub", "--model", model, "--input"]).arg(input).args(args);
    command.arg("--python").arg(tests::python()).current_dir(&out);
    command.arg("--output").arg(out.path()).arg("--log").arg(out.path());
    Program::start_command("xtask", out.path(), command).success();
    read_results(&out.path().join("results.csv"))
}

/// Checks the results of a model with 1, 2 and 7 workers, and when a worker's process is killed. Those of trees do not depend on
/// the size of batches.
fn check(module: &str, object: &str, input: &str, is_of_trees: bool) {
    let input = FOLDER.path().join(input);
    let model =
        |module: &str| format!("{}:{object}", FOLDER.path().join(module).with_extension("py").display());
    let first = results(&input, &model(module), &["--workers", "2"]);
    let rows = std::fs::read_to_string(&input).unwrap().lines().count() as u64 - 1;
    assert_eq!((first.summary.rows, first.summary.rejects), (rows, 0), "{module}");
    let chunk = first.summary.terms.unwrap().chunk_size;
    let wanted = expected(&input, module, object, chunk);
    assert!(first.log == wanted.as_bytes(), "{module}");
    if is_of_trees {
        assert!(wanted == expected(&input, module, object, u32::MAX), "{module}");
    }
    let chunk = chunk.to_string();
    for workers in ["1", "7"] {
        let again = results(&input, &model(module), &["--workers", workers, "--chunk-size", &chunk]);
        assert!(again.log == first.log, "{module} with {workers} workers");
    }
    let killed = format!("killed_{module}");
    let code = format!(
        "import os\nfrom {module} import {object} as model\ndef {object}(df):\n    \
            if not os.path.exists('killed'):\n        open('killed', 'w')\n        os.kill(os.getpid(), 9)\n    \
            return model(df)\n"
    );
    std::fs::write(FOLDER.path().join(&killed).with_extension("py"), code).unwrap();
    let again = results(&input, &model(&killed), &["--workers", "2", "--chunk-size", &chunk]);
    assert_eq!(again.summary.rejects, 0, "{module}");
    assert!(again.log == first.log, "{module} with a killed worker");
}

#[test]
fn fitted_models_give_what_their_libraries_give() {
    check("fitted_model", "score", "customers.csv", true);
    check("lightgbm_model", "score", "customers.csv", true);
    check("xgboost_model", "score", "customers.csv", true);
    check("onnx_model", "score", "customers.csv", false);
    check("text_model", "topic", "texts.csv", false);
}

#[test]
fn pipelines_give_what_they_give_in_pandas() {
    check("iris_model", "score", "iris.csv", false);
    check("wine_model", "score", "wine.csv", true);
    check("breast_cancer_model", "score", "breast_cancer.csv", false);
    check("digits_model", "score", "digits.csv", false);
    check("diabetes_model", "score", "diabetes.csv", true);
}

/// Answers each request with its length. Answers nothing before more requests are open than a batch has rows. Returns the
/// address.
fn api() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/", listener.local_addr().unwrap());
    let open = Arc::new((Mutex::new(0), Condvar::new()));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, open) = (stream.unwrap(), Arc::clone(&open));
            std::thread::spawn(move || {
                let (mut request, mut piece) = (Vec::new(), [0; 4096]);
                let body = loop {
                    let read = stream.read(&mut piece).unwrap();
                    request.extend_from_slice(&piece[..read]);
                    let text = String::from_utf8_lossy(&request).into_owned();
                    let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                    let lower = head.to_ascii_lowercase();
                    let length =
                        lower.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
                    if body.len() == length.parse::<usize>().unwrap() {
                        break body.to_owned();
                    }
                };
                let mut requests = open.0.lock().unwrap();
                *requests += 1;
                open.1.notify_all();
                let are_few = |requests: &mut usize| *requests <= BATCH;
                drop(open.1.wait_timeout_while(requests, PATIENCE, are_few).unwrap());
                let answer = body.len().to_string();
                write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{answer}", answer.len())
                    .unwrap();
            });
        }
    });
    address
}

#[test]
fn a_model_that_waits_for_an_api_asks_for_many_rows_at_once() {
    let address = api();
    let folder = tempfile::tempdir().unwrap();
    let rows: String = (0..200).map(|i| format!("{i},{}\n", "x".repeat(i % 7 + 1))).collect();
    std::fs::write(folder.path().join("in.csv"), format!("id,text\n{rows}")).unwrap();
    let code = std::fs::read_to_string(tests::root().join("examples/api_model.py")).unwrap();
    let code = format!("import os\nos.environ['API'] = '{address}'\n{code}");
    let mut setup = Setup { workers: 4, ..Setup::python(folder.path(), &code) };
    setup.args.iter_mut().find(|arg| *arg == "python:model").unwrap().push_str(":answers");
    let input = folder.path().join("in.csv").display().to_string();
    let results = setup.args(["--chunk-size", &BATCH.to_string()]).run([&*input, "--types", "infer"]);
    let answers = String::from_utf8(results.log).unwrap();
    assert!((0..200).all(|i| answers.contains(&format!("\n{i},{},{}\n", "x".repeat(i % 7 + 1), i % 7 + 1))));
}
