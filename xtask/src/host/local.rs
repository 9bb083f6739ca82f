//! This machine as a host.

use std::io::PipeWriter;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};

use anyhow::Context;
use wire::program::{LIFELINE, Ready, remove_if_there};
use wire::results::Progress;
use wire::token::Token;

use super::{End, Host, Launch, Running};

/// This machine.
#[derive(Debug)]
pub(crate) struct Local {
    programs: PathBuf,
    logs: PathBuf,
}

impl Local {
    /// Runs the programs in one folder, with their logs in another.
    pub(crate) fn new(programs: PathBuf, logs: PathBuf) -> Self {
        Self { programs, logs }
    }
}

impl Host for Local {
    fn name(&self) -> &str {
        "this machine"
    }

    fn address(&self) -> &str {
        "127.0.0.1"
    }

    fn has_fixed_ports(&self) -> bool {
        false
    }

    fn start(&self, launch: &Launch) -> anyhow::Result<Box<dyn Running>> {
        let log = self.logs.join(format!("{}.log", launch.name));
        let context = || format!("starting {} on {}", launch.name, self.name());
        remove_if_there(&launch.ready_file).with_context(context)?;
        let (stdin, lifeline) = std::io::pipe().with_context(context)?;
        let mut command = duct::cmd(self.programs.join(launch.program), &launch.args)
            .stderr_to_stdout()
            .stdout_path(&log)
            .unchecked();
        for (name, value) in &launch.environment {
            command = command.env(name, value);
        }
        if !launch.stdin {
            // Ctrl-C in a terminal is for this command, which ends its programs in order. (A program that reads
            // the terminal must stay in its foreground group.)
            command = command.stdin_file(stdin).env(LIFELINE, "1").before_spawn(|command| {
                command.process_group(0);
                Ok(())
            });
        }
        let handle = command.start().with_context(context)?;
        Ok(Box::new(LocalProgram { name: launch.name.clone(), handle, log, _lifeline: lifeline }))
    }

    fn ready(&self, launch: &Launch) -> anyhow::Result<Option<Ready>> {
        Ready::read(&launch.ready_file)
    }

    fn observe(&self, results: &str, token: &Token) -> anyhow::Result<Receiver<Progress>> {
        let (sender, progress) = channel();
        let (results, token) = (results.to_owned(), token.clone());
        let observe = move || {
            // The job's own programs say what is wrong, if something is.
            let _ = wire::observer::observe(&results, Some(&token), |progress| sender.send(progress).is_ok());
        };
        std::thread::Builder::new().name("observer".into()).spawn(observe).context("starting a thread")?;
        Ok(progress)
    }
}

struct LocalProgram {
    name: String,
    handle: duct::Handle,
    log: PathBuf,
    /// The program ends when this is closed, however this command ends.
    _lifeline: PipeWriter,
}

impl Running for LocalProgram {
    fn try_wait(&mut self) -> anyhow::Result<Option<End>> {
        let output = self.handle.try_wait().with_context(|| format!("waiting for {}", self.name))?;
        Ok(output.map(|output| End { success: output.status.success(), status: output.status.to_string() }))
    }

    fn kill(&mut self) -> anyhow::Result<()> {
        self.handle.kill().with_context(|| format!("ending {}", self.name))?;
        self.handle.wait().map(drop).with_context(|| format!("waiting for the end of {}", self.name))
    }

    fn last_lines(&self, count: usize) -> anyhow::Result<Vec<String>> {
        wire::program::last_lines(&self.log, count).with_context(|| format!("reading {}", self.log.display()))
    }

    fn log(&self) -> String {
        self.log.display().to_string()
    }
}

impl Drop for LocalProgram {
    fn drop(&mut self) {
        // One that has ended cannot be killed, which is as good; and there is nobody to tell the rest.
        let _ = self.kill();
    }
}
