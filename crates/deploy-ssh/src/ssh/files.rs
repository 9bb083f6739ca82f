//! Copies files over SFTP, several pieces at a time.

use std::collections::VecDeque;
use std::io::{Read, SeekFrom};
use std::path::Path;
use std::time::Duration;

use agent::protocol::FOLDER;
use anyhow::{Context, anyhow, bail, ensure};
use bytes::BytesMut;
use deploy::interrupt;
use openssh_sftp_client::Sftp;
use openssh_sftp_client::file::File;
use openssh_sftp_client::metadata::Permissions;
use tokio::io::AsyncSeekExt;

use super::Ssh;
use super::sftp::open_sftp;
use super::shell::in_folder;
use crate::runtime::runtime;

/// Time limit for each step: a piece, opening and closing a file, opening a channel.
const STEP_TIME: Duration = Duration::from_secs(30);
/// Bytes that are read or written at once.
const PIECE: usize = 256 << 10;
/// Pieces in flight. With one at a time, a long round trip would limit the throughput.
const IN_FLIGHT: usize = 16;

impl Ssh {
    /// Copies a local file to the host's folder. It gets its name when it is complete. `on_bytes` gets the number of bytes of
    /// each piece that has arrived.
    ///
    /// # Errors
    /// The file cannot be read here or written there; a full disk is named as the cause.
    pub(crate) fn upload(
        &self,
        local: &Path,
        to: &Path,
        executable: bool,
        mut on_bytes: impl FnMut(u64),
    ) -> anyhow::Result<()> {
        let what = format!("writing {} on {}", to.display(), self.entry().name);
        // A unique name: an earlier upload that was interrupted may still write to its file.
        let random = getrandom::u32().map_err(|error| anyhow!("generating a random name: {error}"))?;
        let target = self.absolute(to)?;
        let new = format!("{target}.{random:08x}.part");
        let remove = format!("cd {FOLDER} && rm -f {}.*.part", to.display());
        self.run(&remove, STEP_TIME).with_context(|| what.clone())?;
        let uploaded = runtime()?.block_on(async {
            let sftp = self.sftp().await?;
            let mut file = in_time(sftp.options().write(true).create(true).truncate(true).open(&new)).await?;
            if executable {
                in_time(file.set_permissions(Permissions::from(0o755))).await?;
            }
            // Blocking reads are fine: this thread has nothing else to do.
            let context = || format!("reading {}", local.display());
            let mut input = std::fs::File::open(local).with_context(context)?;
            let mut at = 0;
            let mut in_flight = VecDeque::new();
            loop {
                interrupt::check()?;
                let mut piece = vec![0; PIECE];
                let read = input.read(&mut piece).with_context(context)?;
                if read > 0 {
                    piece.truncate(read);
                    in_flight.push_back(tokio::spawn(write(file.clone(), at, piece)));
                    at += read as u64;
                }
                if in_flight.len() >= IN_FLIGHT || read == 0 {
                    let Some(piece) = in_flight.pop_front() else { break };
                    on_bytes(piece.await.context("waiting for a piece")??);
                }
            }
            // Awaited, since a program cannot be started while its file is open for writing.
            in_time(file.close()).await?;
            in_time(sftp.fs().rename(&new, &target)).await
        });
        let Err(error) = uploaded else { return Ok(()) };
        let error = self.explain_full_disk(error, local);
        // The incomplete file may be what fills the disk. On a lost host, the next upload removes it.
        let _ = self.run(&remove, STEP_TIME);
        Err(error).context(what)
    }

    /// Names a full disk as the cause, for which SFTP has no error. Called while the incomplete file still fills the disk.
    fn explain_full_disk(&self, error: anyhow::Error, local: &Path) -> anyhow::Error {
        let wanted = std::fs::metadata(local).map_or(0, |metadata| metadata.len());
        // If the connection failed, there is nothing to add.
        let Ok(output) =
            self.run(&format!("df -Pk {FOLDER} | tail -n 1; df -Pi {FOLDER} | tail -n 1"), STEP_TIME)
        else {
            return error;
        };
        let fourth = |line: Option<&str>| line?.split_whitespace().nth(3)?.parse::<u64>().ok();
        let mut lines = output.lines();
        let (kib, files) = (fourth(lines.next()), fourth(lines.next()));
        match (kib.map(|kib| kib << 10), files) {
            (Some(free), _) if free < wanted => error
                .context(format!("its disk is full: {free} bytes are free, and {wanted} are to be written")),
            (_, Some(0)) => error.context("its disk is full: it has room for no further file (df -i)"),
            _ => error,
        }
    }

