//! What a machine is given to boot with: who it is, and when it ends itself.

use std::path::Path;

use anyhow::Context;
use xshell::{Shell, cmd};

use crate::scratch;

/// The key by which a machine shows that it is the one that was launched. It is made here and reaches the machine with
/// its user data, so that nobody has to trust what answers first.
pub(super) struct HostKey {
    private: String,
    public: String,
    pub(super) fingerprint: String,
}

impl HostKey {
    /// Makes one.
    ///
    /// # Errors
    /// There is no ssh-keygen.
    pub(super) fn make() -> anyhow::Result<Self> {
        let folder = scratch::new_folder("key")?;
        let path = folder.join("key");
        let shell = Shell::new()?;
        cmd!(shell, "ssh-keygen -q -t ed25519 -N '' -C '' -f {path}")
            .quiet()
            .run()
            .context("making a host key")?;
        let key = Self {
            private: shell.read_file(&path)?,
            public: shell.read_file(path.with_extension("pub"))?.trim().to_owned(),
            fingerprint: fingerprint(&path)?,
        };
        shell.remove_path(&folder)?;
        Ok(key)
    }
}

/// The fingerprint of the key in a file.
fn fingerprint(path: &Path) -> anyhow::Result<String> {
    let shell = Shell::new()?;
    let listed =
        cmd!(shell, "ssh-keygen -l -E sha256 -f {path}").quiet().read().context("reading a host key")?;
    listed.split_whitespace().nth(1).map(str::to_owned).context("ssh-keygen names no fingerprint")
}

/// The user data of a machine, for cloud-init.
///
/// The machine counts its time itself, from its first boot, and needs no rights for that. A bill depends on it, so two
/// means do it, each of which is enough: the usual `shutdown`, which those see who log in, and a timer that is set at each
/// boot, so that a machine that was restarted ends in time as well.
pub(super) fn user_data(key: &HostKey, minutes: u64) -> String {
    let private: String = key.private.lines().map(|line| format!("    {line}\n")).collect();
    let (public, seconds) = (&key.public, minutes * 60);
    format!(
        r#"#cloud-config
ssh_deletekeys: true
ssh_keys:
  ed25519_private: |
{private}  ed25519_public: {public}
bootcmd:
  - - sh
    - -c
    - |
      file=/var/lib/provisioned-classifier-expires
      [ -e $file ] || echo $(($(date +%s) + {seconds})) > $file
      left=$(($(cat $file) - $(date +%s)))
      [ $left -gt 60 ] || left=60
      systemd-run --no-block --unit=time-to-live --on-active=${{left}}s systemctl poweroff
runcmd:
  - [shutdown, -h, "+{minutes}"]
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_data_has_the_key_and_the_time() {
        let key = HostKey::make().unwrap();
        let text = user_data(&key, 240);
        assert!(text.starts_with("#cloud-config\n"));
        let indented: String = key.private.lines().map(|line| format!("    {line}\n")).collect();
        assert!(
            text.contains(&format!("  ed25519_private: |\n{indented}  ed25519_public: ssh-ed25519 ")),
            "{text}"
        );
        assert!(text.contains("+ 14400))") && text.ends_with("  - [shutdown, -h, \"+240\"]\n"), "{text}");
        assert!(key.fingerprint.starts_with("SHA256:"));
        // EC2 takes 16 KiB.
        assert!(text.len() < 4096);
    }
}
