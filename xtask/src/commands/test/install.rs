//! Installs the programs and packages that the tests need and the machine lacks.

use std::path::Path;

use anyhow::{Context, ensure};
use xshell::{Shell, cmd};

use deploy::console;

const VENV: &str = "target/venv";
const REQUIREMENTS: &str = "tests/requirements.txt";
/// The Python package that has axe-core 4.12.
const AXE: &str = "axe-playwright-python==0.1.8";
const PROMETHEUS: &str = "target/prometheus";
/// Folder of the Node.js package with which the test cloud evaluates the IAM policy.
const NODE: &str = "target/node";
const IAM_SIMULATE: &str = "@cloud-copilot/iam-simulate@0.1.173";
/// The Debian release that boots with our user data, and its packages. Tests boot every release in the parent folder.
const RELEASE: &str = "trixie";
const MACHINE: &str = "target/boot/trixie";
const MACHINE_PACKAGES: &str = "systemd-sysv,dbus,cloud-init,openssh-server,sudo";
/// Time limit for making its root file system, in seconds. It takes 50 to 100 with a nearby archive.
const MACHINE_TIME: &str = "900";

/// Makes a virtual environment with the Python packages for the tests, unless it is up to date.
pub(super) fn python() -> anyhow::Result<()> {
    let shell = &Shell::new()?;
    environment(shell, Path::new(VENV), Path::new(REQUIREMENTS))
        .context("installing the Python packages that the tests need")?;
    axe(shell)
}

