//! Where S3 is, and the URL of a bucket there.

use anyhow::{Context, ensure};
use rusty_s3::{Bucket, UrlStyle};
use ureq::http::StatusCode;
use url::Url;

/// Where requests are signed for if nothing says so. It is the region of most other implementations, too.
pub const DEFAULT_REGION: &str = "us-east-1";
/// The longest name of a bucket that can be a part of a host name.
const LONGEST_LABEL: usize = 63;

/// Where S3 is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Service {
    /// At an address of the user's: another implementation of S3, or an endpoint of AWS in a private network. It has all
    /// buckets, by their path.
    Own { endpoint: Url, region: String },
    /// In AWS. Each bucket has a region of its own.
    Aws {
        /// The region of the user's configuration.
        region: Option<String>,
        fips: bool,
        dual_stack: bool,
    },
}

impl Service {
    /// # Errors
    /// The endpoint is no HTTP address.
    pub fn own(endpoint: &str, region: Option<String>) -> anyhow::Result<Self> {
        let advice = || {
            format!("the endpoint {endpoint:?} should be like http://127.0.0.1:9000 (AWS_ENDPOINT_URL_S3)")
        };
        let endpoint: Url = endpoint.parse().with_context(advice)?;
        ensure!(["http", "https"].contains(&endpoint.scheme()) && endpoint.has_host(), advice());
        Ok(Self::Own { endpoint, region: region.unwrap_or_else(|| DEFAULT_REGION.to_owned()) })
    }

    /// The URL that answers in which region a bucket is; `None` if all are in one.
    pub fn region_url(&self, bucket: &str) -> Option<Url> {
        let Self::Aws { region, fips, dual_stack } = self else { return None };
        // Any region of its partition answers.
        let host = host(region.as_deref().unwrap_or(DEFAULT_REGION), *fips, *dual_stack);
        let url = if fits_in_host(bucket) {
            format!("https://{bucket}.{host}/")
        } else {
            format!("https://{host}/{bucket}")
        };
        url.parse().ok()
    }

    /// A bucket in a region. [`Service::Own`] has its own region.
    ///
    /// # Errors
    /// The region cannot be a part of a host name.
    pub fn bucket(&self, name: &str, region: &str) -> anyhow::Result<Bucket> {
        let (endpoint, region, style) = match self {
            Self::Own { endpoint, region } => (endpoint.clone(), region.as_str(), UrlStyle::Path),
            Self::Aws { fips, dual_stack, .. } => {
                let endpoint = format!("https://{}", host(region, *fips, *dual_stack));
                let endpoint = endpoint.parse().with_context(|| format!("the region {region:?} is none"))?;
                let style = if fits_in_host(name) { UrlStyle::VirtualHost } else { UrlStyle::Path };
                (endpoint, region, style)
            }
        };
        let bucket = Bucket::new(endpoint, style, name.to_owned(), region.to_owned());
        bucket.with_context(|| format!("the bucket {name} can have no address in {region}"))
    }

    /// The user's region.
    pub fn region(&self) -> Option<&str> {
        match self {
            Self::Own { region, .. } => Some(region),
            Self::Aws { region, .. } => region.as_deref(),
        }
    }
}

/// What the answer of [`Service::region_url`] says about a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    In(String),
    Nowhere,
    Unknown,
}

impl Found {
    /// `region` is the answer's header `x-amz-bucket-region`. Answers that refuse access have it, too.
    pub fn of(status: StatusCode, region: Option<&str>) -> Self {
        match region.filter(|region| !region.is_empty()) {
            Some(region) => Self::In(region.to_owned()),
            None if status == StatusCode::NOT_FOUND => Self::Nowhere,
            None => Self::Unknown,
        }
    }
}

fn host(region: &str, fips: bool, dual_stack: bool) -> String {
    let domain = match region.split('-').next() {
        Some("cn") => "amazonaws.com.cn",
        Some("eusc") => "amazonaws.eu",
        _ => "amazonaws.com",
    };
    let (fips, dual_stack) = (if fips { "-fips" } else { "" }, if dual_stack { ".dualstack" } else { "" });
    format!("s3{fips}{dual_stack}.{region}.{domain}")
}

