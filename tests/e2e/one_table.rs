//! Results are one table: all rows have the same columns, printed in the same way, with any batches, workers and receivers.
//! A job whose rows differ fails, and names them.

use std::net::TcpStream;
use std::path::Path;

use protocol::frame::{DEFAULT_LIMIT, FrameReader};
use protocol::handshake::{self, ResultsHello};
use protocol::results::{self, FromReceiver, Identity, ResultBatch, Totals, Welcome};
use tests::PATIENCE;
use tests::cluster::{Results, Setup, read_results};
use tests::program::Program;

/// 40 rows for batches of 10: numbers, one of which is missing, and words.
fn input(folder: &Path) -> String {
    let missing = |i| i == 23;
    let rows = (0..40).map(|i| {
        let number = if missing(i) { String::new() } else { i.to_string() };
        format!("{i},{number},{}\n", ["red", "blue", "green"][i / 10 % 3])
    });
    let path = folder.join("in.csv");
    std::fs::write(&path, format!("ID,N,COLOR\n{}", rows.collect::<String>())).unwrap();
    path.display().to_string()
}

fn setup(folder: &Path, code: &str, workers: usize, processes: usize) -> Setup {
    Setup { workers, processes, ..Setup::python(folder, code) }.args(["--chunk-size", "10"])
}

fn code(body: &str) -> String {
    format!(
        "import numpy as np\nimport pandas as pd\ndef classify_df(df):\n    {}\n",
        body.replace('\n', "\n    ")
    )
}

fn run(body: &str) -> Results {
    let folder = tempfile::tempdir().unwrap();
    setup(folder.path(), &code(body), 2, 1).run([&*input(folder.path())])
}

/// The job's error, which must be the same with any number of workers.
fn failure(body: &str) -> String {
    let failure = |workers, processes| {
        let folder = tempfile::tempdir().unwrap();
        let mut cluster = setup(folder.path(), &code(body), workers, processes).start();
        let mut sender = cluster.sender([&*input(folder.path())]);
        let reason = cluster.receiver.job_failure();
        assert!(!cluster.path("results.json").exists(), "the job is not done");
        // The sender gets the reason too.
        assert_eq!(sender.job_failure(), reason);
        reason
    };
    let said = failure(1, 1);
    assert_eq!(failure(2, 2), said);
    said
}

#[test]
fn differing_columns_fail_the_job_and_are_named_with_their_rows() {
    let ends = "df['CLASSIFICATION'] = 1\nreturn df";
    for (body, rows, found, known) in [
        ("df = df.join(pd.get_dummies(df['COLOR'], dtype=int))\n", "10 to 19", "COLOR, blue", "COLOR, red"),
        ("if '30' in df.index:\n    df['REMARK'] = 'late'\n", "30 to 39", "REMARK, CLASS", "COLOR, CLASS"),
        (
            "df = df[sorted(df, reverse='20' in df.index)]\n",
            "20 to 29",
            "ID, N, COLOR, CLASS",
            "ID, COLOR, N, CLASS",
        ),
        ("df = df.drop(columns='N') if '20' in df.index else df\n", "20 to 29", "ID, COLOR", "ID, N, COLOR"),
    ] {
        let said = failure(&format!("{body}{ends}"));
        assert!(said.starts_with(&format!("the results of rows {rows} do not fit those before")), "{said}");
        let (one, other) = said.split_once("and results before them have").unwrap();
        assert!(one.contains(found) && other.contains(known), "{said}");
    }
}

/// All midnights but one.
const TIMES: &str = "pd.to_datetime('2024-01-01') + pd.to_timedelta([24 * int(i) + (not n) for i, n in zip(df.index, df['N'])], unit='h')";

