//! Models that get typed columns and return new ones.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use tests::cluster::{Cluster, Results, Setup};
use tests::program::Program;
use tests::{eventually, send_frames};

/// Each object returns its results in another form.
const MODELS: &str = "
import asyncio
import numpy
import pandas

def series(df):
    return (df['age'] * 2).rename('double')

def unnamed(df):
    return df['age'] + df['income']

def named_like_an_input(df):
    return df['income'] * 2

def array(df):
    return df['income'].to_numpy() / 3

def matrix(df):
    return numpy.column_stack([df['age'], df['income'].fillna(0)])

def texts(df):
    return [f'{plan},\"{zip}\"' if zip % 2 else '' for plan, zip in zip(df['plan'], df['zip'])]

def columns(df):
    return {'a, b': df['active'] == True, 'b': df['income'].astype('float32'), 'c': (df['age'] % 7).astype('uint8')}

def frame(df):
    df['score'] = df['age'] / 7
    df['when'] = pandas.to_datetime('2024-01-01 10:00') + pandas.to_timedelta(df['age'], unit='s')
    df['kind'] = pandas.Categorical(df['plan'])
    return df

class Weighted:
    def __init__(self):
        self.weight = 0.1

    def __call__(self, df):
        return df['age'] * self.weight

async def waiting(df):
    await asyncio.sleep(0)
    return df['word'].str.upper()

def types(df):
    return [str(df.dtypes.to_dict())] * len(df)

def values(df):
    return [repr(row) for row in df.itertuples()]

def first(df):
    return [str(df.dtypes.to_dict()) + str(df['id'].iloc[0])] * len(df)

def index(df):
    return [str(df.index.tolist()[:3])] * len(df)

def nothing(df):
    pass

def short(df):
    return df['age'][1:]

def sorted(df):
    return df['age'].sort_values(ascending=False).rename('x')

def sorted_in_order(df):
    return df['age'].rename('x')

def changed(df):
    df['income'] = df['income'].fillna(0)
    df['score'] = 1
    return df

def number(df):
    return 7

class Idle:
    pass
";

fn input(folder: &Path, rows: usize) -> String {
    let mut csv = String::from("id,\"age\",income,plan,zip,active,seen,big,word\n");
    for i in 0..rows {
        let income = if i % 5 == 2 { String::new() } else { format!("{}.{}", i * 37 % 1000, i % 100) };
        let plan = ["basic", "plus", "NA", "\"pro\"", "enterprise"][i * i % 5];
        let seen = ["True", "", "false"][i % 3];
        let word = ["é", "\"a,b\"", "\"say \"\"x\"\"\"", "", " b "][i % 7 % 5];
        let active = i % 4 == 1;
        let big = u64::MAX - i as u64;
        writeln!(
            csv,
            "{i},{},{income},{plan},{:05},{active},{seen},{big},{word}",
            18 + i * 7 % 70,
            i * 7919 % 99_999
        )
        .unwrap();
    }
    let path = folder.join("in.csv");
    std::fs::write(&path, csv).unwrap();
    path.display().to_string()
}

fn setup(folder: &Path, object: &str, chunk: &str) -> Setup {
    let mut setup = Setup::python(folder, MODELS);
    let model = setup.args.iter_mut().find(|arg| *arg == "python:model").unwrap();
    model.push_str(&format!(":{object}"));
    setup.args(["--chunk-size", chunk])
}

