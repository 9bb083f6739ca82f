//! Errors after which a retry or a restart may succeed.

/// Context that marks an error as temporary: a retry or a restart may succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Temporary(
    /// What was being done.
    pub &'static str,
);

impl std::fmt::Display for Temporary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}
