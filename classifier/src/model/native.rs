//! The built-in model. Its definition is public, so that anyone can check it:
//!
//! The record's values (unquoted), joined with 0x1F, are fed *slowness* times to one SHA-256. The score is the
//! top 53 bits of the digest's first 8 bytes (big-endian), times 2⁻⁵³, printed as the shortest decimal that
//! reads back the same, in the form of Python's `repr`: `0.5`, `0.0`, and below 10⁻⁴ `9.5e-05`.

use columns::print;
use sha2::{Digest, Sha256};

use super::{Columns, Model, ModelError, Place, Record, Request, Scored};

/// Separates values: ASCII "unit separator", which no CSV should contain.
const SEPARATOR: u8 = 0x1f;

#[derive(Debug)]
pub struct Native {
    slowness: u32,
    /// The printed score if the slowness is 0: without input, all digests are equal.
    constant: Option<Vec<u8>>,
    /// A buffer for a record's joined values.
    value: Vec<u8>,
    columns: Scored,
}

impl Native {
    /// Feeds a record's values to its hash `slowness` times.
    pub fn new(slowness: u32) -> Self {
        let constant = (slowness == 0).then(|| {
            let mut text = Vec::new();
            print::float64(score(&Sha256::digest(b"").into()), &mut text);
            text
        });
        Self { slowness, constant, value: Vec::new(), columns: Scored::default() }
    }
}

impl Model for Native {
    fn append(
        &mut self,
        _: Vec<u8>,
        request: &Request<'_>,
        results: &mut Vec<u8>,
    ) -> Result<Columns, ModelError> {
        let &Request { header, records, .. } = request;
        for record in records {
            results.extend_from_slice(record.bytes);
            results.push(b',');
            match &self.constant {
                Some(text) => results.extend_from_slice(text),
                None => {
                    self.value.clear();
                    join(*record, &mut self.value)?;
                    print::float64(hashed_score(&self.value, self.slowness), results);
                }
            }
            results.push(b'\n');
        }
        Ok(self.columns.columns(header))
    }

    fn place(&self) -> Place {
        // 100 rows at slowness 10 take about 50 µs.
        if self.slowness <= 100 { Place::Worker } else { Place::Thread }
    }
}

/// Appends a record's values with separators between them.
fn join(record: Record<'_>, value: &mut Vec<u8>) -> Result<(), ModelError> {
    if record.plain {
        value.extend(record.bytes.iter().map(|&byte| if byte == b',' { SEPARATOR } else { byte }));
        return Ok(());
    }
    records::join(record.bytes, SEPARATOR, value).map_err(|e| ModelError::permanent(e.to_string()))?;
    Ok(())
}

/// The score of a value that is fed to the hash `times` times.
fn hashed_score(value: &[u8], times: u32) -> f64 {
    let mut hash = Sha256::new();
    for _ in 0..times {
        hash.update(value);
    }
    score(&hash.finalize().into())
}

/// Maps a digest to a number in [0, 1).
fn score(digest: &[u8; 32]) -> f64 {
    let first = std::array::from_fn(|i| digest[i]);
    (u64::from_be_bytes(first) >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Typed;
    use columns::Table;
    use proptest::prelude::*;
    use std::time::Duration;

    fn classify(slowness: u32, record: &str) -> String {
        let mut results = Vec::new();
        let plain = !record.contains(['"', '\n']);
        let record = Record { bytes: record.as_bytes(), plain };
        let typed = Typed { table: &Table::default(), rows: 0..0 };
        let request = Request { header: b"", records: &[record], typed, numbers: None, limit: Duration::MAX };
        Native::new(slowness).classify(&request, &mut results).unwrap();
        String::from_utf8(results).unwrap()
    }

    /// The definition, implemented literally.
    fn defined(slowness: u32, values: &[&str]) -> f64 {
        let joined = values.join("\x1f");
        let mut hash = Sha256::new();
        for _ in 0..slowness {
            hash.update(joined.as_bytes());
        }
        let digest = hash.finalize();
        let first: [u8; 8] = digest[..8].try_into().unwrap();
        (u64::from_be_bytes(first) >> 11) as f64 * 2f64.powi(-53)
    }

    #[test]
    fn the_score_is_as_defined() {
        // The first value is from Python: hashlib.sha256(b"1\x1fa,b" * 10).
        assert_eq!(classify(10, "1,\"a,b\""), "1,\"a,b\",0.6206564684611318\n");
    }

    proptest! {
        #[test]
        fn long_and_short_records_agree_with_the_definition(
            values in prop::collection::vec("[a-z\u{e9}]{0,3000}", 1..4), slowness in 0u32..40,
        ) {
            let values: Vec<_> = values.iter().map(String::as_str).collect();
            let line = classify(slowness, &values.join(","));
            let score = line.trim_end().rsplit_once(',').unwrap().1;
            prop_assert_eq!(score.parse::<f64>().unwrap(), defined(slowness, &values));
        }

        #[test]
        fn printed_scores_read_back_the_same(bits in 0u64..1 << 53, shift in 0u32..53) {
            let number = (bits >> shift) as f64 * 2f64.powi(-53);
            let mut text = Vec::new();
            print::float64(number, &mut text);
            prop_assert_eq!(std::str::from_utf8(&text).unwrap().parse::<f64>().unwrap(), number);
        }
    }

    #[test]
    fn scores_look_as_python_prints_them() {
        let text = |score: f64| {
            let mut out = Vec::new();
            print::float64(score, &mut out);
            String::from_utf8(out).unwrap()
        };
        let unit = 2f64.powi(-53);
        assert_eq!(text(0.0), "0.0");
        assert_eq!(text(0.5), "0.5");
        assert_eq!(text(0.0001), "0.0001");
        assert_eq!(text(0.000095), "9.5e-05");
        assert_eq!(text(unit), "1.1102230246251565e-16");
        assert_eq!(text(1.0 - unit), "0.9999999999999999");
    }
}
