//! `cargo xtask` with hosts from EC2; built and started by `cargo xtask` itself.

fn main() -> std::process::ExitCode {
    xtask::run()
}
