//! Errors of requests: what was attempted on what, the words of S3, and what to do.

use anyhow::{Error, anyhow};
use http_client::Refusal;
use ureq::http::StatusCode;

use crate::address::Address;

/// A request, as errors name it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attempt<'a> {
    /// Such as "listing".
    pub(crate) doing: &'static str,
    pub(crate) on: &'a Address,
    /// The right that it needs, as in policies.
    pub(crate) right: &'static str,
}

impl Attempt<'_> {
    pub(crate) fn explain(self, error: Error) -> Error {
        let Self { doing, on, .. } = self;
        let Some(refusal) = error.downcast_ref::<Refusal>() else {
            return error.context(format!("{doing} {on}; check the network, the proxy and the endpoint"));
        };
        let advice = self.advice(refusal).map_or(String::new(), |advice| format!("; {advice}"));
        anyhow!("{doing} {on}: {}{advice}", said(refusal))
    }

    fn advice(self, refusal: &Refusal) -> Option<String> {
        let Address { bucket, .. } = self.on;
        // In the query of a URL, such a signature is only denied.
        let is_of_clock =
            |words: &str| ["Request has expired", "not yet valid"].iter().any(|clock| words.contains(clock));
        if refusal.message.as_deref().is_some_and(is_of_clock) {
            return Some("set the clock of this machine".to_owned());
        }
        Some(match refusal.code.as_deref().unwrap_or_default() {
            "NoSuchBucket" => format!("there is no bucket {bucket}; check the address"),
            "InvalidBucketName" => "check the address".to_owned(),
            "InvalidAccessKeyId" | "SignatureDoesNotMatch" => {
                "use other credentials (AWS_PROFILE, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)".to_owned()
            }
            "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired" => {
                "the session has ended; log in again: aws sso login, or aws login".to_owned()
            }
            "RequestTimeTooSkewed" | "RequestExpired" => "set the clock of this machine".to_owned(),
            "AuthorizationHeaderMalformed"
            | "AuthorizationQueryParametersError"
            | "IllegalLocationConstraintException"
            | "InvalidRegion"
            | "PermanentRedirect" => format!("set AWS_REGION to the region of the bucket {bucket}"),
            "KeyTooLongError" | "XMinioInvalidObjectName" => "use another key".to_owned(),
            _ if refusal.status == StatusCode::FORBIDDEN => {
                format!("let the credentials do {} there", self.right)
            }
            _ if refusal.passes() => "run the command again later".to_owned(),
            _ => return None,
        })
    }
}

fn said(refusal: &Refusal) -> String {
    let Refusal { status, code, message } = refusal;
    let words: Vec<_> = code.iter().chain(message).map(String::as_str).collect();
    let words = if words.is_empty() { String::new() } else { format!(" ({})", words.join(": ")) };
    format!("S3 answers {status}{words}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_was_refused_and_what_to_do() {
        let on = "s3://b/f/k".parse().unwrap();
        let attempt = Attempt { doing: "beginning an upload to", on: &on, right: "s3:PutObject" };
        let error = |status: u16, code: &str| {
            let code = Some(code.to_owned()).filter(|code| !code.is_empty());
            let message = code.as_ref().map(|_| "no".to_owned());
            let refusal = Refusal { status: StatusCode::from_u16(status).unwrap(), code, message };
            format!("{:#}", attempt.explain(Error::new(refusal).context("tried 7 times")))
        };
        assert_eq!(
            error(403, "AccessDenied"),
            "beginning an upload to s3://b/f/k: S3 answers 403 Forbidden (AccessDenied: no); let the credentials do s3:PutObject there"
        );
        assert!(
            error(403, "").ends_with("S3 answers 403 Forbidden; let the credentials do s3:PutObject there")
        );
        assert!(error(403, "InvalidAccessKeyId").contains("use other credentials"));
        assert!(error(404, "NoSuchBucket").contains("there is no bucket b"));
        assert!(error(400, "ExpiredToken").contains("log in again"));
        assert!(error(503, "SlowDown").ends_with("later"));
        assert!(error(400, "Strange").ends_with("(Strange: no)"));
        let lost = attempt.explain(anyhow!("io: reset"));
        assert_eq!(
            format!("{lost:#}"),
            "beginning an upload to s3://b/f/k; check the network, the proxy and the endpoint: io: reset"
        );
    }
}
