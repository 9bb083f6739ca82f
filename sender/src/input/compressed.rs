//! Compressed inputs, by their first bytes: a thread decompresses them.

use std::fmt;
use std::io::{self, Cursor, ErrorKind, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use flate2::read::MultiGzDecoder;
use records::format::Format;

use super::Consumed;

/// How many bytes the thread decompresses at once.
const BLOCK: usize = 256 << 10;
/// How many blocks may wait for the reader.
const WAITING: usize = 4;

/// Returns the plain bytes of an input, and if it is compressed, how much of it has been read.
///
/// # Errors
/// Those of the input, or no thread can be started.
pub(super) fn open(mut inner: Box<dyn Read + Send>) -> io::Result<(Box<dyn Read + Send>, Option<Consumed>)> {
    let first = Format::read_first(&mut inner)?;
    let is_gzip = Format::of(&first) == Some(Format::Gzip);
    let whole = Cursor::new(first).chain(inner);
    if !is_gzip {
        return Ok((Box::new(whole), None));
    }
    let (consumed, failed) = (Consumed::default(), Arc::new(AtomicBool::new(false)));
    let input = Counted { inner: whole, consumed: consumed.clone(), failed: Arc::clone(&failed) };
    let (sender, blocks) = sync_channel(WAITING);
    let counted = consumed.clone();
    std::thread::Builder::new().name("decompress".into()).spawn(move || {
        let decoder = MultiGzDecoder::new(io::BufReader::with_capacity(BLOCK, input));
        decompress(decoder, &sender, |error| match failed.load(Ordering::Relaxed) {
            // The input's own error says what is wrong.
            true => error,
            false => io::Error::new(error.kind(), Broken { place: counted.get(), error }),
        });
    })?;
    Ok((Box::new(Blocks { blocks, block: Cursor::default(), is_over: false }), Some(consumed)))
}

/// Why an input cannot be decompressed.
#[derive(Debug)]
struct Broken {
    /// How many bytes of it were read.
    place: u64,
    error: io::Error,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = self.place;
        match self.error.kind() {
            ErrorKind::UnexpectedEof => {
                write!(f, "it is cut off: its gzip stream has no end after {place} bytes")
            }
            _ => write!(f, "it is damaged, at or before byte {place} of its gzip stream: {}", self.error),
        }
    }
}

impl std::error::Error for Broken {}

/// Counts what is read of an input, and notes when that fails.
struct Counted<R> {
    inner: R,
    consumed: Consumed,
    failed: Arc<AtomicBool>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(out);
        match &read {
            Ok(read) => self.consumed.add(*read as u64),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => self.failed.store(true, Ordering::Relaxed),
        }
        read
    }
}

/// Decompresses until the end, an error, or the end of the reader. Sends what there is, since a stream may be slow.
fn decompress(
    mut decoder: impl Read,
    blocks: &SyncSender<io::Result<Vec<u8>>>,
    explain: impl Fn(io::Error) -> io::Error,
) {
    loop {
        let mut block = vec![0; BLOCK];
        let read = match decoder.read(&mut block) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            read => read,
        };
        let is_end = !matches!(read, Ok(1..));
        let read = read.map_err(&explain).map(|read| {
            block.truncate(read);
            block
        });
        if blocks.send(read).is_err() || is_end {
            return;
        }
    }
}

/// Reads what the thread has decompressed.
struct Blocks {
    blocks: Receiver<io::Result<Vec<u8>>>,
    block: Cursor<Vec<u8>>,
    is_over: bool,
}

impl Read for Blocks {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.block.position() == self.block.get_ref().len() as u64 {
            if self.is_over {
                return Ok(0);
            }
            let gone = |_| io::Error::other("the thread that decompresses has ended");
            let block = self.blocks.recv().map_err(gone)??;
            // The last block is empty.
            self.is_over = block.is_empty();
            self.block = Cursor::new(block);
        }
        self.block.read(out)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use proptest::prelude::*;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn read(bytes: Vec<u8>) -> io::Result<(Vec<u8>, Option<u64>)> {
        let (mut input, consumed) = open(Box::new(Cursor::new(bytes)))?;
        let mut plain = Vec::new();
        input.read_to_end(&mut plain)?;
        Ok((plain, consumed.map(|consumed| consumed.get())))
    }

    proptest! {
        #[test]
        fn members_are_read_one_after_the_other(
            members in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3000), 1..4),
        ) {
            let compressed: Vec<u8> = members.iter().flat_map(|member| gzip(member)).collect();
            let length = compressed.len() as u64;
            prop_assert_eq!(read(compressed).unwrap(), (members.concat(), Some(length)));
        }

        #[test]
        fn other_bytes_stay_as_they_are(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            prop_assume!(Format::of(&bytes) != Some(Format::Gzip));
            prop_assert_eq!(read(bytes.clone()).unwrap(), (bytes, None));
        }
    }

    #[test]
    fn a_broken_stream_is_an_error_that_says_where() {
        let rows: String = (0..200_000).map(|i| format!("{i}\n")).collect();
        let whole = gzip(rows.as_bytes());
        for cut in [4, 12, whole.len() / 2, whole.len() - 1] {
            let error = read(whole[..cut].to_vec()).unwrap_err().to_string();
            assert_eq!(error, format!("it is cut off: its gzip stream has no end after {cut} bytes"));
        }
        let mut damaged = whole.clone();
        let checksum = whole.len() - 8;
        damaged[checksum] ^= 1;
        let error = read(damaged).unwrap_err().to_string();
        assert!(
            error.starts_with("it is damaged, at or before byte ") && error.contains("checksum"),
            "{error}"
        );
        let error = read([&whole[..], b"trailing bytes that are no gzip"].concat()).unwrap_err().to_string();
        assert!(error.starts_with("it is damaged, at or before byte "), "{error}");
        let large = vec![b'x'; 3 * BLOCK];
        assert_eq!(read(gzip(&large)).unwrap().0, large);
    }
}
