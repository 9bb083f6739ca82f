//! Sending the rows, and coming back after a lost connection.
//!
//! The source says which row it wants next. All rows count as sent only when the source says that they are
//! classified and durable: until then it may ask for some of them again.

use std::io::Write;
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};
use process::ready::Ready;
use protocol::Temporary;
use protocol::frame::{self, DEFAULT_LIMIT, FrameReader};
use protocol::handshake::{self, SenderHello, SourceAnswer};
use protocol::token::Token;

use crate::file_monitor::FileMonitor;
use crate::input::{Input, WRITE_SIZE};
use crate::metrics::Metrics;

/// The source speaks every second; after this long, it is gone.
const SILENCE: Duration = Duration::from_secs(30);
/// How long the input may let the sender wait when the job has failed.
const FINAL_PAUSE: Duration = Duration::from_secs(1);
/// How long the source may take to hear that there is no way on.
const TELL_TIME: Duration = Duration::from_secs(5);
/// How often a lost source is looked for while the input lets the sender wait.
const LOOK: Duration = Duration::from_secs(1);
/// The pause before a lost connection is made anew.
const PAUSE: Duration = Duration::from_millis(100);
/// The pause when the source was busy, or not there.
const BUSY_PAUSE: Duration = Duration::from_secs(1);
/// So many connections in a row may be lost without the source having taken a row.
const MOST_IN_VAIN: u32 = 20;

/// Where to send, and how patiently.
#[derive(Debug, Clone)]
pub struct Target {
    /// The source's `HOST:PORT`.
    pub address: String,
    /// The job's token.
    pub token: Option<Token>,
    /// The name that this sender had before, if it has been started again; else it makes one up.
    pub session: Option<String>,
    /// Is written whenever the source has asked for a row.
    pub ready_file: Option<PathBuf>,
    /// How long to wait for the source, at first and whenever it is lost.
    pub patience: Duration,
    /// Is told what is sent.
    pub metrics: Metrics,
}

/// Why one connection did not bring the job to its end.
enum Failure {
    /// Another connection may do better.
    Lost(anyhow::Error),
    /// No other connection would.
    Final(anyhow::Error),
    /// Nor would it, and the source does not know why: the input cannot be read to its end.
    Input(anyhow::Error),
}

/// Sends all rows and waits until they are durable; says how many they are.
///
/// # Errors
/// A source that refuses, that fails, that is not there for longer than the target's patience, or that is lost
/// again and again without taking a row.
pub fn send_all(target: &Target, input: &mut dyn Input) -> anyhow::Result<u64> {
    let session = target.session.clone().map_or_else(session, Ok)?;
    let opening = SenderHello { session: Some(session), marks: true, failed: None };
    let mut asked_before = None;
    let mut sent = None;
    let mut in_vain = 0;
    let mut deadline = Instant::now() + target.patience;
    loop {
        let mut asked = None;
        let lost = match connection(target, &opening, input, deadline, &mut asked, &mut sent) {
            Ok(rows) => {
                // With the name of an earlier one, all rows are this sender's, whether or not it has sent them in this life.
                ensure!(
                    sent == Some(rows) || (sent.is_none() && target.session.is_some()),
                    "the source at {} says that all of {rows} rows are durable, and {} were sent: they are another \
                     sender's",
                    target.address,
                    sent.map_or_else(|| "not all".to_owned(), |sent| sent.to_string())
                );
                return Ok(rows);
            }
            Err(Failure::Final(error)) => return Err(error),
            Err(Failure::Input(error)) => {
                if let Err(untold) = tell_failure(target, &opening, &error) {
                    tracing::warn!("telling the source that there is no way on: {untold:#}");
                }
                return Err(error);
            }
            Err(Failure::Lost(error)) => error,
        };
        if asked.is_some() {
            // The source was there: patience begins anew, unless it only comes and goes.
            deadline = Instant::now() + target.patience;
            // A new generation asks for a row before those that the last one had taken.
            in_vain = if asked > asked_before { 0 } else { in_vain + 1 };
            asked_before = asked;
        }
        if in_vain == MOST_IN_VAIN || Instant::now() + PAUSE >= deadline {
            return Err(lost.context(format!("sending rows to {}: there is no way on", target.address)));
        }
        tracing::warn!("{lost:#}; trying again");
        // Who waits for its turn should not knock all the time.
        std::thread::sleep(if asked.is_some() { PAUSE } else { BUSY_PAUSE });
    }
}

