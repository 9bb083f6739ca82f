//! Inputs that are no plain CSV with commas give the results of the CSV that they stand for, and results in other forms have the
//! same values as plain ones. Files are made and read by pandas, pyarrow and zstandard.

use std::path::Path;
use std::process::Command;

use tests::program::Program;
use tests::stack::Stack;

/// Makes a table of 30,000 rows: as a CSV, and in the formats that are named.
const MAKE: &str = r#"
import numpy, pandas, pyarrow, pyarrow.parquet, zstandard
n = 30000
random = numpy.random.default_rng(1)
df = pandas.DataFrame({
    "id": numpy.arange(n),
    "amount": random.normal(size=n).round(3),
    "count": pandas.array(random.integers(-9, 9, n), dtype="Int64"),
    "flag": random.integers(0, 2, n) == 1,
    "text": random.choice(["plain", "é, with a comma", 'a "quote"', "two\nlines", "00012"], n),
    "day": pandas.to_datetime("2024-02-28") + pandas.to_timedelta(random.integers(0, 10000, n), unit="s"),
})
df.loc[::7, "count"] = None
df.loc[::11, "amount"] = None
df.to_csv("in.csv", index=False)
open("in.csv.zst", "wb").write(zstandard.ZstdCompressor(write_checksum=True).compress(open("in.csv", "rb").read()))
df.to_csv("semicolons.csv", index=False, sep=";", quotechar="'")
df.to_csv("latin.csv", index=False, encoding="windows-1252")
df.to_csv("wide.csv", index=False, encoding="utf-16", sep="\t")
for name, options in {
    "snappy": {}, "zstd": {"compression": "zstd", "row_group_size": 1000, "write_page_checksum": True}, "gzip": {"compression": "gzip", "use_dictionary": False},
    "v2": {"data_page_version": "2.0", "compression": "none", "data_page_size": 5000},
}.items():
    pyarrow.parquet.write_table(pyarrow.Table.from_pandas(df, preserve_index=False), name + ".parquet", **options)
"#;

/// Checks types, and returns columns of all kinds.
const MODEL: &str = r#"
import pandas
def f(df):
    return {"types": [" ".join(str(t) for t in df.dtypes)] * len(df), "twice": df["amount"] * 2, "next": df["id"] + 1,
        "both": df["flag"] & (df["id"] % 2 == 0), "length": df["text"].str.len(), "code": df["text"].where(df["flag"], "00")}
"#;

/// Prints a hash of the values of a results file, and the types of its columns.
const READ: &str = r#"
import sys, pandas
name = sys.argv[1]
if name.endswith(".parquet"):
    df = pandas.read_parquet(name)
    print(" ".join(str(t) for t in df.dtypes), file=sys.stderr)
else:
    df = pandas.read_csv(name, keep_default_na=False, na_values=[""], dtype={"text": str, "code": str})
df["count"] = df["count"].astype("float64")
print(len(df), hash(df.to_csv(index=False)))
"#;

fn python(folder: &Path, script: &str, args: &[&str]) -> (String, String) {
    let mut command = Command::new(tests::python());
    command.args(["-c", script]).args(args).current_dir(folder).env("PYTHONHASHSEED", "0");
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{err}");
    (out, err)
}

fn job(folder: &Path, input: &str, options: &[&str]) -> Program {
    let xtask = "exec \"$XTASK\" run-locally --no-hub --output out --log log --python \"$PYTHON\" --input";
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{xtask} {input} {}", options.join(" "))]).current_dir(folder);
    command.env("XTASK", tests::program_path("xtask")).env(tests::PROGRAMS, tests::program_path(""));
    command.env("PYTHON", tests::python());
    Program::start_command("sh", folder, command)
}

fn made() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    python(folder.path(), MAKE, &[]);
    std::fs::create_dir(folder.path().join("model")).unwrap();
    std::fs::write(folder.path().join("model/model.py"), MODEL).unwrap();
    folder
}

const TYPED: [&str; 4] = ["--model", "model/model.py:f", "--chunk-size", "1000"];

