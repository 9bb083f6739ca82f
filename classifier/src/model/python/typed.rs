//! What crosses the socket for a model with typed columns: the values of the rows, and those of the new columns.

use anyhow::{Context, bail, ensure};
use columns::print;
use protocol::schema::{Column, Schema, TEXT};
use serde::Deserialize;

use crate::model::{Columns, Copied, Record, Request};

/// A new column, as an answer describes it: its name, the kinds of its values, and how these are encoded.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Added(Column, Encoding);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
enum Encoding {
    #[serde(rename = "i")]
    Signed,
    #[serde(rename = "u")]
    Unsigned,
    #[serde(rename = "d")]
    Decimal,
    #[serde(rename = "f")]
    ShortDecimal,
    #[serde(rename = "b")]
    Boolean,
    #[serde(rename = "t")]
    Text,
}

/// The values of a new column.
enum Values<'a> {
    Signed(&'a [[u8; 8]]),
    Unsigned(&'a [[u8; 8]]),
    Decimal(&'a [[u8; 8]]),
    ShortDecimal(&'a [[u8; 4]]),
    Boolean(&'a [u8]),
    Text(Vec<&'a [u8]>),
}

/// The new columns of the latest answer, and the schema that follows from them. The next answer usually has the same.
#[derive(Debug, Default)]
pub(super) struct Known {
    copied: Copied,
    header: Vec<u8>,
    description: String,
    added: Vec<Added>,
    columns: Columns,
}

/// Writes the request for a model's process.
pub(super) fn write(request: &Request<'_>, out: &mut Vec<u8>) {
    let types = request.typed.table.types();
    out.extend_from_slice(&(request.records.len() as u32).to_be_bytes());
    out.extend_from_slice(&((types.len() + 1 + request.header.len()) as u32).to_be_bytes());
    out.extend(columns::letters(types));
    out.push(b'\n');
    out.extend_from_slice(request.header);
    request.typed.table.encode(request.typed.rows.clone(), out);
}

impl Known {
    pub(super) fn new(copied: Copied) -> Self {
        Self { copied, ..Self::default() }
    }

    /// Appends a line for each record: what is copied of the record, and its values in `body`, which `description` describes. Returns the
    /// columns of the lines.
    ///
    /// # Errors
    /// The answer is malformed; some lines may have been appended.
    pub(super) fn append(
        &mut self,
        description: &str,
        body: &[u8],
        request: &Request<'_>,
        results: &mut Vec<u8>,
    ) -> anyhow::Result<Columns> {
        if self.description != description || self.header != request.header {
            self.learn(description, request.header)?;
        }
        let mut rest = body;
        let values = self.added.iter().map(|added| Values::read(added.1, request.records.len(), &mut rest));
        let values = values.collect::<anyhow::Result<Vec<_>>>()?;
        ensure!(rest.is_empty(), "{} bytes after the last column", rest.len());
        for (row, Record { bytes, .. }) in request.records.iter().enumerate() {
            results.extend_from_slice(self.copied.of(bytes));
            for values in &values {
                results.push(b',');
                values.print(row, results);
            }
            results.push(b'\n');
        }
        Ok(Columns::clone(&self.columns))
    }

    fn learn(&mut self, description: &str, header: &[u8]) -> anyhow::Result<()> {
        let added: Vec<Added> =
            serde_json::from_str(description).context("the description of its columns")?;
        ensure!(!added.is_empty(), "no new column");
        let copied = self.copied.of(header);
        // The source admits no malformed header.
        let names = records::split(copied).unwrap_or_default();
        let known = names.iter().map(|name| Column::new(String::from_utf8_lossy(name), TEXT));
        let columns = known.chain(added.iter().map(|added| added.0.clone())).collect();
        let schema = Schema { header: Some(String::from_utf8_lossy(copied).into_owned()), columns };
        self.columns = serde_json::to_string(&schema).context("encoding the schema")?.into();
        self.added = added;
        description.clone_into(&mut self.description);
        header.clone_into(&mut self.header);
        Ok(())
    }
}

impl<'a> Values<'a> {
    /// Reads a column of this many values, and removes it from `rest`.
    fn read(encoding: Encoding, rows: usize, rest: &mut &'a [u8]) -> anyhow::Result<Self> {
        Ok(match encoding {
            Encoding::Signed => Self::Signed(numbers(rows, rest)?),
            Encoding::Unsigned => Self::Unsigned(numbers(rows, rest)?),
            Encoding::Decimal => Self::Decimal(numbers(rows, rest)?),
            Encoding::ShortDecimal => Self::ShortDecimal(numbers(rows, rest)?),
            Encoding::Boolean => Self::Boolean(take(rows, rest)?),
            Encoding::Text => {
                let [length] = numbers::<8>(1, rest)? else { bail!("a text without a length") };
                let texts = take(u64::from_ne_bytes(*length) as usize, rest)?;
                let texts: Vec<_> = texts.split(|&byte| byte == 0).collect();
                ensure!(texts.len() == rows, "{} texts for {rows} rows", texts.len());
                Self::Text(texts)
            }
        })
    }

    fn print(&self, row: usize, out: &mut Vec<u8>) {
        match self {
            Self::Signed(values) => print::integer(i64::from_ne_bytes(values[row]), out),
            Self::Unsigned(values) => print::integer(u64::from_ne_bytes(values[row]), out),
            Self::Decimal(values) => print::float64(f64::from_ne_bytes(values[row]), out),
            Self::ShortDecimal(values) => print::float32(f32::from_ne_bytes(values[row]), out),
            Self::Boolean(values) => print::boolean(values[row] != 0, out),
            Self::Text(values) => records::write_value(values[row], out),
        }
    }
}

fn take<'a>(length: usize, rest: &mut &'a [u8]) -> anyhow::Result<&'a [u8]> {
    let (taken, after) = rest.split_at_checked(length).context("a column is too short")?;
    *rest = after;
    Ok(taken)
}

fn numbers<'a, const N: usize>(rows: usize, rest: &mut &'a [u8]) -> anyhow::Result<&'a [[u8; N]]> {
    Ok(take(rows * N, rest)?.as_chunks().0)
}

#[cfg(test)]
mod tests {
    use columns::{ColumnType, Table};
    use std::time::Duration;

    use super::*;

    fn append(description: &str, body: &[u8]) -> anyhow::Result<(String, Schema)> {
        append_to(Copied::All, b"\"A\"", [b"1", b"\"2\""], description, body)
    }

    fn append_to(
        copied: Copied,
        header: &[u8],
        records: [&[u8]; 2],
        description: &str,
        body: &[u8],
    ) -> anyhow::Result<(String, Schema)> {
        let table = Table::new(vec![ColumnType::Int64]);
        let record = |bytes| Record { bytes, plain: true };
        let request = Request {
            header,
            records: &records.map(record),
            typed: crate::model::Typed { table: &table, rows: 0..0 },
            numbers: None,
            limit: Duration::MAX,
        };
        let mut results = Vec::new();
        let columns = Known::new(copied).append(description, body, &request, &mut results)?;
        Ok((String::from_utf8(results)?, serde_json::from_str(&columns)?))
    }

    #[test]
    fn only_the_first_value_is_copied_if_the_user_wants_so() {
        let description = r#"[[["i",["integer"]],"i"]]"#;
        let body = [7i64, 8].map(i64::to_ne_bytes);
        let records: [&[u8]; 2] = [b"\"a,\"\"b\",\"x\"", b"c,,"];
        let (results, schema) =
            append_to(Copied::First, b"ID,\"B,C\",D", records, description, body.as_flattened()).unwrap();
        assert_eq!(results, "\"a,\"\"b\",7\nc,8\n");
        assert_eq!(schema.header_line().unwrap(), b"ID,i\n");
        for (record, first) in
            [("", ""), ("x", "x"), ("\"\"", "\"\""), ("\"\"\"\",\"", "\"\"\"\""), (",1", "")]
        {
            assert_eq!(Copied::First.of(record.as_bytes()), first.as_bytes(), "{record}");
        }
    }

    #[test]
    fn new_values_are_printed_after_the_record() {
        let description = r#"[[["i",["integer"]],"i"],[["u",["integer"]],"u"],[["d",["decimal"]],"d"],
            [["f",["decimal (float32)"]],"f"],[["b",["boolean"]],"b"],[["t, u",["text"]],"t"]]"#;
        let body = [
            [-1i64, 5].map(i64::to_ne_bytes).as_flattened(),
            [u64::MAX, 6].map(u64::to_ne_bytes).as_flattened(),
            [0.1f64, f64::NAN].map(f64::to_ne_bytes).as_flattened(),
            [0.1f32, 1e-5].map(f32::to_ne_bytes).as_flattened(),
            &[0, 1],
            &3u64.to_ne_bytes(),
            b"\0,x",
        ]
        .concat();
        let (results, schema) = append(description, &body).unwrap();
        assert_eq!(results, "1,-1,18446744073709551615,0.1,0.1,False,\n\"2\",5,6,,1e-05,True,\",x\"\n");
        assert_eq!(schema.header_line().unwrap(), b"\"A\",i,u,d,f,b,\"t, u\"\n");
        for (end, more) in [(body.len() - 1, &b""[..]), (body.len(), b"x"), (body.len() - 1, b"\0")] {
            assert!(append(description, &[&body[..end], more].concat()).is_err());
        }
        assert!(append("[]", b"").is_err() && append("{}", b"").is_err());
    }
}
