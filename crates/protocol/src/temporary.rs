//! Errors that pass.

/// Context for an error that passes: who is started again may do better.
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
