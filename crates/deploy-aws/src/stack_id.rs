//! Identifies a stack. Its name alone does not: other regions and accounts may have stacks of the same name.

use std::fmt;

use anyhow::ensure;

/// Identifies a stack. The inventory has its text form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StackId {
    pub(crate) name: String,
    pub(crate) region: String,
    /// The account's number.
    pub(crate) account: String,
}

impl fmt::Display for StackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}, account {}", self.name, self.region, self.account)
    }
}

impl StackId {
    /// Parses the output of [`fmt::Display`].
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (name, place) = text.split_once(" in ")?;
        let (region, account) = place.split_once(", account ")?;
        Some(Self { name: name.to_owned(), region: region.to_owned(), account: account.to_owned() })
    }

    /// With the credentials of another account, the stack would seem not to exist.
    ///
    /// # Errors
    /// The credentials are of another account.
    pub(crate) fn ensure_account(&self, of_credentials: &str) -> anyhow::Result<()> {
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
    fn an_id_survives_its_text_form() {
        let id = StackId { name: "s".into(), region: "us-west-2".into(), account: "123456789012".into() };
        assert_eq!(StackId::parse(&id.to_string()), Some(id));
        assert_eq!(StackId::parse("s in us-west-2"), None);
    }
}
