//! The Monitoring Hub of a job. The job does not depend on it: when it cannot be started, that is told, and that is all.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use protocol::ports;
use telemetry::view;

use super::ready::await_address;
use super::{Job, any_port, at, token_args};
use crate::console::{self, Standing};
use crate::host::{Host, Launch, Running, arg};
use crate::interrupt;

/// What jobs call it.
pub const HUB: &str = "hub";
/// How long it may take until it listens.
const READY_TIME: Duration = Duration::from_secs(10);
/// How often it is looked whether it is still there, while its page is looked at.
const STAY_PAUSE: Duration = Duration::from_millis(50);
/// How often it is asked how the job stands (it hears that once a second), how long an answer may take, and how long it may be.
const ASK_PAUSE: Duration = Duration::from_millis(500);
const ASK_TIME: Duration = Duration::from_millis(500);
/// How long its page may take to answer for the first time.
const LOOK_TIME: Duration = Duration::from_secs(5);
const MOST_ANSWER: u64 = 1 << 20;

/// A hub; ends when this is dropped, and writes its report then.
pub struct Hub {
    running: Box<dyn Running>,
    /// Where programs report.
    pub(crate) metrics: String,
    /// Where its page is, for this machine, if it can be reached.
    page: Option<String>,
}

impl Hub {
    /// Starts a hub for the job, which leaves its report in a folder; says where its page is, or why there is none.
    ///
    /// # Errors
    /// When somebody interrupts.
    pub fn start(job: &Job, host: &dyn Host, report: &Path) -> anyhow::Result<Option<Self>> {
        match Self::try_start(job, host, report) {
            Ok(hub) => {
                hub.tell();
                Ok(Some(hub))
            }
            Err(error) => {
                interrupt::check()?;
                console::note(&format!(
                    "there is no Monitoring Hub, and the job goes on without it: {error:#}"
                ));
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
        // Whoever looks at the page is told where it is.
        args.push("--any-web-port".into());
        args.extend(token_args(job));
        let description = serde_json::to_string(&job.description).context("describing the job")?;
        args.extend(["--job".into(), description]);
        let launch = Launch {
            name: HUB.into(),
            program: "hub",
            args,
            environment: job.environment.clone(),
            ready_file,
            stdin: false,
            restart: true,
        };
        Self::reach(host, host.start(&launch)?)
    }

    /// One that runs already, and is left alone.
    ///
    /// # Errors
    /// When it does not say where it listens, or cannot be reached there.
    pub fn found(host: &dyn Host, mut running: Box<dyn Running>) -> anyhow::Result<Self> {
        running.leave();
        Self::reach(host, running)
    }

    fn reach(host: &dyn Host, mut running: Box<dyn Running>) -> anyhow::Result<Self> {
        let mut listens = |what| {
            await_address(host, HUB, what, READY_TIME, || {
                interrupt::check()?;
                match running.try_wait()? {
                    Some(end) => bail!("it has ended ({end}): {}", running.last_lines(1)?.concat()),
                    None => Ok(()),
                }
            })
        };
        let (metrics, web) = (listens("metrics")?.to_string(), listens("web")?);
        // The job's programs report all the same.
        let page = reach_page(host, web)
            .inspect_err(|error| {
                console::note(&format!("the Monitoring Hub cannot be shown here: {error:#}"));
            })
            .ok();
        Ok(Self { running, metrics, page })
    }

    /// Says where its page is.
    pub fn tell(&self) {
        if let Some(page) = &self.page {
            console::note(&format!("hub        {page}"));
        }
    }

    /// Where its page is, for this machine, if it can be reached.
    pub fn page(&self) -> Option<&str> {
        self.page.as_deref()
    }

    /// Leaves it alone from now on: it goes on when this is dropped.
    pub fn leave(&mut self) {
        self.running.leave();
    }

    /// Keeps the page until somebody interrupts, or ends the hub.
    ///
    /// # Errors
    /// When the hub ends for another reason.
    pub fn stay(mut self, host: &dyn Host) -> anyhow::Result<()> {
        if let Some(page) = &self.page {
            console::note(&format!("the page stays at {page} until Ctrl-C"));
        }
        while !interrupt::is_wanted() {
            if let Some(end) = self.running.try_wait()? {
                ensure!(end.is_success(), "the Monitoring Hub has ended ({end})");
                console::note("the Monitoring Hub was ended");
                break;
            }
            // A host that is lost is looked for, from the first time on that this is asked.
            let _ = host.away();
            std::thread::sleep(STAY_PAUSE);
        }
        Ok(())
    }
}

/// Where this machine finds a page that listens at an address of the host's.
fn reach_page(host: &dyn Host, web: SocketAddr) -> anyhow::Result<String> {
    let here = host.reach(web)?;
    // A tunnel is there also where the host lets nothing through it.
    get(&here.to_string(), "/healthz", LOOK_TIME).with_context(|| {
        format!(
            "it does not answer at {here}; {} may forbid what leads there (AllowTcpForwarding)",
            host.name()
        )
    })?;
    Ok(format!("http://{here}"))
}

/// Asks a hub how the job stands, twice a second, for as long as somebody hears it.
///
/// # Errors
/// When no thread can be started.
pub(crate) fn follow(page: &str) -> anyhow::Result<Receiver<Standing>> {
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

/// The body of what a hub answers.
fn get(address: &str, path: &str, patience: Duration) -> anyhow::Result<String> {
    let mut stream = net::connect("the Monitoring Hub", address, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.take(MOST_ANSWER).read_to_string(&mut answer)?;
    let (_, body) = answer.split_once("\r\n\r\n").context("a cut answer")?;
    Ok(body.to_owned())
}

fn ask(address: &str) -> anyhow::Result<Standing> {
    let body = get(address, "/api/v1/job", ASK_TIME)?;
    let job: view::Job = serde_json::from_str(&body)?;
    Ok(Standing {
        rows: job.rows.written,
        rejects: job.rows.rejected,
        total: job.rows.total.or(job.rows.total_about),
        rate: job.rate_out,
        left: job.estimate.map(|estimate| (estimate.low_seconds, estimate.high_seconds)),
    })
}

/// Options of a program that reports to the hub, if there is one.
pub(crate) fn report_args(hub: Option<&Hub>, host: &dyn Host) -> Vec<String> {
    let options =
        |hub: &Hub| ["--metrics", &hub.metrics, "--machine", host.name()].map(str::to_owned).to_vec();
    hub.map(options).unwrap_or_default()
}
