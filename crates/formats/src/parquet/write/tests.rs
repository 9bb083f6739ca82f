use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::parquet::Table;

/// The file with these records.
fn written(columns: &[(&str, Kind)], records: &[impl AsRef<[u8]>]) -> Result<Bytes, WriteError> {
    let columns: Vec<_> = columns.iter().map(|(name, kind)| ((*name).to_owned(), *kind)).collect();
    let mut writer = Writer::new(Vec::new(), &columns)?;
    for record in records {
        writer.push(record.as_ref())?;
    }
    Ok(writer.finish()?.into())
}

/// The records of a file.
fn read(file: Bytes) -> Vec<String> {
    let mut table = Table::open(file).unwrap();
    let mut text = Vec::new();
    while table.append_rows(&mut text).unwrap() {}
    let mut reader = records::Reader::new(&text[..], 1 << 20);
    let mut records = Vec::new();
    while let Some(row) = reader.next_row().unwrap() {
        assert_eq!(row.flaw, None);
        records.push(String::from_utf8(row.bytes.to_vec()).unwrap());
    }
    assert_eq!(table.rows(), records.len() as u64);
    records
}

const ALL: [(&str, Kind); 4] =
    [("whole", Kind::Int64), ("number", Kind::Float64), ("yes", Kind::Bool), ("text, any", Kind::Text)];

#[test]
fn records_are_read_back_as_they_were() {
    let records = [
        "1,1.5,True,plain",
        "-9223372036854775808,-0.0,False,\"quoted, \"\"twice\"\"\r\n\"",
        ",,,",
        "0,inf,,\"\"",
        "0,1e-05,,\u{e9}",
    ];
    let file = written(&ALL, &records).unwrap();
    assert_eq!(Table::open(file.clone()).unwrap().header(), b"whole,number,yes,\"text, any\"");
    assert_eq!(read(file), records);
    // As pandas reads them: quoted numbers, words for missing values, and numbers in other forms.
    let records = ["\"1\",nan,\"True\",\"a\"", "\"\",NaN,NULL,a\"b", "007,+1.50,true,NA"];
    let file = written(&ALL, &records).unwrap();
    assert_eq!(read(file), ["1,,True,a", ",,,\"a\"\"b\"", "7,1.5,True,NA"]);
}

#[test]
fn a_single_column_can_hold_missing_values() {
    let file = written(&[("a", Kind::Int64)], &["", "5"]).unwrap();
    assert_eq!(read(file), ["\"\"", "5"]);
}

#[test]
fn a_file_may_have_no_rows() {
    // Nor columns: those of results are unknown before the first one.
    assert!(written(&[], &[""; 0]).unwrap().starts_with(b"PAR1"));
    let file = written(&ALL, &[""; 0]).unwrap();
    let table = Table::open(file.clone()).unwrap();
    assert_eq!(table.rows(), 0);
    assert!(read(file).is_empty());
}

#[test]
fn rows_in_several_groups_stay_in_order() {
    let records: Vec<_> = (0..GROUP_ROWS * 2 + 10).map(|i| format!("{i},text {}", i % 1000)).collect();
    let file = written(&[("a", Kind::Int64), ("b", Kind::Text)], &records).unwrap();
    assert_eq!(groups(&file), 3);
    assert!(read(file) == records);
}

#[test]
fn long_rows_make_small_groups() {
    let records: Vec<_> = (0..20).map(|i| format!("{i},{}", "x".repeat(GROUP_BYTES / 5))).collect();
    let file = written(&[("a", Kind::Int64), ("b", Kind::Text)], &records).unwrap();
    assert_eq!(groups(&file), 4);
}

fn groups(file: &Bytes) -> usize {
    use ::parquet::file::reader::{FileReader, SerializedFileReader};
    SerializedFileReader::new(file.clone()).unwrap().num_row_groups()
}

#[test]
fn a_value_of_another_kind_is_named() {
    let misfit = |record: &str| match written(&ALL, &["1,1.0,True,a", record]) {
        Err(WriteError::Misfit { column, value }) => (column, value),
        other => panic!("{other:?}"),
    };
    assert_eq!(misfit("1.5,1.0,True,a"), (0, "1.5".to_owned()));
    assert_eq!(misfit("1,one,True,a"), (1, "one".to_owned()));
    assert_eq!(misfit("1,1.0,yes,a"), (2, "yes".to_owned()));
    assert_eq!(misfit("x,y,z,a"), (0, "x".to_owned()));
}

