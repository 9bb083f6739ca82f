//! A refusal by the server.

use std::fmt;
use std::io::Read;

use ureq::Body;
use ureq::http::{Response, StatusCode};

use crate::Failure;

/// How many bytes of a server's explanation are read.
const EXPLANATION: u64 = 4 << 10;
/// S3's codes that are worth a retry despite their status.
const PASSING: [&str; 2] = ["OperationAborted", "RequestTimeout"];

/// A refusal by the server, with what S3's XML says about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub status: StatusCode,
    /// S3's word for the reason, such as `AccessDenied`.
    pub code: Option<String>,
    /// S3's sentence.
    pub message: Option<String>,
}

impl Refusal {
    /// Reads the explanation. If it cannot be read, there is none.
    pub fn read(response: Response<Body>) -> Self {
        let status = response.status();
        let mut bytes = Vec::new();
        let read = response.into_body().into_reader().take(EXPLANATION).read_to_end(&mut bytes);
        let xml = read.map(|_| String::from_utf8_lossy(&bytes)).unwrap_or_default();
        Self { status, code: element(&xml, "Code"), message: element(&xml, "Message") }
    }

    /// Whether another try may succeed.
    pub fn passes(&self) -> bool {
        let is_busy = self.status.is_server_error() && self.status != StatusCode::NOT_IMPLEMENTED;
        let is_passing = self.code.as_deref().is_some_and(|code| PASSING.contains(&code));
        is_busy || is_passing || self.status == StatusCode::TOO_MANY_REQUESTS
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server answers {}", self.status)?;
        self.message.as_ref().or(self.code.as_ref()).map_or(Ok(()), |why| write!(f, ": {why}"))
    }
}

impl std::error::Error for Refusal {}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        if refusal.passes() { Self::Passing(refusal.into()) } else { Self::Lasting(refusal.into()) }
    }
}

/// The text of the first element with this name, in one line.
fn element(xml: &str, name: &str) -> Option<String> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let entities =
        [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&#39;", "'"), ("&amp;", "&")];
    let text = entities.iter().fold(text, |text, (entity, character)| text.replace(entity, character));
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(status: u16, body: &str) -> Refusal {
        let body = Body::builder().data(body.to_owned());
        Refusal::read(Response::builder().status(status).body(body).unwrap())
    }

    #[test]
    fn a_refusal_has_the_words_of_s3() {
        let xml =
            "<?xml?>\n<Error><Code>AccessDenied</Code><Message>No right\n to &lt;it&gt;</Message></Error>";
        let denied = refusal(403, xml);
        assert_eq!(denied.code.as_deref(), Some("AccessDenied"));
        assert_eq!(denied.to_string(), "the server answers 403 Forbidden: No right to <it>");
        assert_eq!(refusal(404, "<html>").to_string(), "the server answers 404 Not Found");
    }

    #[test]
    fn a_refusal_passes_if_the_server_is_busy() {
        assert!([500, 503, 429].into_iter().all(|status| refusal(status, "").passes()));
        assert!(![301, 400, 403, 404, 501].into_iter().any(|status| refusal(status, "").passes()));
        assert!(refusal(400, "<Error><Code>RequestTimeout</Code></Error>").passes());
    }
}