#[test]
fn differing_kinds_of_values_fail_the_job_and_are_named_with_their_column() {
    for (value, before, now) in [
        ("[int(n) * 2 if n else None for n in df['N']]", "integer", "decimal"),
        ("np.array([n == '7' if n else np.nan for n in df['N']])", "boolean", "decimal"),
        ("pd.Series([float(n or '1e-9') for n in df['N']], df.index).convert_dtypes()", "integer", "decimal"),
        (TIMES, "like 0000-00-00", "like 0000-00-00 00:00:00"),
        (
            "pd.to_timedelta([1 if n else 0.25 for n in df['N']], unit='D')",
            "like 0 days",
            "like 0 days 00:00:00",
        ),
    ] {
        let said = failure(&format!("df['CLASSIFICATION'] = {value}\nreturn df"));
        let wanted = format!(
            "the results of rows 20 to 29 do not fit those before: their column CLASSIFICATION has values of the kind {now}, and \
             before them it has {before}."
        );
        assert!(said.starts_with(&wanted), "{value}: {said}");
        assert!(said.contains("strings where numbers or times may be missing"), "{said}");
    }
}

#[test]
fn a_bad_row_that_changes_how_its_neighbours_are_printed_fails_the_job() {
    let folder = tempfile::tempdir().unwrap();
    // All rows are one batch, which is tried in parts because of the bad row.
    let body = "if '5' in df.index:\n    raise ValueError('5 is bad')\ndf['CLASSIFICATION'] = [int(n) if n else None for n in df['N']]\nreturn df";
    let setup = Setup::python(folder.path(), &code(body)).args(["--chunk-size", "100"]);
    let mut cluster = setup.start();
    let _sender = cluster.sender([&*input(folder.path())]);
    let said = cluster.receiver.failure();
    assert!(said.contains("their column CLASSIFICATION has values of the kind decimal"), "{said}");
}

#[test]
fn values_that_print_the_same_in_any_batch_may_be_mixed() {
    for (value, printed) in [
        // Strings, with none at all in the first batches.
        ("[n if int(i) >= 20 else None for i, n in zip(df.index, df['N'])]", ["", "20", "39"]),
        // Integers with missing values, in pandas's nullable type.
        ("pd.array([int(n) if n else None for n in df['N']], dtype='Int64')", ["0", "20", "39"]),
        // The remedy that the error suggests.
        ("[str(int(n) * 2) if n else '' for n in df['N']]", ["0", "40", "78"]),
        ("pd.Categorical(df['COLOR'])", ["red", "green", "red"]),
        (
            "[int(n) if n and int(i) % 3 else 'none' for i, n in zip(df.index, df['N'])]",
            ["none", "20", "none"],
        ),
    ] {
        let results = run(&format!("df['CLASSIFICATION'] = {value}\nreturn df"));
        assert_eq!((results.summary.rows, results.summary.rejects), (40, 0), "{value}");
        let log = String::from_utf8(results.log).unwrap();
        let last: Vec<_> = log.lines().map(|line| line.rsplit(',').next().unwrap()).collect();
        assert_eq!([last[0], last[20], last[39]], printed, "{value}");
        assert_eq!(results.summary.columns, ["ID", "N", "COLOR", "CLASSIFICATION"]);
    }
}

#[test]
fn the_summary_names_the_columns_of_the_results() {
    let native = Setup::default().run(["--lines", "10"]).summary.columns;
    let expected = ["ID", "SKU", "FLUX", "MANUFACTURER_NAME", "DESCRIPTION", "CLASSIFICATION"];
    assert_eq!(native, expected);
    let python = run("df.insert(0, 'a,b', 1)\ndf['CLASSIFICATION'] = 1\nreturn df").summary.columns;
    assert_eq!(python, ["ID", "a,b", "N", "COLOR", "CLASSIFICATION"]);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("in.csv"), "ID,N\n").unwrap();
    let empty = Setup::default().run([folder.path().join("in.csv").to_str().unwrap()]);
    assert!(empty.summary.columns.is_empty() && empty.summary.rows == 0);
}

