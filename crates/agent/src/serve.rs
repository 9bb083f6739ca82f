//! Handles a client's requests.

mod watch;

use std::fs::File;
use std::io::{BufRead, Write};
use std::net::{TcpListener, ToSocketAddrs};
use std::path::{Component, Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};
use files::{read_if_there, remove_if_there, replace_file};
use parking_lot::Mutex;
use process::ready::Ready;
use protocol::checkpoint::slots;
use protocol::result_files::ResultFiles;
use protocol::results::{Progress, Summary};
use protocol::token::Token;

use crate::protocol::{Event, Holder, Message, Program, ProgramStatus, Reply, Request, Status};
use crate::records::{self, Record, Records};
use crate::supervise::log_file;
use crate::unpack;
use watch::Watch;

/// The agent exits after this long without a request or a sign of life from its client.
pub const CLIENT_TIMEOUT: Duration = Duration::from_secs(15);
/// How long to keep trying to take the lock: a status request holds it for a moment.
const LOCK_TIME: Duration = Duration::from_secs(1);
const LOCK_PAUSE: Duration = Duration::from_millis(5);
/// How long a supervisor may take to start its program.
const START_TIME: Duration = Duration::from_secs(10);
const START_PAUSE: Duration = Duration::from_millis(1);

/// The file with the [`mark`] of the fetched results. It is removed with them.
const FETCHED: &str = "output/fetched";

/// Identifies the results of a job.
fn mark(summary: &Summary) -> String {
    format!("{} {}", summary.sha256, summary.ended)
}

/// Messages to the client; replies and events come from different threads.
type Output = Arc<Mutex<dyn Write + Send>>;

fn send(output: &Output, message: &Message) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(message).context("encoding a message")?;
    line.push(b'\n');
    let mut output = output.lock();
    output.write_all(&line).and_then(|()| output.flush()).context("sending a message to the client")
}

/// Handles requests until the client closes the connection.
///
/// # Errors
/// The client is silent for [`CLIENT_TIMEOUT`], or cannot be written to.
pub fn serve(
    folder: &Path,
    requests: impl BufRead + Send + 'static,
    output: impl Write + Send + 'static,
) -> anyhow::Result<()> {
    let output: Output = Arc::new(Mutex::new(output));
    let watch = Watch::start(Records::new(folder), folder.to_owned(), Arc::clone(&output))?;
    let mut host = Host {
        folder: folder.to_owned(),
        records: Records::new(folder),
        watch,
        lock: None,
        output: Arc::clone(&output),
    };
    let (reading, lines) = channel();
    std::thread::Builder::new()
        .name("requests".into())
        .spawn(move || {
            // The channel is closed when this program ends.
            for line in requests.lines() {
                if reading.send(line).is_err() {
                    return;
                }
            }
        })
        .context("starting a thread")?;
    loop {
        let line = match lines.recv_timeout(CLIENT_TIMEOUT) {
            Ok(line) => line.context("reading a request")?,
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
            Err(RecvTimeoutError::Timeout) => bail!("the client has been silent for {CLIENT_TIMEOUT:?}"),
        };
        if line.is_empty() {
            // A sign of life.
            continue;
        }
        let request = serde_json::from_str(&line).context("parsing a request");
        let message = match request.and_then(|request| host.handle(request)) {
            Ok(reply) => Message::Done(reply),
            Err(error) => Message::Failed(format!("{error:#}")),
        };
        send(&output, &message)?;
    }
}

struct Host {
    folder: PathBuf,
    records: Records,
    watch: Watch,
    lock: Option<File>,
    output: Output,
}

