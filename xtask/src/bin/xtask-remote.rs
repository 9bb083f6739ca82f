//! `cargo xtask` with hosts over SSH; built and started by `cargo xtask` itself.

fn main() -> std::process::ExitCode {
    xtask::run()
}
