//! Signs the requests of a job. Signing makes no request: S3 checks a right when the signed one is made.

use std::time::Duration;

use anyhow::Context;
use jiff::Timestamp;
use protocol::signed::{MOST_PARTS, Open, PART, SIGNATURE, Upload};
use rusty_s3::actions::{CompleteMultipartUpload, GetObject, HeadObject, UploadPart};
use rusty_s3::{Bucket, Credentials, S3Action};

/// What begins the last parameter of a signed URL. No parameter before it has this text, since `&` and `=` in values are escaped.
const BEFORE_SIGNATURE: &str = "&X-Amz-Signature=";
const FIRST_PART: &str = "&partNumber=1&";

/// Signs requests that are valid from `time` on.
#[derive(Debug, Clone, Copy)]
pub struct Signer<'a> {
    pub credentials: &'a Credentials,
    pub time: Timestamp,
    pub valid: Duration,
}

impl Signer<'_> {
    /// The URL of a GET.
    pub fn input(&self, bucket: &Bucket, key: &str) -> String {
        self.sign(&GetObject::new(bucket, Some(self.credentials), key))
    }

    /// All requests of an upload that has begun.
    ///
    /// # Errors
    /// Signed URLs are not as expected.
    pub fn upload(&self, bucket: &Bucket, key: &str, open: &Open) -> anyhow::Result<Upload> {
        let credentials = Some(self.credentials);
        let part = |number| self.sign(&UploadPart::new(bucket, credentials, key, number, &open.id));
        let signatures =
            (1..=MOST_PARTS).map(|number| Some(part(number).rsplit_once(BEFORE_SIGNATURE)?.1.to_owned()));
        let signatures: Option<Vec<_>> = signatures.collect();
        let complete = CompleteMultipartUpload::new(bucket, credentials, key, &open.id, std::iter::empty());
        Ok(Upload {
            open: open.clone(),
            part: template(&part(1)).context("making a URL for parts")?,
            signatures: signatures.context("signing parts")?,
            complete: self.sign(&complete),
            head: self.sign(&HeadObject::new(bucket, credentials, key)),
        })
    }

    fn sign<'a>(&self, action: &impl S3Action<'a>) -> String {
        action.sign_with_time(self.valid, &self.time).into()
    }
}

/// The URL for any part, from that of the first.
fn template(url: &str) -> Option<String> {
    let (url, _) = url.rsplit_once(BEFORE_SIGNATURE)?;
    let (before, after) = url.rsplit_once(FIRST_PART)?;
    Some(format!("{before}&partNumber={PART}&{after}{BEFORE_SIGNATURE}{SIGNATURE}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::service::Service;

    fn bucket() -> Bucket {
        Service::own("http://127.0.0.1:9000", None).unwrap().bucket("b", "us-east-1").unwrap()
    }

    fn credentials(token: Option<&str>) -> Credentials {
        match token {
            Some(token) => Credentials::new_with_token("key", "secret", token),
            None => Credentials::new("key", "secret"),
        }
    }

    fn signer(credentials: &Credentials) -> Signer<'_> {
        let time = Timestamp::from_second(1_800_000_000).unwrap();
        Signer { credentials, time, valid: Duration::from_secs(3600) }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn the_url_of_each_part_is_that_which_is_signed(
            key in "[a-z][a-z0-9 +&={}%/ä]{0,20}(&partNumber=1&)?",
            id in "[a-zA-Z0-9._~+/=&{}-]{1,40}",
            token in prop::option::of("[a-zA-Z0-9+/={}]{1,100}"),
        ) {
            let (bucket, credentials) = (bucket(), credentials(token.as_deref()));
            let signer = signer(&credentials);
            let open = Open { address: format!("s3://b/{key}"), id: id.clone(), job: "j".to_owned() };
            let upload = signer.upload(&bucket, &key, &open).unwrap();
            prop_assert_eq!(upload.signatures.len(), usize::from(MOST_PARTS));
            for number in [1, 2, 10, 999, 1000, 9999, 10_000] {
                let action = UploadPart::new(&bucket, Some(&credentials), &key, number, &id);
                let url = action.sign_with_time(signer.valid, &signer.time);
                prop_assert_eq!(upload.part(number).unwrap(), url.as_str());
            }
        }
    }

    #[test]
    fn signed_urls_have_the_key_the_time_and_the_token() {
        let (bucket, credentials) = (bucket(), credentials(Some("a+b/c")));
        let url = signer(&credentials).input(&bucket, "f/a b+c%20ä.csv");
        assert!(
            url.starts_with("http://127.0.0.1:9000/b/f/a%20b%2Bc%2520%C3%A4.csv?X-Amz-Algorithm="),
            "{url}"
        );
        for part in ["&X-Amz-Date=20270115T080000Z&X-Amz-Expires=3600&", "&X-Amz-Security-Token=a%2Bb%2Fc&"] {
            assert!(url.contains(part), "{url}");
        }
        let open = Open { address: "s3://b/k".to_owned(), id: "i".to_owned(), job: "j".to_owned() };
        let upload = signer(&credentials).upload(&bucket, "k", &open).unwrap();
        assert!(upload.complete.contains("&uploadId=i&X-Amz-Signature="), "{}", upload.complete);
        assert!(!upload.head.contains("uploadId") && upload.head.starts_with("http://127.0.0.1:9000/b/k?"));
        // Another method is another signature.
        assert_ne!(upload.head, signer(&credentials).input(&bucket, "k"));
    }
}
