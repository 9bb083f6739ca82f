//! A minimal HTTP client.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::PATIENCE;

/// A server's answer.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    /// The status line and the header's lines.
    pub head: String,
    pub body: String,
}

impl Answer {
    /// Parses the body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Gets a path from the server at `HOST:PORT`. `header` holds more header lines, each with its line end. `None` if no server
/// answers.
pub fn get(address: &str, path: &str, header: &str) -> Option<Answer> {
    ask(address, &format!("GET {path} HTTP/1.0\r\n{header}\r\n"))
}

/// Sends a whole request to the server at `HOST:PORT`; `None` if no server answers.
pub fn ask(address: &str, request: &str) -> Option<Answer> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, head: head.to_owned(), body: body.to_owned() })
}
