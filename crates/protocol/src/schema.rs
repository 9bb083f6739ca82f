//! The columns of the results: their names and order, and the kinds of their values.
//!
//! All batches must have the same schema, so that results do not depend on where batches begin. A kind names the printed form of
//! values, if the form depends on other values of the batch. For example, pandas prints the number 20 as `20.0` if a value of the
//! column is missing, and midnight as a date if the column has only dates.

use std::collections::BTreeSet;

use anyhow::{Context, anyhow, ensure};
use records::write_value;
use serde::{Deserialize, Serialize};

use crate::results::{ResultBatch, Terms};

/// The kind of values whose printed form does not depend on other values.
pub const TEXT: &str = "text";

/// A column of the results: its name, and the kinds of its non-missing values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column(pub String, pub BTreeSet<String>);

impl Column {
    /// A column of one kind.
    pub fn new(name: impl Into<String>, kind: &str) -> Self {
        Self(name.into(), BTreeSet::from([kind.to_owned()]))
    }

    /// The kinds whose printed form depends on other values.
    fn dependent(&self) -> impl Iterator<Item = &String> {
        self.1.iter().filter(|kind| *kind != TEXT)
    }

    fn kinds(&self) -> String {
        self.1.iter().map(String::as_str).collect::<Vec<_>>().join(" and ")
    }
}

/// The columns, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schema {
    /// The input's header, if the results begin with a header: this one, and the names of the columns after those of the input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    pub columns: Vec<Column>,
}

/// The contents of the schema file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    pub schema: Schema,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terms: Option<Terms>,
}

/// The schema of a part of a batch, up to the next part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The part's first row, counted from the batch's first one.
    pub row: u32,
    pub schema: Schema,
}

/// How a schema differs from the one before it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Difference {
    /// The names, the number or the order differs.
    #[error("they have the columns {found}, and results before them have {known}")]
    Names { known: String, found: String },
    /// The same columns, with values of another kind.
    #[error("their column {column} has values of the kind {found}, and before them it has {known}")]
    Kinds { column: String, known: String, found: String },
}

impl Schema {
    /// The schema of results without a header.
    pub fn new(columns: Vec<Column>) -> Self {
        Self { header: None, columns }
    }

    /// The columns' names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|column| column.0.as_str())
    }

    /// The first line of the results, with its line end; `None` if they have no header.
    pub fn header_line(&self) -> Option<Vec<u8>> {
        let mut line = self.header.clone()?.into_bytes();
        let known = records::count(&line).unwrap_or(0);
        for name in self.names().skip(known) {
            line.push(b',');
            write_value(name.as_bytes(), &mut line);
        }
        line.push(b'\n');
        Some(line)
    }

    /// Adds the schema of the next rows. They may add a kind to a column that so far had only missing values or texts.
    ///
    /// # Errors
    /// The schemas differ; then `self` is unchanged.
    pub fn extend(&mut self, next: &Self) -> Result<(), Difference> {
        if !self.names().eq(next.names()) {
            let list = |schema: &Self| schema.names().collect::<Vec<_>>().join(", ");
            return Err(Difference::Names { known: list(self), found: list(next) });
        }
        for (known, found) in self.columns.iter().zip(&next.columns) {
            let is_free = known.dependent().next().is_none() || found.dependent().next().is_none();
            if !is_free && !known.dependent().eq(found.dependent()) {
                let (known, found, column) = (known.kinds(), found.kinds(), known.0.clone());
                return Err(Difference::Kinds { column, known, found });
            }
        }
        for (known, found) in self.columns.iter_mut().zip(&next.columns) {
            known.1.extend(found.1.iter().cloned());
        }
        Ok(())
    }
}

/// Checks that all results, in row order, form one table.
#[derive(Debug, Default)]
pub struct Table {
    schema: Schema,
    /// The encoded schema of the last batch. The next one usually has the same.
    last: Vec<u8>,
}

impl Table {
    /// A table that continues with these columns.
    pub fn new(schema: Schema) -> Self {
        Self { schema, last: Vec::new() }
    }

    /// Its columns; none while there are no results.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// Checks the next batch, before it is written. Returns whether the schema has changed.
    ///
    /// # Errors
    /// The batch's columns differ from those before, so it must not be written.
    pub fn admit<B: AsRef<[u8]>>(&mut self, batch: &ResultBatch<B>) -> anyhow::Result<bool> {
        let encoded = batch.schema.as_ref();
        if encoded.is_empty() || encoded == self.last {
            return Ok(false);
        }
        let context = || format!("parsing the columns of batch {}", batch.number);
        let parts: Vec<Part> = serde_json::from_slice(encoded).with_context(context)?;
        let mut schema = self.schema.clone();
        for (i, part) in parts.iter().enumerate() {
            let end = parts.get(i + 1).map_or(batch.rows, |next| next.row);
            ensure!(part.row < end, "batch {} has a part without rows", batch.number);
            if schema.columns.is_empty() {
                schema = part.schema.clone();
                continue;
            }
            let first = batch.first_row + u64::from(part.row);
            let last = batch.first_row + u64::from(end) - 1;
            schema.extend(&part.schema).map_err(|difference| {
                anyhow!(
                    "the results of rows {first} to {last} do not fit those before: {difference}. A table has one set of \
                     columns, and a row must be printed in the same way whatever other rows are in its batch; let the model \
                     return the same columns for every batch, and strings where numbers or times may be missing"
                )
            })?;
        }
        self.last = encoded.to_vec();
        let is_new = schema != self.schema;
        self.schema = schema;
        Ok(is_new)
    }
}

