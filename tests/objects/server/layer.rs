//! What stands before S3: notes the requests, and injects faults.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::{Arc, Mutex};

use hyper::{Response, StatusCode};
use s3s::service::S3Service;

use super::bodies::{Cut, Received, Sent, drain};
use super::fault::{Effect, Point, Rule};

pub(super) type Incoming = hyper::Request<hyper::body::Incoming>;
pub(super) type Answered = Result<Response<Sent>, NoAnswer>;

/// Ends the connection without an answer.
#[derive(Debug)]
pub(super) struct NoAnswer;

impl std::fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("there is no answer")
    }
}

impl std::error::Error for NoAnswer {}

/// A request that has arrived.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// With escapes: `/bucket/key`.
    pub(crate) path: String,
    /// The parameters, without escapes.
    pub(crate) query: BTreeMap<String, String>,
    /// The status of the answer, even if the client has gone; `None` as long as there is none.
    pub(crate) status: Option<u16>,
}

impl Request {
    /// The number of the part that it sends.
    pub(crate) fn part(&self) -> Option<u16> {
        self.query.get("partNumber").filter(|_| self.method == "PUT")?.parse().ok()
    }
}

#[derive(Debug)]
pub(super) struct Layer {
    service: S3Service,
    rules: Mutex<Vec<Arc<Rule>>>,
    requests: Mutex<Vec<Request>>,
}

impl Layer {
    pub(super) fn new(service: S3Service) -> Self {
        Self { service, rules: Mutex::default(), requests: Mutex::default() }
    }

    pub(super) fn add(&self, rule: Arc<Rule>) {
        self.rules.lock().unwrap().push(rule);
    }

    pub(super) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// Answers without faults and notes.
    pub(super) async fn forward(&self, request: Incoming) -> Answered {
        self.perform(request.map(Received::new)).await.map(|answer| answer.map(Sent::whole))
    }

    /// Answers a request. Performs it also if the client goes meanwhile, as S3 does with what has arrived; hyper would drop it.
    pub(super) async fn answer(self: Arc<Self>, request: Incoming, cut: Cut) -> Answered {
        let number = self.note(&request);
        let rule = self.rule(&request);
        let layer = self.clone();
        let answer = tokio::spawn(async move {
            let answer = match rule {
                Some(rule) => layer.meet(rule, request, cut).await?,
                None => layer.forward(request).await?,
            };
            layer.requests.lock().unwrap()[number].status = Some(answer.status().as_u16());
            Ok(answer)
        });
        answer.await.map_err(|_| NoAnswer)?
    }

    fn note(&self, request: &Incoming) -> usize {
        let query = url::form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes());
        let noted = Request {
            method: request.method().to_string(),
            path: request.uri().path().to_owned(),
            query: query.into_owned().collect(),
            status: None,
        };
        let mut requests = self.requests.lock().unwrap();
        requests.push(noted);
        requests.len() - 1
    }

    /// The fault that the request meets.
    fn rule(&self, request: &Incoming) -> Option<Arc<Rule>> {
        let rules = self.rules.lock().unwrap();
        // All of them count it.
        let due: Vec<_> = rules.iter().filter(|rule| rule.count(request)).collect();
        due.first().map(|rule| Arc::clone(rule))
    }

    async fn meet(&self, rule: Arc<Rule>, request: Incoming, cut: Cut) -> Answered {
        match rule.effect() {
            Effect::SlowDown => Ok(refuse(&rule, request, StatusCode::SERVICE_UNAVAILABLE, SLOW_DOWN).await),
            Effect::Expired => Ok(refuse(&rule, request, StatusCode::FORBIDDEN, EXPIRED).await),
            Effect::Close => {
                rule.happened();
                Err(NoAnswer)
            }
            Effect::LoseAnswer => {
                let answer = self.perform(request.map(Received::new)).await?;
                drain(answer.into_body()).await;
                rule.happened();
                Err(NoAnswer)
            }
            Effect::CutAfter(bytes) => self.end_early(rule, request, bytes, Some(cut)).await,
            Effect::StallAfter(bytes) => self.end_early(rule, request, bytes, None).await,
            Effect::Hang => {
                rule.happened();
                pending().await
            }
            Effect::Pause(point) => self.pause(rule, point, request).await,
        }
    }

    async fn end_early(&self, rule: Arc<Rule>, request: Incoming, bytes: u64, cut: Option<Cut>) -> Answered {
        let answer = self.perform(request.map(Received::new)).await?;
        let end = async move {
            rule.happened();
            if let Some(cut) = cut {
                cut.cut();
            }
            pending::<()>().await;
        };
        Ok(answer.map(|body| Sent::ending(body, bytes, end)))
    }

    async fn pause(&self, rule: Arc<Rule>, point: Point, request: Incoming) -> Answered {
        match point {
            Point::Arrived => {
                rule.pause().await;
                self.forward(request).await
            }
            Point::Received(bytes) => {
                let request = request.map(|body| Received::pausing(body, bytes, rule.pause()));
                Ok(self.perform(request).await?.map(Sent::whole))
            }
            Point::Performed => {
                let answer = self.forward(request).await?;
                rule.pause().await;
                Ok(answer)
            }
        }
    }

    async fn perform(&self, request: hyper::Request<Received>) -> Result<Response<s3s::Body>, NoAnswer> {
        self.service.call(request.map(s3s::Body::http_body_unsync)).await.map_err(|_| NoAnswer)
    }
}

const SLOW_DOWN: &str = "<Code>SlowDown</Code><Message>Please reduce your request rate.</Message>";
const EXPIRED: &str = "<Code>AccessDenied</Code><Message>Request has expired</Message>\
                       <X-Amz-Expires>3600</X-Amz-Expires><Expires>2026-01-01T01:00:00Z</Expires>\
                       <ServerTime>2026-01-01T01:00:01Z</ServerTime>";

/// Answers with an error as S3 writes it.
async fn refuse(rule: &Rule, request: Incoming, status: StatusCode, error: &str) -> Response<Sent> {
    let is_head = request.method() == hyper::Method::HEAD;
    drain(request.into_body()).await;
    rule.happened();
    let start = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error>";
    let xml = format!("{start}{error}<RequestId>4442587FB7D0A2F9</RequestId><HostId>host</HostId></Error>");
    let body = if is_head { s3s::Body::empty() } else { xml.into() };
    let answer = Response::builder().status(status).header("content-type", "application/xml");
    answer.body(Sent::whole(body)).unwrap()
}
