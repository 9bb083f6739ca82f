//! What a command should know that is a step of `cargo xtask job`.

/// In the environment of a step whose stack is destroyed at the end of the job.
pub const HOSTS_GO: &str = "XTASK_HOSTS_GO";

/// Whether the hosts, and all that is on them, are gone soon after this command. Then nothing may be said to be kept there.
pub fn hosts_go() -> bool {
    std::env::var_os(HOSTS_GO).is_some()
}
