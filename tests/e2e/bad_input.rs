//! Bad input causes a clear error and loses nothing.

use std::process::Command;

use tests::cluster::Setup;
use tests::program::Program;

#[test]
fn bad_rows_are_rejected_and_all_others_classified() {
    let mut cluster = Setup::default().args(["--slowness", "0"]).start();
    let mut csv = b"ID,NAME\n0,ok\n1\n2,too,many\n\n4,\xff\xfe\n5,\"fine, too\"\n".to_vec();
    for i in 6..500 {
        csv.extend_from_slice(format!("{i},row\n").as_bytes());
    }
    std::fs::write(cluster.path("bad.csv"), csv).unwrap();
    cluster.sender([cluster.path("bad.csv").to_str().unwrap()]).success();
    let results = cluster.results();
    assert_eq!((results.summary.rows, results.summary.rejects), (500, 4));
    assert_eq!(
        results.rejects,
        "row,reason,record\n\
         1,1 values; the header has 2,1\n\
         2,3 values; the header has 2,\"2,too,many\"\n\
         3,an empty record,\n\
         4,not UTF-8 after byte 2,\"4,\u{fffd}\u{fffd}\"\n"
    );
    let log = String::from_utf8(results.log).unwrap();
    assert!(log.starts_with("0,ok,0.8894159948913373\n5,\"fine, too\",0.8894159948913373\n6,row,"));
    assert_eq!(log.lines().count(), 496);
    // Rejected records are kept to the byte.
    assert!(std::fs::read(cluster.path("results.rejects.csv")).unwrap().ends_with(b"\"4,\xff\xfe\"\n"));
}

#[test]
fn a_header_only_is_a_job_of_no_rows() {
    for text in ["ID,NAME\n", "ID,NAME", "\u{feff}ID,NAME\r\n"] {
        let mut cluster = Setup::default().start();
        std::fs::write(cluster.path("header.csv"), text).unwrap();
        cluster.sender([cluster.path("header.csv").to_str().unwrap()]).success();
        let results = cluster.results();
        assert_eq!((results.summary.rows, results.summary.batches, results.log.len()), (0, 0, 0));
    }
}

/// Inputs that are obviously not CSV with commas, and what the error says.
const NOT_CSV: [(&[u8], &str); 12] = [
    (b"ID;NAME;PRICE\n1;a;1,50\n", "one column with 2 semicolons"),
    (b"ID;PRICE\n0;0,50\n1;1,50\n", "one column with 1 semicolon"),
    (b"ID\tNAME\tX\n1\ta\tb\n", "one column with 2 tabs"),
    (b"ID|NAME|X\n1|a|b\n", "one column with 2 vertical bars"),
    (b"\x1f\x8b\x08\0\0\0\0\0\0\x03", "it is cut off: its gzip stream has no end after 10 bytes"),
    (b"BZh91AY&SY\x01\x02", "is compressed with bzip2"),
    (b"PK\x03\x04\x14\0\0\0", "is a zip archive"),
    (b"\x28\xb5\x2f\xfd\x24\x10", "is compressed with zstd"),
    (b"PAR1\x15\x04\x15\x10", "is a Parquet file"),
    (b"I\0D\0,\0N\0\n\0", "is UTF-16LE"),
    (b"# made by a tool\nID,NAME\n1,a\n", "is a comment"),
    (b"{\"error\": \"not found\"}\n", "is JSON"),
];

