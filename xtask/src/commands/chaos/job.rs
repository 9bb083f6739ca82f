//! The job under test: on the hosts of a lab, or as processes of this machine.

use std::cell::RefCell;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use xshell::{Shell, cmd};

use super::Args;
use super::processes::{Finder, Target};
use crate::lab::Lab;
use deploy::output::Jobs;
use deploy::{console, interrupt, project};

/// The tests' Python, which has pandas.
const PYTHON: &str = "target/venv/bin/python";
/// A model with the same results as native.
const EXAMPLE: &str = "python:examples.pandas_classifier";
/// Time limit from the last fault to the job's end.
const END_TIME: Duration = Duration::from_secs(1800);
const PAUSE: Duration = Duration::from_millis(5);

/// A running job. Dropping it ends all of the job.
pub(super) struct Job {
    location: Location,
    child: RefCell<Child>,
    finder: RefCell<Finder>,
    log: PathBuf,
}

enum Location {
    /// On this machine, in this folder.
    Local(PathBuf),
    Lab(Lab),
}

impl Args {
    fn classifier(&self) -> String {
        let example = if Path::new(PYTHON).exists() { EXAMPLE } else { "native" };
        self.classifier.clone().unwrap_or_else(|| example.to_owned())
    }
}

/// Runs the job without faults; returns the path of its results.
pub(super) fn undisturbed(folder: &Path, args: &Args) -> anyhow::Result<PathBuf> {
    let classifier = args.classifier();
    // The example has the results of native, and takes a hundred times as long. All sleep models have the same results.
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
    ensure!(status.success(), "the undisturbed job failed; its output is in {}", log.display());
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
        // A name that no other lab has.
        let name = format!("c{:05}", std::process::id() % 100_000);
        let lab = Lab::new(&name, project::root()?.join("target/lab").join(&name))?;
        let folder = folder.join("disturbed");
        let (log, output) = log(&folder)?;
        let obstacle = if args.no_lab {
            Some("--no-lab".to_owned())
        } else {
            lab.check().err().map(|e| format!("{e:#}"))
        };
        let (location, mut command) = if let Some(obstacle) = obstacle {
            console::note(&format!("the same job, as processes of this machine ({obstacle})"));
            (Location::Local(folder.clone()), locally(&folder, args, &args.classifier())?)
        } else {
            console::note(&format!("the same job, on the {} hosts of a lab ({name})", args.machines + 1));
            lab.down()?;
            lab.up(args.machines + 1)?;
            match on_lab(&lab, &folder, args, &output) {
                Ok(command) => (Location::Lab(lab), command),
                Err(error) => {
                    lab.down()?;
                    return Err(error);
                }
            }
        };
        // So that it does not outlive this command.
        command.env(process::lifeline::LIFELINE, "1").stdin(Stdio::piped());
        let child = command.stdout(output.try_clone()?).stderr(output).spawn().context("starting the job")?;
        Ok(Self { location, child: RefCell::new(child), finder: RefCell::default(), log })
    }

    /// The file with the job's output.
    pub(super) fn log(&self) -> &Path {
        &self.log
    }

    /// The file to which the receiver writes the results.
    pub(super) fn results(&self) -> PathBuf {
        match &self.location {
            // Links lead to them once the job is done.
            Location::Local(folder) => {
                match Jobs::of(&folder.join("output")).all().unwrap_or_default().first() {
                    Some(job) => job.path.join("results.log"),
                    None => folder.join("output/results.log"),
                }
            }
            Location::Lab(lab) => lab.home(1).join("output/results.log"),
        }
    }

    /// Waits until the job has the folder for its results; until its end at most.
    pub(super) fn await_folder(&self) -> anyhow::Result<()> {
        let Location::Local(folder) = &self.location else { return Ok(()) };
        let jobs = Jobs::of(&folder.join("output"));
        while jobs.all()?.is_empty() && self.runs_for(PAUSE, || {})? {}
        Ok(())
    }

    pub(super) fn checkpoint(&self) -> PathBuf {
        self.results().with_extension("checkpoint")
    }

    pub(super) fn processes(&self) -> Vec<Target> {
        match &self.location {
            Location::Local(_) => self.finder.borrow_mut().started_by(self.child.borrow().id()),
            Location::Lab(lab) => {
                let homes = (1..=lab.hosts()).map(|host| lab.home(host));
                self.finder.borrow_mut().recorded_in(homes)
            }
        }
    }

    /// The cables of the job's hosts.
    pub(super) fn cables(&self) -> Vec<Target> {
        let Location::Lab(lab) = &self.location else { return Vec::new() };
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

    /// Waits for `time` and calls `meanwhile` repeatedly; `false` if the job has succeeded by then.
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

    /// Waits until the job has succeeded.
    pub(super) fn finish(&self) -> anyhow::Result<()> {
        if self.runs_for(END_TIME, || {})? {
            bail!("the job did not end within {END_TIME:?} of its last fault");
        }
        Ok(())
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        // Killing fails if the child has ended, which is fine. Its programs end with it, or with the lab.
        let child = self.child.get_mut();
        let _ = child.kill();
        let _ = child.wait();
        if let Location::Lab(lab) = &self.location
            && let Err(error) = lab.down()
        {
            console::note(&format!("taking the lab down failed: {error:#}"));
        }
    }
}

/// Runs `cargo xtask up` for the lab's hosts; returns the command that starts the job on them.
fn on_lab(lab: &Lab, folder: &Path, args: &Args, output: &File) -> anyhow::Result<Command> {
    let inventory = folder.join("inventory.toml");
    let classifier = args.classifier();
    let on_hosts = |command: &str| -> anyhow::Result<Command> {
        let mut command = xtask(command)?;
        command.arg("--inventory").arg(&inventory).args(["--model", &classifier]);
        // Its python3 has the packages that are shipped to the hosts.
        let venv = std::path::absolute(PYTHON)?;
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", venv.parent().unwrap_or(&venv).display()));
        Ok(command)
    };
    let mut up = on_hosts("up")?;
    up.arg("--hosts").arg(lab.hosts_file()).args(["--cluster-size", &args.machines.to_string()]);
    let status = up.stdout(output.try_clone()?).stderr(output.try_clone()?).status();
    let status = status.context("starting cargo xtask up")?;
    ensure!(status.success(), "cargo xtask up failed; its output is in {}", folder.join("job.log").display());
    let mut command = on_hosts("run-cluster")?;
    command.args(["--input-lines", &args.input_lines.to_string(), "--slowness", &args.slowness.to_string()]);
    command.args(["--workers", &args.workers.to_string()]);
    Ok(command)
}
