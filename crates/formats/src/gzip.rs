//! Gzip by several threads: each piece of the bytes becomes a member, and a gzip file is a sequence of members.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use flate2::Compression;
use flate2::write::GzEncoder;
use parking_lot::Mutex;

/// Bytes in a member.
const PIECE: usize = 1 << 20;

/// A compressed member.
type Member = io::Result<Vec<u8>>;

/// What a thread compresses, and where it sends the member.
struct Task {
    bytes: Vec<u8>,
    member: SyncSender<Member>,
}

/// Writes gzip members to `out`, in order.
pub(crate) struct Gzip<W> {
    out: W,
    bytes: Vec<u8>,
    tasks: Option<SyncSender<Task>>,
    /// The members that are being compressed, in order; at most two for each thread.
    members: std::collections::VecDeque<Receiver<Member>>,
    threads: Vec<JoinHandle<()>>,
    /// Whether a member has been begun; an empty file has one, too.
    has_member: bool,
}

impl<W: Write> Gzip<W> {
    /// Compresses with this many threads.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub(crate) fn new(out: W, threads: usize) -> io::Result<Self> {
        let (tasks, receiver) = sync_channel::<Task>(threads);
        let receiver = Arc::new(Mutex::new(receiver));
        let threads = (0..threads).map(|_| {
            let receiver = Arc::clone(&receiver);
            std::thread::Builder::new().name("gzip".into()).spawn(move || {
                loop {
                    let task = receiver.lock().recv();
                    let Ok(Task { bytes, member }) = task else { return };
                    // The writer may have failed, and wait for no more.
                    let _ = member.send(compressed(&bytes));
                }
            })
        });
        let threads = threads.collect::<io::Result<_>>()?;
        let members = std::collections::VecDeque::new();
        Ok(Self { out, bytes: Vec::new(), tasks: Some(tasks), members, threads, has_member: false })
    }

    /// Writes the last member, and returns the output.
    ///
    /// # Errors
    /// Those of the output.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        if !self.bytes.is_empty() || !self.has_member {
            self.compress()?;
        }
        self.tasks = None;
        while let Some(member) = self.members.pop_front() {
            self.write_member(&member)?;
        }
        for thread in self.threads.drain(..) {
            thread.join().map_err(|_| io::Error::other("a thread that compresses has panicked"))?;
        }
        Ok(self.out)
    }

    /// Gives the piece so far to a thread.
    fn compress(&mut self) -> io::Result<()> {
        if self.members.len() == 2 * self.threads.len()
            && let Some(oldest) = self.members.pop_front()
        {
            self.write_member(&oldest)?;
        }
        let (member, receiver) = sync_channel(1);
        let task = Task { bytes: std::mem::take(&mut self.bytes), member };
        let gone = || io::Error::other("the threads that compress have ended");
        self.tasks.as_ref().ok_or_else(gone)?.send(task).map_err(|_| gone())?;
        self.members.push_back(receiver);
        self.has_member = true;
        Ok(())
    }

    fn write_member(&mut self, member: &Receiver<Member>) -> io::Result<()> {
        let member = member.recv().map_err(|_| io::Error::other("a thread that compresses has ended"))?;
        self.out.write_all(&member?)
    }
}

impl<W: Write> Write for Gzip<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PIECE - self.bytes.len());
        self.bytes.extend_from_slice(&bytes[..taken]);
        if self.bytes.len() == PIECE {
            self.compress()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn compressed(bytes: &[u8]) -> Member {
    let mut member = GzEncoder::new(Vec::new(), Compression::fast());
    member.write_all(bytes)?;
    member.finish()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::MultiGzDecoder;

    use super::*;

    fn gzip(bytes: &[u8], threads: usize, step: usize) -> Vec<u8> {
        let mut gzip = Gzip::new(Vec::new(), threads).unwrap();
        bytes.chunks(step).for_each(|chunk| gzip.write_all(chunk).unwrap());
        gzip.finish().unwrap()
    }

    #[test]
    fn bytes_read_back_and_threads_and_steps_do_not_matter() {
        for length in [0, 1, PIECE - 1, PIECE, PIECE + 1, 7 * PIECE + 5] {
            let bytes: Vec<u8> = (0..length).map(|i| (i * i / 7) as u8).collect();
            let expected = gzip(&bytes, 1, 1000);
            let mut plain = Vec::new();
            MultiGzDecoder::new(&expected[..]).read_to_end(&mut plain).unwrap();
            assert!(plain == bytes, "{length}");
            for (threads, step) in [(2, 77_777), (5, 3 * PIECE)] {
                assert!(gzip(&bytes, threads, step) == expected, "{length} {threads}");
            }
        }
    }

    #[test]
    fn an_error_of_the_output_is_returned() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut gzip = Gzip::new(Full, 1).unwrap();
        let written = gzip.write_all(&vec![0; 10 * PIECE]);
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
