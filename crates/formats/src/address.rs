//! Where a file at an address is: its URL, or for an object of S3 the URL that the user's machine has signed.

use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::{Context, Error};
use http_client::{Failure, Refusal};
use humantime::format_rfc3339_seconds;
use protocol::signed::Signed;
use ureq::Body;
use ureq::http::Response;

/// An HTTP address, or that of an object (`s3://bucket/key`).
#[derive(Debug, Clone)]
pub struct Address {
    name: String,
    /// The file with signed requests. It is read for each request, since it is replaced before its signatures end.
    signed: Option<PathBuf>,
}

impl Address {
    pub fn new(name: &str, signed: Option<PathBuf>) -> Self {
        let is_object = name.starts_with("s3://");
        Self { name: name.to_owned(), signed: signed.filter(|_| is_object) }
    }

    /// The URL of a GET.
    ///
    /// # Errors
    /// It is an object, and there is no signed request for it.
    pub(crate) fn url(&self) -> anyhow::Result<String> {
        let Some(path) = &self.signed else { return Ok(self.name.clone()) };
        let url = Signed::read(path)?.inputs.remove(&self.name);
        url.with_context(|| {
            format!("{} has no request for {}; start the job again", path.display(), self.name)
        })
    }

    /// When the signature has ended, if it has. Another one may follow.
    pub(crate) fn ended(&self) -> Option<SystemTime> {
        ended(&Signed::read(self.signed.as_deref()?).ok()?)
    }
}

/// When the signatures have ended, if they have.
pub(crate) fn ended(signed: &Signed) -> Option<SystemTime> {
    Some(signed.end()).filter(|end| *end <= SystemTime::now())
}

/// Why a request was refused whose signature has `ended`, if it has.
pub(crate) fn refused(response: Response<Body>, ended: Option<SystemTime>) -> Failure {
    let refusal = Refusal::read(response);
    match ended {
        None if refusal.code.as_deref() == Some("ExpiredToken") => {
            Failure::Passing(Error::new(refusal).context("the credentials of the signature have ended"))
        }
        // A command that watches the job may sign again.
        Some(end) => Failure::Passing(
            Error::new(refusal).context(format!("the signature ended at {}", format_rfc3339_seconds(end))),
        ),
        None => refusal.into(),
    }
}