/// Whether a certificate for `*.s3.amazonaws.com` counts for the bucket's host name.
fn fits_in_host(bucket: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    bucket.len() <= LONGEST_LABEL
        && bucket.bytes().all(is_inner)
        && !bucket.starts_with('-')
        && !bucket.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn aws(region: Option<&str>) -> Service {
        Service::Aws { region: region.map(str::to_owned), fips: false, dual_stack: false }
    }

    fn object(service: &Service, bucket: &str, region: &str, key: &str) -> String {
        service.bucket(bucket, region).unwrap().object_url(key).to_string()
    }

    #[test]
    fn a_bucket_of_aws_is_a_host_unless_its_name_cannot_be_one() {
        let there = |bucket, region| object(&aws(None), bucket, region, "k");
        assert_eq!(there("b", "eu-west-1"), "https://b.s3.eu-west-1.amazonaws.com/k");
        assert_eq!(there("b.c", "eu-west-1"), "https://s3.eu-west-1.amazonaws.com/b.c/k");
        assert_eq!(there("Old_One", "us-east-1"), "https://s3.us-east-1.amazonaws.com/Old_One/k");
        assert_eq!(there("b", "cn-north-1"), "https://b.s3.cn-north-1.amazonaws.com.cn/k");
        assert_eq!(there("b", "us-gov-west-1"), "https://b.s3.us-gov-west-1.amazonaws.com/k");
        let service = Service::Aws { region: None, fips: true, dual_stack: true };
        assert_eq!(
            object(&service, "b", "us-east-2", "k"),
            "https://b.s3-fips.dualstack.us-east-2.amazonaws.com/k"
        );
    }

    #[test]
    fn a_bucket_of_another_service_is_a_path() {
        let service = Service::own("http://127.0.0.1:9000", None).unwrap();
        assert_eq!(object(&service, "b", "eu-west-1", "k"), "http://127.0.0.1:9000/b/k");
        assert_eq!(service.bucket("b", "eu-west-1").unwrap().region(), "us-east-1");
        let service = Service::own("https://h/s3/", Some("garage".to_owned())).unwrap();
        assert_eq!(object(&service, "b", "garage", "k"), "https://h/s3/b/k");
        assert_eq!((service.region(), service.region_url("b")), (Some("garage"), None));
        assert!(Service::own("127.0.0.1:9000", None).is_err() && Service::own("ftp://h", None).is_err());
    }

    #[test]
    fn a_key_is_escaped_once() {
        let service = Service::own("http://h", None).unwrap();
        assert_eq!(
            object(&service, "b", "us-east-1", "a b/c+d%20/ä?&#=~_-.csv"),
            "http://h/b/a%20b/c%2Bd%2520/%C3%A4%3F%26%23%3D~_-.csv"
        );
    }

    #[test]
    fn a_bucket_s_region_is_asked_for_in_its_partition() {
        let url = |region, bucket| aws(region).region_url(bucket).unwrap().to_string();
        assert_eq!(url(None, "b"), "https://b.s3.us-east-1.amazonaws.com/");
        assert_eq!(url(Some("eu-west-1"), "b.c"), "https://s3.eu-west-1.amazonaws.com/b.c");
        assert_eq!(url(Some("cn-north-1"), "b"), "https://b.s3.cn-north-1.amazonaws.com.cn/");
        assert_eq!(url(Some("us-gov-west-1"), "b"), "https://b.s3.us-gov-west-1.amazonaws.com/");
    }

    #[test]
    fn refusals_have_the_region_too() {
        let found = |status, region| Found::of(StatusCode::from_u16(status).unwrap(), region);
        for status in [200, 301, 403] {
            assert_eq!(found(status, Some("eu-west-1")), Found::In("eu-west-1".to_owned()));
        }
        assert_eq!(found(404, None), Found::Nowhere);
        assert_eq!((found(400, None), found(403, Some(""))), (Found::Unknown, Found::Unknown));
    }
}
