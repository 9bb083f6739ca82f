//! The first frame of a connection between our own programs: [`ENQ`], then JSON.
//!
//! The first byte of the first frame distinguishes our own clients from the plain clients of 2018. After the ENQ come the
//! protocol version and the token, and then the fields that the port needs.

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

/// How long a new connection may take to send its first frame.
pub const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// The longest handshake in bytes: an unauthenticated peer gets no more memory than this.
pub const HANDSHAKE_LIMIT: usize = 64 << 10;

#[derive(Debug, Serialize, Deserialize)]
struct Hello<T> {
    version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    #[serde(flatten)]
    body: T,
}

/// Why a connection was refused; sent to the peer before the connection is closed.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq, thiserror::Error)]
#[error("{refused}")]
pub struct Refusal {
    pub refused: String,
    /// The reason is temporary: a later connection may be admitted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub later: bool,
}

impl Refusal {
    /// A permanent refusal.
    pub fn new(reason: impl Into<String>) -> Self {
        Self { refused: reason.into(), later: false }
    }
}

impl From<&anyhow::Error> for Refusal {
    fn from(error: &anyhow::Error) -> Self {
        Self { refused: format!("{error:#}"), later: error.is::<Temporary>() }
    }
}

/// The error of a connection that the peer refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{peer} refused the connection: {refusal}")]
pub struct Refused {
    pub peer: String,
    pub refusal: Refusal,
}

/// A message from the source to a sender that began with a handshake.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum SourceAnswer {
    /// Send the header, and then the rows from this one on (counted from 0).
    NextRow(u64),
    /// The source is alive. Sent each second in which it sends nothing else.
    Waiting,
    /// Rows before this one are durable, and are not asked for again.
    Durable(u64),
    /// Another sender is sending; try again later.
    Busy,
    /// All rows, this many, are classified and durable.
    Done(u64),
    /// The job has failed.
    Failed(String),
}

/// The fields of a sender's handshake.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct SenderHello {
    /// A name that only this sender has. If it returns before the source has noticed that its old connection broke, the new
    /// connection takes over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Its rows end with the mark [`END`](frame::END), so any bytes can be a row, and it sends stand-ins for rows that it cannot
    /// send ([`FLAWED`](frame::FLAWED)). Without marks, the byte 0x04 ends the rows, as from a plain client.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub marks: bool,
    /// After the header come the types of the columns, one letter each; the number of all rows (8 bytes, 0 if it is unknown)
    /// with that of some rows (4 bytes); and these rows.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub typed: bool,
    /// Why this sender, which had begun, cannot continue. It sends nothing else on this connection, and the job fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

/// The fields of a handshake with the receiver, by role.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(tag = "role", rename_all = "snake_case")]
pub enum ResultsHello {
    /// A classifier process, which sends numbered batches.
    Worker {
        /// The process's name.
        name: String,
        /// The cluster's generation.
        generation: u64,
    },
    /// The process with the source, which gets the acknowledgements and sends the totals. Its connection begins a new generation
    /// of the cluster, which the receiver numbers.
    Initializer {
        /// The process's name.
        name: String,
    },
    /// A peer that wants the job's progress.
    Observer {},
}

/// The fields of a handshake at the control port, by role.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(tag = "role", rename_all = "snake_case")]
pub enum ControlHello {
    /// A process that wants to be a member.
    Join(Member),
    /// A peer that wants the cluster to stop (2018: `cluster_shutdown`).
    Shutdown {},
}

/// A process of the cluster, as it describes itself.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Member {
    /// Unique in the cluster.
    pub name: String,
    /// The address at which it listens for data connections of other processes.
    pub data: String,
    /// The number of its worker threads; the same in every process.
    pub workers: usize,
    /// Its build; the same in every process.
    pub build: String,
    /// The settings that affect results; the same in every process.
    pub settings: String,
}

/// A message between a member and the initializer on the control connection, after the join.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum ControlMessage {
    /// Initializer to member: all members have joined. Make the data connections.
    Form {
        /// The generation, as the receiver numbers it.
        generation: u64,
        /// The index in `members` of the member that gets this message.
        process: usize,
        /// All members, the initializer first.
        members: Vec<Member>,
    },
    /// Member to initializer: the data connections are made, and the receiver has admitted this member.
    Formed,
    /// Initializer to member: all have formed; start the dataflow.
    Start,
    /// Either way, once a second.
    Heartbeat,
    /// Initializer to member: stop at once, as requested by [`ControlHello::Shutdown`].
    Shutdown,
}

/// The fields of a handshake at another process's data port.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct DataHello {
    /// The cluster's generation.
    pub generation: u64,
    /// The connecting process's index in the member list.
    pub process: usize,
}

