//! The requests of an upload.

use std::io::Read;
use std::time::Duration;

use anyhow::{Context, anyhow};
use http_client::{Failure, Refusal, agent, retry_within};
use protocol::signed::{OF_JOB, Upload};
use ureq::http::header::{CONTENT_LENGTH, ETAG, EXPECT};
use ureq::http::{Response, StatusCode};
use ureq::{Agent, Body, SendBody};

use super::Target;
use crate::address::{ended, refused};

/// How long a request is tried again: an upload that fails ends its job, and the user may have to log in again.
const RETRIES: Duration = Duration::from_secs(900);
/// How much of an answer is read.
const ANSWER: u64 = 64 << 10;

/// Makes the requests of an upload, again if that may help.
pub(super) struct Requests {
    target: Target,
    agent: Agent,
}

/// What a part has become.
pub(super) enum Sent {
    Part {
        /// S3's name for it.
        tag: String,
    },
    /// The object is complete already.
    Completed,
}

impl Requests {
    pub(super) fn new(target: Target) -> Self {
        Self { target, agent: agent() }
    }

    pub(super) fn address(&self) -> &str {
        &self.target.address
    }

    /// Uploads a part.
    pub(super) fn put<R: Read>(
        &self,
        number: u16,
        length: u64,
        bytes: impl Fn() -> R,
    ) -> anyhow::Result<Sent> {
        retry_within(RETRIES, || {
            let (upload, signed) = self.target.upload().map_err(Failure::Lasting)?;
            let url = upload.part(number).context("an object cannot have so many parts");
            let request = self.agent.put(url.map_err(Failure::Lasting)?).header(CONTENT_LENGTH, length);
            // A refusal comes before the bytes, which it would cut off.
            let request = request.header(EXPECT, "100-continue");
            let mut bytes = bytes();
            let response = request.send(SendBody::from_reader(&mut bytes))?;
            match response.status() {
                StatusCode::OK => {
                    let tag = response.headers().get(ETAG).and_then(|tag| tag.to_str().ok());
                    let tag = tag.context("S3 did not name the part").map_err(Failure::Passing)?;
                    Ok(Sent::Part { tag: tag.to_owned() })
                }
                StatusCode::NOT_FOUND | StatusCode::FORBIDDEN if self.is_completed(&upload)? => {
                    Ok(Sent::Completed)
                }
                _ => Err(gone_or(refused(response, ended(&signed)))),
            }
        })
    }

    /// Completes the object from the parts with these names.
    pub(super) fn complete(&self, tags: &[&str]) -> anyhow::Result<()> {
        let parts = (1..).zip(tags).map(|(number, tag)| {
            format!("<Part><PartNumber>{number}</PartNumber><ETag>{}</ETag></Part>", escaped(tag))
        });
        let parts: String = parts.collect();
        let namespace = "http://s3.amazonaws.com/doc/2006-03-01/";
        let body =
            format!("<CompleteMultipartUpload xmlns=\"{namespace}\">{parts}</CompleteMultipartUpload>");
        retry_within(RETRIES, || {
            let (upload, signed) = self.target.upload().map_err(Failure::Lasting)?;
            let response = self.agent.post(&upload.complete).send(body.as_bytes())?;
            match response.status() {
                // S3 begins to answer before it knows.
                StatusCode::OK => succeeded(response),
                // An earlier answer may have been lost.
                StatusCode::NOT_FOUND | StatusCode::FORBIDDEN if self.is_completed(&upload)? => Ok(()),
                _ => Err(gone_or(refused(response, ended(&signed)))),
            }
        })
    }

    /// Whether the object is complete, and of this upload.
    fn is_completed(&self, upload: &Upload) -> Result<bool, Failure> {
        let response = self.agent.head(&upload.head).call()?;
        if response.status() != StatusCode::OK {
            let refusal = Refusal::read(response);
            return if refusal.passes() { Err(refusal.into()) } else { Ok(false) };
        }
        let of_job = response.headers().get(OF_JOB).and_then(|of_job| of_job.to_str().ok());
        Ok(of_job == Some(&upload.open.job))
    }
}

/// Says what to do if the upload is gone.
fn gone_or(failure: Failure) -> Failure {
    match failure {
        Failure::Lasting(error) if has_code(&error, "NoSuchUpload") => Failure::Lasting(error.context(
            "the upload was aborted elsewhere; the same command, or run-cluster --resume, begins another one",
        )),
        failure => failure,
    }
}

/// Whether S3 has refused a request for this reason.
pub(super) fn has_code(error: &anyhow::Error, code: &str) -> bool {
    error.downcast_ref::<Refusal>().is_some_and(|refusal| refusal.code.as_deref() == Some(code))
}

/// Whether an answer that began well also ended well.
fn succeeded(response: Response<Body>) -> Result<(), Failure> {
    let mut text = String::new();
    let read = response.into_body().into_reader().take(ANSWER).read_to_string(&mut text);
    read.map_err(|error| Failure::Passing(anyhow!("the answer was lost: {error}")))?;
    if text.contains("<CompleteMultipartUploadResult") {
        return Ok(());
    }
    Err(Failure::Passing(anyhow!("S3 answers {}", text.trim())))
}

/// A text in XML.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}
