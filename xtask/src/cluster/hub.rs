//! The Monitoring Hub of a job. The job does not depend on it: when it cannot be started, that is told, and that is all.

use std::io::{Read, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::Value;
use wire::{net, ports};

use super::{Job, any_port, at, token_args};
use crate::host::{Host, Launch, Running, arg};
use crate::interrupt;
use crate::ui::{self, Standing};

/// How long it may take until it listens.
const READY_TIME: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(2);
/// How often it is asked how the job stands, how long an answer may take, and how long it may be.
const ASK_PAUSE: Duration = Duration::from_millis(250);
const ASK_TIME: Duration = Duration::from_millis(500);
const MOST_ANSWER: u64 = 1 << 20;

/// A hub that was started; ends when it is dropped, and writes its report then.
pub(crate) struct Hub {
    running: Box<dyn Running>,
    /// Where programs report.
    pub(super) metrics: String,
    /// Where its page is.
    pub(crate) page: String,
}

impl Hub {
    /// Starts a hub for the job, which leaves its report in a folder; says where its page is, or why there is none.
    ///
    /// # Errors
    /// When somebody interrupts.
    pub(crate) fn start(job: &Job, host: &dyn Host, report: &Path) -> anyhow::Result<Option<Self>> {
        match Self::try_start(job, host, report) {
            Ok(hub) => {
                ui::note(&format!("hub        {}", hub.page));
                Ok(Some(hub))
            }
            Err(error) => {
                interrupt::check()?;
                ui::note(&format!("there is no Monitoring Hub, and the job goes on without it: {error:#}"));
                Ok(None)
            }
        }
    }

    fn try_start(job: &Job, host: &dyn Host, report: &Path) -> anyhow::Result<Self> {
        let ready_file = job.run_folder.join("hub.ready");
        let mut args = vec!["--ready-file".to_owned(), arg(&ready_file), "--report".into(), arg(report)];
        args.extend([
            "--listen".into(),
            at(host, ports::METRICS),
            "--web".into(),
            format!("127.0.0.1:{}", ports::HUB),
        ]);
        args.extend(any_port(host));
        args.extend(token_args(job));
        let launch = Launch {
            name: "hub".into(),
            program: "hub",
            args,
            environment: job.environment.clone(),
            ready_file,
            stdin: false,
            restart: true,
        };
        let mut running = host.start(&launch)?;
        let start = Instant::now();
        loop {
            interrupt::check()?;
            if let Some(ready) = host.ready("hub")? {
                let address =
                    |what| ready.addresses.get(what).with_context(|| format!("it listens for no {what}"));
                let (metrics, page) =
                    (address("metrics")?.to_string(), format!("http://{}", address("web")?));
                return Ok(Self { running, metrics, page });
            }
            if let Some(end) = running.try_wait()? {
                bail!("it has ended ({}): {}", end.status, running.last_lines(1)?.concat());
            }
            if start.elapsed() >= READY_TIME {
                bail!("it does not listen after {READY_TIME:?}; see {}", running.log());
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Keeps the page until somebody interrupts.
    pub(crate) fn stay(mut self) -> anyhow::Result<()> {
        ui::note(&format!("the page stays at {} until Ctrl-C", self.page));
        while !interrupt::is_wanted() {
            if let Some(end) = self.running.try_wait()? {
                bail!("the Monitoring Hub has ended ({})", end.status);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

/// Asks a hub how the job stands, several times a second, for as long as somebody hears it.
///
/// # Errors
/// When no thread can be started.
pub(super) fn follow(page: &str) -> anyhow::Result<Receiver<Standing>> {
    let (tell, standings) = channel();
    let address = page.trim_start_matches("http://").to_owned();
    std::thread::Builder::new()
        .name("hub".into())
        .spawn(move || {
            // A hub that does not answer costs a picture, and may be back for the next one.
            while ask(&address).map_or(true, |standing| tell.send(standing).is_ok()) {
                std::thread::sleep(ASK_PAUSE);
            }
        })
        .context("starting a thread")?;
    Ok(standings)
}

fn ask(address: &str) -> anyhow::Result<Standing> {
    let mut stream = net::connect("the Monitoring Hub", address, ASK_TIME)?;
    stream.set_read_timeout(Some(ASK_TIME))?;
    stream.write_all(b"GET /api/v1/job HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(MOST_ANSWER).read_to_string(&mut answer)?;
    let (_, body) = answer.split_once("\r\n\r\n").context("a cut answer")?;
    let job: Value = serde_json::from_str(body)?;
    let rows = &job["rows"];
    let estimate = |end: &str| job["estimate"][end].as_f64();
    Ok(Standing {
        rows: rows["written"].as_u64().context("no count of rows")?,
        rejects: rows["rejected"].as_u64().unwrap_or_default(),
        total: rows["total"].as_u64().or(rows["total_about"].as_u64()),
        rate: job["rate_out"].as_f64(),
        left: estimate("low_seconds").zip(estimate("high_seconds")),
    })
}

/// Options of a program that reports to the hub, if there is one.
pub(super) fn report_args(hub: Option<&Hub>, host: &dyn Host) -> Vec<String> {
    let options =
        |hub: &Hub| ["--metrics", &hub.metrics, "--machine", host.name()].map(str::to_owned).to_vec();
    hub.map(options).unwrap_or_default()
}
