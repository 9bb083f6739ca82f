//! Reads a Parquet file as CSV text.
//!
//! A cell holds the text that pandas writes with `to_csv(index=False)`, with these exceptions. They make a cell's text depend on
//! its value and its column's type alone:
//!
//! * Integers have no fraction in columns with missing values either.
//! * Timestamps always have date and time, and a fraction only if it is not zero: `2024-01-31 12:34:56.000007`. It has as many
//!   digits as the column's unit. Timestamps in UTC end with `+00:00`; those of 96 bits do not say whether they are in UTC.
//! * Times have a fraction of six digits if it is not zero, or of nine if it takes nanoseconds.
//! * Decimals have all digits of their scale, and no exponent.
//! * Booleans and missing values are as in the types of [`mod@columns`].
//!
//! A column of binary values is read as text if its values are UTF-8. A column of durations is read as integers, since only
//! Arrow's own metadata knows that it is one. The index that pandas stores without a name (`__index_level_0__`) is left out.
//!
//! Memory holds a page of each column and a block of decoded rows, whatever the size of a row group.

use ::parquet::column::reader::get_column_reader;
use ::parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};
use ::parquet::file::reader::{ChunkReader, FileReader, SerializedFileReader};
use anyhow::{Context, bail, ensure};
use columns::ColumnType;

use self::cells::Cells;
use self::form::Form;
use self::pages::Pages;
use super::decoding;

mod cells;
mod form;
mod pages;
mod print;

/// The most rows that are decoded at once.
const BLOCK_ROWS: u64 = 4096;
/// Fewer rows are decoded at once if they would have more than this many bytes, by the average of their row group.
const BLOCK_BYTES: u64 = 8 << 20;
/// The text after which [`Table::append_rows`] returns, in bytes.
const TEXT: usize = 1 << 20;

/// A Parquet file that is read as CSV text.
pub struct Table<R: ChunkReader + 'static> {
    file: SerializedFileReader<R>,
    columns: Vec<Column>,
    header: Vec<u8>,
    types: Vec<ColumnType>,
    rows: u64,
    /// The row group that is being read.
    group: Option<Group>,
    /// The row group to read next.
    next_group: usize,
    /// Rows returned so far.
    row: u64,
    failed: bool,
}

/// A column of the file that is a column of the CSV.
struct Column {
    name: String,
    /// Its place in the file's schema.
    index: usize,
    form: Form,
    /// Whether values may be missing. The file's statistics decide, and a missing value in spite of them is an error.
    nullable: bool,
}

/// A row group whose columns are being read.
struct Group {
    number: usize,
    cells: Vec<Box<dyn Cells>>,
    /// Rows that have not been decoded.
    left: u64,
    /// Rows that are decoded at once.
    block: u64,
    /// Rows that have been decoded and not returned.
    decoded: u64,
}

