//! What a user says of the types of columns.

use std::fmt;
use std::str::FromStr;

use crate::{ColumnType, Survey};

/// The types that a user gives, as in `--types`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Spec {
    /// All other columns are strings; without this, their types are inferred.
    strings: bool,
    given: Vec<(String, ColumnType)>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("--types names the column {0:?}, and the input has none of that name; it has {1}")]
pub struct UnknownColumn(String, String);

impl Spec {
    /// A survey of a CSV with this header, with the given types in place of the inferred ones.
    ///
    /// # Errors
    /// A type is given for a column that does not exist.
    pub fn apply(&self, header: &[u8], survey: Survey) -> Result<Survey, UnknownColumn> {
        // A job admits no malformed header.
        let names = records::split(header).unwrap_or_default();
        let names: Vec<_> = names.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
        Ok(Survey { types: self.types(&names, &survey.types)?, ..survey })
    }

    fn types(&self, names: &[String], inferred: &[ColumnType]) -> Result<Vec<ColumnType>, UnknownColumn> {
        if let Some((unknown, _)) = self.given.iter().find(|(given, _)| !names.contains(given)) {
            return Err(UnknownColumn(unknown.clone(), names.join(", ")));
        }
        let types = names.iter().enumerate().map(|(i, name)| {
            let given = self.given.iter().find(|(given, _)| given == name);
            let other = inferred.get(i).copied().filter(|_| !self.strings).unwrap_or(ColumnType::String);
            given.map_or(other, |(_, column_type)| *column_type)
        });
        Ok(types.collect())
    }
}

impl FromStr for Spec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut spec = Self::default();
        match text {
            "infer" => return Ok(spec),
            "strings" => return Ok(Self { strings: true, ..spec }),
            _ => {}
        }
        for part in text.split(',') {
            let Some((name, column_type)) = part.rsplit_once('=') else {
                return Err(format!(
                    "{part:?} is neither infer, strings, nor COLUMN=TYPE; several columns are separated by commas"
                ));
            };
            if spec.given.iter().any(|(given, _)| given == name) {
                return Err(format!("the column {name:?} has two types"));
            }
            let column_type = column_type.parse().map_err(|error| format!("{name}: {error}"))?;
            spec.given.push((name.to_owned(), column_type));
        }
        Ok(spec)
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.strings {
            return f.write_str("strings");
        }
        if self.given.is_empty() {
            return f.write_str("infer");
        }
        let given: Vec<_> =
            self.given.iter().map(|(name, column_type)| format!("{name}={column_type}")).collect();
        f.write_str(&given.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ColumnType::{Float64, Int64, String as Strings};

    fn spec(text: &str) -> Spec {
        text.parse().unwrap()
    }

    #[test]
    fn given_types_take_precedence_over_inferred_ones() {
        let names = ["zip", "a=b"].map(str::to_owned);
        let inferred = [Int64, Int64];
        for (text, expected) in [
            ("infer", [Int64, Int64]),
            ("strings", [Strings, Strings]),
            ("zip=string", [Strings, Int64]),
            ("a=b=float64,zip=string", [Strings, Float64]),
        ] {
            let spec = spec(text);
            assert_eq!(spec.types(&names, &inferred), Ok(expected.to_vec()), "{text}");
            assert_eq!(spec.to_string(), text);
        }
        let error = spec("zap=string").types(&names, &inferred).unwrap_err().to_string();
        assert!(error.contains("the column \"zap\"") && error.contains("it has zip, a=b"), "{error}");
    }

    #[test]
    fn what_is_no_type_is_an_error() {
        for (text, why) in [
            ("", "\"\" is neither"),
            ("zip", "\"zip\" is neither"),
            ("zip=str", "zip: \"str\" is not a type"),
            ("zip=string,zip=int64", "two types"),
        ] {
            assert!(text.parse::<Spec>().unwrap_err().contains(why), "{text}");
        }
    }
}