#[test]
fn earlier_results_survive_an_input_that_is_not_csv() {
    let folder = tempfile::tempdir().unwrap();
    let run = |script: &str| {
        let mut command = Command::new("sh");
        let job = "job() { \"$0\" run-locally --output \"$1/out\" --log \"$1/log\" --no-hub --workers 1 --model native \"$@\"; }";
        let job = job.replace("\"$0\"", "\"$XTASK\"").replace("$1", "$FOLDER");
        command
            .env("XTASK", tests::program_path("xtask"))
            .env(tests::PROGRAMS, tests::program_path(""))
            .env("FOLDER", folder.path());
        command.args(["-c", &format!("{job}\ncd \"$FOLDER\"\n{script}")]);
        Program::start_command("sh", folder.path(), command)
    };
    run("job --input-lines 1000").success();
    let results = || {
        ["log", "rejects.csv", "json"]
            .map(|name| std::fs::read(folder.path().join(format!("out/results.{name}"))).unwrap())
    };
    let before = results();
    let refused = |script: &str, what: &str| {
        let said = run(script).failure();
        assert!(said.contains(what), "{what}: {said}");
        assert!(results() == before, "{what}");
        assert_eq!(std::fs::read_dir(folder.path().join("out/jobs")).unwrap().count(), 1, "{what}");
    };
    refused("job --input - < /dev/null", "standard input is empty");
    refused(": | job --input -", "standard input is empty");
    refused("mkfifo pipe; (: > pipe) & job --input pipe", "pipe is empty");
    refused("printf 'ID\\tNAME\\tX\\n1\\ta\\tb\\n' > tabs; cat tabs | job --input -", "seems to have tabs");
    refused("job --input tabs", "seems to have tabs");
    refused("job --input - < tabs", "seems to have tabs");
    refused("gzip -c tabs | job --input -", "seems to have tabs");
    refused("printf '(\\265/\\375' | job --input -", "standard input is compressed with zstd");
    refused("(printf '(\\265/\\375' > pipe) & job --input pipe", "pipe is compressed with zstd");
    // With --delimiter, such a file has a single column.
    let said = run("job --input tabs --delimiter ,").success();
    assert!(said.contains("rows in    1\n"), "{said}");
    let said = run("job --input tabs --delimiter ';'").success();
    assert!(said.contains("is one column with 2 tabs; should it be --delimiter tab?"), "{said}");
    assert!(run("job --input tabs --delimiter ab").exit(2).contains("setting the delimiter to \"ab\""));
}

#[test]
fn an_input_without_a_header_is_refused_before_anything_is_sent() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.csv");
    let refused = |text: &[u8]| {
        std::fs::write(&path, text).unwrap();
        Program::start("sender", folder.path(), ["127.0.0.1:1", path.to_str().unwrap()]).failure()
    };
    assert!(refused(b"").contains("x.csv is empty; the first line must be a CSV header"));
    assert!(refused(b"\n1,2\n").contains("x.csv has no header: its first line is empty"));
    assert!(refused(b"\xff,b\n").contains("x.csv is not UTF-8"));
    assert!(refused(b"A,\"B\n1,2\n").contains("the header of"));
    for (text, what) in NOT_CSV {
        let said = refused(text);
        assert!(said.contains(what), "{what}: {said}");
    }
    assert!(refused(b"A,B\r1,2\r3,4\r").contains("x.csv has a carriage return in it"));
    let said = Program::start("sender", folder.path(), ["127.0.0.1:1", "/no/such/file"]).failure();
    assert!(said.contains("opening the input /no/such/file"), "{said}");
}

