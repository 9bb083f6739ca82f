//! Sends the rows, and reconnects after a lost connection: the sockets and threads around a [`Session`].
//!
//! The source asks for a first row on each connection. It may ask for a row again until it reports the row as durable.

use std::io::Write;
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use columns::Survey;
use process::ready::Ready;
use protocol::frame::{self, DEFAULT_LIMIT, FrameReader};
use protocol::handshake::{self, SenderHello};
use protocol::token::Token;

use crate::answers::Answers;
use crate::file_monitor::FileMonitor;
use crate::input::{Input, WRITE_SIZE};
use crate::metrics::Metrics;
use crate::session::{Failure, Session, Step};

/// How long to try to report to the source that the sender cannot continue.
const REPORT_TIME: Duration = Duration::from_secs(5);

/// Where to send rows, and how long to wait for the source.
#[derive(Debug, Clone)]
pub struct Target {
    /// The source's `HOST:PORT`.
    pub address: String,
    pub token: Option<Token>,
    /// This sender's name. Without one, the sender generates a random name.
    pub session: Option<String>,
    /// The types of the columns and some rows, for a model that gets typed columns.
    pub survey: Option<Survey>,
    /// Written whenever the source has asked for a row.
    pub ready_file: Option<PathBuf>,
    /// How long to wait for the source, at first and whenever it is lost.
    pub patience: Duration,
    pub metrics: Metrics,
}

/// Sends all rows and waits until they are durable. Returns the number of rows.
///
/// # Errors
/// When the source refuses the sender, the job fails, the source cannot be reached within the target's patience, or the
/// connection is lost repeatedly without progress.
pub fn send_all(target: &Target, input: &mut dyn Input) -> anyhow::Result<u64> {
    let mut session = Session::new(target.patience, target.session.is_some());
    let name = target.session.clone().map_or_else(session_name, Ok)?;
    let typed = target.survey.is_some();
    let hello = SenderHello { session: Some(name), marks: true, typed, failed: None };
    let began = Instant::now();
    loop {
        let patience = session.connect(began.elapsed());
        let lost = match connection(target, &hello, input, patience, &mut session) {
            Ok(rows) => return Ok(rows),
            Err(Failure::Final(error)) => return Err(error),
            Err(Failure::Input(error)) => {
                if let Err(unsent) = send_failure(target, &hello, &error) {
                    tracing::warn!("reporting to the source that the sender cannot continue: {unsent:#}");
                }
                return Err(error);
            }
            Err(Failure::Lost(error)) => error,
        };
        let reason = format!("{lost:#}");
        let giving_up = || format!("giving up sending rows to {}", target.address);
        let pause = session.lost(lost, began.elapsed()).with_context(giving_up)?;
        tracing::warn!("{reason}; trying again");
        std::thread::sleep(pause);
    }
}

/// Sends rows over one connection until the job ends. Returns the job's number of rows.
fn connection(
    target: &Target,
    hello: &SenderHello,
    input: &mut dyn Input,
    patience: Duration,
    session: &mut Session,
) -> Result<u64, Failure> {
    let stream = net::connect("the source", &target.address, patience).map_err(Failure::Final)?;
    handshake::send(&stream, target.token.as_ref(), hello).map_err(Failure::Lost)?;
    let answers = Answers::listen(&stream, &target.address, target.patience).map_err(Failure::Lost)?;
    let next = match session.recv(answers.next()?)? {
        Step::Send(row) => row,
        Step::Done(rows) => return Ok(rows),
    };
    let ready = Ready { input: input.identity(), ..Ready::default() };
    ready.write(target.ready_file.as_deref()).map_err(Failure::Final)?;
    let broken = match send_rows(&stream, input, next, answers.durable(), target)? {
        Ok(all) => {
            session.sent_all(all);
            None
        }
        Err(error) => Some(anyhow!(error).context("the connection to the source broke")),
    };
    // When the connection broke, the source may have sent the reason.
    let answer = answers.next().and_then(|answer| session.recv(answer));
    match (answer, broken) {
        (Ok(Step::Done(rows)), _) => Ok(rows),
        (Err(Failure::Final(reason)), _) => Err(Failure::Final(reason)),
        (_, Some(error)) => Err(Failure::Lost(error)),
        (Ok(Step::Send(_)), None) => Err(Failure::Final(anyhow!("the source asked for rows twice"))),
        (Err(failure), None) => Err(failure),
    }
}

