//! `cargo xtask ssh`

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::bail;
use deploy::request::Ssh;

use crate::agents::load;
use crate::ssh::login_options;

/// Replaces this process by ssh, with the inventory's options for the host.
pub(crate) fn run(args: &Ssh) -> anyhow::Result<ExitCode> {
    let (inventory, access) = load(&args.inventory)?;
    let host = inventory.host(&args.host)?;
    let mut command = Command::new("ssh");
    command.args(login_options(host, &access));
    if !args.command.is_empty() {
        // The user's configuration may be for logins: with RemoteCommand, ssh refuses a command; and it may exit if the port
        // of a forward is in use.
        for option in ["RemoteCommand=none", "ClearAllForwardings=yes", "ControlPath=none"] {
            command.args(["-o", option]);
        }
    }
    // The command may begin with a dash.
    command.arg("--").arg(&host.address).args(&args.command);
    let error = command.exec();
    bail!("starting ssh: {error}; is OpenSSH's client installed?")
}
