//! Empty. Cargo builds `[build-dependencies]`, and unites their features, only where there is a build script.

fn main() {}
