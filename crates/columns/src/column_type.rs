//! The types of columns.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A column's type. A job records it under this name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColumnType {
    Int64,
    /// Some values are missing, so that pandas stores `float64` with NaN.
    NullableInt64,
    Uint64,
    /// Missing values are NaN.
    Float64,
    /// No value is missing.
    Bool,
    /// Some values are missing, so that pandas stores objects.
    NullableBool,
    /// Values that are a word for a missing value are missing.
    String,
    /// No value is missing, whatever its text. Pandas does this for a column with integers above those of `int64` and with
    /// negative or missing values.
    Literal,
}

/// All types, with their names, and the letters that stand for them in messages.
const NAMES: [(&str, u8, ColumnType); 8] = [
    ("int64", b'i', ColumnType::Int64),
    ("nullable_int64", b'n', ColumnType::NullableInt64),
    ("uint64", b'u', ColumnType::Uint64),
    ("float64", b'f', ColumnType::Float64),
    ("bool", b'b', ColumnType::Bool),
    ("nullable_bool", b'm', ColumnType::NullableBool),
    ("string", b's', ColumnType::String),
    ("literal", b'l', ColumnType::Literal),
];

impl ColumnType {
    /// The type of a column that has values of both types; `None` if there is none.
    pub fn with(self, other: Self) -> Option<Self> {
        use ColumnType::{Bool, Float64, Int64, Literal, NullableBool, NullableInt64, String};
        match (self, other) {
            (one, other) if one == other => Some(one),
            (Int64 | NullableInt64, Int64 | NullableInt64) => Some(NullableInt64),
            (Int64 | NullableInt64 | Float64, Int64 | NullableInt64 | Float64) => Some(Float64),
            (Bool | NullableBool, Bool | NullableBool) => Some(NullableBool),
            (String | Literal, String | Literal) => Some(String),
            _ => None,
        }
    }

    fn letter(self) -> u8 {
        NAMES.iter().find(|(_, _, column_type)| *column_type == self).map_or(0, |(_, letter, _)| *letter)
    }

    fn of_letter(letter: u8) -> Option<Self> {
        NAMES.iter().find(|(_, known, _)| *known == letter).map(|(_, _, column_type)| *column_type)
    }
}

/// Types as messages have them: a letter for each.
pub fn letters(types: &[ColumnType]) -> Vec<u8> {
    types.iter().map(|column_type| column_type.letter()).collect()
}

/// The types that these letters stand for; `None` if a letter stands for no type.
pub fn of_letters(letters: &[u8]) -> Option<Vec<ColumnType>> {
    letters.iter().copied().map(ColumnType::of_letter).collect()
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a type; there are int64, nullable_int64, uint64, float64, bool, nullable_bool, string and literal"
)]
pub struct UnknownType(String);

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = NAMES.iter().find(|(_, _, column_type)| column_type == self).map_or("", |(name, ..)| name);
        f.write_str(name)
    }
}

impl FromStr for ColumnType {
    type Err = UnknownType;

    fn from_str(name: &str) -> Result<Self, UnknownType> {
        let found = NAMES.iter().find(|(known, ..)| *known == name);
        found.map(|(_, _, column_type)| *column_type).ok_or_else(|| UnknownType(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_letters_read_back_as_their_types() {
        for (name, letter, column_type) in NAMES {
            assert_eq!(column_type.to_string(), name);
            assert_eq!(name.parse(), Ok(column_type));
            assert_eq!(letters(&[column_type]), [letter]);
            assert_eq!(of_letters(&[letter, letter]), Some(vec![column_type; 2]));
        }
        assert!(
            "int32".parse::<ColumnType>().unwrap_err().to_string().starts_with("\"int32\" is not a type")
        );
        assert_eq!(of_letters(b"i?"), None);
    }
}