/// Makes a virtual environment with the Python packages of a requirements file, unless it is up to date.
pub(in crate::commands) fn environment(
    shell: &Shell,
    folder: &Path,
    requirements: &Path,
) -> anyhow::Result<()> {
    let wanted = shell.read_file(requirements)?;
    let stamp = folder.join("installed.txt");
    if shell.read_file(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    shell.remove_path(folder)?;
    if cmd!(shell, "python3 -m venv {folder}").run().is_err() {
        // Debian packages the venv module separately.
        debian_packages(shell, &["python3", "python3-venv"])
            .context("making a Python environment needs Python 3 with its venv module")?;
        shell.remove_path(folder)?;
        cmd!(shell, "python3 -m venv {folder}").run()?;
    }
    let python = folder.join("bin/python");
    cmd!(shell, "{python} -m pip install --quiet --requirement {requirements}").run()?;
    shell.write_file(stamp, wanted)?;
    Ok(())
}

/// Fetches axe-core, which checks a page's accessibility, unless it is up to date. It comes as one file of a Python package that
/// is needed for nothing else.
fn axe(shell: &Shell) -> anyhow::Result<()> {
    let stamp = Path::new(VENV).join("axe.txt");
    if shell.read_file(&stamp).is_ok_and(|fetched| fetched == AXE) {
        return Ok(());
    }
    let unpacked = &format!("{VENV}/axe");
    cmd!(shell, "{VENV}/bin/python -m pip install --quiet --no-deps --target {unpacked} {AXE}")
        .run()
        .context("fetching axe-core")?;
    shell.copy_file(format!("{unpacked}/axe_playwright_python/axe.min.js"), format!("{VENV}/axe.min.js"))?;
    shell.remove_path(unpacked)?;
    shell.write_file(stamp, AXE)?;
    Ok(())
}

/// Unpacks Debian's Prometheus without installing it, since the installed package would start a service.
fn prometheus(shell: &Shell) -> anyhow::Result<()> {
    if shell.path_exists(format!("{PROMETHEUS}/usr/bin/promtool")) {
        return Ok(());
    }
    shell.remove_path(PROMETHEUS)?;
    let folder = &shell.create_dir(PROMETHEUS)?;
    let fetch = || cmd!(shell, "apt-get download --quiet prometheus").run();
    {
        let _folder = shell.push_dir(folder);
        if fetch().is_err() {
            // The package lists may be outdated or missing.
            cmd!(shell, "apt-get update --quiet").run()?;
            fetch()?;
        }
    }
    for package in shell.read_dir(folder)? {
        cmd!(shell, "dpkg-deb --extract {package} {folder}").run()?;
        shell.remove_path(package)?;
    }
    Ok(())
}

/// Fetches the package that evaluates IAM policies, unless it is up to date. Only the test cloud runs it, as a separate
/// program.
fn iam_simulate(shell: &Shell) -> anyhow::Result<()> {
    let stamp = Path::new(NODE).join("installed.txt");
    if shell.read_file(&stamp).is_ok_and(|installed| installed == IAM_SIMULATE) {
        return Ok(());
    }
    debian_programs(shell, &[("node", "nodejs"), ("npm", "npm")]);
    shell.remove_path(NODE)?;
    cmd!(shell, "npm install --prefix {NODE} --no-save --no-audit --no-fund --silent {IAM_SIMULATE}")
        .run()
        .with_context(|| format!("installing {IAM_SIMULATE} needs Node.js with npm"))?;
    shell.write_file(stamp, IAM_SIMULATE)?;
    Ok(())
}

/// Installs sshd, ssh, network tools, other login shells, strace, Prometheus and Node.js. Tests that need one of these are
/// skipped without it.
pub(super) fn programs(shell: &Shell) {
    if let Err(error) = prometheus(shell) {
        console::note(&format!("the test that needs Prometheus will be skipped: {error:#}"));
    }
    if let Err(error) = iam_simulate(shell) {
        console::note(&format!("tests of the IAM policy will be skipped: {error:#}"));
    }
    debian_programs(
        shell,
        &[
            ("/usr/sbin/sshd", "openssh-server"),
            ("ssh", "openssh-client"),
            ("ip", "iproute2"),
            ("strace", "strace"),
            ("tcsh", "tcsh"),
            ("fish", "fish"),
        ],
    );
}

/// Installs a root file system, and a container to boot it in, for the tests of user data.
pub(super) fn machine(shell: &Shell) {
    debian_programs(shell, &[("mmdebstrap", "mmdebstrap"), ("systemd-nspawn", "systemd-container")]);
    if let Err(error) = root_file_system(shell) {
        console::note(&format!("tests that boot machines will be skipped: {error:#}"));
    }
}

/// Makes the root file system, unless it is up to date. It gets its final name only once it is complete.
fn root_file_system(shell: &Shell) -> anyhow::Result<()> {
    let wanted = format!("{RELEASE} {MACHINE_PACKAGES}\n");
    if shell.read_file(format!("{MACHINE}/installed.txt")).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    let root = cmd!(shell, "id -u").quiet().read().is_ok_and(|user| user == "0");
    ensure!(root, "making a root file system needs root");
    shell.remove_path(MACHINE)?;
    let new = format!("{MACHINE}.new");
    shell.remove_path(&new)?;
    let folder = shell.create_dir(&new)?.join("root");
    // mmdebstrap mounts /proc and /sys in the folder. In namespaces of its own, mounts and processes are gone when it ends
    // in any way.
    let own = ["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];
    let limit = ["--foreground", "--kill-after=10", MACHINE_TIME];
    let words = ["--quiet", "--variant=important", "--include", MACHINE_PACKAGES, RELEASE];
    let made = cmd!(shell, "unshare {own...} timeout {limit...} mmdebstrap {words...} {folder}").run();
    if let Err(error) = made {
        shell.remove_path(&new)?;
        return Err(error).context("making the root file system of a machine");
    }
    shell.write_file(format!("{new}/installed.txt"), wanted)?;
    std::fs::rename(&new, MACHINE).context("naming the root file system of a machine")?;
    Ok(())
}

/// Installs Chromium and its driver, for the tests of the page.
pub(super) fn browser(shell: &Shell) {
    debian_programs(shell, &[("chromium", "chromium"), ("chromedriver", "chromium-driver")]);
}

/// Installs the packages of missing programs.
fn debian_programs(shell: &Shell, needed: &[(&str, &str)]) {
    let missing = |program: &&(&str, &str)| {
        let path = program.0;
        cmd!(shell, "sh -c 'command -v '{path}").quiet().ignore_stdout().run().is_err()
    };
    let packages: Vec<_> = needed.iter().filter(missing).map(|(_, package)| *package).collect();
    if packages.is_empty() {
        return;
    }
    if let Err(error) = debian_packages(shell, &packages) {
        console::note(&format!("tests that need {} will be skipped: {error:#}", packages.join(" or ")));
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
