//! Hosts on this machine, each with a real sshd.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

/// A lab of its own for a test; taken down when dropped.
struct Lab(String);

impl Lab {
    /// `None` where this machine can have no lab.
    fn up(test: &str, hosts: &str) -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        // Names are short; these are of this process, and of nobody else on this machine.
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let lab = Self(format!("t{:03x}{count:02}", std::process::id() & 0xfff));
        // What an earlier run may have left, if it was killed.
        lab.xtask(&["down"]);
        let output = lab.xtask(&["up", hosts]);
        let said = String::from_utf8_lossy(&output.stderr);
        if said.contains("a lab needs") {
            tests::skip(test, said.trim());
            return None;
        }
        assert!(output.status.success(), "{said}");
        Some(lab)
    }

    fn xtask(&self, words: &[&str]) -> Output {
        let mut command = Command::new(tests::program_path("xtask"));
        command.arg("lab").args(words).args(["--name", &self.0]).output().unwrap()
    }

    fn folder(&self) -> std::path::PathBuf {
        tests::root().join("target/lab").join(&self.0)
    }

    /// What the names of its devices and namespaces begin with.
    fn bridge(&self) -> String {
        format!("lab-{}-", self.0)
    }

    /// Values of a key in the hosts file.
    fn values(&self, key: &str) -> Vec<String> {
        let file = std::fs::read_to_string(self.folder().join("hosts.toml")).unwrap();
        let lines = file.lines().filter_map(|line| line.strip_prefix(key)?.trim().strip_prefix("= "));
        lines.map(|value| value.trim_matches('"').to_owned()).collect()
    }

    /// Runs a command on a host by its address, over SSH, with its key checked.
    fn ssh(&self, address: &str, known_hosts: &Path, command: &str) -> Output {
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

#[test]
fn hosts_come_up_answer_and_go_without_a_trace() {
    let Some(lab) = Lab::up("hosts_come_up_answer_and_go_without_a_trace", "2") else { return };
    let addresses = lab.values("address");
    assert_eq!((lab.values("name"), addresses.len()), (vec!["h1".to_owned(), "h2".to_owned()], 2));
    let known = lab.folder().join("known_hosts");
    let keys: Vec<_> = (1..=2)
        .map(|i| {
            let key = std::fs::read_to_string(lab.folder().join(format!("h{i}/host_key.pub"))).unwrap();
            format!("{} {key}", addresses[i - 1])
        })
        .collect();
    std::fs::write(&known, keys.concat()).unwrap();
    for (i, address) in addresses.iter().enumerate() {
        // Each host has a name and a home of its own.
        let output = lab.ssh(address, &known, "hostname; touch mine; ls");
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(said, format!("h{}\nmine\n", i + 1), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(lab.folder().join(format!("h{}/home/mine", i + 1)).exists());
    }
    // They see each other, by addresses of their own.
    let other =
        lab.ssh(&addresses[0], &known, &format!("exec 3<>/dev/tcp/{}/22; head -c 4 <&3", addresses[1]));
    assert_eq!(other.stdout, b"SSH-", "{}", String::from_utf8_lossy(&other.stderr));

    let down = lab.xtask(&["down"]);
    assert!(down.status.success(), "{}", String::from_utf8_lossy(&down.stderr));
    assert!(!lab.folder().exists());
    let namespaces = Command::new("ip").args(["netns", "list"]).output().unwrap();
    assert!(!String::from_utf8_lossy(&namespaces.stdout).contains(&lab.bridge()));
    tests::eventually("the cables to be gone", || {
        let devices = std::fs::read_dir("/sys/class/net").unwrap().flatten();
        let ours = devices.filter(|device| device.file_name().to_string_lossy().starts_with(&lab.bridge()));
        (ours.count() == 0).then_some(())
    });
}