fn expected(folder: &Path, input: &str, object: &str, chunk: &str) -> String {
    std::fs::write(folder.join("model.py"), MODELS).unwrap();
    let mut command = Command::new(tests::python());
    command.arg(tests::root().join("tests/python/expect_typed.py"));
    let output = command.arg(input).arg(folder).args(["model", object, chunk]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn run(setup: &Setup, input: &str) -> Results {
    setup.run([input, "--types", "infer"])
}

#[test]
fn new_columns_are_those_that_pandas_prints() {
    let folder = tempfile::tempdir().unwrap();
    let input = input(folder.path(), 100);
    for object in [
        "series",
        "unnamed",
        "named_like_an_input",
        "array",
        "matrix",
        "texts",
        "columns",
        "frame",
        "Weighted",
        "waiting",
        "types",
        "values",
        "index",
    ] {
        let results = run(&setup(folder.path(), object, "30"), &input);
        let found = String::from_utf8(results.log).unwrap();
        assert_eq!(results.rejects, "row,reason,record\n", "{object}");
        assert!(found == expected(folder.path(), &input, object, "30"), "{object} gave:\n{found}");
    }
}

#[test]
fn results_do_not_depend_on_workers_and_the_types_are_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let input = input(folder.path(), 2000);
    let expected = expected(folder.path(), &input, "values", "7");
    for (processes, workers) in [(1, 1), (1, 2), (2, 2)] {
        let setup = Setup { processes, workers, ..setup(folder.path(), "values", "7") };
        let results = run(&setup, &input);
        assert!(results.log == expected.as_bytes(), "{processes} processes of {workers} workers");
        let terms = results.summary.terms.unwrap();
        let types: Vec<_> = terms.types.iter().map(ToString::to_string).collect();
        let wanted =
            ["int64", "int64", "float64", "string", "int64", "bool", "nullable_bool", "uint64", "string"];
        assert_eq!((types, terms.chunk_size), (wanted.map(str::to_owned).to_vec(), 7));
        assert_eq!(results.summary.columns.len(), 10);
    }
}

#[test]
fn a_restarted_receiver_and_cluster_keep_the_types() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let input = input(path, 2000);
    let expected = expected(path, &input, "first", "1000");
    let setup = setup(path, "first", "auto");
    let start = || {
        let log = path.join("results.log").display().to_string();
        let mut receiver =
            Program::start_server("receiver", path, ["--listen", "127.0.0.1:0", "--output", &log]);
        let out = receiver.address("results");
        let own = ["--cluster-initializer", "--in", "127.0.0.1:0", "--control", "127.0.0.1:0", "--out", &out];
        let mut command = Command::new(tests::program_path("classifier"));
        command.args(own).args(&setup.args).env("PYTHONPATH", path);
        let mut classifier = Program::start_server_command("classifier", path, command);
        let rows = classifier.address("rows");
        (receiver, classifier, rows)
    };
    let (mut receiver, mut classifier, rows) = start();
    let text = std::fs::read_to_string(&input).unwrap();
    let frames: Vec<_> = text.lines().take(1001).map(str::as_bytes).collect();
    // A plain client says no types, so its first rows decide them, and the model is not measured; then everything dies.
    let client = send_frames(&rows, &frames);
    eventually("1000 durable rows", || {
        let checkpoint = std::fs::read_to_string(path.join("results.checkpoint")).ok()?;
        checkpoint.contains("\"next_row\":1000,").then_some(())
    });
    receiver.signal("KILL");
    receiver.wait();
    classifier.failure();
    drop(client);
    let (mut receiver, mut classifier, rows) = start();
    // With other types or batches, the model would give other results.
    Program::start("sender", path, [&*rows, &input, "--types", "strings"]).success();
    classifier.success();
    receiver.success();
    assert!(std::fs::read_to_string(path.join("results.log")).unwrap() == expected);
}

#[test]
fn the_batch_size_is_measured_and_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let input = input(folder.path(), 2000);
    let results = run(&setup(folder.path(), "first", "auto"), &input);
    let chunk = results.summary.terms.unwrap().chunk_size;
    // Each of the two workers gets at least four batches.
    assert!([100, 300].contains(&chunk), "{chunk}");
    assert_eq!(results.summary.batches, 2000u64.div_ceil(u64::from(chunk)));
    let expected = expected(folder.path(), &input, "first", &chunk.to_string());
    assert!(results.log == expected.as_bytes());
    let setup = Setup::python(folder.path(), MODELS).args(["--chunk-size", "auto"]);
    let out = folder.path().join("out.csv");
    let mut command = Command::new(tests::program_path("classifier"));
    let refused = command.args(["file", &input]).arg(&out).args(&setup.args).output().unwrap();
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("--chunk-size auto is for models with typed columns"), "{said}");
}

#[test]
fn a_file_gives_the_same_results_as_a_cluster() {
    let folder = tempfile::tempdir().unwrap();
    let input = input(folder.path(), 500);
    let args = setup(folder.path(), "first", "100").args;
    let out = folder.path().join("out.csv");
    let mut command = Command::new(tests::program_path("classifier"));
    command.args(["file", &input]).arg(&out).args(args).env("PYTHONPATH", folder.path());
    Program::start_command("classifier", folder.path(), command).success();
    assert!(std::fs::read_to_string(out).unwrap() == expected(folder.path(), &input, "first", "100"));
}

