//! `cargo xtask logs`

use std::process::ExitCode;
use std::sync::mpsc::channel;

use agent::protocol::FOLDER;
use anyhow::anyhow;
use deploy::request::Logs;
use deploy::{console, exit, interrupt};

use super::end_on_interrupt;
use crate::agents::load;
use crate::ssh::Ssh;

/// Prints the logs of programs, from one host or all.
pub(crate) fn run(args: &Logs) -> anyhow::Result<ExitCode> {
    let (inventory, access) = load(&args.inventory)?;
    let hosts = match &args.host {
        Some(name) => vec![inventory.host(name)?.clone()],
        None => inventory.used_hosts()?,
    };
    let (follow, count) = (if args.follow { "-F" } else { "" }, args.lines);
    // A host without logs prints nothing.
    let script = format!(
        "cd {FOLDER}/log 2>/dev/null && ls *.log >/dev/null 2>&1 && exec tail -n {count} {follow} *.log"
    );
    let several = hosts.len() > 1;
    end_on_interrupt("")?;
    let (sender, lines) = channel();
    std::thread::scope(|scope| {
        for host in &hosts {
            let (sender, access, script) = (sender.clone(), &access, &script);
            scope.spawn(move || {
                let outcome = Ssh::connect(host, access).and_then(|ssh| {
                    ssh.run_to(script, |line| {
                        let line = Ok((host.name.clone(), line));
                        sender.send(line).map_err(|_| anyhow!("the output is closed"))
                    })
                });
                if let Err(error) = outcome {
                    let _ = sender.send(Err(error));
                }
            });
        }
        drop(sender);
        let mut outcome = Ok(ExitCode::SUCCESS);
        for line in lines {
            // With --follow, the other threads would never end.
            if let Some(error) = console::lost_data() {
                exit::fail(&error);
                interrupt::leave(exit::FAILED);
            }
            match line {
                Ok((host, line)) if several => console::data(&format!("{host} | {line}")),
                Ok((_, line)) => console::data(&line),
                Err(error) => outcome = Err(error),
            }
        }
        outcome
    })
}
