//! The SSH key pair of the stack, as in 2018: the private key, and the public key in EC2's format.

use std::path::{Path, PathBuf};

use anyhow::Context;
use xshell::{Shell, cmd};

/// The two files.
#[derive(Debug, Clone)]
pub struct KeyFiles {
    pub private: PathBuf,
    pub public: PathBuf,
}

/// Where the key pair of a folder is.
pub fn files(folder: &Path) -> KeyFiles {
    KeyFiles { private: folder.join("ssh_key.pem"), public: folder.join("ssh_pubkey_in_ec2_format.pub") }
}

/// Locks a key pair for a command that works on its stack, until the file is dropped.
///
/// # Errors
/// Another command has it.
pub fn lock(files: &KeyFiles) -> anyhow::Result<std::fs::File> {
    let private = &files.private;
    let file = std::fs::File::open(private).with_context(|| format!("opening {}", private.display()))?;
    anyhow::ensure!(
        file.try_lock().is_ok(),
        "another cargo xtask up or down is at work on this stack; wait for it, or interrupt it"
    );
    Ok(file)
}

/// Makes the key pair in a folder, unless it is there.
///
/// # Errors
/// There is no ssh-keygen, or the private key cannot be read.
pub fn make(folder: &Path) -> anyhow::Result<KeyFiles> {
    let files = files(folder);
    let KeyFiles { private, public } = &files;
    let shell = Shell::new()?;
    if !private.exists() {
        cmd!(shell, "ssh-keygen -q -t ed25519 -N '' -C provisioned-classifier -f {private}").run().context(
            "making an SSH key with ssh-keygen, which is on Debian and Ubuntu in the package openssh-client",
        )?;
        // Under a name of ssh-keygen's; it is made again under ours.
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
