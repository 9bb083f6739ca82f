//! A receiver and classifiers, started by hand as in the README, without xtask.

use std::path::{Path, PathBuf};
use std::process::Command;

use protocol::results::Summary;
use tempfile::TempDir;

use crate::program::Program;
use crate::program_path;

/// The description of a cluster.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Number of classifier processes.
    pub processes: usize,
    /// Worker threads in each process.
    pub workers: usize,
    /// More arguments for the classifiers.
    pub args: Vec<String>,
    /// More arguments for the receiver.
    pub receiver_args: Vec<String>,
    /// The job's token, if it has one.
    pub token: Option<String>,
    /// A shell script that starts the receiver in a mount namespace of its own. Its `$0` is a folder for the results; its
    /// other arguments are the receiver's command line.
    pub receiver_in: Option<&'static str>,
    /// The `PYTHONPATH` of Python models.
    pub python_path: Option<PathBuf>,
    /// Whether to start a hub, to which the programs report.
    pub hub: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            processes: 1,
            workers: 2,
            args: Vec::new(),
            receiver_args: Vec::new(),
            token: None,
            receiver_in: None,
            python_path: None,
            hub: false,
        }
    }
}

/// A running cluster with its receiver.
pub struct Cluster {
    /// The folder of its files.
    pub folder: TempDir,
    pub hub: Option<Program>,
    pub receiver: Program,
    /// The classifiers, the initializer first.
    pub classifiers: Vec<Program>,
    /// The address of the initializer's port for rows.
    pub rows: String,
    /// Arguments of all programs: the token file and the hub's address.
    pub shared: Vec<String>,
}

/// The files of a finished job.
#[derive(Debug)]
pub struct Results {
    pub log: Vec<u8>,
    pub rejects: String,
    pub summary: Summary,
}

/// Unpacks the results from an archive.
pub fn results_in(archive: &Path) -> Vec<u8> {
    let tar = Command::new("tar").arg("-xzOf").arg(archive).arg("results.log").output().unwrap();
    assert!(tar.status.success(), "{}", String::from_utf8_lossy(&tar.stderr));
    tar.stdout
}

/// Reads the files of the job that wrote its results to `log`.
pub fn read_results(log: &Path) -> Results {
    Results {
        log: std::fs::read(log).unwrap(),
        rejects: String::from_utf8_lossy(&std::fs::read(log.with_extension("rejects.csv")).unwrap())
            .into_owned(),
        summary: serde_json::from_slice(&std::fs::read(log.with_extension("json")).unwrap()).unwrap(),
    }
}

impl Setup {
    /// Writes `code` to the module `model` in `folder`, and uses it as a Python model.
    pub fn python(folder: &Path, code: &str) -> Self {
        std::fs::write(folder.join("model.py"), code).unwrap();
        let python = crate::python();
        Self { python_path: Some(folder.to_owned()), ..Self::default() }.args([
            "--python",
            python.to_str().unwrap(),
            "--classifier",
            "python:model",
        ])
    }

    /// Adds arguments for the classifiers.
    pub fn args<const N: usize>(mut self, args: [&str; N]) -> Self {
        self.args.extend(args.map(str::to_owned));
        self
    }

    /// Starts the cluster, and waits until it listens for rows.
    pub fn start(&self) -> Cluster {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let mut shared = Vec::new();
        if let Some(secret) = &self.token {
            use std::os::unix::fs::PermissionsExt;
            std::fs::write(path("token"), secret).unwrap();
            std::fs::set_permissions(path("token"), std::fs::Permissions::from_mode(0o600)).unwrap();
            shared.extend(["--token-file".to_owned(), path("token")]);
        }
        let hub = self.hub.then(|| {
            let args = ["--listen", "127.0.0.1:0", "--web", "127.0.0.1:0"].map(str::to_owned);
            let mut hub = Program::start_server("hub", folder.path(), args.iter().chain(&shared));
            shared.extend(["--metrics".to_owned(), hub.address("metrics")]);
            hub
        });
        let mut args = ["--framed", "--listen", "127.0.0.1:0", "--output"].map(str::to_owned).to_vec();
        args.push(path(if self.receiver_in.is_some() { "mount/results.log" } else { "results.log" }));
        args.extend(shared.clone());
        args.extend(self.receiver_args.clone());
        let mut command = match self.receiver_in {
            None => Command::new(program_path("receiver")),
            Some(script) => {
                let mut command = Command::new("unshare");
                command.args(["--map-root-user", "--mount", "sh", "-c", script, &path("mount")]);
                command.arg(program_path("receiver"));
                command
            }
        };
        command.args(args);
        let mut receiver = Program::start_server_command("receiver", folder.path(), command);
        let mut common = vec!["--out".to_owned(), receiver.address("results")];
        common.extend(["--worker-count".into(), self.processes.to_string()]);
        common.extend(["--workers".into(), self.workers.to_string()]);
        common.extend(shared.clone());
        common.extend(self.args.clone());
        let mut args = common.clone();
        let own = ["--cluster-initializer", "--in", "127.0.0.1:0", "--control", "127.0.0.1:0"];
        args.extend(own.map(str::to_owned));
        let start = |args: &[String]| {
            let mut command = Command::new(program_path("classifier"));
            command.args(args);
            if let Some(path) = &self.python_path {
                command.env("PYTHONPATH", path);
            }
            Program::start_server_command("classifier", folder.path(), command)
        };
        let mut initializer = start(&args);
        let control = initializer.address("control");
        let mut classifiers = vec![initializer];
        for i in 1..self.processes {
            let mut args = common.clone();
            args.extend(["--control".into(), control.clone(), "--name".into(), format!("worker{i}")]);
            classifiers.push(start(&args));
        }
        let rows = classifiers[0].address("rows");
        Cluster { folder, hub, receiver, classifiers, rows, shared }
    }

    /// Runs a whole job with the project's sender.
    pub fn run<const N: usize>(&self, sender: [&str; N]) -> Results {
        let mut cluster = self.start();
        let mut sender = cluster.sender(sender);
        sender.success();
        cluster.results()
    }
}

impl Cluster {
    /// A path in the cluster's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts the project's sender.
    pub fn sender<const N: usize>(&self, args: [&str; N]) -> Program {
        let mut all = vec![self.rows.clone()];
        all.extend(self.shared.clone());
        all.extend(args.map(str::to_owned));
        Program::start("sender", self.folder.path(), &all)
    }

    /// Waits until all programs have succeeded, and returns the job's files.
    pub fn results(&mut self) -> Results {
        for classifier in &mut self.classifiers {
            classifier.success();
        }
        self.receiver.success();
        read_results(&self.path("results.log"))
    }
}