    /// Reads the bytes from `begin` to `length` of a file in the host's folder, and passes them to `on_piece` in their order.
    ///
    /// # Errors
    /// The file cannot be read; or `on_piece` fails, which ends the reading, and whose error is returned unchanged.
    pub(crate) fn read_pieces(
        &self,
        from: &Path,
        begin: u64,
        length: u64,
        mut on_piece: impl FnMut(&[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let what = || format!("reading {} of {}", from.display(), self.entry().name);
        let path = self.absolute(from)?;
        let mut handled = Ok(());
        let read_all = runtime()?.block_on(async {
            let sftp = self.sftp().await?;
            let file = in_time(sftp.open(path)).await?;
            let mut requested = begin;
            let mut in_flight = VecDeque::new();
            loop {
                while in_flight.len() < IN_FLIGHT && requested < length {
                    let size = (length - requested).min(PIECE as u64) as usize;
                    in_flight.push_back(tokio::spawn(read(file.clone(), requested, size)));
                    requested += size as u64;
                }
                let Some(piece) = in_flight.pop_front() else { break };
                let piece = piece.await.context("waiting for a piece")??;
                handled = on_piece(&piece);
                if handled.is_err() {
                    break;
                }
            }
            in_time(file.close()).await
        });
        handled?;
        read_all.with_context(what)
    }

    /// The length in bytes of a file in the host's folder; `None` if it does not exist.
    ///
    /// # Errors
    /// The host does not answer, or the answer is not a number.
    pub(crate) fn length(&self, of: &Path) -> anyhow::Result<Option<u64>> {
        let script = format!("cd {FOLDER} && if [ -e {0} ]; then wc -c < {0}; fi", of.display());
        let output = self.run(&script, STEP_TIME)?;
        let output = output.trim();
        if output.is_empty() {
            return Ok(None);
        }
        let context =
            || format!("reading the length of {} on {}: {output:?}", of.display(), self.entry().name);
        output.parse().map(Some).with_context(context)
    }

    /// Reads a small file in the host's folder; `None` if it does not exist.
    ///
    /// # Errors
    /// The host does not answer.
    pub(crate) fn read(&self, path: &Path) -> anyhow::Result<Option<Vec<u8>>> {
        let Some(length) = self.length(path)? else { return Ok(None) };
        let mut content = Vec::new();
        self.read_pieces(path, 0, length, |piece| {
            content.extend_from_slice(piece);
            Ok(())
        })?;
        Ok(Some(content))
    }

    /// The channel ends when this is dropped. (Its own method to close panics while a clone of a file is being dropped.)
    async fn sftp(&self) -> anyhow::Result<Sftp> {
        let login = self.0.login();
        in_time(open_sftp(&login.session)).await.context("opening an SFTP channel")
    }

    /// The absolute path of a file in the host's folder, since an SFTP server may start in any folder.
    fn absolute(&self, path: &Path) -> anyhow::Result<String> {
        in_folder(&self.0.login().home, &path.display().to_string())
    }
}

async fn read(mut file: File, begin: u64, size: usize) -> anyhow::Result<BytesMut> {
    file.seek(SeekFrom::Start(begin)).await?;
    let piece = in_time(file.read_all(size, BytesMut::with_capacity(size))).await?;
    ensure!(piece.len() == size, "the file became shorter while it was read");
    Ok(piece)
}

async fn write(mut file: File, begin: u64, piece: Vec<u8>) -> anyhow::Result<u64> {
    file.seek(SeekFrom::Start(begin)).await?;
    in_time(file.write_all(&piece)).await?;
    Ok(piece.len() as u64)
}

/// Limits the time of a step. The connection's keepalives notice a lost host sooner.
async fn in_time<T, E>(step: impl Future<Output = Result<T, E>>) -> anyhow::Result<T>
where
    E: Into<anyhow::Error>,
{
    match tokio::time::timeout(STEP_TIME, step).await {
        Ok(outcome) => outcome.map_err(Into::into),
        Err(_) => bail!("no reply within {STEP_TIME:?}"),
    }
}
