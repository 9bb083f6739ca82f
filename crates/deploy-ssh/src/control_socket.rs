//! The sockets through which ssh's shared connections are used and ended.

use std::path::Path;
use std::time::{Duration, Instant};

/// The name of a connection's socket, in a folder of its own. Short, since the path of a socket is limited.
pub(crate) const NAME: &str = "s";
/// How long all connections together may take to end.
const END_TIME: Duration = Duration::from_secs(1);

/// The command that ends the connection with this socket. It reads no configuration, which could make it fail.
pub(crate) fn end(socket: &Path) -> duct::Expression {
    let end = duct::cmd!("ssh", "-F", "none", "-S", socket, "-O", "exit", "any");
    end.stdin_null().stdout_null().stderr_null().unchecked()
}

/// Ends the connections whose sockets are in this folder. One with a tunnel in use would never end by itself.
pub(crate) fn end_all(folder: &Path) {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let sockets = entries.map(|entry| entry.path().join(NAME)).filter(|socket| socket.exists());
    // This process is about to end, so failures are not reported.
    let ends: Vec<_> = sockets.filter_map(|socket| end(&socket).start().ok()).collect();
    let deadline = Instant::now() + END_TIME;
    for end in ends {
        if !matches!(end.wait_deadline(deadline), Ok(Some(_))) {
            let _ = end.kill();
        }
    }
}
