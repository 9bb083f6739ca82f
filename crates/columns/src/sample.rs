//! Rows that are spread over an input.

/// What a pass over an input finds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Survey {
    /// The types of its columns.
    pub types: Vec<crate::ColumnType>,
    /// The number of its rows, if all were seen.
    pub rows: Option<u64>,
    /// Some of its records, in their order.
    pub sample: Vec<Vec<u8>>,
}

impl Survey {
    /// The most records of a sample.
    pub const MOST_ROWS: usize = 20_000;
    /// The most bytes of a sample of several records.
    pub const MOST_BYTES: usize = 8 << 20;

    /// A survey of the first records of an input with this number of columns.
    pub fn of_first(records: &[&[u8]], width: usize) -> Self {
        let mut sampler = Sampler::default();
        records.iter().for_each(|record| sampler.see(record));
        let types = crate::of_records(records.iter().copied(), width);
        Self { types, rows: None, sample: sampler.into_records() }
    }
}

/// Collects records at equal distances, from an input whose length is unknown.
#[derive(Debug)]
pub(crate) struct Sampler {
    records: Vec<Vec<u8>>,
    bytes: usize,
    /// The distance of two records.
    every: u64,
    seen: u64,
}

impl Default for Sampler {
    fn default() -> Self {
        Self { records: Vec::new(), bytes: 0, every: 1, seen: 0 }
    }
}

impl Sampler {
    pub(crate) fn see(&mut self, record: &[u8]) {
        if self.seen.is_multiple_of(self.every) {
            self.bytes += record.len();
            self.records.push(record.to_vec());
            while self.records.len() > Survey::MOST_ROWS
                || self.bytes > Survey::MOST_BYTES && self.records.len() > 1
            {
                self.thin_out();
            }
        }
        self.seen += 1;
    }

    fn thin_out(&mut self) {
        let mut is_kept = false;
        self.records.retain(|_| {
            is_kept = !is_kept;
            is_kept
        });
        self.bytes = self.records.iter().map(Vec::len).sum();
        self.every *= 2;
    }

    pub(crate) fn into_records(self) -> Vec<Vec<u8>> {
        self.records
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_spread_evenly() {
        for rows in [0, 1, Survey::MOST_ROWS, Survey::MOST_ROWS + 1, 10 * Survey::MOST_ROWS] {
            let mut sampler = Sampler::default();
            (0..rows).for_each(|row| sampler.see(row.to_string().as_bytes()));
            let numbers: Vec<usize> = sampler
                .into_records()
                .iter()
                .map(|record| String::from_utf8_lossy(record).parse().unwrap())
                .collect();
            assert!(
                numbers.len() <= Survey::MOST_ROWS && numbers.len() >= rows.min(Survey::MOST_ROWS / 2),
                "{rows}"
            );
            let distance = numbers.get(1).copied().unwrap_or(1);
            assert!(numbers.iter().enumerate().all(|(i, number)| *number == i * distance), "{rows}");
        }
    }

    #[test]
    fn a_sample_of_long_records_has_few() {
        let mut sampler = Sampler::default();
        (0..100).for_each(|_| sampler.see(&vec![b'x'; Survey::MOST_BYTES / 4]));
        assert!((2..=4).contains(&sampler.into_records().len()));
    }
}
