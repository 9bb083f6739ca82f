//! The job token: a secret that every port of a job requires.

use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, ensure};
use subtle::ConstantTimeEq;

use files::write_secret_file;

/// A job's secret. Never printed; compared in constant time.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// Reads the token from a file of one line.
    ///
    /// # Errors
    /// The file cannot be read, is empty, or may be read by others than its owner.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("reading the job token from {}", path.display()))?;
        let mode = std::fs::metadata(path)?.permissions().mode() & 0o777;
        ensure!(
            mode & 0o077 == 0,
            "the token file {} may be read by others (mode {mode:03o}); run: chmod 600 {0}",
            path.display()
        );
        let secret = text.trim();
        ensure!(!secret.is_empty(), "the token file {} is empty", path.display());
        Ok(Self(secret.to_owned()))
    }

    /// Writes the token to a new file that only this user may read; an existing one is removed first.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, path: &Path) -> anyhow::Result<()> {
        write_secret_file(path, &self.0).context("saving the job token")
    }

    /// The secret itself, for a handshake.
    pub fn secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Whether to admit a peer that showed `shown` where `ours` is required. If `ours` is `None`, every peer is admitted.
pub fn admits(ours: Option<&Token>, shown: Option<&str>) -> bool {
    match (ours, shown) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(ours), Some(shown)) => ours.0.as_bytes().ct_eq(shown.as_bytes()).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_token_is_admitted() {
        let token = Token::new("secret");
        assert!(admits(Some(&token), Some("secret")));
        assert!(!admits(Some(&token), Some("secreT")));
        assert!(!admits(Some(&token), Some("")));
        assert!(!admits(Some(&token), None));
        assert!(admits(None, None) && admits(None, Some("anything")));
    }

    #[test]
    fn a_token_file_readable_by_others_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        Token::new("secret").save(&path).unwrap();
        assert_eq!(Token::load(&path).unwrap(), Token::new("secret"));
        std::fs::write(&path, "secret\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(Token::load(&path).unwrap_err().to_string().contains("chmod 600"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(Token::load(&path).unwrap(), Token::new("secret"));
        assert_eq!(format!("{:?}", Token::new("secret")), "Token(…)");
    }
}
