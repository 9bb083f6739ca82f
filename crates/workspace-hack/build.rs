//! Cargo builds what a build script depends on, and unites its features, only where there is one.

fn main() {}