#[test]
fn what_is_no_record_is_an_error() {
    let error = |record: &[u8]| written(&ALL, &[record]).unwrap_err().to_string();
    assert_eq!(error(b"1,2"), "a record has 2 values, and there are 4 columns; correct the input");
    assert!(error(b"1,1.0,True,\"a").starts_with("a record is malformed: a quoted value is not closed"));
    // The record of a reject may have any bytes.
    assert_eq!(read(written(&ALL, &[b"1,1.0,True,a\xff"]).unwrap()), ["1,1.0,True,a\u{fffd}"]);
}

#[test]
fn names_are_unique_as_in_pandas() {
    let made = |names: &[&str]| unique(names.iter().copied());
    assert_eq!(made(&["a", "b", "a", "a"]), ["a", "b", "a.1", "a.2"]);
    assert_eq!(made(&["a", "a", "a.1"]), ["a", "a.2", "a.1"]);
    assert_eq!(made(&["a.1", "a", "a"]), ["a.1", "a", "a.2"]);
    assert_eq!(made(&["a", "a", "a.1", "a"]), ["a", "a.2", "a.1", "a.3"]);
    assert_eq!(made(&["a.1", "a.1", "a", "a", "a.2"]), ["a.1", "a.1.1", "a", "a.3", "a.2"]);
    assert_eq!(made(&["", ""]), ["", ".1"]);
}

#[test]
fn an_output_that_fails_is_an_error() {
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("the disk is full"))
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut writer = Writer::new(Full, &[("a".to_owned(), Kind::Int64)]).unwrap();
    writer.push(b"1").unwrap();
    let error = writer.finish().map(|_| ()).unwrap_err();
    assert!(format!("{error:#}").contains("the disk is full"), "{error:#}");
}

/// A record of [`ALL`], as it is printed.
fn record() -> impl Strategy<Value = String> {
    let number = any::<f64>().prop_filter("NaN is missing", |number| !number.is_nan());
    let text = prop::option::of("[a,\"\r\n\u{e9} ]{0,6}");
    (any::<Option<i64>>(), prop::option::of(number), any::<Option<bool>>(), text).prop_map(
        |(whole, number, yes, text)| {
            let mut record = whole.map_or_else(String::new, |whole| whole.to_string()).into_bytes();
            record.push(b',');
            number.inspect(|number| columns::print::float64(*number, &mut record));
            record.push(b',');
            yes.inspect(|yes| columns::print::boolean(*yes, &mut record));
            record.push(b',');
            match text.as_deref() {
                Some("") => record.extend_from_slice(b"\"\""),
                Some(text) => records::write_value(text.as_bytes(), &mut record),
                None => {}
            }
            String::from_utf8(record).unwrap()
        },
    )
}

proptest! {
    #[test]
    fn any_records_are_read_back(records in prop::collection::vec(record(), 0..50), times in 1usize..200) {
        let records: Vec<_> = std::iter::repeat_n(records, times).flatten().collect();
        prop_assert_eq!(read(written(&ALL, &records).unwrap()), records);
    }

    #[test]
    fn the_same_records_give_the_same_bytes(records in prop::collection::vec(record(), 0..50)) {
        prop_assert_eq!(written(&ALL, &records).unwrap(), written(&ALL, &records).unwrap());
    }

    #[test]
    fn a_text_is_kept_and_a_number_is_that_of_pandas(value in "-?[0-9a-z.,\" ]{1,8}") {
        let mut record = Vec::new();
        records::write_value(value.as_bytes(), &mut record);
        let as_text = read(written(&[("a", Kind::Text)], &[&record]).unwrap());
        prop_assert_eq!(as_text[0].as_bytes(), &record);
        let as_number = written(&[("a", Kind::Int64)], &[&record]).ok().map(|file| read(file).remove(0));
        let number = columns::parse::int64(value.as_bytes()).map(|number| number.to_string());
        let missing = columns::parse::is_missing(value.as_bytes()).then(|| "\"\"".to_owned());
        prop_assert_eq!(as_number, number.or(missing));
    }
}
