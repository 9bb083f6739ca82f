//! A client with signed URLs, as the product is one.

use std::time::Duration;

use rusty_s3::actions::{CompleteMultipartUpload, CreateMultipartUpload, UploadPart};
use rusty_s3::{Credentials, S3Action};
use ureq::http::Response;
use ureq::{Agent, Body};

use crate::server::{Server, agent};

pub(crate) const VALID: Duration = Duration::from_secs(3600);
pub(crate) const JOB: &str = "x-amz-meta-job";

/// Sends requests to a bucket.
pub(crate) struct Client {
    pub(crate) signer: rusty_s3::Bucket,
    pub(crate) credentials: Credentials,
    pub(crate) agent: Agent,
}

impl Client {
    pub(crate) fn new(server: &Server, bucket: &str) -> Self {
        Self { signer: server.signer(bucket), credentials: server.credentials(), agent: agent() }
    }

    /// The URL of a GET.
    pub(crate) fn url(&self, key: &str) -> String {
        self.signer.get_object(Some(&self.credentials), key).sign(VALID).into()
    }

    /// Begins an upload of a job; returns its id.
    pub(crate) fn begin(&self, key: &str, job: &str) -> String {
        let mut action = self.signer.create_multipart_upload(Some(&self.credentials), key);
        action.headers_mut().insert(JOB, job);
        let request = self.agent.post(action.sign(VALID).as_str()).header(JOB, job);
        let text = request.send_empty().unwrap().into_body().read_to_string().unwrap();
        CreateMultipartUpload::parse_response(&text).unwrap().upload_id().to_owned()
    }

    pub(crate) fn part_url(&self, key: &str, id: &str, number: u16) -> String {
        UploadPart::new(&self.signer, Some(&self.credentials), key, number, id).sign(VALID).into()
    }

    pub(crate) fn send_part(&self, key: &str, id: &str, number: u16, bytes: &[u8]) -> Response<Body> {
        self.agent.put(self.part_url(key, id, number)).send(bytes).unwrap()
    }

    /// Sends a part that must be accepted; returns its ETag.
    pub(crate) fn part(&self, key: &str, id: &str, number: u16, bytes: &[u8]) -> String {
        let answer = self.send_part(key, id, number, bytes);
        assert_eq!(answer.status(), 200, "{answer:?}");
        header(&answer, "etag").to_owned()
    }

    /// Completes an upload with the parts that have these ETags.
    pub(crate) fn complete(
        &self,
        key: &str,
        id: &str,
        etags: &[&str],
    ) -> Result<Response<Body>, ureq::Error> {
        let etags = etags.iter().copied();
        let action = CompleteMultipartUpload::new(&self.signer, Some(&self.credentials), key, id, etags);
        let url = action.sign(VALID);
        self.agent.post(url.as_str()).send(action.body())
    }

    pub(crate) fn abort(&self, key: &str, id: &str) -> Response<Body> {
        let url = self.signer.abort_multipart_upload(Some(&self.credentials), key, id).sign(VALID);
        self.agent.delete(url.as_str()).call().unwrap()
    }
}

pub(crate) fn header<'a>(answer: &'a Response<Body>, name: &str) -> &'a str {
    let value = answer.headers().get(name).unwrap_or_else(|| panic!("{name} is missing: {answer:?}"));
    value.to_str().unwrap()
}

pub(crate) fn text(answer: Response<Body>) -> String {
    answer.into_body().read_to_string().unwrap()
}

/// The status and S3's code of a refusal.
pub(crate) fn refusal(answer: Response<Body>) -> (u16, String) {
    let (status, text) = (answer.status().as_u16(), text(answer));
    let code = text.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>"));
    (status, code.unwrap_or_else(|| panic!("{status}: {text}")).0.to_owned())
}

/// As [`refusal`] returns it.
pub(crate) fn refused(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}
