//! A lab that `cargo xtask up` prepares.

use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::lab::Lab;
use crate::program::Program;
use crate::{eventually, python};

/// A lab, and a folder for its inventory.
pub struct Stack {
    pub lab: Lab,
    folder: TempDir,
}

impl Stack {
    /// Skips the test and returns `None` if this machine cannot have a lab.
    pub fn new(test: &str, hosts: &str) -> Option<Self> {
        Some(Self { lab: Lab::up(test, hosts)?, folder: tempfile::tempdir().unwrap() })
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts a command on the stack.
    pub fn start(&self, command: &str, args: &[&str]) -> Program {
        Program::start_command(command, self.folder.path(), self.command(command, args))
    }

    /// The same, with more environment variables.
    pub fn start_with(&self, command: &str, args: &[&str], variables: &[(&str, &str)]) -> Program {
        let mut words = self.command(command, args);
        words.envs(variables.iter().copied());
        Program::start_command(command, self.folder.path(), words)
    }

    /// Runs a command that must be refused before it changes anything; returns its output.
    pub fn refused(&self, command: &str, args: &[&str]) -> String {
        self.start(command, args).exit(3)
    }

    /// A command on the stack, not started yet.
    pub fn command(&self, command: &str, args: &[&str]) -> Command {
        let mut xtask = crate::xtask();
        xtask.arg(command);
        if !args.contains(&"--inventory") {
            xtask.arg("--inventory").arg(self.path("inventory.toml"));
        }
        xtask.args(args);
        // Its python3 has pip.
        let path = std::env::var("PATH").unwrap();
        xtask.env("PATH", format!("{}:{path}", python().parent().unwrap().display()));
        xtask.current_dir(self.folder.path());
        xtask
    }

    /// Runs a command that must succeed; returns its output.
    pub fn run(&self, command: &str, args: &[&str]) -> String {
        self.start(command, args).success()
    }

    /// Runs a command in another folder, with this stack's inventory unless `args` name another.
    pub fn run_in(&self, folder: &str, command: &str, args: &[&str]) -> String {
        let mut command_line = self.command(command, args);
        command_line.current_dir(self.path(folder));
        Program::start_command(command, self.folder.path(), command_line).success()
    }

    /// Runs a command that must fail; returns its output.
    pub fn fail(&self, command: &str, args: &[&str]) -> String {
        self.start(command, args).failure()
    }

    /// The lab's hosts file.
    pub fn hosts_file(&self) -> String {
        self.lab.folder().join("hosts.toml").display().to_string()
    }

    /// Runs `cargo xtask up` for the lab's hosts.
    pub fn up(&self, args: &[&str]) -> String {
        self.run("up", &[&["--hosts", &self.hosts_file()], args].concat())
    }

    /// Runs `get-results`; returns the results, which are the same in the archive and beside it.
    pub fn results(&self) -> Vec<u8> {
        self.run("get-results", &["--output", self.path("out").to_str().unwrap()]);
        let tar =
            Command::new("tar").args(["-xzOf"]).arg(self.path("out/results.tgz")).arg("results.log").output();
        let results = tar.unwrap().stdout;
        assert!(std::fs::read(self.path("out/results.log")).unwrap() == results);
        results
    }

    /// Processes on the hosts except sshd, and files in their home folders except SSH's.
    pub fn traces(&self) -> Vec<String> {
        let mut traces = Vec::new();
        for name in self.lab.values("name") {
            let namespace = format!("{}{name}", self.lab.bridge());
            let pids = Command::new("ip").args(["netns", "pids", &namespace]).output().unwrap();
            for pid in String::from_utf8(pids.stdout).unwrap().split_whitespace() {
                // The process may have ended since it was listed.
                let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                let line = String::from_utf8_lossy(&line).replace('\0', " ");
                if !line.is_empty() && !line.starts_with("sshd: /usr/sbin/sshd -D") {
                    traces.push(format!("{name}: {line}"));
                }
            }
            for entry in std::fs::read_dir(self.lab.folder().join(&name).join("home")).unwrap() {
                let file = entry.unwrap().file_name().into_string().unwrap();
                if file != ".ssh" {
                    traces.push(format!("{name}: {file}"));
                }
            }
        }
        traces
    }

    /// Takes the stack down, and checks that nothing of ours is left on any host, and no connection to one.
    pub fn down(&self) {
        // Some tests leave results on the hosts on purpose.
        let said = self.run("down", &["--discard-results"]);
        assert!(said.contains("nothing of ours is left on"), "{said}");
        // sshd's process for a connection ends a moment after the connection.
        eventually("all traces to be gone", || self.traces().is_empty().then_some(()));
        assert!(!self.path("inventory.toml").exists() && !self.path("urls.txt").exists());
    }
}
