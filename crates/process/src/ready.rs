//! Ready files: where a program listens.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context;
use files::{read_if_there, replace_file};
use serde::{Deserialize, Serialize};

/// Written by a program when it is ready: the addresses at which it listens. So the process that starts it needs neither to find
/// free ports beforehand nor to probe whether they are open.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct Ready {
    /// By purpose (`rows`, `results`, `control` …).
    pub addresses: BTreeMap<String, SocketAddr>,
    /// A sender's file (a `records::identity::Identity`), so that after a restart it sends no other file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
}

impl Ready {
    pub fn new<const N: usize>(addresses: [(&str, SocketAddr); N]) -> Self {
        let addresses = addresses.into_iter().map(|(what, at)| (what.to_owned(), at)).collect();
        Self { addresses, input: None }
    }

    /// Writes the file, whole or not at all. Does nothing without a path.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: Option<&Path>) -> anyhow::Result<()> {
        let Some(path) = path else { return Ok(()) };
        let text = serde_json::to_vec(self).context("encoding a ready file")?;
        replace_file(path, &text)
    }

    /// The ready file that this program wrote before it was restarted, if any.
    ///
    /// # Errors
    /// Those of [`Ready::read`].
    pub fn before(path: Option<&Path>) -> anyhow::Result<Option<Self>> {
        Ok(path.map(Self::read).transpose()?.flatten())
    }

    /// Reads the file; `None` if it does not exist.
    ///
    /// # Errors
    /// The file cannot be read or is not a ready file.
    pub fn read(path: &Path) -> anyhow::Result<Option<Self>> {
        let Some(text) = read_if_there(path)? else { return Ok(None) };
        let ready = serde_json::from_slice(&text);
        ready.map(Some).with_context(|| format!("{} is not a ready file", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ready_file_reads_back_as_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ready");
        assert_eq!(Ready::read(&path).unwrap(), None);
        let ready = Ready::new([("rows", "127.0.0.1:8888".parse().unwrap())]);
        ready.write(Some(&path)).unwrap();
        assert_eq!(Ready::read(&path).unwrap(), Some(ready));
        std::fs::write(&path, "{").unwrap();
        assert!(Ready::read(&path).is_err());
    }
}
