use std::sync::Arc;

use ::parquet::basic::{Compression, Encoding};
use ::parquet::data_type::{
    BoolType, ByteArray, ByteArrayType, DataType, DoubleType, FixedLenByteArray, FixedLenByteArrayType,
    FloatType, Int32Type, Int64Type, Int96, Int96Type,
};
use ::parquet::file::metadata::KeyValue;
use ::parquet::file::properties::{
    EnabledStatistics, WriterProperties, WriterPropertiesBuilder, WriterVersion,
};
use ::parquet::file::writer::SerializedFileWriter;
use ::parquet::schema::parser::parse_message_type;
use bytes::Bytes;
use columns::ColumnType::{
    Bool, Float64, Int64, Literal, NullableBool, NullableInt64, String as Strings, Uint64,
};
use half::f16;

use super::*;

type SerializedRowGroupWriter<'a> = ::parquet::file::writer::SerializedRowGroupWriter<'a, Vec<u8>>;

/// A file with this schema, and with the row groups that `fill` writes.
fn file(
    schema: &str,
    properties: WriterPropertiesBuilder,
    groups: usize,
    fill: impl Fn(&mut SerializedRowGroupWriter<'_>),
) -> Bytes {
    let schema = parse_message_type(&format!("message schema {{ {schema} }}")).unwrap();
    let mut writer =
        SerializedFileWriter::new(Vec::new(), Arc::new(schema), Arc::new(properties.build())).unwrap();
    for _ in 0..groups {
        let mut group = writer.next_row_group().unwrap();
        fill(&mut group);
        group.close().unwrap();
    }
    writer.into_inner().unwrap().into()
}

/// Writes the next column; levels are for an optional one.
fn add<T: DataType>(group: &mut SerializedRowGroupWriter<'_>, values: &[T::T], levels: Option<&[i16]>) {
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<T>().write_batch(values, levels, None).unwrap();
    column.close().unwrap();
}

/// A file with one column and one row group.
fn one<T: DataType>(schema: &str, values: &[T::T], levels: Option<&[i16]>) -> Bytes {
    file(schema, WriterProperties::builder(), 1, |group| add::<T>(group, values, levels))
}

fn text(table: &mut Table<Bytes>) -> anyhow::Result<String> {
    let mut text = Vec::new();
    while table.append_rows(&mut text)? {}
    Ok(String::from_utf8(text)?)
}

/// A file's declared types, and its cells line by line.
fn read(file: Bytes) -> (Vec<ColumnType>, String) {
    let mut table = Table::open(file).unwrap();
    let text = text(&mut table).unwrap();
    (table.types().to_vec(), text)
}

fn error(file: Bytes) -> String {
    let result = Table::open(file).and_then(|mut table| text(&mut table));
    format!("{:#}", result.unwrap_err())
}

fn bytes<const N: usize>(values: [&[u8]; N]) -> Vec<ByteArray> {
    values.map(ByteArray::from).to_vec()
}

fn fixed<const N: usize>(values: [&[u8]; N]) -> Vec<FixedLenByteArray> {
    values.map(|value| ByteArray::from(value).into()).to_vec()
}

#[test]
fn integers_of_all_widths_are_integers() {
    let signed =
        |annotation: &str| read(one::<Int32Type>(&format!("required int32 a {annotation};"), &[-1, 7], None));
    for annotation in ["", "(INTEGER(8,true))", "(INT_16)", "(INTEGER(32,true))"] {
        assert_eq!(signed(annotation), (vec![Int64], "-1\n7\n".to_owned()), "{annotation}");
    }
    for annotation in ["(INTEGER(32,false))", "(UINT_32)"] {
        assert_eq!(signed(annotation), (vec![Int64], "4294967295\n7\n".to_owned()), "{annotation}");
    }
    let long = |schema: &str, levels| read(one::<Int64Type>(schema, &[-1, 7], levels));
    assert_eq!(long("required int64 a;", None), (vec![Int64], "-1\n7\n".to_owned()));
    let most = "18446744073709551615";
    for annotation in ["INTEGER(64,false)", "UINT_64"] {
        let found = long(&format!("required int64 a ({annotation});"), None);
        assert_eq!(found, (vec![Uint64], format!("{most}\n7\n")));
        let found = long(&format!("optional int64 a ({annotation});"), Some(&[1, 0, 1]));
        assert_eq!(found, (vec![Strings], format!("{most}\n\"\"\n7\n")));
    }
    assert_eq!(
        long("optional int64 a;", Some(&[1, 0, 1])),
        (vec![NullableInt64], "-1\n\"\"\n7\n".to_owned())
    );
    assert_eq!(long("optional int64 a;", Some(&[1, 1])), (vec![Int64], "-1\n7\n".to_owned()));
}

#[test]
fn numbers_and_booleans_are_as_python_prints_them() {
    let found = read(one::<FloatType>("required float a;", &[0.1, f32::NAN, f32::INFINITY], None));
    assert_eq!(found, (vec![Float64], "0.1\n\"\"\ninf\n".to_owned()));
    let found = read(one::<DoubleType>("optional double a;", &[1e-5, -2.0], Some(&[1, 0, 1])));
    assert_eq!(found, (vec![Float64], "1e-05\n\"\"\n-2.0\n".to_owned()));
    let halves = fixed([&f16::from_f32(0.1).to_le_bytes(), &f16::from_f32(-2.0).to_le_bytes()]);
    let found =
        read(one::<FixedLenByteArrayType>("required fixed_len_byte_array(2) a (FLOAT16);", &halves, None));
    assert_eq!(found, (vec![Float64], "0.1\n-2.0\n".to_owned()));
    let found = read(one::<BoolType>("required boolean a;", &[true, false], None));
    assert_eq!(found, (vec![Bool], "True\nFalse\n".to_owned()));
    let found = read(one::<BoolType>("optional boolean a;", &[true, false], Some(&[1, 0, 1])));
    assert_eq!(found, (vec![NullableBool], "True\n\"\"\nFalse\n".to_owned()));
}

#[test]
fn dates_times_and_timestamps_have_one_form() {
    let short = |annotation: &str, value| {
        read(one::<Int32Type>(&format!("required int32 a ({annotation});"), &[value], None)).1
    };
    assert_eq!(short("DATE", 19_753), "2024-01-31\n");
    assert_eq!(short("TIME(MILLIS,false)", 45_296_500), "12:34:56.500000\n");
    assert_eq!(short("TIME_MILLIS", 45_296_000), "12:34:56\n");
    let long = |annotation: &str, value| {
        read(one::<Int64Type>(&format!("required int64 a ({annotation});"), &[value], None)).1
    };
    assert_eq!(long("TIME(MICROS,true)", 45_296_000_007), "12:34:56.000007\n");
    assert_eq!(long("TIMESTAMP(MILLIS,false)", 1_706_704_496_500), "2024-01-31 12:34:56.500\n");
    assert_eq!(long("TIMESTAMP(MICROS,true)", 1_706_704_496_000_000), "2024-01-31 12:34:56+00:00\n");
    assert_eq!(long("TIMESTAMP(NANOS,false)", -1), "1969-12-31 23:59:59.999999999\n");
    assert_eq!(long("TIMESTAMP_MICROS", 7), "1970-01-01 00:00:00.000007\n");
    let mut day = Int96::new();
    day.set_data(0, 0, 2_440_588);
    let found = read(one::<Int96Type>("required int96 a;", &[day], None));
    assert_eq!(found, (vec![Literal], "1970-01-01 00:00:00\n".to_owned()));
}

#[test]
fn decimals_are_exact() {
    let found = read(one::<Int32Type>("required int32 a (DECIMAL(9,2));", &[-5, 12_345], None));
    assert_eq!(found, (vec![Literal], "-0.05\n123.45\n".to_owned()));
    let found = read(one::<Int64Type>("optional int64 a (DECIMAL(18,0));", &[7], Some(&[0, 1])));
    assert_eq!(found, (vec![Strings], "\"\"\n7\n".to_owned()));
    let values = fixed([&[0xff; 20], &[0x7f; 20]]);
    let found = read(one::<FixedLenByteArrayType>(
        "required fixed_len_byte_array(20) a (DECIMAL(40,3));",
        &values,
        None,
    ));
    assert_eq!(found.1, "-0.001\n727885129180488904360266563744972327436484050.815\n");
    let found = read(one::<ByteArrayType>("required binary a (DECIMAL(5,1));", &bytes([&[1, 0]]), None));
    assert_eq!(found.1, "25.6\n");
    let empty = one::<ByteArrayType>("required binary a (DECIMAL(5,1));", &bytes([b""]), None);
    assert!(error(empty).contains("the value of row 1 is not a decimal"));
}

#[test]
fn texts_are_quoted_where_needed() {
    let values = bytes([b"plain", b"a,b", b"5\" pipe", b"two\r\nlines", b"\r", "\u{e9}".as_bytes(), b""]);
    for annotation in ["(STRING)", "(UTF8)", "(ENUM)", "(JSON)", "(BSON)", ""] {
        let schema = format!("required binary a {annotation}; required int32 b;");
        let found = read(file(&schema, WriterProperties::builder(), 1, |group| {
            add::<ByteArrayType>(group, &values, None);
            add::<Int32Type>(group, &[0; 7], None);
        }));
        let text = "plain,0\n\"a,b\",0\n\"5\"\" pipe\",0\n\"two\r\nlines\",0\n\"\r\",0\n\u{e9},0\n\"\",0\n";
        assert_eq!(found, (vec![Literal, Int64], text.to_owned()), "{annotation}");
    }
    let missing =
        file("optional binary a (STRING); optional binary b;", WriterProperties::builder(), 1, |group| {
            add::<ByteArrayType>(group, &bytes([b"", b"x"]), Some(&[1, 0, 1]));
            add::<ByteArrayType>(group, &[], Some(&[0, 0, 0]));
        });
    assert_eq!(read(missing), (vec![Strings, Strings], "\"\",\n,\nx,\n".to_owned()));
    let id = fixed([&[0xab; 16]]);
    let found = read(one::<FixedLenByteArrayType>("required fixed_len_byte_array(16) a (UUID);", &id, None));
    assert_eq!(found.1, "abababab-abab-abab-abab-abababababab\n");
}

#[test]
fn binary_values_must_be_text() {
    let good = fixed([b"abc", b"def"]);
    let schema = "required fixed_len_byte_array(3) a;";
    assert_eq!(read(one::<FixedLenByteArrayType>(schema, &good, None)).1, "abc\ndef\n");
    let bad = one::<ByteArrayType>("required binary a;", &bytes([b"abc", b"\xff"]), None);
    assert_eq!(
        error(bad),
        "reading column \"a\": the value of row 2 is not UTF-8 text; drop the column, or convert it to text, and write the \
         file again"
    );
}

#[test]
fn nested_columns_are_refused() {
    let list = one::<Int32Type>("repeated int32 a;", &[], None);
    let nested =
        file("required group outer { required int32 a; }", WriterProperties::builder(), 1, |group| {
            add::<Int32Type>(group, &[1], None);
        });
    assert!(error(list).starts_with("reading column \"a\": it holds lists or structures"));
    assert!(error(nested).starts_with("reading column \"outer\": it holds lists or structures"));
    let interval = fixed([b"abcdefghijkl"]);
    let interval =
        one::<FixedLenByteArrayType>("required fixed_len_byte_array(12) a (INTERVAL);", &interval, None);
    assert!(error(interval).starts_with("reading column \"a\": values of its type have no text"));
}

#[test]
fn the_index_of_pandas_is_left_out() {
    let named = KeyValue::new("pandas".to_owned(), "{}".to_owned());
    let schema = "required int32 a; required int32 __index_level_0__;";
    let both = |properties| {
        let file = file(schema, properties, 1, |group| {
            add::<Int32Type>(group, &[1], None);
            add::<Int32Type>(group, &[2], None);
        });
        String::from_utf8(Table::open(file.clone()).unwrap().header().to_vec()).unwrap()
            + "\n"
            + &read(file).1
    };
    assert_eq!(both(WriterProperties::builder().set_key_value_metadata(Some(vec![named]))), "a\n1\n");
    assert_eq!(both(WriterProperties::builder()), "a,__index_level_0__\n1,2\n");
}

#[test]
fn missing_values_are_found_without_statistics() {
    for levels in [[1, 1, 1], [1, 1, 0]] {
        let present = levels.iter().filter(|&&level| level == 1).count();
        let properties = || WriterProperties::builder().set_statistics_enabled(EnabledStatistics::None);
        let schema = "optional int64 a; optional binary b (STRING);";
        let file = file(schema, properties(), 2, |group| {
            add::<Int64Type>(group, &[1, 2, 3][..present], Some(&levels));
            add::<ByteArrayType>(group, &bytes([b"x", b"y", b"z"])[..present], Some(&levels));
        });
        let expected = if present == 3 { vec![Int64, Literal] } else { vec![NullableInt64, Strings] };
        assert_eq!(read(file).0, expected);
    }
}

#[test]
fn all_encodings_and_compressions_are_read() {
    let numbers: Vec<i64> = (0..10_000).map(|i| i * i % 777).collect();
    let texts: Vec<_> = numbers.iter().map(|i| ByteArray::from(format!("text {i}").as_str())).collect();
    let expected: String = numbers.iter().map(|i| format!("{i},text {i}\n")).collect();
    let schema = "required int64 a; required binary b (STRING);";
    let check = |properties: WriterPropertiesBuilder| {
        let found = read(file(schema, properties.set_data_page_row_count_limit(999), 2, |group| {
            add::<Int64Type>(group, &numbers, None);
            add::<ByteArrayType>(group, &texts, None);
        }));
        assert!(found.1 == expected.repeat(2));
    };
    for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
        let properties = || WriterProperties::builder().set_writer_version(version);
        for codec in [
            Compression::UNCOMPRESSED,
            Compression::SNAPPY,
            Compression::GZIP(Default::default()),
            Compression::BROTLI(Default::default()),
            Compression::ZSTD(Default::default()),
            Compression::LZ4_RAW,
            Compression::LZ4,
        ] {
            check(properties().set_compression(codec));
        }
        for (number, text) in [
            (Encoding::DELTA_BINARY_PACKED, Encoding::DELTA_LENGTH_BYTE_ARRAY),
            (Encoding::BYTE_STREAM_SPLIT, Encoding::DELTA_BYTE_ARRAY),
            (Encoding::PLAIN, Encoding::PLAIN),
        ] {
            let properties = properties().set_dictionary_enabled(false);
            let properties = properties.set_column_encoding("a".into(), number);
            check(properties.set_column_encoding("b".into(), text));
        }
    }
}

