//! The objects of a folder.

use anyhow::{Context, ensure};
use rusty_s3::S3Action;
use rusty_s3::actions::ListObjectsV2;

use crate::address::Address;
use crate::client::Client;
use crate::errors::Attempt;

const DELIMITER: &str = "/";

/// The objects directly in a folder, in the order of S3 (by the bytes of their keys).
///
/// # Errors
/// The bucket cannot be listed, or an object's key cannot be addressed.
pub fn list(client: &mut Client, folder: &Address) -> anyhow::Result<Vec<Address>> {
    let bucket = client.bucket(&folder.bucket)?;
    let credentials = client.keys.credentials.clone();
    let attempt = Attempt { doing: "listing", on: folder, right: "s3:ListBucket" };
    let mut found = Vec::new();
    let mut next = None::<String>;
    loop {
        let mut action = ListObjectsV2::new(&bucket, Some(&credentials));
        // Some servers say that they escape keys, and do not. Without it, keys cannot have control characters, which no
        // address has either.
        action.query_mut().remove("encoding-type");
        action.with_prefix(&folder.key);
        action.with_delimiter(DELIMITER);
        if let Some(token) = &next {
            action.with_continuation_token(token.clone());
        }
        let text = client.call(action, attempt)?;
        let page = ListObjectsV2::parse_response(&text)
            .with_context(|| format!("listing {folder}: S3 answers no list; check the endpoint"))?;
        for object in page.contents {
            if is_input(&object.key, &folder.key) {
                found.push(Address::object(&format!("s3://{}/{}", folder.bucket, object.key))?);
            }
        }
        let Some(token) = page.next_continuation_token else { return Ok(found) };
        ensure!(next.as_ref() != Some(&token), "listing {folder}: S3 answers the same page twice");
        next = Some(token);
    }
}

/// Whether a key is that of an object directly in the folder, and neither hidden, as `.DS_Store` and Spark's `_SUCCESS` are, nor
/// a folder itself.
fn is_input(key: &str, folder: &str) -> bool {
    let name = key.strip_prefix(folder).unwrap_or_default();
    !name.is_empty() && !name.contains('/') && !name.starts_with(['.', '_'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_visible_objects_of_the_folder_itself_are_inputs() {
        let keys = ["f/", "f/a.csv", "f/b c", "f/.hidden", "f/_SUCCESS", "f/g/", "f/g/a.csv", "h", "f/a_b.c"];
        let inputs: Vec<_> = keys.into_iter().filter(|key| is_input(key, "f/")).collect();
        assert_eq!(inputs, ["f/a.csv", "f/b c", "f/a_b.c"]);
        assert!(is_input("a", "") && !is_input("_a", "") && !is_input("f/a", ""));
    }
}