impl Host {
    fn handle(&mut self, request: Request) -> anyhow::Result<Reply> {
        let outcome = match request {
            Request::Lock(holder) => return self.lock(&holder),
            Request::Tail { name, lines } => return self.tail(&name, lines).map(Reply::Lines),
            Request::Status => return self.status().map(|status| Reply::Status(Box::new(status))),
            Request::Clean => self.clean(),
            Request::WriteSecret { path, text } => self.write_secret(&path, &text),
            Request::Unpack { archive, sha256, link } => {
                unpack::unpack(&self.folder, &archive, &sha256, &link)
            }
            Request::Start(program) => self.start(program),
            Request::Watch { name } => self.watch(name),
            Request::Stop { name, spared, grace_ms } => {
                let is_selected = |known: &str| {
                    name.as_deref().is_none_or(|name| known == name) && spared.as_deref() != Some(known)
                };
                self.stop(is_selected, Duration::from_millis(grace_ms))
            }
            Request::Fetched { sha256 } => self.save_fetched(&sha256),
            Request::Owns { address } => check_own_address(&address),
            Request::Observe { address } => self.observe(address),
            Request::Remove => self.remove(),
        };
        outcome.map(|()| Reply::Empty)
    }

    fn lock_file(&self) -> PathBuf {
        self.folder.join("lock")
    }

    fn lock(&mut self, holder: &Holder) -> anyhow::Result<Reply> {
        let path = self.lock_file();
        let context = || format!("locking {}", path.display());
        // Not truncated: until we have the lock, the file names the client that has it.
        let file =
            File::options().write(true).create(true).truncate(false).open(&path).with_context(context)?;
        let deadline = Instant::now() + LOCK_TIME;
        while file.try_lock().is_err() {
            if Instant::now() >= deadline {
                let unknown = || Holder { who: "an unknown client".into(), since: "?".into() };
                // The other client may still be writing its name.
                return Ok(Reply::Held(records::load(&path).ok().flatten().unwrap_or_else(unknown)));
            }
            std::thread::sleep(LOCK_PAUSE);
        }
        file.set_len(0).with_context(context)?;
        let text = serde_json::to_vec(holder).context("encoding a holder")?;
        (&file).write_all(&text).with_context(context)?;
        self.lock = Some(file);
        Ok(Reply::Empty)
    }

    fn ensure_nothing_runs(&self) -> anyhow::Result<()> {
        let records = self.records.all()?;
        let running = records.iter().filter(|record| self.records.is_running(record));
        let names: Vec<_> = running.map(|record| record.program.name.as_str()).collect();
        ensure!(
            names.is_empty(),
            "these programs still run: {}; end them with: cargo xtask stop",
            names.join(", ")
        );
        Ok(())
    }

    fn clean(&self) -> anyhow::Result<()> {
        self.ensure_nothing_runs()?;
        for name in ["run", "log", "output"] {
            let path = self.folder.join(name);
            if path.exists() {
                std::fs::remove_dir_all(&path).with_context(|| format!("removing {}", path.display()))?;
            }
            std::fs::create_dir(&path).with_context(|| format!("creating the folder {}", path.display()))?;
        }
        Ok(())
    }

    fn write_secret(&self, path: &str, text: &str) -> anyhow::Result<()> {
        files::write_secret_file(&self.inside(path)?, text)
    }

    /// A path in the host's folder.
    ///
    /// # Errors
    /// The path leads out of the folder.
    fn inside(&self, path: &str) -> anyhow::Result<PathBuf> {
        let normal = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
        ensure!(normal && !path.is_empty(), "{path:?} is not inside the host's folder");
        Ok(self.folder.join(path))
    }