/// One connection, to the end of the job. Notes in `asked` which row the source asked for, and in `sent` how many rows there
/// are when all are sent.
fn connection(
    target: &Target,
    opening: &SenderHello,
    input: &mut dyn Input,
    deadline: Instant,
    asked: &mut Option<u64>,
    sent: &mut Option<u64>,
) -> Result<u64, Failure> {
    let left = deadline.saturating_duration_since(Instant::now());
    let stream = net::connect("the source", &target.address, left).map_err(Failure::Final)?;
    handshake::send(&stream, target.token.as_ref(), opening).map_err(Failure::Lost)?;
    let answers = Answers::listen(&stream, target).map_err(Failure::Lost)?;
    let next = match answers.next()? {
        SourceAnswer::NextRow(row) => row,
        SourceAnswer::Done(rows) => return Ok(rows),
        SourceAnswer::Busy => return Err(Failure::Lost(anyhow!("another sender is sending"))),
        other => return Err(Failure::Final(anyhow!("the source began with {other:?}"))),
    };
    *asked = Some(next);
    let ready = Ready { input: input.guard().map(|guard| guard.identity().to_string()), ..Ready::default() };
    ready.write(target.ready_file.as_deref()).map_err(Failure::Final)?;
    match rows(&stream, input, next, &answers.durable, &target.metrics)? {
        Ok(all) => *sent = Some(all),
        Err(error) => {
            // The source may have said why it closed the connection.
            return match answers.next() {
                Ok(SourceAnswer::Done(rows)) => Ok(rows),
                Err(Failure::Final(reason)) => Err(Failure::Final(reason)),
                _ => Err(Failure::Lost(anyhow!(error).context("the connection to the source broke"))),
            };
        }
    }
    match answers.next()? {
        SourceAnswer::Done(rows) => Ok(rows),
        other => Err(Failure::Final(anyhow!("the source ended with {other:?}"))),
    }
}

/// Tells the source why the rest of the rows will not come, so that the job fails for that, and soon.
fn tell_failure(target: &Target, opening: &SenderHello, why: &anyhow::Error) -> anyhow::Result<()> {
    let stream = net::connect("the source", &target.address, TELL_TIME)?;
    net::limit_writes(&stream, TELL_TIME)?;
    let failed = Some(format!("the sender cannot go on: {why:#}"));
    handshake::send(&stream, target.token.as_ref(), &SenderHello { failed, ..opening.clone() })?;
    // It is taken, or refused, when the source closes the connection.
    let mut reader = FrameReader::new(stream, format!("the source at {}", target.address), DEFAULT_LIMIT);
    match reader.next_frame_within(TELL_TIME)? {
        Some(payload) => handshake::answer(&payload, reader.peer()),
        None => Ok(()),
    }
}

/// A name that only this sender has.
fn session() -> anyhow::Result<String> {
    let name = getrandom::u64().map_err(|e| anyhow!("making up a name for this sender: {e}"))?;
    Ok(format!("{name:016x}"))
}

/// What the source says, listened to on a thread of its own: also while the input lets the sender wait, somebody must hear
/// that the job has failed, or that the source is gone.
struct Answers {
    /// Rows before this one are durable.
    durable: Arc<AtomicU64>,
    said: Receiver<Result<SourceAnswer, Failure>>,
    /// Tells the thread, by being dropped, that this connection is over.
    _over: Sender<()>,
}

