//! Files at an HTTP address. They are read in ranges, so that reading goes on after a lost connection.

use std::fs::File;
use std::io::{self, Read, Write};

use anyhow::{Context, anyhow};
use http_client::{Failure, retry};
use protocol::conversion::{self, Source};
use protocol::hash::short_hex;
use ureq::http::header::{CONTENT_LENGTH, CONTENT_RANGE, ETAG, IF_MATCH, LAST_MODIFIED, RANGE};
use ureq::http::{HeaderName, Response, StatusCode};
use ureq::{Agent, Body};

use crate::address::{Address, refused};

/// How many bytes are written at once.
const BLOCK: usize = 256 << 10;

/// Writes a file as pieces, after what is known of it.
///
/// # Errors
/// The server cannot be reached, refuses, or has another file now; or nothing reads the output.
pub fn fetch(address: &Address, mut out: impl Write) -> anyhow::Result<()> {
    let remote = Remote::open(address)?;
    let writing = "writing the file";
    conversion::write_source(&mut out, &remote.source()).context(writing)?;
    let (mut reader, mut block) = (remote.reader(), vec![0; BLOCK]);
    loop {
        let read = reader.read(&mut block)?;
        if read == 0 {
            return Ok(());
        }
        conversion::write_bytes(&mut out, reader.at, &block[..read]).context(writing)?;
    }
}

/// Downloads a file to one without a name, which is gone when it is closed. First writes what is known of it.
///
/// # Errors
/// As [`fetch`]; or there is no space for it.
pub fn download(address: &Address, out: impl Write) -> anyhow::Result<File> {
    let remote = Remote::open(address)?;
    conversion::write_source(out, &remote.source()).context("writing the file's identity")?;
    let folder = std::env::temp_dir();
    let mut file =
        tempfile::tempfile().with_context(|| format!("creating a file in {}", folder.display()))?;
    io::copy(&mut remote.reader(), &mut file)
        .with_context(|| format!("downloading to {}, which TMPDIR changes", folder.display()))?;
    Ok(file)
}

/// A file at an HTTP address.
#[derive(Debug)]
struct Remote {
    agent: Agent,
    address: Address,
    length: u64,
    /// What identifies its content, as the server names it.
    tag: String,
    /// The tag, if the server may be asked for a range of the file with this tag only.
    strong_tag: Option<String>,
    /// Whether the server sends ranges.
    has_ranges: bool,
}

impl Remote {
    /// Asks for a file's length and identity.
    ///
    /// # Errors
    /// The server cannot be reached, refuses, or does not say how long the file is.
    fn open(address: &Address) -> anyhow::Result<Self> {
        let mut remote = Self {
            agent: http_client::agent(),
            address: address.clone(),
            length: 0,
            tag: String::new(),
            strong_tag: None,
            has_ranges: false,
        };
        // Not HEAD, for which the signature of a presigned address does not count.
        let response = retry(|| remote.request(Some("bytes=0-0")))?;
        let text = |name: HeaderName| response.headers().get(name).and_then(|value| value.to_str().ok());
        let range = text(CONTENT_RANGE).and_then(|range| range.rsplit_once('/')).map(|(_, length)| length);
        let length = match response.status() {
            StatusCode::PARTIAL_CONTENT => range,
            // A range of an empty file.
            StatusCode::RANGE_NOT_SATISFIABLE => Some("0"),
            _ => text(CONTENT_LENGTH),
        };
        let length = length.and_then(|length| length.parse().ok());
        remote.length = length.context("the server does not say how long the file is; fetch it first")?;
        let tag = text(ETAG);
        remote.strong_tag = tag.filter(|tag| !tag.starts_with("W/")).map(str::to_owned);
        let version = tag.or_else(|| text(LAST_MODIFIED));
        let unknown =
            "the server does not say which version of the file it has (ETag, Last-Modified); fetch it first";
        // There is only one empty file, and an error names no version.
        let is_empty = response.status() == StatusCode::RANGE_NOT_SATISFIABLE;
        remote.tag = version.or(is_empty.then_some("")).context(unknown)?.to_owned();
        remote.has_ranges = response.status() != StatusCode::OK;
        Ok(remote)
    }

    fn source(&self) -> Source {
        let identity = short_hex(format!("{} {}", self.length, self.tag).as_bytes());
        Source { identity, length: self.length }
    }

    fn reader(&self) -> Reader<'_> {
        Reader { remote: self, at: 0, body: None }
    }

    fn request(&self, range: Option<&str>) -> Result<Response<Body>, Failure> {
        let mut request = self.agent.get(self.address.url().map_err(Failure::Lasting)?);
        if let Some(range) = range {
            request = request.header(RANGE, range);
            if let Some(tag) = &self.strong_tag {
                request = request.header(IF_MATCH, tag);
            }
        }
        let response = request.call()?;
        match response.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(response),
            StatusCode::RANGE_NOT_SATISFIABLE if self.length == 0 => Ok(response),
            StatusCode::PRECONDITION_FAILED | StatusCode::RANGE_NOT_SATISFIABLE => Err(changed()),
            _ => Err(refused(response, self.address.ended())),
        }
    }

    /// The body of the file from this byte on.
    fn body(&self, at: u64) -> Result<Body, Failure> {
        let range = (self.has_ranges && self.length > 0).then(|| format!("bytes={at}-"));
        if range.is_none() && at > 0 {
            let lost =
                anyhow!("the connection was lost after {at} bytes, and the server does not send ranges");
            return Err(Failure::Lasting(lost));
        }
        let response = self.request(range.as_deref())?;
        let text = |name: HeaderName| response.headers().get(name).and_then(|value| value.to_str().ok());
        let tag = text(ETAG).or_else(|| text(LAST_MODIFIED)).unwrap_or_default();
        let range_of = text(CONTENT_RANGE).and_then(|range| range.rsplit_once('/')).map(|(_, length)| length);
        let length = if range.is_some() { range_of } else { text(CONTENT_LENGTH) };
        if tag != self.tag || length.is_some_and(|length| length != self.length.to_string()) {
            return Err(changed());
        }
        if range.is_some() {
            let begins = text(CONTENT_RANGE).is_some_and(|range| range.starts_with(&format!("bytes {at}-")));
            if response.status() != StatusCode::PARTIAL_CONTENT || !begins {
                return Err(Failure::Passing(anyhow!(
                    "the server sent another range than the one asked for"
                )));
            }
        }
        Ok(response.into_body())
    }
}

fn changed() -> Failure {
    Failure::Lasting(anyhow!("it has changed while it was read; run the job again when nothing writes to it"))
}

/// Reads a file, with as many requests as it takes.
struct Reader<'a> {
    remote: &'a Remote,
    at: u64,
    body: Option<ureq::BodyReader<'static>>,
}

impl Read for Reader<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() || self.at >= self.remote.length {
            return Ok(0);
        }
        let read = retry(|| {
            let body = match &mut self.body {
                Some(body) => body,
                none => none.insert(self.remote.body(self.at)?.into_reader()),
            };
            let read = match body.read(out) {
                Ok(0) => {
                    Err(anyhow!("the connection ended after {} of {} bytes", self.at, self.remote.length))
                }
                Ok(read) => return Ok(read),
                Err(error) => Err(anyhow!("after {} of {} bytes: {error}", self.at, self.remote.length)),
            };
            self.body = None;
            read.map_err(Failure::Passing)
        });
        let read = read.map_err(io::Error::other)?;
        self.at += read as u64;
        Ok(read)
    }
}
