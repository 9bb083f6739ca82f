//! A model that sleeps for each row and uses no processor.

use std::time::Duration;

use super::{Columns, Model, ModelError, Request, Scored};

/// The sleeping model; all its classifications are `0.0`.
#[derive(Debug)]
pub struct Sleep {
    per_row: Duration,
    columns: Scored,
}

impl Sleep {
    pub fn new(per_row: Duration) -> Self {
        Self { per_row, columns: Scored::default() }
    }
}

impl Model for Sleep {
    fn append(
        &mut self,
        _: Vec<u8>,
        request: &Request<'_>,
        results: &mut Vec<u8>,
    ) -> Result<Columns, ModelError> {
        let &Request { header, records, .. } = request;
        let rows = u32::try_from(records.len()).unwrap_or(u32::MAX);
        std::thread::sleep(self.per_row.saturating_mul(rows));
        for record in records {
            results.extend_from_slice(record.bytes);
            results.extend_from_slice(b",0.0\n");
        }
        Ok(self.columns.columns(header))
    }
}
