//! Compressed inputs, and several files, give the same results as one plain file.

use std::path::Path;
use std::process::Command;

use tests::program::Program;

const ROWS: usize = 50_000;

/// Compresses a file, and leaves it where it is.
fn gzip(path: &Path) {
    let compressed = Command::new("gzip").arg("--keep").arg("--force").arg(path).status().unwrap();
    assert!(compressed.success());
}

fn job(folder: &Path, input: &str, model: &[&str]) -> Program {
    let mut command = Command::new("sh");
    let xtask = "\"$XTASK\" run-locally --no-hub --output out --log log --python \"$PYTHON\" --input";
    command.args(["-c", &format!("{xtask} {input} {}", model.join(" "))]).current_dir(folder);
    command.env("XTASK", tests::program_path("xtask")).env(tests::PROGRAMS, tests::program_path(""));
    command.env("PYTHON", tests::python());
    Program::start_command("sh", folder, command)
}

#[test]
fn a_gzip_file_gives_the_results_of_the_plain_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let rows: String = (0..ROWS).map(|row| format!("{row},{}.5,\"a\nb\"\n", row % 7)).collect();
    std::fs::write(path("in.csv"), format!("id,x,text\n{rows}")).unwrap();
    gzip(&path("in.csv"));
    std::fs::create_dir(path("model")).unwrap();
    std::fs::write(path("model/model.py"), "def f(df):\n    return df['x'] * df['id']\n").unwrap();
    let typed = ["--model", "model/model.py:f", "--chunk-size", "1000"];
    for (model, results) in [(&typed[..], "results.csv"), (&["--model", "native"], "results.log")] {
        job(folder.path(), "in.csv", model).success();
        let expected = std::fs::read(path("out").join(results)).unwrap();
        for input in ["in.csv.gz", "- < in.csv.gz"] {
            let said = job(folder.path(), input, model).success();
            assert!(said.contains("rows out   50,000"), "{said}");
            assert!(std::fs::read(path("out").join(results)).unwrap() == expected, "{input}");
        }
    }
}

#[test]
fn a_broken_gzip_file_is_an_error_that_names_the_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let rows: String = (0..ROWS).map(|row| format!("{row},{}\n", row * row)).collect();
    std::fs::write(path("in.csv"), format!("id,x\n{rows}")).unwrap();
    gzip(&path("in.csv"));
    let whole = std::fs::read(path("in.csv.gz")).unwrap();
    std::fs::write(path("in.csv.gz"), &whole[..whole.len() - 100]).unwrap();
    let said = job(folder.path(), "in.csv.gz", &["--model", "native"]).exit(1);
    let place = whole.len() - 100;
    let reason = format!("reading in.csv.gz: it is cut off: its gzip stream has no end after {place} bytes");
    assert!(said.contains(&reason), "{said}");
    let mut damaged = whole;
    let checksum = damaged.len() - 8;
    damaged[checksum] ^= 1;
    std::fs::write(path("in.csv.gz"), damaged).unwrap();
    let said = job(folder.path(), "in.csv.gz", &["--model", "native"]).exit(1);
    assert!(said.contains("reading in.csv.gz: it is damaged, at or before byte "), "{said}");
    // The types of columns need the whole file before any row is classified.
    std::fs::write(path("model.py"), "def f(df):\n    return df['x']\n").unwrap();
    let said = job(folder.path(), "in.csv.gz", &["--model", "model.py:f"]).exit(3);
    assert!(said.contains("reading in.csv.gz: it is damaged"), "{said}");
}

#[test]
fn several_files_are_one_input() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::create_dir(path("parts")).unwrap();
    let mut all = String::from("id,x\n");
    for part in 0..12 {
        let rows: String = (0..1000).map(|row| format!("{},{}\n", part * 1000 + row, row % 3)).collect();
        std::fs::write(path(&format!("parts/{part}.csv")), format!("id,x\n{}", rows.trim_end())).unwrap();
        all.push_str(&rows);
    }
    gzip(&path("parts/3.csv"));
    std::fs::remove_file(path("parts/3.csv")).unwrap();
    std::fs::write(path("parts/_SUCCESS"), "").unwrap();
    std::fs::write(path("all.csv"), &all).unwrap();
    std::fs::create_dir(path("model")).unwrap();
    std::fs::write(path("model/model.py"), "def f(df):\n    return df['x'] * df['id']\n").unwrap();
    let model = ["--model", "model/model.py:f", "--chunk-size", "700"];
    job(folder.path(), "all.csv", &model).success();
    let expected = std::fs::read(path("out/results.csv")).unwrap();
    let words =
        "parts/0.csv parts/1.csv parts/2.csv parts/3.csv.gz --input 'parts/[4-9].csv' --input 'parts/1?.csv'";
    for input in ["parts", "'parts/*.csv*'", words] {
        let said = job(folder.path(), input, &[&model[..], &["--again"]].concat()).success();
        assert!(
            said.contains("rows from 12 files, parts/0.csv to parts/11.csv")
                && said.contains("rows out   12,000"),
            "{said}"
        );
        assert!(std::fs::read(path("out/results.csv")).unwrap() == expected, "{input}");
    }
    // The same files are the same job, however they are given.
    assert!(job(folder.path(), "parts", &model).success().contains("already done: "));
    std::fs::write(path("parts/5.csv"), "id,y\n1,2\n").unwrap();
    let said = job(folder.path(), "parts", &model).exit(3);
    assert!(
        said.contains(
            "parts/5.csv has another header than parts/0.csv: column 2 is \"x\" there, and \"y\" here"
        ),
        "{said}"
    );
    let said = job(folder.path(), "parts/0.csv /dev/null", &model).exit(3);
    assert!(said.contains("/dev/null is a stream, which can only be read alone"), "{said}");
    let said = job(folder.path(), "'nothing*.csv'", &model).exit(3);
    assert!(said.contains("the input nothing*.csv has no files"), "{said}");
}
