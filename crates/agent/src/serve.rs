//! Answering whoever commands the host.

mod watch;

use std::fs::File;
use std::io::{BufRead, Write};
use std::net::{TcpListener, ToSocketAddrs};
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};
use files::{read_if_there, remove_if_there, replace_file};
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

/// A commander sends something this often at least; after a longer silence it is taken to be gone.
pub const SILENCE: Duration = Duration::from_secs(15);
/// How long a lock is tried.
const LOOK_TIME: Duration = Duration::from_secs(1);
/// How long a supervisor may take to start its program.
const START_TIME: Duration = Duration::from_secs(10);

/// Says which results were fetched. It goes with them.
const FETCHED: &str = "output/fetched";

/// What tells the results of a job from those of another one.
fn mark(summary: &Summary) -> String {
    format!("{} {}", summary.sha256, summary.ended)
}

/// Where messages go; replies and events come from different threads.
type Output = Arc<Mutex<dyn Write + Send>>;

fn say(output: &Output, message: &Message) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(message).context("encoding a message")?;
    line.push(b'\n');
    let mut output = output.lock().unwrap_or_else(PoisonError::into_inner);
    output.write_all(&line).and_then(|()| output.flush()).context("answering the commander")
}

/// Serves requests until they end, or until the commander is silent for too long.
///
/// # Errors
/// A commander that cannot be answered, or that is not understood.
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
            // When nobody takes the lines, this program is ending.
            for line in requests.lines() {
                if reading.send(line).is_err() {
                    return;
                }
            }
        })
        .context("starting a thread")?;
    loop {
        let line = match lines.recv_timeout(SILENCE) {
            Ok(line) => line.context("reading a request")?,
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
            Err(RecvTimeoutError::Timeout) => bail!("the commander has been silent for {SILENCE:?}"),
        };
        if line.is_empty() {
            // A sign of life.
            continue;
        }
        let outcome = serde_json::from_str(&line).context("understanding a request");
        let message = match outcome.and_then(|request| host.answer(request)) {
            Ok(reply) => Message::Done(reply),
            Err(error) => Message::Failed(format!("{error:#}")),
        };
        say(&output, &message)?;
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
    fn answer(&mut self, request: Request) -> anyhow::Result<Reply> {
        match request {
            Request::Lock(holder) => self.lock(&holder),
            Request::Clean => self.clean().map(|()| Reply::Nothing),
            Request::WriteSecret { path, text } => self.write_secret(&path, &text).map(|()| Reply::Nothing),
            Request::Unpack { archive, sha256, link } => {
                unpack::unpack(&self.folder, &archive, &sha256, &link).map(|()| Reply::Nothing)
            }
            Request::Start(program) => self.start(program).map(|()| Reply::Nothing),
            Request::Watch { name } => self.watch_again(name).map(|()| Reply::Nothing),
            Request::Stop { name, spared, grace_ms } => {
                let is_meant = |known: &str| {
                    name.as_deref().is_none_or(|name| known == name) && spared.as_deref() != Some(known)
                };
                self.stop(is_meant, Duration::from_millis(grace_ms)).map(|()| Reply::Nothing)
            }
            Request::Tail { name, lines } => self.tail(&name, lines).map(Reply::Lines),
            Request::Status => self.status().map(|status| Reply::Status(Box::new(status))),
            Request::Fetched { sha256 } => self.note_fetched(&sha256).map(|()| Reply::Nothing),
            Request::Owns { address } => owns(&address).map(|()| Reply::Nothing),
            Request::Observe { address } => self.observe(address).map(|()| Reply::Nothing),
            Request::Remove => self.remove().map(|()| Reply::Nothing),
        }
    }

    fn lock_file(&self) -> PathBuf {
        self.folder.join("lock")
    }

    fn lock(&mut self, holder: &Holder) -> anyhow::Result<Reply> {
        let path = self.lock_file();
        let context = || format!("locking {}", path.display());
        // Not truncated: until it is locked, it says who has it.
        let file =
            File::options().write(true).create(true).truncate(false).open(&path).with_context(context)?;
        // Whoever looks who the holder is has the lock for a moment, too.
        let deadline = Instant::now() + LOOK_TIME;
        while file.try_lock().is_err() {
            if Instant::now() >= deadline {
                let unknown =
                    || Holder { who: "somebody who does not say who it is".into(), since: "?".into() };
                // It may be being written just now.
                return Ok(Reply::Held(records::load(&path).ok().flatten().unwrap_or_else(unknown)));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        file.set_len(0).with_context(context)?;
        let text = serde_json::to_vec(holder).context("encoding a holder")?;
        (&file).write_all(&text).with_context(context)?;
        self.lock = Some(file);
        Ok(Reply::Nothing)
    }

    fn ensure_nothing_runs(&self) -> anyhow::Result<()> {
        let records = self.records.all()?;
        let running = records.iter().filter(|record| self.records.is_running(record));
        let names: Vec<_> = running.map(|record| record.program.name.as_str()).collect();
        ensure!(names.is_empty(), "these programs still run: {}", names.join(", "));
        Ok(())
    }

    fn clean(&self) -> anyhow::Result<()> {
        self.ensure_nothing_runs()?;
        for name in ["run", "log", "output"] {
            let path = self.folder.join(name);
            if path.exists() {
                std::fs::remove_dir_all(&path).with_context(|| format!("removing {}", path.display()))?;
            }
            std::fs::create_dir(&path).with_context(|| format!("making the folder {}", path.display()))?;
        }
        Ok(())
    }

    fn write_secret(&self, path: &str, text: &str) -> anyhow::Result<()> {
        files::write_secret_file(&self.inside(path)?, text)
    }

    /// A path that lies in the host's folder.
    fn inside(&self, path: &str) -> anyhow::Result<PathBuf> {
        let normal = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
        ensure!(normal && !path.is_empty(), "{path:?} does not lie in the host's folder");
        Ok(self.folder.join(path))
    }

    fn start(&self, program: Program) -> anyhow::Result<()> {
        let name = program.name.clone();
        let usual = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        ensure!(!name.is_empty() && name.chars().all(usual), "{name:?} is no name for a program");
        if let Some(record) = self.records.load(&name)? {
            ensure!(
                !self.records.is_running(&record),
                "{name} runs already, as process {}",
                record.process.pid
            );
        }
        self.watch.forget(&name);
        self.records.forget(&name)?;
        remove_if_there(&self.inside(&program.ready_file)?)?;
        std::fs::create_dir_all(self.folder.join("log")).context("making the folder for logs")?;
        self.records.save_launch(&program)?;
        self.records.reserve_end(&name)?;
        let me = std::env::current_exe().context("looking for this program's file")?;
        let mut supervisor = Command::new(me)
            .args(["supervise", &name])
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("starting a supervisor of {name}"))?;
        let deadline = Instant::now() + START_TIME;
        loop {
            if self.records.load(&name)?.is_some() {
                break;
            }
            if let Some(end) = self.records.load_end(&name)? {
                bail!("starting {name}: {end}");
            }
            if let Some(status) = supervisor.try_wait().context("waiting for a supervisor")? {
                // It may have noted why just before it ended.
                let end = self.records.load_end(&name)?;
                bail!(
                    "starting {name}: {}",
                    end.map_or_else(|| format!("its supervisor ended with {status}"), |end| end.to_string())
                );
            }
            ensure!(
                Instant::now() < deadline,
                "starting {name}: its supervisor did not within {START_TIME:?}"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
        // So that it does not stay as a zombie when it ends before this program.
        std::thread::spawn(move || supervisor.wait());
        self.tell_of(name, program.ready_file);
        Ok(())
    }

    fn watch_again(&self, name: String) -> anyhow::Result<()> {
        let record = self.records.load(&name)?.with_context(|| format!("there is no program {name} here"))?;
        self.tell_of(name, record.program.ready_file);
        Ok(())
    }

    fn tell_of(&self, name: String, ready_file: String) {
        let ready = self.folder.join(&ready_file);
        let folders = [self.records.folder(), ready.parent().unwrap_or(&self.folder)];
        self.watch.watch(name, ready_file, &folders);
    }

    fn stop(&self, is_meant: impl Fn(&str) -> bool, grace: Duration) -> anyhow::Result<()> {
        let records = self.records.all()?;
        let wanted = records.iter().filter(|record| is_meant(&record.program.name));
        let outcomes: Vec<anyhow::Result<()>> = std::thread::scope(|scope| {
            let stops: Vec<_> =
                wanted.map(|record| scope.spawn(|| self.records.stop(record, grace))).collect();
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

    /// Passes on what the receiver tells, for as long as somebody hears it.
    fn observe(&self, address: String) -> anyhow::Result<()> {
        let token = Token::load(&self.folder.join("run/token"))?;
        let output = Arc::clone(&self.output);
        let observe = move || {
            let hear = |progress| say(&output, &Message::Event(Event::Progress(progress))).is_ok();
            net::observer::keep_observing(&address, Some(&token), hear);
        };
        std::thread::Builder::new().name("observer".into()).spawn(observe).context("starting a thread")?;
        Ok(())
    }

    fn remove(&self) -> anyhow::Result<()> {
        self.ensure_nothing_runs()?;
        std::fs::remove_dir_all(&self.folder).with_context(|| format!("removing {}", self.folder.display()))
    }

    fn status(&self) -> anyhow::Result<Status> {
        let disk = nix::sys::statvfs::statvfs(&self.folder).context("asking for free space")?;
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

    /// Rows whose results would be lost with this folder.
    fn unfetched(&self, results: &ResultFiles, summary: Option<&Summary>) -> anyhow::Result<Option<u64>> {
        let rows = match summary {
            Some(summary) => {
                let fetched = read_if_there(&self.folder.join(FETCHED))?;
                if fetched.as_deref() == Some(mark(summary).as_bytes()) { 0 } else { summary.rows }
            }
            // What the checkpoint counts is durable, and can be fetched.
            None => {
                let checkpoint = read_if_there(&results.checkpoint)?.unwrap_or_default();
                slots(&checkpoint).first().map_or(0, |slot| slot.position.next_row)
            }
        };
        Ok((rows > 0).then_some(rows))
    }

    fn note_fetched(&self, sha256: &str) -> anyhow::Result<()> {
        let summary: Option<Summary> = records::load(&self.results()?.summary)?;
        let summary = summary.filter(|summary| summary.sha256 == sha256);
        let summary = summary.context("the results that were fetched are not those that are here")?;
        replace_file(&self.folder.join(FETCHED), mark(&summary).as_bytes())
    }

    fn program_status(&self, record: &Record) -> ProgramStatus {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        let name = record.program.name.clone();
        let running = self.records.is_running(record).then(|| now.saturating_sub(record.since));
        // What is not readable here is told when the program's end is asked for.
        let end = self.records.load_end(&name).ok().flatten();
        ProgramStatus { name, pid: record.process.pid, running, deaths: record.deaths.clone(), end }
    }

    fn holder(&self) -> anyhow::Result<Option<Holder>> {
        let path = self.lock_file();
        let Ok(file) = File::open(&path) else { return Ok(None) };
        if file.try_lock_shared().is_ok() { Ok(None) } else { Ok(records::load(&path).ok().flatten()) }
    }

    /// How the job goes, if a receiver runs here and says so.
    fn progress(&self) -> Option<Progress> {
        let record = self.records.load("receiver").ok().flatten()?;
        if !record.process.is_alive() {
            return None;
        }
        let ready = Ready::read(&self.folder.join(&record.program.ready_file)).ok().flatten()?;
        let address = ready.addresses.get("results")?.to_string();
        let token = Token::load(&self.folder.join("run/token")).ok()?;
        let mut first = None;
        let hear = |progress| {
            first = Some(progress);
            false
        };
        net::observer::observe(&address, Some(&token), hear).ok()?;
        first
    }
}

/// Whether an address is this host's own.
fn owns(address: &str) -> anyhow::Result<()> {
    let found = (address, 0).to_socket_addrs().with_context(|| format!("looking up {address}"))?;
    let found: Vec<_> = found.collect();
    ensure!(
        found.iter().any(|address| TcpListener::bind(address).is_ok()),
        "{address} is no address of this host, so that others would not reach it there"
    );
    Ok(())
}
