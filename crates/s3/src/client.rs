//! Requests that this program makes itself.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Context;
use http_client::{Failure, Refusal, retry};
use rusty_s3::{Bucket, S3Action};
use ureq::http::{Method, Request, Response};
use ureq::{Agent, Body};
use url::Url;

use crate::account::{Account, Keys};
use crate::errors::Attempt;
use crate::service::{Found, Service};

/// How long a request's signature is valid. Clocks may differ by a quarter of an hour.
const SIGNED_FOR: Duration = Duration::from_secs(3600);
/// The longest answer that is read: a list of 1,000 long keys has a few megabytes.
const LONGEST_ANSWER: u64 = 64 << 20;
/// The header with a bucket's region.
const REGION: &str = "x-amz-bucket-region";

/// S3, with the user's credentials.
#[derive(Debug)]
pub struct Client {
    pub keys: Keys,
    service: Service,
    agent: Agent,
    /// The buckets whose region is known.
    buckets: HashMap<String, Bucket>,
}

/// AWS does not know a bucket.
#[derive(Debug, thiserror::Error)]
#[error("there is no bucket {0}; check the address and AWS_REGION")]
pub(crate) struct NoBucket(String);

impl Client {
    /// # Errors
    /// There are no credentials, or the configuration is wrong.
    pub fn connect() -> anyhow::Result<Self> {
        let Account { service, keys } = Account::load()?;
        Ok(Self { keys, service, agent: http_client::agent(), buckets: HashMap::new() })
    }

    /// Resolves the credentials again. On an error, those from before remain.
    ///
    /// # Errors
    /// There are none now.
    pub fn renew_keys(&mut self) -> anyhow::Result<()> {
        self.keys = Account::load()?.keys;
        Ok(())
    }

    /// Finds the bucket with this name. AWS is asked once for each name.
    ///
    /// # Errors
    /// There is none, or S3 cannot be reached.
    pub fn bucket(&mut self, name: &str) -> anyhow::Result<Bucket> {
        if let Some(bucket) = self.buckets.get(name) {
            return Ok(bucket.clone());
        }
        let region = match self.service.region_url(name) {
            Some(url) => self.region(&url, name)?,
            None => self.service.region().unwrap_or_default().to_owned(),
        };
        let bucket = self.service.bucket(name, &region)?;
        self.buckets.insert(name.to_owned(), bucket.clone());
        Ok(bucket)
    }

    fn region(&self, url: &Url, bucket: &str) -> anyhow::Result<String> {
        let found = retry(|| {
            let answer = self.send(&Method::HEAD, url, &[])?;
            let region = answer.headers().get(REGION).and_then(|region| region.to_str().ok());
            match Found::of(answer.status(), region) {
                Found::Unknown => match Refusal::read(answer) {
                    refusal if refusal.passes() => Err(refusal.into()),
                    _ => Ok(Found::Unknown),
                },
                found => Ok(found),
            }
        });
        match found.with_context(|| {
            format!("asking {url} where the bucket {bucket} is; check the network, the proxy and AWS_REGION")
        })? {
            Found::In(region) => Ok(region),
            Found::Nowhere => Err(NoBucket(bucket.to_owned()).into()),
            Found::Unknown => self.service.region().map(str::to_owned).with_context(|| {
                format!("S3 does not say in which region the bucket {bucket} is; set AWS_REGION")
            }),
        }
    }

    /// Makes a signed request with the headers of the action, and returns the text of the answer.
    pub(crate) fn call<'a>(&self, action: impl S3Action<'a>, attempt: Attempt<'_>) -> anyhow::Result<String> {
        let answer = self.try_call(action).map_err(|error| attempt.explain(error))?;
        Ok(answer.into_body())
    }

    /// Like [`Client::call`], with the headers of the answer; a [`Refusal`] can be found in the error.
    pub(crate) fn try_call<'a>(&self, mut action: impl S3Action<'a>) -> anyhow::Result<Response<String>> {
        let headers = action.headers_mut().clone();
        let headers: Vec<_> = headers.iter().collect();
        let method = method(&action);
        retry(|| {
            let url = action.sign(SIGNED_FOR);
            let answer = self.send(&method, &url, &headers)?;
            if !answer.status().is_success() {
                return Err(Refusal::read(answer).into());
            }
            let (parts, body) = answer.into_parts();
            let text = body.into_with_config().limit(LONGEST_ANSWER).read_to_string()?;
            Ok(Response::from_parts(parts, text))
        })
    }

    fn send(&self, method: &Method, url: &Url, headers: &[(&str, &str)]) -> Result<Response<Body>, Failure> {
        let mut request = Request::builder().method(method).uri(url.as_str());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(()).map_err(|error| Failure::Lasting(error.into()))?;
        // S3 redirects to other regions, for which the signature does not count.
        let request = self.agent.configure_request(request).max_redirects(0).max_redirects_will_error(false);
        Ok(self.agent.run(request.build())?)
    }
}

fn method<'a, A: S3Action<'a>>(_: &A) -> Method {
    match A::METHOD {
        rusty_s3::Method::Head => Method::HEAD,
        rusty_s3::Method::Get => Method::GET,
        rusty_s3::Method::Post => Method::POST,
        rusty_s3::Method::Put => Method::PUT,
        rusty_s3::Method::Delete => Method::DELETE,
    }
}