impl Answers {
    fn listen(stream: &TcpStream, target: &Target) -> anyhow::Result<Self> {
        let stream = stream.try_clone().context("splitting the connection to the source")?;
        let mut reader = FrameReader::new(stream, format!("the source at {}", target.address), DEFAULT_LIMIT);
        let (saying, said) = channel();
        let (over, is_over) = channel::<()>();
        let (patience, address) = (target.patience, target.address.clone());
        let durable = Arc::new(AtomicU64::new(0));
        let heard = Arc::clone(&durable);
        std::thread::Builder::new()
            .name("answers".into())
            .spawn(move || {
                let (last, limit) = loop {
                    match answer(&mut reader) {
                        Ok(SourceAnswer::Waiting) => {}
                        Ok(SourceAnswer::Durable(row)) => heard.store(row, Ordering::Relaxed),
                        // Nobody waits for it when the connection is over.
                        Ok(answer @ SourceAnswer::NextRow(_)) => drop(saying.send(Ok(answer))),
                        Ok(answer) => break (Ok(answer), patience),
                        Err(failure @ Failure::Final(_)) => break (Err(failure), FINAL_PAUSE),
                        Err(failure) => break (Err(failure), patience),
                    }
                };
                let words = match &last {
                    Ok(answer) => format!("the source ended with {answer:?}"),
                    Err(Failure::Lost(error) | Failure::Final(error) | Failure::Input(error)) => {
                        format!("{error:#}")
                    }
                };
                let is_lost = matches!(last, Err(Failure::Lost(_)));
                let _ = saying.send(last);
                let mut deadline = Instant::now() + limit;
                // Something may listen there and never say a word.
                let end = Instant::now() + limit.saturating_mul(10);
                while let Err(RecvTimeoutError::Timeout) =
                    is_over.recv_timeout(LOOK.min(deadline.saturating_duration_since(Instant::now())))
                {
                    let look = is_lost && Instant::now() < end;
                    if look && net::connect("the source", &address, LOOK).is_ok() {
                        // It is back, and has the next row when there is one.
                        deadline = end.min(Instant::now() + limit);
                    } else if Instant::now() >= deadline {
                        tracing::error!("{words}; the input has nothing more to say, so this ends");
                        std::process::exit(1);
                    }
                }
            })
            .context("starting a thread")?;
        Ok(Self { durable, said, _over: over })
    }

    /// The next answer that is not a sign of life.
    fn next(&self) -> Result<SourceAnswer, Failure> {
        self.said.recv().unwrap_or_else(|_| Err(Failure::Lost(anyhow!("the source has said its last word"))))
    }
}

/// The next answer; it comes within a second or so, since the source gives signs of life.
fn answer(reader: &mut FrameReader<TcpStream>) -> Result<SourceAnswer, Failure> {
    let payload = reader.next_frame_within(SILENCE).map_err(|e| Failure::Lost(e.into()))?;
    let Some(payload) = payload else {
        return Err(Failure::Lost(anyhow!("{} closed the connection", reader.peer())));
    };
    match handshake::answer(&payload, reader.peer()) {
        Ok(SourceAnswer::Failed(reason)) => Err(Failure::Final(anyhow!("the job failed: {reason}"))),
        Ok(answer) => Ok(answer),
        Err(error) if error.is::<Temporary>() => Err(Failure::Lost(error)),
        Err(error) => Err(Failure::Final(error)),
    }
}

/// Header, rows from `next` on, end; gives how many rows there are in all. A broken connection is the inner error.
fn rows(
    stream: &TcpStream,
    input: &mut dyn Input,
    next: u64,
    durable: &AtomicU64,
    metrics: &Metrics,
) -> Result<std::io::Result<u64>, Failure> {
    // At once: to go to a row deep in a file takes its time, and so may rows that are still to be made.
    if let Err(error) = frame::write(stream, input.header()) {
        return Ok(Err(error));
    }
    let monitor = FileMonitor::start(input, stream).map_err(Failure::Input)?;
    input.seek(next).map_err(Failure::Input)?;
    let mut stream = stream;
    let mut out = Vec::with_capacity(2 * WRITE_SIZE);
    loop {
        input.forget(durable.load(Ordering::Relaxed));
        input.fill(&mut out).map_err(Failure::Input)?;
        let last = out.is_empty();
        if last {
            // Once more before the source is told that there are no more rows: then the job is as good as done.
            input.check().map_err(Failure::Input)?;
            frame::push_end(&mut out);
        }
        metrics.writing(true);
        let written = stream.write_all(&out);
        metrics.writing(false);
        if let Err(error) = written {
            return match monitor.changed() {
                Some(error) => Err(Failure::Input(error)),
                None => Ok(Err(error)),
            };
        }
        metrics.sent(input, last);
        if last {
            return Ok(Ok(input.position()));
        }
        out.clear();
    }
}