/// Encodes the parts of a batch, each given as its first row and the JSON of its [`Schema`].
pub fn encode_parts<'a>(parts: impl IntoIterator<Item = (u32, &'a str)>) -> Vec<u8> {
    let parts = parts.into_iter().map(|(row, schema)| format!("{{\"row\":{row},\"schema\":{schema}}}"));
    format!("[{}]", parts.collect::<Vec<_>>().join(",")).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(columns: &[(&str, &[&str])]) -> Schema {
        let column = |(name, kinds): &(&str, &[&str])| {
            Column((*name).to_owned(), kinds.iter().map(|&kind| kind.to_owned()).collect())
        };
        Schema::new(columns.iter().map(column).collect())
    }

    #[test]
    fn names_number_and_order_must_not_change() {
        let mut known = schema(&[("A", &[]), ("B", &[])]);
        for other in [&["A"][..], &["B", "A"], &["A", "B", "C"], &["A", "C"]] {
            let other = schema(&other.iter().map(|&name| (name, &[][..])).collect::<Vec<_>>());
            let error = known.extend(&other).unwrap_err().to_string();
            assert!(error.ends_with("and results before them have A, B"), "{error}");
        }
        assert_eq!(known.extend(&known.clone()), Ok(()));
    }

    #[test]
    fn kinds_must_not_change_once_seen() {
        let mut known = schema(&[("A", &[])]);
        let mut take = |kinds: &[&str]| known.extend(&schema(&[("A", kinds)])).map_err(|e| e.to_string());
        for kinds in [&[][..], &["text"], &["integer"], &["text"], &[], &["integer", "text"]] {
            assert_eq!(take(kinds), Ok(()), "{kinds:?}");
        }
        for kinds in [&["decimal"][..], &["decimal", "integer"], &["boolean"]] {
            let error = take(kinds).unwrap_err();
            assert!(error.starts_with("their column A has values of the kind"), "{error}");
            assert!(error.ends_with("and before them it has integer and text"), "{error}");
        }
    }

    #[test]
    fn results_begin_with_the_inputs_header_as_it_came_and_the_new_names() {
        let known = schema(&[("a", &[]), ("b,c", &[]), ("x,y", &[]), ("z", &[])]);
        assert_eq!(known.header_line(), None);
        let known = Schema { header: Some("\"a\",\"b,c\"".into()), ..known };
        assert_eq!(known.header_line().unwrap(), b"\"a\",\"b,c\",\"x,y\",z\n");
        let json = serde_json::to_string(&known).unwrap();
        assert_eq!(serde_json::from_str::<Schema>(&json).unwrap(), known);
    }

    #[test]
    fn parts_read_back_as_written() {
        let (one, other) = (schema(&[("A", &["text"])]), schema(&[("A", &["integer"]), ("B \"", &[])]));
        let json = [&one, &other].map(|schema| serde_json::to_string(schema).unwrap());
        let bytes = encode_parts([(0, json[0].as_str()), (7, json[1].as_str())]);
        let parts: Vec<Part> = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(parts, [Part { row: 0, schema: one }, Part { row: 7, schema: other }]);
    }

    fn with_schema(first_row: u64, parts: &[(u32, &[(&str, &str)])]) -> ResultBatch<Vec<u8>> {
        let json = parts.iter().map(|(row, columns)| {
            let columns = columns.iter().map(|&(name, kind)| Column::new(name, kind)).collect();
            (*row, serde_json::to_string(&Schema::new(columns)).unwrap())
        });
        let json: Vec<_> = json.collect();
        let schema = encode_parts(json.iter().map(|(row, json)| (*row, json.as_str())));
        ResultBatch { first_row, rows: 10, schema, ..ResultBatch::default() }
    }

    #[test]
    fn results_have_one_schema() {
        let (text, number) = (("A", "text"), ("B", "integer"));
        let mut table = Table::default();
        assert!(table.admit(&with_schema(0, &[(0, &[text, number])])).unwrap());
        assert!(!table.admit(&with_schema(10, &[(0, &[text, number])])).unwrap());
        assert!(!table.admit(&ResultBatch::<Vec<u8>> { rows: 10, ..ResultBatch::default() }).unwrap());
        let error = table.admit(&with_schema(20, &[(0, &[text, ("B", "decimal")])])).unwrap_err().to_string();
        assert!(
            error.starts_with("the results of rows 20 to 29 do not fit those before: their column B"),
            "{error}"
        );
        let error = table.admit(&with_schema(20, &[(0, &[number, text])])).unwrap_err().to_string();
        assert!(error.contains("they have the columns B, A, and results before them have A, B"), "{error}");
        // Also inside a batch whose rows were classified in parts.
        let parts: [(u32, &[(&str, &str)]); 3] = [(0, &[text, number]), (4, &[text]), (6, &[text, number])];
        let error = table.admit(&with_schema(30, &parts)).unwrap_err().to_string();
        assert!(error.starts_with("the results of rows 34 to 35 do not fit"), "{error}");
    }
}