/// A CSV, and the expected rejects: row number, reason, and the bad row.
type Damaged = (Vec<u8>, Vec<(usize, &'static str, String)>);

/// A CSV of 3,000 rows, some replaced by these bad ones; each must become one reject.
fn damaged(quoted: bool, bad: Vec<(usize, &'static str, String)>) -> Damaged {
    let quote = if quoted { "\"" } else { "" };
    let mut rows: Vec<_> =
        (0..3000).map(|row| format!("{quote}{row}{quote},{quote}row {row}{quote}")).collect();
    for (row, _, text) in &bad {
        rows[*row].clone_from(text);
    }
    (format!("ID,NAME\n{}\n", rows.join("\n")).into_bytes(), bad)
}

#[test]
fn each_bad_row_is_one_reject_with_any_number_of_workers() {
    let open = "a quoted value is not closed";
    let long = "the row is longer than 16777216 bytes; its first bytes are these";
    let texts = [
        damaged(false, vec![(2990, open, "2990,\"row".into())]),
        damaged(
            true,
            vec![
                (5, open, "\"5\",\"row".into()),
                (6, "1 values", "\"6,\"row\"".into()),
                (2999, open, "9,\"".into()),
            ],
        ),
        damaged(true, vec![(7, open, "7,\"row\"\"".into())]),
        damaged(
            false,
            vec![(100, long, format!("100,{}", "x".repeat(40 << 20))), (101, "1 values", "\x04".into())],
        ),
        damaged(true, vec![(0, long, format!("0,\"{}\"", "y".repeat(17 << 20))), (2999, open, "\"".into())]),
    ];
    for (text, bad) in texts {
        let folder = tempfile::tempdir().unwrap();
        let [input, output] =
            ["in.csv", "out.csv"].map(|name| folder.path().join(name).display().to_string());
        std::fs::write(&input, text).unwrap();
        Program::start("classifier", folder.path(), ["file", &input, &output]).success();
        let log = std::fs::read(&output).unwrap();
        let rejects = std::fs::read_to_string(folder.path().join("out.rejects.csv")).unwrap();
        assert_eq!(log.iter().filter(|&&byte| byte == b'\n').count(), 3000 - bad.len());
        let lines: Vec<_> = rejects.lines().skip(1).collect();
        assert_eq!(lines.len(), bad.len(), "{rejects}");
        for (line, (row, reason, text)) in lines.iter().zip(&bad) {
            let shown = text[..text.len().min(1000)].replace('"', "\"\"");
            assert!(line.starts_with(&format!("{row},")) && line.contains(reason), "{line}");
            assert!(line.trim_end_matches('"').ends_with(shown.trim_end_matches('"')), "{line}");
        }
        for (processes, workers) in [(1, 1), (2, 2)] {
            let results = Setup { processes, workers, ..Setup::default() }.run([&*input]);
            assert!(results.log == log && results.rejects == rejects, "{processes} of {workers}");
            assert_eq!((results.summary.rows, results.summary.rejects), (3000, bad.len() as u64));
        }
    }
}

#[test]
fn a_stray_closing_quote_is_part_of_its_value() {
    let rows = ["0,\"a\"b", "1,\"c\" d", "2,e\"f", "3,\"g\"\"h\"i", "4,\"\"\"j", "5,last"];
    let mut cluster = Setup::default().args(["--slowness", "0"]).start();
    std::fs::write(cluster.path("stdin"), format!("ID,NAME\n{}\n", rows.join("\n"))).unwrap();
    cluster.sender(["-"]).success();
    let results = cluster.results();
    // All but the fifth row, which has an open quote.
    assert_eq!((results.summary.rows, results.summary.rejects), (6, 1));
    assert!(results.rejects.contains("4,a quoted value is not closed,"), "{}", results.rejects);
    let good = rows.iter().filter(|row| !row.starts_with('4'));
    let expected: String = good.map(|row| format!("{row},0.8894159948913373\n")).collect();
    assert_eq!(String::from_utf8(results.log).unwrap(), expected);
}

#[test]
fn a_restarted_sender_finds_the_rows_after_bad_ones() {
    let (text, bad) = damaged(
        true,
        vec![
            (5, "", "5,\"open".into()),
            (6, "", format!("6,{}", "x".repeat(17 << 20))),
            (7, "", "\x04".into()),
        ],
    );
    let mut cluster = Setup::default().args(["--classifier", "sleep:1000", "--chunk-size", "10"]).start();
    let path = cluster.path("in.csv").display().to_string();
    std::fs::write(&path, text).unwrap();
    let args = ["--session", "mine", &path];
    let first = cluster.sender(args);
    tests::eventually("the first results", || {
        std::fs::metadata(cluster.path("results.log")).is_ok_and(|log| log.len() > 0).then_some(())
    });
    // All rows may have arrived already; then the second sender only learns the outcome.
    first.signal("KILL");
    cluster.sender(args).success();
    let results = cluster.results();
    let expected: String = (0..3000)
        .filter(|row| !(5..8).contains(row))
        .map(|row| format!("\"{row}\",\"row {row}\",0.0\n"))
        .collect();
    assert!(results.log == expected.as_bytes());
    assert_eq!(results.summary.rejects, bad.len() as u64);
}

#[test]
fn an_output_that_cannot_be_written_fails_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["--listen", "127.0.0.1:0", "--output", "/no/such/folder/results.log"];
    let said = Program::start("receiver", folder.path(), args).failure();
    assert!(
        said.contains("the folder of the output /no/such/folder/results.log cannot be written"),
        "{said}"
    );
}

#[test]
fn a_full_disk_ends_the_job_with_the_path() {
    let allowed = Command::new("unshare").args(["--map-root-user", "--mount", "true"]).status();
    if !allowed.is_ok_and(|status| status.success()) {
        return tests::skip(
            "a_full_disk_ends_the_job_with_the_path",
            "this user may not mount a small file system",
        );
    }
    // A small file system, mounted only for the receiver.
    let script = r#"mkdir -p "$0" && mount -t tmpfs -o size=1m none "$0" && exec "$@""#;
    let mut cluster = Setup { receiver_in: Some(script), ..Setup::default() }.start();
    let said = cluster.sender(["--lines", "100000"]).failure();
    assert!(said.contains("No space left on device"), "{said}");
    let said = cluster.receiver.failure();
    assert!(said.contains("results.log") && said.contains("No space left on device"), "{said}");
    let said = cluster.classifiers[0].failure();
    assert!(
        said.contains("the receiver ended the job") && said.contains("No space left on device"),
        "{said}"
    );
}

#[test]
fn an_address_in_use_fails_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let said = Program::start("receiver", folder.path(), ["--listen", &address]).failure();
    assert!(
        said.contains(&format!("listening for results at {address}: another program has this port")),
        "{said}"
    );
    let args = ["--cluster-initializer", "--in", &address, "--control", "127.0.0.1:0"];
    let said = Program::start("classifier", folder.path(), args).failure();
    assert!(
        said.contains(&format!("listening for rows at {address}: another program has this port")),
        "{said}"
    );
}

#[test]
fn outputs_never_replace_the_input_or_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("out.rejects.csv"), "A,B\n1,2\n").unwrap();
    let refused = |args: &[String]| Program::start("classifier", folder.path(), args).failure();
    let said = refused(&["file".into(), path("out.rejects.csv"), path("out.csv")]);
    assert!(said.contains("would be replaced by the output"), "{said}");
    let said = refused(&["file".into(), path("out.rejects.csv"), path("out.rejects.csv")]);
    assert!(said.contains("would be replaced by the output"), "{said}");
    assert_eq!(std::fs::read_to_string(path("out.rejects.csv")).unwrap(), "A,B\n1,2\n");
    let args = ["--listen", "127.0.0.1:0", "--output", "results.json"];
    let said = Program::start("receiver", folder.path(), args).failure();
    assert!(said.contains("the results cannot be named results.json"), "{said}");
}

