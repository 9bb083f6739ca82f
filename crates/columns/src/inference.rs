//! Which type a column has.

use crate::ColumnType;
use crate::parse::{Flaw, Integer, ShortNumber, boolean, float64, is_missing, trim_start};

/// What is known of a column after some of its values.
///
/// Pandas reads a column as `int64`, else as `uint64`, as `float64`, as `bool`, and as strings at last. Each attempt stops at
/// the first value that does not fit, and the reason decides which attempts follow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Inference {
    /// Why the first value that is not an `int64` is none.
    signed: Option<Flaw>,
    /// Why the first value that is not a `uint64` is none. Pandas does not look at values with a minus here.
    unsigned: Option<Flaw>,
    /// A value has a minus.
    has_negative: bool,
    /// A value is an integer beyond those with a sign.
    has_large: bool,
    has_missing: bool,
    has_present: bool,
    /// A value is not a number.
    not_float: bool,
    /// A value is neither `true` nor `false`.
    not_bool: bool,
}

impl Inference {
    /// Notes the column's next value, without its quotes.
    pub fn add(&mut self, value: &[u8]) {
        if self.is_settled() {
            return;
        }
        // Most numbers are short, and need not be parsed.
        if let Some(short) = ShortNumber::of(value) {
            self.add_short(short);
            return;
        }
        self.add_any(value);
    }

    fn add_short(&mut self, ShortNumber { is_negative, has_point }: ShortNumber) {
        self.has_present = true;
        self.has_negative |= is_negative;
        self.not_bool = true;
        if has_point {
            self.signed = self.signed.or(Some(Flaw::Invalid));
            self.unsigned = self.unsigned.or((!is_negative).then_some(Flaw::Invalid));
        }
    }

    fn add_any(&mut self, value: &[u8]) {
        if is_missing(value) {
            self.has_missing = true;
            return;
        }
        self.has_present = true;
        let integer = Integer::of(value);
        let is_negative = trim_start(value).starts_with(b"-");
        let signed = integer.map_or(Err(Flaw::Invalid), Integer::signed);
        let unsigned = match integer {
            _ if is_negative => None,
            None => Some(Flaw::Invalid),
            Some(Integer { magnitude: None, .. }) => Some(Flaw::Overflow),
            Some(Integer { has_more: true, .. }) => Some(Flaw::Invalid),
            Some(Integer { magnitude: Some(magnitude), .. }) => {
                self.has_large |= magnitude > i64::MAX as u64;
                None
            }
        };
        self.has_negative |= is_negative;
        self.signed = self.signed.or(signed.err());
        self.unsigned = self.unsigned.or(unsigned);
        let is_number = signed.is_ok() || !self.not_float && float64(value).is_some();
        self.not_float |= !is_number;
        self.not_bool |= is_number || boolean(value).is_none();
    }

    /// Adds what is known of the values that follow these.
    pub fn append(&mut self, next: &Self) {
        self.signed = self.signed.or(next.signed);
        self.unsigned = self.unsigned.or(next.unsigned);
        self.has_negative |= next.has_negative;
        self.has_large |= next.has_large;
        self.has_missing |= next.has_missing;
        self.has_present |= next.has_present;
        self.not_float |= next.not_float;
        self.not_bool |= next.not_bool;
    }

    /// The column's type.
    pub fn column_type(&self) -> ColumnType {
        if !self.has_present {
            return if self.has_missing { ColumnType::Float64 } else { ColumnType::String };
        }
        match (self.signed, self.unsigned) {
            (None, _) if self.has_missing => return ColumnType::NullableInt64,
            (None, _) => return ColumnType::Int64,
            (Some(Flaw::Overflow), None) if self.has_large && (self.has_negative || self.has_missing) => {
                return ColumnType::Literal;
            }
            (Some(Flaw::Overflow), None) if !self.has_negative => return ColumnType::Uint64,
            (Some(Flaw::Overflow), None | Some(Flaw::Overflow)) => return ColumnType::String,
            (Some(Flaw::Overflow), Some(Flaw::Invalid)) | (Some(Flaw::Invalid), _) => {}
        }
        match (self.not_float, self.not_bool, self.has_missing) {
            (false, _, _) => ColumnType::Float64,
            (true, false, false) => ColumnType::Bool,
            (true, false, true) => ColumnType::NullableBool,
            (true, true, _) => ColumnType::String,
        }
    }

