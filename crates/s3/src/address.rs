//! Addresses of objects: `s3://bucket/key`.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, bail, ensure};

const SCHEME: &str = "s3://";
/// The longest key that S3 accepts, in bytes.
const LONGEST_KEY: usize = 1024;

/// The address of an object, or of all objects whose keys begin with `key`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    pub bucket: String,
    /// As S3 has it: with spaces, and without escapes.
    pub key: String,
}

impl Address {
    /// Parses the address of an object.
    ///
    /// # Errors
    /// It is none, or it is the address of a bucket or a folder.
    pub fn object(text: &str) -> anyhow::Result<Self> {
        let address: Self = text.parse()?;
        ensure!(!address.key.is_empty(), "{text} names a bucket and no object; write {SCHEME}BUCKET/KEY");
        ensure!(!address.key.ends_with('/'), "{text} names a folder; add the name of an object");
        Ok(address)
    }

    /// Parses the address of a folder, or of a bucket.
    ///
    /// # Errors
    /// It is none, or it may be the address of an object.
    pub fn folder(text: &str) -> anyhow::Result<Self> {
        let address: Self = text.parse()?;
        let is_folder = address.key.is_empty() || address.key.ends_with('/');
        ensure!(is_folder, "{text} names an object; end it with / for all objects of a folder");
        Ok(address)
    }
}

impl FromStr for Address {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let Some(rest) = text.strip_prefix(SCHEME) else {
            bail!("{text} is no address of S3; write {SCHEME}BUCKET/KEY");
        };
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        ensure!(!bucket.is_empty(), "{text} has no bucket; write {SCHEME}BUCKET/KEY");
        check_bucket(bucket).with_context(|| format!("{text} is no address of S3"))?;
        check_key(key).with_context(|| format!("{text:?} is no address of S3"))?;
        Ok(Self { bucket: bucket.to_owned(), key: key.to_owned() })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}", self.bucket, self.key)
    }
}

/// Old buckets, and those of other implementations, have names that AWS does not give today.
fn check_bucket(bucket: &str) -> anyhow::Result<()> {
    let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    ensure!(
        bucket.bytes().all(is_known) && bucket.bytes().any(|byte| byte.is_ascii_alphanumeric()),
        "the name of a bucket has letters, digits, '.', '-' and '_' only"
    );
    Ok(())
}

fn check_key(key: &str) -> anyhow::Result<()> {
    ensure!(key.len() <= LONGEST_KEY, "the key has more than {LONGEST_KEY} bytes");
    ensure!(!key.chars().any(char::is_control), "the key has a control character");
    // A URL cannot have them: they would be resolved to another key.
    let is_step = |part: &str| [".", ".."].contains(&part);
    ensure!(!key.split('/').any(is_step), "no part of the key may be '.' or '..'");
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_printed_address_is_the_same_when_it_is_parsed(
            bucket in "[a-zA-Z0-9][a-zA-Z0-9._-]{0,62}",
            key in "([a-z +%?#&äß€😀]|[a-z]\\.|//?){0,40}",
        ) {
            let address = Address { bucket, key };
            prop_assert_eq!(address.to_string().parse::<Address>().unwrap(), address);
        }
    }

    #[test]
    fn a_bucket_needs_no_slash() {
        assert_eq!("s3://b".parse::<Address>().unwrap().to_string(), "s3://b/");
        assert!(Address::folder("s3://b").is_ok() && Address::folder("s3://b/f/").is_ok());
    }

    #[test]
    fn errors_say_what_is_wrong() {
        let error = |text: &str| format!("{:#}", Address::object(text).unwrap_err());
        assert_eq!(error("http://b/k"), "http://b/k is no address of S3; write s3://BUCKET/KEY");
        assert_eq!(error("s3:///k"), "s3:///k has no bucket; write s3://BUCKET/KEY");
        assert_eq!(error("s3://b"), "s3://b names a bucket and no object; write s3://BUCKET/KEY");
        assert_eq!(error("s3://b/f/"), "s3://b/f/ names a folder; add the name of an object");
        assert!(error("s3://b@h/k").contains("letters, digits"));
        assert!(error("s3://../k").contains("letters, digits"));
        assert!(error("s3://b/a/../k").contains("no part of the key"));
        assert!(error("s3://b/a\nb").contains("control character"));
        assert!(error(&format!("s3://b/{}", "a".repeat(1025))).contains("1024 bytes"));
        let error = Address::folder("s3://b/f").unwrap_err().to_string();
        assert_eq!(error, "s3://b/f names an object; end it with / for all objects of a folder");
    }
}