#[test]
fn file_mode_and_the_cluster_refuse_the_same_inputs() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in.csv"), folder.path().join("out.csv"));
    for (text, reason) in [
        (&b"A\xff\n1\n"[..], "is not UTF-8"),
        (b"A\r1\r", "has a carriage return in it"),
        (b"A;B\n1;2\n", "seems to have semicolons"),
        (b"", "is empty"),
        (b"\x28\xb5\x2f\xfd\x24", "is compressed with zstd"),
    ] {
        std::fs::write(&input, text).unwrap();
        let args = ["file", input.to_str().unwrap(), output.to_str().unwrap()];
        let said = Program::start("classifier", folder.path(), args).failure();
        assert!(said.contains(reason), "{said}");
        let mut cluster = Setup::default().start();
        let said = cluster.sender([input.to_str().unwrap()]).failure();
        assert!(said.contains(reason), "{said}");
        assert!(cluster.classifiers[0].is_running());
    }
}

#[test]
fn strict_makes_a_reject_a_failure() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in.csv"), folder.path().join("out.csv"));
    std::fs::write(&input, "A,B\n1,2\n3\n").unwrap();
    let args = ["file", input.to_str().unwrap(), output.to_str().unwrap()];
    Program::start("classifier", folder.path(), args).success();
    assert_eq!(
        std::fs::read_to_string(folder.path().join("out.rejects.csv")).unwrap(),
        "row,reason,record\n1,1 values; the header has 2,3\n"
    );
    Program::start("classifier", folder.path(), args.iter().copied().chain(["--strict"])).failure();
}