#[test]
fn long_rows_are_returned_a_few_at_a_time() {
    let long = "x".repeat(TEXT / 3);
    let texts: Vec<_> = (0..20).map(|_| ByteArray::from(long.as_str())).collect();
    let file = one::<ByteArrayType>("required binary a (STRING);", &texts, None);
    let mut table = Table::open(file).unwrap();
    let (mut out, mut rows) = (Vec::new(), 0);
    while table.append_rows(&mut out).unwrap() {
        assert!(out.len() <= TEXT + long.len() + 1);
        rows += out.iter().filter(|&&byte| byte == b'\n').count();
        out.clear();
    }
    assert_eq!(rows, 20);
    assert!(!table.append_rows(&mut out).unwrap());
}

/// A small file with most types and encodings.
fn small(compression: Compression, version: WriterVersion, dictionary: bool) -> Bytes {
    let properties = WriterProperties::builder()
        .set_compression(compression)
        .set_writer_version(version)
        .set_dictionary_enabled(dictionary);
    let schema = "optional int64 a; optional binary b (STRING); required boolean c; required fixed_len_byte_array(2) d \
                  (FLOAT16); required double e; required binary f (DECIMAL(5,1)); required int96 g;";
    file(schema, properties, 2, |group| {
        add::<Int64Type>(group, &[1, 1, 3], Some(&[1, 0, 1, 1]));
        add::<ByteArrayType>(group, &bytes([b"abc", b"abd", b"abc"]), Some(&[1, 1, 1, 0]));
        add::<BoolType>(group, &[true, false, true, true], None);
        add::<FixedLenByteArrayType>(group, &fixed([b"ab", b"cd", b"ab", b"ab"]), None);
        add::<DoubleType>(group, &[1.0, 2.0, 1.0, 5.0], None);
        add::<ByteArrayType>(group, &bytes([&[1], &[1, 2], &[1], &[0xff]]), None);
        add::<Int96Type>(group, &[Int96::new(); 4], None);
    })
}

