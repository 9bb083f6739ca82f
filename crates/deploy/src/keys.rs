//! A stack's SSH key pair: the private key, and the public key in EC2's format. Both have the file names of 2018.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use xshell::{Shell, cmd};

use crate::exit;

#[derive(Debug, Clone)]
pub struct KeyFiles {
    pub private: PathBuf,
    pub public: PathBuf,
}

/// The paths of a folder's key pair.
pub fn files(folder: &Path) -> KeyFiles {
    KeyFiles { private: folder.join("ssh_key.pem"), public: folder.join("ssh_pubkey_in_ec2_format.pub") }
}

/// Locks a key pair for a command that changes its stack; dropping the file unlocks it.
///
/// # Errors
/// Another command has the lock (busy).
pub fn lock(files: &KeyFiles) -> anyhow::Result<std::fs::File> {
    let private = &files.private;
    let file = std::fs::File::open(private).with_context(|| format!("opening {}", private.display()))?;
    if file.try_lock().is_err() {
        return Err(exit::busy(anyhow!(
            "another cargo xtask up or down is changing this stack; wait for its end, or interrupt it"
        )));
    }
    Ok(file)
}

/// Makes the key pair in a folder, unless it exists.
///
/// # Errors
/// ssh-keygen is not installed, or the private key cannot be read.
pub fn make(folder: &Path) -> anyhow::Result<KeyFiles> {
    let files = files(folder);
    let KeyFiles { private, public } = &files;
    let shell = Shell::new()?;
    if !private.exists() {
        cmd!(shell, "ssh-keygen -q -t ed25519 -N '' -C provisioned-classifier -f {private}").run().context(
            "making an SSH key with ssh-keygen; install it (on Debian and Ubuntu: apt-get install openssh-client)",
        )?;
        // The public key under ssh-keygen's name; it is written again under ours.
        let beside = folder.join("ssh_key.pem.pub");
        shell.remove_path(&beside)?;
    }
    let key = cmd!(shell, "ssh-keygen -y -f {private}").quiet().read().context("reading the public key")?;
    if std::fs::read_to_string(public).is_ok_and(|known| known.trim() == key.trim()) {
        return Ok(files);
    }
    std::fs::write(public, key + "\n").with_context(|| format!("writing {}", public.display()))?;
    Ok(files)
}
