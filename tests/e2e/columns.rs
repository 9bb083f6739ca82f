//! Columns have the types and values that pandas gives them.

use std::io::Write;
use std::process::{Command, Stdio};

use chacha20::ChaCha8Rng;
use columns::{ColumnType, Inference, parse, print};
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

const COLUMNS: usize = 4_000;

/// Texts of which several types can be made, or none.
const TEXTS: &[&str] = &[
    "",
    "NA",
    "#N/A",
    "nan",
    "-NaN",
    "<NA>",
    "None",
    "null",
    " NA",
    "0",
    "1",
    "-1",
    "+1",
    " 7",
    "7 ",
    "\t7",
    "7\n",
    "007",
    "-0",
    "+",
    "-",
    "--1",
    "- 1",
    "1_000",
    "0x10",
    "1.",
    ".5",
    "-.5",
    ".",
    "1.5",
    "1.5 ",
    " 1.5",
    "1. 5",
    "-0.0",
    "1e5",
    "1E+05",
    "1.e-5",
    "1e",
    "1e+",
    "e5",
    "1e400",
    "-1e400",
    "1e-400",
    "5e-324",
    "1.7976931348623157e308",
    "1.7976931348623159e308",
    "inf",
    "-inf",
    "+Infinity",
    "INF",
    " inf",
    "infinit",
    "true",
    "True",
    "FALSE",
    "fAlse",
    " true",
    "yes",
    "a",
    "-a",
    "é",
    "٣",
    "1\u{a0}",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775808",
    "-9223372036854775807",
    "-9223372036854775809",
    "18446744073709551615",
    "18446744073709551616",
    "12345678901234567890.5",
    "99999999999999999999.5",
    "9007199254740993",
    "0.1",
    "1,5",
    "a\"b",
];

/// A text that is the number of a column with numbers.
fn number(random: &mut ChaCha8Rng) -> String {
    match random.random_range(0..5) {
        0 => random.random::<i64>().to_string(),
        1 => random.random_range(-1000..1000i32).to_string(),
        2 => f64::from_bits(random.random()).to_string(),
        3 => format!("{:e}", f64::from_bits(random.random())),
        _ => {
            format!("{}.{}{}", random.random_range(0..100u8), random.random::<u64>(), random.random::<u64>())
        }
    }
}

/// A column whose values are likely to have one type, up to a few.
fn column(random: &mut ChaCha8Rng) -> Vec<String> {
    let texts: [&str; 4] = std::array::from_fn(|_| *TEXTS.choose(random).unwrap());
    let of_numbers = random.random_bool(0.3);
    (0..random.random_range(1..6))
        .map(|_| match of_numbers && random.random_bool(0.8) {
            true => number(random),
            false => (*texts.choose(random).unwrap()).to_owned(),
        })
        .collect()
}

/// A column's type and values as this project sees them; `None` for a missing value.
fn read(texts: &[String]) -> (ColumnType, Vec<Option<String>>) {
    let mut inference = Inference::default();
    texts.iter().for_each(|text| inference.add(text.as_bytes()));
    let column_type = inference.column_type();
    let value = |text: &String| {
        let value = text.as_bytes();
        let mut out = Vec::new();
        match column_type {
            ColumnType::Literal => return Some(text.clone()),
            _ if parse::is_missing(value) => return None,
            ColumnType::String => return Some(text.clone()),
            ColumnType::Int64 => print::integer(parse::int64(value).unwrap(), &mut out),
            ColumnType::NullableInt64 => match parse::nullable_int64(value).unwrap() {
                number if number.is_nan() => return None,
                number => print::float64(number, &mut out),
            },
            ColumnType::Uint64 => print::integer(parse::uint64(value).unwrap(), &mut out),
            ColumnType::Float64 => print::float64(parse::float64(value).unwrap(), &mut out),
            ColumnType::Bool | ColumnType::NullableBool => {
                print::boolean(parse::boolean(value).unwrap(), &mut out);
            }
        }
        Some(String::from_utf8(out).unwrap())
    };
    (column_type, texts.iter().map(value).collect())
}

#[test]
fn types_and_values_are_those_of_pandas() {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let columns: Vec<_> = (0..COLUMNS).map(|_| column(&mut random)).collect();
    let mut python = Command::new(tests::python());
    python
        .arg(tests::root().join("tests/python/read_columns.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut python = python.spawn().unwrap();
    let question = serde_json::to_vec(&columns).unwrap();
    python.stdin.take().unwrap().write_all(&question).unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success());
    let answers: Vec<(ColumnType, Vec<Option<String>>)> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answers.len(), COLUMNS);
    for (texts, (column_type, values)) in columns.iter().zip(answers) {
        let (ours, our_values) = read(texts);
        // Pandas has no types of its own for these.
        let ours = match ours {
            ColumnType::Literal => ColumnType::String,
            ColumnType::NullableInt64 => ColumnType::Float64,
            ours => ours,
        };
        assert_eq!((ours, our_values), (column_type, values), "{texts:?}");
    }
}
