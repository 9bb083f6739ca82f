//! Checks the pages of a column before they are decoded.
//!
//! The decoder allocates as much as a page says that it needs. In a damaged file that may be more memory than there is, which
//! would end the process, so pages that contradict their own size are refused here.

use ::parquet::basic::{Encoding, Type};
use ::parquet::column::page::{Page, PageMetadata, PageReader};
use ::parquet::errors::{ParquetError, Result};
use ::parquet::schema::types::ColumnDescriptor;
use bytes::Bytes;

/// The pages of a column chunk.
pub(super) struct Pages {
    inner: Box<dyn PageReader>,
    /// The fewest bytes that a value takes in a dictionary.
    value_bytes: usize,
    /// Whether pages begin with definition levels.
    nullable: bool,
    has_dictionary: bool,
    /// Rows that the chunk still has.
    left: u64,
}

impl Pages {
    /// The pages of a chunk with this many rows.
    pub(super) fn new(inner: Box<dyn PageReader>, column: &ColumnDescriptor, rows: u64) -> Self {
        let value_bytes = match column.physical_type() {
            Type::BOOLEAN => 1,
            // Bytes begin with their length.
            Type::INT32 | Type::FLOAT | Type::BYTE_ARRAY => 4,
            Type::INT64 | Type::DOUBLE => 8,
            Type::INT96 => 12,
            Type::FIXED_LEN_BYTE_ARRAY => usize::try_from(column.type_length()).unwrap_or(0).max(1),
        };
        let nullable = column.max_def_level() > 0;
        Self { inner, value_bytes, nullable, has_dictionary: false, left: rows }
    }

    fn check(&mut self, page: &Page) -> Result<()> {
        let (rows, encoding) = (page.num_values() as usize, page.encoding());
        if let Page::DictionaryPage { buf, .. } = page {
            self.has_dictionary = true;
            return require(rows <= buf.len() / self.value_bytes, "a dictionary is too short for its values");
        }
        let left = self.left.checked_sub(rows as u64);
        self.left = left.ok_or_else(|| bad("it has more values than rows"))?;
        match encoding {
            Encoding::RLE_DICTIONARY | Encoding::PLAIN_DICTIONARY => {
                require(self.has_dictionary, "its dictionary is missing")
            }
            Encoding::DELTA_LENGTH_BYTE_ARRAY => {
                lengths_end(&self.values(page)?, rows).map(|_| ()).ok_or_else(|| bad("its lengths are wrong"))
            }
            Encoding::DELTA_BYTE_ARRAY => {
                let values = self.values(page)?;
                let suffixes = lengths_end(&values, rows).and_then(|prefixes| values.get(prefixes..));
                let end = suffixes.and_then(|suffixes| lengths_end(suffixes, rows));
                end.map(|_| ()).ok_or_else(|| bad("its lengths are wrong"))
            }
            _ => Ok(()),
        }
    }

    /// A data page's values, after its levels.
    fn values(&self, page: &Page) -> Result<Bytes> {
        let (buffer, begin) = match page {
            Page::DataPageV2 { buf, def_levels_byte_len, rep_levels_byte_len, .. } => {
                (buf, (*def_levels_byte_len as usize).saturating_add(*rep_levels_byte_len as usize))
            }
            Page::DataPage { buf, def_level_encoding: Encoding::RLE, .. } if self.nullable => {
                let length = buf.first_chunk().ok_or_else(|| bad("its levels are cut off"))?;
                (buf, (u32::from_le_bytes(*length) as usize).saturating_add(4))
            }
            // One bit for each row.
            Page::DataPage { buf, num_values, .. } if self.nullable => {
                (buf, (*num_values as usize).div_ceil(8))
            }
            Page::DataPage { buf, .. } | Page::DictionaryPage { buf, .. } => (buf, 0),
        };
        if begin > buffer.len() { Err(bad("its levels are cut off")) } else { Ok(buffer.slice(begin..)) }
    }
}

impl PageReader for Pages {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        loop {
            let Some(page) = self.inner.get_next_page()? else { return Ok(None) };
            self.check(&page)?;
            // The decoder would take an empty page for the end of the column.
            if page.num_values() > 0 || matches!(page, Page::DictionaryPage { .. }) {
                return Ok(Some(page));
            }
        }
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.inner.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.inner.skip_next_page()
    }
}

impl Iterator for Pages {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

fn bad(why: &str) -> ParquetError {
    ParquetError::General(format!("a page is damaged: {why}"))
}

fn require(holds: bool, why: &str) -> Result<()> {
    if holds { Ok(()) } else { Err(bad(why)) }
}

/// Where the integers end that are at the beginning of `data` in the encoding `DELTA_BINARY_PACKED`; `None` if they are more than
/// `most`, or damaged.
fn lengths_end(data: &[u8], most: usize) -> Option<usize> {
    let mut at = 0;
    let block = varint(data, &mut at)?;
    let parts = varint(data, &mut at)?;
    let count = varint(data, &mut at)?;
    let _first = varint(data, &mut at)?;
    let part = block.checked_div(parts).filter(|&part| part > 0)?;
    if count > most {
        return None;
    }
    let mut left = count.saturating_sub(1);
    while left > 0 {
        let _least = varint(data, &mut at)?;
        let widths = data.get(at..)?.get(..parts)?;
        at += parts;
        for &width in widths {
            if left > 0 {
                at = at.checked_add(part.checked_mul(usize::from(width))? / 8)?;
            }
            left = left.saturating_sub(part);
        }
    }
    (at <= data.len()).then_some(at)
}

/// An integer of seven bits in a byte, the lowest first.
fn varint(data: &[u8], at: &mut usize) -> Option<usize> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = *data.get(*at)?;
        *at += 1;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return usize::try_from(number).ok();
        }
    }
    None
}
