//! The models of `examples/`, with files that were made by their libraries.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Condvar, LazyLock, Mutex};

use tempfile::TempDir;
use tests::PATIENCE;
use tests::cluster::{Setup, read_results};
use tests::program::Program;

/// Rows in a batch of the model that waits for an API.
const BATCH: usize = 10;

/// The examples, and the files that they load.
static FOLDER: LazyLock<TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    for example in std::fs::read_dir(tests::root().join("examples")).unwrap().flatten() {
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

#[test]
fn fitted_models_give_what_their_libraries_give() {
    for (module, object, input) in [
        ("fitted_model", "score", "customers.csv"),
        ("lightgbm_model", "score", "customers.csv"),
        ("xgboost_model", "score", "customers.csv"),
        ("onnx_model", "score", "customers.csv"),
        ("text_model", "topic", "texts.csv"),
    ] {
        let input = FOLDER.path().join(input);
        let out = tempfile::tempdir().unwrap();
        let mut command = tests::xtask();
        command.args(["run-locally", "--no-hub", "--workers", "2", "--input"]).arg(&input).arg("--model");
        command.arg(format!("{}:{object}", FOLDER.path().join(module).with_extension("py").display()));
        command
            .arg("--python")
            .arg(tests::python())
            .arg("--output")
            .arg(out.path())
            .arg("--log")
            .arg(out.path());
        Program::start_command("xtask", out.path(), command).success();
        let results = read_results(&out.path().join("results.csv"));
        assert_eq!((results.summary.rows, results.summary.rejects), (1000, 0), "{module}");
        let chunk = results.summary.terms.unwrap().chunk_size;
        assert!(results.log == expected(&input, module, object, chunk).into_bytes(), "{module}");
    }
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