    fn start(&self, program: Program) -> anyhow::Result<()> {
        let name = program.name.clone();
        let is_usual = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        ensure!(!name.is_empty() && name.chars().all(is_usual), "{name:?} is not a valid name for a program");
        if let Some(record) = self.records.load(&name)? {
            ensure!(
                !self.records.is_running(&record),
                "{name} already runs, as process {}; end it with: cargo xtask stop",
                record.process.pid
            );
        }
        self.watch.forget(&name);
        self.records.forget(&name)?;
        remove_if_there(&self.inside(&program.ready_file)?)?;
        std::fs::create_dir_all(self.folder.join("log")).context("creating the folder for logs")?;
        self.records.save_launch(&program)?;
        self.records.reserve_end(&name)?;
        let me = std::env::current_exe().context("finding this program's file")?;
        let mut supervisor = Command::new(me)
            .args(["supervise", &name])
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("starting a supervisor of {name}"))?;
        self.await_start(&name, &mut supervisor).with_context(|| format!("starting {name}"))?;
        // Reaps the supervisor if it ends before this program.
        std::thread::spawn(move || supervisor.wait());
        self.report(name, program.ready_file);
        Ok(())
    }

    /// Waits until the supervisor records that it started the program.
    fn await_start(&self, name: &str, supervisor: &mut Child) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_TIME;
        while self.records.load(name)?.is_none() {
            if let Some(end) = self.records.load_end(name)? {
                bail!("{end}");
            }
            if let Some(status) = supervisor.try_wait().context("waiting for a supervisor")? {
                // The supervisor may have recorded the reason just before it ended.
                match self.records.load_end(name)? {
                    Some(end) => bail!("{end}"),
                    None => bail!("its supervisor ended with {status}"),
                }
            }
            ensure!(Instant::now() < deadline, "its supervisor did not start it within {START_TIME:?}");
            std::thread::sleep(START_PAUSE);
        }
        Ok(())
    }

    fn watch(&self, name: String) -> anyhow::Result<()> {
        let record = self.records.load(&name)?.with_context(|| format!("this host has no program {name}"))?;
        self.report(name, record.program.ready_file);
        Ok(())
    }

    /// Reports events of a program from now on.
    fn report(&self, name: String, ready_file: String) {
        let ready = self.folder.join(&ready_file);
        let folders = [self.records.folder(), ready.parent().unwrap_or(&self.folder)];
        self.watch.watch(name, ready_file, &folders);
    }

    fn stop(&self, is_selected: impl Fn(&str) -> bool, grace: Duration) -> anyhow::Result<()> {
        let records = self.records.all()?;
        let selected = records.iter().filter(|record| is_selected(&record.program.name));
        let outcomes: Vec<anyhow::Result<()>> = std::thread::scope(|scope| {
            let stops: Vec<_> =
                selected.map(|record| scope.spawn(|| self.records.stop(record, grace))).collect();
            let joined =
                stops.into_iter().map(|stop| stop.join().unwrap_or_else(|p| std::panic::resume_unwind(p)));
            joined.collect()
        });
        outcomes.into_iter().collect()
    }

    fn tail(&self, name: &str, lines: usize) -> anyhow::Result<Vec<String>> {
        let path = log_file(&self.folder, name);
        files::last_lines(&path, lines).with_context(|| format!("reading {}", path.display()))
    }

    /// Passes on the receiver's progress until the client is gone.
    fn observe(&self, address: String) -> anyhow::Result<()> {
        let token = Token::load(&self.folder.join("run/token"))?;
        let output = Arc::clone(&self.output);
        let observe = move || {
            let on_progress = |progress| send(&output, &Message::Event(Event::Progress(progress))).is_ok();
            net::observer::keep_observing(&address, Some(&token), on_progress);
        };
        std::thread::Builder::new().name("observer".into()).spawn(observe).context("starting a thread")?;
        Ok(())
    }

    fn remove(&self) -> anyhow::Result<()> {
        self.ensure_nothing_runs()?;
        std::fs::remove_dir_all(&self.folder).with_context(|| format!("removing {}", self.folder.display()))
    }

    fn status(&self) -> anyhow::Result<Status> {
        let disk = nix::sys::statvfs::statvfs(&self.folder).context("reading the free space")?;
        let uptime = std::fs::read_to_string("/proc/uptime").context("reading /proc/uptime")?;
        let uptime = uptime.split('.').next().and_then(|seconds| seconds.parse().ok()).unwrap_or(0);
        let programs = self.records.all()?.iter().map(|record| self.program_status(record)).collect();
        let results = self.results()?;
        let summary = records::load(&results.summary)?;
        Ok(Status {
            uptime,
            disk_free: disk.blocks_available() as u64 * disk.fragment_size() as u64,
            disk_size: disk.blocks() as u64 * disk.fragment_size() as u64,
            app: unpack::installed(&self.folder, "app"),
            packages: unpack::installed(&self.folder, "packages"),
            holder: self.holder()?,
            programs,
            progress: self.progress(),
            unfetched: self.unfetched(&results, summary.as_ref())?,
            summary,
        })
    }

    fn results(&self) -> anyhow::Result<ResultFiles> {
        ResultFiles::beside(&self.folder.join("output/results.log"))
    }

    /// The number of rows whose results would be lost with the host's folder; `None` for 0.
    fn unfetched(&self, results: &ResultFiles, summary: Option<&Summary>) -> anyhow::Result<Option<u64>> {
        let rows = match summary {
            Some(summary) => {
                let fetched = read_if_there(&self.folder.join(FETCHED))?;
                if fetched.as_deref() == Some(mark(summary).as_bytes()) { 0 } else { summary.rows }
            }
            // The checkpoint counts the rows that are durable and can be fetched.
            None => {
                let checkpoint = read_if_there(&results.checkpoint)?.unwrap_or_default();
                slots(&checkpoint).first().map_or(0, |slot| slot.position.next_row)
            }
        };
        Ok((rows > 0).then_some(rows))
    }

    fn save_fetched(&self, sha256: &str) -> anyhow::Result<()> {
        let summary: Option<Summary> = records::load(&self.results()?.summary)?;
        let summary = summary.filter(|summary| summary.sha256 == sha256);
        let summary = summary.context("the fetched results are not those on this host; fetch them again")?;
        replace_file(&self.folder.join(FETCHED), mark(&summary).as_bytes())
    }

    fn program_status(&self, record: &Record) -> ProgramStatus {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        let name = record.program.name.clone();
        let running = self.records.is_running(record).then(|| now.saturating_sub(record.since));
        // If the end cannot be read, the event of the program's end reports that.
        let end = self.records.load_end(&name).ok().flatten();
        ProgramStatus { name, pid: record.process.pid, running, deaths: record.deaths.clone(), end }
    }

    fn holder(&self) -> anyhow::Result<Option<Holder>> {
        let path = self.lock_file();
        let Ok(file) = File::open(&path) else { return Ok(None) };
        if file.try_lock_shared().is_ok() { Ok(None) } else { Ok(records::load(&path).ok().flatten()) }
    }

    /// The progress of this host's receiver; `None` if none runs here.
    fn progress(&self) -> Option<Progress> {
        let record = self.records.load("receiver").ok().flatten()?;
        if !record.process.is_alive() {
            return None;
        }
        let ready = Ready::read(&self.folder.join(&record.program.ready_file)).ok().flatten()?;
        let address = ready.addresses.get("results")?.to_string();
        let token = Token::load(&self.folder.join("run/token")).ok()?;
        let mut first = None;
        let on_progress = |progress| {
            first = Some(progress);
            false
        };
        net::observer::observe(&address, Some(&token), on_progress).ok()?;
        first
    }
}

/// # Errors
/// The address, or host name, does not belong to this host.
fn check_own_address(address: &str) -> anyhow::Result<()> {
    let found = (address, 0).to_socket_addrs().with_context(|| format!("resolving {address}"))?;
    let found: Vec<_> = found.collect();
    ensure!(
        found.iter().any(|address| TcpListener::bind(address).is_ok()),
        "{address} is not an address of this host, so the other hosts cannot reach it there"
    );
    Ok(())
}
