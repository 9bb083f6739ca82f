//! Uploads in parts: begins and aborts them. A file has those that are open.

use std::path::Path;

use anyhow::{Context, bail};
use http_client::Refusal;
use protocol::signed::{OF_JOB, Open};
use rusty_s3::actions::{AbortMultipartUpload, CreateMultipartUpload, HeadObject, ListParts};
use rusty_s3::{Bucket, S3Action};
use ureq::http::StatusCode;

use crate::address::Address;
use crate::client::{Client, NoBucket};
use crate::errors::Attempt;

/// Begins an upload to each address, and writes them to `file`. Continues with what the file has, if it is of the same job; those
/// that were aborted are begun again. If one of a new job cannot begin, aborts the others.
///
/// A begun upload whose answer is lost, or that is not yet in `file` when this process is killed, stays open without parts, which
/// costs nothing; the bucket's lifecycle rules end it.
///
/// # Errors
/// S3 refuses, the file has other uploads, or it cannot be written.
pub fn begin(client: &mut Client, job: &str, addresses: &[Address], file: &Path) -> anyhow::Result<()> {
    let mut all = read(file)?.unwrap_or_default();
    let is_same = |(open, address): (&Open, &Address)| open.job == job && open.address == address.to_string();
    if all.len() > addresses.len() || !all.iter().zip(addresses).all(is_same) {
        bail!("{} has other uploads; abort them first: s3 abort {0}", file.display());
    }
    let is_new = all.is_empty();
    for (place, address) in addresses.iter().enumerate() {
        if all.get(place).map_or(Ok(true), |open| is_gone(client, open, address))? {
            let begun = begin_one(client, job, address).and_then(|open| {
                match all.get_mut(place) {
                    Some(gone) => *gone = open,
                    None => all.push(open),
                }
                write(file, &all)
            });
            if let Err(error) = begun {
                if is_new && let Err(error) = abort_all(client, &all, file) {
                    tracing::warn!("{error:#}");
                }
                return Err(error);
            }
        }
    }
    Ok(())
}

/// Whether an upload was aborted. If S3 does not say so, it counts as open.
fn is_gone(client: &mut Client, open: &Open, address: &Address) -> anyhow::Result<bool> {
    let bucket = client.bucket(&address.bucket)?;
    let credentials = client.keys.credentials.clone();
    let listed = client.try_call(ListParts::new(&bucket, Some(&credentials), &address.key, &open.id));
    let is_unknown = listed.is_err_and(|error| {
        refusal(&error).is_some_and(|refusal| refusal.code.as_deref() == Some("NoSuchUpload"))
    });
    Ok(is_unknown && !has_completed(client, open, &bucket, &address.key))
}

fn begin_one(client: &mut Client, job: &str, address: &Address) -> anyhow::Result<Open> {
    let bucket = client.bucket(&address.bucket)?;
    let credentials = client.keys.credentials.clone();
    let mut action = CreateMultipartUpload::new(&bucket, Some(&credentials), &address.key);
    action.headers_mut().insert(OF_JOB, job);
    if let Some(content_type) = content_type(&address.key) {
        action.headers_mut().insert("content-type", content_type);
    }
    let attempt = Attempt { doing: "beginning an upload to", on: address, right: "s3:PutObject" };
    let text = client.call(action, attempt)?;
    let begun = CreateMultipartUpload::parse_response(&text);
    let begun = begun
        .with_context(|| format!("beginning an upload to {address}: S3 names none; check the endpoint"))?;
    Ok(Open { address: address.to_string(), id: begun.upload_id().to_owned(), job: job.to_owned() })
}

/// Aborts the uploads in `file`, and removes it. Returns how many were open.
///
/// # Errors
/// An upload cannot be aborted. All others are, and the file remains.
pub fn abort(file: &Path) -> anyhow::Result<usize> {
    match read(file)? {
        Some(all) => abort_all(&mut Client::connect()?, &all, file),
        None => Ok(0),
    }
}

