//! Lists what a host already has. Changes nothing on it.

use agent::protocol::FOLDER;
use anyhow::Context;

use crate::agents::SHORT;
use crate::inventory::HostEntry;
use crate::ssh::{Access, Ssh};

/// Prints the current folder's mount if programs cannot be started from it. (Its name has octal numbers for spaces.)
const NOEXEC: &str = "mount=`df -P . 2>/dev/null | awk 'NR == 2 { print $6 }'`\n\
                      while read -r device at kind options rest; do\n\
                      if [ \"$at\" = \"$mount\" ]; then found=$options; fi; done < /proc/mounts\n\
                      case \",$found,\" in *,noexec,*) echo noexec \"$mount\" ;; esac";

/// What the choice of packages depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Platform {
    /// Python's version, such as 3.11.
    pub(crate) python: String,
    /// The processor, as `uname -m` prints it.
    pub(crate) processor: String,
    /// The minor version of glibc 2.x.
    pub(crate) glibc: u32,
}

/// A host that we are logged in to, and what it has.
pub struct Probed {
    pub(crate) ssh: Ssh,
    /// Lines of a name and a value.
    output: String,
}

impl Probed {
    /// Runs a short script of the POSIX shell on the host; returns its standard output.
    ///
    /// # Errors
    /// The script fails; the error has its standard error.
    pub fn run(&self, script: &str) -> anyhow::Result<String> {
        self.ssh.run(script, SHORT)
    }

    /// All values that the probe printed under this name.
    pub(crate) fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        let lines = self.output.lines().filter_map(move |line| line.strip_prefix(name)?.strip_prefix(' '));
        lines.map(str::trim).filter(|value| !value.is_empty())
    }

    /// The first value that the probe printed under this name.
    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        self.values(name).next()
    }

    /// The builds of our agent on the host.
    pub(crate) fn agents(&self) -> impl Iterator<Item = &str> {
        // Without an agent, the shell prints its pattern. An agent that is still being shipped has another name.
        self.values("agent").filter(|name| name.bytes().all(|byte| byte.is_ascii_hexdigit()))
    }

    /// Identifies the machine, whatever its name is; `None` if nothing of ours is on it.
    pub(crate) fn id(&self) -> Option<&str> {
        self.value("id")
    }

    /// # Errors
    /// The host has no Python, or a C library other than glibc.
    pub(crate) fn platform(&self) -> anyhow::Result<Platform> {
        let host = &self.ssh.entry().name;
        let python = self.value("python").with_context(|| {
            format!("{host} has no python3, which a Python model needs; on Debian and Ubuntu: apt-get install python3")
        })?;
        let libc = self.value("libc").unwrap_or_default();
        let glibc = minor_version(libc);
        let glibc = glibc.with_context(|| format!("{host} has a C library other than glibc ({libc:?}), so Python packages do not fit it; use another host"))?;
        let processor = self.value("processor").unwrap_or_default().to_owned();
        Ok(Platform { python: python.to_owned(), processor, glibc })
    }
}

/// Parses the output of `getconf GNU_LIBC_VERSION`; `None` for another C library.
pub(crate) fn minor_version(version: &str) -> Option<u32> {
    version.trim().strip_prefix("glibc 2.").and_then(|minor| minor.parse().ok())
}

/// Logs in to a host, and lists what it has.
///
/// # Errors
/// The host does not let us in, or does not run the script.
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
    let output = ssh.run(&script, SHORT)?;
    Ok(Probed { ssh, output })
}
