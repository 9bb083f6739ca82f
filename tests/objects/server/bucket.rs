//! What a test does with objects itself.

use std::collections::BTreeMap;
use std::time::Duration;

use rusty_s3::actions::ListObjectsV2;
use rusty_s3::{Credentials, S3Action};
use tests::PATIENCE;
use ureq::http::Response;
use ureq::{Agent, Body};

/// How long signatures of the test itself are valid.
const VALID: Duration = Duration::from_secs(3600);

/// A bucket, for the test itself: its requests meet no faults, and are not among [`Server::requests`](super::Server::requests).
#[derive(Debug)]
pub(crate) struct Bucket {
    signer: rusty_s3::Bucket,
    credentials: Credentials,
    agent: Agent,
}

/// What S3 says of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) bytes: u64,
    /// With its quotation marks.
    pub(crate) etag: String,
    /// Without `x-amz-meta-` in the names.
    pub(crate) metadata: BTreeMap<String, String>,
}

impl Bucket {
    pub(super) fn create(signer: rusty_s3::Bucket, credentials: Credentials) -> Self {
        let agent = agent();
        let url = signer.create_bucket(&credentials).sign(VALID);
        let answer = agent.put(url.as_str()).send_empty().unwrap();
        assert_eq!(answer.status(), 200, "{answer:?}");
        Self { signer, credentials, agent }
    }

    /// Writes or overwrites an object; returns its ETag, with its quotation marks.
    pub(crate) fn put(&self, key: &str, bytes: &[u8]) -> String {
        let url = self.signer.put_object(Some(&self.credentials), key).sign(VALID);
        let answer = self.agent.put(url.as_str()).send(bytes).unwrap();
        assert_eq!(answer.status(), 200, "{key}: {answer:?}");
        header(&answer, "etag").unwrap()
    }

    /// Reads an object; `None` if there is none.
    pub(crate) fn get(&self, key: &str) -> Option<Vec<u8>> {
        let url = self.signer.get_object(Some(&self.credentials), key).sign(VALID);
        let answer = there(self.agent.get(url.as_str()).call().unwrap())?;
        Some(answer.into_body().into_with_config().limit(u64::MAX).read_to_vec().unwrap())
    }

    /// What S3 says of an object; `None` if there is none.
    pub(crate) fn head(&self, key: &str) -> Option<Head> {
        let url = self.signer.head_object(Some(&self.credentials), key).sign(VALID);
        let answer = there(self.agent.head(url.as_str()).call().unwrap())?;
        let bytes = header(&answer, "content-length").unwrap().parse().unwrap();
        let metadata = answer.headers().iter().filter_map(|(name, value)| {
            let name = name.as_str().strip_prefix("x-amz-meta-")?;
            Some((name.to_owned(), value.to_str().unwrap().to_owned()))
        });
        Some(Head { bytes, etag: header(&answer, "etag").unwrap(), metadata: metadata.collect() })
    }

    /// The keys of all objects here that begin with a text, in their order; at most 1,000.
    pub(crate) fn keys(&self, prefix: &str) -> Vec<String> {
        let mut action = self.signer.list_objects_v2(Some(&self.credentials));
        action.with_prefix(prefix);
        let answer = there(self.agent.get(action.sign(VALID).as_str()).call().unwrap()).unwrap();
        let text = answer.into_body().read_to_string().unwrap();
        let list = ListObjectsV2::parse_response(&text).unwrap();
        list.contents.into_iter().map(|object| object.key).collect()
    }
}

/// A client for requests that may be refused. Waits for [`PATIENCE`].
pub(crate) fn agent() -> Agent {
    let config = Agent::config_builder().http_status_as_error(false).proxy(None);
    config.timeout_global(Some(PATIENCE)).build().into()
}

fn there(answer: Response<Body>) -> Option<Response<Body>> {
    if answer.status() == 404 {
        return None;
    }
    assert_eq!(answer.status(), 200, "{answer:?}");
    Some(answer)
}

fn header(answer: &Response<Body>, name: &str) -> Option<String> {
    Some(answer.headers().get(name)?.to_str().unwrap().to_owned())
}