#[test]
fn texts_of_other_kinds_give_the_results_of_the_plain_csv() {
    let folder = made();
    job(folder.path(), "in.csv", &TYPED).success();
    let read = || std::fs::read_to_string(folder.path().join("out/results.csv")).unwrap();
    let expected = read();
    let semicolons = r#"--delimiter ';' --quote "'""#;
    for (input, options) in [
        ("in.csv.zst", ""),
        ("semicolons.csv", semicolons),
        ("latin.csv", "--encoding windows-1252"),
        ("wide.csv", "--encoding utf-16 --delimiter tab"),
        // A stream; its first rows have all kinds of values.
        ("- < latin.csv", "--encoding windows-1252"),
        ("- < in.csv.zst", "--encoding utf-8"),
        ("- < semicolons.csv", semicolons),
    ] {
        let said = job(folder.path(), input, &[&TYPED[..], &[options]].concat()).success();
        assert!(said.contains("rows out   30,000"), "{input}: {said}");
        assert!(read() == expected, "{input}");
    }
    // Comments are no rows; several files have one dialect.
    let lines: Vec<_> = expected.lines().collect();
    let (header, rows) = lines.split_first().unwrap();
    std::fs::create_dir(folder.path().join("parts")).unwrap();
    let simple: Vec<_> = rows.iter().filter(|line| !line.contains('"')).take(20).collect();
    for (part, rows) in simple.chunks(10).enumerate() {
        let rows: String = rows.iter().map(|row| format!("# a, comment\n{row}\n")).collect();
        let text = format!("# made by a test\n{header}\n{rows}").replace(',', "|");
        std::fs::write(folder.path().join(format!("parts/{part}.csv")), text).unwrap();
    }
    let options = ["--model", "native", "--delimiter", "'|'", "--comment", "'#'"];
    let said = job(folder.path(), "parts", &options).success();
    assert!(said.contains("rows out   20") && said.contains("rejected   0"), "{said}");
}

#[test]
fn a_row_that_is_not_in_the_encoding_is_a_reject() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("in.csv"),
        b"id;name\n1;\x82\xa0\n2;\x82\x20\n3;a,\"b\n4;\"open\n5;c\n",
    )
    .unwrap();
    let options = ["--model", "native", "--encoding", "shift_jis", "--delimiter", "';'"];
    let said = job(folder.path(), "in.csv", &options).success();
    assert!(said.contains("rows out   3") && said.contains("not UTF-8 after byte 2"), "{said}");
    let results = std::fs::read_to_string(folder.path().join("out/results.log")).unwrap();
    assert!(results.starts_with("1,あ,") && results.contains("\n3,\"a,\"\"b\","), "{results}");
    let said = job(folder.path(), "in.csv", &["--model", "native", "--encoding", "klingon"]).exit(3);
    assert!(said.contains("in.csv: the encoding \"klingon\" is unknown; there are those of"), "{said}");
    let said = job(folder.path(), "in.csv", &["--model", "native", "--delimiter", "ab"]).exit(2);
    assert!(said.contains("setting the delimiter to \"ab\""), "{said}");
}

