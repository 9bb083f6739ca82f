//! Programs that tests start.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use process::ready::Ready;

use crate::{PATIENCE, eventually, program_path, within};

/// A running program; dropping it kills it.
pub struct Program {
    name: String,
    child: Child,
    output: PathBuf,
    ready_file: Option<PathBuf>,
}

impl Program {
    /// Starts one of the project's programs, with its output in a file in `folder`.
    pub fn start<S: AsRef<OsStr>>(name: &str, folder: &Path, args: impl IntoIterator<Item = S>) -> Self {
        let mut command = Command::new(program_path(name));
        command.args(args);
        Self::start_command(name, folder, command)
    }

    /// Starts any command in the same way.
    pub fn start_command(name: &str, folder: &Path, mut command: Command) -> Self {
        let (output, file) = (0..)
            .map(|i| folder.join(format!("{name}.{i}.out")))
            .find_map(|path| Some((path.clone(), File::create_new(&path).ok()?)))
            .expect("some name is free");
        let errors = file.try_clone().unwrap();
        if folder.join("stdin").exists() {
            command.stdin(File::open(folder.join("stdin")).unwrap());
        } else {
            command.stdin(Stdio::null());
        }
        let child = command.stdout(file).stderr(errors).spawn().expect("the program can be started");
        Self { name: name.to_owned(), child, output, ready_file: None }
    }

    /// Starts one of the project's programs that writes a ready file.
    pub fn start_server<S: AsRef<OsStr>>(
        name: &str,
        folder: &Path,
        args: impl IntoIterator<Item = S>,
    ) -> Self {
        let mut command = Command::new(program_path(name));
        command.args(args);
        Self::start_server_command(name, folder, command)
    }

    /// Starts any command that accepts `--ready-file` as its last argument.
    pub fn start_server_command(name: &str, folder: &Path, mut command: Command) -> Self {
        let ready_file = (0..)
            .map(|i| folder.join(format!("{name}.{i}.ready")))
            .find(|path| File::create_new(path.with_extension("taken")).is_ok())
            .expect("some name is free");
        command.arg("--ready-file").arg(&ready_file);
        let mut program = Self::start_command(name, folder, command);
        program.ready_file = Some(ready_file);
        program
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything that it has printed so far.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.output).unwrap()).into_owned()
    }

    /// Waits until it listens for `what`, and returns the address.
    pub fn address(&mut self, what: &str) -> String {
        let ready_file = self.ready_file.clone().expect("only servers have addresses");
        eventually(&format!("{} to listen for {what}", self.name), || {
            let ready = Ready::read(&ready_file).unwrap();
            if let Some(address) = ready.and_then(|ready| ready.addresses.get(what).copied()) {
                return Some(address.to_string());
            }
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("{} ended ({status}) before it listened for {what}:\n{}", self.name, self.output());
            }
            None
        })
    }

    /// Waits until it has printed `text`.
    pub fn await_output(&self, text: &str) {
        eventually(&format!("{} to print {text:?}", self.name), || {
            self.output().contains(text).then_some(())
        });
    }

    pub fn wait(&mut self) -> ExitStatus {
        eventually(&format!("{} to end", self.name), || self.child.try_wait().unwrap())
    }

    /// Waits until it succeeds, and returns its output.
    pub fn success(&mut self) -> String {
        self.success_within(PATIENCE)
    }

    /// The same, with another time limit.
    pub fn success_within(&mut self, patience: Duration) -> String {
        let ended = || self.child.try_wait().unwrap();
        let status = within(patience, &format!("{} to end", self.name), ended);
        assert!(status.success(), "{} ended with {status}:\n{}", self.name, self.output());
        self.output()
    }

    /// Waits until it fails, and returns its output.
    pub fn failure(&mut self) -> String {
        let status = self.wait();
        assert!(!status.success(), "{} succeeded:\n{}", self.name, self.output());
        self.output()
    }

    /// Waits until it fails because the job has failed, and returns why.
    pub fn job_failure(&mut self) -> String {
        let said = self.failure();
        let reason = said.lines().find_map(|line| line.split_once("the job failed: "));
        reason.unwrap_or_else(|| panic!("{} did not say why the job failed:\n{said}", self.name)).1.to_owned()
    }

    /// Waits until it ends with this exit code, and returns its output.
    pub fn exit(&mut self, code: i32) -> String {
        let status = self.wait();
        assert_eq!(status.code(), Some(code), "{} ended with {status}:\n{}", self.name, self.output());
        self.output()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Sends a signal, given by name.
    pub fn signal(&self, signal: &str) {
        let sent =
            Command::new("kill").arg(format!("-{signal}")).arg(self.pid().to_string()).status().unwrap();
        assert!(sent.success(), "sending {signal} to {} failed", self.name);
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if std::thread::panicking() && matches!(self.child.try_wait(), Ok(None)) {
            // The folder may be gone already, and a panic here would end all tests.
            let said = std::fs::read(&self.output).unwrap_or_default();
            let said = String::from_utf8_lossy(&said);
            eprintln!("{} was still running when the test failed; it had printed:\n{said}", self.name);
        }
        // It may have ended already, which is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
