//! What the values of a column are, and which type its text has.

use ::parquet::basic::{ConvertedType, LogicalType, TimeUnit, Type};
use ::parquet::schema::types::ColumnDescriptor;
use columns::ColumnType;

/// The largest scale of a decimal; it bounds the zeros in its text.
const MOST_SCALE: i32 = 1000;

/// What the values of a column are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Boolean,
    Signed,
    /// Of at most 32 bits.
    Unsigned,
    Unsigned64,
    Float,
    Float16,
    Date,
    Time(Unit),
    Timestamp {
        unit: Unit,
        utc: bool,
    },
    Decimal {
        scale: usize,
    },
    Uuid,
    Text,
    /// Without an annotation: some writers store texts so.
    Binary,
    /// All values are missing.
    Null,
}

/// The unit of a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Milli,
    Micro,
    Nano,
}

impl Unit {
    fn of(unit: TimeUnit) -> Self {
        match unit {
            TimeUnit::MILLIS => Self::Milli,
            TimeUnit::MICROS => Self::Micro,
            TimeUnit::NANOS => Self::Nano,
        }
    }

    /// The digits of a fraction of a second.
    pub(super) fn digits(self) -> usize {
        match self {
            Self::Milli => 3,
            Self::Micro => 6,
            Self::Nano => 9,
        }
    }
}

impl Form {
    /// `None` if values of the column have no text.
    pub(super) fn of(column: &ColumnDescriptor) -> Option<Self> {
        let annotated = match column.logical_type_ref() {
            Some(logical) => Self::of_logical(logical, column)?,
            None => Self::of_converted(column)?,
        };
        Some(annotated.unwrap_or(match column.physical_type() {
            Type::BOOLEAN => Self::Boolean,
            Type::INT32 | Type::INT64 => Self::Signed,
            Type::INT96 => Self::Timestamp { unit: Unit::Nano, utc: false },
            Type::FLOAT | Type::DOUBLE => Self::Float,
            Type::BYTE_ARRAY | Type::FIXED_LEN_BYTE_ARRAY => Self::Binary,
        }))
    }

    /// `Some(None)` if the physical type decides.
    fn of_logical(logical: &LogicalType, column: &ColumnDescriptor) -> Option<Option<Self>> {
        Some(Some(match logical {
            LogicalType::Integer(integer) if integer.is_signed => Self::Signed,
            LogicalType::Integer(_) => Self::unsigned(column),
            LogicalType::Decimal(decimal) => Self::decimal(decimal.scale)?,
            LogicalType::Date => Self::Date,
            LogicalType::Time(time) => Self::Time(Unit::of(time.unit)),
            LogicalType::Timestamp(time) => {
                Self::Timestamp { unit: Unit::of(time.unit), utc: time.is_adjusted_to_u_t_c }
            }
            LogicalType::String | LogicalType::Enum | LogicalType::Json | LogicalType::Bson => Self::Text,
            LogicalType::Uuid => Self::Uuid,
            LogicalType::Float16 => Self::Float16,
            LogicalType::Unknown => Self::Null,
            _ => return Some(None),
        }))
    }

    /// Files of old writers have only these annotations. They do not say whether a timestamp is in UTC; as in pyarrow, it is not.
    fn of_converted(column: &ColumnDescriptor) -> Option<Option<Self>> {
        Some(Some(match column.converted_type() {
            ConvertedType::UTF8 | ConvertedType::ENUM | ConvertedType::JSON | ConvertedType::BSON => {
                Self::Text
            }
            ConvertedType::DECIMAL => Self::decimal(column.type_scale())?,
            ConvertedType::DATE => Self::Date,
            ConvertedType::TIME_MILLIS => Self::Time(Unit::Milli),
            ConvertedType::TIME_MICROS => Self::Time(Unit::Micro),
            ConvertedType::TIMESTAMP_MILLIS => Self::Timestamp { unit: Unit::Milli, utc: false },
            ConvertedType::TIMESTAMP_MICROS => Self::Timestamp { unit: Unit::Micro, utc: false },
            ConvertedType::UINT_8
            | ConvertedType::UINT_16
            | ConvertedType::UINT_32
            | ConvertedType::UINT_64 => Self::unsigned(column),
            ConvertedType::INTERVAL => return None,
            _ => return Some(None),
        }))
    }

    fn unsigned(column: &ColumnDescriptor) -> Self {
        if column.physical_type() == Type::INT64 { Self::Unsigned64 } else { Self::Unsigned }
    }

    fn decimal(scale: i32) -> Option<Self> {
        (0..=MOST_SCALE).contains(&scale).then_some(Self::Decimal { scale: scale as usize })
    }

    /// The type of the column's text.
    pub(super) fn column_type(self, nullable: bool) -> ColumnType {
        match (self, nullable) {
            (Self::Float | Self::Float16, _) => ColumnType::Float64,
            (Self::Boolean, false) => ColumnType::Bool,
            (Self::Boolean, true) => ColumnType::NullableBool,
            (Self::Signed | Self::Unsigned, false) => ColumnType::Int64,
            (Self::Signed | Self::Unsigned, true) => ColumnType::NullableInt64,
            (Self::Unsigned64, false) => ColumnType::Uint64,
            (Self::Null, _) | (_, true) => ColumnType::String,
            (_, false) => ColumnType::Literal,
        }
    }

    /// Whether the type depends on missing values.
    pub(super) fn is_typed_by_nulls(self) -> bool {
        self.column_type(true) != self.column_type(false)
    }

    /// What a value is that can be printed, for messages.
    pub(super) fn expected(self) -> &'static str {
        match self {
            Self::Text | Self::Binary => "UTF-8 text",
            Self::Decimal { .. } => "a decimal",
            Self::Uuid => "a UUID",
            _ => "a value of its type",
        }
    }
}
