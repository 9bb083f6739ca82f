//! The file with the signed requests of a job: writes it, and keeps it valid.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use jiff::Timestamp;
use protocol::signed::{Open, Signed};

use crate::address::Address;
use crate::client::Client;
use crate::presign::Signer;
use crate::validity::{Expiry, SHORTEST_PAUSE, renewal};

/// The longest time between two tries, in seconds; the first is the shortest, and each one twice as long as that before.
const LONGEST_PAUSE: u64 = 600;

/// What a job asks of S3, and the file for its signed requests.
#[derive(Debug)]
pub struct Requests {
    pub inputs: Vec<Address>,
    pub uploads: Vec<Open>,
    pub file: PathBuf,
}

/// Signs the requests and writes them. Returns until when they are valid, in seconds since 1970.
///
/// # Errors
/// The credentials have ended, a bucket is not found, or the file cannot be written.
pub fn sign(client: &mut Client, requests: &Requests) -> anyhow::Result<u64> {
    let signed = signed(client, requests)?;
    write(&requests.file, &signed)?;
    Ok(signed.until)
}

/// Keeps the file valid after [`sign`], for as long as the process lives. Calls `on_written` each time that the file was written.
///
/// Failures are logged and tried again, since the user may log in. Signatures that end no later do not replace the file.
///
/// # Errors
/// Those of `on_written`.
pub fn keep(
    client: &mut Client,
    requests: &Requests,
    mut until: u64,
    mut on_written: impl FnMut(u64) -> anyhow::Result<()>,
) -> anyhow::Result<Infallible> {
    let (mut pause, mut failures) = (renewal(now(), until), 0);
    let mut signed_with = client.keys.credentials.clone();
    loop {
        wait(pause);
        let renewed = client.renew_keys().and_then(|()| signed(client, requests));
        let written = renewed.and_then(|signed| {
            let now = client.keys.credentials.clone();
            let is_new = (signed_with.key(), signed_with.token()) != (now.key(), now.token());
            // Keys whose end is unknown may have ended.
            let is_later = signed.until > until && (is_new || client.keys.expiry != Expiry::Unknown);
            if is_later {
                write(&requests.file, &signed)?;
                until = signed.until;
                signed_with = client.keys.credentials.clone();
            }
            Ok(is_later)
        });
        pause = renewal(now(), until);
        match written {
            Ok(is_later) => {
                failures = 0;
                if is_later {
                    on_written(until)?;
                }
            }
            Err(error) => {
                pause = pause.min(LONGEST_PAUSE).min(SHORTEST_PAUSE << failures.min(10));
                failures += 1;
                tracing::warn!("signing requests to S3 again: {error:#}; trying again in {pause} s");
            }
        }
    }
}

fn signed(client: &mut Client, requests: &Requests) -> anyhow::Result<Signed> {
    let mut buckets = Vec::new();
    for address in &requests.inputs {
        buckets.push((address, client.bucket(&address.bucket)?));
    }
    let mut uploads = Vec::new();
    for open in &requests.uploads {
        let address = Address::object(&open.address)?;
        uploads.push((open, client.bucket(&address.bucket)?, address.key));
    }
    // Buckets may take time to be found, so the time is taken after it.
    let time = Timestamp::now();
    let validity = client.keys.expiry.validity(now_of(time));
    let validity =
        validity.context("the credentials for S3 have ended; log in again: aws sso login, or aws login")?;
    let signer =
        Signer { credentials: &client.keys.credentials, time, valid: Duration::from_secs(validity.seconds) };
    let inputs = buckets
        .iter()
        .map(|(address, bucket)| (address.to_string(), signer.input(bucket, &address.key)))
        .collect();
    let uploads = uploads.iter().map(|(open, bucket, key)| signer.upload(bucket, key, open));
    Ok(Signed { until: validity.until, inputs, uploads: uploads.collect::<anyhow::Result<_>>()? })
}

/// The requests are a secret: with them, anyone may read the inputs and write the results.
fn write(file: &Path, signed: &Signed) -> anyhow::Result<()> {
    let writing = || format!("writing {}", file.display());
    let mut name = file.file_name().with_context(writing)?.to_owned();
    name.push(".new");
    let new = file.with_file_name(name);
    let json = serde_json::to_string(signed).with_context(writing)?;
    files::write_secret_file(&new, &json)?;
    std::fs::rename(&new, file).with_context(writing)
}

fn now() -> u64 {
    now_of(Timestamp::now())
}

fn now_of(time: Timestamp) -> u64 {
    u64::try_from(time.as_second()).unwrap_or(0)
}

/// Waits by the clock: a laptop that sleeps does not count the time of one long sleep.
fn wait(seconds: u64) {
    let end = now() + seconds;
    loop {
        let left = end.saturating_sub(now());
        if left == 0 {
            return;
        }
        std::thread::sleep(Duration::from_secs(left.min(SHORTEST_PAUSE)));
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn only_the_owner_may_read_signed_requests() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("signed.json");
        for until in [1, 2] {
            let signed = Signed { until, ..Signed::default() };
            write(&file, &signed).unwrap();
            assert_eq!(Signed::read(&file).unwrap(), signed);
            assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
