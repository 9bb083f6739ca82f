//! Sending the rows, and coming back after a lost connection.
//!
//! The source says which row it wants next. All rows count as sent only when the source says that they are
//! classified and durable: until then it may ask for some of them again.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use wire::frame::{self, DEFAULT_LIMIT, EOT, FrameReader};
use wire::net;
use wire::opening::{self, SenderOpening, SourceAnswer};
use wire::token::Token;

use crate::input::{Input, WRITE_SIZE};

/// The source speaks at least every second once it has all rows; after this long, it is gone.
const SILENCE: Duration = Duration::from_secs(30);
/// The pause before a lost connection is made anew.
const PAUSE: Duration = Duration::from_millis(100);

/// Where to send, and how patiently.
#[derive(Debug, Clone)]
pub struct Target {
    /// The source's `HOST:PORT`.
    pub address: String,
    /// The job's token.
    pub token: Option<Token>,
    /// How long to wait for the source, at first and whenever it is lost.
    pub patience: Duration,
}

/// Why one connection did not bring the job to its end.
enum Failure {
    /// Another connection may do better.
    Lost(anyhow::Error),
    /// No other connection would.
    Final(anyhow::Error),
}

/// Sends all rows and waits until they are durable; says how many they are.
///
/// # Errors
/// A source that refuses, that fails, or that is not there for longer than the target's patience.
pub fn send_all(target: &Target, input: &mut dyn Input) -> anyhow::Result<u64> {
    let mut furthest = 0;
    let mut deadline = Instant::now() + target.patience;
    loop {
        let lost = match connection(target, input, deadline, &mut furthest) {
            Ok(Some(rows)) => return Ok(rows),
            // It got further than any connection before it: patience begins anew.
            Ok(None) => {
                deadline = Instant::now() + target.patience;
                continue;
            }
            Err(Failure::Final(error)) => return Err(error),
            Err(Failure::Lost(error)) => error,
        };
        if Instant::now() + PAUSE >= deadline {
            return Err(lost.context(format!(
                "sending rows to {}: no way on for {:?}",
                target.address, target.patience
            )));
        }
        eprintln!("sender: {lost:#}; trying again");
        std::thread::sleep(PAUSE);
    }
}

/// One connection: `Some` when all is done, `None` when it was lost after some progress.
fn connection(
    target: &Target,
    input: &mut dyn Input,
    deadline: Instant,
    furthest: &mut u64,
) -> Result<Option<u64>, Failure> {
    let left = deadline.saturating_duration_since(Instant::now());
    let stream = net::connect("the source", &target.address, left).map_err(Failure::Final)?;
    let mut answers = answers(&stream, &target.address).map_err(Failure::Lost)?;
    opening::send(&stream, target.token.as_ref(), &SenderOpening {}).map_err(Failure::Lost)?;
    let next = match answer(&mut answers)? {
        SourceAnswer::NextRow(row) => row,
        SourceAnswer::Done(rows) => return Ok(Some(rows)),
        other => return Err(Failure::Final(anyhow!("the source began with {other:?}"))),
    };
    input.seek(next).map_err(Failure::Final)?;
    let progressed = next > *furthest;
    *furthest = next.max(*furthest);
    if let Err(error) = rows(&stream, input)? {
        // The source may have said why it closed the connection.
        return match answers.next_frame_within(Duration::from_secs(1)) {
            Ok(Some(payload)) => match opening::answer(&payload, answers.peer()) {
                Ok(SourceAnswer::Failed(reason)) => Err(Failure::Final(anyhow!("the job failed: {reason}"))),
                Ok(_) => lost(error, progressed),
                Err(refused) => Err(Failure::Final(refused)),
            },
            _ => lost(error, progressed),
        };
    }
    match answer(&mut answers)? {
        SourceAnswer::Done(rows) => Ok(Some(rows)),
        other => Err(Failure::Final(anyhow!("the source ended with {other:?}"))),
    }
}

fn lost(error: std::io::Error, progressed: bool) -> Result<Option<u64>, Failure> {
    if progressed {
        Ok(None)
    } else {
        Err(Failure::Lost(anyhow!(error).context("the connection to the source broke")))
    }
}

fn answers(stream: &TcpStream, address: &str) -> anyhow::Result<FrameReader<TcpStream>> {
    let stream = stream.try_clone().context("splitting the connection to the source")?;
    Ok(FrameReader::new(stream, format!("the source at {address}"), DEFAULT_LIMIT))
}

/// The next answer that is not a sign of life.
fn answer(answers: &mut FrameReader<TcpStream>) -> Result<SourceAnswer, Failure> {
    loop {
        let payload = answers.next_frame_within(SILENCE).map_err(|e| Failure::Lost(e.into()))?;
        let Some(payload) = payload else {
            return Err(Failure::Lost(anyhow!("{} closed the connection", answers.peer())));
        };
        match opening::answer(&payload, answers.peer()).map_err(Failure::Final)? {
            SourceAnswer::Waiting => {}
            SourceAnswer::Failed(reason) => return Err(Failure::Final(anyhow!("the job failed: {reason}"))),
            answer => return Ok(answer),
        }
    }
}

/// Header, rows, end. A broken connection is the inner error.
fn rows(mut stream: &TcpStream, input: &mut dyn Input) -> Result<std::io::Result<()>, Failure> {
    let mut out = Vec::with_capacity(2 * WRITE_SIZE);
    frame::push(&mut out, input.header());
    loop {
        let before = out.len();
        input.fill(&mut out).map_err(Failure::Final)?;
        let last = out.len() == before;
        if last {
            frame::push(&mut out, &[EOT]);
        }
        if let Err(error) = stream.write_all(&out) {
            return Ok(Err(error));
        }
        if last {
            return Ok(Ok(()));
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
