//! Hosts on this machine, made by `cargo xtask lab`.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

/// A lab for a single test; dropping it takes it down.
pub struct Lab(String);

impl Lab {
    /// Makes a lab; skips the test and returns `None` if this machine cannot have one.
    pub fn up(test: &str, hosts: &str) -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        // Names must be short; the process id makes this one unique on the machine.
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let lab = Self(format!("t{:03x}{count:02}", std::process::id() & 0xfff));
        // A run that was killed may have left a lab of this name.
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

    /// Runs `cargo xtask lab` for this lab.
    pub fn xtask(&self, words: &[&str]) -> Output {
        let mut command = crate::xtask();
        command.arg("lab").args(words).args(["--name", &self.0]).output().unwrap()
    }

    pub fn folder(&self) -> PathBuf {
        crate::root().join("target/lab").join(&self.0)
    }

    /// The prefix of the names of its devices and namespaces.
    pub fn bridge(&self) -> String {
        format!("lab-{}-", self.0)
    }

    /// This machine's address in the network of the hosts.
    pub fn own_address(&self) -> Ipv4Addr {
        let host: Ipv4Addr = self.values("address")[0].parse().unwrap();
        let shown = Command::new("ip").args(["-4", "-oneline", "address", "show"]).output().unwrap().stdout;
        let shown = String::from_utf8(shown).unwrap();
        let addresses = shown.split_whitespace().filter_map(|word| word.strip_suffix("/24")?.parse().ok());
        let is_of_lab = |address: &Ipv4Addr| address.octets()[..3] == host.octets()[..3];
        addresses.into_iter().find(is_of_lab).unwrap()
    }

    /// Sets the cable of a host "up" or "down".
    pub fn set_link(&self, name: &str, state: &str) {
        let cable = format!("{}{}", self.bridge(), name.trim_start_matches('h'));
        assert!(Command::new("ip").args(["link", "set", &cable, state]).status().unwrap().success());
    }

    /// The values of a key in the hosts file, one for each host.
    pub fn values(&self, key: &str) -> Vec<String> {
        let file = std::fs::read_to_string(self.folder().join("hosts.toml")).unwrap();
        let lines = file.lines().filter_map(|line| line.strip_prefix(key)?.trim().strip_prefix("= "));
        lines.map(|value| value.trim_matches('"').to_owned()).collect()
    }

    /// Runs a script as root on a host, in the namespaces of its sshd.
    pub fn inside(&self, name: &str, script: &str) -> Output {
        let namespace = format!("{}{name}", self.bridge());
        let pids = Command::new("ip").args(["netns", "pids", &namespace]).output().unwrap();
        let pids = String::from_utf8(pids.stdout).unwrap();
        // The first process is sshd, which has the lowest id.
        let sshd = pids.split_whitespace().next().expect("an sshd runs on the host");
        let mut enter = Command::new("nsenter");
        let output = enter.args(["-t", sshd, "-m", "-n", "-u", "--", "sh", "-c", script]).output().unwrap();
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        output
    }

    /// Sets root's login shell on a host.
    pub fn set_shell(&self, name: &str, shell: &str) {
        self.inside(
            name,
            &format!(
                "umount /etc/passwd 2>/dev/null; sed 's#^root:.*#root:x:0:0:root:/root:{shell}#' /etc/passwd > /run/passwd &&
                 mount --bind /run/passwd /etc/passwd"
            ),
        );
    }

    /// Starts a second sshd on a host, with its own port and these options. It ends with the lab.
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

    /// Runs a command on the host at this address over SSH, and checks the host's key.
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
