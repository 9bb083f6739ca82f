//! The job that is disturbed: on the hosts of a lab, or as processes of this machine.

use std::cell::RefCell;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use xshell::{Shell, cmd};

use super::Args;
use super::processes::{self, Target};
use crate::lab::Lab;
use deploy::{console, interrupt, project};

/// The tests' Python, which has pandas.
const PYTHON: &str = "target/venv/bin/python";
/// A model that gives what native gives.
const EXAMPLE: &str = "python:examples.pandas_classifier";
/// How long the job may take from its last fault to its end.
const END_TIME: Duration = Duration::from_secs(1800);
const PAUSE: Duration = Duration::from_millis(5);

/// A job that runs. When this is dropped, all of it is ended.
pub(super) struct Job {
    place: Place,
    child: RefCell<Child>,
    log: PathBuf,
}

enum Place {
    /// On this machine; its folder.
    Here(PathBuf),
    Lab(Lab),
}

impl Args {
    fn classifier(&self) -> String {
        let example = if Path::new(PYTHON).exists() { EXAMPLE } else { "native" };
        self.classifier.clone().unwrap_or_else(|| example.to_owned())
    }
}

/// Results of the same rows, undisturbed.
pub(super) fn undisturbed(folder: &Path, args: &Args) -> anyhow::Result<PathBuf> {
    let classifier = args.classifier();
    // The example gives what native gives, and takes a hundred times as long for it; and those that sleep all give the same.
    let classifier = match classifier.as_str() {
        EXAMPLE => "native",
        sleeping if sleeping.starts_with("sleep:") => "sleep:0",
        other => other,
    };
    let folder = folder.join("undisturbed");
    let mut command = locally(&folder, args, classifier)?;
    let (log, output) = log(&folder)?;
    let status = command.stdout(output.try_clone()?).stderr(output).status();
    let status = status.context("starting cargo xtask run-locally")?;
    ensure!(status.success(), "the undisturbed job failed; what it says is in {}", log.display());
    Ok(folder.join("output/results.log"))
}

fn log(folder: &Path) -> anyhow::Result<(PathBuf, File)> {
    project::make_folder(folder)?;
    let path = folder.join("job.log");
    let file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
    Ok((path, file))
}

fn xtask(command: &str) -> anyhow::Result<Command> {
    let mut xtask = Command::new(std::env::current_exe().context("looking for this program's file")?);
    xtask.arg(command).stdin(Stdio::null());
    Ok(xtask)
}

fn locally(folder: &Path, args: &Args, classifier: &str) -> anyhow::Result<Command> {
    let mut command = xtask("run-locally")?;
    command.arg("--output").arg(folder.join("output")).arg("--log").arg(folder.join("log"));
    command.args(["--model", classifier, "--input-lines", &args.input_lines.to_string()]);
    command.args(["--slowness", &args.slowness.to_string()]);
    let workers = u32::from(args.machines) * u32::from(args.workers);
    command.args(["--processes", &args.machines.to_string(), "--workers", &workers.to_string()]);
    if Path::new(PYTHON).exists() {
        command.args(["--python", PYTHON]);
    }
    Ok(command)
}

impl Job {
    pub(super) fn start(folder: &Path, args: &Args) -> anyhow::Result<Self> {
        // Nobody else's.
        let name = format!("c{:05}", std::process::id() % 100_000);
        let lab = Lab::new(&name, project::root()?.join("target/lab").join(&name))?;
        let folder = folder.join("disturbed");
        let (log, output) = log(&folder)?;
        let obstacle = if args.no_lab {
            Some("as --no-lab says".to_owned())
        } else {
            lab.check().err().map(|e| format!("{e:#}"))
        };
        let (place, mut command) = if let Some(obstacle) = obstacle {
            console::note(&format!("the same job, as processes of this machine ({obstacle})"));
            (Place::Here(folder.clone()), locally(&folder, args, &args.classifier())?)
        } else {
            console::note(&format!("the same job, on the {} hosts of a lab ({name})", args.machines + 1));
            lab.down()?;
            lab.up(args.machines + 1)?;
            match on_lab(&lab, &folder, args, &output) {
                Ok(command) => (Place::Lab(lab), command),
                Err(error) => {
                    lab.down()?;
                    return Err(error);
                }
            }
        };
        // It does not outlive this command.
        command.env(process::lifeline::LIFELINE, "1").stdin(Stdio::piped());
        let child = command.stdout(output.try_clone()?).stderr(output).spawn().context("starting the job")?;
        Ok(Self { place, child: RefCell::new(child), log })
    }