impl<R: ChunkReader + 'static> Table<R> {
    /// Reads the footer. If statistics are missing, also reads columns as far as it takes to know whether values are missing in
    /// them.
    ///
    /// # Errors
    /// The file is damaged, encrypted or no Parquet file; or a column is nested, or has a type that has no text.
    pub fn open(input: R) -> anyhow::Result<Self> {
        let file = decoding(|| SerializedFileReader::new(input)).context(
            "reading the footer of a Parquet file (if this repeats, write or copy the file again)",
        )?;
        let rows = check(file.metadata())?;
        let mut columns = columns(file.metadata())?;
        for column in &mut columns {
            column.nullable = column.form.is_typed_by_nulls() && has_nulls(&file, column)?;
        }
        let types = columns.iter().map(|column| column.form.column_type(column.nullable)).collect();
        // Types that say nothing of missing values admit them.
        for column in &mut columns {
            column.nullable |= !column.form.is_typed_by_nulls();
        }
        let header = header(&columns)?;
        Ok(Self { file, columns, header, types, rows, group: None, next_group: 0, row: 0, failed: false })
    }

    /// The number of rows, from the footer.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The names of the columns as a CSV record, without a line end.
    pub fn header(&self) -> &[u8] {
        &self.header
    }

    /// The types that the file declares. Texts, times and decimals are [`ColumnType::Literal`] if no value is missing, and
    /// [`ColumnType::String`] otherwise. Unsigned integers of 64 bits are strings if values are missing, since neither `int64`
    /// nor `float64` holds them all.
    pub fn types(&self) -> &[ColumnType] {
        &self.types
    }

    /// Appends the next rows as CSV lines, each with a line feed: at most 4096 of them, and about 1 MiB at most unless a single
    /// row is longer. Returns `false` and appends nothing after the last row.
    ///
    /// # Errors
    /// The file is damaged or cannot be read, or a binary value is not UTF-8. `out` may then end within a row, and all further
    /// calls fail.
    pub fn append_rows(&mut self, out: &mut Vec<u8>) -> anyhow::Result<bool> {
        ensure!(!self.failed, "reading more rows of a file that could not be read: open it again");
        let result = self.next_rows(out);
        self.failed = result.is_err();
        result
    }

    fn next_rows(&mut self, out: &mut Vec<u8>) -> anyhow::Result<bool> {
        if !self.decode()? {
            return Ok(false);
        }
        let Self { group: Some(group), columns, row, .. } = self else { return Ok(false) };
        let begin = out.len();
        while group.decoded > 0 && out.len() - begin < TEXT {
            group.decoded -= 1;
            *row += 1;
            group.append_row(out).map_err(|bad| columns[bad].not_printable(*row))?;
        }
        Ok(true)
    }

    /// Decodes the next block of rows, unless some are left of the last one. Returns whether there are rows.
    fn decode(&mut self) -> anyhow::Result<bool> {
        loop {
            match &self.group {
                Some(group) if group.decoded > 0 => return Ok(true),
                Some(group) if group.left > 0 => break,
                _ if self.next_group == self.file.num_row_groups() => return Ok(false),
                _ => self.group = Some(self.open_group()?),
            }
        }
        let (row, count) = (self.row, self.file.num_row_groups());
        let Some(group) = &mut self.group else { return Ok(false) };
        let rows = group.left.min(group.block);
        for (cells, column) in group.cells.iter_mut().zip(&self.columns) {
            let nulls = decoding(|| cells.decode(rows as usize))
                .with_context(|| column.place(group.number, count, row))?;
            if nulls > 0 && !column.nullable {
                bail!(
                    "{}: a value is missing, and the file's statistics say that none is; write the file again",
                    column.place(group.number, count, row)
                );
            }
        }
        group.left -= rows;
        group.decoded = rows;
        Ok(true)
    }

    fn open_group(&mut self) -> anyhow::Result<Group> {
        let number = self.next_group;
        self.next_group += 1;
        let place = |column: &Column| column.place(number, self.file.num_row_groups(), self.row);
        let cells = self
            .columns
            .iter()
            .map(|column| decoding(|| cells(&self.file, number, column)).with_context(|| place(column)));
        let cells = cells.collect::<Result<_, _>>()?;
        let metadata = self.file.metadata().row_group(number);
        let block = block_rows(metadata);
        Ok(Group { number, cells, left: metadata.num_rows() as u64, block, decoded: 0 })
    }
}

impl Group {
    /// # Errors
    /// The column whose value has no text.
    fn append_row(&mut self, out: &mut Vec<u8>) -> Result<(), usize> {
        let begin = out.len();
        for (i, cells) in self.cells.iter_mut().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            if !cells.print_next(out) {
                return Err(i);
            }
        }
        if out.len() == begin {
            // An empty line would be no record.
            out.extend_from_slice(b"\"\"");
        }
        out.push(b'\n');
        Ok(())
    }
}

impl Column {
    fn place(&self, group: usize, groups: usize, row: u64) -> String {
        format!(
            "reading column {:?} in row group {} of {groups}, after row {row} (if this repeats, write or copy the file again)",
            self.name,
            group + 1
        )
    }

    fn not_printable(&self, row: u64) -> anyhow::Error {
        let (name, what) = (&self.name, self.form.expected());
        anyhow::anyhow!(
            "reading column {name:?}: the value of row {row} is not {what}; drop the column, or convert it to text, and write \
             the file again"
        )
    }
}

/// Checks what the decoder relies on, and returns the number of rows.
fn check(metadata: &ParquetMetaData) -> anyhow::Result<u64> {
    let mut rows = 0u64;
    for (i, group) in metadata.row_groups().iter().enumerate() {
        let is_complete = group.num_columns() == metadata.file_metadata().schema_descr().num_columns();
        let is_placed = group.columns().iter().all(|column| {
            let begin = column.dictionary_page_offset().unwrap_or(0).min(column.data_page_offset());
            begin >= 0 && column.compressed_size() >= 0
        });
        let count = u64::try_from(group.num_rows()).ok().filter(|_| is_complete && is_placed);
        let sum = count.and_then(|count| rows.checked_add(count));
        rows = sum.with_context(|| {
            format!("the footer contradicts itself in row group {}; write or copy the file again", i + 1)
        })?;
    }
    Ok(rows)
}

