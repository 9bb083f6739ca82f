//! The output depends only on the input, and not on workers, processes or the source of the rows.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use tests::cluster::{Results, Setup};
use tests::program::Program;

/// A CSV with everything that RFC 4180 allows: quoted commas, quotes, both kinds of line ends, UTF-8, empty values.
fn nasty_csv(rows: usize) -> String {
    let mut csv = String::from("\u{feff}ID,NAME,\"SAY, \"\"WHAT\"\"\",NOTE\r\n");
    for i in 0..rows {
        let name = ["plain", "\"Smith, Jones & Söhne\"", "\"5\"\" pipe\"", "6\" pipe", "", "日本語"][i % 6];
        let note = ["x", "\"two\r\nlines\"", "\"three\n\n\"\"lines\"\"\"", "\"\"", "é"][i % 5];
        let end = ["\r\n", "\n", "\r\n"][i % 3];
        write!(csv, "{i},{name},\"{}\",{note}{end}", i * 7919 % 1000).unwrap();
    }
    csv.truncate(csv.trim_end().len());
    csv
}

/// The results of the same model over a file, in one thread and without a network.
fn from_file(csv: &Path, folder: &Path) -> Vec<u8> {
    let out = folder.join("file.csv");
    let args = [Path::new("file").as_os_str(), csv.as_os_str(), out.as_os_str()];
    Program::start("classifier", folder, args).success();
    std::fs::read(out).unwrap()
}

#[test]
fn results_do_not_depend_on_workers_or_processes() {
    let folder = tempfile::tempdir().unwrap();
    let csv = folder.path().join("nasty.csv");
    let rows = 20_011;
    std::fs::write(&csv, nasty_csv(rows)).unwrap();
    let expected = from_file(&csv, folder.path());
    assert!(expected.len() > 800_000, "{} bytes", expected.len());
    for (processes, workers) in [(1, 1), (1, 2), (1, 7), (3, 1), (3, 2)] {
        let setup = Setup { processes, workers, ..Setup::default() };
        let results: Results = setup.run([csv.to_str().unwrap()]);
        assert!(results.log == expected, "{processes} processes of {workers} workers gave other results");
        assert_eq!((results.summary.rows, results.summary.rejects), (rows as u64, 0));
        assert_eq!(results.rejects, "row,reason,record\n");
        assert_eq!(results.summary.bytes, expected.len() as u64);
        assert_eq!(results.summary.batches, 201);
    }
}

#[test]
fn other_chunk_sizes_give_the_same_results() {
    let results = |size: &str| Setup::default().args(["--chunk-size", size]).run(["--lines", "2500"]).log;
    let expected = results("100");
    assert!(results("1") == expected);
    assert!(results("999") == expected);
    assert!(results("100000") == expected);
}

#[test]
fn fake_rows_and_the_csv_made_of_them_give_the_same_results() {
    let folder = tempfile::tempdir().unwrap();
    let csv = folder.path().join("fake.csv");
    let mut sender = Program::start("sender", folder.path(), ["--stdout", "--lines", "5000", "--seed", "3"]);
    std::fs::write(&csv, sender.success()).unwrap();
    let live = Setup::default().run(["--lines", "5000", "--seed", "3"]);
    assert!(live.log == from_file(&csv, folder.path()));
    assert!(live.log != Setup::default().run(["--lines", "5000", "--seed", "4"]).log);
}

#[test]
fn standard_input_is_a_source() {
    let mut cluster = Setup::default().start();
    std::fs::write(cluster.path("stdin"), "A,B\n1,x\n2,\"y\nz\"\n").unwrap();
    cluster.sender(["-"]).success();
    let results = cluster.results();
    assert_eq!(results.summary.rows, 2);
}

#[test]
fn standard_input_is_sent_as_it_comes() {
    let mut cluster = Setup::default().args(["--chunk-size", "1", "--slowness", "0"]).start();
    let mut command = Command::new(tests::program_path("sender"));
    let mut sender = command.arg(&cluster.rows).arg("-").stdin(std::process::Stdio::piped()).spawn().unwrap();
    let mut rows = sender.stdin.take().unwrap();
    for i in 0..3 {
        // The next row is written only when this one has a result.
        let line = if i == 0 { "ID\n0\n".to_owned() } else { format!("{i}\n") };
        std::io::Write::write_all(&mut rows, line.as_bytes()).unwrap();
        tests::eventually("the row", || {
            let log = std::fs::read_to_string(cluster.path("results.log")).ok()?;
            (log.lines().count() == i + 1).then_some(())
        });
    }
    drop(rows);
    assert!(sender.wait().unwrap().success());
    assert_eq!(cluster.results().summary.rows, 3);
}

/// An independent implementation computes the scores and the SHA-256 in results.json.
#[test]
fn python_computes_the_same_scores() {
    let mut cluster = Setup::default().start();
    std::fs::write(cluster.path("nasty.csv"), nasty_csv(30_000)).unwrap();
    cluster.sender([cluster.path("nasty.csv").to_str().unwrap()]).success();
    let results = cluster.results();
    let mut check = Command::new("python3");
    check.arg(tests::root().join("tests/python/check_native.py"));
    check.args([cluster.path("nasty.csv"), cluster.path("results.log")]).arg(&results.summary.sha256);
    let said = Program::start_command("check", cluster.folder.path(), check).success();
    assert_eq!(said, "30000 rows agree\n");
}