    /// Whether no further value can change the type.
    fn is_settled(&self) -> bool {
        self.not_float && self.not_bool && self.signed.is_some() && self.unsigned.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of<T: AsRef<[u8]>>(values: &[T]) -> Inference {
        let mut inference = Inference::default();
        values.iter().for_each(|value| inference.add(value.as_ref()));
        inference
    }

    /// Each case is what pandas 2.3 answers.
    #[test]
    fn columns_have_the_types_that_pandas_gives_them() {
        use ColumnType::{Bool, Float64, Int64, Literal, NullableBool, NullableInt64, String, Uint64};
        const LARGE: &str = "9223372036854775808";
        const HUGE: &str = "18446744073709551616";
        for (values, expected) in [
            (&[][..], String),
            (&["", "NA"], Float64),
            (&["1", " 2 ", "+3", "007"], Int64),
            (&["1", ""], NullableInt64),
            (&["1", "0.5"], Float64),
            (&["1", "inf"], Float64),
            (&["1", "a"], String),
            (&["true", "FALSE"], Bool),
            (&["true", "null"], NullableBool),
            (&["true", "", "x"], String),
            (&["true", "1"], String),
            (&[LARGE, "1"], Uint64),
            (&[LARGE, "1.5"], Float64),
            (&[LARGE, "", "a"], String),
            (&[LARGE, ""], Literal),
            (&[LARGE, "-1"], Literal),
            (&[LARGE, "-a"], Literal),
            (&["-a", LARGE], String),
            (&["-9223372036854775809"], String),
            (&["-9223372036854775809", "1.5"], Float64),
            (&[HUGE, ""], String),
            // The order decides: the first value that is not an integer ends pandas' search for integers.
            (&[HUGE, "1.5"], String),
            (&["1.5", HUGE], Float64),
            (&["99999999999999999999.5"], String),
            (&["12345678901234567890.5"], Float64),
            (&["1e308", "1e309"], String),
        ] {
            assert_eq!(of(values).column_type(), expected, "{values:?}");
        }
    }

    /// Texts at which the types differ.
    fn value() -> impl Strategy<Value = &'static str> {
        prop::sample::select(
            &[
                "",
                "NA",
                "1",
                "-1",
                "-a",
                "a",
                "1.5",
                "true",
                "FALSE",
                "inf",
                "1e400",
                "9223372036854775808",
                "-9223372036854775809",
                "18446744073709551616",
                "99999999999999999999.5",
            ][..],
        )
    }

    proptest! {
        #[test]
        fn short_numbers_count_as_any_others(
            before in prop::collection::vec(value(), 0..4), number in "-?[0-9]{0,20}(\\.[0-9]{0,20})?",
        ) {
            if let Some(short) = ShortNumber::of(number.as_bytes()) {
                let (mut one, mut other) = (of(&before), of(&before));
                one.add_short(short);
                other.add_any(number.as_bytes());
                prop_assert_eq!(one.column_type(), other.column_type());
                prop_assert_eq!(one, other);
            }
        }

        #[test]
        fn parts_of_a_column_give_the_same_type_as_the_whole(
            parts in prop::collection::vec(prop::collection::vec(value(), 0..4), 0..5),
        ) {
            let mut joined = Inference::default();
            parts.iter().for_each(|part| joined.append(&of(part)));
            prop_assert_eq!(joined.column_type(), of(&parts.concat()).column_type());
        }
    }
}