/// The columns of the CSV. They are nullable as the schema has it.
fn columns(metadata: &ParquetMetaData) -> anyhow::Result<Vec<Column>> {
    let file = metadata.file_metadata();
    let by_pandas = file.key_value_metadata().is_some_and(|all| all.iter().any(|one| one.key == "pandas"));
    let mut columns = Vec::new();
    for (index, column) in file.schema_descr().columns().iter().enumerate() {
        let name = column.path().parts().first().cloned().unwrap_or_default();
        let is_nested = column.path().parts().len() > 1 || column.max_rep_level() > 0;
        ensure!(
            !is_nested,
            "reading column {name:?}: it holds lists or structures, and a CSV has one value in a cell; drop the column, or \
             make it text or several columns, and write the file again"
        );
        if by_pandas && is_unnamed_index(&name) {
            continue;
        }
        let Some(form) = Form::of(column) else {
            bail!(
                "reading column {name:?}: values of its type have no text here; drop the column, or convert it to text, and \
                 write the file again"
            );
        };
        columns.push(Column { name, index, form, nullable: column.max_def_level() > 0 });
    }
    ensure!(!columns.is_empty(), "the file has no columns; write it again with some");
    Ok(columns)
}

/// Whether pandas gave this name to an index without one.
fn is_unnamed_index(name: &str) -> bool {
    let level = name.strip_prefix("__index_level_").and_then(|rest| rest.strip_suffix("__"));
    level.is_some_and(|level| !level.is_empty() && level.bytes().all(|byte| byte.is_ascii_digit()))
}

fn header(columns: &[Column]) -> anyhow::Result<Vec<u8>> {
    let mut header = Vec::new();
    for (i, column) in columns.iter().enumerate() {
        if i > 0 {
            header.push(b',');
        }
        records::write_value(column.name.as_bytes(), &mut header);
    }
    if header.is_empty() {
        header.extend_from_slice(b"\"\"");
    }
    let checked = records::check_header(&header);
    checked.map_err(|why| anyhow::anyhow!("the header of the file {why}; rename its columns"))?;
    Ok(header)
}

/// Whether values of the column are missing: from statistics, and from the values where there are none.
fn has_nulls<R: ChunkReader + 'static>(
    file: &SerializedFileReader<R>,
    column: &Column,
) -> anyhow::Result<bool> {
    if !column.nullable {
        return Ok(false);
    }
    let count = |group: &RowGroupMetaData| group.column(column.index).statistics()?.null_count_opt();
    let groups = file.metadata().row_groups();
    if groups.iter().any(|group| count(group).is_some_and(|nulls| nulls > 0)) {
        return Ok(true);
    }
    for (number, group) in groups.iter().enumerate().filter(|(_, group)| count(group).is_none()) {
        let found = decoding(|| {
            let mut cells = cells(file, number, column)?;
            let (mut left, block) = (group.num_rows() as u64, block_rows(group));
            while left > 0 {
                let rows = left.min(block);
                left -= rows;
                if cells.decode(rows as usize)? > 0 {
                    return Ok(true);
                }
            }
            Ok(false)
        });
        if found.with_context(|| column.place(number, groups.len(), 0))? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The cells of a column in a row group, before its first row.
fn cells<R: ChunkReader + 'static>(
    file: &SerializedFileReader<R>,
    group: usize,
    column: &Column,
) -> Result<Box<dyn Cells>, ::parquet::errors::ParquetError> {
    let group = file.get_row_group(group)?;
    let rows = group.metadata().num_rows() as u64;
    let descriptor = group.metadata().column(column.index).column_descr_ptr();
    let pages = Pages::new(group.get_column_page_reader(column.index)?, &descriptor, rows);
    Ok(cells::new(get_column_reader(descriptor, Box::new(pages)), column.form))
}

/// How many rows of a group are decoded at once.
fn block_rows(group: &RowGroupMetaData) -> u64 {
    let bytes = group.columns().iter().map(|column| column.uncompressed_size().max(0) as u64);
    let bytes = bytes.fold(0, u64::saturating_add);
    let row = bytes / (group.num_rows().max(1) as u64);
    (BLOCK_BYTES / row.max(1)).clamp(1, BLOCK_ROWS)
}

#[cfg(test)]
mod tests;
