//! Signs a job's requests while the job runs.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, ensure};
use process::lifeline::{LIFELINE, QUIET};
use serde::Deserialize;

use super::error_in;
use crate::{console, interrupt};

/// How long the first signatures may take: the user's program for credentials may ask a person.
const TIME: Duration = Duration::from_secs(180);
const PAUSE: Duration = Duration::from_millis(50);
/// The pause before signatures are delivered again that could not be.
const DELIVERY_PAUSE: Duration = Duration::from_secs(15);

/// What the program `s3` says each time that it has signed.
#[derive(Deserialize)]
struct Said {
    /// When the signatures end, in seconds since 1970.
    until: u64,
}

/// A program that signs a job's requests, until this is dropped.
pub struct Signer {
    child: Child,
    file: PathBuf,
    until: Arc<AtomicU64>,
    /// Reads what it says, until it ends.
    said: Option<JoinHandle<()>>,
    /// Shows what it logs.
    logs: Option<JoinHandle<()>>,
}

impl Signer {
    /// Writes signed requests to `file`: to read these inputs, if they are objects, and for the uploads in that file.
    ///
    /// # Errors
    /// There are no credentials, or a bucket cannot be found.
    pub fn start(s3: &Path, file: &Path, uploads: Option<&Path>, inputs: &[PathBuf]) -> anyhow::Result<Self> {
        let mut command = Command::new(s3);
        command.args(["sign", "--renew", "--to"]).arg(file);
        if let Some(uploads) = uploads {
            command.arg("--uploads").arg(uploads);
        }
        command.args(inputs.iter().filter(|path| records::format::is_object(path)));
        command.env(LIFELINE, QUIET).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().with_context(|| format!("starting {}", s3.display()))?;
        let mut signer =
            Self { child, file: file.to_owned(), until: Arc::new(AtomicU64::new(0)), said: None, logs: None };
        let stdout = signer.child.stdout.take().context("the program s3 has no standard output")?;
        let stderr = signer.child.stderr.take().context("the program s3 has no standard error")?;
        let (signed, has_signed) = channel();
        let until = Arc::clone(&signer.until);
        let listen = move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Ok(Said { until: end }) = serde_json::from_str(&line) {
                    until.store(end, Ordering::Relaxed);
                    // The receiver is gone once the first signatures are there.
                    let _ = signed.send(());
                }
            }
        };
        let said = std::thread::Builder::new().name("signer".into()).spawn(listen);
        signer.said = Some(said.context("starting a thread")?);
        let start = Instant::now();
        loop {
            match has_signed.recv_timeout(PAUSE) {
                Ok(()) => break,
                Err(RecvTimeoutError::Timeout) => {
                    interrupt::check()?;
                    ensure!(start.elapsed() < TIME, "signing requests to S3 takes longer than {TIME:?}");
                }
                Err(RecvTimeoutError::Disconnected) => {
                    // It has closed its output, and says no more.
                    let _ = signer.child.kill();
                    let mut log = String::new();
                    BufReader::new(stderr).read_to_string(&mut log).context("reading what s3 says")?;
                    interrupt::check()?;
                    return Err(error_in(&log));
                }
            }
        }
        let show = move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                console::note(&process::log::message(&line));
            }
        };
        let logs = std::thread::Builder::new().name("signer-log".into()).spawn(show);
        signer.logs = Some(logs.context("starting a thread")?);
        Ok(signer)
    }

    /// The file with the signed requests.
    pub fn file(&self) -> &Path {
        &self.file
    }

    fn has_ended(&self) -> bool {
        self.said.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// When the latest signatures end.
    pub fn until(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(self.until.load(Ordering::Relaxed))
    }
}

impl Drop for Signer {
    fn drop(&mut self) {
        // It may have ended, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
        for thread in [self.said.take(), self.logs.take()].into_iter().flatten() {
            let _ = thread.join();
        }
    }
}

/// The signatures of a job that is watched.
pub struct Signatures<'a> {
    signer: &'a Signer,
    /// Brings them to the host that needs them; `None` if that is this machine.
    deliver: Option<&'a dyn Fn(&Path) -> anyhow::Result<()>>,
    /// When the signatures end that were delivered.
    delivered: SystemTime,
    /// Not before this are others delivered.
    next: Instant,
    /// The user knows that the signer has ended.
    is_end_said: bool,
}

impl<'a> Signatures<'a> {
    /// Those that end at `delivered` were delivered.
    pub fn new(
        signer: &'a Signer,
        delivered: SystemTime,
        deliver: Option<&'a dyn Fn(&Path) -> anyhow::Result<()>>,
    ) -> Self {
        Self { signer, deliver, delivered, next: Instant::now(), is_end_said: false }
    }

    /// Delivers new ones, if there are any. Returns when the delivered ones end.
    pub(crate) fn renew(&mut self) -> SystemTime {
        if self.signer.has_ended() && !self.is_end_said {
            self.is_end_said = true;
            console::note(
                "the program that signs requests to S3 has ended, so the job goes on only as long as its signatures; the same \
                 command, or run-cluster --attach, signs again",
            );
        }
        let until = self.signer.until();
        if until == self.delivered || Instant::now() < self.next {
            return self.delivered;
        }
        match self.deliver.map_or(Ok(()), |deliver| deliver(self.signer.file())) {
            Ok(()) => self.delivered = until,
            // The earlier ones do for a while.
            Err(error) => {
                self.next = Instant::now() + DELIVERY_PAUSE;
                console::note(&format!("bringing new signatures to the job: {error:#}; trying again"));
            }
        }
        self.delivered
    }
}
