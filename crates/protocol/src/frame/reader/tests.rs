use proptest::prelude::*;

use super::super::{payloads, push};
use super::*;

/// A stream that returns its bytes in pieces of the given sizes, in rotation. If `blocks` is set, each piece is preceded by a
/// `WouldBlock` error.
struct Pieces {
    bytes: Vec<u8>,
    at: usize,
    sizes: Vec<usize>,
    turn: usize,
    blocks: bool,
    reads: usize,
}

impl Read for Pieces {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.reads += 1;
        if self.blocks && self.reads % 2 == 1 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let size = self.sizes[self.turn % self.sizes.len()];
        self.turn += 1;
        let n = size.min(out.len()).min(self.bytes.len() - self.at);
        out[..n].copy_from_slice(&self.bytes[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

fn reader(bytes: Vec<u8>, sizes: Vec<usize>) -> FrameReader<Pieces> {
    let pieces = Pieces { bytes, at: 0, sizes, turn: 0, blocks: false, reads: 0 };
    FrameReader::new(pieces, "the test", 1 << 20)
}

/// Repeats `read` after each `WouldBlock` error.
fn retry_blocked<T>(mut read: impl FnMut() -> Result<T, FrameError>) -> T {
    loop {
        match read() {
            Err(FrameError::Io { source, .. }) if source.kind() == io::ErrorKind::WouldBlock => {}
            other => return other.unwrap(),
        }
    }
}

fn stream(payloads: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for p in payloads {
        push(&mut bytes, p);
    }
    bytes
}

proptest! {
    #[test]
    fn frames_read_back_whatever_the_pieces(
        sent in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..2000), 0..40),
        sizes in prop::collection::vec(1usize..5000, 1..5),
    ) {
        let mut reader = reader(stream(&sent), sizes);
        for payload in &sent {
            prop_assert_eq!(&reader.next_frame().unwrap().unwrap()[..], &payload[..]);
        }
        prop_assert!(reader.next_frame().unwrap().is_none());
    }

    /// EOT ends the rows of a plain client. A mark ends those of our own programs, and there EOT is a row like others.
    #[test]
    fn runs_are_the_frames_in_order(
        sent in prop::collection::vec(prop::collection::vec(0x20u8..0x7f, 0..300), 0..60),
        has_marks: bool,
        sizes in prop::collection::vec(1usize..5000, 1..5),
        frames in 1usize..20,
        bytes in 1usize..2000,
    ) {
        let mut sent = sent;
        if has_marks {
            sent.push(vec![EOT]);
        }
        let mut sent_bytes = stream(&sent);
        match has_marks {
            true => super::super::push_end(&mut sent_bytes),
            false => push(&mut sent_bytes, &[EOT]),
        }
        let mut reader = reader(sent_bytes, sizes);
        if has_marks {
            reader.allow_marks();
        }
        let mut got = Vec::new();
        loop {
            let (run, end) = reader.run(frames, bytes).unwrap();
            prop_assert!(run.frames <= frames && (run.frames <= 1 || run.bytes.len() <= bytes));
            prop_assert_eq!(payloads(&run.bytes).count(), run.frames);
            got.extend(payloads(&run.bytes).map(<[u8]>::to_vec));
            match end {
                RunEnd::Full => prop_assert!(run.frames > 0),
                RunEnd::End => break,
                RunEnd::Closed => prop_assert!(false, "closed before the end of the rows"),
            }
        }
        prop_assert_eq!(got, sent);
    }

    /// Blocks are reused while earlier bytes are still held, which must not change.
    #[test]
    fn returned_bytes_never_change(
        lengths in prop::collection::vec(prop_oneof![0usize..300, 0usize..600_000], 1..12),
        sizes in prop::collection::vec(prop_oneof![1usize..300_000, 200_000usize..300_000], 1..5),
        asks in prop::collection::vec((any::<bool>(), any::<bool>()), 1..6),
        blocks: bool,
    ) {
        let payload = |(i, &length): (usize, &usize)| {
            (0..length).map(|at| (at / 7 + i * 31) as u8).chain([b'.', b'.']).collect()
        };
        let sent: Vec<Vec<u8>> = lengths.iter().enumerate().map(payload).collect();
        let mut reader = reader(stream(&sent), sizes);
        reader.inner.blocks = blocks;
        let (mut held, mut at) = (Vec::new(), 0);
        for (takes_run, holds) in asks.into_iter().cycle() {
            let (bytes, frames) = if takes_run {
                let (run, _) = retry_blocked(|| reader.run(5, 100_000));
                (run.bytes, run.frames)
            } else {
                let Some(frame) = retry_blocked(|| reader.next_frame()) else { break };
                prop_assert_eq!(&frame[..], &sent[at][..]);
                (frame, 1)
            };
            if takes_run && frames == 0 {
                break;
            }
            if takes_run {
                prop_assert_eq!(&bytes[..], &stream(&sent[at..at + frames])[..]);
            }
            if holds {
                held.push((at, takes_run, frames, bytes));
            }
            at += frames;
        }
        prop_assert_eq!(at, sent.len());
        for (at, is_run, frames, bytes) in held {
            let wanted = if is_run { stream(&sent[at..at + frames]) } else { sent[at].clone() };
            prop_assert!(bytes == wanted, "frame {at} has changed");
        }
    }

    #[test]
    fn a_cut_stream_is_truncated_and_never_panics(
        sent in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 1..10),
        cut in any::<prop::sample::Index>(),
    ) {
        let whole = stream(&sent);
        let cut = cut.index(whole.len());
        let mut reader = reader(whole[..cut].to_vec(), vec![7]);
        let mut taken = 0;
        let outcome = loop {
            match reader.next_frame() {
                Ok(Some(payload)) => taken += PREFIX + payload.len(),
                other => break other,
            }
        };
        match outcome {
            Ok(None) => prop_assert_eq!(taken, cut),
            Err(FrameError::Truncated { .. }) => prop_assert!(taken < cut),
            other => prop_assert!(false, "unexpected {:?}", other),
        }
    }
}

#[test]
fn large_frames_and_long_runs_need_few_reads() {
    let large = 1 << 20;
    let mut one = reader(stream(&[vec![7; large]]), vec![usize::MAX]);
    assert_eq!(one.next_frame().unwrap().unwrap().len(), large);
    // The first read has 16 KiB, and each one doubles.
    assert!(one.inner.reads <= 8, "{}", one.inner.reads);

    let rows = vec![vec![b'x'; 50]; 20_000];
    let mut many = reader(stream(&rows), vec![usize::MAX]);
    assert_eq!(many.run(rows.len(), usize::MAX).unwrap().0.frames, rows.len());
    assert!(many.inner.reads <= 12, "{}", many.inner.reads);
}

#[test]
fn a_large_first_frame_arrives_within_its_deadline() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let payload = vec![b'x'; 15 << 20];
    let sending = std::thread::spawn(move || super::super::write(&mut stream, &payload));
    let mut reader = FrameReader::new(listener.accept().unwrap().0, "the test", 16 << 20);
    let frame = reader.next_frame_within(Duration::from_secs(60)).unwrap().unwrap();
    assert!(frame.len() == 15 << 20 && frame.iter().all(|&byte| byte == b'x'));
    sending.join().unwrap().unwrap();
}

#[test]
fn a_frame_over_the_limit_is_refused_before_its_payload_arrives() {
    let mut reader = reader(u32::MAX.to_be_bytes().to_vec(), vec![4]);
    let error = reader.next_frame().unwrap_err().to_string();
    assert_eq!(error, "the test announced a frame of 4294967295 bytes; the limit is 1048576");
}
