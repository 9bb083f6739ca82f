//! Tells a command that it is a step of `cargo xtask job`.

/// Set in the environment of a step whose stack is destroyed at the end of the job.
pub const HOSTS_GO: &str = "XTASK_HOSTS_GO";

/// Whether the hosts are destroyed soon after this command. If so, its messages must not promise that they keep anything.
pub fn hosts_go() -> bool {
    std::env::var_os(HOSTS_GO).is_some()
}
