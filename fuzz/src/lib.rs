//! Fuzz targets: whatever bytes a peer or a file has, what must hold holds.

mod allocation;
pub mod checks;
mod input;
