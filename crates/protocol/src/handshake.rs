//! The first frame of a connection between our own programs: [`ENQ`], then JSON.
//!
//! A port tells a plain client of 2018 from one of ours by the first byte of the first frame. What follows
//! the ENQ is the same everywhere (protocol version, token), plus what the port wants to know.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::Temporary;
use crate::VERSION;
use crate::frame::{self, ENQ, FrameReader};
use crate::token::{self, Token};

/// How long a new connection may take to say who it is.
pub const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// The longest opening: a peer that has not shown a token gets no more memory than this.
pub const HANDSHAKE_LIMIT: usize = 64 << 10;

#[derive(Debug, Serialize, Deserialize)]
struct Hello<T> {
    version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    #[serde(flatten)]
    body: T,
}

/// Why a connection was not let in, told to the peer before it is closed.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq, thiserror::Error)]
#[error("{refused}")]
pub struct Refusal {
    /// The reason.
    pub refused: String,
    /// The reason passes: who comes again later may be let in.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub later: bool,
}

impl Refusal {
    /// For good.
    pub fn new(reason: impl Into<String>) -> Self {
        Self { refused: reason.into(), later: false }
    }
}

impl From<&anyhow::Error> for Refusal {
    fn from(error: &anyhow::Error) -> Self {
        Self { refused: format!("{error:#}"), later: error.is::<Temporary>() }
    }
}

/// A connection that was refused, as the one sees it who opened it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{peer} refused the connection: {refusal}")]
pub struct Refused {
    /// Who has refused it.
    pub peer: String,
    /// Why.
    pub refusal: Refusal,
}

/// What the source tells a sender that opened with ENQ.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum SourceAnswer {
    /// Send the header, and then the rows from this one on (counted from 0).
    NextRow(u64),
    /// The source is alive; said once a second from the beginning to the end, if nothing else is.
    Waiting,
    /// Rows before this one are durable, and will not be asked for again.
    Durable(u64),
    /// Another sender is sending; come again later.
    Busy,
    /// All rows, this many, are classified and durable.
    Done(u64),
    /// The job has failed.
    Failed(String),
}

/// What a sender says about itself.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct SenderHello {
    /// A name that only this sender has. When it comes back while its old connection is not known to be broken yet,
    /// the new connection takes over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Its rows end with the mark [`END`](frame::END), so that any bytes may be a row, and it stands in for rows that it cannot
    /// send ([`FLAWED`](frame::FLAWED)). Without this, the byte 0x04 ends them as with a plain client.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub marks: bool,
    /// Why this sender, which had begun, cannot go on: nothing else comes on this connection, and the job fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

/// Who opens a connection to the receiver.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(tag = "role", rename_all = "snake_case")]
pub enum ResultsHello {
    /// A classifier process that will send numbered batches.
    Worker {
        /// The process's name.
        name: String,
        /// The cluster's generation.
        generation: u64,
    },
    /// The process that also holds the source; it gets the acknowledgements and sends the totals. With it, a new generation of the
    /// cluster begins, which the receiver numbers.
    Initializer {
        /// The process's name.
        name: String,
    },
    /// Somebody who wants to be told how the job goes.
    Observer {},
}

/// What a process says when it joins the cluster at the control port.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(tag = "role", rename_all = "snake_case")]
pub enum ControlHello {
    /// A process that wants to be a member.
    Join(Member),
    /// Somebody who wants the cluster to stop (2018: `cluster_shutdown`).
    Shutdown {},
}

/// A process of the cluster, as it describes itself.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Member {
    /// Its name, unique in the cluster.
    pub name: String,
    /// Where it listens for data connections of other processes.
    pub data: String,
    /// Its worker threads; the same number in every process.
    pub workers: usize,
    /// The build it runs: all processes must be of the same.
    pub build: String,
    /// The settings that decide what results look like: all processes must have the same.
    pub settings: String,
}

/// What a member and the initializer tell each other on the control connection after the join.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum ControlMessage {
    /// Initializer to member: all are here. Make the data connections.
    Form {
        /// Counts the clusters of this job, as the receiver does.
        generation: u64,
        /// The receiving member's place in `members`.
        process: usize,
        /// All members, the initializer first.
        members: Vec<Member>,
    },
    /// Member to initializer: its data connections stand, and the receiver let it in.
    Formed,
    /// Initializer to member: all have formed; start the dataflow.
    Start,
    /// Either way, once a second.
    Heartbeat,
    /// Initializer to member: stop at once; somebody asked for it.
    Shutdown,
}

/// Who connects to another process's data port.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct DataHello {
    /// The cluster's generation.
    pub generation: u64,
    /// The connecting process's place in the member list.
    pub process: usize,
}

/// Sends an opening.
///
/// # Errors
/// Those of the stream.
pub fn send<T: Serialize>(stream: impl Write, token: Option<&Token>, body: &T) -> anyhow::Result<()> {
    let opening = Hello { version: VERSION, token: token.map(|t| t.secret().to_owned()), body };
    let mut payload = vec![ENQ];
    serde_json::to_writer(&mut payload, &opening).context("encoding an opening")?;
    Ok(frame::write(stream, &payload)?)
}

/// Whether a connection's first frame is an opening of ours, not the frame of a plain client.
pub fn is_hello(first: &[u8]) -> bool {
    first.first() == Some(&ENQ)
}

