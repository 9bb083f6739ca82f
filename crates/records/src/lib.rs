//! The CSV dialect, in one place: where a record ends ([`reader`]), what its values are ([`values`]), and
//! what is no CSV with commas at all ([`sniff`], [`header`]).
//!
//! RFC 4180, read as Python's `csv` and the `csv` crate read it where the RFC is silent: a quote opens a
//! quoted value only at the value's beginning, and is an ordinary character elsewhere; what follows a
//! closing quote up to the next comma belongs to the value. A record ends at a line feed outside quotes;
//! a carriage return before it belongs to the line end. A quoted value of several lines must end at a comma or a line end
//! (blanks may stand before it); where it does not, its first line has lost its closing quote, and is a bad row.
//!
//! Why not the `csv` crate itself: it gives values, while the job passes records on as they came, to the byte,
//! and looks into a record only where it is classified.

pub mod header;
pub mod identity;
pub mod reader;
pub mod sniff;
pub mod values;

pub use header::{BadInput, read_header};
pub use reader::{Flaw, Reader, Row};
pub use values::{BadHeader, Malformed, Shape, check_header, count, join, split, write_value};

/// The UTF-8 byte order mark, which some programs put before a CSV's header.
pub const BOM: &[u8] = b"\xef\xbb\xbf";
