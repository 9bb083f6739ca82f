//! The Monitoring Hub of a job. The job does not depend on it: if it cannot be started, only a message is printed.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use protocol::ports;
use telemetry::view;

use super::Job;
use super::ready::await_address;
use crate::console::{self, JobStatus};
use crate::host::{Host, Launch, Running, arg, at};
use crate::interrupt;

/// The hub's name as a program of the job.
pub const HUB: &str = "hub";
/// How long it may take to start listening.
const READY_TIME: Duration = Duration::from_secs(10);
/// The pause between two checks that it still runs, while it only serves its page.
const STAY_PAUSE: Duration = Duration::from_millis(50);
/// The pause between two requests for the job's status, which changes once a second.
const STATUS_PAUSE: Duration = Duration::from_millis(500);
/// How long a request for the status may take.
const STATUS_TIME: Duration = Duration::from_millis(500);
/// How long its page may take to answer for the first time.
const FIRST_ANSWER_TIME: Duration = Duration::from_secs(5);
/// The longest answer, in bytes.
const MAX_ANSWER: u64 = 1 << 20;

/// A running hub. Dropping this ends it; it then writes its report.
pub struct Hub {
    running: Box<dyn Running>,
    /// The address for reports of programs.
    pub(crate) metrics: String,
    /// The URL of its page on this machine; `None` if it cannot be reached.
    page: Option<String>,
}

impl Hub {
    /// Starts a hub for the job; prints its URL, or why it cannot be started. It writes its report to a folder.
    ///
    /// # Errors
    /// The user interrupted.
    pub fn start(job: &Job, host: &dyn Host, report: &Path) -> anyhow::Result<Option<Self>> {
        match Self::try_start(job, host, report) {
            Ok(hub) => {
                hub.print_url();
                Ok(Some(hub))
            }
            Err(error) => {
                interrupt::check()?;
                console::note(&format!(
                    "the Monitoring Hub cannot be started; the job continues without it: {error:#}"
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
        // Users get the URL, so any port will do.
        args.push("--any-web-port".into());
        args.extend(job.token_args());
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

    /// Attaches to a hub that already runs; dropping this does not end it.
    ///
    /// # Errors
    /// It does not become ready, or has ended.
    pub fn found(host: &dyn Host, mut running: Box<dyn Running>) -> anyhow::Result<Self> {
        running.leave();
        Self::reach(host, running)
    }

    fn reach(host: &dyn Host, mut running: Box<dyn Running>) -> anyhow::Result<Self> {
        let mut address = |what| {
            await_address(host, HUB, what, READY_TIME, || {
                interrupt::check()?;
                match running.try_wait()? {
                    Some(end) => bail!("it has ended ({end}): {}", running.last_lines(1)?.concat()),
                    None => Ok(()),
                }
            })
        };
        let (metrics, web) = (address("metrics")?.to_string(), address("web")?);
        // Without the page, programs still report to the hub.
        let page = reach_page(host, web)
            .inspect_err(|error| {
                console::note(&format!("the Monitoring Hub cannot be shown here: {error:#}"));
            })
            .ok();
        Ok(Self { running, metrics, page })
    }

    pub fn print_url(&self) {
        if let Some(page) = &self.page {
            console::note(&format!("hub        {page}"));
        }
    }

    /// The URL of its page on this machine; `None` if it cannot be reached.
    pub fn page(&self) -> Option<&str> {
        self.page.as_deref()
    }

    /// Detaches it: dropping this no longer ends it.
    pub fn leave(&mut self) {
        self.running.leave();
    }

    /// Serves the page until the user interrupts, or something ends the hub.
    ///
    /// # Errors
    /// The hub failed.
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
            // The first call that finds the host lost starts to restore the connection.
            let _ = host.away();
            std::thread::sleep(STAY_PAUSE);
        }
        Ok(())
    }
}

/// The URL on this machine of a page at an address of the host.
fn reach_page(host: &dyn Host, web: SocketAddr) -> anyhow::Result<String> {
    let here = host.reach(web)?;
    // A tunnel opens even if the host lets nothing through it.
    get(&here.to_string(), "/healthz", FIRST_ANSWER_TIME).with_context(|| {
        format!("it does not answer at {here}; {} may forbid tunnels (AllowTcpForwarding)", host.name())
    })?;
    Ok(format!("http://{here}"))
}

/// Fetches the job's status from a hub twice a second, until the returned channel is dropped.
///
/// # Errors
/// No thread can be started.
pub(crate) fn follow(page: &str) -> anyhow::Result<Receiver<JobStatus>> {
    let (sender, statuses) = channel();
    let address = page.trim_start_matches("http://").to_owned();
    std::thread::Builder::new()
        .name("hub".into())
        .spawn(move || {
            // If the hub does not answer, the next request may succeed.
            while fetch_status(&address).map_or(true, |status| sender.send(status).is_ok()) {
                std::thread::sleep(STATUS_PAUSE);
            }
        })
        .context("starting a thread")?;
    Ok(statuses)
}

/// The body of a hub's answer.
fn get(address: &str, path: &str, patience: Duration) -> anyhow::Result<String> {
    let mut stream = net::connect("the Monitoring Hub", address, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.take(MAX_ANSWER).read_to_string(&mut answer)?;
    let (_, body) = answer.split_once("\r\n\r\n").context("its answer is cut off")?;
    Ok(body.to_owned())
}

fn fetch_status(address: &str) -> anyhow::Result<JobStatus> {
    let body = get(address, "/api/v1/job", STATUS_TIME)?;
    let job: view::Job = serde_json::from_str(&body)?;
    Ok(JobStatus {
        rows: job.rows.written,
        rejects: job.rows.rejected,
        total: job.rows.total.or(job.rows.total_about),
        rate: job.rate_out,
        left: job.estimate.map(|estimate| (estimate.low_seconds, estimate.high_seconds)),
    })
}

/// A program's options for reporting to the hub; none without a hub.
pub(crate) fn report_args(hub: Option<&Hub>, host: &dyn Host) -> Vec<String> {
    let options =
        |hub: &Hub| ["--metrics", &hub.metrics, "--machine", host.name()].map(str::to_owned).to_vec();
    hub.map(options).unwrap_or_default()
}
