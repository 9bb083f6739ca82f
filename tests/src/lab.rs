//! Hosts on this machine, as `cargo xtask lab` makes them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

/// A lab of its own for a test; taken down when dropped.
pub struct Lab(String);

impl Lab {
    /// Makes it; `None`, and a skipped test, where this machine can have no lab.
    pub fn up(test: &str, hosts: &str) -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        // Names are short; these are of this process, and of nobody else on this machine.
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let lab = Self(format!("t{:03x}{count:02}", std::process::id() & 0xfff));
        // What an earlier run may have left, if it was killed.
        lab.xtask(&["down"]);
        let output = lab.xtask(&["up", hosts]);
        let said = String::from_utf8_lossy(&output.stderr);
        if said.contains("a lab needs") {
            crate::skip(test, said.trim());
            return None;
        }
        assert!(output.status.success(), "{said}");
        Some(lab)
    }

    /// Runs `cargo xtask lab` for it.
    pub fn xtask(&self, words: &[&str]) -> Output {
        let mut command = crate::xtask();
        command.arg("lab").args(words).args(["--name", &self.0]).output().unwrap()
    }

    /// Its folder.
    pub fn folder(&self) -> PathBuf {
        crate::root().join("target/lab").join(&self.0)
    }

    /// What the names of its devices and namespaces begin with.
    pub fn bridge(&self) -> String {
        format!("lab-{}-", self.0)
    }

    /// Sets the cable of a host "up" or "down".
    pub fn plug(&self, name: &str, state: &str) {
        let cable = format!("{}{}", self.bridge(), name.trim_start_matches('h'));
        assert!(Command::new("ip").args(["link", "set", &cable, state]).status().unwrap().success());
    }

    /// Values of a key in the hosts file.
    pub fn values(&self, key: &str) -> Vec<String> {
        let file = std::fs::read_to_string(self.folder().join("hosts.toml")).unwrap();
        let lines = file.lines().filter_map(|line| line.strip_prefix(key)?.trim().strip_prefix("= "));
        lines.map(|value| value.trim_matches('"').to_owned()).collect()
    }

    /// Runs a script as root on a host, where its sshd runs.
    pub fn inside(&self, name: &str, script: &str) -> Output {
        let namespace = format!("{}{name}", self.bridge());
        let pids = Command::new("ip").args(["netns", "pids", &namespace]).output().unwrap();
        let pids = String::from_utf8(pids.stdout).unwrap();
        // The first one is its sshd, which has been there from the beginning.
        let sshd = pids.split_whitespace().next().expect("an sshd runs on the host");
        let mut enter = Command::new("nsenter");
        let output = enter.args(["-t", sshd, "-m", "-n", "-u", "--", "sh", "-c", script]).output().unwrap();
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        output
    }

    /// Gives root another login shell on a host, or the usual one again.
    pub fn set_shell(&self, name: &str, shell: &str) {
        self.inside(
            name,
            &format!(
                "umount /etc/passwd 2>/dev/null; sed 's#^root:.*#root:x:0:0:root:/root:{shell}#' /etc/passwd > /run/passwd &&
                 mount --bind /run/passwd /etc/passwd"
            ),
        );
    }

    /// Starts another sshd on a host, at a port of its own and with these options. It ends with the lab.
    pub fn start_sshd(&self, name: &str, port: u16, options: &str) {
        let key = self.folder().join(name).join("host_key");
        self.inside(
            name,
            &format!(
                "/usr/sbin/sshd -f /dev/null -h {} -o PidFile=none -o UsePAM=no -o PermitRootLogin=prohibit-password \
                 -o Port={port} {options}",
                key.display()
            ),
        );
    }

    /// Runs a command on a host by its address, over SSH, with its key checked.
    pub fn ssh(&self, address: &str, known_hosts: &Path, command: &str) -> Output {
        let mut ssh = Command::new("ssh");
        ssh.args(["-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o"]);
        ssh.arg(format!("UserKnownHostsFile={}", known_hosts.display()))
            .arg("-i")
            .arg(self.folder().join("id_ed25519"));
        ssh.arg(format!("root@{address}")).arg(command).output().unwrap()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.xtask(&["down"]);
    }
}
