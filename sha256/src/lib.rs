//! SHA-256 of several messages at once, each of which is the same bytes again and again.
//!
//! A processor with instructions for SHA-256 spends half of its time waiting: each round needs what the one before has
//! given. With the rounds of several messages in turns ("multi-buffer"), nothing waits. What the processor can do is found
//! out when the program runs; on others, messages are hashed one after the other.

#[cfg(target_arch = "x86_64")]
mod x86;

use sha2::{Digest, Sha256};

/// Bytes that are hashed together.
const BLOCK: usize = 64;
/// As many messages are under way at once.
const LANES: usize = 4;
/// So many repetitions of any value are a whole number of blocks.
const PERIOD: usize = BLOCK;
/// Longer values are hashed alone, since they are kept repeated.
const LONGEST: usize = 16 << 10;
/// A single message is quicker in one long piece than in many short ones.
const PIECE: usize = 4 << 10;

type State = [u32; 8];
type Blocks<'a> = &'a [[u8; BLOCK]];
/// Continues the states by as many blocks as the lane with the fewest has: so many.
type Compress = fn(&mut [State; LANES], [Blocks<'_>; LANES]) -> usize;

const INITIAL: State =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// Hashes, with space that is used again.
#[derive(Debug)]
pub struct Hasher {
    /// If this processor can.
    compress: Option<Compress>,
    lanes: [Lane; LANES],
    states: [State; LANES],
    value: Vec<u8>,
}

impl Default for Hasher {
    fn default() -> Self {
        #[cfg(target_arch = "x86_64")]
        let compress = x86::compress();
        #[cfg(not(target_arch = "x86_64"))]
        let compress = None;
        Self::with(compress)
    }
}

impl Hasher {
    fn with(compress: Option<Compress>) -> Self {
        let lanes = std::array::from_fn(|_| Lane::default());
        Self { compress, lanes, states: [INITIAL; LANES], value: Vec::new() }
    }

    /// Hashes `count` values, each `times` times in a row. `value` appends the value of an index, and `digest` is told its digest,
    /// not necessarily in the order of the indices.
    ///
    /// # Errors
    /// Those of `value`. Some digests have been told then.
    pub fn digest_all<E>(
        &mut self,
        times: u32,
        count: usize,
        mut value: impl FnMut(usize, &mut Vec<u8>) -> Result<(), E>,
        mut digest: impl FnMut(usize, [u8; 32]),
    ) -> Result<(), E> {
        self.lanes.iter_mut().for_each(|lane| lane.message = None);
        let mut next = 0;
        loop {
            for (lane, state) in self.lanes.iter_mut().zip(&mut self.states) {
                while lane.message.is_none() && next < count {
                    self.value.clear();
                    value(next, &mut self.value)?;
                    if self.compress.is_some() && self.value.len() <= LONGEST {
                        lane.begin(next, &self.value, times);
                        *state = INITIAL;
                    } else {
                        digest(next, alone(&self.value, times));
                    }
                    next += 1;
                }
            }
            let runs = self.lanes.each_ref().map(Lane::run);
            // A lane without a message does again what another one does, and nobody looks at it.
            let (Some(compress), Some(any)) = (self.compress, runs.iter().find_map(|run| *run)) else {
                return Ok(());
            };
            let done = compress(&mut self.states, runs.map(|run| run.unwrap_or(any)));
            for (lane, state) in self.lanes.iter_mut().zip(&self.states) {
                if let Some(index) = lane.advance(done) {
                    digest(index, bytes(state));
                }
            }
        }
    }
}

/// A message under way, in pieces: repetitions of its value, gone through again and again, and its end.
#[derive(Debug, Default)]
struct Lane {
    /// Whose message it is.
    message: Option<usize>,
    /// A whole number of blocks, of which `body` more are to come, from `at` on.
    period: Vec<u8>,
    body: usize,
    at: usize,
    /// What comes after these, padded. A short message is all here.
    end: Vec<u8>,
    end_at: usize,
}

impl Lane {
    fn begin(&mut self, message: usize, value: &[u8], times: u32) {
        let (length, repeated) = (value.len() as u64 * u64::from(times), (times as usize).min(PERIOD));
        self.message = Some(message);
        self.end.clear();
        (self.body, self.at, self.end_at) = (0, 0, 0);
        if repeated < PERIOD {
            repeat(value, repeated, &mut self.end);
        } else {
            self.period.clear();
            repeat(value, PERIOD, &mut self.period);
            self.body = (length / BLOCK as u64) as usize;
            let rest = (length % self.period.len().max(1) as u64) as usize;
            self.end.extend_from_slice(&self.period[rest / BLOCK * BLOCK..rest]);
        }
        self.end.push(0x80);
        let whole = (self.end.len() + size_of::<u64>()).next_multiple_of(BLOCK);
        self.end.resize(whole - size_of::<u64>(), 0);
        self.end.extend_from_slice(&(length * 8).to_be_bytes());
    }

    /// The blocks that come next, if there is a message.
    fn run(&self) -> Option<Blocks<'_>> {
        self.message?;
        if self.body == 0 {
            return Some(&self.end.as_chunks().0[self.end_at..]);
        }
        let (period, _) = self.period.as_chunks();
        Some(&period[self.at..period.len().min(self.at + self.body)])
    }

    /// So many blocks are done. Gives the message if it was at its end.
    fn advance(&mut self, blocks: usize) -> Option<usize> {
        self.message?;
        if self.body > 0 {
            self.body -= blocks;
            self.at = (self.at + blocks) % (self.period.len() / BLOCK);
            return None;
        }
        self.end_at += blocks;
        if self.end_at < self.end.len() / BLOCK { None } else { self.message.take() }
    }
}

/// Appends a value, so many times.
fn repeat(value: &[u8], times: usize, out: &mut Vec<u8>) {
    let (start, length) = (out.len(), value.len() * times);
    out.reserve(length + 2 * BLOCK);
    out.extend_from_slice(&value[..value.len().min(length)]);
    // What is there already is copied as a whole, since few long copies are quicker than many short ones.
    while out.len() - start < length {
        let more = (out.len() - start).min(length - (out.len() - start));
        out.extend_from_within(start..start + more);
    }
}

/// Hashes one message.
fn alone(value: &[u8], times: u32) -> [u8; 32] {
    let times = times as usize;
    let together = (PIECE / value.len().max(1)).clamp(1, times.max(1));
    let mut piece = Vec::new();
    repeat(value, together, &mut piece);
    let mut hash = Sha256::new();
    for _ in 0..times / together {
        hash.update(&piece);
    }
    hash.update(&piece[..value.len() * (times % together)]);
    hash.finalize().into()
}

fn bytes(state: &State) -> [u8; 32] {
    let mut bytes = [0; 32];
    for (four, word) in bytes.as_chunks_mut().0.iter_mut().zip(state) {
        *four = word.to_be_bytes();
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Digests in the order of the values.
    fn digests(hasher: &mut Hasher, times: u32, values: &[Vec<u8>]) -> Vec<[u8; 32]> {
        let mut digests = vec![None; values.len()];
        let value = |i: usize, out: &mut Vec<u8>| {
            out.extend_from_slice(&values[i]);
            Ok::<_, std::convert::Infallible>(())
        };
        let told = hasher.digest_all(times, values.len(), value, |i, digest| {
            assert!(digests[i].replace(digest).is_none(), "{i} comes once");
        });
        told.unwrap();
        digests.into_iter().map(Option::unwrap).collect()
    }

    proptest! {
        #[test]
        fn messages_at_once_have_the_digests_that_they_have_alone(
            jobs in prop::collection::vec(
                (prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..12), 0u32..200),
                1..4,
            ),
        ) {
            let mut hasher = Hasher::default();
            for (values, times) in jobs {
                let defined: Vec<[u8; 32]> = (values.iter())
                    .map(|value| Sha256::digest(value.repeat(times as usize)).into())
                    .collect();
                prop_assert_eq!(&digests(&mut hasher, times, &values), &defined);
                prop_assert_eq!(&digests(&mut Hasher::with(None), times, &values), &defined);
            }
        }
    }

    #[test]
    fn values_of_all_lengths_can_be_mixed() {
        let lengths = [0, LONGEST, LONGEST + 1, 55, 56, 63, 64, 65, 1, 3 * LONGEST];
        let values: Vec<_> = lengths.iter().map(|&length| vec![b'x'; length]).collect();
        for times in [0, 1, 63, 64, 65] {
            let defined: Vec<[u8; 32]> =
                values.iter().map(|value| Sha256::digest(value.repeat(times as usize)).into()).collect();
            assert_eq!(digests(&mut Hasher::default(), times, &values), defined, "{times} times");
        }
    }

    #[test]
    fn a_value_that_cannot_be_had_ends_it_and_spoils_nothing() {
        let mut hasher = Hasher::default();
        let value = |i: usize, out: &mut Vec<u8>| {
            out.push(0);
            if i == 5 { Err("no value") } else { Ok(()) }
        };
        assert_eq!(hasher.digest_all(1, 9, value, |_, _| ()), Err("no value"));
        assert_eq!(digests(&mut hasher, 1, &[b"abc".to_vec()]), [<[u8; 32]>::from(Sha256::digest(b"abc"))]);
    }
}