#[test]
fn parquet_files_give_the_results_of_the_plain_csv_with_their_own_types() {
    let folder = made();
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    // Pandas reads the text column of the CSV as strings, too.
    job(folder.path(), "in.csv", &TYPED).success();
    let expected = read("out/results.csv");
    for input in ["snappy.parquet", "zstd.parquet", "gzip.parquet", "v2.parquet"] {
        let said = job(folder.path(), input, &TYPED).success();
        assert!(said.contains("rows out   30,000"), "{input}: {said}");
        assert!(read("out/results.csv") == expected, "{input}");
    }
    std::fs::create_dir(folder.path().join("parts")).unwrap();
    let split = "import pandas; df = pandas.read_parquet('v2.parquet'); \
                 [df[i * 10000:(i + 1) * 10000].to_parquet(f'parts/{i}.parquet', index=False) for i in range(3)]";
    python(folder.path(), split, &[]);
    job(folder.path(), "parts", &TYPED).success();
    assert!(read("out/results.csv") == expected);
    std::fs::copy(folder.path().join("in.csv"), folder.path().join("parts/3.csv")).unwrap();
    let said = job(folder.path(), "parts", &TYPED).exit(3);
    assert!(said.contains("parts/0.parquet is a Parquet file, and parts/3.csv is a text"), "{said}");
    // A text column of digits stays one.
    let codes =
        "import pandas; pandas.DataFrame({'code': ['007', '1', 'NA', 'x,y']}).to_parquet('codes.parquet')";
    python(folder.path(), codes, &[]);
    std::fs::write(folder.path().join("model/codes.py"), "def f(df):\n    return df['code'].str.len()\n")
        .unwrap();
    job(folder.path(), "codes.parquet", &["--model", "model/codes.py:f"]).success();
    assert_eq!(read("out/results.csv"), "code,CLASSIFICATION\n007,3\n1,1\nNA,2\n\"x,y\",3\n");
}

#[test]
fn broken_files_are_errors_that_name_the_place() {
    let folder = made();
    let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    let native = ["--model", "native"];
    let zstd = read("in.csv.zst");
    write("broken", &zstd[..zstd.len() - 100]);
    let said = job(folder.path(), "broken", &native).exit(1);
    let place = zstd.len() - 100;
    let reason = format!("reading broken: it is cut off: its zstd stream has no end after {place} bytes");
    assert!(said.contains(&reason), "{said}");
    let mut damaged = zstd.clone();
    damaged[zstd.len() / 2] ^= 0x55;
    write("broken", &damaged);
    let said = job(folder.path(), "broken", &native).exit(1);
    assert!(said.contains("reading broken: it is damaged, at or before byte "), "{said}");
    // The middle of a Parquet file has pages, and the end its footer.
    let parquet = read("zstd.parquet");
    let mut damaged = parquet.clone();
    let middle = parquet.len() / 2;
    damaged[middle..middle + 500].iter_mut().for_each(|byte| *byte ^= 0x55);
    write("broken", &damaged);
    let said = job(folder.path(), "broken", &native).exit(1);
    assert!(said.contains("reading broken: ") && said.contains("row group"), "{said}");
    write("broken", &parquet[..parquet.len() - 100]);
    let said = job(folder.path(), "broken", &native).exit(3);
    assert!(said.contains("reading broken: "), "{said}");
    // What is whole again is read again.
    write("broken", &parquet);
    job(folder.path(), "broken", &native).success();
}

#[test]
fn results_have_the_same_values_in_each_form() {
    let folder = made();
    let path = |name: &str| folder.path().join("out").join(name);
    let with = |options: &[&str]| job(folder.path(), "in.csv", &[&TYPED[..], options].concat()).success();
    with(&[]);
    let (expected, _) = python(folder.path(), READ, &["out/results.csv"]);
    assert!(expected.starts_with("30000 "), "{expected}");
    for (form, name) in [("gz", "results.csv.gz"), ("zst", "results.csv.zst"), ("parquet", "results.parquet")]
    {
        let said = with(&["--format", form, "--workers", "1"]);
        assert!(said.contains(&format!("results    out/{name} (")), "{said}");
        assert!(path(name).exists() && !path("results.csv").exists(), "{form}");
        let one = std::fs::read(path(name)).unwrap();
        with(&["--format", form, "--workers", "4", "--again"]);
        assert!(std::fs::read(path(name)).unwrap() == one, "{form}");
        let (found, types) = python(folder.path(), READ, &[&format!("out/{name}")]);
        assert_eq!(found, expected, "{form}");
        if form == "parquet" {
            let types: Vec<_> = types.split(' ').collect();
            let expected = [
                "int64", "float64", "float64", "bool", "object", "object", "object", "float64", "int64",
                "bool", "int64", "object",
            ];
            assert_eq!(types, expected);
        }
        assert!(with(&["--format", form]).contains("already done: "));
        // The plain file is gone, and so are all other parts of the job.
        let names = std::fs::read_dir(path("latest")).unwrap().map(|file| file.unwrap().file_name());
        let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
        names.sort_unstable();
        let rejects = name.replace("results", "results.rejects");
        let mut expected = ["job.json", name, "results.json", &rejects];
        expected.sort_unstable();
        assert_eq!(names, expected);
    }
}