/// Reads an opening and checks its version and token.
///
/// # Errors
/// The reason to refuse the peer; it should be [told](refuse) in these words.
pub fn check<T: DeserializeOwned>(first: &[u8], ours: Option<&Token>) -> Result<T, Refusal> {
    let refusal = |reason: String| Refusal::new(reason);
    // Version and token first: a stranger learns nothing about what else the port wants.
    let outline: Hello<serde_json::Map<String, serde_json::Value>> = first
        .strip_prefix(&[ENQ])
        .and_then(|json| serde_json::from_slice(json).ok())
        .ok_or_else(|| refusal("the first frame is not a handshake of this protocol".into()))?;
    if !token::admits(ours, outline.token.as_deref()) {
        return Err(refusal("the token is missing or wrong".into()));
    }
    if outline.version != VERSION {
        return Err(refusal(format!(
            "protocol version {} is not {VERSION}, which runs here",
            outline.version
        )));
    }
    serde_json::from_value(serde_json::Value::Object(outline.body))
        .map_err(|e| refusal(format!("the handshake is not understood: {e}")))
}

/// Tells a peer why it is not let in; the caller closes the connection.
pub fn refuse(stream: &TcpStream, refusal: &Refusal) {
    // A peer that is gone or does not read needs no reason.
    let _ = stream.set_write_timeout(Some(Duration::from_secs(1)));
    let _ = send_json(stream, refusal);
    let _ = stream.shutdown(std::net::Shutdown::Write);
}

/// Sends a JSON message as a frame.
///
/// # Errors
/// Those of the stream.
pub fn send_json<T: Serialize>(stream: impl Write, message: &T) -> anyhow::Result<()> {
    Ok(frame::write(stream, &serde_json::to_vec(message).context("encoding a message")?)?)
}

/// Understands an answer: `T`, or the peer's refusal as an error.
///
/// # Errors
/// A refusal, or an answer that is neither.
pub fn answer<T: DeserializeOwned>(payload: &[u8], peer: &str) -> anyhow::Result<T> {
    if let Ok(refusal) = serde_json::from_slice::<Refusal>(payload) {
        let later = refusal.later;
        let error = anyhow::Error::new(Refused { peer: peer.to_owned(), refusal });
        return Err(if later { error.context(Temporary("not now")) } else { error });
    }
    serde_json::from_slice(payload).with_context(|| format!("understanding the answer of {peer}"))
}

/// Adds to an error that it passes, unless it is a refusal, which says itself whether it does.
pub fn unless_refused(error: anyhow::Error, temporary: Temporary) -> anyhow::Error {
    if error.is::<Refused>() { error } else { error.context(temporary) }
}

/// Waits for the answer to an opening.
///
/// # Errors
/// A refusal, a closed connection, no answer within `limit`, or one that is not understood.
pub fn await_answer<T: DeserializeOwned>(
    reader: &mut FrameReader<TcpStream>,
    limit: Duration,
) -> anyhow::Result<T> {
    let payload: Option<Bytes> = reader.next_frame_within(limit)?;
    let Some(payload) = payload else { bail!("{} closed the connection without an answer", reader.peer()) };
    answer(&payload, reader.peer())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opening(token: Option<&Token>, body: &ResultsHello) -> Vec<u8> {
        let mut bytes = Vec::new();
        send(&mut bytes, token, body).unwrap();
        bytes.split_off(frame::PREFIX)
    }

    #[test]
    fn an_opening_comes_back_and_a_wrong_token_does_not() {
        let token = Token::new("secret");
        let body = ResultsHello::Worker { name: "w1".into(), generation: 3 };
        let first = opening(Some(&token), &body);
        assert!(is_hello(&first));
        assert_eq!(check::<ResultsHello>(&first, Some(&token)).unwrap(), body);
        assert_eq!(check::<ResultsHello>(&first, None).unwrap(), body);
        for refused in [opening(None, &body), opening(Some(&Token::new("other")), &body)] {
            let refusal = check::<ResultsHello>(&refused, Some(&token)).unwrap_err();
            assert_eq!(refusal.refused, "the token is missing or wrong");
        }
    }

    #[test]
    fn another_version_is_refused_only_after_the_token() {
        let first = b"\x05{\"version\":7,\"token\":\"secret\",\"role\":\"observer\"}";
        let refusal = check::<ResultsHello>(first, Some(&Token::new("secret"))).unwrap_err();
        assert_eq!(refusal.refused, "protocol version 7 is not 2, which runs here");
        let refusal = check::<ResultsHello>(first, Some(&Token::new("other"))).unwrap_err();
        assert_eq!(refusal.refused, "the token is missing or wrong");
        assert!(check::<ResultsHello>(b"\x05not json", None).is_err());
    }

    #[test]
    fn a_refusal_is_told_from_an_answer() {
        let refusal = serde_json::to_vec(&Refusal::new("no")).unwrap();
        let error = answer::<SourceAnswer>(&refusal, "the source").unwrap_err().to_string();
        assert_eq!(error, "the source refused the connection: no");
        let next = serde_json::to_vec(&SourceAnswer::NextRow(7)).unwrap();
        assert_eq!(answer::<SourceAnswer>(&next, "the source").unwrap(), SourceAnswer::NextRow(7));
    }
}
