//! A folder for local jobs that read objects and upload results.

use std::path::PathBuf;
use std::process::Command;

use tests::program::Program;

use crate::server::{Bucket, Request, Server};

/// What is uploaded for plain results of `native`.
pub(crate) const PLAIN: [&str; 3] = ["results.log", "results.rejects.csv", "results.json"];
/// Where.
pub(crate) const UPLOAD: &str = "s3://data/results/";

/// A server with the bucket `data`, and a folder.
pub(crate) struct Site {
    pub(crate) server: Server,
    pub(crate) bucket: Bucket,
    folder: tempfile::TempDir,
}

impl Site {
    pub(crate) fn new() -> Self {
        let server = Server::start();
        let bucket = server.bucket("data");
        Self { server, bucket, folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file here, and the object of the same name.
    pub(crate) fn put(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
        self.bucket.put(name, text.as_bytes());
    }

    /// The published file.
    pub(crate) fn result(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path("out").join(name)).unwrap()
    }

    /// The uploaded object.
    pub(crate) fn uploaded(&self, name: &str) -> Option<Vec<u8>> {
        self.bucket.get(&format!("results/{name}"))
    }

    pub(crate) fn command(&self, inputs: &[&str], options: &[&str]) -> Command {
        let mut command = tests::xtask();
        command.args([
            "run-locally",
            "--no-hub",
            "--workers",
            "2",
            "--output",
            "out",
            "--log",
            "log",
            "--input",
        ]);
        command.args(inputs).args(options).current_dir(&self.folder);
        self.server.apply_to(&mut command);
        command.arg("--python").arg(tests::python());
        command
    }

    pub(crate) fn job(&self, inputs: &[&str], options: &[&str]) -> Program {
        Program::start_command("xtask", self.folder.path(), self.command(inputs, options))
    }

    /// Kills all processes of a job at once.
    pub(crate) fn kill_all(&self, xtask: &mut Program) {
        // The command first, since it would restart the others.
        xtask.signal("KILL");
        for (pid, _) in
            tests::command_lines_of(|words| words.contains("log/run/") || words.contains("out/jobs/"))
        {
            let is_here = |cwd: PathBuf| cwd.starts_with(&self.folder);
            if std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(is_here) {
                // It may have ended already.
                let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).status();
            }
        }
        xtask.wait();
    }

    /// How often each part of an object was sent and accepted.
    pub(crate) fn parts_sent(&self, name: &str) -> Vec<usize> {
        let requests = self.server.requests();
        let path = format!("/data/results/{name}");
        let sent = requests.iter().filter(|request| request.path == path && request.status == Some(200));
        let mut parts = Vec::new();
        for part in sent.filter_map(Request::part) {
            parts.resize(parts.len().max(usize::from(part)), 0);
            parts[usize::from(part) - 1] += 1;
        }
        parts
    }
}

/// Rows of more than one part: results of 24 MB.
pub(crate) fn long_rows() -> String {
    let rows: String = (0..200_000).map(|row| format!("{row},{:0>90}\n", row * 7)).collect();
    format!("id,text\n{rows}")
}
