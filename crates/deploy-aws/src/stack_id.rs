//! Which stack: its name, and where it is. The name alone is not enough, in other regions and accounts there may be others.

use std::fmt;

use anyhow::ensure;

/// Tells a stack from all others. In this form the inventory has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StackId {
    pub(super) name: String,
    pub(super) region: String,
    /// The number of the account.
    pub(super) account: String,
}

impl fmt::Display for StackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}, account {}", self.name, self.region, self.account)
    }
}

impl StackId {
    /// Reads what [`fmt::Display`] writes.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (name, place) = text.split_once(" in ")?;
        let (region, account) = place.split_once(", account ")?;
        Some(Self { name: name.to_owned(), region: region.to_owned(), account: account.to_owned() })
    }

    /// With credentials of another account, everything of the stack would simply not be there.
    ///
    /// # Errors
    /// Names both accounts.
    pub(super) fn ensure_account(&self, of_credentials: &str) -> anyhow::Result<()> {
        let Self { name, region, account } = self;
        ensure!(
            account == of_credentials,
            "the stack {name} in {region} is in the account {account}, and the credentials are of the account {of_credentials}; use \
             those of {account} (AWS_PROFILE)"
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let id = StackId { name: "s".into(), region: "us-west-2".into(), account: "123456789012".into() };
        assert_eq!(StackId::parse(&id.to_string()), Some(id));
        assert_eq!(StackId::parse("s in us-west-2"), None);
    }
}
