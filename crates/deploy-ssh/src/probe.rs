//! What is on a host, before anything is done to it.

use agent::protocol::FOLDER;
use anyhow::Context;

use super::SHORT;
use super::package;
use super::python::Platform;
use crate::hosts::HostEntry;
use crate::ssh::{Access, Ssh};

/// Says the mount of the current folder if no program may be started from it. (Spaces in its name stand as numbers.)
const NOEXEC: &str = "mount=`df -P . 2>/dev/null | awk 'NR == 2 { print $6 }'`\n\
                      while read -r device at kind options rest; do\n\
                      if [ \"$at\" = \"$mount\" ]; then found=$options; fi; done < /proc/mounts\n\
                      case \",$found,\" in *,noexec,*) echo noexec \"$mount\" ;; esac";

/// A host that lets us in, and what it has.
pub struct Probed {
    /// The connection.
    pub(super) ssh: Ssh,
    said: String,
}

impl Probed {
    /// Runs a short script of the POSIX shell on it, and gives what that prints.
    pub fn run(&self, script: &str) -> anyhow::Result<String> {
        self.ssh.run(script, SHORT)
    }

    /// All values that it said under this name.
    pub(super) fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        let lines = self.said.lines().filter_map(move |line| line.strip_prefix(name)?.strip_prefix(' '));
        lines.map(str::trim).filter(|value| !value.is_empty())
    }

    /// The value that it said under this name.
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.values(name).next()
    }

    /// The builds of our agent that it has.
    pub(super) fn agents(&self) -> impl Iterator<Item = &str> {
        // Without any, the pattern itself is said; one that is still being shipped has another name.
        self.values("agent").filter(|name| name.bytes().all(|byte| byte.is_ascii_hexdigit()))
    }

    /// What tells the machine from others, whatever it is called; `None` if nothing of ours is on it.
    pub(super) fn id(&self) -> Option<&str> {
        self.value("id")
    }

    /// What Python packages depend on.
    pub(super) fn platform(&self) -> anyhow::Result<Platform> {
        let host = &self.ssh.entry().name;
        let python = self.value("python").with_context(|| {
            format!("{host} has no python3, which a Python box needs; on Debian and Ubuntu: apt-get install python3")
        })?;
        let libc = self.value("libc").unwrap_or_default();
        let glibc = package::glibc_minor(libc);
        let glibc = glibc.with_context(|| format!("{host} has another C library than glibc: {libc:?}"))?;
        let processor = self.value("processor").unwrap_or_default().to_owned();
        Ok(Platform { python: python.to_owned(), processor, glibc })
    }
}

/// Logs in to a host, and asks what it has. Nothing is changed on it.
pub fn probe(host: &HostEntry, access: &Access) -> anyhow::Result<Probed> {
    let ssh = Ssh::connect(host, access)?;
    let python = r#"import sys; print("%d.%d" % sys.version_info[:2])"#;
    let script = format!(
        "echo processor `uname -m`; echo libc `getconf GNU_LIBC_VERSION 2>&1`\n\
         echo python `python3 -c '{python}' 2>/dev/null`\n\
         cd {FOLDER} 2>/dev/null; there=$?\n\
         {NOEXEC}\n\
         if [ $there != 0 ]; then exit 0; fi\n\
         echo id `cat id 2>/dev/null`\n\
         for name in agent-*; do echo agent ${{name#agent-}}; done\n\
         echo app `readlink app`; echo packages `readlink packages`"
    );
    let said = ssh.run(&script, SHORT)?;
    Ok(Probed { ssh, said })
}
