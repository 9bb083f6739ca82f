//! Parquet files: [`read`] turns one into CSV text, [`write`](mod@write) turns CSV records into one.
//!
//! Columns are flat: each cell holds one value or none. A missing value is an empty cell without quotes, and an empty text is
//! `""`. In a table with a single column, a missing value is `""`, too, since an empty line is no record.
//!
//! The `parquet` crate is used without `arrow`, whose types would be converted to text once more, and which takes minutes to
//! compile.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use ::parquet::errors::ParquetError;

pub mod read;
pub mod write;

pub use read::Table;
pub use write::{WriteError, Writer};

thread_local! {
    static DECODING: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is inside the decoder. A panic there becomes an error, so a panic hook that ends the process must not
/// do so.
pub fn is_decoding() -> bool {
    DECODING.get()
}

/// Calls the decoder. It checks most of what it reads, but slices and indexes by some lengths of a damaged file, so a panic in it
/// means a damaged file.
fn decoding<T>(decode: impl FnOnce() -> Result<T, ParquetError>) -> anyhow::Result<T> {
    let before = DECODING.replace(true);
    // What the closure borrows is not used again after an error.
    let result = catch_unwind(AssertUnwindSafe(decode));
    DECODING.set(before);
    match result {
        Ok(result) => result.map_err(cause),
        Err(panic) => Err(anyhow::anyhow!("the decoder failed: {}", panic_message(&*panic))),
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("for an unknown reason")
}

/// The error without the prefixes of the crate, which say little to a user. An input's own error stays one.
fn cause(error: ParquetError) -> anyhow::Error {
    match error {
        ParquetError::External(error) => anyhow::Error::from_boxed(error),
        ParquetError::General(text) | ParquetError::EOF(text) => anyhow::Error::msg(text),
        ParquetError::NYI(text) => anyhow::anyhow!("not supported: {text}"),
        other => other.into(),
    }
}