#[test]
fn a_job_that_is_killed_exports_the_same_bytes() {
    let folder = made();
    let slow = "import time\ndef f(df):\n    time.sleep(0.05)\n    return df['id'] + 1\n";
    std::fs::write(folder.path().join("model/model.py"), slow).unwrap();
    let options = ["--model", "model/model.py:f", "--chunk-size", "300", "--format", "parquet"];
    job(folder.path(), "in.csv", &options).success();
    let read = || std::fs::read(folder.path().join("out/results.parquet")).unwrap();
    let expected = read();
    let again = [&options[..], &["--again"]].concat();
    let mut killed = job(folder.path(), "in.csv", &again);
    let jobs = folder.path().join("out/jobs");
    tests::eventually("results are durable", || {
        let jobs = std::fs::read_dir(&jobs).unwrap().map(|job| job.unwrap().path());
        let mut unfinished = jobs.filter(|job| !job.join("results.json").exists());
        unfinished.find(|job| job.join("results.csv").metadata().is_ok_and(|found| found.len() > 100_000))
    });
    killed.signal("KILL");
    killed.wait();
    let said = job(folder.path(), "in.csv", &options).success();
    assert!(read() == expected, "{said}");
}

#[test]
fn results_may_have_only_the_new_columns() {
    let folder = made();
    let model = "def f(df):\n    return {'twice': df['amount'] * 2, 'long': df['text'].str.len() > 5}\n";
    std::fs::write(folder.path().join("model/model.py"), model).unwrap();
    job(folder.path(), "in.csv", &[&TYPED[..], &["--columns", "new"]].concat()).success();
    let results = std::fs::read_to_string(folder.path().join("out/results.csv")).unwrap();
    let (header, rows) = results.split_once('\n').unwrap();
    assert_eq!(header, "id,twice,long");
    assert_eq!(rows.lines().count(), 30_000);
    assert!(rows.lines().enumerate().all(|(i, row)| row.starts_with(&format!("{i},"))));
    job(folder.path(), "in.csv", &[&TYPED[..], &["--columns", "new", "--format", "parquet"]].concat())
        .success();
    let types = "import pandas; print(*pandas.read_parquet('out/results.parquet').dtypes)";
    assert_eq!(python(folder.path(), types, &[]).0, "int64 float64 bool");
    let said = job(folder.path(), "in.csv", &["--model", "native", "--columns", "new"]).exit(3);
    assert!(said.contains("--columns new is for a Python model with typed columns"), "{said}");
}

#[test]
fn hosts_read_what_is_no_plain_csv() {
    let Some(stack) = Stack::new("hosts_read_what_is_no_plain_csv", "2") else { return };
    let make = "
import pandas, zstandard
df = pandas.DataFrame({'id': range(1000), 'name': ['é;x', 'plain'] * 500})
df.to_csv('plain.csv', index=False)
df.to_parquet('in.parquet', index=False)
text = df.to_csv(index=False, sep=';').encode('windows-1252')
open('in.csv.zst', 'wb').write(zstandard.compress(text))
";
    python(&stack.path(""), make, &[]);
    stack.up(&[]);
    stack.run("run-cluster", &["--input", "plain.csv", "--model", "native"]);
    let expected = stack.results();
    for (input, options) in
        [("in.parquet", &[][..]), ("in.csv.zst", &["--delimiter", ";", "--encoding", "windows-1252"])]
    {
        let words = [&["--input", input, "--model", "native"], options].concat();
        let said = stack.run("run-cluster", &words);
        assert!(
            said.contains(&format!("rows from {input}, on ")) && said.contains("rows out   1,000"),
            "{said}"
        );
        assert!(stack.results() == expected, "{input}");
    }
    stack.down();
}
