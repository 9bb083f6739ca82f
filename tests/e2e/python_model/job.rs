//! Runs a Python model over a file, in a folder of its own, which is faster than a cluster.

use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;
use tests::program::Program;

/// A module `model` in a folder, and the options to run it with.
pub(crate) struct Job {
    pub(crate) folder: TempDir,
    classifier: String,
    args: Vec<String>,
    environment: Vec<(String, String)>,
}

/// The outcome of a job.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) results: Vec<String>,
    /// Without their header.
    pub(crate) rejects: Vec<String>,
    pub(crate) said: String,
}

impl Job {
    pub(crate) fn new(code: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("model.py"), code).unwrap();
        // This mark identifies processes that a job has left.
        let mark = ("TESTS_MARK".to_owned(), folder.path().display().to_string());
        Self { folder, classifier: "python:model".into(), args: Vec::new(), environment: vec![mark] }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn file(self, name: &str, text: &str) -> Self {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        self
    }

    pub(crate) fn classifier(mut self, classifier: &str) -> Self {
        self.classifier = classifier.into();
        self
    }

    pub(crate) fn args<const N: usize>(mut self, args: [&str; N]) -> Self {
        self.args.extend(args.map(str::to_owned));
        self
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Starts the job with this many rows: `0,row0` and so on.
    pub(crate) fn start(&self, rows: usize) -> Program {
        let lines: String = (0..rows).map(|i| format!("{i},row{i}\n")).collect();
        std::fs::write(self.path("in.csv"), format!("ID,NAME\n{lines}")).unwrap();
        let mut command = Command::new(tests::program_path("classifier"));
        command.current_dir(self.folder.path()).envs(self.environment.iter().cloned());
        command.args(["file", "in.csv", "out.csv", "--classifier", &self.classifier, "--python"]);
        command.arg(tests::python()).args(&self.args);
        Program::start_command("classifier", self.folder.path(), command)
    }

    pub(crate) fn run(&self, rows: usize) -> Outcome {
        let said = self.start(rows).success();
        let lines = |name: &str| {
            let text = std::fs::read(self.path(name)).unwrap();
            String::from_utf8_lossy(&text).lines().map(str::to_owned).collect::<Vec<_>>()
        };
        let rejects = lines("out.rejects.csv").split_off(1);
        Outcome { results: lines("out.csv"), rejects, said }
    }

    /// The output of a job whose model cannot start.
    pub(crate) fn refusal(&self) -> String {
        self.start(1).failure()
    }

    /// Runs a job of one row, and returns its score, which must not contain a comma.
    pub(crate) fn answer(&self) -> String {
        let outcome = self.run(1);
        let line = outcome.results.first().unwrap_or_else(|| panic!("{outcome:?}"));
        line.strip_prefix("0,row0,").unwrap().trim_matches('"').replace("\"\"", "\"")
    }

    /// The processes that the job has left, in any group and session.
    pub(crate) fn left(&self) -> Vec<u32> {
        let mark = format!("TESTS_MARK={}", self.folder.path().display());
        let pids = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let is_ours = |pid: &u32| {
            let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|&byte| byte == 0).any(|variable| variable == mark.as_bytes())
        };
        pids.filter(is_ours).collect()
    }

    pub(crate) fn leaves_nothing(&self) {
        tests::eventually("all processes of the model to end", || self.left().is_empty().then_some(()));
    }
}

impl Outcome {
    /// The reason why a row was rejected, without quotes.
    pub(crate) fn reason(&self, row: usize) -> &str {
        let start = format!("{row},");
        let line = self.rejects.iter().find_map(|line| line.strip_prefix(&start));
        let line = line.unwrap_or_else(|| panic!("row {row} was not rejected: {self:?}"));
        line.rsplit_once(&format!(",\"{row},row{row}\"")).unwrap().0.trim_matches('"')
    }
}