#[test]
fn plain_clients_and_streams_are_typed_by_their_first_rows() {
    let folder = tempfile::tempdir().unwrap();
    let rows: String = (0..1200).map(|i| format!("{i},{}\n", if i == 1100 { "x" } else { "1.5" })).collect();
    std::fs::write(folder.path().join("in.csv"), format!("A,B\n{rows}")).unwrap();
    let setup = setup(folder.path(), "types", "100");
    let mut cluster = setup.start();
    // Standard input is a file here, but its name is unknown.
    std::fs::copy(folder.path().join("in.csv"), cluster.path("stdin")).unwrap();
    cluster.sender(["-", "--types", "infer"]).success();
    let results = cluster.results();
    assert!(
        results.rejects.contains(
            "1100,\"the value \"\"x\"\" of the column B is not of its type, float64\",\"1100,x\"\n"
        )
    );
    assert_eq!(results.summary.rejects, 1);
}

/// The job's error.
fn failure(cluster: &mut Cluster) -> String {
    cluster.receiver.job_failure()
}

#[test]
fn what_cannot_be_a_column_is_rejected_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let input = input(folder.path(), 20);
    for (object, reason) in [
        ("nothing", "TypeError: model.nothing returned a NoneType; it must return a value for each row"),
        ("short", "ValueError: model.short returned 19 values for 20 rows"),
        ("number", "TypeError: model.number returned a int"),
    ] {
        let mut cluster = setup(folder.path(), object, "20").start();
        let _sender = cluster.sender([&*input, "--types", "infer"]);
        let said = failure(&mut cluster);
        assert!(said.contains("all of the 20 rows were rejected"), "{said}");
        let rejects = std::fs::read_to_string(cluster.path("results.rejects.csv")).unwrap();
        // Rows are tried alone at last.
        let reason = reason.replace("19 values for 20", "0 values for 1");
        assert!(rejects.contains(&reason), "{object}: {rejects}");
    }
    // Only rows with a gap are changed.
    let results = run(&setup(folder.path(), "changed", "20"), &input);
    assert_eq!(results.summary.rejects, 4);
    let reason = "ValueError: model.changed returned the input's column 'income' with other values";
    assert!(results.rejects.contains(reason), "{}", results.rejects);
    // Rows alone cannot be out of order.
    let results = run(&setup(folder.path(), "sorted", "20"), &input);
    assert_eq!(results.log, expected(folder.path(), &input, "sorted_in_order", "20").into_bytes());
}

#[test]
fn values_that_do_not_fit_are_rejected_with_column_value_and_type() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("in.csv"), "age,when\n1,x\ntwo,y\n,z\n4,\n").unwrap();
    let input = folder.path().join("in.csv").display().to_string();
    let setup = setup(folder.path(), "values", "100");
    let results = setup.run([&*input, "--types", "age=int64"]);
    let log = String::from_utf8(results.log).unwrap();
    assert_eq!(
        log,
        "age,when,CLASSIFICATION\n1,x,\"Pandas(Index=0, age=1, when='x')\"\n4,,\"Pandas(Index=1, age=4, when=nan)\"\n"
    );
    assert_eq!(
        results.rejects,
        "row,reason,record\n1,\"the value \"\"two\"\" of the column age is not of its type, int64\",\"two,y\"\n2,\"the value \
         \"\"\"\" of the column age is not of its type, int64\",\",z\"\n"
    );
    let cluster = setup.start();
    let said = cluster.sender([&*input, "--types", "ages=int64"]).failure();
    assert!(
        said.contains("--types names the column \"ages\"") && said.contains("it has age, when"),
        "{said}"
    );
}

#[test]
fn an_object_that_is_no_model_is_refused_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let check = |object: &str| {
        let args = setup(folder.path(), object, "100").args;
        let mut command = Command::new(tests::program_path("classifier"));
        command.arg("check").args(args).env("PYTHONPATH", folder.path());
        String::from_utf8(command.output().unwrap().stderr).unwrap()
    };
    assert!(check("Idle").contains("a Idle; its class needs a method __call__"), "{}", check("Idle"));
    assert!(check("absent").contains("has no function 'absent'"), "{}", check("absent"));
    assert!(check("asyncio").contains("is not a function, but a module"), "{}", check("asyncio"));
}
