//! Generates fake rows. Row *i* depends only on the seed and *i*, so a sender can start anywhere.
//!
//! The `fake` crate generates a vocabulary of names and phrases once. A row picks from it by a hash of its number, which is
//! far faster than generating words for each row.

use chacha20::ChaCha8Rng;
use fake::Fake;
use fake::faker::company::en::{Bs, BsNoun, BsVerb, Buzzword, CatchPhrase, CompanyName};
use fake::faker::name::en::LastName;
use rand::SeedableRng;
use records::values::{write_escaped, write_value};

const NAMES: usize = 1 << 11;
const PHRASES: usize = 1 << 11;

/// Generates rows with the columns of [`HEADER`](crate::HEADER).
#[derive(Debug)]
pub struct FakeRows {
    seed: u64,
    /// Quoted as in a CSV.
    names: Vec<Vec<u8>>,
    heads: Vec<Phrase>,
    tails: Vec<Phrase>,
}

/// A part of a description.
#[derive(Debug)]
struct Phrase {
    /// With quotes doubled, so that it can stand between quotes.
    escaped: Vec<u8>,
    needs_quotes: bool,
}

impl Phrase {
    fn new(text: &str) -> Self {
        let mut escaped = Vec::new();
        write_escaped(text.as_bytes(), &mut escaped);
        Self { escaped, needs_quotes: text.contains(['"', ',']) }
    }
}

impl FakeRows {
    pub fn new(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let names = (0..NAMES).map(|i| {
            let name: String = if i % 8 == 0 {
                let last: [&str; 3] = std::array::from_fn(|_| LastName().fake_with_rng(&mut rng));
                format!("{}, {} and {}", last[0], last[1], last[2])
            } else {
                CompanyName().fake_with_rng(&mut rng)
            };
            let mut value = Vec::new();
            write_value(name.as_bytes(), &mut value);
            value
        });
        let names = names.collect();
        let heads = (0..PHRASES).map(|i| {
            let phrase: String = CatchPhrase().fake_with_rng(&mut rng);
            if i % 16 == 0 {
                let word: String = Buzzword().fake_with_rng(&mut rng);
                Phrase::new(&format!("\"{word}\" {phrase}"))
            } else {
                Phrase::new(&phrase)
            }
        });
        let heads = heads.collect();
        let tails = (0..PHRASES).map(|i| {
            let phrase: String = Bs().fake_with_rng(&mut rng);
            let verb: &str = BsVerb().fake_with_rng(&mut rng);
            let noun: &str = BsNoun().fake_with_rng(&mut rng);
            Phrase::new(&match i % 8 {
                0 => format!(" to {phrase}, and to {verb} {noun}"),
                1 => format!(" to {phrase} and {verb} {noun}"),
                _ => format!(" to {phrase}"),
            })
        });
        let tails = tails.collect();
        Self { seed, names, heads, tails }
    }

    /// Appends row `i`, without a line end.
    pub fn write(&self, i: u64, out: &mut Vec<u8>) {
        let mut draws = Draws::new(self.seed, i);
        out.extend_from_slice(itoa::Buffer::new().format(i).as_bytes());
        out.push(b',');
        out.extend_from_slice(itoa::Buffer::new().format(draws.below(100_000) + 1).as_bytes());
        out.push(b',');
        out.extend_from_slice(zmij::Buffer::new().format_finite(draws.unit()).as_bytes());
        out.push(b',');
        let picks = draws.next();
        out.extend_from_slice(&self.names[picks as usize % NAMES]);
        out.push(b',');
        let head = &self.heads[(picks >> 20) as usize % PHRASES];
        let tail = &self.tails[(picks >> 40) as usize % PHRASES];
        let quoted = head.needs_quotes || tail.needs_quotes;
        if quoted {
            out.push(b'"');
        }
        out.extend_from_slice(&head.escaped);
        out.extend_from_slice(&tail.escaped);
        if quoted {
            out.push(b'"');
        }
    }
}

/// SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014), seeded per row.
struct Draws(u64);

impl Draws {
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

    fn new(seed: u64, row: u64) -> Self {
        Self(mix(mix(seed.wrapping_add(Self::STEP)) ^ row.wrapping_mul(Self::STEP)))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(Self::STEP);
        mix(self.0)
    }

    /// An integer below `bound`.
    fn below(&mut self, bound: u32) -> u32 {
        ((u64::from((self.next() >> 32) as u32) * u64::from(bound)) >> 32) as u32
    }

    /// A multiple of 2⁻⁵³ in [0, 1).
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;
    use proptest::prelude::*;

    static SEEDS: LazyLock<[FakeRows; 3]> =
        LazyLock::new(|| std::array::from_fn(|seed| FakeRows::new(seed as u64)));

    fn row(rows: &FakeRows, i: u64) -> String {
        let mut out = Vec::new();
        rows.write(i, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn rows_never_change_between_releases() {
        // Users compare the results of releases by their SHA-256, so these rows must never change.
        let rows = &SEEDS[0];
        let first: Vec<_> = (0..3).map(|i| row(rows, i)).collect();
        assert_eq!(first, EXPECTED);
        assert_ne!(row(&SEEDS[1], 0), first[0]);
    }

    const EXPECTED: [&str; 3] = [
        "0,33806,0.2691302712263999,Hermiston Inc,Front-line reciprocal synergy to synthesize e-business partnerships",
        "1,11261,0.45344829442480483,Towne Inc,\"Operative exuding challenge to engineer one-to-one platforms, and to brand portals\"",
        "2,40270,0.6220820049431679,Wiza Group,\"\"\"Face to face\"\" Open-source clear-thinking access to engineer global markets\"",
    ];

    proptest! {
        #[test]
        fn every_row_has_five_values_in_their_ranges(seed in 0usize..3, i: u64) {
            let mut joined = Vec::new();
            prop_assert_eq!(records::join(row(&SEEDS[seed], i).as_bytes(), 0x1f, &mut joined), Ok(5));
            let joined = String::from_utf8(joined).unwrap();
            let values: Vec<_> = joined.split('\x1f').collect();
            prop_assert_eq!(values[0].parse::<u64>().unwrap(), i);
            prop_assert!((1..=100_000).contains(&values[1].parse::<u32>().unwrap()));
            prop_assert!((0.0..1.0).contains(&values[2].parse::<f64>().unwrap()));
            prop_assert!(!values[3].is_empty() && !values[4].is_empty());
        }
    }

    #[test]
    fn some_rows_have_commas_and_quotes_in_their_values() {
        let quoted = (0..10_000).filter(|&i| row(&SEEDS[0], i).contains('"')).count();
        let doubled = (0..10_000).filter(|&i| row(&SEEDS[0], i).contains("\"\"")).count();
        assert!((1500..4000).contains(&quoted), "{quoted} rows of 10,000 with quoted values");
        assert!((300..1200).contains(&doubled), "{doubled} rows of 10,000 with quotes in a value");
    }
}
