//! The CSV dialect, in one place: where a record ends ([`reader`]), what its values are ([`values`]), and which inputs are not a
//! CSV in it ([`sniff`], [`header`]). The reader converts records of another [`dialect`]; all other code knows only the standard
//! one.
//!
//! The standard dialect is RFC 4180. Where the RFC is silent, it follows Python's `csv` and the `csv` crate: a quote opens a quoted value
//! only at the value's beginning, and is an ordinary character elsewhere. Text after a closing quote, up to the next comma,
//! belongs to the value. A record ends at a line feed outside quotes; a carriage return before the line feed belongs to the
//! line end.
//!
//! A quoted value of several lines must end at a comma or a line end (blanks may precede it). Otherwise its first line has
//! lost its closing quote, and is a bad row.
//!
//! The `csv` crate itself returns values, while the job passes records on unchanged, to the byte, and reads a record's
//! values only where it is classified.

mod convert;
pub mod dialect;
pub mod format;
pub mod header;
pub mod identity;
pub mod reader;
pub mod sniff;
pub mod values;

pub use dialect::{BadDialect, Declared, Dialect};
pub use header::{BadInput, read_header};
pub use reader::{Flaw, Reader, Row};
pub use values::{
    BadHeader, Malformed, Shape, Unfit, check_header, check_record, count, for_each, for_each_quoted, join,
    split, write_value,
};

/// The UTF-8 byte order mark, which some programs write before a CSV's header.
pub const BOM: &[u8] = b"\xef\xbb\xbf";