/// Writes fake rows as a CSV with its header.
///
/// # Errors
/// Those of the output; a reader that has seen enough is not one.
pub fn write_csv(mut fake: crate::input::Fake, mut output: impl Write) -> anyhow::Result<()> {
    let mut out = [crate::HEADER, b"\n"].concat();
    loop {
        fake.fill_lines(&mut out);
        if out.is_empty() {
            return Ok(());
        }
        match output.write_all(&out) {
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
            Err(e) => bail!("writing rows to standard output: {e}"),
            Ok(()) => out.clear(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener};

    use super::*;
    use crate::input::Fake;

    /// What the source does with a connection.
    enum Act {
        /// Asks for rows from this one on, takes so many frames, and drops the connection.
        Drop(u64, usize),
        /// Asks for rows from this one on, takes all, and says done.
        Finish(u64),
    }

    /// A source that acts its part; gives the frames of each connection.
    fn source(acts: Vec<Act>) -> (SocketAddr, std::thread::JoinHandle<Vec<Vec<Vec<u8>>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let part = std::thread::spawn(move || {
            let act = |act: &Act| {
                let (stream, mut reader, first) = loop {
                    let stream = net::accept(&listener, || {}).unwrap().0;
                    let mut reader =
                        FrameReader::new(stream.try_clone().unwrap(), "the sender", DEFAULT_LIMIT);
                    // A look whether the source is back says nothing.
                    if let Ok(Some(first)) = reader.next_frame() {
                        break (stream, reader, first);
                    }
                };
                assert!(handshake::is_hello(&first));
                let (Act::Drop(next, _) | Act::Finish(next)) = act;
                handshake::send_json(&stream, &SourceAnswer::NextRow(*next)).unwrap();
                reader.allow_marks();
                let mut frames = Vec::new();
                loop {
                    if matches!(act, Act::Drop(_, most) if *most == frames.len()) {
                        return frames;
                    }
                    let Some(frame) = reader.next_frame().unwrap() else {
                        handshake::send_json(&stream, &SourceAnswer::Waiting).unwrap();
                        handshake::send_json(&stream, &SourceAnswer::Done(*next + frames.len() as u64 - 1))
                            .unwrap();
                        return frames;
                    };
                    frames.push(frame.to_vec());
                }
            };
            acts.iter().map(act).collect()
        });
        (address, part)
    }

    fn target(address: SocketAddr, patience: Duration) -> Target {
        let metrics = Metrics::default();
        Target {
            address: address.to_string(),
            token: None,
            session: None,
            ready_file: None,
            patience,
            metrics,
        }
    }

    #[test]
    fn a_lost_connection_is_made_anew_where_the_source_wants() {
        // Far more rows than socket buffers take, so that each loss is noticed while sending.
        let lines = 200_000;
        let acts = vec![Act::Drop(0, 1), Act::Drop(0, 500), Act::Finish(300)];
        let (address, part) = source(acts);
        let sent = send_all(&target(address, Duration::from_secs(20)), &mut Fake::new(1, lines)).unwrap();
        assert_eq!(sent, lines);
        let connections = part.join().unwrap();
        assert!(connections.iter().all(|frames| frames[0] == crate::HEADER));
        assert!(connections[1][1].starts_with(b"0,") && connections[2][1].starts_with(b"300,"));
        assert_eq!(connections[2].len() as u64, 1 + lines - 300);
    }

    #[test]
    fn a_source_that_comes_and_goes_without_taking_a_row_is_given_up() {
        let acts = (0..=MOST_IN_VAIN).map(|_| Act::Drop(7, 1)).collect();
        let (address, part) = source(acts);
        let error =
            send_all(&target(address, Duration::from_secs(60)), &mut Fake::new(1, 200_000)).unwrap_err();
        assert!(
            format!("{error:#}").starts_with(&format!("sending rows to {address}: there is no way on")),
            "{error:#}"
        );
        part.join().unwrap();
    }
}
