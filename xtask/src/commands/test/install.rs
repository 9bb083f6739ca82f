//! What the tests need, on a machine that has it not.

use std::path::Path;

use anyhow::{Context, ensure};
use xshell::{Shell, cmd};

use crate::ui;

const VENV: &str = "target/venv";
const REQUIREMENTS: &str = "tests/requirements.txt";

/// Makes a virtual environment with what the tests need, unless it is there.
pub(super) fn python() -> anyhow::Result<()> {
    let shell = &Shell::new()?;
    let wanted = shell.read_file(REQUIREMENTS)?;
    let stamp = Path::new(VENV).join("installed.txt");
    if shell.read_file(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    shell.remove_path(VENV)?;
    if cmd!(shell, "python3 -m venv {VENV}").run().is_err() {
        // Debian's Python comes without the part that makes environments.
        debian_packages(shell, &["python3", "python3-venv"])
            .context("making a Python environment for the tests needs Python 3 with its venv module")?;
        shell.remove_path(VENV)?;
        cmd!(shell, "python3 -m venv {VENV}").run().context("making a Python environment for the tests")?;
    }
    cmd!(shell, "{VENV}/bin/python -m pip install --quiet --requirement {REQUIREMENTS}")
        .run()
        .context("installing the Python packages that the tests need")?;
    shell.write_file(stamp, wanted)?;
    Ok(())
}

/// Some tests need an sshd, an ssh, network namespaces, or to see system calls. Without that they are skipped, and say so.
pub(super) fn programs(shell: &Shell) {
    let missing = |program: &&(&str, &str)| {
        let path = program.0;
        cmd!(shell, "sh -c 'command -v '{path}").quiet().ignore_stdout().run().is_err()
    };
    let needed = [
        ("/usr/sbin/sshd", "openssh-server"),
        ("ssh", "openssh-client"),
        ("ip", "iproute2"),
        ("strace", "strace"),
    ];
    let packages: Vec<_> = needed.iter().filter(missing).map(|(_, package)| *package).collect();
    if packages.is_empty() {
        return;
    }
    if let Err(error) = debian_packages(shell, &packages) {
        ui::note(&format!("tests that need {} will be skipped: {error:#}", packages.join(" or ")));
    }
}

pub(super) fn debian_packages(shell: &Shell, packages: &[&str]) -> anyhow::Result<()> {
    let words = packages.join(" ");
    let root = cmd!(shell, "id -u").quiet().read().is_ok_and(|user| user == "0");
    ensure!(root, "as root, run: apt-get install {words}");
    cmd!(shell, "apt-get update --quiet").run()?;
    cmd!(shell, "apt-get install --yes --quiet --no-install-recommends {packages...}").run()?;
    Ok(())
}