/// Reads a damaged file; the number of its rows, or an error.
fn survive(file: Vec<u8>) -> anyhow::Result<usize> {
    let mut table = Table::open(Bytes::from(file))?;
    let (mut out, mut bytes) = (Vec::new(), 0);
    while table.append_rows(&mut out)? {
        bytes += out.len();
        out.clear();
        assert!(bytes < 1 << 20, "the file has no end");
    }
    Ok(bytes)
}

#[test]
fn damage_is_an_error_or_another_value() {
    // The errors that panics become are printed by the hook of the tests, thousands of times.
    std::panic::set_hook(Box::new(|panic| {
        if !super::super::is_decoding() {
            let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("{panic}\n").as_bytes());
        }
    }));
    for compression in [Compression::UNCOMPRESSED, Compression::SNAPPY, Compression::ZSTD(Default::default())]
    {
        for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
            for dictionary in [true, false] {
                let whole = small(compression, version, dictionary).to_vec();
                survive(whole.clone()).unwrap();
                for at in 0..whole.len() {
                    assert!(survive(whole[..at].to_vec()).is_err(), "cut off after {at} bytes");
                    for flip in [0xff, 1] {
                        let mut damaged = whole.clone();
                        damaged[at] ^= flip;
                        let _ = survive(damaged);
                    }
                }
            }
        }
    }
    let _ = std::panic::take_hook();
}

#[test]
fn errors_name_the_place() {
    let numbers: Vec<i64> = (0..10_000).collect();
    let properties =
        WriterProperties::builder().set_dictionary_enabled(false).set_compression(Compression::SNAPPY);
    let whole = file("required int64 a; required int64 b;", properties, 2, |group| {
        add::<Int64Type>(group, &numbers, None);
        add::<Int64Type>(group, &numbers, None);
    });
    let mut damaged = whole.to_vec();
    let middle = damaged.len() * 5 / 8;
    damaged[middle..middle + 100].fill(0xff);
    let mut table = Table::open(Bytes::from(damaged)).unwrap();
    let mut out = Vec::new();
    let failure = loop {
        match table.append_rows(&mut out) {
            Ok(more) => assert!(more, "the damage was not noticed"),
            Err(failure) => break format!("{failure:#}"),
        }
    };
    assert!(failure.starts_with("reading column \"a\" in row group 2 of 2, after row 1"), "{failure}");
    assert!(table.append_rows(&mut out).unwrap_err().to_string().contains("open it again"));
    assert!(error(whole.slice(..100)).starts_with("reading the footer of a Parquet file"));
    assert!(error(Bytes::new()).starts_with("reading the footer of a Parquet file"));
}
