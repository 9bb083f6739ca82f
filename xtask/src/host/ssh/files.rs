//! Files over SFTP, in one go and with what has arrived told on the way.

use std::collections::VecDeque;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use bytes::BytesMut;
use openssh_sftp_client::file::File;
use openssh_sftp_client::metadata::Permissions;
use openssh_sftp_client::{Sftp, SftpOptions};
use tokio::io::AsyncSeekExt;

use supervisor::protocol::FOLDER;

use super::{Ssh, remote};
use crate::interrupt;
use crate::runtime::runtime;

/// How long a host may take for a piece, and for opening and closing a file.
const PIECE_TIME: Duration = Duration::from_secs(20);
/// Bytes that are read or written at once.
const PIECE: usize = 256 << 10;
/// Pieces that are on their way at once: over a long way, waiting for each would take all the time.
const AHEAD: usize = 16;

impl Ssh {
    /// Writes a file on the host, in its folder: at first under another name, so that it is whole or not there.
    ///
    /// # Errors
    /// Names the host and the file.
    pub(crate) fn upload(
        &self,
        local: &Path,
        to: &Path,
        executable: bool,
        mut arrived: impl FnMut(u64),
    ) -> anyhow::Result<()> {
        let what = format!("writing {} on {}", to.display(), self.entry().name);
        // A name of its own: an earlier upload that was broken off may still have its file open over there, and may even
        // still write to it.
        let random = getrandom::u32().map_err(|e| anyhow!("making up a name: {e}"))?;
        let new = format!("{}.{random:08x}.part", remote(to));
        self.run(&format!("rm -f {}.*.part", remote(to)), PIECE_TIME)?;
        let uploaded = runtime()?.block_on(async {
            let sftp = self.sftp().await?;
            let mut file = in_time(sftp.options().write(true).create(true).truncate(true).open(&new)).await?;
            if executable {
                in_time(file.set_permissions(Permissions::from(0o755))).await?;
            }
            // Blocking, on a thread that has nothing else to do.
            let context = || format!("reading {}", local.display());
            let mut input = std::fs::File::open(local).with_context(context)?;
            let mut at = 0;
            let mut going = VecDeque::new();
            loop {
                interrupt::check()?;
                let mut piece = vec![0; PIECE];
                let read = input.read(&mut piece).with_context(context)?;
                if read > 0 {
                    piece.truncate(read);
                    going.push_back(tokio::spawn(write(file.clone(), at, piece)));
                    at += read as u64;
                }
                if going.len() >= AHEAD || read == 0 {
                    let Some(piece) = going.pop_front() else { break };
                    arrived(piece.await.context("waiting for a piece")??);
                }
            }
            // Awaited, since a program whose file is open for writing over there cannot be started.
            in_time(file.close()).await?;
            in_time(sftp.fs().rename(&new, remote(to))).await
        });
        uploaded.map_err(|error| self.explain_full_disk(error, local)).context(what)
    }

    /// SFTP has no words for a full disk.
    fn explain_full_disk(&self, error: anyhow::Error, local: &Path) -> anyhow::Error {
        let wanted = std::fs::metadata(local).map_or(0, |metadata| metadata.len());
        // The connection may be what has failed; then there is nothing to add.
        let Ok(said) = self.run(&format!("df -Pk {FOLDER} | tail -n 1"), PIECE_TIME) else { return error };
        let free = said.split_whitespace().nth(3).and_then(|free| free.parse::<u64>().ok());
        match free.map(|free| free << 10) {
            Some(free) if free < wanted => error
                .context(format!("its disk is full: {free} bytes are free, and {wanted} are to be written")),
            _ => error,
        }
    }

    /// Reads a file of the host's folder from this byte on, to the end of a local one.
    ///
    /// # Errors
    /// Names the host and the file; or that of `arrived`, after which nothing more is read.
    pub(crate) fn download(
        &self,
        from: &Path,
        local: &mut std::fs::File,
        begin: u64,
        length: u64,
        mut arrived: impl FnMut(u64) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        local.seek(SeekFrom::Start(begin)).context("seeking in a file")?;
        self.read_pieces(from, begin, length, |piece| {
            local.write_all(piece).context("writing what came")?;
            arrived(piece.len() as u64)
        })
    }

    /// Reads a file of the host's folder from this byte on, and hands its pieces on, in their order.
    ///
    /// # Errors
    /// Names the host and the file; or that of `take`, after which nothing more is read.
    pub(crate) fn read_pieces(
        &self,
        from: &Path,
        begin: u64,
        length: u64,
        mut take: impl FnMut(&[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let what = format!("reading {} of {}", from.display(), self.entry().name);
        let read_all = runtime()?.block_on(async {
            let sftp = self.sftp().await?;
            let file = in_time(sftp.open(remote(from))).await?;
            let mut asked = begin;
            let mut coming = VecDeque::new();
            loop {
                while coming.len() < AHEAD && asked < length {
                    let size = (length - asked).min(PIECE as u64) as usize;
                    coming.push_back(tokio::spawn(read(file.clone(), asked, size)));
                    asked += size as u64;
                }
                let Some(piece) = coming.pop_front() else { break };
                let piece = piece.await.context("waiting for a piece")??;
                take(&piece)?;
            }
            in_time(file.close()).await
        });
        read_all.context(what)
    }

    /// The length of a file of the host's folder; `None` if it is not there.
    ///
    /// # Errors
    /// When the host does not say.
    pub(crate) fn length(&self, of: &Path) -> anyhow::Result<Option<u64>> {
        let script = format!("if [ -e {0} ]; then wc -c < {0}; fi", remote(of));
        let said = self.run(&script, PIECE_TIME)?;
        if said.trim().is_empty() {
            return Ok(None);
        }
        let length = said.trim().parse();
        length
            .map(Some)
            .with_context(|| format!("{} says that a file has {:?} bytes", self.entry().name, said.trim()))
    }

    /// The channel ends when this is dropped. (Its own way to end panics when something of it is still being dropped.)
    async fn sftp(&self) -> anyhow::Result<Sftp> {
        let opening = Sftp::from_clonable_session(Arc::clone(&self.0.login().session), SftpOptions::new());
        in_time(opening).await.context("opening an SFTP channel")
    }
}

async fn read(mut file: File, begin: u64, size: usize) -> anyhow::Result<BytesMut> {
    file.seek(SeekFrom::Start(begin)).await?;
    let piece = in_time(file.read_all(size, BytesMut::with_capacity(size))).await?;
    ensure!(piece.len() == size, "the file became shorter meanwhile");
    Ok(piece)
}

async fn write(mut file: File, begin: u64, piece: Vec<u8>) -> anyhow::Result<u64> {
    file.seek(SeekFrom::Start(begin)).await?;
    in_time(file.write_all(&piece)).await?;
    Ok(piece.len() as u64)
}

/// Each step has its deadline; the connection's own signs of life end it before, when the host is gone.
async fn in_time<T, E>(step: impl Future<Output = Result<T, E>>) -> anyhow::Result<T>
where
    E: Into<anyhow::Error>,
{
    match tokio::time::timeout(PIECE_TIME, step).await {
        Ok(outcome) => outcome.map_err(Into::into),
        Err(_) => bail!("nothing came of it within {PIECE_TIME:?}"),
    }
}
