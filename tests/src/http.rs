//! Asking a web server, in the plainest way.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::PATIENCE;

/// What a server answers.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The header's lines.
    pub head: String,
    /// What follows it.
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Asks the server at `HOST:PORT` for a path, with more lines of the header, each with its line end; `None` if it is not there.
pub fn get(address: &str, path: &str, header: &str) -> Option<Answer> {
    ask(address, &format!("GET {path} HTTP/1.0\r\n{header}\r\n"))
}

/// The same with the whole request.
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
