//! Subcommand: cargo xtask job
//!
//! Each step is a process of its own, so that this one lives to take the stack down whatever becomes of a step: it fails,
//! it panics, somebody kills it. Should this one be killed, the step that is at work ends with it, and the machines end
//! themselves when their time is over.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::parser::ValueSource;

use super::up::NOTHING_DONE;
use crate::commands::remote::Job;
use crate::{interrupt, options, ui};

/// How often a step is asked whether it has ended.
const PAUSE: Duration = Duration::from_millis(20);

/// Runs all steps.
pub(super) fn job(args: &Job) -> anyhow::Result<ExitCode> {
    let steps = Steps::new()?;
    interrupt::watch(
        "interrupted twice: the stack is left as it is, and ends itself when its time is over; better: cargo xtask down",
    )?;
    let up = steps.run("up");
    if up.as_ref().is_err_and(|failed| failed.is(NOTHING_DONE)) {
        bail!("nothing was made, so nothing is taken down; the reason is above");
    }
    let outcome = up.map_err(anyhow::Error::from).and_then(|()| {
        let ran = steps.run("run-cluster");
        // Also when that was interrupted or has failed: the job may have been done. What a first try could not fetch, a
        // second may.
        let fetched = steps.run("get-results").or_else(|_| steps.run("get-results"));
        ran.and(fetched).map_err(anyhow::Error::from)
    });
    if args.keep {
        ui::note("the stack is left up, as --keep asks; take it down with: cargo xtask down");
        outcome?;
        return Ok(ExitCode::SUCCESS);
    }
    let down = steps.run("down");
    match (outcome, down) {
        (Ok(()), Ok(())) => Ok(ExitCode::SUCCESS),
        (Err(_), Ok(())) if interrupt::is_wanted() => {
            ui::note("interrupted; the stack is down");
            Ok(ExitCode::from(interrupt::EXIT_CODE))
        }
        (Err(error), Ok(())) => Err(error.context("the job has failed, and the stack is down")),
        (Ok(()), Err(error)) => {
            Err(anyhow::Error::from(error).context("the job is done, but the stack is not down"))
        }
        (Err(error), Err(down)) => bail!("{error:#}\n\nbesides, the stack is not down: {down}"),
    }
}

/// A step that has failed.
#[derive(Debug, thiserror::Error)]
#[error("cargo xtask {name} {how}")]
struct Failed {
    name: &'static str,
    code: Option<i32>,
    how: String,
}

impl Failed {
    fn is(&self, code: u8) -> bool {
        self.code == Some(i32::from(code))
    }
}

/// The commands that a job consists of.
struct Steps {
    matches: clap::ArgMatches,
    commands: clap::Command,
}

impl Steps {
    fn new() -> anyhow::Result<Self> {
        let commands = crate::command();
        let words = options::from_make(std::env::args_os(), &commands)?;
        let matches = commands.clone().get_matches_from(words);
        let matches = matches.subcommand_matches("job").context("this is no job")?.clone();
        Ok(Self { matches, commands })
    }

    /// Those of the job's own options that a command has, too.
    fn words(&self, command: &str) -> Vec<OsString> {
        let Some(command) = self.commands.find_subcommand(command) else { return Vec::new() };
        let mut words = Vec::new();
        for arg in command.get_arguments() {
            let (id, Some(long)) = (arg.get_id().as_str(), arg.get_long()) else { continue };
            // The environment is passed on by itself.
            let is_said = matches!(self.matches.try_contains_id(id), Ok(true))
                && self.matches.value_source(id) == Some(ValueSource::CommandLine);
            for value in self.matches.try_get_raw(id).ok().flatten().filter(|_| is_said).into_iter().flatten()
            {
                let mut word = OsString::from(format!("--{long}="));
                word.push(value);
                words.push(word);
            }
        }
        words
    }

    /// Runs a command to its end. It is told of an interruption by this process alone, so that it is told once.
    fn run(&self, name: &'static str) -> Result<(), Failed> {
        match self.try_run(name) {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(Failed { name, code: status.code(), how: format!("ended with {status}") }),
            Err(error) => Err(Failed { name, code: None, how: format!("{error:#}") }),
        }
    }

    fn try_run(&self, name: &str) -> anyhow::Result<ExitStatus> {
        let mut words = self.words(name);
        match name {
            // What up has shipped.
            "run-cluster" => words.retain(|word| !word.to_string_lossy().starts_with("--classifier=")),
            // Whatever a step was killed at: somebody else's stack of the same name is not taken down.
            "down" => words.extend(["--provider=aws".into(), "--own".into()]),
            "up" => words.push("--provider=aws".into()),
            _ => {}
        }
        ui::echo(&format!("cargo xtask {name}"));
        let me = std::env::current_exe().context("looking for this program's file")?;
        let mut child = Command::new(me)
            .arg(name)
            .args(words)
            .env(wire::program::LIFELINE, "1")
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting cargo xtask {name}"))?;
        // What comes after an interruption is for the user's good.
        let mut is_told = name == "down" || interrupt::is_wanted();
        loop {
            if let Some(status) =
                child.try_wait().with_context(|| format!("waiting for cargo xtask {name}"))?
            {
                return Ok(status);
            }
            if interrupt::is_wanted() && !is_told {
                is_told = true;
                let pid = nix::unistd::Pid::from_raw(child.id() as i32);
                // It may have ended just now, which is what is wanted.
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT);
            }
            std::thread::sleep(PAUSE);
        }
    }
}
