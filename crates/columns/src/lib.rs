//! Typed columns, for models that get numbers instead of text.
//!
//! A column has one type for the whole job. [`Inference`] finds the type that `pandas.read_csv` finds when it reads the whole
//! file with `low_memory=False`. The parts of a file can be examined in parallel. [`parse`] reads a value as
//! `float_precision="round_trip"` does, and [`print`] writes one as Python's `repr` does.
//!
//! The rules are those of pandas 2.3, including those that depend on the order of rows. An end-to-end test compares them
//! with pandas itself. Pandas ends a value at a NUL, and a row at a carriage return; neither is so here.

mod column_type;
mod inference;
pub mod parse;
pub mod print;
mod sample;
mod scan;
mod spec;
mod table;

pub use column_type::{ColumnType, UnknownType, letters, of_letters};
pub use inference::Inference;
pub use sample::Survey;
pub use scan::{of_records, survey};
pub use spec::{Spec, UnknownColumn};
pub use table::{Misfit, Table};
