//! Fuzz targets: the invariants hold for any bytes from a peer or a file.

mod allocation;
pub mod checks;
mod input;