/// Sends a handshake.
///
/// # Errors
/// Those of the stream.
pub fn send<T: Serialize>(stream: impl Write, token: Option<&Token>, body: &T) -> anyhow::Result<()> {
    let hello = Hello { version: VERSION, token: token.map(|t| t.secret().to_owned()), body };
    let mut payload = vec![ENQ];
    serde_json::to_writer(&mut payload, &hello).context("encoding a handshake")?;
    Ok(frame::write(stream, &payload)?)
}

/// Whether a connection's first frame is a handshake, and not a frame of a plain client.
pub fn is_hello(first: &[u8]) -> bool {
    first.first() == Some(&ENQ)
}

/// Decodes a handshake and checks its version and token.
///
/// # Errors
/// The reason to [refuse] the peer.
pub fn check<T: DeserializeOwned>(first: &[u8], ours: Option<&Token>) -> Result<T, Refusal> {
    let refusal = |reason: String| Refusal::new(reason);
    // Token and version first, so that an unauthenticated peer does not learn which other fields the port needs.
    let outline: Hello<serde_json::Map<String, serde_json::Value>> = first
        .strip_prefix(&[ENQ])
        .and_then(|json| serde_json::from_slice(json).ok())
        .ok_or_else(|| refusal("the first frame is not a handshake of this protocol".into()))?;
    if !token::admits(ours, outline.token.as_deref()) {
        return Err(refusal("the token is missing or wrong".into()));
    }
    if outline.version != VERSION {
        return Err(refusal(format!(
            "protocol version {} is not supported; this program has version {VERSION}",
            outline.version
        )));
    }
    serde_json::from_value(serde_json::Value::Object(outline.body))
        .map_err(|e| refusal(format!("the handshake is invalid: {e}")))
}

/// Tells a peer why it is refused; the caller closes the connection.
pub fn refuse(stream: &TcpStream, refusal: &Refusal) {
    // Errors are ignored: the peer is gone or does not read.
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

/// Decodes an answer.
///
/// # Errors
/// The peer's refusal, or an answer that is neither a refusal nor `T`.
pub fn answer<T: DeserializeOwned>(payload: &[u8], peer: &str) -> anyhow::Result<T> {
    if let Ok(refusal) = serde_json::from_slice::<Refusal>(payload) {
        let later = refusal.later;
        let error = anyhow::Error::new(Refused { peer: peer.to_owned(), refusal });
        return Err(if later { error.context(Temporary("not now")) } else { error });
    }
    serde_json::from_slice(payload).with_context(|| format!("parsing the answer of {peer}"))
}

/// Marks an error as temporary, unless it is a refusal, which itself says whether it is.
pub fn unless_refused(error: anyhow::Error, temporary: Temporary) -> anyhow::Error {
    if error.is::<Refused>() { error } else { error.context(temporary) }
}

/// Waits for the answer to a handshake.
///
/// # Errors
/// A refusal, a closed connection, no answer within `limit`, or an invalid one.
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

    fn hello(token: Option<&Token>, body: &ResultsHello) -> Vec<u8> {
        let mut bytes = Vec::new();
        send(&mut bytes, token, body).unwrap();
        bytes.split_off(frame::PREFIX)
    }

    #[test]
    fn a_handshake_reads_back_unless_its_token_is_wrong() {
        let token = Token::new("secret");
        let body = ResultsHello::Worker { name: "w1".into(), generation: 3 };
        let first = hello(Some(&token), &body);
        assert!(is_hello(&first));
        assert_eq!(check::<ResultsHello>(&first, Some(&token)).unwrap(), body);
        assert_eq!(check::<ResultsHello>(&first, None).unwrap(), body);
        for refused in [hello(None, &body), hello(Some(&Token::new("other")), &body)] {
            let refusal = check::<ResultsHello>(&refused, Some(&token)).unwrap_err();
            assert_eq!(refusal.refused, "the token is missing or wrong");
        }
    }

    #[test]
    fn the_version_is_checked_only_after_the_token() {
        let first = b"\x05{\"version\":7,\"token\":\"secret\",\"role\":\"observer\"}";
        let refusal = check::<ResultsHello>(first, Some(&Token::new("secret"))).unwrap_err();
        let said = format!("protocol version 7 is not supported; this program has version {VERSION}");
        assert_eq!(refusal.refused, said);
        let refusal = check::<ResultsHello>(first, Some(&Token::new("other"))).unwrap_err();
        assert_eq!(refusal.refused, "the token is missing or wrong");
        assert!(check::<ResultsHello>(b"\x05not json", None).is_err());
    }

    #[test]
    fn a_refusal_is_distinguished_from_an_answer() {
        let refusal = serde_json::to_vec(&Refusal::new("no")).unwrap();
        let error = answer::<SourceAnswer>(&refusal, "the source").unwrap_err().to_string();
        assert_eq!(error, "the source refused the connection: no");
        let next = serde_json::to_vec(&SourceAnswer::NextRow(7)).unwrap();
        assert_eq!(answer::<SourceAnswer>(&next, "the source").unwrap(), SourceAnswer::NextRow(7));
    }
}