/// Reports to the source why no more rows will come, so that the job fails at once and with this reason.
fn send_failure(target: &Target, hello: &SenderHello, why: &anyhow::Error) -> anyhow::Result<()> {
    let stream = net::connect("the source", &target.address, REPORT_TIME)?;
    net::limit_writes(&stream, REPORT_TIME)?;
    let failed = Some(format!("the sender cannot continue: {why:#}"));
    handshake::send(&stream, target.token.as_ref(), &SenderHello { failed, ..hello.clone() })?;
    // The source closes the connection after it has read this, or answers with a refusal.
    let mut reader = FrameReader::new(stream, format!("the source at {}", target.address), DEFAULT_LIMIT);
    match reader.next_frame_within(REPORT_TIME)? {
        Some(payload) => handshake::answer(&payload, reader.peer()),
        None => Ok(()),
    }
}

fn session_name() -> anyhow::Result<String> {
    let name = getrandom::u64().map_err(|e| anyhow!("making up a name for this sender: {e}"))?;
    Ok(format!("{name:016x}"))
}

/// Sends the header, what the survey has found, the rows from `next` on, and the end mark. Returns the input's number of rows.
/// The inner error is a broken connection.
fn send_rows(
    stream: &TcpStream,
    input: &mut dyn Input,
    next: u64,
    durable: &AtomicU64,
    target: &Target,
) -> Result<std::io::Result<u64>, Failure> {
    let metrics = &target.metrics;
    let mut first = Vec::new();
    frame::push(&mut first, input.header());
    if let Some(Survey { types, rows, sample }) = &target.survey {
        frame::push(&mut first, &columns::letters(types));
        let (rows, count) = (rows.unwrap_or(0).to_be_bytes(), (sample.len() as u32).to_be_bytes());
        frame::push(&mut first, &[&rows[..], &count].concat());
        sample.iter().for_each(|record| frame::push(&mut first, record));
    }
    // Sent before seeking, which may take long.
    let mut stream = stream;
    if let Err(error) = stream.write_all(&first) {
        return Ok(Err(error));
    }
    drop(first);
    let monitor = FileMonitor::start(input, stream).map_err(Failure::Input)?;
    input.seek(next).map_err(Failure::Input)?;
    let mut out = Vec::with_capacity(2 * WRITE_SIZE);
    loop {
        input.forget(durable.load(Ordering::Relaxed));
        input.fill(&mut out).map_err(Failure::Input)?;
        let last = out.is_empty();
        if last {
            // The last chance to notice a change: after the end mark, the job may succeed.
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

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener};

    use protocol::handshake::SourceAnswer;

    use super::*;
    use crate::input::Fake;

    /// What the source does with a connection.
    enum Act {
        /// Asks for this row, reads this many frames, and drops the connection.
        Drop(u64, usize),
        /// Asks for this row, reads all rows, and answers [`SourceAnswer::Done`].
        Finish(u64),
    }

    /// A source that handles one connection per act. Its thread returns the frames of each.
    fn source(acts: Vec<Act>) -> (SocketAddr, std::thread::JoinHandle<Vec<Vec<Vec<u8>>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let thread = std::thread::spawn(move || {
            let act = |act: &Act| {
                let (stream, mut reader, first) = loop {
                    let stream = net::accept(&listener, || {}).unwrap().0;
                    let mut reader =
                        FrameReader::new(stream.try_clone().unwrap(), "the sender", DEFAULT_LIMIT);
                    // A connection that only probes whether the source is back sends nothing.
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
        (address, thread)
    }

    fn target(address: SocketAddr, patience: Duration) -> Target {
        let metrics = Metrics::default();
        Target {
            address: address.to_string(),
            token: None,
            session: None,
            survey: None,
            ready_file: None,
            patience,
            metrics,
        }
    }

    #[test]
    fn a_sender_reconnects_and_resumes_at_the_row_that_the_source_asks_for() {
        // Far more rows than socket buffers hold, so that each loss is noticed while sending.
        let lines = 200_000;
        let acts = vec![Act::Drop(0, 1), Act::Drop(0, 500), Act::Finish(300)];
        let (address, thread) = source(acts);
        let sent = send_all(&target(address, Duration::from_secs(20)), &mut Fake::new(1, lines)).unwrap();
        assert_eq!(sent, lines);
        let connections = thread.join().unwrap();
        assert!(connections.iter().all(|frames| frames[0] == crate::HEADER));
        assert!(connections[1][1].starts_with(b"0,") && connections[2][1].starts_with(b"300,"));
        assert_eq!(connections[2].len() as u64, 1 + lines - 300);
    }
}