    /// What the job prints.
    pub(super) fn log(&self) -> &Path {
        &self.log
    }

    /// The results, where the receiver writes them.
    pub(super) fn results(&self) -> PathBuf {
        match &self.place {
            Place::Here(folder) => folder.join("output/results.log"),
            Place::Lab(lab) => lab.home(1).join("output/results.log"),
        }
    }

    pub(super) fn checkpoint(&self) -> PathBuf {
        self.results().with_extension("checkpoint")
    }

    /// The job's processes.
    pub(super) fn processes(&self) -> Vec<Target> {
        match &self.place {
            Place::Here(_) => processes::started_by(self.child.borrow().id()),
            Place::Lab(lab) => {
                let homes = (1..=lab.hosts()).map(|host| lab.home(host));
                homes.flat_map(|home| processes::recorded_in(&home)).collect()
            }
        }
    }

    /// The cables of the job's hosts.
    pub(super) fn cables(&self) -> Vec<Target> {
        let Place::Lab(lab) = &self.place else { return Vec::new() };
        let role = |host| match host {
            1 => "metrics host",
            2 => "initializer's host",
            _ => "host",
        };
        let cable = |host| Target { role: role(host).to_owned(), name: lab.cable(host), pid: 0 };
        (1..=lab.hosts()).map(cable).collect()
    }

    /// Sets a cable up or down.
    pub(super) fn set_link(&self, cable: &str, state: &str) -> anyhow::Result<()> {
        let shell = Shell::new()?;
        Ok(cmd!(shell, "ip link set {cable} {state}").quiet().run()?)
    }

    /// Lets time pass; `false` if the job has ended well meanwhile.
    pub(super) fn runs_for(&self, time: Duration, mut meanwhile: impl FnMut()) -> anyhow::Result<bool> {
        let start = Instant::now();
        loop {
            interrupt::check()?;
            meanwhile();
            if let Some(status) = self.child.borrow_mut().try_wait().context("waiting for the job")? {
                ensure!(status.success(), "the job failed ({status})");
                return Ok(false);
            }
            let left = time.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Ok(true);
            }
            std::thread::sleep(left.min(PAUSE));
        }
    }

    /// Waits until the job is done.
    pub(super) fn finish(&self) -> anyhow::Result<()> {
        if self.runs_for(END_TIME, || {})? {
            bail!("the job is not done {END_TIME:?} after its last fault");
        }
        Ok(())
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        // One that has ended cannot be killed, which is as good. Its programs end with it, or with the lab.
        let child = self.child.get_mut();
        let _ = child.kill();
        let _ = child.wait();
        if let Place::Lab(lab) = &self.place
            && let Err(error) = lab.down()
        {
            console::note(&format!("the lab is still there: {error:#}"));
        }
    }
}

/// Makes the lab's hosts ready, and gives the command that starts the job on them.
fn on_lab(lab: &Lab, folder: &Path, args: &Args, output: &File) -> anyhow::Result<Command> {
    let inventory = folder.join("inventory.toml");
    let classifier = args.classifier();
    let on_hosts = |command: &str| -> anyhow::Result<Command> {
        let mut command = xtask(command)?;
        command.arg("--inventory").arg(&inventory).args(["--model", &classifier]);
        // Its python3 knows the packages that the hosts are to have.
        let venv = std::path::absolute(PYTHON)?;
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", venv.parent().unwrap_or(&venv).display()));
        Ok(command)
    };
    let mut up = on_hosts("up")?;
    up.arg("--hosts").arg(lab.hosts_file()).args(["--cluster-size", &args.machines.to_string()]);
    let status = up.stdout(output.try_clone()?).stderr(output.try_clone()?).status();
    let status = status.context("starting cargo xtask up")?;
    ensure!(
        status.success(),
        "cargo xtask up failed; what it says is in {}",
        folder.join("job.log").display()
    );
    let mut command = on_hosts("run-cluster")?;
    command.args(["--input-lines", &args.input_lines.to_string(), "--slowness", &args.slowness.to_string()]);
    command.args(["--workers", &args.workers.to_string()]);
    Ok(command)
}