/// A receiver, and an initializer's connection to it.
fn receiver(folder: &Path) -> (Program, TcpStream, FrameReader<TcpStream>) {
    let results = folder.join("results.log").display().to_string();
    let mut receiver =
        Program::start_server("receiver", folder, ["--listen", "127.0.0.1:0", "--output", &results]);
    let stream = TcpStream::connect(receiver.address("results")).unwrap();
    handshake::send(&stream, None, &ResultsHello::Initializer { name: "i".into() }).unwrap();
    let mut reader = FrameReader::new(stream.try_clone().unwrap(), "the receiver", DEFAULT_LIMIT);
    let _: Welcome = handshake::await_answer(&mut reader, PATIENCE).unwrap();
    results::write_identity(&stream, &Identity { settings: 1, header: 2 }, None).unwrap();
    (receiver, stream, reader)
}

fn send(stream: &TcpStream, number: u64, columns: &str, results: &[u8]) {
    let schema = format!("[{{\"row\":0,\"schema\":{{\"columns\":{columns}}}}}]").into_bytes();
    let (schema, results) = (schema.as_slice(), results);
    let batch = ResultBatch { number, first_row: number, rows: 1, schema, results, ..ResultBatch::default() };
    results::write_batches(stream, &[batch]).unwrap();
}

fn await_durable(reader: &mut FrameReader<TcpStream>, batches: u64) {
    loop {
        let payload = reader.next_frame_within(PATIENCE).unwrap().unwrap();
        let FromReceiver::Acknowledgement(now) = FromReceiver::decode(payload).unwrap() else { continue };
        if now.next == batches {
            return;
        }
    }
}

#[test]
fn a_restarted_receiver_compares_rows_with_earlier_ones() {
    let (number, decimal) = (r#"[["A",["integer"]]]"#, r#"[["A",["decimal"]]]"#);
    let other = r#"[["A",["integer"]],["B",[]]]"#;
    for (columns, why) in
        [(decimal, "the kind decimal, and before them it has integer"), (other, "they have the columns A, B")]
    {
        let folder = tempfile::tempdir().unwrap();
        let (mut first, stream, mut reader) = receiver(folder.path());
        send(&stream, 0, number, b"1\n");
        await_durable(&mut reader, 1);
        first.signal("KILL");
        first.wait();
        let (mut second, stream, _reader) = receiver(folder.path());
        send(&stream, 1, columns, b"1.0\n");
        let said = second.failure();
        assert!(said.contains("the results of rows 1 to 1 do not fit") && said.contains(why), "{said}");
        assert_eq!(std::fs::read(folder.path().join("results.log")).unwrap(), b"1\n");
    }
}

/// Early results may be much larger than their rows; the receiver's memory stays bounded.
#[test]
fn early_results_that_exceed_memory_are_written_in_order() {
    const BATCHES: u64 = 300;
    let folder = tempfile::tempdir().unwrap();
    let (mut receiver, stream, mut reader) = receiver(folder.path());
    let text = |number: u64| format!("{number:07}\n").repeat(1 << 17).into_bytes();
    for number in 1..BATCHES {
        send(&stream, number, "[[\"A\",[]]]", &text(number));
    }
    // Wait until all but the first have arrived.
    loop {
        let payload = reader.next_frame_within(PATIENCE).unwrap().unwrap();
        let FromReceiver::Acknowledgement(now) = FromReceiver::decode(payload).unwrap() else { continue };
        if now.received.iter().any(|(_, received)| *received == BATCHES - 1) {
            break;
        }
    }
    let (_, most) = tests::memory_kib(receiver.pid()).unwrap();
    assert!(most < 230 << 10, "the receiver had {most} KiB");
    send(&stream, 0, "[[\"A\",[]]]", &text(0));
    results::write_totals(&stream, &Totals { rows: BATCHES, batches: BATCHES }).unwrap();
    while reader.next_frame_within(PATIENCE).is_ok_and(|frame| frame.is_some()) {}
    receiver.success();
    let results = read_results(&folder.path().join("results.log"));
    assert!(results.log == (0..BATCHES).flat_map(text).collect::<Vec<u8>>());
    assert!(!folder.path().join("results.early").exists() && !folder.path().join("results.schema").exists());
}