fn abort_all(client: &mut Client, all: &[Open], file: &Path) -> anyhow::Result<usize> {
    let (mut aborted, mut failed) = (0, None);
    for open in all {
        match abort_one(client, open) {
            Ok(was_open) => aborted += usize::from(was_open),
            Err(error) => {
                if let Some(earlier) = failed.replace(error) {
                    tracing::warn!("{earlier:#}");
                }
            }
        }
    }
    match failed {
        // Those that are aborted can be aborted again.
        Some(error) => Err(error),
        None => files::remove_if_there(file).map(|()| aborted),
    }
}

/// Returns whether it was open.
fn abort_one(client: &mut Client, open: &Open) -> anyhow::Result<bool> {
    let address = Address::object(&open.address)?;
    let bucket = match client.bucket(&address.bucket) {
        // Nor does it have uploads.
        Err(error) if error.is::<NoBucket>() => return Ok(false),
        bucket => bucket?,
    };
    let credentials = client.keys.credentials.clone();
    let action = AbortMultipartUpload::new(&bucket, Some(&credentials), &address.key, &open.id);
    let attempt = Attempt { doing: "aborting the upload to", on: &address, right: "s3:AbortMultipartUpload" };
    match client.try_call(action) {
        Ok(_) => Ok(true),
        Err(error) => match refusal(&error) {
            Some(refusal)
                if ["NoSuchUpload", "NoSuchBucket"].map(Some).contains(&refusal.code.as_deref()) =>
            {
                Ok(false)
            }
            // Without the right to abort, S3 does not say so, but there is nothing to do.
            Some(refusal)
                if refusal.status == StatusCode::FORBIDDEN
                    && has_completed(client, open, &bucket, &address.key) =>
            {
                Ok(false)
            }
            _ => Err(attempt.explain(error)),
        },
    }
}

fn refusal(error: &anyhow::Error) -> Option<&Refusal> {
    error.downcast_ref()
}

/// Whether the object is there, and of the upload's job.
fn has_completed(client: &Client, open: &Open, bucket: &Bucket, key: &str) -> bool {
    let answer = client.try_call(HeadObject::new(bucket, Some(&client.keys.credentials), key));
    answer.is_ok_and(|answer| answer.headers().get(OF_JOB).is_some_and(|job| job == open.job.as_str()))
}

/// The open uploads in `file`; `None` if there is no file.
///
/// # Errors
/// The file cannot be read.
pub fn read(file: &Path) -> anyhow::Result<Option<Vec<Open>>> {
    let Some(json) = files::read_if_there(file)? else { return Ok(None) };
    let all = serde_json::from_slice(&json)
        .with_context(|| format!("reading the uploads in {}", file.display()))?;
    Ok(Some(all))
}

fn write(file: &Path, all: &[Open]) -> anyhow::Result<()> {
    files::replace_file(file, &serde_json::to_vec(all).context("writing the uploads")?)
}

/// The type that a browser sees, if the key's extension says it.
fn content_type(key: &str) -> Option<&'static str> {
    match key.rsplit_once('.')?.1 {
        "csv" => Some("text/csv"),
        "gz" => Some("application/gzip"),
        "json" => Some("application/json"),
        "parquet" => Some("application/vnd.apache.parquet"),
        "zst" => Some("application/zstd"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extension_says_the_content_type() {
        assert_eq!(content_type("f/results.csv"), Some("text/csv"));
        assert_eq!(content_type("f/results.csv.gz"), Some("application/gzip"));
        assert_eq!((content_type("f.csv/results"), content_type("f")), (None, None));
    }

    #[test]
    fn a_file_has_the_open_uploads() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("open.json");
        assert_eq!(read(&file).unwrap(), None);
        let open = Open { address: "s3://b/k".to_owned(), id: "1".to_owned(), job: "j".to_owned() };
        write(&file, std::slice::from_ref(&open)).unwrap();
        assert_eq!(read(&file).unwrap(), Some(vec![open]));
        std::fs::write(&file, "[").unwrap();
        assert!(read(&file).is_err());
    }

    #[test]
    fn aborting_without_a_file_needs_no_credentials() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(abort(&folder.path().join("open.json")).unwrap(), 0);
    }
}
